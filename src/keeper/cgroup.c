#include "keeper/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

enum { MEMORY, CPU, PIDS, CONTROLLERS };
static const char *const controller_name[CONTROLLERS] = {"memory", "cpu", "pids"};

/* Absolute paths of the instance's groups; "" where there is none. */
static char v2[PATH_MAX];
static char v1[CONTROLLERS][PATH_MAX];
static bool on_v2[CONTROLLERS];

static int write_file(const char *path, const char *text, struct err *e) {
    cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return err_sys(e, errno, "open %s", path);
    if (write(fd, text, strlen(text)) < 0) return err_sys(e, errno, "write %s to %s", text, path);
    return 0;
}

static int write_in(const char *group, const char *name, const char *leaf, const char *file, const char *text, struct err *e) {
    char path[PATH_MAX * 2];
    (void)snprintf(path, sizeof path, "%s/%s%s%s/%s", group, name, leaf ? "/" : "", leaf ? leaf : "", file);
    return write_file(path, text, e);
}

static uint64_t read_number(const char *group, const char *name, const char *file, const char *key) {
    char path[PATH_MAX * 2], line[256];
    (void)snprintf(path, sizeof path, "%s/%s/%s", group, name, file);
    cleanup_file FILE *f = fopen(path, "re");
    size_t n = key ? strlen(key) : 0;
    while (f && fgets(line, sizeof line, f)) {
        if (!key) return strtoull(line, NULL, 10);
        if (!strncmp(line, key, n) && line[n] == ' ') return strtoull(line + n + 1, NULL, 10);
    }
    return 0;
}

/* Where hierarchy `fstype` with super option `option` (v1) is mounted. */
static bool find_mount(const char *fstype, const char *option, char *out, size_t size) {
    cleanup_file FILE *f = fopen("/proc/self/mountinfo", "re");
    char line[4096];
    while (f && fgets(line, sizeof line, f)) {
        char point[PATH_MAX], type[64], super[1024];
        const char *dash = strstr(line, " - ");
        if (!dash || sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1) continue;
        if (sscanf(dash, " - %63s %*s %1023s", type, super) != 2 || strcmp(type, fstype)) continue;
        bool match = !option;
        for (char *save, *o = strtok_r(super, ",", &save); o && !match; o = strtok_r(NULL, ",", &save)) match = !strcmp(o, option);
        if (!match) continue;
        (void)snprintf(out, size, "%s", point);
        return true;
    }
    return false;
}

/* The keeper's own group in the hierarchy of this controller (NULL: v2), "/" when unknown. */
static void own_group(const char *controller, char *out, size_t size) {
    cleanup_file FILE *f = fopen("/proc/self/cgroup", "re");
    char line[4096];
    (void)snprintf(out, size, "/");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path) continue;
        *path++ = 0;
        names++;
        bool match = !controller && !*names;
        for (char *save, *n = strtok_r(names, ",", &save); controller && n && !match; n = strtok_r(NULL, ",", &save))
            match = !strcmp(n, controller);
        if (match) (void)snprintf(out, size, "%s", path);
    }
}

static void kill_tree(const char *path);
static void each_child(const char *path, void (*fn)(const char *)) {
    cleanup_dir DIR *d = opendir(path);
    for (struct dirent *c; d && (c = readdir(d));) {
        char child[PATH_MAX * 2];
        if (c->d_type != DT_DIR || c->d_name[0] == '.') continue;
        (void)snprintf(child, sizeof child, "%s/%s", path, c->d_name);
        fn(child);
    }
}

/* Kill every process at and below path, then remove the groups. Used on leftovers only; path is the keeper's own naming. */
static void kill_tree(const char *path) {
    char file[PATH_MAX * 2 + 16];
    struct err ignored;
    (void)snprintf(file, sizeof file, "%s/cgroup.kill", path);
    if (access(file, W_OK) == 0) (void)write_file(file, "1", &ignored);
    each_child(path, kill_tree);
    for (int round = 0; round < 200; round++) {
        (void)snprintf(file, sizeof file, "%s/cgroup.procs", path);
        cleanup_file FILE *f = fopen(file, "re");
        int pid, seen = 0;
        while (f && fscanf(f, "%d", &pid) == 1)
            if (pid > 1 && pid != getpid()) seen += kill(pid, SIGKILL) == 0;
        if (!seen && (rmdir(path) == 0 || errno == ENOENT)) return;
        usleep(10000);
    }
    log_warn("left-over group %s cannot be removed: %s", path, strerror(errno));
}

