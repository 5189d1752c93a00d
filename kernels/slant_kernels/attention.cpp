// Causal grouped-query attention on a CPU: the formula of attention.py, with fp32 scores, sums and softmax.
//
// Keys and values are put into panels first, once and by all threads. Then a thread takes a block of queries of a group,
// whose heads are rows of the same products, and holds all of the block's scores: nothing grows with the square of the
// length, and no running softmax is needed. A processor that multiplies pairs of bf16 keeps bf16 operands, and shares
// are rounded to it; otherwise operands are fp32.

#include "vectors.h"

namespace {

constexpr int64_t BLOCK = 64;   // rows: queries times heads of a group
constexpr int64_t DEPTH = 256;  // keys whose values stay in the first-level cache while all rows use them

// As in native.py. Strides count elements of the type of q, k, v and out; the D of a head lie together.
struct Args {
    const void *q, *k, *v;  // [B, H, T, D]; [B, G, S, D] twice
    void *out;              // [B, H, T, D]
    float *workspace;       // slant_attention_floats()
    int64_t B, H, G, T, S, D;
    int64_t q_row, q_head, q_token, k_row, k_head, k_token, v_row, v_head, v_token, out_row, out_head, out_token;
    int64_t is_bf16, threads;

    int64_t heads() const { return H / G; }
    int64_t queries() const { return heads() < BLOCK ? BLOCK / heads() : 1; }
    int64_t blocks() const { return (T + queries() - 1) / queries(); }
    int64_t rows() const { return (queries() * heads() + ROWS - 1) / ROWS * ROWS; }
    int64_t columns() const { return (S + PANEL - 1) / PANEL * PANEL; }
    int64_t panels() const { return B * G * columns() * D; }            // floats of all keys, or values
    int64_t scratch() const { return rows() * (columns() + 2 * D + 1); }  // floats of a thread
};

// The numbers of an operand, ``step`` apart; zero from the left-th on.
INLINE void gather(float *out, const float *x, int64_t, int64_t left) { *out = left > 0 ? *x : 0; }
INLINE void gather(float *out, const bf16 *x, int64_t, int64_t left) { *out = left > 0 ? one(x) : 0; }
INLINE void gather(Pair *out, const bf16 *x, int64_t step, int64_t left) {
    *out = {left > 0 ? x[0] : bf16{}, left > 1 ? x[step] : bf16{}};
}

// PANEL keys and values of a group. k [S, D] -> [columns / PANEL, D / WIDTH, PANEL];
// v [S, D] -> [D / PANEL, columns / WIDTH, PANEL]
template <typename T, typename E>
INLINE void pack(const Args &args, int64_t text, int64_t group, int64_t begin, E *keys, E *values) {
    const T *k = (const T *)args.k + text * args.k_row + group * args.k_head;
    const T *v = (const T *)args.v + text * args.v_row + group * args.v_head;
    int64_t S = args.S, D = args.D, columns = args.columns(), W = WIDTH<E>;
    for (int64_t s = begin; s < begin + PANEL; s++)
        for (int64_t d = 0; d < D; d += W)
            gather(keys + (s / PANEL * D + d) / W * PANEL + s % PANEL, k + s * args.k_token + d, 1, s < S ? W : 0);
    for (int64_t s = begin; s < begin + PANEL; s += W)
        for (int64_t d = 0; d < D; d++)
            gather(values + (d / PANEL * columns + s) / W * PANEL + d % PANEL, v + s * args.v_token + d, args.v_token,
                   S - s);
}

// scores[0 to seen] -> exp((score - highest) scale), then zeros up to ``columns``, as numbers N; returns their sum
template <typename N>
INLINE float shares(float *scores, int64_t seen, int64_t columns, float scale) {
    ints lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    vec highest = all(-INFINITY), total = {};
    for (int64_t s = 0; s < columns; s += LANES) {
        vec x = load(scores + s);
        x = lane + (int)s < (int)seen ? x : all(-INFINITY);
        highest = x > highest ? x : highest;
        store(scores + s, x);
    }
    float top = largest_of(highest);
    for (int64_t s = 0; s < columns; s += LANES) {
        vec share = lane + (int)s < (int)seen ? exp_of((load(scores + s) - top) * scale) : vec{};
        total += share;
        store((N *)scores + s, share);  // never ahead of what is still to be read
    }
    return sum(total);
}

template <typename T, typename E>
void attend(
    const Args &args, int64_t text, int64_t group, int64_t block, const E *keys, const E *values, float *scratch
) {
    int64_t D = args.D, n = args.heads(), rows = args.rows(), columns = args.columns(), W = WIDTH<E>;
    int64_t t0 = block * args.queries(), count = args.T - t0 < args.queries() ? args.T - t0 : args.queries();
    int64_t before = args.S - args.T + t0, seen = (before + count + PANEL - 1) / PANEL * PANEL;
    float *scores = scratch, *o = scores + rows * columns, *total = o + 2 * rows * D;
    E *q = (E *)(o + rows * D), *p = (E *)scores;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < D; d += W) {
            int64_t head = group * n + r % n, t = t0 + r / n;
            const T *x = (const T *)args.q + text * args.q_row + head * args.q_head + t * args.q_token + d;
            gather(q + (r * D + d) / W, x, 1, r < count * n ? W : 0);
        }
    for (int64_t s = 0; s < seen; s += PANEL)
        for (int64_t r = 0; r < rows; r += ROWS) {
            Tile tile = {};
            product(tile, q + r * D / W, D / W, 1, keys + s * D / W, D / W);
            store(scores + r * columns + s, columns, tile);
        }
    float scale = 1 / sqrtf((float)D);
    for (int64_t r = 0; r < rows; r++)
        total[r] = shares<Part<E>>(scores + r * columns, r < count * n ? before + r / n + 1 : 1, seen, scale);
    for (int64_t s = 0; s < seen; s += DEPTH)
        for (int64_t d = 0; d < D; d += PANEL)
            for (int64_t r = 0; r < rows; r += ROWS) {
                Tile tile = {};
                if (s)
                    for (int i = 0; i < ROWS; i++)
                        for (int j = 0; j < 2; j++) tile[i][j] = load(o + (r + i) * D + d + j * LANES);
                int64_t depth = (seen - s < DEPTH ? seen - s : DEPTH) / W;
                const E *v = values + (d / PANEL * columns + s) / W * PANEL;
                product(tile, p + r * columns + s / W, columns, 1, v, depth);
                store(o + r * D + d, D, tile);
            }
    for (int64_t r = 0; r < count * n; r++) {
        int64_t head = group * n + r % n, t = t0 + r / n;
        T *out = (T *)args.out + text * args.out_row + head * args.out_head + t * args.out_token;
        for (int64_t d = 0; d < D; d += LANES) store(out + d, load(o + r * D + d) / total[r]);
    }
}

