/* What all kernels share: element types, rounding, options, the cut of tensors into blocks.

   Compiled by __init__.py for the dtypes in use: P, G and S are the element types of parameters, gradients and states,
   WIDE is the type of the arithmetic, RANDOM says whether values are rounded stochastically, EXPLORES whether E's buffer
   exists, CORRECTS whether parameters have 8 bits more. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "threads.h"

typedef struct { uint16_t bits; } bfloat16;

/* Elements that a source counts as one: a tensor's size is in these. */
#ifndef UNIT
#define UNIT 1
#endif
/* Elements whose squares are summed in WIDE before they go into a double: few enough for float32. */
#define BLOCK (4096 / UNIT)
/* Elements of small tensors that share one pass. */
#define BATCH ((1 << 19) / UNIT)

static inline uint32_t mix(uint32_t x) {
  x = (x ^ x >> 16) * 0x7FEB352Du;
  x = (x ^ x >> 15) * 0x846CA68Bu;
  return x ^ x >> 16;
}

static inline float widen_bfloat16(bfloat16 x) {
  uint32_t pattern = (uint32_t)x.bits << 16;
  float value;
  memcpy(&value, &pattern, 4);
  return value;
}

/* noise below 2^16 rounds stochastically; see rounding.py. Branches are selects, for the vectoriser. */
static inline bfloat16 narrow_bfloat16(float value, uint32_t noise) {
  uint32_t pattern;
  memcpy(&pattern, &value, 4);
  return (bfloat16){(uint16_t)(value == value ? (pattern + noise) >> 16 : 0x7FC0u)};
}

static inline uint32_t to_nearest(float value) {
  uint32_t pattern;
  memcpy(&pattern, &value, 4);
  return 0x7FFFu + (pattern >> 16 & 1u);
}

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)

static inline WIDE load_double(double x) { return (WIDE)x; }
static inline WIDE load_float(float x) { return (WIDE)x; }
static inline WIDE load_bfloat16(bfloat16 x) { return (WIDE)widen_bfloat16(x); }
static inline void store_double(double *x, WIDE value, uint32_t noise) { (void)noise; *x = (double)value; }
static inline void store_float(float *x, WIDE value, uint32_t noise) { (void)noise; *x = (float)value; }
static inline void store_bfloat16(bfloat16 *x, WIDE value, uint32_t noise) { *x = narrow_bfloat16((float)value, noise); }
#ifdef HALF
typedef _Float16 float16;
static inline WIDE load_float16(float16 x) { return (WIDE)x; }
static inline void store_float16(float16 *x, WIDE value, uint32_t noise) { (void)noise; *x = (float16)value; }
#endif

#define LOAD(T, x) CAT(load_, T)(x)
#define STORE(T, x, value, noise) \
  do { WIDE stored = (value); CAT(store_, T)(&(x), stored, RANDOM ? (noise) : to_nearest((float)stored)); } while (0)

/* A parameter; with CORRECTS the 24 bits of a bfloat16 number and its correction, see valleys.reference.split. */
#if CORRECTS
static inline float load_corrected(bfloat16 x, int8_t correction) {
  const uint32_t magnitude = ((uint32_t)(x.bits & 0x7FFFu) << 8) + (uint32_t)(int32_t)correction;
  const uint32_t pattern = magnitude << 8 | (uint32_t)(x.bits & 0x8000u) << 16;
  float value;
  memcpy(&value, &pattern, 4);
  return value;
}

static inline void store_corrected(bfloat16 *x, int8_t *correction, float value, uint32_t noise) {
  uint32_t pattern;
  memcpy(&pattern, &value, 4);
  const uint32_t magnitude = pattern & 0x7FFFFFFFu, up = RANDOM ? noise & 0xFFu : 0x7Fu + (magnitude >> 8 & 1u);
  const uint32_t bits = value == value ? (magnitude + up) >> 8 : 0x7FC000u, high = (bits + 0x80u) >> 8;
  x->bits = (uint16_t)(high | (pattern >> 16 & 0x8000u));
  *correction = (int8_t)(int32_t)(bits - (high << 8));
}
#define LOAD_PARAM(i) load_corrected(param[i], correction[i])
#define STORE_PARAM(i, x, noise) store_corrected(param + (i), correction + (i), x, noise)
#else
#define LOAD_PARAM(i) LOAD(P, param[i])
#define STORE_PARAM(i, x, noise) STORE(P, param[i], x, noise)
#endif

#define SQRT(x) _Generic((x), float: sqrtf, double: sqrt)(x)

typedef struct {
  double lr, c_m, c_v, beta1, beta2, beta3, eps, weight_decay, trust_eps, norm_eps, low, high, scale;
  int32_t bias_correction, layer_adaptation, wide_steps, threads;
} Options;

typedef struct { double param, update; int moving; } Sums;

typedef struct { WIDE correct2, root_correct3; uint32_t key; double factor; } Scalars;

/* lr times the layer's ratio; see valleys.reference.trust_ratio. */
static double step_length(const Options *o, Sums layer) {
  double w = sqrt(layer.param), r = sqrt(layer.update), phi = w + o->norm_eps;
  /* Rounded by itself: a fused multiply-add would differ from ratio.step_lengths in the last bit. */
  volatile double least = o->trust_eps * phi;
  double ratio = phi / (r + least);
  ratio = ratio < o->low ? o->low : ratio > o->high ? o->high : ratio;
  if (w == 0 || r == 0) ratio = 1;
  if (!layer.moving && ratio > 1) ratio = 1;
  return o->lr * ratio;
}

static Sums total(const Sums *sums, int64_t blocks) {
  Sums result = {0, 0, 0};
  for (int64_t b = 0; b < blocks; b++) {
    result.param += sums[b].param;
    result.update += sums[b].update;
    result.moving |= sums[b].moving;
  }
  return result;
}

typedef struct { int64_t tensor, begin, end; } Block;

/* The blocks of all tensors in order, and where each tensor's start; NULL if there is no memory. */
static Block *cut(const int64_t *sizes, size_t stride, int64_t count, int64_t **starts) {
  int64_t total = 0;
#define SIZE(t) (*(const int64_t *)((const char *)sizes + (t) * stride))
  for (int64_t t = 0; t < count; t++) total += (SIZE(t) + BLOCK - 1) / BLOCK;
  Block *blocks = malloc((total + 1) * sizeof *blocks);
  *starts = malloc((count + 1) * sizeof **starts);
  if (!blocks || !*starts) {
    free(blocks);
    free(*starts);
    return NULL;
  }
  int64_t b = 0;
  for (int64_t t = 0; t < count; t++) {
    (*starts)[t] = b;
    for (int64_t begin = 0; begin < SIZE(t); begin += BLOCK)
      blocks[b++] = (Block){t, begin, begin + BLOCK < SIZE(t) ? begin + BLOCK : SIZE(t)};
  }
  (*starts)[count] = b;
#undef SIZE
  return blocks;
}