static int make_instance(const char *mount, const char *own, const char *instance, char *out, size_t size, struct err *e) {
    (void)snprintf(out, size, "%s%s%s%s", mount, own, own[strlen(own) - 1] == '/' ? "" : "/", instance);
    if (access(out, F_OK) == 0) kill_tree(out);
    if (mkdir(out, 0755) && errno != EEXIST) {
        int rc = err_sys(e, errno, "make group %s", out);
        out[0] = 0;
        return rc;
    }
    return 0;
}

/* On a pure v2 host the controllers must be enabled from the keeper's group down, which may then hold no process itself. */
static void enable_v2_controllers(const char *mount, const char *own) {
    char path[PATH_MAX * 2], have[512] = "";
    struct err e;
    (void)snprintf(path, sizeof path, "%s%s/cgroup.controllers", mount, own);
    cleanup_file FILE *f = fopen(path, "re");
    if (!f || !fgets(have, sizeof have, f) || !strstr(have, "memory")) return;
    if (strcmp(own, "/")) {
        (void)snprintf(path, sizeof path, "%s%s/cella-keeper", mount, own);
        (void)mkdir(path, 0755);
        (void)snprintf(path, sizeof path, "%s%s/cella-keeper/cgroup.procs", mount, own);
        if (write_file(path, "0", &e)) log_warn("%s", e.text);
    }
    for (int c = 0; c < CONTROLLERS; c++) {
        char plus[32];
        (void)snprintf(plus, sizeof plus, "+%s", controller_name[c]);
        (void)snprintf(path, sizeof path, "%s%s/cgroup.subtree_control", mount, own);
        if (write_file(path, plus, &e)) {
            log_warn("%s", e.text);
            continue;
        }
        (void)snprintf(path, sizeof path, "%s/cgroup.subtree_control", v2);
        on_v2[c] = write_file(path, plus, &e) == 0;
    }
}

int cgroup_open(const char *state_dir, uint32_t *features, struct err *e) {
    static const uint32_t bit[CONTROLLERS] = {KEEPER_HAS_MEMORY, KEEPER_HAS_CPU, KEEPER_HAS_PIDS};
    char point[PATH_MAX], own[PATH_MAX], instance[32];
    uint32_t hash = 2166136261u; /* FNV-1a: only a name that differs per state directory */
    for (const char *p = state_dir; *p; p++) hash = (hash ^ (uint8_t)*p) * 16777619u;
    (void)snprintf(instance, sizeof instance, "cella-%08x", hash);

    if (!find_mount("cgroup2", NULL, point, sizeof point))
        return err_hint(e, ERR_UNSUPPORTED, "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified", "no cgroup v2 hierarchy is mounted");
    own_group(NULL, own, sizeof own);
    if (make_instance(point, own, instance, v2, sizeof v2, e)) return -1;
    enable_v2_controllers(point, own);
    /* Without this a move between groups now and then waits for an RCU grace period: 10 to 25 ms of a create (measured); with it, Linux 6.0+
     * pays a little at every fork and exit instead. The option belongs to the hierarchy, not to this mount. */
    if (mount(NULL, point, NULL, MS_REMOUNT | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RELATIME, "favordynmods"))
        log_info("cgroup option favordynmods is not to be had (%s): creates are slower", strerror(errno));
    *features |= KEEPER_HAS_CGROUP_KILL;
    for (int c = 0; c < CONTROLLERS; c++) {
        if (!on_v2[c] && find_mount("cgroup", controller_name[c], point, sizeof point)) {
            own_group(controller_name[c], own, sizeof own);
            if (make_instance(point, own, instance, v1[c], sizeof v1[c], e)) log_warn("no %s limits: %s", controller_name[c], e->text);
        }
        if (on_v2[c] || v1[c][0]) *features |= bit[c];
    }
    return 0;
}

