/* One step for all tensors, and its two halves, from a source's own Tensor, first_pass, second_pass and only_pass.

   Tensors are worked on in batches that fit into the caches; each thread walks its blocks forwards in the first pass and
   backwards in the second, so that it finds in its cache what it used last. Backwards are the runs, not the blocks within
   one: memory is fetched ahead of ascending addresses alone. */

/* Blocks of a run. */
#define RUN 16

/* The same function by the name that it has in every glibc for the machine, where the linker would take 2.29's. */
#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver pow, pow@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver pow, pow@GLIBC_2.17");
#endif

static Scalars scalars(const Tensor *t, const Options *o) {
  double k = o->wide_steps ? *(const double *)t->step : *(const float *)t->step;
  WIDE correct2 = (WIDE)(o->bias_correction ? 1 / (1 - pow(o->beta2, k)) : 1);
  WIDE root_correct3 = (WIDE)(o->bias_correction ? 1 / sqrt(1 - pow(o->beta3, k)) : 1);
  return (Scalars){correct2, root_correct3, (uint32_t)t->key + (uint32_t)t->start, o->lr};
}

/* What a call works with, for all tensors: blocks and their sums, where each tensor's blocks start, scalars. */
typedef struct {
  const Tensor *tensors;
  int64_t count;
  const Options *o;
  Block *blocks;
  int64_t *starts;
  Sums *sums;
  Scalars *k;
} Work;

static void release(Work *w) {
  free(w->sums);
  free(w->k);
  free(w->blocks);
  free(w->starts);
}

/* 1 if there is no memory. */
static int prepare(Work *w, const Tensor *tensors, int64_t count, const Options *o) {
  *w = (Work){.tensors = tensors, .count = count, .o = o};
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

static void forwards(const Work *w, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; b++) {
    const Block *block = w->blocks + b;
    const Tensor *t = w->tensors + block->tensor;
    const Scalars *k = w->k + block->tensor;
    if (w->o->layer_adaptation) first_pass(t, block->begin, block->end, w->o, k, w->sums + b);
    /* Without the layer's norms there is nothing to wait for. */
    else only_pass(t, block->begin, block->end, w->o, k);
  }
}

static void backwards(const Work *w, int64_t begin, int64_t end) {
  for (int64_t last = end, first; last > begin; last = first) {
    first = last - RUN > begin ? last - RUN : begin;
    for (int64_t b = first; b < last; b++) {
      const Block *block = w->blocks + b;
      second_pass(w->tensors + block->tensor, block->begin, block->end, w->o, w->k + block->tensor);
    }
  }
}

static Sums layer(const Work *w, int64_t t) { return total(w->sums + w->starts[t], w->starts[t + 1] - w->starts[t]); }

static void both_halves(void *work, Thread thread) {
  const Work *w = work;
  for (int64_t first = 0, last; first < w->count; first = last) {
    int64_t size = w->tensors[first].size, begin, end, t, after;
    for (last = first + 1; last < w->count && size + w->tensors[last].size <= BATCH; last++)
      size += w->tensors[last].size;
    share(w->starts[last] - w->starts[first], thread, &begin, &end);
    begin += w->starts[first];
    end += w->starts[first];
    forwards(w, begin, end);
    if (!w->o->layer_adaptation) continue;
    barrier(thread);
    share(last - first, thread, &t, &after);
    for (t += first, after += first; t < after; t++) w->k[t].factor = step_length(w->o, layer(w, t));
    barrier(thread);
    backwards(w, begin, end);
  }
}

static void first_half(void *work, Thread thread) {
  const Work *w = work;
  int64_t begin, end;
  share(w->starts[w->count], thread, &begin, &end);
  forwards(w, begin, end);
}

static void second_half(void *work, Thread thread) {
  const Work *w = work;
  int64_t begin, end;
  share(w->starts[w->count], thread, &begin, &end);
  backwards(w, begin, end);
}

/* One step for all tensors, each a layer. This and its halves return 0, or 1 if there was no memory and nothing was
   changed. */
int alto(const Tensor *tensors, int64_t count, const Options *o) {
  Work w;
  if (prepare(&w, tensors, count, o)) return 1;
  parallel(both_halves, &w, o->threads);
  release(&w);
  return 0;
}

/* The states' step. totals: three rows with a column per tensor: squares of p, of r, 1 unless all g are zero. */
int alto_first(const Tensor *tensors, int64_t count, const Options *o, double *totals) {
  Work w;
  if (prepare(&w, tensors, count, o)) return 1;
  parallel(first_half, &w, o->threads);
  for (int64_t t = 0; t < count; t++) {
    const Sums sum = layer(&w, t);
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
  parallel(second_half, &w, o->threads);
  release(&w);
  return 0;
}
