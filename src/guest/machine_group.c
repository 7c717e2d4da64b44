#include "guest/machine_group.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/child.h"

#define ZYGOTE_OOM (-900) /* later than any process of the cell */

static int cell = -1, zygote = -1; /* directories of the groups */
static int disk = -1;              /* the disk's root */
static int held_back = -1;         /* ext4's attribute: clusters that nobody gets, root included, without a byte being written for it */
static uint64_t held_blocks;

static int write_at(int dir, const char *name, const char *text, struct err *e) {
    cleanup_close int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) return err_sys(e, errno, "%s", name);
    return 0;
}

static int write_number(int dir, const char *name, uint64_t n, struct err *e) {
    char text[32];
    (void)snprintf(text, sizeof text, "%" PRIu64, n);
    return write_at(dir, name, text, e);
}

/* The number behind `key` in a file of lines "key number", or its first number for key "". */
static uint64_t read_number(int dir, const char *name, const char *key) {
    char text[1024];
    cleanup_close int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n <= 0) return 0;
    text[n] = 0;
    for (char *line = text; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!strncmp(line, key, strlen(key)) && (!*key || line[strlen(key)] == ' ')) return strtoull(line + strlen(key), NULL, 10);
    }
    return 0;
}

static int make(int top, const char *name, int *out, struct err *e) {
    if (mkdirat(top, name, 0755) < 0 && errno != EEXIST) return err_sys(e, errno, "group %s", name);
    *out = openat(top, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *out < 0 ? err_sys(e, errno, "group %s", name) : 0;
}

int group_open(const char *cgroup, const char *disk_path, const char *name, struct err *e) {
    char path[96];
    cleanup_close int top = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (top < 0) return err_sys(e, errno, "%s", cgroup);
    if (write_at(top, "cgroup.subtree_control", "+memory +pids", e) < 0 || make(top, "cell", &cell, e) < 0 || make(top, "zygote", &zygote, e) < 0) return -1;
    disk = open(disk_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    (void)snprintf(path, sizeof path, "/sys/fs/ext4/%s/reserved_clusters", name);
    held_back = open(path, O_RDWR | O_CLOEXEC);
    if (disk < 0 || held_back < 0) return err_sys(e, errno, "%s", path);
    int procs = openat(cell, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (procs < 0) return err_sys(e, errno, "cgroup.procs");
    child_set_group(procs);
    return 0;
}

static int add(int group, pid_t pid, int oom, struct err *e) {
    char path[64], text[16];
    (void)snprintf(path, sizeof path, "/proc/%d/oom_score_adj", pid);
    (void)snprintf(text, sizeof text, "%d", oom);
    return write_number(group, "cgroup.procs", (uint64_t)pid, e) < 0 || write_at(AT_FDCWD, path, text, e) < 0 ? -1 : 0;
}

int group_add(pid_t pid, struct err *e) { return add(cell, pid, 0, e); }
int group_add_zygote(pid_t pid, struct err *e) { return add(zygote, pid, ZYGOTE_OOM, e); }

/* All of the file system above the limit is held back. A limit above its size: nothing is. */
static int limit_disk(uint64_t bytes, struct err *e) {
    struct statvfs v;
    char text[32];
    if (fstatvfs(disk, &v) < 0) return err_sys(e, errno, "the disk");
    const uint64_t wanted = bytes / v.f_frsize;
    held_blocks = bytes && wanted < v.f_blocks ? v.f_blocks - wanted : 0;
    const int n = snprintf(text, sizeof text, "%" PRIu64, held_blocks);
    return pwrite(held_back, text, (size_t)n, 0) < 0 ? err_sys(e, errno, "limit of the disk") : 0;
}

int group_limit(const struct machine_limits *l, struct err *e) {
    if (l->memory_bytes ? write_number(cell, "memory.max", l->memory_bytes, e) < 0 : write_at(cell, "memory.max", "max", e) < 0) return -1;
    if (l->pids_max ? write_number(cell, "pids.max", l->pids_max, e) < 0 : write_at(cell, "pids.max", "max", e) < 0) return -1;
    if (l->open_files) {
        const struct rlimit files = {l->open_files, l->open_files};
        child_set_nofile(&files);
    }
    return limit_disk(l->disk_bytes, e);
}

int group_freeze(bool on, struct err *e) { return write_at(cell, "cgroup.freeze", on ? "1" : "0", e); }
bool group_frozen(void) { return read_number(cell, "cgroup.events", "frozen") == 1; }

void group_stats(uint64_t *memory_bytes, uint32_t *pids, uint64_t *oom_kills) {
    *memory_bytes = read_number(cell, "memory.current", "");
    *pids = (uint32_t)read_number(cell, "pids.current", "");
    *oom_kills = read_number(cell, "memory.events", "oom_kill");
}

uint64_t group_disk_bytes(uint64_t blocks, uint64_t block_bytes) { return (blocks > held_blocks ? blocks - held_blocks : 0) * block_bytes; }