void cgroup_close(void) {
    if (v2[0]) kill_tree(v2);
    for (int c = 0; c < CONTROLLERS; c++)
        if (v1[c][0]) kill_tree(v1[c]);
}

/* Memory. The v1 file refuses a limit below what is used, v2 reclaims or kills: both are the caller's wish. */
static int limit_memory(const char *name, uint64_t bytes, struct err *e) {
    char text[32];
    struct err ignored;
    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)bytes);
    if (on_v2[MEMORY]) {
        (void)write_in(v2, name, NULL, "memory.swap.max", "0", &ignored);
        (void)write_in(v2, name, NULL, "memory.oom.group", "0", &ignored);
        return write_in(v2, name, NULL, "memory.max", text, e);
    }
    if (!v1[MEMORY][0]) return 0;
    (void)write_in(v1[MEMORY], name, NULL, "memory.swappiness", "0", &ignored);
    /* v1 counts the buffers of sockets apart, and only where they have a limit: without one a cell could park the host's share of them */
    char sockets[32];
    (void)snprintf(sockets, sizeof sockets, "%llu", (unsigned long long)bytes / 8);
    if (write_in(v1[MEMORY], name, NULL, "memory.kmem.tcp.limit_in_bytes", sockets, &ignored)) log_debug("%s", ignored.text);
    return write_in(v1[MEMORY], name, NULL, "memory.limit_in_bytes", text, e);
}

static int limit_cpu(const char *name, uint32_t cpu_millis, struct err *e) {
    char text[64];
    if (on_v2[CPU]) {
        (void)snprintf(text, sizeof text, "%u 100000", cpu_millis * 100);
        return write_in(v2, name, "run", "cpu.max", text, e);
    }
    if (!v1[CPU][0]) return 0;
    (void)snprintf(text, sizeof text, "%u", cpu_millis * 100); /* of the default period of 100,000 us */
    return write_in(v1[CPU], name, NULL, "cpu.cfs_quota_us", text, e);
}

int cgroup_limit(const char *name, const struct keeper_limits *l, struct err *e) {
    char text[32];
    (void)snprintf(text, sizeof text, "%u", l->pids_max);
    if (limit_memory(name, l->memory_bytes, e) || limit_cpu(name, l->cpu_millis, e)) return -1;
    if (on_v2[PIDS]) return write_in(v2, name, NULL, "pids.max", text, e);
    return v1[PIDS][0] ? write_in(v1[PIDS], name, NULL, "pids.max", text, e) : 0;
}

static int make_group(const char *group, const char *name, const char *leaf, struct err *e) {
    char path[PATH_MAX * 2];
    (void)snprintf(path, sizeof path, "%s/%s%s%s", group, name, leaf ? "/" : "", leaf ? leaf : "");
    return mkdir(path, 0755) && errno != EEXIST ? err_sys(e, errno, "make group %s", path) : 0;
}

int cgroup_make(const char *name, const struct keeper_limits *l, struct err *e) {
    if (make_group(v2, name, NULL, e) || make_group(v2, name, "run", e) || make_group(v2, name, "sentinel", e)) return -1;
    if (on_v2[CPU] && write_in(v2, name, NULL, "cgroup.subtree_control", "+cpu", e)) return -1;
    for (int c = 0; c < CONTROLLERS; c++)
        if (v1[c][0] && make_group(v1[c], name, NULL, e)) return -1;
    return l ? cgroup_limit(name, l, e) : 0;
}

int cgroup_enter_leaf(const char *name, enum cgroup_place place, pid_t pid, struct err *e) {
    char text[16];
    (void)snprintf(text, sizeof text, "%d", pid);
    if (write_in(v2, name, place == CGROUP_RUN ? "run" : "sentinel", "cgroup.procs", text, e)) return -1;
    return place == CGROUP_RUN && v1[CPU][0] ? write_in(v1[CPU], name, NULL, "cgroup.procs", text, e) : 0;
}

int cgroup_enter(const char *name, enum cgroup_place place, pid_t pid, struct err *e) {
    char text[16];
    (void)snprintf(text, sizeof text, "%d", pid);
    if (cgroup_enter_leaf(name, place, pid, e)) return -1;
    for (int c = 0; c < CONTROLLERS; c++)
        if (c != CPU && v1[c][0] && write_in(v1[c], name, NULL, "cgroup.procs", text, e)) return -1;
    return 0;
}

