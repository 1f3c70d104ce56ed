/* The update with states in 8 bits, in two passes over memory; see valleys.reference for the code and the mathematics.

   Compiled without contraction to fused multiply-adds, so that every code is the one that the other backends compute. */

/* Elements that share a scale; a tensor's size is the number of these. */
#define UNIT 256
#include "common.h"

/* A block without a larger magnitude is 0. */
#define LEAST 1e-30f

/* One entry per tensor: size blocks, per_row of them in each row of length elements; the last one of a row may be
   shorter. Rows of elements are stride apart, those of scales scale_stride. */
typedef struct {
  int64_t size, length, stride, per_row, scale_stride;
  P *param;
  const G *grad;
  int8_t *explore, *exp_avg;
  uint8_t *exp_avg_sq;
  float *explore_scale, *exp_avg_scale, *exp_avg_sq_scale;
  int8_t *correction;
  const void *step;
  int64_t key, start;
} Tensor;
_Static_assert(sizeof(Tensor) == 17 * sizeof(int64_t), "a field is not 64 bits wide");

typedef struct { int64_t at, scale, element; int count; } Place;

static inline Place place(const Tensor *t, int64_t block) {
  const int64_t row = block / t->per_row, column = block % t->per_row * UNIT, rest = t->length - column;
  return (Place){row * t->stride + column, row * t->scale_stride + column / UNIT, row * t->length + column,
                 rest < UNIT ? (int)rest : UNIT};
}

/* a b + c, in one instruction where the processor has it; what decides about a code is never fused. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FMA(a, b, c) _Generic((a), float: fmaf, double: fma)(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

#define ABS(x) _Generic((x), float: fabsf, double: fabs)(x)

static inline uint32_t pattern_of(float x) {
  uint32_t pattern;
  memcpy(&pattern, &x, 4);
  return pattern;
}

static inline float with_pattern(uint32_t pattern) {
  float x;
  memcpy(&x, &pattern, 4);
  return x;
}

static inline uint32_t magnitude(float x) { return pattern_of(x) & 0x7FFFFFFFu; }

static inline float with_sign(float x, uint32_t sign) { return with_pattern(pattern_of(x) | (sign & 0x80000000u)); }

static inline uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* Store the scale of a block whose largest magnitude has this pattern; return what a value is multiplied by. Where a
   value is not finite the scale is NaN, the whole block becomes NaN, and its values are dropped: they have no code. */
static float rescale(float *scale, float *values, uint32_t pattern, float codes) {
  const float largest = with_pattern(pattern);
  if (pattern >= 0x7F800000u) {
    memset(values, 0, UNIT * sizeof *values);
    *scale = NAN;
    return 0;
  }
  *scale = largest < LEAST ? 0 : largest / codes;
  return largest < LEAST ? 0 : codes / largest;
}

/* Random bits of an element: a word of its place in the block and one of the block, which differs from step to step. */
static uint32_t words[UNIT];
__attribute__((constructor)) static void fill_words(void) {
  for (uint32_t i = 0; i < UNIT; i++) words[i] = mix(i);
}

#define BITS(i, word) (RANDOM ? (words[i] ^ (word)) * 0x9E3779B1u : 0)

/* A number in (1, 2) from 10 of the bits: 1 + (k + 1/2) / 1024. */
static inline float noise(uint32_t bits) { return with_pattern((bits & 0x7FE000u) | 0x3F801000u); }
static inline float noise_of_s(uint32_t bits) { return noise(bits << 1); }
static inline float noise_of_m(uint32_t bits) { return noise(bits >> 9); }
static inline float noise_of_v(uint32_t bits) { return noise(bits << 11); }

/* Adding it rounds a small float to the integer in its last bits. */
#define ROUNDER 12582912.0f

/* A value in units of its scale plus ROUNDER: rounded to nearest, or up with the probability of its place. */
static inline float signed_code(float y, float noise) { return (RANDOM ? y + (noise - 1.5f) : y) + ROUNDER; }

/* The same for a root, of whose square the expectation is kept; an integer. */
static inline float root_code(float y, float noise) {
  if (!RANDOM) return (y + ROUNDER) - ROUNDER;
  const float c = (float)(int32_t)y, place = (y - c) * (y + c), least = (noise - 1) * (c + c + 1);
  return place > least ? c + 1 : c;
}

/* A code as the byte in which it is stored. */
static inline uint8_t byte(float code) { return (uint8_t)pattern_of(code + ROUNDER); }

/* Factors of m's code times its magnitude, and of v's, in the update. */
typedef struct { WIDE of_m, of_root, eps, decay; } Factors;

static inline Factors factors_of(const Scalars *k, float m, float root, const Options *o) {
  return (Factors){(WIDE)m * m * k->correct2, root * k->root_correct3, (WIDE)o->eps, (WIDE)o->weight_decay};
}

