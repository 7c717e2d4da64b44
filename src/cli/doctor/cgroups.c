/* Which hierarchy has memory, cpu and pids: v2 (unified), v1, or both (hybrid). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/doctor/report.h"

static const char group[] = "Control groups";
static const char *const wanted[] = {"memory", "cpu", "pids"};

struct hierarchies {
    char v2[256];             /* mount point of cgroup2, "" when there is none */
    char v1[3][256];          /* mount point of the v1 hierarchy with wanted[i] */
    char v2_controllers[512]; /* " memory cpu … " */
};

static bool has_word(const char *list, char separator, const char *word) {
    size_t n = strlen(word);
    for (const char *p = list; p && *p; p = strchr(p, separator) ? strchr(p, separator) + 1 : NULL)
        if (strncmp(p, word, n) == 0 && (p[n] == separator || p[n] == 0)) return true;
    return false;
}

static void read_mounts(struct hierarchies *h) {
    FILE *f = fopen("/proc/self/mounts", "re");
    char line[4096], point[256], type[64], options[1024], path[300];
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%*s %255s %63s %1023s", point, type, options) != 3) continue;
        if (strcmp(type, "cgroup2") == 0 && !h->v2[0]) (void)snprintf(h->v2, sizeof h->v2, "%s", point);
        for (size_t i = 0; strcmp(type, "cgroup") == 0 && i < 3; i++)
            if (has_word(options, ',', wanted[i]) && !h->v1[i][0])
                (void)snprintf(h->v1[i], sizeof h->v1[i], "%s", point);
    }
    if (f) fclose(f);
    (void)snprintf(path, sizeof path, "%s/cgroup.controllers", h->v2);
    if (h->v2[0]) (void)probe_read(path, h->v2_controllers, sizeof h->v2_controllers);
}

/* 0, or the errno of making and removing a group there. */
static int try_group(const char *mount_point) {
    char path[320];
    (void)snprintf(path, sizeof path, "%s/cella-doctor-%d", mount_point, (int)getpid());
    if (mkdir(path, 0755) < 0) return errno;
    return rmdir(path) < 0 ? errno : 0;
}

static void controller(struct report *r, const struct hierarchies *h, size_t i) {
    bool in_v2 = has_word(h->v2_controllers, ' ', wanted[i]);
    const char *where = in_v2 ? h->v2 : h->v1[i];
    if (!where[0]) {
        finding_remedy(report_add(r, group, wanted[i], FINDING_MISSING,
                                  "no hierarchy has this controller: cells would have no such limit"),
                       "a kernel with the controller switched on (boot option cgroup_enable=%s on some), and "
                       "/sys/fs/cgroup mounted",
                       wanted[i]);
        return;
    }
    int error = geteuid() == 0 ? try_group(where) : 0;
    if (error)
        finding_remedy(report_add(r, group, wanted[i], FINDING_MISSING, "in %s at %s, but groups cannot be made: %s",
                                  in_v2 ? "v2" : "v1", where, strerror(error)),
                       "inside a container, /sys/fs/cgroup must be mounted writable");
    else
        (void)report_add(r, group, wanted[i], FINDING_OK, "%s at %s", in_v2 ? "v2" : "v1", where);
}

static void whole_group_kill(struct report *r, const struct hierarchies *h) {
    char path[320];
    if (!h->v2[0]) {
        finding_remedy(report_add(r, group, "freeze and kill", FINDING_MISSING, "there is no cgroup v2 hierarchy"),
                       "mount -t cgroup2 none /sys/fs/cgroup/unified");
        return;
    }
    (void)snprintf(path, sizeof path, "%s/cella-doctor-%d", h->v2, (int)getpid());
    if (geteuid() != 0) {
        (void)report_add(r, group, "freeze and kill", FINDING_OK, "v2 at %s (not tried: needs root)", h->v2);
        return;
    }
    if (mkdir(path, 0755) < 0) {
        (void)report_add(r, group, "freeze and kill", FINDING_MISSING, "v2 at %s, but groups cannot be made: %s", h->v2,
                         strerror(errno));
        return;
    }
    char file[360];
    (void)snprintf(file, sizeof file, "%s/cgroup.kill", path);
    bool can_kill = access(file, W_OK) == 0;
    (void)snprintf(file, sizeof file, "%s/cgroup.freeze", path);
    bool can_freeze = access(file, W_OK) == 0;
    (void)rmdir(path);
    if (can_kill && can_freeze)
        (void)report_add(r, group, "freeze and kill", FINDING_OK, "cgroup.freeze and cgroup.kill in v2 at %s", h->v2);
    else
        finding_remedy(report_add(r, group, "freeze and kill", FINDING_MISSING, "%s is not there",
                                  can_kill ? "cgroup.freeze" : "cgroup.kill"),
                       "a kernel from 5.14 on");
}

void probe_cgroups(struct report *r) {
    struct hierarchies h = {0};
    read_mounts(&h);
    bool any_v1 = h.v1[0][0] || h.v1[1][0] || h.v1[2][0];
    const char *layout = h.v2[0] && any_v1 ? "hybrid: v1 controllers beside a v2 hierarchy"
                         : h.v2[0]         ? "v2 (unified)"
                         : any_v1          ? "v1"
                                           : "none mounted";
    (void)report_add(r, group, "layout", h.v2[0] || any_v1 ? FINDING_OK : FINDING_MISSING, "%s", layout);
    for (size_t i = 0; i < 3; i++) controller(r, &h, i);
    whole_group_kill(r, &h);
}
