/* What the exported steps compute with. Everything is static and nothing is allocated.
 *
 * Only sums, products, quotients and square roots of floats are used, in a fixed order, so a
 * compiler that contracts nothing (-std=c99) gives the same bits on every IEEE machine.
 * Weights lie in blocks of KD_LANES rows: [ceil(rows / KD_LANES)][columns][KD_LANES]. */
#ifndef KD_KERNELS_H
#define KD_KERNELS_H

#include <math.h>
#include <stdint.h>

#define KD_LANES 8

/* Lanes are registers of their own where there are no vectors, and one vector elsewhere, which GCC
 * makes of a loop only as long as that is not unrolled. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__ARM_ARCH_PROFILE) && \
    __ARM_ARCH_PROFILE == 'M'
#define KD_LANEWISE _Pragma("GCC unroll 8")
#elif defined(__GNUC__) && !defined(__clang__)
#define KD_LANEWISE _Pragma("GCC unroll 1")
#else
#define KD_LANEWISE
#endif
#define KD_EPSILON 1e-5f
#define KD_LARGEST 1e18f

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "-ffast-math and -ffinite-math-only forget NaN, and what is refused would be acted upon"
#endif

static inline void kd_put(const float *sum, float *y, int rows, int first)
{
    for (int r = 0; r < KD_LANES && first + r < rows; r++)
        y[first + r] = sum[r];
}

static inline void kd_affine(const float *weight, const float *bias, const float *x, float *y,
                             int rows, int columns)
{
    for (int first = 0; first < rows; first += KD_LANES) {
        float sum[KD_LANES];
        for (int r = 0; r < KD_LANES; r++)
            sum[r] = bias[first + r];
        for (int c = 0; c < columns; c++, weight += KD_LANES) {
            const float value = x[c];
            KD_LANEWISE
            for (int r = 0; r < KD_LANES; r++)
                sum[r] += weight[r] * value;
        }
        kd_put(sum, y, rows, first);
    }
}

static inline void kd_affine_int8(const int8_t *weight, const float *scale, const float *bias,
                                  const float *x, float *y, int rows, int columns)
{
    for (int first = 0; first < rows; first += KD_LANES) {
        float sum[KD_LANES] = {0};
        for (int c = 0; c < columns; c++, weight += KD_LANES) {
            const float value = x[c];
            KD_LANEWISE
            for (int r = 0; r < KD_LANES; r++)
                sum[r] += (float)weight[r] * value;
        }
        for (int r = 0; r < KD_LANES; r++)
            sum[r] = sum[r] * scale[first + r] + bias[first + r];
        kd_put(sum, y, rows, first);
    }
}

/* Defines a function that multiplies by a sparse matrix. It is stored in rows of blocks; a block is
 * `lanes` weights of one column. Row of blocks b has the blocks start[b] to start[b + 1], in the
 * order of their columns. Integers have scales, one for each row; floats have none. */
#define KD_SPARSE(name, weight_t, column_t, start_t, lanes)                                       \
    static inline void name(const weight_t *weight, const column_t *column, const start_t *start, \
                            const float *scale, const float *bias, const float *x, float *y,      \
                            int rows)                                                             \
    {                                                                                             \
        for (int b = 0; b < rows; b++) {                                                          \
            float sum[lanes] = {0};                                                               \
            const column_t *end = column + (start[b + 1] - start[b]);                             \
            for (; column < end; column++, weight += lanes) {                                     \
                const float value = x[*column];                                                   \
                KD_LANEWISE                                                                       \
                for (int r = 0; r < lanes; r++)                                                   \
                    sum[r] += (float)weight[r] * value;                                           \
            }                                                                                     \
            for (int r = 0; r < lanes; r++, y++, bias++)                                          \
                *y = (scale ? sum[r] * scale[b * lanes + r] : sum[r]) + *bias;                    \
        }                                                                                         \
    }

/* ReLU, then to mean 0 and variance 1. */
static inline void kd_normalise(float *x, int count)
{
    float mean = 0.0f, variance = 0.0f;
    for (int i = 0; i < count; i++) {
        x[i] = x[i] > 0.0f ? x[i] : 0.0f;
        mean += x[i];
    }
    mean /= (float)count;
    for (int i = 0; i < count; i++) {
        x[i] -= mean;
        variance += x[i] * x[i];
    }
    const float factor = 1.0f / sqrtf(variance / (float)count + KD_EPSILON);
    for (int i = 0; i < count; i++)
        x[i] *= factor;
}

/* Quotient of two polynomials of x^2, fitted to tanh on [-9, 9]; off by at most 4e-7. */
static inline float kd_tanh(float x)
{
    const float a = x > 9.0f ? 9.0f : x < -9.0f ? -9.0f : x, u = a * a;
    float p = 0x1.cad57cp-27f, q = 0x1.a17b9ep-21f;
    p = p * u + 0x1.59c0e4p-16f;
    p = p * u + 0x1.ca2b66p-9f;
    p = p * u + 0x1.120afap-3f;
    p = p * u + 1.0f;
    q = q * u + 0x1.5884a0p-12f;
    q = q * u + 0x1.a7f76ep-6f;
    q = q * u + 0x1.de5ac6p-2f;
    q = q * u + 1.0f;
    return a * p / q;
}

static inline float kd_sigmoid(float x)
{
    return 0.5f * kd_tanh(0.5f * x) + 0.5f;
}

/* Gates reset, update, new lie one after the other; the reset gate acts on W h + b. */
static inline void kd_gru(const float *mine, const float *theirs, float *h, int width)
{
    for (int i = 0; i < width; i++) {
        const float reset = kd_sigmoid(mine[i] + theirs[i]);
        const float update = kd_sigmoid(mine[width + i] + theirs[width + i]);
        const float now = kd_tanh(mine[2 * width + i] + reset * theirs[2 * width + i]);
        h[i] = now + update * (h[i] - now);
    }
}

/* Whether all numbers can be computed with: none is NaN, infinite or too large. */
static inline int kd_usable(const float *values, int count)
{
    for (int i = 0; i < count; i++)
        if (!(values[i] >= -KD_LARGEST && values[i] <= KD_LARGEST))
            return 0;
    return 1;
}

/* A refused step: every logit is NaN; the first legal action, 0 where none is legal. */
static inline int kd_refuse(float *logits, const unsigned char *legal, int count)
{
    int first = 0;
    for (int i = count - 1; i >= 0; i--) {
        logits[i] = NAN;
        first = legal[i] ? i : first;
    }
    return first;
}

/* The legal action of the largest logit, the first of equal ones; 0 where none is legal. */
static inline int kd_choose(const float *logits, const unsigned char *legal, int count)
{
    int best = -1;
    for (int i = 0; i < count; i++)
        if (legal[i] && (best < 0 || logits[i] > logits[best]))
            best = i;
    return best < 0 ? 0 : best;
}

#endif
