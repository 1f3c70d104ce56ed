/* The update on a CPU in two passes over memory; see valleys.reference.alto for the mathematics.

   Compiled by c.py for the dtypes in use: P, G and S are the element types of parameters, gradients and states,
   WIDE is the type of the arithmetic, RANDOM says whether bfloat16 values are rounded stochastically, EXPLORES whether
   E's buffer exists. Tensors are worked on in batches that fit into the caches; each thread walks its blocks forwards in the first
   pass and backwards in the second, so that it finds in its cache what it used last. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

typedef struct { uint16_t bits; } bfloat16;

/* Elements whose squares are summed in WIDE before they go into a double: few enough for float32. */
#define BLOCK 4096
/* Elements of small tensors that share one pass. */
#define BATCH (1 << 19)

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
  uint32_t rounded = (pattern + noise) >> 16;
  uint32_t special = pattern >> 16 | ((pattern & 0x7FFFFFFFu) > 0x7F800000u ? 0x40u : 0u);
  return (bfloat16){(uint16_t)((pattern & 0x7F800000u) == 0x7F800000u ? special : rounded)};
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

#define SQRT(x) _Generic((x), float: sqrtf, double: sqrt)(x)

/* One entry per tensor: rows of length elements with a gap behind each, which is not ours; or one row. start is the
   number of the first element's random bits. c.py fills an array of 64-bit integers. */
typedef struct {
  int64_t size, length, gap;
  P *param;
  const G *grad;
  S *explore, *exp_avg, *exp_avg_sq;
  const void *step;
  int64_t key, start;
} Tensor;
_Static_assert(sizeof(Tensor) == 11 * sizeof(int64_t), "a field is not 64 bits wide");

typedef struct {
  double lr, c_m, c_v, beta1, beta2, beta3, eps, weight_decay, trust_eps, norm_eps, low, high, scale;
  int32_t bias_correction, layer_adaptation, wide_steps, threads;
} Options;

typedef struct { double param, update; int moving; } Sums;

typedef struct { WIDE correct2, root_correct3; uint32_t key; double factor; } Scalars;

static Scalars scalars(const Tensor *t, const Options *o) {
  double k = o->wide_steps ? *(const double *)t->step : *(const float *)t->step;
  WIDE correct2 = (WIDE)(o->bias_correction ? 1 / (1 - pow(o->beta2, k)) : 1);
  WIDE root_correct3 = (WIDE)(o->bias_correction ? 1 / sqrt(1 - pow(o->beta3, k)) : 1);
  return (Scalars){correct2, root_correct3, (uint32_t)t->key + (uint32_t)t->start, o->lr};
}

/* The update from the moments as they are stored, so that both passes get the same. */
static inline WIDE update(WIDE m, WIDE v, WIDE p, const Scalars *k, WIDE eps, WIDE decay) {
  return m * k->correct2 / (SQRT(v) * k->root_correct3 + eps) + decay * p;
}

/* Where an element lies; end comes back no further than the end of its row. */
static inline int64_t place(const Tensor *t, int64_t element, int64_t *end) {
  const int64_t row = element / t->length, after = (row + 1) * t->length;
  if (*end > after) *end = after;
  return element + row * t->gap;
}

static void first_pass(const Tensor *t, int64_t begin, int64_t end, const Options *o, const Scalars *k, Sums *sums) {
  const WIDE scale = (WIDE)o->scale, c_m = (WIDE)o->c_m, c_v = (WIDE)o->c_v, forget1 = (WIDE)(1 - o->beta1);
  const WIDE forget2 = (WIDE)(1 - o->beta2), beta3 = (WIDE)o->beta3, forget3 = (WIDE)(1 - o->beta3);
  const WIDE eps = (WIDE)o->eps, decay = (WIDE)o->weight_decay;
  const Scalars factors = *k;
  Sums result = {0, 0, 0};
  for (int64_t run = begin, after = end; run < end; run = after, after = end) {
    const int64_t at = place(t, run, &after), count = after - run;
    const P *restrict param = t->param + at;
    const G *restrict grad = t->grad + at;
    S *restrict explore = t->explore + at;
    S *restrict exp_avg = t->exp_avg + at, *restrict exp_avg_sq = t->exp_avg_sq + at;
    const uint32_t key = k->key + (uint32_t)run;
    WIDE pp = 0, rr = 0;
    int moving = 0;
#pragma omp simd reduction(+ : pp, rr) reduction(| : moving)
    for (int64_t i = 0; i < count; i++) {
      WIDE raw = LOAD(G, grad[i]);
      moving |= raw != 0;
      WIDE g = raw * scale, for_m = g, for_v = g;
      uint32_t h0 = RANDOM ? mix((uint32_t)i + key) : 0, h1 = RANDOM ? mix(h0 + 0x9E3779B9u) : 0;
      (void)h1;
#if EXPLORES
      WIDE s = LOAD(S, explore[i]), difference = g - s;
      for_m = g + c_m * difference;
      for_v = g + c_v * difference;
      STORE(S, explore[i], s + forget1 * difference, h0 >> 16);
#endif
      WIDE m = LOAD(S, exp_avg[i]), v = LOAD(S, exp_avg_sq[i]);
      STORE(S, exp_avg[i], m + forget2 * (for_m - m), h1 & 0xFFFFu);
      STORE(S, exp_avg_sq[i], beta3 * v + forget3 * for_v * for_v, h1 >> 16);
      WIDE p = LOAD(P, param[i]);
      WIDE r = update(LOAD(S, exp_avg[i]), LOAD(S, exp_avg_sq[i]), p, &factors, eps, decay);
      pp += p * p;
      rr += r * r;
    }
    result.param += (double)pp;
    result.update += (double)rr;
    result.moving |= moving;
  }
  *sums = result;
}

