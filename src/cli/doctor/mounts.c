/* The cell's root: an overlay mounted inside its user namespace, over idmapped layers. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/doctor/report.h"

#define TRIAL_MS 8000
static const char group[] = "Process driver";

static int write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? write(fd, text, strlen(text)) : -1;
    if (fd >= 0) close(fd);
    return n == (ssize_t)strlen(text) ? 0 : -1;
}

/* A user namespace with ids 0…65535 mapped to 1000000…: kept alive by a stopped child. → descriptor, or -errno. */
static int mapped_namespace(pid_t *keeper) {
    int go[2];
    char path[64], byte = 0;
    if (pipe2(go, O_CLOEXEC) < 0) return -errno;
    *keeper = fork();
    if (*keeper == 0) {
        if (unshare(CLONE_NEWUSER) < 0) _exit(1);
        (void)!write(go[1], "x", 1);
        for (;;) pause();
    }
    close(go[1]);
    int result = read(go[0], &byte, 1) == 1 ? 0 : -EPERM;
    close(go[0]);
    if (result < 0) return result;
    (void)snprintf(path, sizeof path, "/proc/%d/gid_map", (int)*keeper);
    if (write_file(path, "0 1000000 65536") < 0) return -errno;
    (void)snprintf(path, sizeof path, "/proc/%d/uid_map", (int)*keeper);
    if (write_file(path, "0 1000000 65536") < 0) return -errno;
    (void)snprintf(path, sizeof path, "/proc/%d/ns/user", (int)*keeper);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 ? fd : -errno;
}

int probe_idmap(const char *directory) {
    pid_t keeper = 0;
    int error = 0, userns = mapped_namespace(&keeper);
    if (userns < 0) error = -userns;
    int tree = error ? -1 : (int)syscall(SYS_open_tree, AT_FDCWD, directory, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (!error && tree < 0) error = errno;
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (unsigned)userns};
    if (!error && syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr) < 0) error = errno;
    if (tree >= 0) close(tree);
    if (userns >= 0) close(userns);
    if (keeper > 0) {
        (void)kill(keeper, SIGKILL);
        (void)waitpid(keeper, NULL, 0);
    }
    return error;
}

static int try_idmap(void *arg, char *why, size_t room) {
    if (unshare(CLONE_NEWNS) < 0 || mount("", "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0) {
        (void)snprintf(why, room, "a mount namespace: %s", strerror(errno));
        return 1;
    }
    int error = probe_idmap(arg);
    if (error) (void)snprintf(why, room, "%s", strerror(error));
    return error ? 1 : 0;
}

/* The nearest directory above the state directory that is there already: it says which file system it will lie on. */
static void existing_parent(const char *state, char out[4096]) {
    (void)snprintf(out, 4096, "%s", state);
    struct stat st;
    while (stat(out, &st) < 0 && strcmp(out, "/") != 0) {
        char *slash = strrchr(out, '/');
        slash[slash == out ? 1 : 0] = 0;
    }
}

static void idmapped(struct report *r) {
    char where[4096], why[256];
    existing_parent(r->state, where);
    if (geteuid() != 0) {
        finding_remedy(report_add(r, group, "idmapped mounts", FINDING_DEGRADED, "not tried: needs root"),
                       "sudo cella doctor");
        return;
    }
    if (probe_child(try_idmap, where, TRIAL_MS, why, sizeof why) == 0) {
        (void)report_add(r, group, "idmapped mounts", FINDING_OK, "on the file system of %.200s", where);
        return;
    }
    finding_remedy(
        report_add(r, group, "idmapped mounts", FINDING_MISSING, "not on the file system of %.180s: %s", where, why),
        "put the state directory (--state) on ext4, btrfs or xfs");
}

/* ---- overlay in a user namespace, with userxattr ---- */

static int mount_overlay(const char *base) {
    char data[600], path[300];
    static const char *const part[] = {"lower", "upper", "work", "merged"};
    if (mount("tmpfs", base, "tmpfs", 0, "mode=755") < 0) return errno;
    for (size_t i = 0; i < 4; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", base, part[i]);
        if (mkdir(path, 0755) < 0) return errno;
    }
    (void)snprintf(path, sizeof path, "%s/lower/file", base);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0) return errno;
    close(fd);
    (void)snprintf(data, sizeof data, "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work,userxattr", base, base,
                   base);
    (void)snprintf(path, sizeof path, "%s/merged", base);
    if (mount("overlay", path, "overlay", 0, data) < 0) return errno;
    (void)snprintf(path, sizeof path, "%s/merged/file", base);
    return unlink(path) == 0 ? 0 : errno; /* a whiteout */
}

static int try_overlay(void *arg, char *why, size_t room) {
    uid_t uid = geteuid();
    gid_t gid = getegid();
    char map[64];
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) {
        (void)snprintf(why, room, "namespaces: %s", strerror(errno));
        return 1;
    }
    (void)snprintf(map, sizeof map, "0 %u 1", uid);
    (void)write_file("/proc/self/uid_map", map);
    (void)write_file("/proc/self/setgroups", "deny");
    (void)snprintf(map, sizeof map, "0 %u 1", gid);
    (void)write_file("/proc/self/gid_map", map);
    if (mount("", "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0) {
        (void)snprintf(why, room, "private mounts: %s", strerror(errno));
        return 1;
    }
    int error = mount_overlay(arg);
    if (error) (void)snprintf(why, room, "%s", strerror(error));
    return error ? 1 : 0;
}

static void overlay(struct report *r) {
    char base[] = "/tmp/cella-doctor-XXXXXX", why[256];
    if (!mkdtemp(base)) {
        (void)report_add(r, group, "overlayfs", FINDING_DEGRADED, "not tried: no directory in /tmp: %s",
                         strerror(errno));
        return;
    }
    if (probe_child(try_overlay, base, TRIAL_MS, why, sizeof why) == 0)
        (void)report_add(r, group, "overlayfs", FINDING_OK, "mounts inside a user namespace, with whiteouts");
    else
        finding_remedy(report_add(r, group, "overlayfs", FINDING_MISSING, "not inside a user namespace: %s",
                                  why[0] ? why : "the trial hung"),
                       "Linux 5.11 or newer with CONFIG_OVERLAY_FS (modprobe overlay)");
    (void)rmdir(base);
}

void probe_mounts(struct report *r) {
    idmapped(r);
    overlay(r);
}
