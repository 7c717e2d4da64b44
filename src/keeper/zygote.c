#include "keeper/zygote.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <grp.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/cgroup.h"
#include "keeper/ferry.h"
#include "keeper/host.h"

#ifndef SYS_mseal
#define SYS_mseal 462 /* Linux 6.10 */
#endif
#ifndef PTRACE_O_SUSPEND_SECCOMP
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif
#define TRACE_OPTIONS (PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_SUSPEND_SECCOMP | PTRACE_O_EXITKILL)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif
#define LARGE_PAGE (2ul << 20)
#define BAKE_OPEN_FILES 65536 /* the hard limit that contexts inherit; each cell lowers it */

struct zygote zygotes[ZYGOTES_MAX];

struct zygote *zygote_find(const char *template_id, int language) {
    for (size_t i = 0; i < ZYGOTES_MAX; i++)
        if (zygotes[i].pid && zygotes[i].language == language && !strcmp(zygotes[i].template_id, template_id)) return &zygotes[i];
    return NULL;
}

bool zygote_lives(uint64_t number) {
    for (size_t i = 0; i < ZYGOTES_MAX; i++)
        if (zygotes[i].pid && zygotes[i].ready && zygotes[i].number == number) return true;
    return false;
}

/* ---- the child ---- */

/* The zygote's root: the template with a throw-away layer, devices, a proc without other people's processes, the kernels of the contexts. */
static int child_root(int template_fd, struct err *e) {
    /* cloned before the new namespace is entered: a mount of the old one could not be laid under an overlay */
    cleanup_close int lower = detached_mount(template_fd, "", -1, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, e);
    cleanup_close int dev = lower < 0 ? -1 : detached_mount(host.dev_fd, "", -1, 0, e);
    if (dev < 0) return -1;
    if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)) return err_sys(e, errno, "unshare");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) return err_sys(e, errno, "make mounts private");
    if (mount("tmpfs", HOST_STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")) return err_sys(e, errno, "mount tmpfs on the stage");
    if (chdir(HOST_STAGE) || mkdir("l", 0755) || mkdir("u", 0755) || mkdir("w", 0755) || mkdir("m", 0755)) return err_sys(e, errno, "prepare the stage");
    if (syscall(SYS_move_mount, lower, "", AT_FDCWD, "l", MOVE_MOUNT_F_EMPTY_PATH)) return err_sys(e, errno, "attach the template");
    if (mount("overlay", "m", "overlay", MS_NOSUID | MS_NODEV, "lowerdir=l,upperdir=u,workdir=w")) return err_sys(e, errno, "mount the template");
    if (chdir("m")) return err_sys(e, errno, "enter the template");
    if (mkdir("usr/lib/cella", 0755) && errno != EEXIST) return err_sys(e, errno, "make usr/lib/cella");
    if (mount(host.contexts, "usr/lib/cella", NULL, MS_BIND, NULL) ||
        mount(NULL, "usr/lib/cella", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL))
        return err_sys(e, errno, "mount the contexts");
    if (syscall(SYS_move_mount, dev, "", AT_FDCWD, "dev", MOVE_MOUNT_F_EMPTY_PATH)) return err_sys(e, errno, "attach dev");
    if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=invisible")) return err_sys(e, errno, "mount proc");
    if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH)) return err_sys(e, errno, "leave the host's tree");
    return sethostname("zygote", 6) ? err_sys(e, errno, "host name") : 0;
}

static int child_descriptors(int ready_fd, struct err *e) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0) return err_sys(e, errno, "open /dev/null");
    /* 2 stays the keeper's log */
    if (dup2(null, 0) < 0 || dup2(ready_fd, 1) < 0 || dup2(host.stub_fd, FD_STUB) < 0) return err_sys(e, errno, "descriptors");
    if (syscall(SYS_close_range, 3, FD_STUB - 1, 0) || syscall(SYS_close_range, FD_STUB + 1, ~0u, 0)) return err_sys(e, errno, "close_range");
    return 0;
}

