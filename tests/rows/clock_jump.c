/* The wall clock of a process is moved by the seconds that the file $CLOCK_JUMP_FILE holds (a long
   in binary, mapped: it may change at any time). Every other clock is left as it is. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const long* seconds;

__attribute__((constructor)) static void map_file(void) {
  const char* path = getenv("CLOCK_JUMP_FILE");
  const int file = path ? open(path, O_RDONLY) : -1;
  if (file < 0) abort();
  void* memory = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) abort();
  seconds = memory;
}

int clock_gettime(clockid_t clock, struct timespec* now) {
  const int failed = (int)syscall(SYS_clock_gettime, clock, now);
  if (!failed && clock == CLOCK_REALTIME && seconds) now->tv_sec += *seconds;
  return failed;
}

int gettimeofday(struct timeval* now, void* zone) {
  (void)zone;
  struct timespec exact;
  if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
