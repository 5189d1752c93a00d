// Sums of products of small integers, for the CPU ops that multiply codes: in panels, as vectors.h has them, whose lane
// of 32 bits holds consecutive k of a column.

#pragma once

#include "vectors.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// Rows of x for one pass over a panel: two sums each, beside two operands, a factor and a product in registers.
#if defined(__AVX512F__)
constexpr int TALL = 12;
#elif defined(__AVX2__)
constexpr int TALL = 6;
#else
constexpr int TALL = 8;
#endif

typedef int16_t shorts __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE ints load(const int32_t *p) { return *(const ints *)p; }

INLINE void store(int32_t *p, ints x) { *(ints *)p = x; }

// sum + a0 b0 + a1 b1 in each lane of two int16, exactly; -2^15 may stand on one side only
INLINE ints add_pairs(ints sum, ints a, ints b) {
#if defined(__AVX512VNNI__)
    return (ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return sum + (ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return sum + (ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return sum + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

#if defined(__AVX2__)
// a0 b0 + a1 b1, a2 b2 + a3 b3 as int16, of unsigned bytes a and signed bytes b; sums beyond it are clamped
INLINE shorts pairs_of_bytes(ints a, ints b) {
#if defined(__AVX512BW__)
    return (shorts)_mm512_maddubs_epi16((__m512i)a, (__m512i)b);
#else
    return (shorts)_mm256_maddubs_epi16((__m256i)a, (__m256i)b);
#endif
}
#endif

// sum + a0 b0 + a1 b1 + a2 b2 + a3 b3 of unsigned bytes a and signed bytes b in each lane, exactly
INLINE ints add_quads(ints sum, ints a, ints b) {
#if defined(__AVX512VNNI__)
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#else
    sum += (a & 255) * (b << 24 >> 24) + (a >> 8 & 255) * (b << 16 >> 24);
    return sum + (a >> 16 & 255) * (b << 8 >> 24) + (a >> 24 & 255) * (b >> 24);
#endif
}

// The largest size of ``count`` numbers, a multiple of LANES; NaN if one is, since among sizes read as integers NaN is
// the largest.
template <typename T>
INLINE float largest_size(const T *x, int64_t count) {
    ints most = (ints)all(1e-30f);  // LEAST of int8.py
    for (int64_t k = 0; k < count; k += LANES) {
        ints size = (ints)load(x + k) & 0x7fffffff;
        most = size > most ? size : most;
    }
    int32_t top = 0;
    for (int i = 0; i < LANES; i++) top = most[i] > top ? most[i] : top;
    float largest;
    memcpy(&largest, &top, 4);
    return largest;
}

typedef int8_t signs __attribute__((vector_size(LANES), aligned(1), may_alias));

// To the nearest integer, ties to even, |x| below 2^22
INLINE ints nearest(vec x) {
#if defined(__AVX512F__)
    return (ints)_mm512_cvtps_epi32((__m512)x);
#elif defined(__AVX2__)
    return (ints)_mm256_cvtps_epi32((__m256)x);
#else
    return (ints)(x + 12582912.0f) - 0x4b400000;  // 1.5 * 2^23
#endif
}

// f(constant R) for R = min(rows, MOST), so that a loop over R rows is unrolled
template <int MOST = TALL, typename F>
INLINE void with_rows(int64_t rows, F f) {
    if constexpr (MOST > 1) {
        if (rows < MOST) return with_rows<MOST - 1>(rows, f);
    }
    f(std::integral_constant<int, MOST>{});
}

INLINE void prefetch(const void *p, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)p + i);
}
