// Rows to 8 bits on a CPU: the formula of int8.py, a row at a time. The rotation's first steps are in registers.

#include <utility>

#include "vectors.h"

namespace {

constexpr int TILE = 128, VECTORS = TILE / LANES;

// As in int8.py: x [rows, K] -> codes uint8 [rows, K], scales fp32 [rows]; ``block`` divides K, and TILE divides it.
struct Args {
    const void *x;
    uint8_t *codes;
    float *scales, *workspace;  // workspace is slant_quantize_rows_floats(): a row a thread
    int64_t rows, K, block;
    int64_t is_bf16, threads;
};

typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
constexpr float LEAST = 1e-30f;  // as in int8.py

// Neighbours STEP lanes apart become their sum and difference.
template <int STEP, int... lane>
INLINE vec butterfly(vec x, std::integer_sequence<int, lane...>) {
#if defined(__clang__)
    vec other = __builtin_shufflevector(x, x, (lane ^ STEP)...);
#else
    vec other = __builtin_shuffle(x, ints{(lane ^ STEP)...});
#endif
    return x * vec{(lane & STEP ? -1.0f : 1.0f)...} + other;
}

template <int STEP = 1>
INLINE vec rotate_lanes(vec x) {
    if constexpr (STEP < LANES)
        return rotate_lanes<2 * STEP>(butterfly<STEP>(x, std::make_integer_sequence<int, LANES>()));
    else
        return x;
}

// x[i] and x[i + step] become their sum and difference, for step 1, 2 ... COUNT / 2.
template <int COUNT>
INLINE void butterflies(vec (&x)[COUNT]) {
#pragma GCC unroll 8
    for (int step = 1; step < COUNT; step *= 2)
#pragma GCC unroll 32
        for (int i = 0; i < COUNT; i++)
            if (!(i & step)) {
                vec low = x[i], high = x[i + step];
                x[i] = low + high, x[i + step] = low - high;
            }
}

// The same in memory, with elements ``step`` apart.
template <int COUNT>
INLINE void pass(float *row, int64_t K, int64_t step) {
    for (int64_t start = 0; start < K; start += COUNT * step)
        for (int64_t k = start; k < start + step; k += LANES) {
            vec x[COUNT];
            for (int i = 0; i < COUNT; i++) x[i] = load(row + k + i * step);
            butterflies(x);
            for (int i = 0; i < COUNT; i++) store(row + k + i * step, x[i]);
        }
}

// x H of a row
template <typename T>
INLINE void rotate(const Args &args, const T *x, float *out) {
    for (int64_t k = 0; k < args.K; k += TILE) {
        vec tile[VECTORS];
        for (int i = 0; i < VECTORS; i++) tile[i] = rotate_lanes(load(x + k + i * LANES));
        butterflies(tile);
        for (int i = 0; i < VECTORS; i++) store(out + k + i * LANES, tile[i]);
    }
    int64_t step = TILE;
    for (; 8 * step <= args.block; step *= 8) pass<8>(out, args.K, step);
    for (; 4 * step <= args.block; step *= 4) pass<4>(out, args.K, step);
    for (; 2 * step <= args.block; step *= 2) pass<2>(out, args.K, step);
}

// The largest size in a row; NaN if it holds one, since among sizes read as integers NaN is the largest.
INLINE float largest_size(const float *row, int64_t K) {
    ints most = (ints)all(LEAST);
    for (int64_t k = 0; k < K; k += LANES) {
        ints size = (ints)load(row + k) & 0x7fffffff;
        most = size > most ? size : most;
    }
    int32_t top = 0;
    for (int i = 0; i < LANES; i++) top = most[i] > top ? most[i] : top;
    float largest;
    memcpy(&largest, &top, 4);
    return largest;
}

template <typename T>
void run(const Args &args) {
#pragma omp parallel for num_threads(args.threads)
    for (int64_t r = 0; r < args.rows; r++) {
        float *row = args.workspace + thread() * args.K;
        rotate(args, (const T *)args.x + r * args.K, row);
        float largest = largest_size(row, args.K), factor = 127 / largest;
        for (int64_t k = 0; k < args.K; k += LANES) {
            ints code = __builtin_convertvector(load(row + k) * factor + 128.5f, ints);
            *(bytes *)(args.codes + r * args.K + k) = __builtin_convertvector(code, bytes);
        }
        args.scales[r] = largest / 127;
    }
}

}  // namespace

extern "C" int64_t slant_quantize_rows_floats(const Args *args) { return args->threads * args->K; }

extern "C" void slant_quantize_rows(const Args *args) { (args->is_bf16 ? run<bf16> : run<float>)(*args); }
