/* How are the segment kernels computed on this machine, one vector of channels at a time?
 *
 * Compiled by plain `cc`, called through ctypes; the functions at the end are those of
 * mechtest/kernels/segments.py. Rules that make different ways to the same number agree to the
 * last bit: one function for each formula, inlined wherever it is needed; contraction is off, so
 * that multiply-adds are fused where fma() says so and nowhere else; the channels past the end of
 * a row are computed as zeros by the same vector operations and dropped.
 *
 * A NaN or an infinity is never turned into a finite number: comparisons are written so that a NaN
 * fails them and passes through.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define LANES 16
#elif defined(__AVX__) && defined(__FMA__)
#include <immintrin.h>
#define LANES 8
#else
#define LANES 4
#if defined(__aarch64__)
#include <arm_neon.h>
#endif
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ints __attribute__((vector_size(LANES * 4)));
typedef float loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define DO_PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define UNROLL(n) DO_PRAGMA(clang loop unroll_count(n))
#else
#define UNROLL(n) DO_PRAGMA(GCC unroll n)
#endif

INLINE vec all(float value) {
#if LANES == 16
    return _mm512_set1_ps(value);
#elif LANES == 8
    return _mm256_set1_ps(value);
#else
    return (vec){value, value, value, value};
#endif
}

INLINE vec fma_(vec a, vec b, vec c) {
#if LANES == 16
    return _mm512_fmadd_ps(a, b, c);
#elif LANES == 8
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* `count` is LANES, known when compiling, except at the end of a row. */
INLINE vec load(const float *from, int count) {
    if (count == LANES) return *(const loose *)from;
    vec value = all(0.0f);
    memcpy(&value, from, (size_t)count * 4);
    return value;
}

INLINE void store(float *to, vec value, int count) {
    if (count == LANES) *(loose *)to = value;
    else memcpy(to, &value, (size_t)count * 4);
}

INLINE vec where(ints mask, vec yes, vec no) {
    return (vec)((mask & (ints)yes) | (~mask & (ints)no));
}

/* 2^f for |f| <= 1/2: relative error 2e-9 before rounding, exactly 1 at 0. */
INLINE vec exp2_fraction(vec f) {
    vec p = all(1.53533620e-4f);
    p = fma_(p, f, all(1.33988750e-3f));
    p = fma_(p, f, all(9.61843692e-3f));
    p = fma_(p, f, all(5.55033237e-2f));
    p = fma_(p, f, all(2.40226477e-1f));
    p = fma_(p, f, all(6.93147182e-1f));
    return fma_(p, f, all(1.0f));
}

#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it leaves an integer in the low bits */

