/* fake_vmm: stands in for cella-vmm (src/wire/vmm_proto.h) and misbehaves as the file `mode` beside it says: what a guest that took its monitor over could say to the
 * keeper. Everything it is not told to do wrong it answers with success. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fdpass.h"
#include "wire/vmm_proto.h"

static char mode[64];

static int is(const char *what) { return !strcmp(mode, what); }

static void read_mode(void) {
    char path[PATH_MAX + 16];
    const ssize_t n = readlink("/proc/self/exe", path, PATH_MAX);
    if (n <= 0) exit(3);
    path[n] = 0;
    strcpy(strrchr(path, '/') + 1, "mode");
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, mode, sizeof mode - 1) < 0) exit(3);
    close(fd);
}

static void send_bytes(int fd, const struct vmm_message *m, size_t n) {
    if (send(fd, m, n, MSG_NOSIGNAL) < 0) _exit(0);
}

static void ready(int fd, pid_t pid, unsigned version) {
    const struct vmm_message m = {.type = VMM_READY, .arg = {(uint64_t)pid, version}};
    send_bytes(fd, &m, sizeof m);
}

/* An answer as the mode of `type` says: "NAME-how". */
static void answer(int fd, struct vmm_message *m, const char *how) {
    static struct {
        struct vmm_message m;
        char text[VMM_TEXT_MAX + 4096];
    } large;
    m->status = 0;
    m->bytes = 0;
    if (!strcmp(how, "short")) {
        send_bytes(fd, m, 40);
    } else if (!strcmp(how, "lies")) {
        m->bytes = 17;
        send_bytes(fd, m, sizeof *m);
    } else if (!strcmp(how, "large")) {
        large.m = *m;
        large.m.bytes = VMM_TEXT_MAX + 4096;
        send_bytes(fd, &large.m, sizeof large);
    } else if (!strcmp(how, "noise")) {
        memset(large.text, 0xff, sizeof large.text);
        large.m = *m;
        large.m.status = -5;
        large.m.bytes = VMM_TEXT_MAX;
        send_bytes(fd, &large.m, sizeof large.m + VMM_TEXT_MAX);
    } else if (!strcmp(how, "other")) {
        m->type = VMM_STATUS;
        send_bytes(fd, m, sizeof *m);
    } else if (!strcmp(how, "flood")) {
        struct vmm_message event = {.type = 99};
        for (;;) send_bytes(fd, &event, sizeof event);
    } else if (!strcmp(how, "dies")) {
        _exit(1);
    } else if (!strcmp(how, "ends")) {
        const struct vmm_message event = {.type = VMM_ENDED, .arg = {VMM_END_SHUTDOWN}};
        send_bytes(fd, m, sizeof *m);
        send_bytes(fd, &event, sizeof event);
    } else if (!strcmp(how, "gifts")) {
        int fds[100];
        for (int i = 0; i < 100; i++) fds[i] = fd;
        if (fdpass_send(fd, m, sizeof *m, fds, 100, 0)) _exit(1);
    } else if (strcmp(how, "silent")) {
        send_bytes(fd, m, sizeof *m);
    }
}

static void serve(int fd);

/* The child says READY with its own credentials, whatever number it writes. */
static void do_fork(int fd, struct vmm_message *m, int theirs) {
    const pid_t pid = is("fork-nobody") || is("fork-parent") ? 0 : fork();
    if (pid == 0 && !is("fork-nobody") && !is("fork-parent")) {
        close(fd);
        if (is("fork-mute")) pause();
        if (!is("fork-forged")) ready(theirs, getpid(), VMM_PROTO_VERSION);
        serve(theirs);
    }
    if (is("fork-parent") || is("fork-forged")) ready(theirs, pid ? pid : getpid(), VMM_PROTO_VERSION);
    m->arg[0] = is("fork-init") || is("fork-nobody") ? 1 : is("fork-keeper") ? (uint64_t)getppid() : is("fork-parent") ? (uint64_t)getpid() : (uint64_t)pid;
    if (!is("fork-nobody")) close(theirs); /* else it stays open, and silent */
    answer(fd, m, "");
}

static const char *mode_for(uint32_t type) {
    static const struct {
        uint32_t type;
        const char *name;
    } names[] = {{VMM_CONFIG, "config-"}, {VMM_CONNECT, "connect-"}, {VMM_PAUSE, "pause-"}, {VMM_RESUME, "resume-"}, {VMM_SNAPSHOT, "snapshot-"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].type == type && !strncmp(mode, names[i].name, strlen(names[i].name))) return mode + strlen(names[i].name);
    return "";
}

static void serve(int fd) {
    for (;;) {
        struct {
            struct vmm_message m;
            char text[VMM_TEXT_MAX];
        } in;
        char room[CMSG_SPACE(VMM_FDS_MAX * sizeof(int))] __attribute__((aligned(8)));
        struct iovec v = {&in, sizeof in};
        struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
        int fds[VMM_FDS_MAX] = {-1, -1, -1};
        if (recvmsg(fd, &h, 0) < (ssize_t)sizeof in.m) _exit(0);
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        if (c) memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
        if (in.m.type == VMM_FORK) do_fork(fd, &in.m, fds[0]);
        else answer(fd, &in.m, mode_for(in.m.type));
        for (int i = 0; i < VMM_FDS_MAX && in.m.type != VMM_FORK; i++)
            if (fds[i] >= 0 && in.m.type != VMM_CONNECT) close(fds[i]); /* ends of connections stay open */
    }
}

int main(int argc, char **argv) {
    unsigned uid;
    read_mode();
    if (argc < 3 || sscanf(argv[2], "%u", &uid) != 1 || setgid(uid) || setuid(uid)) return 3;
    signal(SIGCHLD, SIG_IGN);
    if (is("start-says")) {
        fputs("the reason why it does not start\n", stderr);
        return 1;
    }
    if (is("start-hangs")) pause();
    if (is("start-noise")) send_bytes(VMM_FD_CONTROL, &(struct vmm_message){.type = 7}, 11);
    ready(VMM_FD_CONTROL, getpid(), is("start-version") ? 77 : VMM_PROTO_VERSION);
    serve(VMM_FD_CONTROL);
}
