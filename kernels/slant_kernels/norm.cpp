// RMSNorm on a CPU in its two conventions, a row at a time: the formulas of norm.py, statistics and products in fp32.

#include "vectors.h"

namespace {

// As in norm.py. A position has ``heads`` rows of D next to each other; those of z start z_stride elements apart.
struct Args {
    const void *x, *residual, *z;  // residual or null, z or null
    const float *weight;           // [D]
    void *out, *stream;            // stream is residual + x, or null
    int64_t positions, heads, D, z_stride;
    int64_t is_bf16, threads;
    double eps;
};

template <typename T>
INLINE void row(const Args &args, const T *x, const T *residual, const T *z, T *out, T *stream) {
    int64_t D = args.D;
    vec squares = {};
    if (residual) {
        for (int64_t d = 0; d < D; d += LANES) store(stream + d, load(x + d) + load(residual + d));
        x = stream;  // as it is rounded
    }
    for (int64_t d = 0; d < D; d += LANES) squares += load(x + d) * load(x + d);
    float factor = 1 / sqrtf(sum(squares) / (float)D + (float)args.eps);
    for (int64_t d = 0; d < D; d += LANES) {
        vec y = load(x + d) * factor, weight = load(args.weight + d);
        store(out + d, z ? y * weight * silu(load(z + d)) : y * (1.0f + weight));
    }
}

template <typename T>
void run(const Args &args) {
#pragma omp parallel for num_threads(args.threads)
    for (int64_t i = 0; i < args.positions; i++)
        for (int64_t h = 0; h < args.heads; h++) {
            int64_t at = (i * args.heads + h) * args.D;
            row(args, (const T *)args.x + at, args.residual ? (const T *)args.residual + at : nullptr,
                args.z ? (const T *)args.z + i * args.z_stride + h * args.D : nullptr, (T *)args.out + at,
                (T *)args.stream + at);
        }
}

}  // namespace

extern "C" void slant_norm(const Args *args) { (args->is_bf16 ? run<bf16> : run<float>)(*args); }
