// Tensors out of files into memory, as read.py says.

#include <cerrno>
#include <cstdlib>
#include <unistd.h>

#include "vectors.h"

namespace {

enum { FP32, BF16, PANELS };
enum { DONE, NOT_FINITE, NOT_READ };

// A row of the tensor of jobs, as in read.py.
struct Job {
    int64_t file, start, from;  // a descriptor, the byte at which the tensor begins, and its type
    int64_t out, to, count;     // an address, the type or layout there, and the numbers
    int64_t row, columns;       // of panels: the row of their matrix that the tensor's first row is, and K
    int64_t first, chunk;       // the number of its first chunk, and the numbers a chunk: whole rows for panels
    int64_t status;
};

struct Args {
    Job *jobs;
    int64_t *state;  // the first chunk that no thread has taken
    int64_t count, end, most;  // jobs, the chunk to end at, and the most numbers a chunk
    int64_t is_bf16, threads;
};

bool read_all(const Job &job, char *to, int64_t at, int64_t size) {
    while (size > 0) {
        ssize_t got = pread((int)job.file, to, (size_t)size, job.start + at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        to += got, at += got, size -= got;
    }
    return true;
}

INLINE bits wrong(vec x) { return (bits)(((bits)x & 0x7f800000) == 0x7f800000); }

INLINE bool none(bits x) {
    for (int i = 0; i < LANES; i++)
        if (x[i]) return false;
    return true;
}

// Whether all are finite as they are written. x is looked at too: rounding carries the largest NaN over to -0.
template <typename From, typename To>
bool convert(const char *from, To *to, int64_t count) {
    bits any = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec x = load((const From *)from + i);
        store(to + i, x);
        any |= wrong(x) | wrong(load(to + i));
    }
    if (i < count) {
        From last[LANES] = {};
        To written[LANES];
        memcpy(last, (const From *)from + i, (size_t)(count - i) * sizeof(From));
        store(written, load(last));
        any |= wrong(load(last)) | wrong(load(written));
        memcpy(to + i, written, (size_t)(count - i) * sizeof(To));
    }
    return none(any);
}

// Rows from ``first`` on of a matrix, bf16 [rows, columns], into the panels of panels.py.
void pack(const uint16_t *x, uint16_t *out, int64_t first, int64_t rows, int64_t columns) {
    for (int64_t i = first; i < first + rows; i++, x += columns) {
        int64_t lane = i % PANEL;
        uint16_t *to = out + i / PANEL * PANEL * columns + lane % LANES * 2 + lane / LANES;
        for (int64_t k = 0; k < columns; k++) to[k * PANEL] = x[k];
    }
}

template <typename From>
int64_t run_panels(const Job &job, char *buffer, int64_t at, int64_t count) {
    if (!read_all(job, buffer, at * (int64_t)sizeof(From), count * (int64_t)sizeof(From))) return NOT_READ;
    bool fine = convert<From, bf16>(buffer, (bf16 *)buffer, count);
    int64_t first = job.row + at / job.columns;
    pack((const uint16_t *)buffer, (uint16_t *)job.out, first, count / job.columns, job.columns);
    return fine ? DONE : NOT_FINITE;
}

template <typename From, typename To>
int64_t run(const Job &job, char *buffer, int64_t at, int64_t count) {
    To *out = (To *)job.out + at;
    if constexpr (std::is_same_v<From, To>) buffer = (char *)out;  // nothing to convert
    if (!read_all(job, buffer, at * (int64_t)sizeof(From), count * (int64_t)sizeof(From))) return NOT_READ;
    return convert<From, To>(buffer, out, count) ? DONE : NOT_FINITE;
}

int64_t run(const Job &job, char *buffer, int64_t at, int64_t count) {
    if (job.to == PANELS) return (job.from == FP32 ? run_panels<float> : run_panels<bf16>)(job, buffer, at, count);
    if (job.from == FP32)
        return job.to == FP32 ? run<float, float>(job, buffer, at, count) : run<float, bf16>(job, buffer, at, count);
    return job.to == FP32 ? run<bf16, float>(job, buffer, at, count) : run<bf16, bf16>(job, buffer, at, count);
}

}  // namespace

extern "C" void slant_read(const Args *args) {
#pragma omp parallel num_threads(args->threads)
    {
        char *buffer = (char *)malloc((size_t)args->most * sizeof(float));
        int64_t index = 0;
        while (true) {
            int64_t chunk;
#pragma omp atomic capture
            chunk = args->state[0]++;
            if (chunk >= args->end) break;
            while (index + 1 < args->count && args->jobs[index + 1].first <= chunk) index++;
            Job &job = args->jobs[index];
            int64_t at = (chunk - job.first) * job.chunk, left = job.count - at;
            int64_t status = buffer ? run(job, buffer, at, left < job.chunk ? left : job.chunk) : (int64_t)NOT_READ;
#pragma omp critical
            if (status > job.status) job.status = status;
        }
        free(buffer);
    }
}