int cgroup_freeze_begin(const char *name, bool on, struct err *e) { return write_in(v2, name, "run", "cgroup.freeze", on ? "1" : "0", e); }

int cgroup_freeze(const char *name, bool on, struct err *e) {
    if (cgroup_freeze_begin(name, on, e)) return -1;
    char group[PATH_MAX + 64];
    (void)snprintf(group, sizeof group, "%s/run", name);
    for (int round = 0; round < 1000; round++) { /* at most a second: a task in an uninterruptible wait freezes late */
        if (read_number(v2, group, "cgroup.events", "frozen") == (uint64_t)on) return 0;
        usleep(1000);
    }
    return err_set(e, ERR_INTERNAL, "the cell did not %s within a second", on ? "freeze" : "thaw");
}

void cgroup_kill(const char *name) {
    struct err e;
    if (write_in(v2, name, NULL, "cgroup.kill", "1", &e)) log_warn("%s", e.text);
}

int cgroup_remove(const char *name) {
    char path[PATH_MAX * 2];
    static const char *const leaves[] = {"/run", "/sentinel", ""};
    int rc = 0;
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof path, "%s/%s%s", v2, name, leaves[i]);
        if (rmdir(path) && errno != ENOENT) rc = -1;
    }
    for (int c = 0; c < CONTROLLERS; c++) {
        (void)snprintf(path, sizeof path, "%s/%s", v1[c], name);
        if (v1[c][0] && rmdir(path) && errno != ENOENT) rc = -1;
    }
    return rc;
}

uint64_t cgroup_oom_kills(const char *name) {
    if (on_v2[MEMORY]) return read_number(v2, name, "memory.events", "oom_kill");
    return v1[MEMORY][0] ? read_number(v1[MEMORY], name, "memory.oom_control", "oom_kill") : 0;
}

uint64_t cgroup_room(const char *name, uint64_t limit) {
    const char *group = on_v2[MEMORY] ? v2 : v1[MEMORY];
    if (!group[0]) return UINT64_MAX;
    const uint64_t used = read_number(group, name, on_v2[MEMORY] ? "memory.current" : "memory.usage_in_bytes", NULL);
    const uint64_t files = read_number(group, name, "memory.stat", "inactive_file") + read_number(group, name, "memory.stat", "active_file");
    const uint64_t kept = used > files ? used - files : 0;
    return limit > kept ? limit - kept : 0;
}

int cgroup_processes(const char *name, pid_t *out, int max) {
    char path[PATH_MAX * 2];
    int n = 0;
    (void)snprintf(path, sizeof path, "%s/%s/run/cgroup.procs", v2, name);
    cleanup_file FILE *f = fopen(path, "re");
    while (f && n < max && fscanf(f, "%d", &out[n]) == 1) n++;
    return n;
}

uint64_t cgroup_dirty(const char *name) {
    return on_v2[MEMORY] ? read_number(v2, name, "memory.stat", "file_dirty") : v1[MEMORY][0] ? read_number(v1[MEMORY], name, "memory.stat", "dirty") : 0;
}

int cgroup_stats(const char *name, struct keeper_stats *s, struct err *e) {
    (void)e;
    s->oom_kills = cgroup_oom_kills(name);
    s->cpu_us = read_number(v2, name, "cpu.stat", "usage_usec"); /* v2 counts this without a controller */
    if (on_v2[MEMORY]) {
        s->memory_bytes = read_number(v2, name, "memory.current", NULL);
        s->memory_peak_bytes = read_number(v2, name, "memory.peak", NULL);
    } else if (v1[MEMORY][0]) {
        s->memory_bytes = read_number(v1[MEMORY], name, "memory.usage_in_bytes", NULL);
        s->memory_peak_bytes = read_number(v1[MEMORY], name, "memory.max_usage_in_bytes", NULL);
    }
    s->pids = (uint32_t)(on_v2[PIDS] ? read_number(v2, name, "pids.current", NULL)
                                     : v1[PIDS][0] ? read_number(v1[PIDS], name, "pids.current", NULL) : 0);
    return 0;
}
