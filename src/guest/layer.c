#include "guest/layer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"

#define COMPARE_CHUNK 65536

enum layer_opaque layer_opaque(int dir) {
    char value;
    if (fgetxattr(dir, "user.overlay.opaque", &value, 1) != 1) return LAYER_CLEAR;
    return value == 'y' ? LAYER_OPAQUE : value == 'x' ? LAYER_XATTR_WHITEOUTS : LAYER_CLEAR;
}

static int open_file(int dir, const char *name) {
    return openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

bool layer_is_whiteout(int dir, const char *name, const struct stat *st, enum layer_opaque kind) {
    if (S_ISCHR(st->st_mode)) return st->st_rdev == 0;
    if (kind != LAYER_XATTR_WHITEOUTS || !S_ISREG(st->st_mode) || st->st_size) return false;
    cleanup_close int fd = open_file(dir, name);
    return fd >= 0 && fgetxattr(fd, "user.overlay.whiteout", NULL, 0) >= 0;
}

bool layer_is_own(const char *name) {
    static const char head[] = ".cella-", tail[] = ".tmp";
    size_t n = strlen(name), digits = 16;
    return n == sizeof head - 1 + digits + sizeof tail - 1 && !memcmp(name, head, sizeof head - 1) &&
           strspn(name + sizeof head - 1, "0123456789abcdef") == digits && !strcmp(name + n - (sizeof tail - 1), tail);
}

/* ---- names ---- */

int layer_names_read(struct layer_names *l, int dir, int side, struct err *e) {
    int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (copy < 0) return err_sys(e, errno, "cannot read a directory of the layer");
    cleanup_dir DIR *d = fdopendir(copy);
    if (!d) {
        close(copy);
        return err_sys(e, errno, "cannot read a directory of the layer");
    }
    for (struct dirent *ent; errno = 0, (ent = readdir(d));) {
        if (!strcmp(ent->d_name, ".") || !strcmp(ent->d_name, "..")) continue;
        if (l->n == l->cap) {
            l->cap = l->cap ? 2 * l->cap : 64;
            l->list = realloc(l->list, l->cap * sizeof *l->list);
            if (!l->list) abort();
        }
        struct layer_name *at = &l->list[l->n++];
        *at = (struct layer_name){.name = strdup(ent->d_name)};
        if (!at->name) abort();
        at->at[side] = true;
    }
    return errno ? err_sys(e, errno, "cannot read a directory of the layer") : 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct layer_name *)a)->name, ((const struct layer_name *)b)->name);
}

void layer_names_sort(struct layer_names *l) {
    size_t kept = 0;
    if (!l->n) return;
    qsort(l->list, l->n, sizeof *l->list, by_name);
    for (size_t i = 1; i < l->n; i++) {
        struct layer_name *last = &l->list[kept], *next = &l->list[i];
        if (strcmp(last->name, next->name)) {
            l->list[++kept] = *next;
            continue;
        }
        last->at[0] |= next->at[0];
        last->at[1] |= next->at[1];
        free(next->name);
    }
    l->n = kept + 1;
}

void layer_names_free(struct layer_names *l) {
    for (size_t i = 0; i < l->n; i++) free(l->list[i].name);
    free(l->list);
    *l = (struct layer_names){0};
}

/* ---- contents ---- */

static ssize_t read_full(int fd, char *out, size_t n) {
    size_t got = 0;
    while (got < n) {
        ssize_t part = read(fd, out + got, n - got);
        if (part < 0 && errno == EINTR) continue;
        if (part < 0) return -1;
        if (part == 0) break;
        got += (size_t)part;
    }
    return (ssize_t)got;
}

static int same_bytes(const int dir[2], const char *name, struct err *e) {
    static char chunk[2][COMPARE_CHUNK];
    cleanup_close int one = open_file(dir[0], name), two = open_file(dir[1], name);
    if (one < 0 || two < 0) return err_sys(e, errno, "%s", name);
    for (;;) {
        ssize_t a = read_full(one, chunk[0], COMPARE_CHUNK), b = read_full(two, chunk[1], COMPARE_CHUNK);
        if (a < 0 || b < 0) return err_sys(e, errno, "%s", name);
        if (a != b || memcmp(chunk[0], chunk[1], (size_t)a)) return 0;
        if (a < COMPARE_CHUNK) return 1;
    }
}

int layer_same(const int dir[2], const char *name, const struct stat st[2], struct err *e) {
    if ((st[0].st_mode & S_IFMT) != (st[1].st_mode & S_IFMT)) return 0;
    if (S_ISREG(st[0].st_mode)) return st[0].st_size != st[1].st_size ? 0 : same_bytes(dir, name, e);
    if (S_ISLNK(st[0].st_mode)) {
        char target[2][PATH_MAX];
        ssize_t a = readlinkat(dir[0], name, target[0], PATH_MAX), b = readlinkat(dir[1], name, target[1], PATH_MAX);
        if (a < 0 || b < 0) return err_sys(e, errno, "%s", name);
        return a == b && !memcmp(target[0], target[1], (size_t)a);
    }
    return S_ISDIR(st[0].st_mode) || st[0].st_rdev == st[1].st_rdev;
}
