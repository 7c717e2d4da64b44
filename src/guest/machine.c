#include "guest/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "guest/channel.h"
#include "guest/identity.h"
#include "guest/loop.h"
#include "guest/machine_context.h"
#include "guest/machine_group.h"
#include "guest/machine_relay.h"
#include "guest/stream.h"
#include "wire/guest_proto.h"
#include "wire/machine_proto.h"

#define HOLD_MS 2000  /* a process that cannot be stopped in this time waits in the kernel for something: the fork is refused */
#define QUIET_MS 100  /* a driver that does not read leaves bytes on their way; they are then in both machines */
#define PACKETS_A_ROUND 16

static struct loop_watch listener = {.fd = -1}, control = {.fd = -1};

/* ---- answers ---- */

static void hang_up(const char *why) {
    if (why) log_error("control: %s", why);
    loop_close(&control);
}

/* A driver that leaves so much unread that an answer does not fit is gone, or will be. */
static void say(const struct machine_message *m) {
    if (control.fd < 0) return;
    ssize_t did;
    do did = send(control.fd, m, sizeof *m, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (did < 0 && errno == EINTR);
    if (did != (ssize_t)sizeof *m) hang_up("nobody reads the answers");
}

static struct machine_message answer_to(const struct machine_message *m) { return (struct machine_message){.type = m->type, .tag = m->tag, .slot = m->slot}; }

static void finish(struct machine_message *m, int rc, const struct err *e) {
    if (rc < 0) {
        m->status = e->sys_errno ? e->sys_errno : EIO;
        (void)snprintf(m->text, sizeof m->text, "%s", e->text);
    }
    say(m);
}

/* ---- hold ---- */

static struct {
    bool waiting, frozen;
    uint32_t tag;
    int64_t since_ms;
    struct loop_timer timer;
} holding;

static void hold_look(void *arg) {
    struct machine_message m = {.type = MACHINE_HOLD, .tag = holding.tag};
    const int64_t waited = monotonic_ms() - holding.since_ms;
    struct err e;
    (void)arg;
    if (!holding.waiting) return;
    if (!holding.frozen) holding.frozen = group_frozen();
    const bool quiet = contexts_quiet() && relay_quiet(RELAY_GUEST);
    if (holding.frozen ? !quiet && waited < QUIET_MS : waited < HOLD_MS) {
        loop_after(&holding.timer, 1);
        return;
    }
    holding.waiting = false;
    if (holding.frozen) {
        say(&m);
        return;
    }
    (void)group_freeze(false, &e);
    err_sys(&e, ETIMEDOUT, "a process cannot be stopped");
    finish(&m, -1, &e);
}

static void hold_begin(const struct machine_message *m) {
    struct machine_message answer = answer_to(m);
    struct err e;
    if (holding.waiting || group_freeze(true, &e) < 0) {
        if (holding.waiting) err_sys(&e, EBUSY, "it is being held already");
        finish(&answer, -1, &e);
        return;
    }
    holding.waiting = true;
    holding.frozen = false;
    holding.tag = m->tag;
    holding.since_ms = monotonic_ms();
    holding.timer.fire = hold_look;
    hold_look(NULL);
}

static int go(struct err *e) {
    holding.waiting = false;
    return group_freeze(false, e);
}

/* ---- who this is ---- */

static int set_name(const char *id, struct err *e) {
    const char *digits = strchr(id, '_');
    digits = digits ? digits + 1 : id;
    const size_t n = strspn(digits, "0123456789abcdef");
    if (!n) return err_sys(e, EINVAL, "the machine's name");
    return sethostname(digits, n < 12 ? n : 12) < 0 ? err_sys(e, errno, "host name") : 0;
}

/* All zero: as they are. */
static int set_limits(const struct machine_limits *l, struct err *e) {
    if (!l->memory_bytes && !l->disk_bytes && !l->pids_max && !l->open_files) return 0;
    if (group_limit(l, e) < 0) return -1;
    contexts_limit_files(l->open_files);
    return 0;
}

/* What was random before the copy is known to every other copy: the kernel's generator is keyed anew at once. */
static int set_entropy(const uint8_t *bytes, size_t n, struct err *e) {
    cleanup_free struct rand_pool_info *pool = malloc(sizeof *pool + n);
    cleanup_close int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (!pool) abort();
    pool->entropy_count = (int)n * 8;
    pool->buf_size = (int)n;
    memcpy(pool->buf, bytes, n);
    if (fd < 0 || ioctl(fd, RNDADDENTROPY, pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0) return err_sys(e, errno, "new entropy for the kernel");
    return 0;
}

static int set_clock(uint64_t wall_ns, struct err *e) {
    const struct timespec now = {.tv_sec = (time_t)(wall_ns / 1000000000), .tv_nsec = (long)(wall_ns % 1000000000)};
    return clock_settime(CLOCK_REALTIME, &now) < 0 ? err_sys(e, errno, "wall clock") : 0;
}

static void begin_relays_anew(void) {
    for (unsigned i = 0; i < RELAYS; i++) relay_begin_anew(i);
}

/* A copy becomes this cell. Nothing of the cell runs until the last step. */
static int become(const struct machine_identity *i, struct err *e) {
    if (set_clock(i->wall_ns, e) < 0 || set_entropy(i->entropy, sizeof i->entropy, e) < 0 || set_name(i->id, e) < 0 || set_limits(&i->limits, e) < 0) return -1;
    for (unsigned r = 0; r < RELAYS; r++) relay_copied(r);
    channels_forget();
    stream_restart();
    channel_hello();
    contexts_forked();
    return go(e);
}

/* ---- requests ---- */

static void context_done(void *arg, pid_t pid, const struct err *e) {
    struct machine_message *m = arg;
    m->pid = (uint32_t)pid;
    finish(m, e ? -1 : 0, e);
    free(m);
}

static void start_context(const struct machine_message *request, bool gated) {
    struct machine_message *m = malloc(sizeof *m);
    struct err e;
    if (!m) abort();
    *m = answer_to(request);
    if (context_start(gated ? 0 : request->slot, gated ? KEEPER_PYTHON : request->language, gated, context_done, m, &e) == 0) return;
    finish(m, -1, &e);
    free(m);
}

static void take(struct machine_message *m) {
    struct machine_message answer = answer_to(m);
    struct err e;
    int rc = 0;
    switch (m->type) {
    case MACHINE_WARM: start_context(m, true); return;
    case MACHINE_CONTEXT: start_context(m, false); return;
    case MACHINE_HOLD: hold_begin(m); return;
    case MACHINE_GO: rc = go(&e); break;
    case MACHINE_IDENTITY:
    case MACHINE_NAME:
    case MACHINE_LIMITS:
        m->identity.id[sizeof m->identity.id - 1] = 0;
        rc = m->type == MACHINE_IDENTITY ? become(&m->identity, &e) : m->type == MACHINE_NAME ? set_name(m->identity.id, &e) : set_limits(&m->identity.limits, &e);
        answer.slots = contexts_alive();
        break;
    case MACHINE_SIGNAL: rc = context_signal(m->slot, m->signo, &e); break;
    case MACHINE_STATS: group_stats(&answer.memory_bytes, &answer.pids, &answer.oom_kills); break;
    case MACHINE_RESET:
        begin_relays_anew();
        answer.slots = contexts_alive();
        break;
    default: rc = err_sys(&e, ENOSYS, "request %u", m->type);
    }
    finish(&answer, rc, &e);
}

static void context_exited(unsigned slot, uint32_t fate, int code) {
    const struct machine_message m = {.type = MACHINE_CONTEXT_EXIT, .slot = slot, .fate = (int32_t)fate, .code = code};
    say(&m);
}

/* ---- connections ---- */

static void listener_ready(void *arg, uint32_t events);

static void control_ready(void *arg, uint32_t events) {
    struct machine_message m;
    (void)arg, (void)events;
    for (int i = 0; i < PACKETS_A_ROUND && control.fd >= 0; i++) {
        const ssize_t n = recv(control.fd, &m, sizeof m, MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n != (ssize_t)sizeof m) {
            hang_up(n > 0 ? "a message of a wrong size" : NULL);
            return;
        }
        listener_ready(NULL, 0); /* a connection that was made before this was asked for is there: this may be about it */
        take(&m);
    }
}

static void take_control(int fd) {
    const struct machine_message hello = {.type = MACHINE_HELLO, .value = MACHINE_PROTO_VERSION};
    loop_close(&control);
    control = (struct loop_watch){.fd = fd, .ready = control_ready};
    loop_watch(&control, EPOLLIN);
    say(&hello);
}

/* False: nobody waits to be accepted. */
static bool accept_one(void) {
    struct sockaddr_vm peer = {0};
    socklen_t size = sizeof peer;
    const int fd = accept4(listener.fd, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno != EAGAIN && errno != EINTR) log_warn("accept: %s", strerror(errno));
        return false;
    }
    if (peer.svm_cid == VMADDR_CID_HOST && peer.svm_port == MACHINE_HOST_CONTROL)
        take_control(fd);
    else if (peer.svm_cid == VMADDR_CID_HOST && peer.svm_port == MACHINE_HOST_GUEST)
        relay_connect(RELAY_GUEST, fd);
    else if (peer.svm_cid == VMADDR_CID_HOST && peer.svm_port >= MACHINE_HOST_CONTEXT && peer.svm_port < MACHINE_HOST_CONTEXT + KEEPER_SLOTS)
        relay_connect(peer.svm_port - MACHINE_HOST_CONTEXT, fd);
    else
        close(fd); /* nobody we know */
    return true;
}

static void listener_ready(void *arg, uint32_t events) {
    (void)arg, (void)events;
    while (accept_one()) continue;
}

/* The other end of GUEST_FD_STREAM, where every cell's guest finds its stream (main.c keeps the place free). */
static int make_stream(struct err *e) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) return err_sys(e, errno, "socketpair");
    const struct relay_ends ends = {.inner = pair[1], .far = fcntl(pair[0], F_DUPFD_CLOEXEC, GUEST_FD_STREAM + 1), .out = -1, .err = -1};
    if (dup3(pair[0], GUEST_FD_STREAM, O_CLOEXEC) < 0) return err_sys(e, errno, "the guest stream");
    close(pair[0]);
    return relay_attach(RELAY_GUEST, &ends, e);
}

int machine_open(struct err *e) {
    const struct sockaddr_vm any = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = MACHINE_PORT};
    identity_machine();
    if (contexts_open(context_exited, e) < 0 || make_stream(e) < 0) return -1;
    listener = (struct loop_watch){.fd = socket(AF_VSOCK, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), .ready = listener_ready};
    if (listener.fd < 0 || bind(listener.fd, (const struct sockaddr *)&any, sizeof any) < 0 || listen(listener.fd, KEEPER_SLOTS + 2) < 0)
        return err_sys(e, errno, "vsock");
    loop_watch(&listener, EPOLLIN);
    return 0;
}
