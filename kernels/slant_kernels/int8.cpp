// Tokens in 8 bits on a CPU: the formula of int8.py, each row read twice.

#include "vectors.h"

namespace {

// As in int8.py: x [rows, K] -> codes uint8 [rows, K], scales fp32 [rows].
struct Args {
    const void *x;
    uint8_t *codes;
    float *scales;
    int64_t rows, K;
    int64_t is_bf16, threads;
};

typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
constexpr float LEAST = 1e-30f;  // a row of zeros has a scale all the same

template <typename T>
void run(const Args &args) {
#pragma omp parallel for num_threads(args.threads)
    for (int64_t r = 0; r < args.rows; r++) {
        const T *x = (const T *)args.x + r * args.K;
        vec high = all(LEAST);
        for (int64_t k = 0; k < args.K; k += LANES) {
            vec value = load(x + k), size = value < 0.0f ? -value : value;
            high = size > high ? size : high;
        }
        float largest = largest_of(high), factor = 127 / largest;
        for (int64_t k = 0; k < args.K; k += LANES) {
            ints code = __builtin_convertvector(load(x + k) * factor + 128.5f, ints);
            *(bytes *)(args.codes + r * args.K + k) = __builtin_convertvector(code, bytes);
        }
        args.scales[r] = largest / 127;
    }
}

}  // namespace

extern "C" void slant_quantize_tokens(const Args *args) { (args->is_bf16 ? run<bf16> : run<float>)(*args); }
