/* How are the segment kernels computed on this machine, one vector of channels at a time?
 *
 * Compiled by plain `cc`, called through ctypes; the functions at the end are those of
 * mechtest/kernels/segments.py. Rules that make different ways to the same number agree to the
 * last bit: one function for each formula, inlined wherever it is needed; contraction is off, so
 * that multiply-adds are fused where fma() says so and nowhere else; the channels past the end of
 * a row are computed as zeros by the same vector operations and dropped.
 */
#include <math.h>
#include <stdlib.h>

#include "vectors.h"

/* Do something for all whole vectors of channels [first, past), then for what is left. */
#define FOR_CHANNELS(first, past, e, count, body) FOR_CHANNELS_(first, past, 1, e, count, body)
#define FOR_CHANNELS_(first, past, rest, e, count, body)                                           \
    do {                                                                                           \
        int64_t e = (first);                                                                       \
        for (; e + LANES <= (past); e += LANES) {                                                  \
            enum { count = LANES };                                                                \
            body;                                                                                  \
        }                                                                                          \
        if ((rest) && e < (past)) {                                                                \
            const int count = (int)((past) - e);                                                   \
            body;                                                                                  \
        }                                                                                          \
    } while (0)

#define EXPORT __attribute__((visibility("default")))

EXPORT void mt_silu(const float *rows, int64_t stride, float *out, int64_t n_rows, int64_t width) {
    for (int64_t t = 0; t < n_rows; t++)
        FOR_CHANNELS(0, width, e, n,
                     store(out + t * width + e, silu_(load(rows + t * stride + e, n)), n));
}

EXPORT void mt_softplus(const float *rows, int64_t stride, float *out, int64_t n_rows,
                        int64_t width) {
    for (int64_t t = 0; t < n_rows; t++)
        FOR_CHANNELS(0, width, e, n,
                     store(out + t * width + e, softplus_(load(rows + t * stride + e, n)), n));
}

EXPORT void mt_gate(const float *y, int64_t y_stride, const float *x, int64_t x_stride,
                    const float *D, const float *gate, int64_t gate_stride, float *out,
                    int64_t n_rows, int64_t width) {
    for (int64_t t = 0; t < n_rows; t++)
        FOR_CHANNELS(0, width, e, n,
                     store(out + t * width + e,
                           gated(load(y + t * y_stride + e, n), load(x + t * x_stride + e, n),
                                 load(D + e, n), load(gate + t * gate_stride + e, n)),
                           n));
}

EXPORT void mt_rms_norm(const float *rows, int64_t stride, const float *weight, float eps,
                        float *out, int64_t n_rows, int64_t width) {
    for (int64_t t = 0; t < n_rows; t++) {
        const float *row = rows + t * stride;
        vec sum[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
        FOR_CHANNELS(0, width, e, n, {
            vec value = load(row + e, n);
            sum[(e / LANES) & 3] = fma_(value, value, sum[(e / LANES) & 3]);
        });
        float mean = sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)width;
        vec scale = all(1.0f / sqrtf(mean + eps));
        FOR_CHANNELS(0, width, e, n,
                     store(out + t * width + e, load(row + e, n) * scale * load(weight + e, n), n));
    }
}

/* 0 if `starts` cuts the rows into segments that are not empty and `keep` ascends within them. */
static int refused(const int64_t *starts, int64_t n_segments, int64_t n_rows, const int64_t *keep,
                   int64_t n_keep) {
    if (starts[0] != 0 || starts[n_segments] != n_rows) return 1;
    for (int64_t s = 0; s < n_segments; s++)
        if (starts[s + 1] <= starts[s]) return 1;
    for (int64_t k = 0; k < n_keep; k++)
        if (keep[k] < 0 || keep[k] >= n_rows || (k && keep[k] <= keep[k - 1])) return 2;
    return 0;
}

INLINE void conv_row(const float *const *from, const float *taps, int n_taps, const float *bias,
                     int activate, float *out, int64_t width, int64_t first, int64_t past) {
    FOR_CHANNELS(first, past, e, n, {
        vec sum = load(from[0] + e, n) * load(taps + e, n);
        for (int j = 1; j < n_taps; j++)
            sum = fma_(load(from[j] + e, n), load(taps + j * width + e, n), sum);
        if (bias) sum = sum + load(bias + e, n);
        store(out + e, activate ? silu_(sum) : sum, n);
    });
}

