/* E for all tensors, from a source's own Explored and explore_block. */

typedef struct { const Explored *tensors; const Block *blocks; int64_t count; double c, forget; } Exploration;

static void explore_share(void *work, Thread thread) {
  const Exploration *w = work;
  int64_t begin, end;
  share(w->count, thread, &begin, &end);
  for (int64_t b = begin; b < end; b++) {
    const Block *block = w->blocks + b;
    explore_block(w->tensors + block->tensor, block->begin, block->end, (WIDE)w->c, (WIDE)w->forget);
  }
}

/* 1 if there is no memory, and nothing was changed. */
int explore(const Explored *tensors, int64_t count, double c, double forget, int32_t threads) {
  int64_t *starts;
  Block *blocks = cut(&tensors->size, sizeof *tensors, count, &starts);
  if (!blocks) return 1;
  Exploration work = {tensors, blocks, starts[count], c, forget};
  parallel(explore_share, &work, threads);
  free(blocks);
  free(starts);
  return 0;
}
