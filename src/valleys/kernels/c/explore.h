/* E for all tensors, from a source's own Explored, explore_block and element. */

/* Another library's update of elements begin to end of a tensor, with these gradients; see alto_part. */
typedef void (*Update)(const void *work, int64_t tensor, int64_t begin, int64_t end, const G *grads);

/* Elements whose gradients are handed on together: so few that memory serves both loops' tensors at the same time. */
#define CHUNK (512 / UNIT)

typedef struct {
  const Explored *tensors;
  const Block *blocks;
  int64_t count;
  double c, forget;
  Update update;
  const void *updated;
} Exploration;

static void explore_share(void *work, Thread thread) {
  const Exploration *w = work;
  int64_t begin, end;
  G grads[CHUNK * UNIT];
  share(w->count, thread, &begin, &end);
  for (int64_t b = begin; b < end; b++) {
    const Block *block = w->blocks + b;
    const Explored *t = w->tensors + block->tensor;
    if (!w->update) {
      explore_block(t, block->begin, block->end, (WIDE)w->c, (WIDE)w->forget, t->out, 0);
      continue;
    }
    for (int64_t at = block->begin, next; at < block->end; at = next) {
      next = at + CHUNK < block->end ? at + CHUNK : block->end;
      const int64_t first = element(t, at), after = element(t, next);
      explore_block(t, at, next, (WIDE)w->c, (WIDE)w->forget, grads, first);
      w->update(w->updated, block->tensor, first, after, grads);
    }
  }
}

/* 1 if there is no memory, and nothing was changed. */
static int explore_all(const Explored *tensors, Exploration work, int32_t threads) {
  int64_t *starts;
  Block *blocks = cut(&tensors->size, sizeof *tensors, work.count, &starts);
  if (!blocks) return 1;
  work.tensors = tensors;
  work.blocks = blocks;
  work.count = starts[work.count];
  parallel(explore_share, &work, threads);
  free(blocks);
  free(starts);
  return 0;
}

/* E's gradients into out. */
int explore(const Explored *tensors, int64_t count, double c, double forget, int32_t threads) {
  return explore_all(tensors, (Exploration){.count = count, .c = c, .forget = forget}, threads);
}

/* E's gradients, block by block, into the update of other tensors with the same elements: out is not used. */
int explore_into(const Explored *tensors, int64_t count, double c, double forget, int32_t threads, Update update,
                 const void *updated) {
  Exploration work = {.count = count, .c = c, .forget = forget, .update = update, .updated = updated};
  return explore_all(tensors, work, threads);
}