static void second_pass(const Tensor *t, int64_t begin, int64_t end, const Options *o, const Scalars *k) {
  const WIDE eps = (WIDE)o->eps, decay = (WIDE)o->weight_decay, factor = (WIDE)k->factor;
  const Scalars factors = *k;
  for (int64_t run = begin, after = end; run < end; run = after, after = end) {
    const int64_t at = place(t, run, &after), count = after - run;
    P *restrict param = t->param + at;
    const S *restrict exp_avg = t->exp_avg + at, *restrict exp_avg_sq = t->exp_avg_sq + at;
    const uint32_t key = k->key + (uint32_t)run;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
      WIDE p = LOAD(P, param[i]);
      WIDE r = update(LOAD(S, exp_avg[i]), LOAD(S, exp_avg_sq[i]), p, &factors, eps, decay);
      STORE(P, param[i], p - factor * r, mix((uint32_t)i + key) & 0xFFFFu);
    }
  }
}

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

static void share(int64_t blocks, int64_t *begin, int64_t *end) {
  int64_t threads = 1, thread = 0;
#ifdef _OPENMP
  threads = omp_get_num_threads();
  thread = omp_get_thread_num();
#endif
  *begin = blocks * thread / threads;
  *end = blocks * (thread + 1) / threads;
}

/* What a call works with, for all tensors: blocks and their sums, where each tensor's blocks start, scalars. */
typedef struct { Block *blocks; int64_t *starts; Sums *sums; Scalars *k; } Work;

static void release(Work *w) {
  free(w->sums);
  free(w->k);
  free(w->blocks);
  free(w->starts);
}

/* 1 if there is no memory. */
static int prepare(Work *w, const Tensor *tensors, int64_t count, const Options *o) {
  w->blocks = cut(&tensors->size, sizeof *tensors, count, &w->starts);
  if (!w->blocks) return 1;
  w->sums = malloc((w->starts[count] + 1) * sizeof *w->sums);
  w->k = malloc((count + 1) * sizeof *w->k);
  if (!w->sums || !w->k) {
    release(w);
    return 1;
  }
  for (int64_t t = 0; t < count; t++) w->k[t] = scalars(tensors + t, o);
  return 0;
}

static void forwards(const Work *w, const Tensor *tensors, int64_t begin, int64_t end, const Options *o) {
  for (int64_t b = begin; b < end; b++) {
    const Block *block = w->blocks + b;
    const Tensor *t = tensors + block->tensor;
    first_pass(t, block->begin, block->end, o, w->k + block->tensor, w->sums + b);
    /* Without the layer's norms there is nothing to wait for, and the block is still in the cache. */
    if (!o->layer_adaptation) second_pass(t, block->begin, block->end, o, w->k + block->tensor);
  }
}

static void backwards(const Work *w, const Tensor *tensors, int64_t begin, int64_t end, const Options *o) {
  for (int64_t b = end - 1; b >= begin; b--) {
    const Block *block = w->blocks + b;
    second_pass(tensors + block->tensor, block->begin, block->end, o, w->k + block->tensor);
  }
}

/* One step for all tensors, each a layer. This and its halves return 0, or 1 if there was no memory and nothing was
   changed. */
