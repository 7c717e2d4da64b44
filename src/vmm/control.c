#include "vmm/control.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "vmm/boot.h"
#include "vmm/jail.h"

struct request {
    struct vmm_message m;
    char text[VMM_TEXT_MAX + 1];
    int fd[VMM_FDS_MAX]; /* -1: none; what a handler takes it sets to -1 */
};

static struct control *of_machine(struct machine *m);
static struct control *the_control; /* there is one machine in a process */
static struct control *of_machine(struct machine *m) { return the_control && the_control->machine == m ? the_control : NULL; }

/* ---- answers ---- */

static void say(struct control *c, struct vmm_message *m, const char *text, size_t n) {
    struct iovec v[] = {{m, sizeof *m}, {(void *)text, n}};
    const struct msghdr h = {.msg_iov = v, .msg_iovlen = n ? 2 : 1};
    m->bytes = (uint32_t)n;
    if (sendmsg(c->watch.fd, &h, MSG_NOSIGNAL) < 0) c->machine->loop.over = true; /* nobody is left who could want this machine */
}

static int errno_of(const struct err *e) {
    if (e->sys_errno) return e->sys_errno;
    if (!strcmp(e->code, ERR_CONFLICT)) return EBUSY;
    if (!strcmp(e->code, ERR_NOT_FOUND)) return ENOENT;
    if (!strcmp(e->code, ERR_LIMIT)) return EUSERS;
    if (!strcmp(e->code, ERR_PERMISSION)) return EPERM;
    if (!strcmp(e->code, ERR_UNSUPPORTED)) return EOPNOTSUPP;
    if (!strcmp(e->code, ERR_IMAGE)) return EBADMSG;
    return EINVAL;
}

static void event(struct control *c, uint32_t type, uint64_t a, uint64_t b, int status, const char *text) {
    struct vmm_message m = {.type = type, .status = status, .arg = {a, b}};
    say(c, &m, text, strlen(text));
}

static void on_over(struct machine *m) {
    struct control *c = of_machine(m);
    if (c) event(c, VMM_ENDED, m->end, 0, 0, m->end_text);
}

/* ---- requests: each fills r->m.arg with its answer ---- */

static int take_fd(struct request *r, unsigned i) { return steal_fd(&r->fd[i]); }

static int need_fd(const struct request *r, unsigned n, struct err *e) {
    for (unsigned i = 0; i < n; i++)
        if (r->fd[i] < 0) return err_set(e, ERR_INVALID, "%u descriptors are needed", n);
    return 0;
}

static int do_config(struct control *c, struct request *r, struct err *e) {
    const uint64_t *a = r->m.arg;
    return a[1] > VMM_VCPUS_MAX ? err_set(e, ERR_INVALID, "too many vCPUs") : machine_configure(c->machine, a[0], (unsigned)a[1], a[2] & VMM_CONFIG_TRACK, e);
}

static int do_disk(struct control *c, struct request *r, struct err *e) {
    const uint64_t index = r->m.arg[0], flags = r->m.arg[1];
    if (index >= VMM_DISKS_MAX) return err_set(e, ERR_INVALID, "disk %llu", (unsigned long long)index);
    if (need_fd(r, 1, e) < 0 || machine_disk(c->machine, (unsigned)index, take_fd(r, 0), flags & VMM_DISK_READ_ONLY, e) < 0) return -1;
    r->m.arg[0] = block_bytes(c->machine->device[DEVICE_DISK + index]);
    return 0;
}

static int do_net(struct control *c, struct request *r, struct err *e) {
    return need_fd(r, 1, e) < 0 ? -1 : machine_net(c->machine, take_fd(r, 0), r->m.arg[0], e);
}

static int do_console_to(struct control *c, struct request *r, struct err *e) {
    if (need_fd(r, 1, e) < 0) return -1;
    const int flags = fcntl(r->fd[0], F_GETFL);
    if (flags < 0 || fcntl(r->fd[0], F_SETFL, flags | O_NONBLOCK) < 0) return err_sys(e, errno, "console");
    serial_to(&c->machine->serial, take_fd(r, 0), r->m.arg[0]);
    return 0;
}

static int do_boot(struct control *c, struct request *r, struct err *e) {
    struct machine *m = c->machine;
    uint32_t entry, start_info;
    if (need_fd(r, 1, e) < 0 || !m->memory.base) return m->memory.base ? -1 : err_set(e, ERR_CONFLICT, "the machine is not configured");
    if (machine_kvm(m, e) < 0 || boot_load(m, r->fd[0], r->fd[1], r->text, &entry, &start_info, e) < 0 ||
        arch_boot_set(m->vcpu[0].fd, entry, start_info, e) < 0)
        return -1;
    machine_ready(m);
    r->m.arg[0] = entry;
    return 0;
}

static int do_restore(struct control *c, struct request *r, struct err *e) {
    uint64_t pages = 0, maps = 0;
    if (need_fd(r, 2, e) < 0 || snapshot_restore(c->machine, r->fd[0], r->fd[1], r->fd[2], &pages, &maps, e) < 0) return -1;
    r->m.arg[0] = pages, r->m.arg[1] = maps;
    return 0;
}