EXPORT int mt_conv(const float *rows, int64_t row_stride, const float *weight, const float *bias,
                   const float *windows, int64_t segment_stride, int64_t window_stride,
                   const int64_t *starts, int64_t n_segments, int64_t n_rows, int activate,
                   float *out, int64_t width, int64_t n_taps, int64_t first, int64_t past) {
    if (refused(starts, n_segments, n_rows, 0, 0)) return 1;
    float *taps = malloc((size_t)(n_taps * width) * sizeof(float) + 1);
    const float **from = malloc((size_t)n_taps * sizeof(float *));
    if (!taps || !from) {
        free(taps);
        free(from);
        return 3;
    }
    for (int64_t e = first; e < past; e++)
        for (int64_t j = 0; j < n_taps; j++) taps[j * width + e] = weight[e * n_taps + j];
    for (int64_t s = 0; s < n_segments; s++)
        for (int64_t t = starts[s]; t < starts[s + 1]; t++) {
            for (int64_t j = 0; j < n_taps; j++) {
                int64_t source = t - (n_taps - 1) + j, past_start = source - starts[s];
                from[j] = past_start >= 0
                              ? rows + source * row_stride
                              : windows + s * segment_stride +
                                    (past_start + n_taps - 1) * window_stride;
            }
            float *to = out + t * width;
            if (n_taps == 4) conv_row(from, taps, 4, bias, activate, to, width, first, past);
            else conv_row(from, taps, (int)n_taps, bias, activate, to, width, first, past);
        }
    free(taps);
    free(from);
    return 0;
}

/* The arguments of a scan; the same order as in native_backend.py. */
typedef struct {
    const float *x, *delta, *decay, *B, *C, *h_start, *D, *gate;
    int64_t x_stride, delta_stride, B_stride, C_stride, h_stride, gate_stride;
    const int64_t *starts, *keep, *slots; /* slots: which start state, or none: one a segment */
    const uint8_t *given;
    int64_t n_segments, n_rows, n_keep, softplus, width, n_state;
    float *out, *end, *kept, *checkpoints;
} Scan;

#define AT_ONCE 32 /* rows of all channels before the next ones: they stay in the cache */
#define CHUNK 16   /* rows between two states that the backward pass starts from */

/* All states, in registers where there are as many as most models have. */
#define UNROLLED(n_state) (__builtin_constant_p(n_state) && (n_state) == 16)
#define FOR_STATES(i, n_state, body)                                                               \
    do {                                                                                           \
        if (UNROLLED(n_state)) {                                                                   \
            UNROLL(16)                                                                             \
            for (int i = 0; i < 16; i++) body;                                                     \
        } else                                                                                     \
            for (int i = 0; i < n_state; i++) body;                                                \
    } while (0)

/* Rows [from, past) of one segment for one vector of channels; `h` holds n_state vectors. What does
 * not depend on the state is done for all rows before and after, where rows can overlap. */
