/* cleanup.h: scope-bound ownership, so that every early return is safe.
 *
 *   cleanup_free char *text = ...;      freed when the scope ends
 *   cleanup_close int fd = ...;         closed when >= 0
 *   return steal_fd(&fd);               hands the descriptor on
 */
#pragma once
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_(void *p) { free(*(void **)p); }
static inline void cleanup_close_(const int *fd) {
    if (*fd >= 0) close(*fd);
}
static inline void cleanup_file_(FILE **f) {
    if (*f) fclose(*f);
}
static inline void cleanup_dir_(DIR **d) {
    if (*d) closedir(*d);
}
#define cleanup_free __attribute__((cleanup(cleanup_free_)))
#define cleanup_close __attribute__((cleanup(cleanup_close_)))
#define cleanup_file __attribute__((cleanup(cleanup_file_)))
#define cleanup_dir __attribute__((cleanup(cleanup_dir_)))

static inline int steal_fd(int *fd) {
    int v = *fd;
    *fd = -1;
    return v;
}
static inline void *steal_ptr_(void *pp) {
    void **slot = pp, *v = *slot;
    *slot = NULL;
    return v;
}
#define steal_ptr(pp) ((__typeof__(*(pp)))steal_ptr_(pp))
static inline void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}
