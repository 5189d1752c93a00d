// y = x W^T on a CPU, with W in the panels of panels.py and sums in fp32.
//
// A thread takes a panel and a block of rows. It decodes the weights of a few k at a time into a strip of the
// first-level cache, once for all rows, and multiplies tiles of rows by it, with all sums of a tile in registers. The
// rows of a tile lie together, k by k, so that both operands are read from beginning to end. A sum adds its products in
// the order of k whatever the tile: its bits depend on no other row, on no other column, and on no number of threads.
//
// Operands are fp32, or pairs of bf16 for x in bf16 on a processor that multiplies those.

#include <utility>

#include "vectors.h"

namespace {

#if defined(__AVX512F__)
constexpr int MOST = 14;  // rows of a tile: 28 of 32 registers accumulate
#elif defined(__AVX__)
constexpr int MOST = 6;  // 12 of 16
#else
constexpr int MOST = 12;  // 24 of 32
#endif
constexpr int64_t FLOATS = 4096;       // of a strip: half of a first-level cache of 32 KB
constexpr int64_t LONGER = 4;          // times as many for many rows, whose sums then move to and fro less often
constexpr int64_t TILES = 288 / MOST;  // a block's: among as many rows the cost of decoding is small
constexpr int64_t RUN = 32;            // k that are in one group whatever its size

// As in native.py. x [M, K] and out [M, N], rows x_row and out_row elements apart.
struct Args {
    const void *x;
    const uint32_t *words;
    const uint16_t *scales, *zeros;  // fp16
    void *out;
    float *workspace;  // slant_panels_floats()
    int64_t M, N, K, bits, group, x_row, out_row;
    int64_t is_bf16, threads;

    int64_t groups() const { return (K + group - 1) / group; }
    int64_t panels() const { return (N + PANEL - 1) / PANEL; }
    int64_t tiles() const { return (M + MOST - 1) / MOST; }
    int64_t blocks() const { return (tiles() + TILES - 1) / TILES; }
    int64_t row(int64_t tile) const { return M * tile / tiles(); }
    int64_t tile(int64_t block) const { return tiles() * block / blocks(); }
    // Blocks whose rows are gathered at a time: enough work for all threads, in no more memory than that takes.
    int64_t wave() const { return (8 * threads + panels() - 1) / panels(); }
    int64_t gathered() const { return M < wave() * TILES * MOST ? M : wave() * TILES * MOST; }  // rows at most
    int64_t strip() const { return M > 8 * MOST ? LONGER * FLOATS : FLOATS; }
    int64_t scratch() const { return strip() + TILES * MOST * PANEL; }  // floats of a thread: a strip, a block's sums
};

// The code at k of a run's words, each a vector of columns ``PANEL`` apart, under other bits of the word.
template <int BITS>
INLINE bits code(const uint32_t *words, int k) {
    constexpr int FIELD = BITS == 3 ? 2 : BITS, K = 32 / FIELD;
    auto field = [&](int word, int width, int at) {
        return *(const bits *)(words + word * PANEL) >> (8 * (at % 4) + width * (at / 4));
    };
    bits lower = field(k / K, FIELD, k % K);
    if constexpr (BITS == 3) return (lower & 3) | (field(2, 1, k) & 1) << 2;
    return lower;
}

// Codes as numbers, less the code of 0.
template <int BITS>
INLINE vec number(bits code) {
    constexpr int ZERO = 1 << (BITS - 1), COUNT = 1 << BITS;
#if !defined(__clang__)
    if constexpr (COUNT <= LANES) {  // a shuffle looks at the last bits of its indices only
        ints table;
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) table[i] = i % COUNT - ZERO;
        return __builtin_shuffle(__builtin_convertvector(table, vec), (ints)code);
    }
#endif
    bits last = (code & (COUNT - 1)) | 0x4b000000;  // 2^23, whose last bit counts 1
    return (vec)last - (8388608.0f + ZERO);
}

INLINE vec rounded(vec x) {
    bits b = (bits)x;  // to bf16, ties to even
    return (vec)((b + 0x7fff + ((b >> 16) & 1)) & 0xffff0000);
}

// Numbers at k and k + 1 of LANES columns, as operands of x of type T.
template <typename T>
INLINE void put(float *out, vec first, vec second) {
    constexpr bool ROUND = std::is_same_v<T, bf16>;
    store(out, ROUND ? rounded(first) : first);
    store(out + PANEL, ROUND ? rounded(second) : second);
}

