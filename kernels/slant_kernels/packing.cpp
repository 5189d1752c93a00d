// Quantized matrices, and those in bf16, from the order of their rows into the panels of panels.py.

#include "vectors.h"

namespace {

constexpr int64_t RUN = 32;  // k whose codes quantized.py keeps together; a panel has as many words of them as bits

// As in native.py. codes: rows of quantized.py, ``row`` bytes apart, or of bf16 for 16 bits.
struct Args {
    const uint8_t *codes;
    uint32_t *words;
    int64_t N, K, bits, row;
    int64_t is_bf16, threads;
};

// The codes of run ``i`` of a block, or a field of them, in the order of k.
INLINE void field(const uint8_t *block, int64_t bits, int64_t i, uint8_t *out) {
    for (int64_t j = 0; j < RUN; j++) out[j] = block[j] >> bits * i & ((1 << bits) - 1);
}

INLINE void upper(const uint8_t *block, int64_t i, uint8_t *out) {
    for (int64_t j = 0; j < RUN; j++) out[j] = block[RUN + j % 16] >> (4 * (j / 16) + i) & 1;
}

// Fields of ``width`` bits of a run -> as many words, PANEL apart
INLINE uint32_t *put(const uint8_t *fields, int64_t width, uint32_t *out) {
    for (int64_t word = 0; word < width; word++, out += PANEL) {
        uint32_t all = 0;
        for (int64_t j = 0; j < 8 / width; j++) {
            uint32_t four;  // k = 4 j + 0 ... 3 of the word
            memcpy(&four, fields + (word * 8 / width + j) * 4, 4);
            all |= four << width * j;
        }
        *out = all;
    }
    return out;
}

void pack_codes(const Args &args, int64_t panel) {
    int64_t width = args.bits == 3 ? 2 : args.bits, runs = 8 / width, size = args.bits == 3 ? 48 : RUN;
    for (int64_t run = 0; run < args.K / RUN; run++)
        for (int64_t lane = 0; lane < PANEL; lane++) {
            int64_t n = panel * PANEL + lane;
            const uint8_t *block = args.codes + n * args.row + run / runs * size;
            uint32_t *out = args.words + (panel * args.K / RUN + run) * args.bits * PANEL + lane;
            uint8_t fields[RUN] = {};
            if (n < args.N) field(block, width, run % runs, fields);
            out = put(fields, width, out);
            if (args.bits != 3) continue;
            if (n < args.N) upper(block, run % runs, fields);
            put(fields, 1, out);
        }
}

void pack_numbers(const Args &args, int64_t panel) {
    for (int64_t k0 = 0; k0 < args.K; k0 += RUN)
        for (int64_t lane = 0; lane < PANEL; lane++) {
            int64_t n = panel * PANEL + lane;
            const uint16_t *x = (const uint16_t *)(args.codes + n * args.row);
            uint16_t *out = (uint16_t *)(args.words + panel * args.K * LANES) + lane % LANES * 2 + lane / LANES;
            for (int64_t k = k0; k < k0 + RUN; k++) out[k * PANEL] = n < args.N ? x[k] : 0;
        }
}

}  // namespace

extern "C" void slant_pack(const Args *args) {
#pragma omp parallel for num_threads(args->threads)
    for (int64_t panel = 0; panel < (args->N + PANEL - 1) / PANEL; panel++)
        (args->bits == 16 ? pack_numbers : pack_codes)(*args, panel);
}
