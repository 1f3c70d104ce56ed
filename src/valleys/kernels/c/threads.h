/* Threads of torch's own OpenMP runtime: a second one in the process would start threads of its own beside torch's.

   A library links no runtime. openmp.py looks its functions up among what torch has loaded and hands them over; where
   there are none, a call is one thread's work. No result depends on the number of threads. */

#include <stdint.h>

/* GOMP_parallel, GOMP_barrier, omp_get_thread_num, omp_get_num_threads. */
typedef struct {
  void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
  void (*barrier)(void);
  int (*number)(void), (*count)(void);
} Runtime;

static Runtime runtime;

void use_runtime(const Runtime *functions) { runtime = *functions; }

/* The thread that runs a body, and how many do. */
typedef struct { int64_t number, count; } Thread;

typedef struct { void (*body)(void *, Thread); void *work; } Region;

static void enter(void *region) {
  const Region *r = region;
  r->body(r->work, (Thread){runtime.number(), runtime.count()});
}

/* The body once in each thread, at most so many. */
static void parallel(void (*body)(void *, Thread), void *work, int32_t threads) {
  Region region = {body, work};
  if (threads > 1 && runtime.parallel) runtime.parallel(enter, &region, (unsigned)threads, 0);
  else body(work, (Thread){0, 1});
}

static inline void barrier(Thread thread) {
  if (thread.count > 1) runtime.barrier();
}

/* The part of a number of things that is this thread's. */
static inline void share(int64_t things, Thread thread, int64_t *begin, int64_t *end) {
  *begin = things * thread.number / thread.count;
  *end = things * (thread.number + 1) / thread.count;
}
