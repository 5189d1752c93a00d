// Rows to 8 bits on a CPU, and their product: the formulas of int8.py. Rows are rotated one at a time, the first steps in
// registers.
//
// The product is for processors that do not multiply four pairs of bytes at once. Codes become int16, whose products two
// instructions add exactly, two at a time; a strip of a panel is widened once for the rows of a block, and stays in the
// first-level cache meanwhile.

#include <utility>

#include "integers.h"

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
        args.scales[r] = largest / 127 + 0 * largest;  // infinity as NaN
    }
}

constexpr int64_t BLOCK_ROWS = 128;  // of int16: half a megabyte, for the second-level cache
constexpr int64_t DEPTH = 256;       // pairs of k in a strip: 16 or 32 KB

// x as slant_quantize_rows made it; w int8 in words of panels.py, K padded to four and N to PANEL with 0.
struct Product {
    void *out;  // [rows, N]
    const uint8_t *x;
    const float *x_scales;
    const int32_t *w;       // [columns / PANEL, pairs / 2, PANEL]
    const float *w_scales;  // [columns]
    float *workspace;       // slant_int8_linear_floats()
    int64_t rows, N, K;
    int64_t is_bf16, threads;

    int64_t pairs() const { return (K + 3) / 4 * 2; }
    int64_t shared() const { return BLOCK_ROWS * pairs(); }  // the block of x
    static constexpr int64_t scratch = DEPTH * PANEL + BLOCK_ROWS * PANEL;
};

// A row as int16, of four k the first and third, then the second and fourth, as words widen.
INLINE void widen_row(const uint8_t *x, int64_t K, int16_t *out) {
    for (int64_t k = 0; k < K; k += 4)
        for (int i = 0; i < 4; i++) out[k + i % 2 * 2 + i / 2] = k + i < K ? (int16_t)(x[k + i] - 128) : 0;
}

// sums [R, PANEL] += x w^T for pairs of x [R, depth] that are ``row`` apart, and of the strip [depth, PANEL]
template <int R>
INLINE void add_products(int32_t *sums, const int32_t *x, int64_t row, const int32_t *strip, int64_t depth) {
    ints sum[R][2];
    for (int i = 0; i < R; i++)
        for (int j = 0; j < 2; j++) sum[i][j] = load(sums + i * PANEL + j * LANES);
    for (int64_t p = 0; p < depth; p++) {
        ints left = load(strip + p * PANEL), right = load(strip + p * PANEL + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            ints factor = x[i * row + p] - ints{};
            sum[i][0] = add_pairs(sum[i][0], factor, left);
            sum[i][1] = add_pairs(sum[i][1], factor, right);
        }
    }
    for (int i = 0; i < R; i++)
        for (int j = 0; j < 2; j++) store(sums + i * PANEL + j * LANES, sum[i][j]);
}

// The columns of a panel for a block of x
template <typename T>
INLINE void multiply(const Product &args, int64_t first, int64_t rows, int64_t column, const int32_t *x, int32_t *strip) {
    int64_t pairs = args.pairs(), count = args.N - column < PANEL ? args.N - column : PANEL;
    int32_t *sums = strip + DEPTH * PANEL;
    memset(sums, 0, 4 * rows * PANEL);
    for (int64_t p0 = 0; p0 < pairs; p0 += DEPTH) {
        int64_t depth = pairs - p0 < DEPTH ? pairs - p0 : DEPTH;
        const int32_t *w = args.w + (column * pairs + p0 * PANEL) / 2;
        for (int64_t p = 0; p < depth; p += 2)
            for (int64_t n = 0; n < PANEL; n += LANES) {
                shorts word = (shorts)load(w + p / 2 * PANEL + n);
                store(strip + p * PANEL + n, (ints)(word << 8 >> 8));
                store(strip + (p + 1) * PANEL + n, (ints)(word >> 8));
            }
        int64_t bytes = 2 * depth * PANEL;  // of the next strip, fetched while this one is used
        for (int64_t r = 0; r < rows; r += TALL)
            with_rows(rows - r, [&](auto R) {
                if (rows > TALL) prefetch((const char *)(w + depth * PANEL / 2) + bytes * r / rows, bytes * TALL / rows);
                add_products<R>(sums + r * PANEL, x + r * pairs + p0, pairs, strip, depth);
            });
    }
    for (int64_t r = 0; r < rows; r++) {
        T edge[PANEL], *out = (T *)args.out + (first + r) * args.N + column, *y = count < PANEL ? edge : out;
        for (int64_t n = 0; n < PANEL; n += LANES) {
            vec scaled = __builtin_convertvector(load(sums + r * PANEL + n), vec) * load(args.w_scales + column + n);
            store(y + n, scaled * args.x_scales[first + r]);
        }
        if (y == edge) memcpy(out, edge, count * sizeof(T));
    }
}

template <typename T>
void run_linear(const Product &args) {
    int32_t *x = (int32_t *)args.workspace;
#pragma omp parallel num_threads(args.threads)
    for (int64_t first = 0; first < args.rows; first += BLOCK_ROWS) {
        int64_t rows = args.rows - first < BLOCK_ROWS ? args.rows - first : BLOCK_ROWS;
#pragma omp for
        for (int64_t r = 0; r < rows; r++)
            widen_row(args.x + (first + r) * args.K, args.K, (int16_t *)(x + r * args.pairs()));
#pragma omp for schedule(dynamic)
        for (int64_t column = 0; column < args.N; column += PANEL)
            multiply<T>(args, first, rows, column, x, x + args.shared() + thread() * Product::scratch);
    }
}

}  // namespace

extern "C" int64_t slant_int8_linear_floats(const Product *args) {
    return args->shared() + args->threads * Product::scratch;
}

extern "C" void slant_int8_linear(const Product *args) {
    (args->is_bf16 ? run_linear<bf16> : run_linear<float>)(*args);
}

extern "C" int64_t slant_quantize_rows_floats(const Args *args) { return args->threads * args->K; }

extern "C" void slant_quantize_rows(const Args *args) { (args->is_bf16 ? run<bf16> : run<float>)(*args); }
