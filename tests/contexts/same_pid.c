/* A copy of a cell's context keeps its process id. Loaded with LD_PRELOAD, getpid() keeps it for copies made with the bare
 * system call too. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>

static pid_t first;

pid_t getpid(void) {
    if (!first) first = (pid_t)syscall(SYS_getpid);
    return first;
}
