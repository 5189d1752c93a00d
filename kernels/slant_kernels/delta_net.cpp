// The recurrent half of a Gated DeltaNet mixer on a CPU in one pass: convolution, SiLU, norms, gates, delta rule.
//
// The formulas are those of delta_inputs.py and delta_rule.py; arithmetic is fp32 throughout. A task is a key head of a
// text with its value heads, or some of their columns, chunk by chunk, so that what stands between the ops of the torch
// path, many times the input, never leaves the processor's cache. With c, A and D as in delta_rule.py and S the state before the chunk:
//
//     (I + A) N = beta (v - exp(c) k S);  o = exp(c) q S + (q k^T * D) N;  S <- exp(c_last) S + k^T (exp(c_last - c) N)
//
// The columns of v, N, o and S do not depend on each other: a panel of them is carried through all four at a time. Where
// there are fewer key heads than threads, several threads take panels of the same one. Each makes what the panels share,
// q, k and their products, again for itself: the same bits, and no thread waits for another.

#include "vectors.h"

namespace {

constexpr int64_t CHUNK = 64, CONV = 4;
constexpr float L2_EPS = 1e-6f;
constexpr float LEAST = -100;  // as in delta_rule_kernel.py
constexpr double SHARED = 1.8;  // what the panels of a key head share takes, in the time of one panel

// As in native.py. Strides count elements; T is the type of mixed, a, b, before and out.
struct Args {
    const void *mixed, *a, *b, *before;                  // [B, T, C]; [B, T, Hv] twice; [1 or B, CONV - 1, C] or null
    const float *conv_weight, *A_log, *dt_bias, *start;  // [CONV, C]; [Hv] twice; [1 or B, Hv, K, V] or null
    void *out;                                           // [B, T, Hv, V]
    float *end;                                          // [B, Hv, K, V] or null
    float *workspace;                                    // slant_delta_net_floats()
    int64_t B, T, H, Hv, K, V;
    int64_t mixed_row, mixed_token, a_row, a_token, b_row, b_token, before_row, start_row;
    int64_t is_bf16, threads;

    int64_t group() const { return Hv / H; }
    int64_t panels() const { return group() * (V / PANEL); }  // of a key head

    // Into how many tasks a key head's panels are cut, so that the last thread is ready soonest. A cut makes more work,
    // which other processes may have cores for: it must gain a sixth.
    int64_t parts() const {
        int64_t best = 1;
        double least = INFINITY;
        for (int64_t n = 1; n <= panels(); n++) {
            int64_t rounds = (B * H * n + threads - 1) / threads, most = (panels() + n - 1) / n;
            double time = rounds * (SHARED + most);
            if (time < least * 5 / 6) best = n, least = time;
        }
        return best;
    }
    int64_t channels() const { return 2 * H * K + Hv * V; }
    int64_t scratch() const { return 3 * CHUNK * K + 4 * CHUNK * CHUNK + CHUNK * PANEL + group() * K * V; }
};

// What a thread works in. q and k are [CHUNK, K], kT k's transpose in panels; qk, kk, attn and A [CHUNK, CHUNK], right
// up to the diagonal; N [CHUNK, PANEL]; S the states of a key head's value heads, in panels.
struct Scratch {
    float *q, *k, *kT, *qk, *kk, *attn, *A, *N, *S;
    float c[CHUNK], grown[CHUNK], beta[CHUNK], rest[CHUNK];  // cumulated g, exp(c), beta, exp(c_last - c)

