// y = x W^T on a CPU, with W quantized, in the panels of panels.py, and x rounded to 8 bits: the formula of w4a8.py.
//
// A thread takes a panel and the rows of a block. It unpacks the codes of some groups into a strip of bytes, once for all
// rows, and adds products of codes exactly, a group at a time; the groups' sums are scaled and added in fp32, in the
// order of k whatever the number of rows or threads.
//
// Codes of four bits or fewer: an instruction adds two products in int16, where eight of its results find room. Codes of
// eight bits: both factors are widened to int16. With VNNI one instruction adds four products of either.

#include "integers.h"

namespace {

constexpr int64_t BLOCK_ROWS = 128;

// x [M, K] and out [M, N], rows x_row and out_row elements apart.
struct Args {
    const void *x;
    const uint32_t *words;           // as panels.py packs them
    const uint16_t *scales, *zeros;  // fp16 [N / PANEL, groups, PANEL]
    void *out;
    float *workspace;  // slant_w4a8_floats()
    int64_t M, N, K, bits, group, x_row, out_row;
    int64_t is_bf16, threads;

    int64_t groups() const { return (K + group - 1) / group; }
    int64_t shared() const { return BLOCK_ROWS * (K / 2 + 2 * groups()); }
};

// Codes of x in words of the shape that a product takes, and of each group the scale, and scale times sum of codes.
struct Rows {
    int32_t *words;
    float *scales, *sums;
};

#if (defined(__AVX2__) || defined(__AVX512BW__)) && !defined(__AVX512VNNI__)
constexpr bool PAIRS = true;  // products are added two at a time
#else
constexpr bool PAIRS = false;
#endif

// WIDE: codes of either side are int16, two vectors of pairs for four k, in the order 0, 2, 1, 3; else bytes.
template <bool WIDE>
constexpr int64_t QUADS = WIDE ? 64 : 128;  // k / 4 of a strip: 8 or 16 KB
constexpr int64_t STRIP = 128 * PANEL, GROUPS = 16, SCRATCH = STRIP + 2 * GROUPS * PANEL + BLOCK_ROWS * PANEL;

// Row of x -> codes, a group at a time
template <bool WIDE, typename T>
INLINE void quantize(const Args &args, const T *x, int32_t *words, float *scales, float *sums) {
    for (int64_t g = 0; g < args.groups(); g++) {
        int64_t from = g * args.group, to = from + args.group < args.K ? from + args.group : args.K;
        float largest = largest_size(x + from, to - from), factor = 127 / largest;
        ints total = {};
        for (int64_t k = from; k < to; k += LANES) {
            ints code = nearest(load(x + k) * factor);
            total += code;
            if constexpr (WIDE) {
                for (int i = 0; i < LANES; i++) ((int16_t *)words)[k + i / 4 * 4 + i % 2 * 2 + i % 4 / 2] = (int16_t)code[i];
            } else {
                *(signs *)((int8_t *)words + k) = __builtin_convertvector(code, signs);
            }
        }
        int sum = 0;
        for (int i = 0; i < LANES; i++) sum += total[i];
        scales[g] = largest / 127 + 0 * largest;  // infinity as NaN
        sums[g] = scales[g] * (float)sum;
    }
}

// Codes [quads, PANEL] of four k in a lane, from words of BITS
template <int BITS>
INLINE bits quad(const uint32_t *words, int64_t q) {
    constexpr int FIELD = BITS == 3 ? 2 : BITS, FIELDS = 8 / FIELD;
    if constexpr (BITS == 3) {
        const uint32_t *run = words + q / 8 * 3 * PANEL;
        bits lower = *(const bits *)(run + q % 8 / 4 * PANEL) >> 2 * (q % 4) & 0x03030303;
        return lower | (*(const bits *)(run + 2 * PANEL) >> q % 8 & 0x01010101) << 2;
    } else {
        bits word = *(const bits *)(words + q / FIELDS * PANEL);
        return BITS == 8 ? word : word >> FIELD * (q % FIELDS) & 0x01010101u * ((1 << FIELD) - 1);
    }
}

template <bool WIDE, int BITS>
INLINE void unpack(const uint32_t *words, int64_t quads, int32_t *strip) {
    for (int64_t q0 = 0; q0 < quads; q0 += 8)
        for (int n = 0; n < PANEL; n += LANES)
#pragma GCC unroll 8
            for (int64_t q = 0; q < 8; q++) {
                bits codes = quad<BITS>(words + q0 / 8 * BITS * PANEL + n, q);
                if constexpr (WIDE) {
                    store(strip + 2 * (q0 + q) * PANEL + n, (ints)(codes & 0x00ff00ff));
                    store(strip + (2 * (q0 + q) + 1) * PANEL + n, (ints)(codes >> 8 & 0x00ff00ff));
                } else {
                    store(strip + (q0 + q) * PANEL + n, (ints)codes);
                }
            }
}

// sum [R, PANEL] += codes of x [R, depth] times codes of the strip [depth, PANEL]
template <bool WIDE, int R>
INLINE void add_group(ints (&sum)[R][2], const int32_t *x, int64_t row, const int32_t *strip, int64_t quads) {
#if defined(__AVX2__)
    if constexpr (PAIRS && !WIDE) {
        for (int64_t q0 = 0; q0 < quads; q0 += 8) {
            shorts part[R][2] = {};
            for (int64_t q = q0; q < q0 + 8; q++) {
                ints left = load(strip + q * PANEL), right = load(strip + q * PANEL + LANES);
#pragma GCC unroll 12
                for (int i = 0; i < R; i++) {
                    ints factor = x[i * row + q] - ints{};
                    part[i][0] += pairs_of_bytes(left, factor);
                    part[i][1] += pairs_of_bytes(right, factor);
                }
            }
#pragma GCC unroll 12
            for (int i = 0; i < R; i++)
                for (int j = 0; j < 2; j++) sum[i][j] = add_pairs(sum[i][j], (ints)part[i][j], 0x00010001 - ints{});
        }
        return;
    }
#endif
    for (int64_t p = 0; p < (WIDE ? 2 * quads : quads); p++) {
        ints left = load(strip + p * PANEL), right = load(strip + p * PANEL + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            ints factor = x[i * row + p] - ints{};
            sum[i][0] = WIDE ? add_pairs(sum[i][0], left, factor) : add_quads(sum[i][0], left, factor);
            sum[i][1] = WIDE ? add_pairs(sum[i][1], right, factor) : add_quads(sum[i][1], right, factor);
        }
    }
}

// y [R, PANEL] += the products of some groups; scales and shifts [groups, PANEL]
template <bool WIDE, int R>
INLINE void add_products(
    const Args &args, const Rows &x, int64_t r, int64_t quad, int64_t quads, const int32_t *strip, const float *scales,
    const float *shifts, float *y
) {
    constexpr int64_t W = WIDE ? 2 : 1;
    int64_t row = args.K / 4 * W, each = args.group / 4, groups = args.groups();
    for (int64_t q = 0; q < quads; q += each, scales += PANEL, shifts += PANEL) {
        ints sum[R][2] = {};
        int64_t count = quads - q < each ? quads - q : each, g = r * groups + (quad + q) / each;
        add_group<WIDE, R>(sum, x.words + r * row + (quad + q) * W, row, strip + q * W * PANEL, count);
#pragma GCC unroll 12
        for (int i = 0; i < R; i++)
            for (int j = 0; j < PANEL; j += LANES) {
                vec scaled = __builtin_convertvector(sum[i][j / LANES], vec) * load(scales + j);
                vec shifted = load(y + i * PANEL + j) - load(shifts + j) * x.sums[g + i * groups];
                store(y + i * PANEL + j, shifted + scaled * x.scales[g + i * groups]);
            }
    }
}

template <bool WIDE, int BITS, typename T>
INLINE void multiply(const Args &args, const Rows &x, int64_t first, int64_t rows, int64_t panel, int32_t *strip) {
    float *scales = (float *)(strip + STRIP), *shifts = scales + GROUPS * PANEL, *y = shifts + GROUPS * PANEL;
    int64_t all_quads = args.K / 4, groups = args.groups();
    memset(y, 0, 4 * rows * PANEL);
    for (int64_t quad = 0; quad < all_quads; quad += QUADS<WIDE>) {
        int64_t quads = all_quads - quad < QUADS<WIDE> ? all_quads - quad : QUADS<WIDE>;
        const uint32_t *words = args.words + (panel * all_quads + quad) * BITS / 8 * PANEL;
        int64_t g0 = 4 * quad / args.group, bytes = quads * BITS / 2 * PANEL;
        unpack<WIDE, BITS>(words, quads, strip);
        for (int64_t g = 0; 4 * args.group * g < 16 * quads; g++)
            for (int n = 0; n < PANEL; n += LANES) {
                int64_t at = (panel * groups + g0 + g) * PANEL + n;
                vec scale = from_fp16(args.scales + at), zero = from_fp16(args.zeros + at);
                store(scales + g * PANEL + n, scale);
                store(shifts + g * PANEL + n, scale * (zero + (float)(1 << (BITS - 1))));
            }
        for (int64_t r = 0; r < rows; r += TALL)
            with_rows(rows - r, [&](auto R) {
                if (rows > TALL) prefetch((const char *)words + bytes + bytes * r / rows, bytes * TALL / rows);
                add_products<WIDE, R>(args, x, r, quad, quads, strip, scales, shifts, y + r * PANEL);
            });
    }
    int64_t count = args.N - panel * PANEL;
    for (int64_t r = 0; r < rows; r++) {
        T edge[PANEL], *out = (T *)args.out + (first + r) * args.out_row + panel * PANEL, *to = count < PANEL ? edge : out;
        for (int n = 0; n < PANEL; n += LANES) store(to + n, load(y + r * PANEL + n));
        if (to == edge) memcpy(out, edge, count * sizeof(T));
    }
}

template <int BITS, typename T>
void run(const Args &args) {
    constexpr bool WIDE = PAIRS && BITS == 8;
    int64_t groups = args.groups(), width = args.K / (WIDE ? 2 : 4);
    float *scales = args.workspace + BLOCK_ROWS * args.K / 2;
    Rows x = {(int32_t *)args.workspace, scales, scales + BLOCK_ROWS * groups};
#pragma omp parallel num_threads(args.threads)
    for (int64_t first = 0; first < args.M; first += BLOCK_ROWS) {
        int64_t rows = args.M - first < BLOCK_ROWS ? args.M - first : BLOCK_ROWS;
#pragma omp for
        for (int64_t r = 0; r < rows; r++) {
            const T *row = (const T *)args.x + (first + r) * args.x_row;
            quantize<WIDE>(args, row, x.words + r * width, x.scales + r * groups, x.sums + r * groups);
        }
#pragma omp for schedule(dynamic)
        for (int64_t panel = 0; panel < (args.N + PANEL - 1) / PANEL; panel++)
            multiply<WIDE, BITS, T>(
                args, x, first, rows, panel, (int32_t *)args.workspace + args.shared() + thread() * SCRATCH
            );
    }
}

template <typename T>
void run(const Args &args) {
    switch (args.bits) {
        case 2: return run<2, T>(args);
        case 3: return run<3, T>(args);
        case 4: return run<4, T>(args);
        default: return run<8, T>(args);
    }
}

}  // namespace

extern "C" int64_t slant_w4a8_floats(const Args *args) { return args->shared() + args->threads * SCRATCH; }

extern "C" void slant_w4a8(const Args *args) {
    if (args->is_bf16)
        run<bf16>(*args);
    else
        run<float>(*args);
}
