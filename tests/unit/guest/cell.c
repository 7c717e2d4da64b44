#include "cell.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jail/landlock_policy.h"
#include "jail/seccomp_policy.h"
#include "wire/guest_proto.h"

#define GUEST_ID 65533
#define FIRST_ID 1500000000u /* host id of the cell's 0: nobody's on a machine that runs tests */

static void need(bool done, const char *what) {
    if (done) return;
    fprintf(stderr, "cell: %s: %s\n", what, strerror(errno));
    _exit(97);
}

void cell_root_make(char *out, size_t size) {
    (void)snprintf(out, size, "/tmp/cella-test-XXXXXX");
    if (!mkdtemp(out)) abort();
}

/* The tmpfs was mounted in the cell's own mount namespace: here the directory is empty. */
void cell_root_remove(const char *root) { (void)rmdir(root); }

static void make_dir(const char *path, mode_t mode, unsigned owner) {
    need(mkdir(path, mode) == 0 && chmod(path, mode) == 0 && chown(path, owner, owner) == 0, path);
}

/* A user namespace may not make device nodes: the host's own are bound in. */
static void make_device(const char *name) {
    char from[64];
    (void)snprintf(from, sizeof from, "/%s", name);
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    need(fd >= 0 && close(fd) == 0, name);
    need(mount(from, name, NULL, MS_BIND, NULL) == 0, name);
}

/* A read-only look at the host's directory, or the same symlink where the host has one (/bin -> usr/bin). */
static void borrow(const char *path) {
    char target[256];
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n > 0) {
        target[n] = 0;
        need(symlink(target, path + 1) == 0, path);
        return;
    }
    if (access(path, F_OK) < 0) return;
    make_dir(path + 1, 0755, 0);
    need(mount(path, path + 1, NULL, MS_BIND | MS_REC, NULL) == 0, path);
    /* Read-only where the namespace lets us; the files are not the cell's in any case. */
    (void)mount(NULL, path + 1, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID, NULL);
}

static void make_devices(void) {
    make_dir("dev", 0755, 0);
    need(mount("dev", "dev", "tmpfs", MS_NOSUID, "mode=755") == 0, "dev");
    static const char *const devices[] = {"dev/null", "dev/zero", "dev/full", "dev/urandom", "dev/tty"};
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) make_device(devices[i]);
    make_dir("dev/pts", 0755, 0);
    make_dir("dev/shm", 01777, 0);
    need(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620") == 0,
         "devpts");
    need(symlink("pts/ptmx", "dev/ptmx") == 0, "ptmx");
}

static void become_guest(void) {
    static const int caps[] = {CAP_SETUID, CAP_SETGID, CAP_SETPCAP, CAP_KILL, CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER};
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    uint64_t keep = 0;
    for (size_t i = 0; i < sizeof caps / sizeof *caps; i++) keep |= UINT64_C(1) << caps[i];
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        if (!(keep >> cap & 1)) need(prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0, "bounding set");
    need(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0, "keepcaps");
    need(setgroups(0, NULL) == 0 && setresgid(GUEST_ID, GUEST_ID, GUEST_ID) == 0 &&
             setresuid(GUEST_ID, GUEST_ID, GUEST_ID) == 0,
         "identity");
    data[0].effective = data[0].permitted = data[0].inheritable = (uint32_t)keep;
    need(syscall(SYS_capset, &head, data) == 0, "capset");
    for (size_t i = 0; i < sizeof caps / sizeof *caps; i++)
        need(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, caps[i], 0, 0) == 0, "ambient");
}