static int child_identity(struct err *e) {
    if (child_drop_bounding(0, e)) return -1;
    if (setgroups(0, NULL) || setresgid(HOST_UID_OWNER, HOST_UID_OWNER, HOST_UID_OWNER) ||
        setresuid(HOST_UID_OWNER, HOST_UID_OWNER, HOST_UID_OWNER))
        return err_sys(e, errno, "become the owner of cells");
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* after the change of credentials, which clears it */
    /* the same layout in every zygote of a template: an image of a cell must find it again (design §2.1) */
    if (personality(ADDR_NO_RANDOMIZE) < 0) return err_sys(e, errno, "personality");
    return 0;
}

static void child_main(int template_fd, int language, int ready_fd) {
    static char *const environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                        "HOME=/workspace", "USER=user", "LANG=C.UTF-8", "PYTHONHASHSEED=0",
                                        "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1", "MPLBACKEND=agg",
                                        "MPLCONFIGDIR=/var/cache/matplotlib", NULL};
    static char *const argv[KEEPER_LANGUAGES][6] = {
        [KEEPER_PYTHON] = {"/usr/bin/python3", "-X", "utf8", "/usr/lib/cella/python/kernel.py", NULL},
        [KEEPER_SHELL] = {"/bin/bash", "--noprofile", "--norc", "/usr/lib/cella/shell/kernel.sh", NULL},
    };
    struct err e;
    child_signals();
    setsid();
    if (!cgroup_enter("zygotes", CGROUP_RUN, 0, &e) && !child_root(template_fd, &e) && !child_rlimits(BAKE_OPEN_FILES, &e) &&
        !child_descriptors(ready_fd, &e) && !child_identity(&e) && !child_filter(&e)) {
        execve(argv[language][0], argv[language], environment);
        err_sys(&e, errno, "run %s", argv[language][0]);
    }
    log_error("zygote: %s", e.text);
    _exit(1);
}

/* ---- the keeper's side ---- */

struct zygote *zygote_start(const char *template_id, int language, uint64_t tag, struct err *e) {
    struct zygote *z = NULL;
    for (size_t i = 0; i < ZYGOTES_MAX && !z; i++)
        if (!zygotes[i].pid) z = &zygotes[i];
    if (!z) {
        err_set(e, ERR_LIMIT, "more than %d warm interpreters", ZYGOTES_MAX);
        return NULL;
    }
    cleanup_close int template_fd = host_template_fd(template_id, e);
    int ends[2];
    if (template_fd < 0) return NULL;
    if (pipe2(ends, O_CLOEXEC)) {
        err_sys(e, errno, "pipe");
        return NULL;
    }
    pid_t pid = fork();
    if (!pid) child_main(template_fd, language, ends[1]);
    close(ends[1]);
    if (pid < 0) {
        err_sys(e, errno, "fork");
        close(ends[0]);
        return NULL;
    }
    child_ordinary(pid);
    *z = (struct zygote){.language = language, .pid = pid, .ready_fd = ends[0], .tag = tag, .started_us = monotonic_us()};
    (void)snprintf(z->template_id, sizeof z->template_id, "%s", template_id);
    while (!z->number) random_fill(&z->number, sizeof z->number);
    return z;
}

/* It has written its byte; the pause(2) follows at once. Stop it there. */
static int seize_at_fork_point(pid_t pid, arch_regs *regs, struct err *e) {
    if (ptrace(PTRACE_SEIZE, pid, 0, TRACE_OPTIONS)) return err_sys(e, errno, "seize the zygote");
    for (int round = 0; round < 200; round++) {
        usleep(1000);
        int event;
        if (ptrace(PTRACE_INTERRUPT, pid, 0, 0)) return err_sys(e, errno, "interrupt the zygote");
        if (task_wait_stop(pid, &event, NULL, e) || task_get_regs(pid, regs, e)) return -1;
        if (event == PTRACE_EVENT_STOP && arch_in_call(regs, SYS_pause)) return 0;
        if (ptrace(PTRACE_CONT, pid, 0, 0)) return err_sys(e, errno, "continue the zygote");
    }
    return err_set(e, ERR_INTERNAL, "the zygote does not stand at its fork point");
}

static int single_threaded(pid_t pid, struct err *e) {
    char path[64];
    int n = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/task", pid);
    cleanup_dir DIR *d = opendir(path);
    for (struct dirent *t; d && (t = readdir(d));) n += t->d_name[0] != '.';
    return n == 1 ? 0 : err_set(e, ERR_INVALID, "the template's warm interpreter has %d threads; only one can be cloned", n);
}

