// Vectors of fp32 of the width the compiler was asked for, in the language extension that GCC and Clang share, and the
// few things that the CPU ops are made of. Memory in panels: [columns / PANEL, rows, PANEL], so that the columns a
// product works on lie together.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;  // 16 of 32 registers accumulate
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 4;  // 8 of 16
#else
constexpr int LANES = 4, ROWS = 8;  // 16 of 32, on 64-bit ARM
#endif
constexpr int PANEL = 2 * LANES;

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

struct bf16 {
    uint16_t bits;
};

// What a product multiplies at once beside 4 bytes of it: one fp32 number, or two of bf16 next to each other.
struct Pair {
    bf16 low, high;
};
template <typename E>
constexpr int64_t WIDTH = 1;
template <>
inline constexpr int64_t WIDTH<Pair> = 2;  // a specialization is not inline by itself
template <typename E>
using Part = std::conditional_t<WIDTH<E> == 2, bf16, float>;

#if defined(__AVX512BF16__)
typedef Pair Operand;  // of bf16 tensors
#else
typedef float Operand;
#endif

INLINE int thread() {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

INLINE vec all(float x) { return x - vec{}; }

INLINE vec load(const float *p) { return *(const vec *)p; }

INLINE vec load(const bf16 *p) { return (vec)(__builtin_convertvector(*(const halves *)p, bits) << 16); }

INLINE vec from_fp16(const uint16_t *p) {
    bits h = __builtin_convertvector(*(const halves *)p, bits);
    vec size = (vec)((h & 0x7fff) << 13) * 0x1p112f;  // its exponent is biased by 15, not by 127
    return (vec)((bits)size | (h & 0x8000) << 16);
}

INLINE void store(float *p, vec x) { *(vec *)p = x; }

INLINE void store(bf16 *p, vec x) {
    bits b = (bits)x;  // to the nearest, ties to even
    *(halves *)p = __builtin_convertvector((b + 0x7fff + ((b >> 16) & 1)) >> 16, halves);
}

INLINE float one(const float *p) { return *p; }

INLINE float one(const bf16 *p) {
    uint32_t b = (uint32_t)p->bits << 16;
    float x;
    memcpy(&x, &b, 4);
    return x;
}

INLINE float largest_of(vec x) {
    float most = x[0];
    for (int i = 1; i < LANES; i++) most = fmaxf(most, x[i]);
    return most;
}

INLINE float sum(vec x) {
    float part[LANES];
    store(part, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}

// exp(x) = 2^n exp(r), |r| <= log(2) / 2, with exp(r) by its Taylor polynomial: within 2 units in the last place for x
// from -87 to 88, and constant beyond.
INLINE vec exp_of(vec x) {
    x = x < -87.0f ? all(-87.0f) : x > 88.0f ? all(88.0f) : x;
    vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23, so that n stands in the low bits
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;  // log(2) in two parts, n times the first is exact
    vec p = r * 1.3888889e-3f + 8.3333333e-3f;
    p = p * r + 4.1666667e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return (vec)((ints)p + ((ints)shifted << 23));
}

INLINE vec silu(vec x) { return x / (1.0f + exp_of(-x)); }

typedef vec Tile[ROWS][2];  // ROWS x PANEL numbers in registers

INLINE void multiply_add(vec &acc, const float *a, vec b) { acc += *a * b; }

INLINE vec operands(const float *p) { return load(p); }

#if defined(__AVX512BF16__)
INLINE void multiply_add(vec &acc, const Pair *a, __m512i b) {
    int pair;
    memcpy(&pair, a, 4);
    acc = (vec)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
}

INLINE __m512i operands(const Pair *p) { return _mm512_loadu_si512(p); }
#endif

// acc += A B with A[i][n] at A[i * row + n * step] and B [depth, PANEL], in operands of type E
template <typename E>
INLINE void product(Tile &acc, const E *A, int64_t row, int64_t step, const E *B, int64_t depth) {
    for (int64_t n = 0; n < depth; n++) {
        auto left = operands(B + n * PANEL), right = operands(B + n * PANEL + LANES);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            multiply_add(acc[i][0], A + i * row + n * step, left);
            multiply_add(acc[i][1], A + i * row + n * step, right);
        }
    }
}

// out [ROWS, PANEL], rows ``row`` apart
template <typename T>
INLINE void store(T *out, int64_t row, const Tile &tile, int rows = ROWS) {
    for (int i = 0; i < rows; i++) {
        store(out + i * row, tile[i][0]);
        store(out + i * row + LANES, tile[i][1]);
    }
}

// x [rows, columns] -> out, its transpose in panels
INLINE void transpose(const float *x, float *out, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) out[(i / PANEL * columns + j) * PANEL + i % PANEL] = x[i * columns + j];
}