static inline WIDE update_of(WIDE m, WIDE root, WIDE p, const Factors *f) {
  return FMA(f->decay, p, m * f->of_m / FMA(root, f->of_root, f->eps));
}

/* Sums of squares, one for each place in a block: a sum over a block alone would take longer than all else. */
typedef struct { WIDE param[UNIT], update[UNIT]; int moving; } Squares;

/* The states of a block before they are rounded, the moments' as roots, and the patterns of their largest magnitudes. */
typedef struct { float s[UNIT], m[UNIT], root[UNIT]; uint32_t largest_s, largest_m, largest_root; } Values;

static inline int is_moving(const G *grad, int count) {
  int moving = 0;
  for (int i = 0; i < count; i++) moving |= LOAD(G, grad[i]) != 0;
  return moving;
}

static inline void advance(const Tensor *t, Place at, const Options *o, Values *x) {
  const WIDE scale = (WIDE)o->scale, c_m = (WIDE)o->c_m, c_v = (WIDE)o->c_v, forget1 = (WIDE)(1 - o->beta1);
  const WIDE forget2 = (WIDE)(1 - o->beta2), forget3 = (WIDE)(1 - o->beta3);
  const G *restrict grad = t->grad + at.at;
  const int8_t *restrict explore = t->explore + at.at, *restrict exp_avg = t->exp_avg + at.at;
  const uint8_t *restrict exp_avg_sq = t->exp_avg_sq + at.at;
  const WIDE old_m = t->exp_avg_scale[at.scale], old_root = t->exp_avg_sq_scale[at.scale];
  const WIDE keep_m = old_m * old_m;
  const WIDE keep3 = (WIDE)o->beta3 * old_root * old_root, old_s = EXPLORES ? t->explore_scale[at.scale] : 0;
  uint32_t largest_s = 0, largest_m = 0, largest_root = 0;
#pragma omp simd reduction(max : largest_s, largest_m, largest_root)
  for (int i = 0; i < at.count; i++) {
    WIDE g = LOAD(G, grad[i]) * scale, for_m = g, for_v = g;
    if (EXPLORES) {
      WIDE memory = (WIDE)explore[i] * old_s, difference = g - memory;
      for_m = FMA(c_m, difference, g);
      for_v = FMA(c_v, difference, g);
      x->s[i] = (float)FMA(forget1, difference, memory);
      largest_s = larger(largest_s, magnitude(x->s[i]));
    }
    WIDE of_m = (WIDE)exp_avg[i], mean = of_m * ABS(of_m) * keep_m, code = (WIDE)exp_avg_sq[i];
    float m = (float)FMA(forget2, for_m - mean, mean);
    x->m[i] = with_sign(sqrtf(fabsf(m)), pattern_of(m));
    x->root[i] = sqrtf((float)FMA(forget3 * for_v, for_v, code * code * keep3));
    largest_m = larger(largest_m, magnitude(x->m[i]));
    largest_root = larger(largest_root, magnitude(x->root[i]));
  }
  x->largest_s = largest_s;
  x->largest_m = largest_m;
  x->largest_root = largest_root;
}

static inline void encode(const Tensor *t, Place at, const Options *o, const Scalars *k, Values *x, Squares *squares) {
  const float to_s = EXPLORES ? rescale(t->explore_scale + at.scale, x->s, x->largest_s, 127) : 0;
  const float to_m = rescale(t->exp_avg_scale + at.scale, x->m, x->largest_m, 127);
  const float to_root = rescale(t->exp_avg_sq_scale + at.scale, x->root, x->largest_root, 255);
  const Factors f = factors_of(k, t->exp_avg_scale[at.scale], t->exp_avg_sq_scale[at.scale], o);
  const uint32_t word = mix(k->key + (uint32_t)at.element);
  const P *restrict param = t->param + at.at;
  const int8_t *restrict correction = t->correction + at.at;
  (void)correction;
  int8_t *restrict explore = t->explore + at.at, *restrict exp_avg = t->exp_avg + at.at;
  uint8_t *restrict exp_avg_sq = t->exp_avg_sq + at.at;
  WIDE *restrict pp = squares->param, *restrict rr = squares->update;
  /* By itself, as there are not registers enough for all of it at once. */
  for (int i = 0; EXPLORES && i < at.count; i++)
    explore[i] = (int8_t)pattern_of(signed_code(x->s[i] * to_s, noise_of_s(BITS(i, word))));
#pragma omp simd
  for (int i = 0; i < at.count; i++) {
    const float size = root_code(fabsf(x->m[i]) * to_m, noise_of_m(BITS(i, word)));
    const float m = with_sign(size, pattern_of(x->m[i]));
    float root = root_code(x->root[i] * to_root, noise_of_v(BITS(i, word)));
    root = root < 1 ? 1 : root; /* v is never 0, which would let m move a parameter without bound. */
    exp_avg[i] = (int8_t)byte(m);
    exp_avg_sq[i] = byte(root);
    WIDE p = LOAD_PARAM(i), r = update_of(m * size, root, p, &f);
    pp[i] = FMA(p, p, pp[i]);
    rr[i] = FMA(r, r, rr[i]);
  }
}

