#include "vmm/jail.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool may_change_user;

bool jail_may_change_user(void) { return may_change_user; }

static int capabilities_set(unsigned keep) {
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct data[2] = {{.effective = keep, .permitted = keep}};
    return (int)syscall(SYS_capset, &head, data);
}

/* A file system of nothing, in the place of everything. */
static int root_empty(struct err *e) {
    if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) < 0) return err_sys(e, errno, "namespaces of the VMM");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) return err_sys(e, errno, "private mounts");
    if (mount("none", "/dev", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=2,mode=0555") < 0) return err_sys(e, errno, "empty root");
    if (chdir("/dev") < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0) return err_sys(e, errno, "enter the empty root");
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 || chdir("/") < 0) return err_sys(e, errno, "seal the empty root");
    return 0;
}

static int limits_set(struct err *e) {
    const struct rlimit none = {0, 0}, files = {512, 512};
    if (setrlimit(RLIMIT_CORE, &none) < 0 || setrlimit(RLIMIT_NOFILE, &files) < 0 || setrlimit(RLIMIT_MEMLOCK, &none) < 0)
        return err_sys(e, errno, "limits of the VMM");
    return 0;
}

int jail_enter(uid_t uid, gid_t gid, bool children_change_user, struct err *e) {
    const unsigned keep = children_change_user ? 1u << CAP_SETUID | 1u << CAP_SETGID : 0;
    if (!uid || !gid) return err_set(e, ERR_INVALID, "a VMM does not run as root");
    if (limits_set(e) < 0 || root_empty(e) < 0) return -1;
    for (int c = 0; prctl(PR_CAPBSET_DROP, c, 0, 0, 0) == 0; c++) continue; /* until the kernel knows no further one */
    if (prctl(PR_SET_KEEPCAPS, keep != 0, 0, 0, 0) < 0 || setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        return err_sys(e, errno, "user of the VMM");
    if (capabilities_set(keep) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_sys(e, errno, "privileges of the VMM");
    may_change_user = children_change_user;
    return 0;
}

int jail_become(uid_t uid, gid_t gid, struct err *e) {
    if (!may_change_user) return err_set(e, ERR_PERMISSION, "this VMM was not started to have children of other users");
    if (!uid || !gid) return err_set(e, ERR_INVALID, "a VMM does not run as root");
    /* The bare calls: this process has one thread, and the C library's would signal the threads of the parent that it remembers. */
    if (syscall(SYS_setresgid, gid, gid, gid) < 0 || syscall(SYS_setresuid, uid, uid, uid) < 0 || capabilities_set(0) < 0)
        return err_sys(e, errno, "user of a forked VMM");
    may_change_user = false;
    return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? err_sys(e, errno, "forked VMM") : 0;
}