    Scratch(const Args &args, float *memory) {
        int64_t rows = CHUNK * args.K, square = CHUNK * CHUNK;
        q = memory, k = q + rows, kT = k + rows, qk = kT + rows, kk = qk + square, attn = kk + square;
        A = attn + square, N = A + square, S = N + CHUNK * PANEL;
    }
};

// Where a chunk is: tokens t0 to t0 + count of a text; rows is count rounded up to whole tiles.
struct Chunk {
    int64_t text, t0, count, rows;
};

// silu of the convolution at LANES channels, a token every ``row`` of out
template <typename T>
INLINE void convolve(const Args &args, const Chunk &at, int64_t channel, float *out, int64_t row) {
    const T *x = (const T *)args.mixed + at.text * args.mixed_row + channel;
    const T *before = (const T *)args.before + at.text * args.before_row + channel;
    vec weight[CONV], past[CONV];
    for (int64_t j = 0; j < CONV; j++) weight[j] = load(args.conv_weight + j * args.channels() + channel);
    for (int64_t j = 0; j < CONV - 1; j++) {
        int64_t t = at.t0 + j - (CONV - 1);
        past[j] = t >= 0        ? load(x + t * args.mixed_token)
                  : args.before ? load(before + (t + CONV - 1) * args.channels())
                                : vec{};
    }
    for (int64_t t = 0; t < at.count; t++) {
        past[3] = load(x + (at.t0 + t) * args.mixed_token);
        vec c = past[0] * weight[0] + past[1] * weight[1] + past[2] * weight[2] + past[3] * weight[3];
        store(out + t * row, silu(c));
        past[0] = past[1], past[1] = past[2], past[2] = past[3];
    }
}

// a key head's q or k, normalised and scaled; rows from count on are zero
template <typename T>
INLINE void keys(const Args &args, const Chunk &at, int64_t channel, float scale, float *out) {
    int64_t K = args.K;
    for (int64_t d = 0; d < K; d += LANES) convolve<T>(args, at, channel + d, out + d, K);
    for (int64_t t = 0; t < at.count; t++) {
        vec squares = {};
        for (int64_t d = 0; d < K; d += LANES) squares += load(out + t * K + d) * load(out + t * K + d);
        float factor = scale / sqrtf(sum(squares) + L2_EPS);
        for (int64_t d = 0; d < K; d += LANES) store(out + t * K + d, load(out + t * K + d) * factor);
    }
    memset(out + at.count * K, 0, (at.rows - at.count) * K * sizeof(float));
}

// out = x k^T up to the diagonal
INLINE void gram(const float *x, const float *kT, float *out, int64_t rows, int64_t K) {
    for (int64_t i = 0; i < rows; i += ROWS)
        for (int64_t j = 0; j < i + ROWS; j += PANEL) {
            Tile tile = {};
            product(tile, x + i * K, K, 1, kT + j * K, K);
            store(out + i * CHUNK + j, CHUNK, tile);
        }
}

// c, grown, beta and rest of a value head; a row from count on neither forgets nor learns
template <typename T>
INLINE void gates(const Args &args, const Chunk &at, int64_t head, Scratch &s) {
    const T *a = (const T *)args.a + at.text * args.a_row + head, *b = (const T *)args.b + at.text * args.b_row + head;
    float rate = expf(args.A_log[head]), total = 0;
    for (int64_t t = 0; t < at.rows; t++) {
        s.beta[t] = 0;
        if (t < at.count) {
            float step = one(a + (at.t0 + t) * args.a_token) + args.dt_bias[head];
            total += fmaxf(-rate * (step > 20 ? step : log1pf(expf(step))), LEAST);
            s.beta[t] = 1 / (1 + expf(-one(b + (at.t0 + t) * args.b_token)));
        }
        s.c[t] = total;
        s.grown[t] = expf(total);
    }
    for (int64_t t = 0; t < at.rows; t++) s.rest[t] = expf(total - s.c[t]);
}

// attn = qk * D, and A = beta kk * D, of which only what is below the diagonal is used
INLINE void decays(Scratch &s, int64_t rows) {
    ints lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < i / ROWS * ROWS + ROWS; j += LANES) {
            vec D = exp_of(s.c[i] - load(s.c + j));
            store(s.attn + i * CHUNK + j, lane + (int)j <= (int)i ? load(s.qk + i * CHUNK + j) * D : vec{});
            store(s.A + i * CHUNK + j, load(s.kk + i * CHUNK + j) * D * s.beta[i]);
        }
}

// N of a panel, by substitution from v, which stands in its place
INLINE void solve(Scratch &s, const float *S, int64_t rows, int64_t K) {
    for (int64_t i = 0; i < rows; i += ROWS) {
        float *N = s.N + i * PANEL, *A = s.A + i * CHUNK;
        Tile tile = {}, known = {};
        product(tile, s.k + i * K, K, 1, S, K);
        product(known, A, CHUNK, 1, s.N, i);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) {
                vec x = s.beta[i + r] * (load(N + r * PANEL + j * LANES) - s.grown[i + r] * tile[r][j]) - known[r][j];
#pragma GCC unroll 8
                for (int e = 0; e < r; e++) x -= A[r * CHUNK + i + e] * tile[e][j];
                tile[r][j] = x;
            }
        store(N, PANEL, tile);
    }
}

