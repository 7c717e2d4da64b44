#include "driver/process/memory_map.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "wire/keeper_proto.h"

#define MAPS_BYTES_MAX (64u << 20)
#define STUB_START (KEEPER_SCRATCH_ADDRESS - 0x4000) /* code, table of calls, scratch area */
#define STUB_END (KEEPER_SCRATCH_ADDRESS + KEEPER_SCRATCH_MAX)

void memory_map_add(struct memory_map *m, const struct area *a, const char *path) {
    if (m->areas == m->space) {
        m->space = m->space ? m->space * 2 : 256;
        struct area *grown = realloc(m->area, m->space * sizeof *grown);
        if (!grown) abort();
        m->area = grown;
    }
    if (!m->text.len) buf_append(&m->text, "", 1);
    struct area *n = &m->area[m->areas++];
    *n = *a;
    n->path = 0;
    if (!path || !*path) return;
    n->path = (uint32_t)m->text.len;
    buf_append(&m->text, path, strlen(path) + 1);
}

const char *memory_map_path(const struct memory_map *m, const struct area *a) { return m->text.data && a->path < m->text.len ? m->text.data + a->path : ""; }

void memory_map_free(struct memory_map *m) {
    free(m->area);
    buf_free(&m->text);
    *m = (struct memory_map){0};
}

static int read_all(int fd, struct buf *text, struct err *e) {
    char piece[16384];
    if (lseek(fd, 0, SEEK_SET)) return err_sys(e, errno, "read a memory map");
    for (;;) {
        ssize_t n = read(fd, piece, sizeof piece);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_sys(e, errno, "read a memory map");
        if (!n) break;
        buf_append(text, piece, (size_t)n);
        if (text->len > MAPS_BYTES_MAX) return err_set(e, ERR_LIMIT, "the memory map has more than %u bytes", MAPS_BYTES_MAX);
    }
    return text->len ? 0 : err_set(e, ERR_LOST, "the process is gone");
}

/* The kernel writes a newline in a path as \012. */
static void unescape(char *path) {
    char *to = path;
    for (const char *from = path; *from;) {
        if (!strncmp(from, "\\012", 4)) *to++ = '\n', from += 4;
        else *to++ = *from++;
    }
    *to = 0;
}

static uint32_t kind_of(const struct area *a, bool shared, const char *path) {
    const size_t n = strlen(path);
    const bool deleted = n >= 10 && !strcmp(path + n - 10, " (deleted)"); /* also /dev/zero, memfd: and SYSV segments */
    if (a->start >= STUB_START && a->start < STUB_END) return AREA_STUB;
    if (!strcmp(path, "[vdso]") || !strncmp(path, "[vvar", 5) || !strcmp(path, "[vsyscall]")) return AREA_KERNEL;
    if (shared) return deleted || path[0] != '/' ? AREA_SHARED : AREA_SHARED_FILE;
    if (!strcmp(path, "[heap]")) return AREA_HEAP;
    if (!strcmp(path, "[stack]")) return AREA_STACK;
    if (path[0] == '/' && a->inode) return deleted ? AREA_DELETED : AREA_FILE;
    return AREA_ANONYMOUS; /* also "[anon:name]" */
}

static int parse_line(struct memory_map *m, char *line, struct err *e) {
    struct area a = {0};
    char r, w, x, s;
    int at = 0;
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %c%c%c%c %" SCNx64 " %*x:%*x %" SCNu64 "%n", &a.start, &a.end, &r, &w, &x, &s, &a.offset, &a.inode, &at) != 8 ||
        !at || a.start >= a.end || a.start % PAGE || a.end % PAGE || (m->areas && a.start < m->area[m->areas - 1].end))
        return err_set(e, ERR_INTERNAL, "the kernel's memory map has an unknown form");
    if (m->areas == MAP_AREAS_MAX) return err_set(e, ERR_LIMIT, "the process has more than %u areas of memory", MAP_AREAS_MAX);
    while (line[at] == ' ') at++;
    char *path = line + at;
    unescape(path);
    if (strlen(path) >= MAP_PATH_MAX) return err_set(e, ERR_LIMIT, "a mapped file has a path of more than %u bytes", MAP_PATH_MAX);
    a.prot = (r == 'r' ? PROT_READ : 0u) | (w == 'w' ? PROT_WRITE : 0u) | (x == 'x' ? PROT_EXEC : 0u);
    a.kind = kind_of(&a, s == 's', path);
    if (!strcmp(path, "[vdso]")) m->vdso = a.start, m->vdso_bytes = a.end - a.start;
    const bool named = a.kind == AREA_FILE || a.kind == AREA_SHARED_FILE;
    if (!named) a.offset = a.inode = 0;
    memory_map_add(m, &a, named ? path : NULL);
    return 0;
}

int memory_map_read(struct memory_map *m, int maps_fd, struct err *e) {
    struct buf text = {0};
    int rc = read_all(maps_fd, &text, e);
    *m = (struct memory_map){0};
    for (char *line = text.data, *end; !rc && line && *line; line = end + 1) {
        if (!(end = strchr(line, '\n'))) {
            rc = err_set(e, ERR_INTERNAL, "the kernel's memory map is cut off");
            break;
        }
        *end = 0;
        rc = parse_line(m, line, e);
    }
    buf_free(&text);
    return rc;
}
