// SwiGLU on a CPU: the formula of swiglu.py in one pass, rounded once.

#include "vectors.h"

namespace {

// As in swiglu.py: gate_up [rows, 2 I] and out [rows, I] of one type.
struct Args {
    const void *gate_up;
    void *out;
    int64_t rows, I;
    int64_t is_bf16, threads;
};

template <typename T>
void run(const Args &args) {
#pragma omp parallel for num_threads(args.threads)
    for (int64_t r = 0; r < args.rows; r++) {
        const T *gate = (const T *)args.gate_up + r * 2 * args.I, *up = gate + args.I;
        for (int64_t i = 0; i < args.I; i += LANES)
            store((T *)args.out + r * args.I + i, silu(load(gate + i)) * load(up + i));
    }
}

}  // namespace

extern "C" void slant_swiglu(const Args *args) { (args->is_bf16 ? run<bf16> : run<float>)(*args); }
