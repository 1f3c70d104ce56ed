/* The update on a CPU in two passes over memory; see valleys.reference.alto for the mathematics. */

#include "common.h"

/* One entry per tensor: rows of length elements with a gap behind each, which is not ours; or one row. start is the
   number of the first element's random bits. __init__.py fills an array of 64-bit integers. */
typedef struct {
  int64_t size, length, gap;
  P *param;
  const G *grad;
  S *explore, *exp_avg, *exp_avg_sq;
  int8_t *correction;
  const void *step;
  int64_t key, start;
} Tensor;
_Static_assert(sizeof(Tensor) == 12 * sizeof(int64_t), "a field is not 64 bits wide");

/* The update from the moments as they are stored, so that both passes get the same; root is that of v. */
static inline WIDE update(WIDE m, WIDE root, WIDE p, const Scalars *k, WIDE eps, WIDE decay) {
  return m * k->correct2 / (root * k->root_correct3 + eps) + decay * p;
}

/* Where an element lies; end comes back no further than the end of its row. */
static inline int64_t place(const Tensor *t, int64_t element, int64_t *end) {
  const int64_t row = element / t->length, after = (row + 1) * t->length;
  if (*end > after) *end = after;
  return element + row * t->gap;
}

/* The states' step; with moves, which is a constant, the parameters' too, else the sums. */
static inline __attribute__((always_inline)) void pass(const Tensor *t, int64_t begin, int64_t end, const Options *o,
                                                       const Scalars *k, Sums *sums, int moves) {
  const WIDE scale = (WIDE)o->scale, c_m = (WIDE)o->c_m, c_v = (WIDE)o->c_v, forget1 = (WIDE)(1 - o->beta1);
  const WIDE forget2 = (WIDE)(1 - o->beta2), beta3 = (WIDE)o->beta3, forget3 = (WIDE)(1 - o->beta3);
  const WIDE eps = (WIDE)o->eps, decay = (WIDE)o->weight_decay, factor = (WIDE)k->factor;
  const Scalars factors = *k;
  Sums result = {0, 0, 0};
  for (int64_t run = begin, after = end; run < end; run = after, after = end) {
    const int64_t at = place(t, run, &after), count = after - run;
    P *restrict param = t->param + at;
    const G *restrict grad = t->grad + at;
    S *restrict explore = t->explore + at;
    S *restrict exp_avg = t->exp_avg + at, *restrict exp_avg_sq = t->exp_avg_sq + at;
    int8_t *restrict correction = t->correction + at;
    (void)correction;
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
      WIDE p = LOAD_PARAM(i);
      WIDE r = update(LOAD(S, exp_avg[i]), SQRT(LOAD(S, exp_avg_sq[i])), p, &factors, eps, decay);
      if (moves) STORE_PARAM(i, p - factor * r, h0 & 0xFFFFu);
      pp += p * p;
      rr += r * r;
    }
    result.param += (double)pp;
    result.update += (double)rr;
    result.moving |= moving;
  }
  if (!moves) *sums = result;
}

static void first_pass(const Tensor *t, int64_t begin, int64_t end, const Options *o, const Scalars *k, Sums *sums) {
  pass(t, begin, end, o, k, sums, 0);
}

static void only_pass(const Tensor *t, int64_t begin, int64_t end, const Options *o, const Scalars *k) {
  pass(t, begin, end, o, k, NULL, 1);
}

static void second_pass(const Tensor *t, int64_t begin, int64_t end, const Options *o, const Scalars *k) {
  const WIDE eps = (WIDE)o->eps, decay = (WIDE)o->weight_decay, factor = (WIDE)k->factor;
  const Scalars factors = *k;
  for (int64_t run = begin, after = end; run < end; run = after, after = end) {
    const int64_t at = place(t, run, &after), count = after - run;
    P *restrict param = t->param + at;
    const S *restrict exp_avg = t->exp_avg + at, *restrict exp_avg_sq = t->exp_avg_sq + at;
    int8_t *restrict correction = t->correction + at;
    (void)correction;
    const uint32_t key = k->key + (uint32_t)run;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
      WIDE p = LOAD_PARAM(i);
      WIDE r = update(LOAD(S, exp_avg[i]), SQRT(LOAD(S, exp_avg_sq[i])), p, &factors, eps, decay);
      STORE_PARAM(i, p - factor * r, mix((uint32_t)i + key) & 0xFFFFu);
    }
  }
}

