/* Kernel features of the process driver that one call answers. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/doctor/report.h"

#ifndef SYS_mseal
#define SYS_mseal 462 /* Linux 6.10; newer than Debian 12's headers */
#endif

static const char group[] = "Kernel";

static void version(struct report *r) {
    struct utsname u;
    unsigned major = 0, minor = 0;
    uname(&u);
    (void)sscanf(u.release, "%u.%u", &major, &minor);
    bool enough = major > 5 || (major == 5 && minor >= 19);
    struct finding *f =
        report_add(r, group, "version", enough ? FINDING_OK : FINDING_MISSING, "Linux %s %s", u.release, u.machine);
    if (!enough)
        finding_remedy(f, "Linux 5.19 or newer is needed (idmapped layers under overlayfs); Debian 12 has 6.1");
    if (strcmp(u.machine, "x86_64") != 0) {
        f->status = FINDING_MISSING;
        finding_remedy(f, "this version of Cella runs on x86_64 only");
    }
}

static void root(struct report *r) {
    if (geteuid() == 0) {
        (void)report_add(r, group, "root", FINDING_OK, "running as root");
        return;
    }
    struct finding *f = report_add(r, group, "root", FINDING_DEGRADED, "not root: several questions cannot be asked");
    finding_remedy(f, "sudo cella doctor");
}

static void pidfd(struct report *r) {
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    int copy = fd >= 0 ? (int)syscall(SYS_pidfd_getfd, fd, fd, 0) : -1;
    if (copy >= 0)
        (void)report_add(r, group, "pidfd", FINDING_OK, "pidfd_open and pidfd_getfd work");
    else
        finding_remedy(report_add(r, group, "pidfd", FINDING_MISSING, "%s: %s", fd < 0 ? "pidfd_open" : "pidfd_getfd",
                                  strerror(errno)),
                       "a kernel from 5.6 on; inside a container its seccomp profile must allow both");
    if (fd >= 0) close(fd);
    if (copy >= 0) close(copy);
}

static void seccomp_filters(struct report *r) {
    unsigned action = SECCOMP_RET_KILL_PROCESS;
    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0)
        (void)report_add(r, group, "seccomp", FINDING_OK, "filters with KILL_PROCESS");
    else
        finding_remedy(report_add(r, group, "seccomp", FINDING_MISSING, "no filters: %s", strerror(errno)),
                       "a kernel with CONFIG_SECCOMP_FILTER");
}

static void landlock(struct report *r) {
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi >= 1) {
        (void)report_add(r, group, "landlock", FINDING_OK, "ABI %ld", abi);
        return;
    }
    struct finding *f = report_add(r, group, "landlock", FINDING_DEGRADED, "%s: one layer of the isolation less",
                                   errno == EOPNOTSUPP ? "switched off at boot" : "not in this kernel");
    finding_remedy(f, errno == EOPNOTSUPP ? "add \"landlock\" to the kernel's lsm= boot option"
                                          : "a kernel with CONFIG_SECURITY_LANDLOCK (5.13 on)");
}

static void seal_memory(struct report *r) {
    void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* Length 0 seals nothing and still says whether the call is there. */
    if (page != MAP_FAILED && syscall(SYS_mseal, page, 0, 0) == 0)
        (void)report_add(r, group, "mseal", FINDING_OK, "mappings can be sealed");
    else
        finding_remedy(report_add(r, group, "mseal", FINDING_DEGRADED,
                                  "not in this kernel: the fork stub is checked before each use, not sealed"),
                       "Linux 6.10 or newer");
    if (page != MAP_FAILED) munmap(page, 4096);
}

static void compare_memory(struct report *r) {
    if (syscall(SYS_kcmp, getpid(), getpid(), KCMP_VM, 0, 0) == 0)
        (void)report_add(r, group, "kcmp", FINDING_OK, "processes' memory can be compared");
    else
        finding_remedy(report_add(r, group, "kcmp", FINDING_MISSING, "kcmp: %s", strerror(errno)),
                       "a kernel with CONFIG_KCMP");
}

static void open_beneath(struct report *r) {
    struct open_how how = {.flags = O_PATH | O_DIRECTORY, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, ".", &how, sizeof how);
    if (fd >= 0)
        (void)report_add(r, group, "openat2", FINDING_OK, "paths can be resolved inside a root");
    else
        finding_remedy(report_add(r, group, "openat2", FINDING_MISSING, "openat2: %s", strerror(errno)),
                       "a kernel from 5.6 on");
    if (fd >= 0) close(fd);
}

void probe_kernel(struct report *r) {
    version(r);
    root(r);
    pidfd(r);
    seccomp_filters(r);
    landlock(r);
    seal_memory(r);
    compare_memory(r);
    open_beneath(r);
}