#if defined(__AVX512BF16__)
template <typename T>
INLINE void put(Pair *out, vec first, vec second) {
    __m512i places;  // 0, 16, 1, 17 ...
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) ((bits &)places)[i] = i | (i + LANES) << 16;
    __m512bh halves = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(places, (__m512i)halves));
}
#endif

// W at ``depth`` k from k0 on -> operands [depth / WIDTH, PANEL]
template <typename T, typename E, int BITS>
INLINE void decode(const Args &args, int64_t panel, int64_t k0, int64_t depth, E *strip) {
    const uint32_t *words = args.words + (panel * args.K + k0) * BITS / 32 * PANEL;
    for (int64_t k = 0; k < depth; k += RUN)
        for (int half = 0; half < PANEL; half += LANES) {
            int64_t group = (panel * args.groups() + (k0 + k) / args.group) * PANEL + half;
            vec scale = from_fp16(args.scales + group), zero = from_fp16(args.zeros + group);
            const uint32_t *run = words + k * BITS / 32 * PANEL + half;
#pragma GCC unroll 32
            for (int i = 0; i < RUN; i += 2) {
                vec first = (number<BITS>(code<BITS>(run, i)) - zero) * scale;
                vec second = (number<BITS>(code<BITS>(run, i + 1)) - zero) * scale;
                put<T>(strip + (k + i) / WIDTH<E> * PANEL + half, first, second);
            }
        }
}

// The same of bf16 numbers.
template <typename E>
INLINE void widen(const Args &args, int64_t panel, int64_t k0, int64_t depth, E *strip) {
    const uint32_t *words = args.words + (panel * args.K + k0) * LANES;
    for (int64_t k = 0; k < depth; k += WIDTH<E>, words += WIDTH<E> * LANES, strip += PANEL) {
        bits w = *(const bits *)words;
        if constexpr (WIDTH<E> == 2) {
            bits next = *(const bits *)(words + LANES);
            *(bits *)strip = (w & 0xffff) | next << 16;
            *(bits *)(strip + LANES) = w >> 16 | (next & 0xffff0000);
        } else {
            *(bits *)strip = w << 16;
            *(bits *)(strip + LANES) = w & 0xffff0000;
        }
    }
}

template <typename T, typename E>
void fill(const Args &args, int64_t panel, int64_t k0, int64_t depth, E *strip) {
    switch (args.bits) {
        case 2: return decode<T, E, 2>(args, panel, k0, depth, strip);
        case 3: return decode<T, E, 3>(args, panel, k0, depth, strip);
        case 4: return decode<T, E, 4>(args, panel, k0, depth, strip);
        case 8: return decode<T, E, 8>(args, panel, k0, depth, strip);
        default: return widen(args, panel, k0, depth, strip);
    }
}

// sums [R, PANEL] += x W^T of a tile, x [depth, R] and W [depth, PANEL]; the first starts from zero.
template <typename E, int R>
void multiply(const E *x, const E *strip, int64_t depth, float *sums, bool first) {
    vec acc[R][2] = {};
    if (!first)
#pragma GCC unroll 16  // else the array lies in memory
        for (int i = 0; i < R; i++) acc[i][0] = load(sums + i * PANEL), acc[i][1] = load(sums + i * PANEL + LANES);
    for (int64_t k = 0; k < depth; k++, x += R, strip += PANEL) {
        auto left = operands(strip), right = operands(strip + LANES);
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) {
            multiply_add(acc[i][0], x + i, left);
            multiply_add(acc[i][1], x + i, right);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) store(sums + i * PANEL, acc[i][0]), store(sums + i * PANEL + LANES, acc[i][1]);
}

template <typename E>
using Multiply = void (*)(const E *, const E *, int64_t, float *, bool);

template <typename E, int... rows>
INLINE Multiply<E> by_rows(int64_t count, std::integer_sequence<int, rows...>) {
    static constexpr Multiply<E> KERNELS[] = {multiply<E, rows + 1>...};
    return KERNELS[count - 1];
}

INLINE void gather(float *out, const float *x) { *out = *x; }
INLINE void gather(float *out, const bf16 *x) { *out = one(x); }
INLINE void gather(Pair *out, const bf16 *x) { *out = {x[0], x[1]}; }

// A tile's rows of x at ``depth`` k from k0 on -> [depth / WIDTH, rows]
template <typename T, typename E>
INLINE void gather(const Args &args, int64_t tile, int64_t k0, int64_t depth, E *out) {
    int64_t row = args.row(tile), rows = args.row(tile + 1) - row;
    const T *x = (const T *)args.x + row * args.x_row + k0;
    for (int64_t k = 0; k < depth; k += WIDTH<E>)
        for (int64_t i = 0; i < rows; i++) gather(out++, x + i * args.x_row + k);
}