INLINE void scan_lanes(const Scan *a, int64_t from, int64_t past, int read_only, int64_t keep_at,
                       int64_t e, int n, const float *before, float *after, float *checkpoints,
                       int64_t n_checkpoints, vec *h, int n_state) {
    const int64_t plane = a->width * n_state, next = e + LANES;
    vec delta[AT_ONCE], write[AT_ONCE], y[AT_ONCE];
    FOR_STATES(i, n_state, h[i] = load(before + i * a->width + e, n));
    for (int64_t t = from; t < past; t++) {
        vec step = load(a->delta + t * a->delta_stride + e, n);
        delta[t - from] = a->softplus ? softplus_(step) : step;
        write[t - from] = delta[t - from] * load(a->x + t * a->x_stride + e, n);
    }
    for (int64_t t = from; t < past; t++) {
        const float *B = a->B + t * a->B_stride, *C = a->C + t * a->C_stride;
        __builtin_prefetch(a->x + t * a->x_stride + next);
        __builtin_prefetch(a->delta + t * a->delta_stride + next);
        __builtin_prefetch(a->out + t * a->width + next, 1);
        if (a->gate) __builtin_prefetch(a->gate + t * a->gate_stride + next);
        if (t - from < n_state) {
            __builtin_prefetch(before + (t - from) * a->width + next);
            if (after) __builtin_prefetch(after + (t - from) * a->width + next, 1);
            __builtin_prefetch(a->decay + (t - from) * a->width + next);
        }
        vec read[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
        if (!(read_only && t == from))
            FOR_STATES(i, n_state, {
                vec factor = exp2_(delta[t - from] * load(a->decay + i * a->width + e, n));
                h[i] = fma_(factor, h[i], write[t - from] * all(B[i]));
            });
        FOR_STATES(i, n_state, read[i & 3] = fma_(all(C[i]), h[i], read[i & 3]));
        y[t - from] = (read[0] + read[1]) + (read[2] + read[3]);
        if (keep_at < a->n_keep && a->keep[keep_at] == t) {
            for (int i = 0; i < n_state; i++)
                store(a->kept + keep_at * plane + i * a->width + e, h[i], n);
            keep_at++;
        }
        const int64_t reached = (t + 1 - from) / CHUNK;
        if (reached * CHUNK == t + 1 - from && reached <= n_checkpoints)
            for (int i = 0; i < n_state; i++)
                store(checkpoints + (reached - 1) * plane + i * a->width + e, h[i], n);
    }
    for (int64_t t = from; t < past; t++) {
        vec out = y[t - from];
        if (a->gate)
            out = gated(out, load(a->x + t * a->x_stride + e, n), load(a->D + e, n),
                        load(a->gate + t * a->gate_stride + e, n));
        store(a->out + t * a->width + e, out, n);
    }
    if (after) FOR_STATES(i, n_state, store(after + i * a->width + e, h[i], n));
}

/* Chunks of a segment that start from a state of its inside. */
INLINE int64_t checkpoints_in(const Scan *a, int64_t s) {
    return (a->starts[s + 1] - a->starts[s] - 1) / CHUNK;
}

INLINE void scan_segment(const Scan *a, int64_t s, int64_t *keep_at, float *checkpoints,
                         int64_t first, int64_t past, vec *h, int n_state) {
    const int64_t plane = a->width * n_state, last = a->starts[s + 1];
    int64_t n_checkpoints = checkpoints ? checkpoints_in(a, s) : 0;
    /* Nobody asks for it, and the segment is done at once: then it is not written. */
    float *after = a->end ? a->end + s * plane : 0;
    const int64_t slot = a->slots ? a->slots[s] : s;
    for (int64_t t = a->starts[s]; t < last; t += AT_ONCE) {
        const int fresh = t == a->starts[s];
        const int64_t until = t + AT_ONCE < last ? t + AT_ONCE : last;
        const float *before = fresh ? a->h_start + slot * a->h_stride : after;
        const int read_only = fresh && a->given && a->given[s];
        FOR_CHANNELS_(first, past, !UNROLLED(n_state), e, n,
                     scan_lanes(a, t, until, read_only, *keep_at, e, n, before, after, checkpoints,
                                n_checkpoints, h, n_state));
        while (*keep_at < a->n_keep && a->keep[*keep_at] < until) ++*keep_at;
        if (checkpoints) checkpoints += AT_ONCE / CHUNK * plane;
        n_checkpoints -= AT_ONCE / CHUNK;
    }
}

INLINE void scan_all(const Scan *a, int64_t first, int64_t past, vec *h, int n_state) {
    const int64_t plane = a->width * n_state;
    int64_t keep_at = 0, checkpoint = 0;
    for (int64_t s = 0; s < a->n_segments; s++) {
        float *checkpoints = a->checkpoints ? a->checkpoints + checkpoint * plane : 0;
        scan_segment(a, s, &keep_at, checkpoints, first, past, h, n_state);
        checkpoint += checkpoints_in(a, s);
    }
}

static vec *scratch(int64_t n_vectors) {
    return aligned_alloc(sizeof(vec), (size_t)(n_vectors + 1) * sizeof(vec));
}

/* End of the channels that code for 16 states takes: whole vectors, if there are 16. */
static int64_t unrolled_past(const Scan *a, int64_t first, int64_t past) {
    return a->n_state == 16 ? first + (past - first) / LANES * LANES : first;
}

EXPORT int mt_scan(const Scan *a, int64_t first, int64_t past) {
    int bad = refused(a->starts, a->n_segments, a->n_rows, a->keep, a->n_keep);
    if (bad) return bad;
    const int64_t rest = unrolled_past(a, first, past);
    if (rest > first) {
        vec h[16];
        scan_all(a, first, rest, h, 16);
    }
    if (rest < past) {
        vec *h = scratch(a->n_state);
        if (!h) return 3;
        scan_all(a, rest, past, h, (int)a->n_state);
        free(h);
    }
    return 0;
}

#include "adjoint.h"