/* A directory as a cell has it: an overlay mounted inside the user namespace. */
static void make_overlay(const char *name) {
    char lower[64], upper[64], work[64], options[256];
    (void)snprintf(lower, sizeof lower, "layers/%s-lower", name);
    (void)snprintf(upper, sizeof upper, "layers/%s-upper", name);
    (void)snprintf(work, sizeof work, "layers/%s-work", name);
    (void)snprintf(options, sizeof options, "userxattr,lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work);
    make_dir(upper, 0755, 1000);
    make_dir(work, 0755, 0);
    make_dir(name, 0755, 1000);
    need(mount("overlay", name, "overlay", MS_NOSUID, options) == 0, "overlay");
}

/* /workspace is empty, /layered has a directory of the template's layer. */
static void make_layers(void) {
    make_dir("layers", 0755, 0);
    need(mount("layers", "layers", "tmpfs", MS_NOSUID, "mode=755,size=600m") == 0, "layers");
    make_dir("layers/workspace-lower", 0755, 1000);
    make_dir("layers/layered-lower", 0755, 1000);
    make_dir("layers/layered-lower/dir", 0755, 1000);
    make_dir("layers/layered-lower/dir/sub", 0755, 1000);
    int fd = open("layers/layered-lower/dir/sub/file", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    need(fd >= 0 && write(fd, "template\n", 9) == 9 && fchown(fd, 1000, 1000) == 0 && close(fd) == 0, "template file");
    make_overlay("workspace");
    make_overlay("layered");
}

/* The two sides of /layered, as the keeper hands over those of the root: mounts of their own, read-only, attached nowhere. */
static void show_layers(void) {
    static const char *const sides[] = {"layers/layered-upper", "layers/layered-lower"};
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    for (int i = 0; i < 2; i++) {
        int fd = (int)syscall(SYS_open_tree, AT_FDCWD, sides[i], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        need(fd >= 0 && syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof attr) == 0, sides[i]);
        need(dup2(fd, GUEST_FD_LAYER + i) >= 0 && close(fd) == 0, sides[i]);
    }
}

void cell_map_ids(pid_t pid) {
    static const char *const maps[] = {"uid_map", "gid_map"};
    char path[64], map[64];
    int n = snprintf(map, sizeof map, "0 %u 65536", FIRST_ID);
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, maps[i]);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, map, (size_t)n) != n || close(fd) < 0) abort();
    }
}

/* The same layers as the keeper's: the guest and all it starts live under them. */
static void enter_jail(void) {
    struct err e;
    struct sock_fprog filter;
    int rules = -1;
    if (landlock_policy_abi()) {
        need((rules = landlock_policy_build(&e)) >= 0 && dup2(rules, GUEST_FD_RULES) >= 0, "Landlock rules");
        need(landlock_policy_show(rules, GUEST_FD_LAYER, &e) == 0 && landlock_policy_show(rules, GUEST_FD_LOWER, &e) == 0, "Landlock rules");
    }
    become_guest();
    need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    if (rules >= 0) need(landlock_policy_enter(rules, &e) == 0, "Landlock");
    need(seccomp_policy_build(&filter, &e) == 0, "filter");
    need(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) == 0, "seccomp");
}

void cell_enter(const char *root) {
    static const char *const borrowed[] = {"/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64"};
    need(setgroups(0, NULL) == 0 && setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0, "root of the namespace");
    need(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "private mounts");
    need(mount("root", root, "tmpfs", MS_NOSUID, "mode=755,size=16m") == 0, "root");
    need(chdir(root) == 0, root);
    for (size_t i = 0; i < sizeof borrowed / sizeof *borrowed; i++) borrow(borrowed[i]);
    make_layers();
    make_dir("root", 0700, 0);
    make_dir("tmp", 01777, 0);
    make_dir("proc", 0755, 0);
    make_dir("small", 0777, 1000);
    need(mount("small", "small", "tmpfs", MS_NOSUID, "mode=777,size=1m") == 0, "small");
    make_devices();
    show_layers();
    need(mount("proc", "proc", "proc", MS_NOSUID, NULL) == 0, "proc");
    need(syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0 && chdir("/") == 0, "pivot_root");
    enter_jail();
}