// The ``part`` of so many ``parts`` of memory into the second-level cache.
INLINE void prefetch(const void *memory, int64_t bytes, int64_t part, int64_t parts) {
    for (int64_t i = bytes * part / parts / 64; i < bytes * (part + 1) / parts / 64; i++)
        __builtin_prefetch((const char *)memory + i * 64, 0, 2);
}

// What ``fill`` will read next, after k of a panel, while a tile is multiplied.
INLINE void prefetch(const Args &args, int64_t panel, int64_t k, int64_t depth, int64_t part, int64_t parts) {
    prefetch(args.words + (panel * args.K + k) * args.bits / 32 * PANEL, depth * args.bits / 8 * PANEL, part, parts);
    if (!args.scales) return;
    int64_t group = (panel * args.groups() + (k + args.group - 1) / args.group) * PANEL;
    prefetch(args.scales + group, 2 * depth / args.group * PANEL, part, parts);
    prefetch(args.zeros + group, 2 * depth / args.group * PANEL, part, parts);
}

template <typename T>
INLINE void write(const Args &args, int64_t panel, int64_t row, int64_t rows, const float *sums) {
    int64_t columns = args.N - panel * PANEL;
    T *out = (T *)args.out + row * args.out_row + panel * PANEL;
    for (int64_t i = 0; i < rows; i++, sums += PANEL, out += args.out_row) {
        T part[PANEL];
        T *place = columns < PANEL ? part : out;
        store(place, load(sums));
        store(place + LANES, load(sums + LANES));
        if (columns < PANEL) memcpy(out, part, columns * sizeof(T));
    }
}

template <typename T, typename E>
void run(const Args &args) {
    constexpr int64_t W = WIDTH<E>;
    E *gathered = (E *)args.workspace;
    int64_t panels = args.panels(), most = args.strip() / PANEL * W, steps = (args.K + most - 1) / most;
    auto depth = [&](int64_t k0) { return args.K - k0 < most ? args.K - k0 : most; };
#pragma omp parallel num_threads(args.threads)
    {
        E *strip = (E *)(args.workspace + args.gathered() * args.K / W + thread() * args.scratch());
        float *sums = (float *)strip + args.strip();
        for (int64_t block = 0; block < args.blocks(); block += args.wave()) {
            int64_t blocks = args.blocks() - block < args.wave() ? args.blocks() - block : args.wave();
            int64_t first = args.tile(block), tiles = args.tile(block + blocks) - first, above = args.row(first);
            int64_t rows = args.row(first + tiles) - above, items = blocks * panels;
            int64_t chunk = items / (8 * args.threads) + 1;  // neighbours: a thread reads on from one to the next
            auto place = [&](int64_t tile, int64_t k0) {
                return gathered + (k0 * rows + (args.row(tile) - above) * depth(k0)) / W;
            };
#pragma omp for schedule(static)
            for (int64_t i = 0; i < tiles * steps; i++) {
                int64_t tile = first + i / steps, k0 = i % steps * most;
                gather<T>(args, tile, k0, depth(k0), place(tile, k0));
            }
#pragma omp for schedule(dynamic, chunk)
            for (int64_t i = 0; i < items; i++) {
                int64_t panel = i % panels, from = args.tile(block + i / panels), to = args.tile(block + i / panels + 1);
                for (int64_t k0 = 0; k0 < args.K; k0 += most) {
                    fill<T>(args, panel, k0, depth(k0), strip);
                    for (int64_t tile = from; tile < to; tile++) {
                        int64_t row = args.row(tile), count = args.row(tile + 1) - row;
                        float *own = sums + (row - args.row(from)) * PANEL;
                        prefetch(args, panel, k0 + depth(k0), most, tile - from, to - from);
                        auto kernel = by_rows<E>(count, std::make_integer_sequence<int, MOST>());
                        kernel(place(tile, k0), strip, depth(k0) / W, own, k0 == 0);
                        if (k0 + most >= args.K) write<T>(args, panel, row, count, own);
                    }
                }
            }
        }
    }
}

}  // namespace

// Of the workspace.
extern "C" int64_t slant_panels_floats(const Args *args) {
    int64_t width = args->is_bf16 ? WIDTH<Operand> : 1;
    return args->gathered() * args->K / width + args->threads * args->scratch();
}

extern "C" void slant_panels(const Args *args) { (args->is_bf16 ? run<bf16, Operand> : run<float, float>)(*args); }