template <typename T>
INLINE void outputs(Scratch &s, const float *S, T *out, int64_t token, int64_t count, int64_t K) {
    for (int64_t i = 0; i < count; i += ROWS) {
        Tile tile = {};
        product(tile, s.q + i * K, K, 1, S, K);
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < 2; j++) tile[r][j] *= s.grown[i + r];
        product(tile, s.attn + i * CHUNK, CHUNK, 1, s.N, i + ROWS);
        store(out + i * token, token, tile, count - i < ROWS ? (int)(count - i) : ROWS);
    }
}

INLINE void advance(Scratch &s, float *S, int64_t rows, int64_t K) {
    for (int64_t t = 0; t < rows; t++)
        for (int j = 0; j < PANEL; j += LANES) store(s.N + t * PANEL + j, load(s.N + t * PANEL + j) * s.rest[t]);
    for (int64_t d = 0; d < K; d += ROWS) {
        Tile tile;
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < 2; j++) tile[r][j] = load(S + (d + r) * PANEL + j * LANES) * s.grown[rows - 1];
        product(tile, s.k + d, 1, K, s.N, rows);
        store(S + d * PANEL, PANEL, tile);
    }
}

// PANEL columns of a state [K, V] into a panel, or back.
void repack(float *panel, float *plain, int64_t K, int64_t V, bool back) {
    for (int64_t d = 0; d < K; d++) {
        float *inside = panel + d * PANEL, *outside = plain + d * V;
        memcpy(back ? outside : inside, back ? inside : outside, PANEL * sizeof(float));
    }
}

template <typename T>
void run(const Args &args, Scratch &s, int64_t text, int64_t key_head, int64_t begin, int64_t end) {
    int64_t K = args.K, V = args.V, wide = V / PANEL, size_of_S = K * PANEL, first = key_head * args.group();
    for (int64_t p = begin; p < end; p++) {
        int64_t place = (first + p / wide) * K * V + p % wide * PANEL;
        if (args.start)
            repack(s.S + p * size_of_S, (float *)args.start + text * args.start_row + place, K, V, false);
        else
            memset(s.S + p * size_of_S, 0, size_of_S * sizeof(float));
    }
    int64_t chunks = (args.T + CHUNK - 1) / CHUNK, size = (args.T + chunks - 1) / chunks;  // 65 tokens are 33 and 32
    for (int64_t t0 = 0; t0 < args.T; t0 += size) {
        int64_t count = args.T - t0 < size ? args.T - t0 : size;
        Chunk at = {text, t0, count, (count + ROWS - 1) / ROWS * ROWS};
        keys<T>(args, at, key_head * K, 1 / sqrtf((float)K), s.q);
        keys<T>(args, at, (args.H + key_head) * K, 1, s.k);
        transpose(s.k, s.kT, at.rows, K);
        gram(s.q, s.kT, s.qk, at.rows, K);
        gram(s.k, s.kT, s.kk, at.rows, K);
        for (int64_t p = begin; p < end; p++) {
            if (p == begin || p % wide == 0) {
                gates<T>(args, at, first + p / wide, s);
                decays(s, at.rows);
            }
            float *S = s.S + p * size_of_S;
            int64_t column = first * V + p * PANEL;
            for (int j = 0; j < PANEL; j += LANES) convolve<T>(args, at, 2 * args.H * K + column + j, s.N + j, PANEL);
            memset(s.N + count * PANEL, 0, (at.rows - count) * PANEL * sizeof(float));
            solve(s, S, at.rows, K);
            outputs(s, S, (T *)args.out + (text * args.T + t0) * args.Hv * V + column, args.Hv * V, count, K);
            advance(s, S, at.rows, K);
        }
    }
    for (int64_t p = begin; args.end && p < end; p++)
        repack(s.S + p * size_of_S, args.end + (text * args.Hv + first + p / wide) * K * V + p % wide * PANEL, K, V, true);
}

}  // namespace

// The columns of a panel: K and V must be multiples of it.
extern "C" int64_t slant_panel() { return PANEL; }

// Of the workspace.
extern "C" int64_t slant_delta_net_floats(const Args *args) { return args->threads * args->scratch(); }

extern "C" void slant_delta_net(const Args *args) {
    int64_t H = args->H, parts = args->parts(), panels = args->panels();
#pragma omp parallel num_threads(args->threads)
    {
        Scratch s(*args, args->workspace + thread() * args->scratch());
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < args->B * H * parts; i++) {
            int64_t head = i / parts, part = i % parts;
            (args->is_bf16 ? run<bf16> : run<float>)(
                *args, s, head / H, head % H, part * panels / parts, (part + 1) * panels / parts
            );
        }
    }
}