int alto(const Tensor *tensors, int64_t count, const Options *o) {
  Work w;
  if (prepare(&w, tensors, count, o)) return 1;
#pragma omp parallel num_threads(o->threads)
  for (int64_t first = 0, last; first < count; first = last) {
    int64_t size = tensors[first].size, begin, end;
    for (last = first + 1; last < count && size + tensors[last].size <= BATCH; last++) size += tensors[last].size;
    share(w.starts[last] - w.starts[first], &begin, &end);
    begin += w.starts[first];
    end += w.starts[first];
    forwards(&w, tensors, begin, end, o);
    if (!o->layer_adaptation) continue;
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t t = first; t < last; t++)
      w.k[t].factor = step_length(o, total(w.sums + w.starts[t], w.starts[t + 1] - w.starts[t]));
    backwards(&w, tensors, begin, end, o);
  }
  release(&w);
  return 0;
}

/* The states' step. totals: three rows with a column per tensor: squares of p, of r, 1 unless all g are zero. */
int alto_first(const Tensor *tensors, int64_t count, const Options *o, double *totals) {
  Work w;
  if (prepare(&w, tensors, count, o)) return 1;
#pragma omp parallel num_threads(o->threads)
  {
    int64_t begin, end;
    share(w.starts[count], &begin, &end);
    forwards(&w, tensors, begin, end, o);
  }
  for (int64_t t = 0; t < count; t++) {
    const Sums sum = total(w.sums + w.starts[t], w.starts[t + 1] - w.starts[t]);
    totals[t] = sum.param;
    totals[count + t] = sum.update;
    totals[2 * count + t] = sum.moving;
  }
  release(&w);
  return 0;
}

/* The parameters' step, each tensor's by its factor. */
int alto_second(const Tensor *tensors, int64_t count, const Options *o, const double *factors) {
  Work w;
  if (prepare(&w, tensors, count, o)) return 1;
  for (int64_t t = 0; t < count; t++) w.k[t].factor = factors[t];
#pragma omp parallel num_threads(o->threads)
  {
    int64_t begin, end;
    share(w.starts[count], &begin, &end);
    backwards(&w, tensors, begin, end, o);
  }
  release(&w);
  return 0;
}

/* E alone: out = g + c (g - s), s = beta s + (1 - beta) g. */
typedef struct {
  int64_t size;
  const G *grad;
  S *buffer;
  G *out;
  uint32_t key;
} Explored;

static void explore_block(const Explored *t, int64_t begin, int64_t end, WIDE c, WIDE forget) {
  /* out may be grad: no restrict, but the elements are independent. */
  const G *grad = t->grad;
  S *buffer = t->buffer;
  G *out = t->out;
  const uint32_t key = t->key;
#pragma omp simd
  for (int64_t i = begin; i < end; i++) {
    WIDE g = LOAD(G, grad[i]), s = LOAD(S, buffer[i]), difference = g - s;
    STORE(S, buffer[i], s + forget * difference, mix((uint32_t)i + key) >> 16);
    WIDE adapted = g + c * difference;
    /* Gradients are always rounded to nearest. */
    CAT(store_, G)(out + i, adapted, to_nearest((float)adapted));
  }
}

int explore(const Explored *tensors, int64_t count, double c, double forget, int32_t threads) {
  int64_t *starts;
  Block *blocks = cut(&tensors->size, sizeof *tensors, count, &starts);
  if (!blocks) return 1;
#pragma omp parallel num_threads(threads)
  {
    int64_t begin, end;
    share(starts[count], &begin, &end);
    for (int64_t b = begin; b < end; b++)
      explore_block(tensors + blocks[b].tensor, blocks[b].begin, blocks[b].end, (WIDE)c, (WIDE)forget);
  }
  free(blocks);
  free(starts);
  return 0;
}

/* The sum of squares over all gradients; the order of the additions does not depend on the threads. */
int square_sum(const Explored *tensors, int64_t count, int32_t threads, double *result) {
  int64_t *starts;
  Block *blocks = cut(&tensors->size, sizeof *tensors, count, &starts);
  if (!blocks) return 1;
  double *sums = malloc((starts[count] + 1) * sizeof *sums);
  if (sums) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < starts[count]; b++) {
      const G *grad = tensors[blocks[b].tensor].grad;
      double sum = 0; /* Squares of float32 numbers overflow float32. */
#pragma omp simd reduction(+ : sum)
      for (int64_t i = blocks[b].begin; i < blocks[b].end; i++) {
        const double g = (double)LOAD(G, grad[i]);
        sum += g * g;
      }
      sums[b] = sum;
    }
    *result = 0;
    for (int64_t b = 0; b < starts[count]; b++) *result += sums[b];
  }
  int failed = !sums;
  free(sums);
  free(blocks);
  free(starts);
  return failed;
}