#if LANES == 16
/* 2^v: 0 below -126 (no denormals, which cost a hundred times as much). */
INLINE vec exp2_(vec v) {
    __mmask16 normal = _mm512_cmp_ps_mask(v, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
    vec f = _mm512_reduce_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_maskz_scalef_ps(normal, exp2_fraction(f), v - f);
}
#else
INLINE vec exp2_(vec v) {
    const vec rounder = all(ROUNDER);
    ints lost = (ints)(v < all(-126.0f));
    v = where((ints)(v > all(128.0f)), all(128.0f), v);
    v = where(lost, all(-126.0f), v);
    vec shifted = v + rounder;
    vec f = v - (shifted - rounder);
    /* 128 gives the bits of infinity. */
    vec scale = (vec)(((ints)shifted - (ints)rounder + 127) << 23);
    return (vec)(~lost & (ints)(exp2_fraction(f) * scale));
}
#endif

/* e^x: 0 below -87.3, infinity above 88.7. The argument is reduced in two parts, so that the error
 * does not grow with it. */
INLINE vec exp_(vec x) {
    const vec rounder = all(ROUNDER);
    ints lost = (ints)(x < all(-87.33f));
    x = where((ints)(x > all(89.0f)), all(89.0f), x);
    x = where(lost, all(-87.33f), x);
    vec shifted = fma_(x, all(1.44269504f), rounder);
    vec n = shifted - rounder;
    vec r = fma_(n, all(-0.693359375f), x);
    r = fma_(n, all(2.12194440e-4f), r);
    vec p = all(1.38146128e-3f);
    p = fma_(p, r, all(8.36871006e-3f));
    p = fma_(p, r, all(4.16683890e-2f));
    p = fma_(p, r, all(1.66665211e-1f));
    p = fma_(p, r, all(4.99999940e-1f));
    p = fma_(p, r * r, r) + all(1.0f);
    vec scale = (vec)(((ints)shifted - (ints)rounder + 127) << 23);
    return (vec)(~lost & (ints)(p * scale));
}

INLINE vec silu_(vec x) { return x / (all(1.0f) + exp_(-x)); }

/* max(x, 0) + log(1 + e^-|x|); the logarithm as 2 atanh(t / (2 + t)), exact for small t too. */
INLINE vec softplus_(vec x) {
    ints positive = (ints)(x > all(0.0f));
    vec t = exp_(where(positive, -x, x));
    vec s = t / (t + all(2.0f));
    vec z = s * s;
    vec p = all(2.42895577e-1f);
    p = fma_(p, z, all(2.14307408e-1f));
    p = fma_(p, z, all(2.86165967e-1f));
    p = fma_(p, z, all(3.99988884e-1f));
    p = fma_(p, z, all(6.66666755e-1f));
    vec log1p = fma_(p * z, s, s + s);
    return log1p + where(positive, x, all(0.0f));
}

INLINE vec gated(vec y, vec x, vec D, vec gate) { return fma_(D, x, y) * silu_(gate); }

/* Call a macro for all whole vectors of channels [first, past), then for what is left. */
#define FOR_CHANNELS(first, past, e, count, body)                                                  \
    do {                                                                                           \
        int64_t e = (first);                                                                       \
        for (; e + LANES <= (past); e += LANES) {                                                  \
            enum { count = LANES };                                                                \
            body;                                                                                  \
        }                                                                                          \
        if (e < (past)) {                                                                          \
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

INLINE float sum_lanes(vec value) {
    float lane[LANES];
    memcpy(lane, &value, sizeof lane);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
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
    const int64_t *starts, *keep;
    const uint8_t *given;
    int64_t n_segments, n_rows, n_keep, softplus, width, n_state;
    float *out, *end, *kept;
} Scan;

#define AT_ONCE 32 /* rows of all channels before the next ones: they stay in the cache */

/* All states, in registers where there are as many as most models have. */
#define FOR_STATES(i, n_state, body)                                                               \
    do {                                                                                           \
        if (n_state == 16) {                                                                       \
            UNROLL(16)                                                                             \
            for (int i = 0; i < 16; i++) body;                                                     \
        } else                                                                                     \
            for (int i = 0; i < n_state; i++) body;                                                \
    } while (0)

/* Rows [from, past) of one segment for one vector of channels; `h` holds n_state vectors. What does
 * not depend on the state is done for all rows before and after, where rows can overlap. */
INLINE void scan_lanes(const Scan *a, int64_t from, int64_t past, int read_only, int64_t keep_at,
                       int64_t e, int n, const float *before, float *after, vec *h, int n_state) {
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
            __builtin_prefetch(after + (t - from) * a->width + next, 1);
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
    }
    for (int64_t t = from; t < past; t++) {
        vec out = y[t - from];
        if (a->gate)
            out = gated(out, load(a->x + t * a->x_stride + e, n), load(a->D + e, n),
                        load(a->gate + t * a->gate_stride + e, n));
        store(a->out + t * a->width + e, out, n);
    }
    FOR_STATES(i, n_state, store(after + i * a->width + e, h[i], n));
}

INLINE void scan_segment(const Scan *a, int64_t s, int64_t *keep_at, int64_t first, int64_t past,
                         vec *h, int n_state) {
    const int64_t plane = a->width * n_state;
    float *after = a->end + s * plane;
    for (int64_t t = a->starts[s]; t < a->starts[s + 1]; t += AT_ONCE) {
        const int fresh = t == a->starts[s];
        const int64_t until = t + AT_ONCE < a->starts[s + 1] ? t + AT_ONCE : a->starts[s + 1];
        const float *before = fresh ? a->h_start + s * a->h_stride : after;
        const int read_only = fresh && a->given && a->given[s];
        FOR_CHANNELS(first, past, e, n,
                     scan_lanes(a, t, until, read_only, *keep_at, e, n, before, after, h, n_state));
        while (*keep_at < a->n_keep && a->keep[*keep_at] < until) ++*keep_at;
    }
}

EXPORT int mt_scan(const Scan *a, int64_t first, int64_t past) {
    int bad = refused(a->starts, a->n_segments, a->n_rows, a->keep, a->n_keep);
    if (bad) return bad;
    int64_t keep_at = 0;
    if (a->n_state == 16) {
        vec h[16];
        for (int64_t s = 0; s < a->n_segments; s++) scan_segment(a, s, &keep_at, first, past, h, 16);
        return 0;
    }
    vec *h = aligned_alloc(sizeof(vec), (size_t)(a->n_state + 1) * sizeof(vec));
    if (!h) return 3;
    for (int64_t s = 0; s < a->n_segments; s++)
        scan_segment(a, s, &keep_at, first, past, h, (int)a->n_state);
    free(h);
    return 0;
}
