/* Which vectors does this machine have, and what are 2^v, e^x, silu and softplus of one?
 *
 * A NaN or an infinity is never turned into a finite number: comparisons are written so that a NaN
 * fails them and passes through.
 */
#include <stdint.h>
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

INLINE vec sigmoid_(vec x) { return all(1.0f) / (all(1.0f) + exp_(-x)); }

INLINE float sum_lanes(vec value) {
    float lane[LANES];
    memcpy(lane, &value, sizeof lane);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES 1
#define MIX __builtin_shufflevector
#endif
#endif

#ifdef SHUFFLES
/* Each group of four lanes: what the same group of a, b, c and d sums to. */
INLINE vec sum_groups(vec a, vec b, vec c, vec d) {
#if LANES == 16
#define LOW(x, y) MIX(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH(x, y) MIX(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOWS(x, y) MIX(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGHS(x, y) MIX(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#elif LANES == 8
#define LOW(x, y) MIX(x, y, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH(x, y) MIX(x, y, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOWS(x, y) MIX(x, y, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGHS(x, y) MIX(x, y, 2, 3, 10, 11, 6, 7, 14, 15)
#else
#define LOW(x, y) MIX(x, y, 0, 4, 1, 5)
#define HIGH(x, y) MIX(x, y, 2, 6, 3, 7)
#define LOWS(x, y) MIX(x, y, 0, 1, 4, 5)
#define HIGHS(x, y) MIX(x, y, 2, 3, 6, 7)
#endif
    vec ab = LOW(a, b) + HIGH(a, b), cd = LOW(c, d) + HIGH(c, d);
    return LOWS(ab, cd) + HIGHS(ab, cd);
}

/* Lane i: the sum of the lanes of v[i]. */
INLINE vec sum_each(const vec *v) {
#if LANES == 16
#define SHORT(x, y) MIX(x, y, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define LONG(x, y) MIX(x, y, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
    vec a = sum_groups(v[0], v[1], v[2], v[3]), b = sum_groups(v[4], v[5], v[6], v[7]);
    vec c = sum_groups(v[8], v[9], v[10], v[11]), d = sum_groups(v[12], v[13], v[14], v[15]);
    vec ab = SHORT(a, b) + LONG(a, b), cd = SHORT(c, d) + LONG(c, d);
    return SHORT(ab, cd) + LONG(ab, cd);
#elif LANES == 8
    vec a = sum_groups(v[0], v[1], v[2], v[3]), b = sum_groups(v[4], v[5], v[6], v[7]);
    return MIX(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + MIX(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
#else
    return sum_groups(v[0], v[1], v[2], v[3]);
#endif
}
#endif

/* Add to `to` the sums of the lanes of n vectors. */
INLINE void add_sums(float *to, const vec *v, int n) {
    int i = 0;
#ifdef SHUFFLES
    for (; i + LANES <= n; i += LANES) store(to + i, load(to + i, LANES) + sum_each(v + i), LANES);
#endif
    for (; i < n; i++) to[i] += sum_lanes(v[i]);
}