#include "steps.h"

/* A step without layer ratio in parts: what they need, NULL if there is no memory; one part; the end. */
Work *alto_begin(const Tensor *tensors, int64_t count, const Options *o) {
  Work *w = malloc(sizeof *w);
  if (w && prepare(w, tensors, count, o)) {
    free(w);
    return NULL;
  }
  return w;
}

/* Elements begin to end of a contiguous tensor, with other gradients than its own, rounded to nearest. */
void alto_part(const Work *w, int64_t tensor, int64_t begin, int64_t end, const G *grads) {
  Tensor t = w->tensors[tensor];
  t.param += begin;
  t.exp_avg += begin;
  t.exp_avg_sq += begin;
  t.grad = grads;
  only_pass(&t, 0, end - begin, w->o, w->k + tensor);
}

void alto_end(Work *w) {
  release(w);
  free(w);
}

/* E alone: out = g + c (g - s), s = beta s + (1 - beta) g. Contiguous tensors. */
typedef struct {
  int64_t size, length, gap;
  const G *grad;
  S *buffer;
  G *out;
  int64_t key;
} Explored;

static inline int64_t element(const Explored *t, int64_t i) {
  (void)t;
  return i;
}

/* Elements begin to end; the first of out is number first. */
static void explore_block(const Explored *t, int64_t begin, int64_t end, WIDE c, WIDE forget, G *out, int64_t first) {
  /* out may be grad: no restrict, but the elements are independent. */
  const G *grad = t->grad;
  S *buffer = t->buffer;
  const uint32_t key = (uint32_t)t->key;
#pragma omp simd
  for (int64_t i = begin; i < end; i++) {
    WIDE g = LOAD(G, grad[i]), s = LOAD(S, buffer[i]), difference = g - s;
    STORE(S, buffer[i], s + forget * difference, mix((uint32_t)i + key) >> 16);
    WIDE adapted = g + c * difference;
    /* Gradients are always rounded to nearest. */
    CAT(store_, G)(out + (i - first), adapted, to_nearest((float)adapted));
  }
}

#include "explore.h"

typedef struct { const Explored *tensors; const Block *blocks; int64_t count; double *sums; } Squares;

static void square_share(void *work, Thread thread) {
  const Squares *w = work;
  int64_t begin, end;
  share(w->count, thread, &begin, &end);
  for (int64_t b = begin; b < end; b++) {
    const Block *block = w->blocks + b;
    const G *grad = w->tensors[block->tensor].grad;
    double sum = 0; /* Squares of float32 numbers overflow float32. */
#pragma omp simd reduction(+ : sum)
    for (int64_t i = block->begin; i < block->end; i++) {
      const double g = (double)LOAD(G, grad[i]);
      sum += g * g;
    }
    w->sums[b] = sum;
  }
}

/* The sum of squares over all gradients; the order of the additions does not depend on the threads. */
int square_sum(const Explored *tensors, int64_t count, int32_t threads, double *result) {
  int64_t *starts;
  Block *blocks = cut(&tensors->size, sizeof *tensors, count, &starts);
  if (!blocks) return 1;
  double *sums = malloc((starts[count] + 1) * sizeof *sums);
  if (sums) {
    Squares work = {tensors, blocks, starts[count], sums};
    parallel(square_share, &work, threads);
    *result = 0;
    for (int64_t b = 0; b < starts[count]; b++) *result += sums[b];
  }
  int failed = !sums;
  free(sums);
  free(blocks);
  free(starts);
  return failed;
}