static int do_resume(struct control *c, struct request *r, struct err *e) {
    (void)r;
    return machine_resume(c->machine, e);
}

static int do_pause(struct control *c, struct request *r, struct err *e) {
    const int64_t from = monotonic_us();
    if (machine_pause(c->machine, e) < 0) return -1;
    r->m.arg[0] = (uint64_t)(monotonic_us() - from);
    return 0;
}

static int do_connect(struct control *c, struct request *r, struct err *e) {
    const uint64_t *a = r->m.arg;
    if (need_fd(r, 1, e) < 0) return -1;
    if (!c->machine->memory.base || a[0] > UINT32_MAX || a[2] > UINT32_MAX) return err_set(e, ERR_INVALID, "port out of range, or no machine");
    return stream_connect(c->machine->device[DEVICE_STREAM], (uint32_t)a[0], (uint32_t)a[2], (unsigned)a[1], take_fd(r, 0), e);
}

static int do_attach(struct control *c, struct request *r, struct err *e) {
    if (need_fd(r, 1, e) < 0) return -1;
    if (!c->machine->memory.base || c->machine->state == VMM_RUNNING || r->m.arg[0] > UINT32_MAX) return err_set(e, ERR_CONFLICT, "streams are attached to a paused machine");
    return stream_attach(c->machine->device[DEVICE_STREAM], (uint32_t)r->m.arg[0], take_fd(r, 0), e);
}

static int do_status(struct control *c, struct request *r, struct err *e) {
    struct machine *m = c->machine;
    uint64_t exits = 0;
    (void)e;
    for (unsigned i = 0; i < m->vcpus; i++) exits += m->vcpu[i].exits;
    const uint64_t said[] = {m->state, exits, memory_dirty_count(&m->memory), m->vcpus, m->memory.bytes, m->memory.base ? stream_count(m->device[DEVICE_STREAM]) : 0};
    memcpy(r->m.arg, said, sizeof said);
    return 0;
}

static int do_console(struct control *c, struct request *r, struct err *e) {
    (void)e;
    r->m.bytes = (uint32_t)serial_tail(&c->machine->serial, r->text, VMM_TEXT_MAX);
    return 0;
}

static int do_stop(struct control *c, struct request *r, struct err *e) {
    (void)r, (void)e;
    c->machine->loop.over = true;
    return 0;
}

/* ---- fork ---- */

/* Stand still for what follows; *ran says whether to go on afterwards. */
static int hold(struct machine *m, bool *ran, struct err *e) {
    *ran = m->state == VMM_RUNNING;
    if (machine_pause(m, e) < 0) return -1;
    if (m->end == VMM_END_NONE) return 0;
    return err_set(e, ERR_CONFLICT, "the guest has ended: %s", m->end_text);
}

/* The child: its own machine over the memory it was born with. */
static void child_start(struct control *c, struct request *r) {
    struct machine *m = c->machine;
    struct err e = {0};
    close(c->watch.fd);
    if (c->writer.busy) close(c->writer.watch.fd);
    int made = machine_forked(m, &e);
    if (made == 0 && r->m.arg[0] & VMM_FORK_UID) made = jail_become((uid_t)r->m.arg[1], (gid_t)r->m.arg[2], &e);
    if (made == 0) made = machine_kvm(m, &e);
    if (made == 0) made = machine_load(m, &e);
    if (made == 0) {
        machine_ready(m);
        control_start(c, m, take_fd(r, 0));
        return;
    }
    c->watch.fd = r->fd[0];
    event(c, VMM_READY, (uint64_t)getpid(), VMM_PROTO_VERSION, errno_of(&e), e.text);
    _exit(1);
}

/* 1: this is the child now, and there is nothing to answer. */
static int do_fork(struct control *c, struct request *r, struct err *e) {
    struct machine *m = c->machine;
    bool ran;
    if (need_fd(r, 1, e) < 0) return -1;
    if (r->m.arg[0] & VMM_FORK_UID && !jail_may_change_user()) return err_set(e, ERR_PERMISSION, "this VMM was not started to have children of other users");
    const int64_t from = monotonic_us();
    if (hold(m, &ran, e) < 0) return -1;
    const int saved = machine_save(m, e) < 0 || machine_harvest(m, e) < 0 ? -1 : 0;
    const int64_t before = monotonic_us();
    const pid_t pid = saved < 0 ? -1 : fork();
    const int why = errno;
    if (pid == 0) {
        child_start(c, r);
        return 1;
    }
    const int64_t after = monotonic_us();
    struct err other;
    if (ran) (void)machine_resume(m, &other);
    if (saved < 0) return -1;
    if (pid < 0) return err_sys(e, why, "fork");
    r->m.arg[0] = (uint64_t)pid, r->m.arg[1] = (uint64_t)(after - before), r->m.arg[2] = (uint64_t)(monotonic_us() - from);
    return 0;
}

/* ---- snapshot: answered when the writer is done ---- */

