/* Memory that runs out: the file $FAILING_MALLOC_FILE holds two longs (mapped: they may change at any
   time), how many allocations of the process still succeed, and how many fail after them. The first
   counts down by one an allocation, below zero while they fail and after: memory is back as long as
   it is far below. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

struct plan {
  atomic_long num_left;
  atomic_long num_failing;
};

extern void* __libc_malloc(size_t size);
extern void* __libc_calloc(size_t count, size_t size);
extern void* __libc_realloc(void* memory, size_t size);
extern void* __libc_memalign(size_t alignment, size_t size);

static struct plan* plan;

__attribute__((constructor)) static void map_file(void) {
  const char* path = getenv("FAILING_MALLOC_FILE");
  const int file = path ? open(path, O_RDWR) : -1;
  if (file < 0) abort();
  void* memory = mmap(NULL, sizeof(struct plan), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) abort();
  plan = memory;
}

static int fails(void) {
  if (!plan) return 0;
  const long num_left = atomic_fetch_sub(&plan->num_left, 1);
  if (num_left > 0 || num_left <= -atomic_load(&plan->num_failing)) return 0;
  errno = ENOMEM;
  return 1;
}

void* malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }

void* calloc(size_t count, size_t size) { return fails() ? NULL : __libc_calloc(count, size); }

void* realloc(void* memory, size_t size) {
  return fails() ? NULL : __libc_realloc(memory, size);
}

void* memalign(size_t alignment, size_t size) {
  return fails() ? NULL : __libc_memalign(alignment, size);
}

void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void** memory, size_t alignment, size_t size) {
  *memory = memalign(alignment, size);
  return *memory ? 0 : ENOMEM;
}