/* A mapping that its copies could all write would be one memory of every cell. "sh" stands for a shared mapping of something opened for writing. */
static int nothing_shared(pid_t pid, struct err *e) {
    char path[64], line[512], mapping[512] = "";
    (void)snprintf(path, sizeof path, "/proc/%d/smaps", pid);
    cleanup_file FILE *f = fopen(path, "re");
    if (!f) return err_sys(e, errno, "open %s", path);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "VmFlags:", 8) && strchr(line, '-') && (line[0] < 'A' || line[0] > 'Z')) memcpy(mapping, line, sizeof mapping);
        if (!strncmp(line, "VmFlags:", 8) && strstr(line, " sh"))
            return err_set(e, ERR_INVALID, "the template's warm interpreter shares memory that all its copies could write: %.200s", mapping);
    }
    return 0;
}

/* The stub's page and its data pages (arch.h). Before they exist, calls are stepped at the fork point's own instruction. */
static int map_stub(pid_t pid, const arch_regs *regs, struct err *e) {
    uint64_t at = arch_call_address(regs);
    uint8_t seen[sizeof arch_call_bytes];
    long result;
    const long data[6] = {(long)STUB_DATA, STUB_DATA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0};
    const long code[6] = {(long)STUB_CODE, STUB_CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, FD_STUB, 0};
    const long seal[6] = {(long)STUB_CODE, STUB_CODE_SIZE + STUB_DATA_SIZE};
    const long shut[6] = {FD_STUB};
    if (task_read(pid, at, seen, sizeof seen, e)) return -1;
    if (memcmp(seen, arch_call_bytes, sizeof seen)) return err_set(e, ERR_INTERNAL, "no system call instruction at the fork point");
    if (inject_at(pid, regs, at, SYS_mmap, data, &result, e)) return -1;
    if (result != data[0]) return err_sys(e, (int)-result, "map the stub's data");
    if (inject_at(pid, regs, at, SYS_mmap, code, &result, e)) return -1;
    if (result != code[0]) return err_sys(e, (int)-result, "map the stub");
    if (inject_at(pid, regs, at, SYS_mseal, seal, &result, e)) return -1;
    /* an older kernel has no such call (KEEPER_HAS_MSEAL): the file's seal still holds */
    return inject_at(pid, regs, at, SYS_close, shut, &result, e);
}

/* A registered rseq area would be written by the kernel whenever the sentinel runs an injected call. */
static int unregister_rseq(const struct zygote *z, struct err *e) {
    const struct image_thread *t = &z->image.thread[0];
    const long arg[6] = {(long)t->rseq.rseq_abi_pointer, t->rseq.rseq_abi_size, 1 /* RSEQ_FLAG_UNREGISTER */, t->rseq.signature};
    long result;
    if (!t->rseq.rseq_abi_pointer) return 0;
    if (inject_single(z->pid, &t->regs, SYS_rseq, arg, &result, NULL, e)) return -1;
    return result ? err_sys(e, (int)-result, "unregister rseq") : 0;
}

/* Large pages for its own memory, where the kernel can make them now: a copy then shares 2 MiB by one entry of its page tables until it writes
 * there. Best effort: without them everything works, and each copy takes longer. */
static void use_large_pages(const struct zygote *z) {
    char path[64], line[512];
    struct err e;
    (void)snprintf(path, sizeof path, "/proc/%d/maps", z->pid);
    cleanup_file FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        unsigned long start, end, inode;
        char mode[5];
        long result;
        if (sscanf(line, "%lx-%lx %4s %*s %*s %lu", &start, &end, mode, &inode) != 4 || inode || strcmp(mode, "rw-p") || strstr(line, "[stack]")) continue;
        start = (start + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1);
        end &= ~(LARGE_PAGE - 1);
        const long arg[6] = {(long)start, (long)(end - start), MADV_COLLAPSE};
        if (start >= end) continue;
        if (inject_single(z->pid, &z->image.thread[0].regs, SYS_madvise, arg, &result, NULL, &e)) return;
        if (result) log_debug("large pages at %lx: %s", start, strerror((int)-result));
    }
}