static void writer_ready(struct watch *w, uint32_t events) {
    struct control *c = the_control;
    struct snapshot_result s = {0};
    struct vmm_message m = {.type = VMM_SNAPSHOT, .seq = c->writer.seq};
    (void)events;
    const ssize_t got = read(w->fd, &s, sizeof s);
    loop_forget(&c->machine->loop, w);
    close_fd(&w->fd);
    c->writer.busy = false;
    m.status = got == sizeof s ? s.status : EIO;
    m.arg[0] = s.pages, m.arg[1] = c->writer.frozen_us;
    if (m.status && c->writer.base) memset(c->machine->base_id, 0, sizeof c->machine->base_id); /* a base that is not there */
    const char *text = m.status ? "the memory was not written" : "";
    say(c, &m, text, strlen(text));
}

static int do_snapshot(struct control *c, struct request *r, struct err *e) {
    struct machine *m = c->machine;
    bool ran;
    int result = -1;
    if (need_fd(r, 2, e) < 0) return -1;
    if (c->writer.busy) return err_set(e, ERR_CONFLICT, "another snapshot is being written");
    const int64_t from = monotonic_us();
    if (hold(m, &ran, e) < 0) return -1;
    const uint64_t flags = r->m.arg[0];
    const int begun = snapshot_begin(m, r->fd[0], r->fd[1], flags & VMM_SNAPSHOT_CHANGED, flags & VMM_SNAPSHOT_BASE, &result, e);
    struct err other;
    if (ran) (void)machine_resume(m, &other);
    if (begun < 0) return -1;
    c->writer = (struct snapshot_writer){.watch = {.fd = result, .ready = writer_ready}, .machine = m, .seq = r->m.seq, .busy = true, .base = flags & VMM_SNAPSHOT_BASE,
                                         .frozen_us = (uint64_t)(monotonic_us() - from)};
    loop_watch(&m->loop, &c->writer.watch, EPOLLIN);
    return 1;
}

/* ---- the socket ---- */

static const struct {
    int (*run)(struct control *, struct request *, struct err *); /* 0: answer; 1: nothing to answer now; -1 */
} requests[] = {[VMM_CONFIG] = {do_config}, [VMM_DISK] = {do_disk},       [VMM_NET] = {do_net},           [VMM_CONSOLE_TO] = {do_console_to},
                [VMM_BOOT] = {do_boot},     [VMM_RESTORE] = {do_restore}, [VMM_RESUME] = {do_resume},     [VMM_PAUSE] = {do_pause},
                [VMM_FORK] = {do_fork},     [VMM_SNAPSHOT] = {do_snapshot}, [VMM_CONNECT] = {do_connect}, [VMM_ATTACH] = {do_attach},
                [VMM_STATUS] = {do_status}, [VMM_CONSOLE] = {do_console}, [VMM_STOP] = {do_stop}};

/* One packet: 1, 0 when there is none now, -1 when the other side is gone or does not speak this protocol. */
static int receive(int fd, struct request *r) {
    char room[CMSG_SPACE(sizeof r->fd)] __attribute__((aligned(8)));
    struct iovec v[] = {{&r->m, sizeof r->m}, {r->text, VMM_TEXT_MAX}};
    struct msghdr h = {.msg_iov = v, .msg_iovlen = 2, .msg_control = room, .msg_controllen = sizeof room};
    for (unsigned i = 0; i < VMM_FDS_MAX; i++) r->fd[i] = -1;
    const ssize_t got = recvmsg(fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    for (struct cmsghdr *c = got > 0 ? CMSG_FIRSTHDR(&h) : NULL; c; c = CMSG_NXTHDR(&h, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) memcpy(r->fd, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    if (got < (ssize_t)sizeof r->m || h.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || r->m.bytes != (size_t)got - sizeof r->m) return -1;
    r->text[r->m.bytes] = 0;
    return 1;
}

static void serve(struct control *c, struct request *r) {
    struct err e = {0};
    r->m.status = 0, r->m.bytes = 0;
    const bool known = r->m.type < sizeof requests / sizeof *requests && requests[r->m.type].run;
    const int done = known ? requests[r->m.type].run(c, r, &e) : err_set(&e, ERR_UNSUPPORTED, "no such request");
    if (done == 0) say(c, &r->m, r->text, r->m.bytes);
    if (done < 0) {
        r->m.status = errno_of(&e);
        say(c, &r->m, e.text, strlen(e.text));
    }
}

static void ready(struct watch *w, uint32_t events) {
    static struct request r; /* not on the stack: it is large, and there is one at a time */
    struct control *c = the_control;
    (void)events;
    const int got = receive(w->fd, &r);
    if (got > 0) serve(c, &r);
    for (unsigned i = 0; i < VMM_FDS_MAX; i++) close_fd(&r.fd[i]);
    if (got < 0) c->machine->loop.over = true;
    else loop_watch(&c->machine->loop, &c->watch, EPOLLIN);
}

void control_start(struct control *c, struct machine *m, int fd) {
    *c = (struct control){.watch = {.fd = fd, .ready = ready}, .machine = m};
    the_control = c;
    m->on_over = on_over;
    event(c, VMM_READY, (uint64_t)getpid(), VMM_PROTO_VERSION, 0, "");
    loop_watch(&m->loop, &c->watch, EPOLLIN);
}