template <typename T, typename E>
void run(const Args &args) {
    E *keys = (E *)args.workspace, *values = keys + args.panels() / WIDTH<E>;
    float *scratch = args.workspace + 2 * args.panels() / WIDTH<E>;
    int64_t groups = args.B * args.G, blocks = args.blocks(), size = args.panels() / groups / WIDTH<E>;
    int64_t pieces = args.columns() / PANEL;
#pragma omp parallel num_threads(args.threads)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < groups * pieces; i++) {
            int64_t g = i / pieces;
            pack<T>(args, g / args.G, g % args.G, i % pieces * PANEL, keys + g * size, values + g * size);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < groups * blocks; i++) {
            int64_t g = i % groups, block = blocks - 1 - i / groups;  // the longest first
            attend<T>(args, g / args.G, g % args.G, block, keys + g * size, values + g * size,
                      scratch + thread() * args.scratch());
        }
    }
}

}  // namespace

// Of the workspace.
extern "C" int64_t slant_attention_floats(const Args *args) {
    return 2 * args->panels() / (args->is_bf16 ? WIDTH<Operand> : 1) + args->threads * args->scratch();
}

extern "C" void slant_attention(const Args *args) {
    (args->is_bf16 ? run<bf16, Operand> : run<float, float>)(*args);
}