int zygote_settle(struct zygote *z, struct err *e) {
    char byte = 0;
    arch_regs regs;
    const uint64_t all = IMAGE_SIGNALS_OFF;
    ssize_t got = read(z->ready_fd, &byte, 1);
    close_fd(&z->ready_fd);
    if (got != 1 || byte != 'Z') {
        zygote_kill(z);
        return err_hint(e, ERR_INTERNAL, "the reason stands in the keeper's log", "the template's interpreter ended while it was being warmed up");
    }
    inject_deadline(10000);
    int rc = seize_at_fork_point(z->pid, &regs, e);
    if (!rc) rc = single_threaded(z->pid, e);
    if (!rc) rc = nothing_shared(z->pid, e);
    if (!rc) rc = map_stub(z->pid, &regs, e);
    if (!rc) rc = task_set_regs(z->pid, &regs, e);
    if (!rc) rc = image_capture(&z->image, z->pid, e);
    if (!rc && ptrace(PTRACE_SETSIGMASK, z->pid, sizeof all, &all)) rc = err_sys(e, errno, "block the zygote's signals");
    if (!rc) rc = unregister_rseq(z, e);
    if (!rc) use_large_pages(z);
    inject_deadline(0);
    if (rc) {
        zygote_kill(z);
        return -1;
    }
    z->ready = true;
    log_info("zygote %s of template %.12s ready after %lld ms", z->language == KEEPER_PYTHON ? "python" : "shell", z->template_id,
             (long long)(monotonic_us() - z->started_us) / 1000);
    return 0;
}

uint64_t zygote_bytes(uint64_t number) {
    for (size_t i = 0; i < ZYGOTES_MAX; i++)
        if (zygotes[i].ready && zygotes[i].number == number) return zygotes[i].image.anon_bytes;
    return 128ull << 20;
}

/* ---- copies made ahead ---- */

pid_t zygote_take_spare(struct zygote *z) {
    for (int i = 0; i < ZYGOTE_SPARES; i++) {
        pid_t pid = z->spare[i];
        z->spare[i] = 0;
        if (pid) return pid;
    }
    return 0;
}

static bool make_spare(struct zygote *z, pid_t *place) {
    struct err e;
    inject_deadline(10000);
    pid_t pid = sentinel_copy(z->pid, &z->image, &e);
    inject_deadline(0);
    *place = pid > 0 ? pid : 0;
    if (pid < 0) log_warn("copy of a zygote: %s", e.text);
    return pid > 0;
}

bool zygotes_make_spare(void) {
    bool made = false;
    for (size_t i = 0; i < ZYGOTES_MAX; i++)
        for (int k = 0; zygotes[i].pid && zygotes[i].ready && k < ZYGOTE_SPARES; k++) {
            if (zygotes[i].spare[k]) continue;
            if (made) return true;
            if (!make_spare(&zygotes[i], &zygotes[i].spare[k])) return false; /* it would fail again */
            made = true;
        }
    return false;
}

static pid_t *spare_by(pid_t pid) {
    for (size_t i = 0; i < ZYGOTES_MAX; i++)
        for (int k = 0; k < ZYGOTE_SPARES; k++)
            if (zygotes[i].spare[k] == pid) return &zygotes[i].spare[k];
    return NULL;
}

bool zygote_has_sentinel(pid_t pid) {
    for (size_t i = 0; i < ZYGOTES_MAX; i++)
        if (zygotes[i].pid == pid) return true;
    return spare_by(pid) != NULL;
}

bool zygote_spare_reaped(pid_t pid) {
    pid_t *place = spare_by(pid);
    if (place) *place = 0;
    return place != NULL;
}

static void kill_spares(struct zygote *z) {
    for (pid_t pid; (pid = zygote_take_spare(z));) kill(pid, SIGKILL); /* reaped like any child; belongs to nobody then */
}

void zygote_kill(struct zygote *z) {
    kill_spares(z);
    if (z->pid) kill(z->pid, SIGKILL);
}

void zygote_reaped(struct zygote *z) {
    close_fd(&z->ready_fd);
    kill_spares(z);
    image_free(&z->image);
    *z = (struct zygote){.ready_fd = -1};
}
