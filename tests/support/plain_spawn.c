#include "plain_spawn.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PARK 910 /* above every target (context_proto.h uses 900), below the usual limit of 1024 */
#define ENTRIES 64

/* Entries of the host's root, read in the parent: the child of a threaded process must not allocate. */
static struct {
    char name[64], link[256];
    bool is_link;
} entries[ENTRIES];
static int entry_count;

static void read_root(void) {
    DIR *d = entry_count ? NULL : opendir("/");
    for (struct dirent *e; d && (e = readdir(d)) && entry_count < ENTRIES;) {
        char path[300];
        struct stat st;
        (void)snprintf(path, sizeof path, "/%s", e->d_name);
        if (e->d_name[0] == '.' || strcmp(e->d_name, "workspace") == 0 || strcmp(e->d_name, "proc") == 0 ||
            lstat(path, &st) < 0 || strlen(e->d_name) > 60 || !(S_ISDIR(st.st_mode) || S_ISLNK(st.st_mode)))
            continue;
        (void)snprintf(entries[entry_count].name, sizeof entries->name, "%s", path);
        entries[entry_count].is_link = S_ISLNK(st.st_mode);
        if (S_ISLNK(st.st_mode) && readlink(path, entries[entry_count].link, sizeof entries->link - 1) < 0) continue;
        entry_count++;
    }
    if (d) closedir(d);
}

/* A root of its own: the host's directories, a /proc of the new pid namespace, and /workspace. */
static void make_root(const char *home) {
    char at[512];
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("tmpfs", "/mnt", "tmpfs", 0, "mode=755") < 0)
        _exit(125);
    for (int i = 0; i < entry_count; i++) {
        (void)snprintf(at, sizeof at, "/mnt%s", entries[i].name);
        if (entries[i].is_link)
            (void)symlink(entries[i].link, at);
        else if (mkdir(at, 0755) == 0 && strcmp(entries[i].name, "/mnt") != 0)
            (void)mount(entries[i].name, at, NULL, MS_BIND | MS_REC, NULL);
    }
    if (mkdir("/mnt/workspace", 0755) < 0 || mount(home, "/mnt/workspace", NULL, MS_BIND, NULL) < 0 ||
        mkdir("/mnt/proc", 0755) < 0 || mount("proc", "/mnt/proc", "proc", 0, NULL) < 0 || chdir("/mnt") < 0 ||
        syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        _exit(125);
}

static void place_descriptors(const struct plain_child *c, int *tell) {
    int parked[4];
    struct rlimit files = {4096, 4096};
    (void)setrlimit(RLIMIT_NOFILE, &files);
    for (int i = 0; i < 4 && c->target[i] >= 0; i++)
        if ((parked[i] = fcntl(c->fds[i], F_DUPFD_CLOEXEC, PARK)) < 0) _exit(126);
    if ((*tell = fcntl(*tell, F_DUPFD_CLOEXEC, PARK)) < 0) _exit(126);
    for (int i = 0; i < 4 && c->target[i] >= 0; i++)
        if (dup2(parked[i], c->target[i]) < 0) _exit(126);
}

static _Noreturn void child(const struct plain_child *c, int tell) {
    sigset_t none;
    for (int s = 1; s < 32; s++) signal(s, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    place_descriptors(c, &tell);
    bool root = geteuid() == 0;
    if (root && !c->join) make_root(c->home);
    setsid();
    if (chdir(plain_workspace(c->home)) < 0) _exit(126);
    if (c->join && root &&
        (setgroups(0, NULL) < 0 || setresgid(1000, 1000, 1000) < 0 || setresuid(1000, 1000, 1000) < 0))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* after the change of ids, which clears it */
    execve(c->argv[0], (char *const *)(uintptr_t)c->argv, (char *const *)(uintptr_t)c->env);
    static const char text[] = "plain driver: cannot execute the program of a cell\n";
    if (write(2, text, sizeof text - 1) < 0) _exit(126);
    _exit(127);
}

static pid_t clone_plain(unsigned long flags) {
    return (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
}

static void enter(pid_t pid) {
    static const struct {
        const char *name;
        int type;
    } spaces[] = {{"pid", CLONE_NEWPID}, {"mnt", CLONE_NEWNS}};
    int fds[2];
    for (int i = 0; i < 2; i++) {
        char path[64];
        (void)snprintf(path, sizeof path, "/proc/%d/ns/%s", (int)pid, spaces[i].name);
        if ((fds[i] = open(path, O_RDONLY | O_CLOEXEC)) < 0) _exit(125);
    }
    for (int i = 0; i < 2; i++)
        if (setns(fds[i], spaces[i].type) < 0) _exit(125);
}

/* Enters the namespaces, then leaves a child of its parent there and says its pid. */
static _Noreturn void ferry(const struct plain_child *c, int tell) {
    enter(c->join);
    pid_t pid = clone_plain(CLONE_PARENT);
    if (pid == 0) child(c, tell);
    if (pid < 0 || write(tell, &pid, sizeof pid) != sizeof pid) _exit(125);
    _exit(0);
}

pid_t plain_spawn(const struct plain_child *c, struct err *err) {
    int tell[2];
    sigset_t all, old;
    read_root();
    if (pipe2(tell, O_CLOEXEC) < 0) return err_sys(err, errno, "pipe");
    bool root = geteuid() == 0, through_ferry = root && c->join;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pid_t pid = root && !c->join ? clone_plain(CLONE_NEWPID | CLONE_NEWNS) : fork();
    if (pid == 0) {
        if (through_ferry) ferry(c, tell[1]);
        child(c, tell[1]);
    }
    int why = errno;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    close(tell[1]);
    pid_t said = 0;
    if (pid > 0) {
        ssize_t n = read(tell[0], &said, sizeof said); /* ends when the program was exec'ed */
        if (through_ferry) {
            waitpid(pid, NULL, 0);
            pid = n == sizeof said ? said : -1;
            if (pid > 0)
                (void)!read(tell[0], &said, sizeof said);
            else
                why = EPERM;
        }
    }
    close(tell[0]);
    if (pid < 0) return err_sys(err, why, "start %s", c->argv[0]);
    return pid;
}

const char *plain_workspace(const char *home) { return geteuid() == 0 ? "/workspace" : home; }

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at) {
    (void)st, (void)kind, (void)at;
    (void)remove(path);
    return 0;
}

void plain_remove_tree(const char *path) { nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT); }