static void first_pass(const Tensor *t, int64_t begin, int64_t end, const Options *o, const Scalars *k, Sums *sums) {
  Squares squares = {{0}, {0}, 0};
  Values values;
  for (int64_t block = begin; block < end; block++) {
    const Place at = place(t, block);
    if (!squares.moving) squares.moving = is_moving(t->grad + at.at, at.count);
    advance(t, at, o, &values);
    encode(t, at, o, k, &values, &squares);
  }
  double pp = 0, rr = 0;
#pragma omp simd reduction(+ : pp, rr)
  for (int i = 0; i < UNIT; i++) {
    pp += (double)squares.param[i];
    rr += (double)squares.update[i];
  }
  *sums = (Sums){pp, rr, squares.moving};
}

static void second_pass(const Tensor *t, int64_t begin, int64_t end, const Options *o, const Scalars *k) {
  const WIDE factor = (WIDE)k->factor;
  for (int64_t block = begin; block < end; block++) {
    const Place at = place(t, block);
    P *restrict param = t->param + at.at;
    int8_t *restrict correction = t->correction + at.at;
    (void)correction;
    const int8_t *restrict exp_avg = t->exp_avg + at.at;
    const uint8_t *restrict exp_avg_sq = t->exp_avg_sq + at.at;
    const Factors f = factors_of(k, t->exp_avg_scale[at.scale], t->exp_avg_sq_scale[at.scale], o);
    const uint32_t key = k->key + (uint32_t)at.element;
#pragma omp simd
    for (int i = 0; i < at.count; i++) {
      WIDE m = (WIDE)exp_avg[i];
      WIDE p = LOAD_PARAM(i), r = update_of(m * ABS(m), (WIDE)exp_avg_sq[i], p, &f);
      STORE_PARAM(i, p - factor * r, mix((uint32_t)i + key) & 0xFFFFu);
    }
  }
}

/* Without the layer's norms: the block is still in the cache. */
static void only_pass(const Tensor *t, int64_t begin, int64_t end, const Options *o, const Scalars *k) {
  Sums sums;
  first_pass(t, begin, end, o, k, &sums);
  second_pass(t, begin, end, o, k);
}

#include "steps.h"

/* E alone: out = g + c (g - s), s = beta s + (1 - beta) g. */
typedef struct {
  int64_t size, length, stride, per_row, scale_stride;
  const G *grad;
  int8_t *buffer;
  float *scale;
  G *out;
  int64_t key;
} Explored;
_Static_assert(sizeof(Explored) == 10 * sizeof(int64_t), "a field is not 64 bits wide");

static inline Place place_of(const Explored *t, int64_t block) {
  const Tensor shape = {.length = t->length, .stride = t->stride, .per_row = t->per_row, .scale_stride = t->scale_stride};
  return place(&shape, block);
}

/* The first element of a block, or all there are after the last. */
static inline int64_t element(const Explored *t, int64_t block) { return place_of(t, block).element; }

static void explore_one(const Explored *t, Place at, WIDE c, WIDE forget, G *out) {
  /* out may be grad: no restrict, but the elements are independent. */
  const G *grad = t->grad + at.at;
  int8_t *buffer = t->buffer + at.at;
  const WIDE old = t->scale[at.scale];
  float s[UNIT];
  uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (int i = 0; i < at.count; i++) {
    WIDE g = LOAD(G, grad[i]), memory = (WIDE)buffer[i] * old, difference = g - memory;
    s[i] = (float)FMA(forget, difference, memory);
    largest = larger(largest, magnitude(s[i]));
    WIDE adapted = FMA(c, difference, g);
    /* Gradients are always rounded to nearest. */
    CAT(store_, G)(out + i, adapted, to_nearest((float)adapted));
  }
  const float to_s = rescale(t->scale + at.scale, s, largest, 127);
  const uint32_t word = mix((uint32_t)t->key + (uint32_t)at.element);
#pragma omp simd
  for (int i = 0; i < at.count; i++)
    buffer[i] = (int8_t)pattern_of(signed_code(s[i] * to_s, noise_of_s(BITS(i, word))));
}

/* Blocks begin to end; the first of out is element number first. */
static void explore_block(const Explored *t, int64_t begin, int64_t end, WIDE c, WIDE forget, G *out, int64_t first) {
  for (int64_t block = begin; block < end; block++) {
    const Place at = place_of(t, block);
    explore_one(t, at, c, forget, out + (at.at - first));
  }
}

#include "explore.h"
