/* The microVM driver, and the driver that chooses, against a keeper and guests played by a thread: every request is answered as cella-keeper and cella-guest would,
 * with real sockets and files, and what they heard is looked at afterwards. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
/* last, after what it needs */
#include <cmocka.h>

#include "base/clock.h"
#include "base/fdpass.h"
#include "base/id.h"
#include "driver/choice/choice_driver.h"
#include "driver/microvm/machine_manifest.h"
#include "driver/microvm/microvm_driver.h"
#include "driver/process/process_driver.h"
#include "wire/frame.h"
#include "wire/keeper_proto.h"
#include "wire/machine_proto.h"

#define TEMPLATE "abababababababababababababababababababababababababababababababab"
#define GUESTS 64
#define HEARD 4096

/* ================================ keeper and guests ================================ */

struct guest { /* a machine: our ends of what the driver was given */
    uint32_t serial;
    char id[KEEPER_ID];
    int control, guest, context[KEEPER_SLOTS];
    uint32_t slots;
    struct machine_limits limits;
    bool held, alive;
};

static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    int listener, fd, stop[2];
    char dir[64], socket[96];
    struct guest guest[GUESTS];
    unsigned guests;
    bool based, template_stands; /* a base exists; its machine stands */
    /* what goes wrong */
    bool no_kvm, mute /* guests answer nothing */, no_warm, die_in_warm, bad_base, again_once;
    int refuse_op, refuse_errno;
    bool delay_connect_once; /* MACHINE_CONTEXT: the connection is not there yet */
    /* what was heard, in order: keeper's ops, and 1000 + guest messages */
    uint32_t heard[HEARD];
    unsigned heard_count;
    struct keeper_request last[200];
} k;

static void heard(uint32_t what) {
    if (k.heard_count < HEARD) k.heard[k.heard_count++] = what;
}
/* Place of the nth time that it was heard, -1: never. */
static int place(uint32_t what, int nth) {
    for (unsigned i = 0; i < k.heard_count; i++)
        if (k.heard[i] == what && nth-- == 0) return (int)i;
    return -1;
}
static int times(uint32_t what) {
    int n = 0;
    for (unsigned i = 0; i < k.heard_count; i++) n += k.heard[i] == what;
    return n;
}
#define SAID(type) (1000u + (type))

static int connection(int *ours) {
    int fd[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd)) abort();
    *ours = fd[0];
    return fd[1];
}

static struct guest *guest_new(const char *id) {
    struct guest *g = &k.guest[k.guests++];
    if (k.guests == GUESTS) abort();
    *g = (struct guest){.serial = k.guests, .alive = true, .control = -1, .guest = -1};
    (void)snprintf(g->id, sizeof g->id, "%s", id);
    for (int i = 0; i < KEEPER_SLOTS; i++) g->context[i] = -1;
    return g;
}

static struct guest *guest_by(uint32_t serial) { return serial && serial <= k.guests && k.guest[serial - 1].alive ? &k.guest[serial - 1] : NULL; }

static void guest_close(struct guest *g) {
    if (!g->alive) return;
    g->alive = false;
    if (g->control >= 0) close(g->control);
    if (g->guest >= 0) close(g->guest);
    for (int i = 0; i < KEEPER_SLOTS; i++)
        if (g->context[i] >= 0) close(g->context[i]);
}

static size_t give_all(struct guest *g, uint32_t slots, int *fds) {
    size_t n = 0;
    fds[n++] = connection(&g->control);
    fds[n++] = connection(&g->guest);
    for (int i = 0; i < KEEPER_SLOTS; i++)
        if (slots >> i & 1) fds[n++] = connection(&g->context[i]);
    g->slots = slots;
    return n;
}

static void reply(struct keeper_reply *r, const int *fds, size_t n) {
    r->magic = KEEPER_MAGIC;
    (void)fdpass_send(k.fd, r, sizeof *r, fds, n, 0);
    for (size_t i = 0; i < n; i++) close(fds[i]);
}

static void event_found(struct guest *g) {
    struct keeper_reply r = {.op = KEEPER_EVENT_FOUND, .cell = 1, .serial = g->serial, .machine = 1, .slots = g->slots};
    int fds[KEEPER_FDS_MAX];
    (void)snprintf(r.id, sizeof r.id, "%s", g->id);
    (void)snprintf(r.template_id, sizeof r.template_id, "%s", TEMPLATE);
    (void)snprintf(r.layer, sizeof r.layer, "bas_%032d", 7);
    if (g->control >= 0) close(g->control), close(g->guest);
    for (int i = 0; i < KEEPER_SLOTS; i++)
        if (g->slots >> i & 1 && g->context[i] >= 0) close(g->context[i]);
    reply(&r, fds, give_all(g, g->slots, fds));
}

static int fill_files(const int *fds, size_t n) {
    static const char page[4096] = "memory of a machine";
    if (n != 2) return EINVAL;
    return write(fds[0], "state", 5) == 5 && ftruncate(fds[1], 1 << 20) == 0 && pwrite(fds[1], page, sizeof page, 8192) == (ssize_t)sizeof page ? 0 : EIO;
}

static int check_files(const int *fds, size_t n) {
    char bytes[64] = "";
    if (n != 2 || pread(fds[0], bytes, sizeof bytes, 0) != 5 || memcmp(bytes, "state", 5)) return EBADMSG;
    return pread(fds[1], bytes, 6, 8192) == 6 && !memcmp(bytes, "memory", 6) ? 0 : EBADMSG;
}

static uint32_t capture_slots;
static struct machine_limits capture_limits;

static void serve(const struct keeper_request *q, const int *given, size_t given_n) {
    struct keeper_reply r = {.op = q->op, .tag = q->tag};
    struct guest *g = guest_by(q->serial), *made;
    int fds[KEEPER_FDS_MAX];
    size_t n = 0;
    heard(q->op);
    k.last[q->op] = *q;
    if (k.refuse_op == (int)q->op) r.error = k.refuse_errno;
    else switch (q->op) {
    case KEEPER_HELLO: r.report.features = k.no_kvm ? 0 : KEEPER_HAS_KVM; break;
    case KEEPER_LIST:
        for (unsigned i = 0; i < k.guests; i++)
            if (k.guest[i].alive) event_found(&k.guest[i]);
        break;
    case KEEPER_MACHINE_TEMPLATE:
        if (!k.based) r.error = k.bad_base ? EBADMSG : ENOENT;
        k.template_stands = k.based;
        (void)snprintf(r.layer, sizeof r.layer, "bas_%032d", 7);
        break;
    case KEEPER_MACHINE_BOOT: r.cell = 1, r.serial = guest_new(q->id)->serial; break;
    case KEEPER_MACHINE_CONNECT:
        if (!g) {
            r.error = ENOENT;
            break;
        }
        int *ours = q->slot == KEEPER_SLOTS ? &g->control : q->slot == KEEPER_SLOTS + 1 ? &g->guest : &g->context[q->slot];
        if (*ours >= 0) close(*ours);
        fds[n++] = connection(ours);
        if (q->slot == KEEPER_SLOTS && times(KEEPER_MACHINE_CONNECT) < 3) close(*ours), *ours = -1; /* nobody listens yet */
        else if (q->slot == KEEPER_SLOTS) (void)!send(*ours, &(struct machine_message){.type = MACHINE_HELLO, .value = 1}, sizeof(struct machine_message), MSG_NOSIGNAL);
        break;
    case KEEPER_MACHINE_BASE:
        guest_close(g);
        k.based = true;
        k.bad_base = false;
        break;
    case KEEPER_MACHINE_MAKE:
        if (!k.template_stands || k.again_once) {
            k.again_once = false;
            r.error = EAGAIN;
            break;
        }
        made = guest_new(q->id);
        r.cell = 1, r.serial = made->serial;
        n = give_all(made, 1, fds);
        break;
    case KEEPER_CAPTURE:
        capture_slots = g ? g->slots : 0;
        if (!g || !g->held) r.error = EINVAL; /* the guest was not told */
        else capture_limits = g->limits;
        break;
    case KEEPER_MACHINE_COPY:
    case KEEPER_MACHINE_RESTORE:
        if (q->op == KEEPER_MACHINE_RESTORE && (r.error = check_files(given, given_n))) break;
        made = guest_new(q->id);
        made->limits = capture_limits;
        r.cell = 1, r.serial = made->serial;
        r.slots = capture_slots;
        n = give_all(made, capture_slots, fds);
        break;
    case KEEPER_MACHINE_SAVE:
        r.error = fill_files(given, given_n);
        r.vcpus = 2;
        (void)snprintf(r.layer, sizeof r.layer, "bas_%032d", 7);
        break;
    case KEEPER_LAYER_KEEP: r.bytes = 4711; break;
    case KEEPER_CELL_STATS:
        r.stats.memory_bytes = 1000;
        r.stats.cpu_us = 77;
        r.stats.oom_kills = 1;
        if (!g) r.error = ENOENT;
        break;
    case KEEPER_CELL_DESTROY:
        if (!g) r.error = ENOENT;
        else guest_close(g);
        break;
    case KEEPER_CELL_RENAME:
        for (unsigned i = 0; i < k.guests; i++)
            if (k.guest[i].alive && !strcmp(k.guest[i].id, q->id)) guest_close(&k.guest[i]);
        (void)snprintf(g->id, sizeof g->id, "%s", q->id);
        break;
    default: break;
    }
    if (r.error) (void)snprintf(r.text, sizeof r.text, "%s", k.refuse_op == (int)q->op ? "the test says no" : "it is not there");
    reply(&r, fds, n);
}

static void guest_answers(struct guest *g, struct machine_message *m) {
    heard(SAID(m->type));
    if (k.mute) return;
    if (m->type == MACHINE_WARM && k.no_warm) return;
    if (m->type == MACHINE_WARM && k.die_in_warm) {
        struct keeper_reply r = {.op = KEEPER_EVENT_CELL_GONE, .cell = 1, .serial = g->serial, .fate = KEEPER_FATE_OOM};
        reply(&r, NULL, 0);
        guest_close(g);
        return;
    }
    if (m->type == MACHINE_HOLD) g->held = true;
    if (m->type == MACHINE_GO || m->type == MACHINE_IDENTITY) g->held = false;
    if ((m->type == MACHINE_IDENTITY || m->type == MACHINE_LIMITS) && m->identity.limits.memory_bytes) g->limits = m->identity.limits;
    if (m->type == MACHINE_CONTEXT && k.delay_connect_once) {
        k.delay_connect_once = false;
        m->status = EAGAIN;
    } else if (m->type == MACHINE_CONTEXT) {
        g->slots |= 1u << m->slot;
    }
    if (m->type == MACHINE_STATS) m->pids = 5, m->oom_kills = 2;
    m->slots = g->slots;
    memset(m->text, 0, sizeof m->text);
    (void)!send(g->control, m, sizeof *m, MSG_NOSIGNAL);
}

static void *run_keeper(void *arg) {
    (void)arg;
    for (;;) {
        struct pollfd p[GUESTS + 3] = {{k.stop[0], POLLIN, 0}, {k.listener, POLLIN, 0}, {k.fd, POLLIN, 0}};
        pthread_mutex_lock(&k.lock);
        const unsigned guests = k.guests;
        for (unsigned i = 0; i < guests; i++) p[3 + i] = (struct pollfd){k.guest[i].alive ? k.guest[i].control : -1, POLLIN, 0};
        pthread_mutex_unlock(&k.lock);
        if (poll(p, 3 + guests, 20) < 0 || p[0].revents) return NULL;
        pthread_mutex_lock(&k.lock);
        if (p[1].revents) {
            if (k.fd >= 0) close(k.fd);
            k.fd = accept4(k.listener, NULL, NULL, SOCK_CLOEXEC);
            p[2].revents = 0;
        }
        struct keeper_request q;
        int given[4];
        union {
            char space[CMSG_SPACE(sizeof given)];
            struct cmsghdr align;
        } control;
        struct iovec iov = {&q, sizeof q};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
        if (p[2].revents && recvmsg(k.fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) == (ssize_t)sizeof q) {
            struct cmsghdr *c = CMSG_FIRSTHDR(&m);
            const size_t n = c ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
            if (n) memcpy(given, CMSG_DATA(c), n * sizeof(int));
            serve(&q, given, n);
            for (size_t i = 0; i < n; i++) close(given[i]);
        } else if (p[2].revents & POLLHUP) {
            close(k.fd);
            k.fd = -1;
        }
        for (unsigned i = 0; i < guests; i++) {
            struct machine_message say;
            if (p[3 + i].revents && k.guest[i].alive && recv(k.guest[i].control, &say, sizeof say, MSG_DONTWAIT) == (ssize_t)sizeof say) guest_answers(&k.guest[i], &say);
        }
        pthread_mutex_unlock(&k.lock);
    }
}

static void keeper_start(void) {
    memset(&k, 0, sizeof k);
    pthread_mutex_init(&k.lock, NULL);
    (void)snprintf(k.dir, sizeof k.dir, "/tmp/cella-microvm-XXXXXX");
    assert_non_null(mkdtemp(k.dir));
    (void)snprintf(k.socket, sizeof k.socket, "%s/keeper.sock", k.dir);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", k.socket);
    k.fd = -1;
    k.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(k.listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(k.listener, 4), 0);
    assert_int_equal(pipe2(k.stop, O_CLOEXEC), 0);
    char path[256];
    static const char *const made[] = {"machines", "machines/" TEMPLATE, "image"};
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", k.dir, made[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    static const char *const files[] = {"kernel", "initrd", "root.erofs", "disk.img"};
    for (size_t i = 0; i < 4; i++) {
        (void)snprintf(path, sizeof path, "%s/machines/" TEMPLATE "/%s", k.dir, files[i]);
        close(open(path, O_CREAT | O_WRONLY, 0600));
    }
    assert_int_equal(pthread_create(&k.thread, NULL, run_keeper, NULL), 0);
}

static void keeper_stop(void) {
    char command[128];
    close(k.stop[1]);
    pthread_join(k.thread, NULL);
    close(k.stop[0]);
    close(k.listener);
    if (k.fd >= 0) close(k.fd);
    for (unsigned i = 0; i < k.guests; i++) guest_close(&k.guest[i]);
    (void)snprintf(command, sizeof command, "rm -rf %s", k.dir);
    assert_int_equal(system(command), 0);
}

/* ================================ the daemon's side ================================ */

static struct {
    uv_loop_t loop;
    struct driver *d;
    /* what came of the calls */
    int dones, exits, gones, adopts, children;
    bool failed;
    struct err err;
    struct driver_cell *cell, *child[8], *found;
    struct driver_created made;
    struct driver_copy copy;
    struct driver_image image;
    struct cell_stats stats;
    struct context_ends ends;
    int exit_slot;
    enum cell_fate fate;
    uint64_t frozen_us;
} t;

static void close_ends(struct context_ends *e) {
    if (e->control_fd >= 0) close(e->control_fd), close(e->stdout_fd), close(e->stderr_fd);
    *e = (struct context_ends){-1, -1, -1};
}
static void finished(struct err *e) {
    t.dones++;
    t.failed = e != NULL;
    if (e) t.err = *e;
}
static void on_done(void *arg, struct err *e) { (void)arg, finished(e); }
static void on_created(void *arg, struct err *e, const struct driver_created *c) {
    (void)arg;
    if (c) {
        t.made = *c;
        t.cell = c->cell;
        close(c->guest_fd);
        t.ends = c->python;
    }
    finished(e);
}
static void on_context(void *arg, struct err *e, const struct context_ends *ends) {
    (void)arg;
    if (ends) t.ends = *ends;
    finished(e);
}
static void on_stats(void *arg, struct err *e, const struct cell_stats *s) {
    (void)arg;
    if (s) t.stats = *s;
    finished(e);
}
static void take_copy(const struct driver_copy *c) {
    t.copy = *c;
    assert_int_equal(json_object_array_length(c->not_carried), 0);
    close(c->guest_fd);
    for (int i = 0; i < DRIVER_SLOTS; i++) close_ends(&t.copy.ends[i]);
}
static void on_child(void *arg, unsigned index, struct err *e, const struct driver_copy *c) {
    (void)arg;
    if (e) {
        t.err = *e;
        return;
    }
    take_copy(c);
    t.child[index] = c->cell;
    t.children++;
}
static void on_fork(void *arg, struct err *e, uint64_t us) {
    (void)arg;
    t.frozen_us = us;
    finished(e);
}
static void on_image(void *arg, struct err *e, const struct driver_image *i) {
    (void)arg;
    if (i) t.image = *i;
    finished(e);
}
static void on_copy(void *arg, struct err *e, const struct driver_copy *c) {
    (void)arg;
    if (c) take_copy(c), t.cell = c->cell;
    finished(e);
}
static void on_exit_of(void *arg, struct driver_cell *c, int slot, enum context_fate fate, int code) {
    (void)arg, (void)c, (void)fate, (void)code;
    t.exits++;
    t.exit_slot = slot;
}
static void on_gone(void *arg, struct driver_cell *c, enum cell_fate fate) {
    (void)arg, (void)c;
    t.gones++;
    t.fate = fate;
}
static void on_adopt(void *arg, struct driver_cell *c, const char *template_id, int guest_fd, const struct context_ends ends[DRIVER_SLOTS]) {
    (void)arg;
    t.adopts++;
    t.found = c;
    assert_string_equal(template_id, TEMPLATE);
    close(guest_fd);
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct context_ends e = ends[i];
        close_ends(&e);
    }
}

static void until(const int *what, int n) {
    for (int64_t end = monotonic_ms() + 15000; *what < n && monotonic_ms() < end;) {
        uv_run(&t.loop, UV_RUN_NOWAIT);
        usleep(300);
    }
    if (*what < n) fail_msg("it did not happen; the last error: %s", t.err.text);
}
static void done(void) {
    until(&t.dones, 1);
    t.dones = 0;
}
static void turn(int ms) {
    for (int64_t end = monotonic_ms() + ms; monotonic_ms() < end; usleep(300)) uv_run(&t.loop, UV_RUN_NOWAIT);
}
static void worked(void) {
    done();
    if (t.failed) fail_msg("%s", t.err.text);
}

static const struct cell_limits limits = {.memory_bytes = 256 << 20, .disk_bytes = 1 << 30, .cpu_millis = 1000, .pids_max = 64, .open_files = 256};
static bool yes(void) { return true; }
static bool no(void) { return false; }

static void open_with(enum choice_setting setting, bool processor, long long pool, int64_t bake_ms) {
    struct err e;
    char machines[96], key[96];
    memset(&t, 0, sizeof t);
    t.ends = (struct context_ends){-1, -1, -1};
    uv_loop_init(&t.loop);
    (void)snprintf(machines, sizeof machines, "%s/machines", k.dir);
    (void)snprintf(key, sizeof key, "%s/key", k.dir);
    struct driver *process = process_driver_open(&t.loop, k.socket, &e);
    assert_non_null(process);
    struct microvm_config c = {.memory_bytes = 512 << 20, .vcpus = 2, .bake_ms = bake_ms, .pool = pool, .limits = limits, .machines_dir = machines, .key_file = key};
    struct driver *microvm = microvm_driver_open(&t.loop, process_driver_keeper(process), &c, &e);
    assert_non_null(microvm);
    t.d = choice_driver_open(&(struct choice_config){process, microvm, setting, microvm_driver_kvm, processor ? yes : no});
    t.d->ops->set_listener(t.d, &(struct driver_listener){on_exit_of, on_gone, on_adopt, NULL});
    t.d->ops->adopt(t.d, on_done, NULL);
    worked();
}
static void shut(void) {
    close_ends(&t.ends);
    t.d->ops->close(t.d);
    turn(50);
    assert_int_equal(uv_loop_close(&t.loop), 0); /* nothing is left open */
}
static void create(void) {
    close_ends(&t.ends);
    t.d->ops->create(t.d, TEMPLATE, &limits, on_created, NULL);
    worked();
}
static struct guest *guest_of(struct driver_cell *c) {
    for (unsigned i = k.guests; i-- > 0;)
        if (k.guest[i].alive && !strcmp(k.guest[i].id, t.d->ops->id(c))) return &k.guest[i];
    fail_msg("the keeper has no %s", t.d->ops->id(c));
    return NULL;
}

static int set_up(void **state) {
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    keeper_start();
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    keeper_stop();
    return 0;
}

/* ---- the tests ---- */

static void test_bake_and_create(void **state) {
    (void)state;
    open_with(CHOICE_AUTO, true, 0, 60000);
    assert_string_equal(t.d->ops->name, "microvm");
    t.d->ops->create(t.d, TEMPLATE, &limits, on_created, NULL);
    t.d->ops->create(t.d, TEMPLATE, &limits, on_created, NULL); /* shares the bake */
    until(&t.dones, 2);
    t.dones = 0;
    assert_false(t.failed);
    assert_true(t.made.cold);
    assert_string_equal(driver_cell_ops(t.cell)->name, "microvm");
    assert_int_equal(times(KEEPER_MACHINE_BOOT), 1);
    assert_int_equal(k.last[KEEPER_MACHINE_BOOT].limits.memory_bytes, 512 << 20);
    assert_int_equal(k.last[KEEPER_MACHINE_BOOT].vcpus, 2);
    assert_true(place(KEEPER_MACHINE_BOOT, 0) < place(SAID(MACHINE_WARM), 0) && place(SAID(MACHINE_WARM), 0) < place(KEEPER_MACHINE_BASE, 0));
    assert_true(place(KEEPER_MACHINE_BASE, 0) < place(KEEPER_MACHINE_TEMPLATE, 1) && place(KEEPER_MACHINE_TEMPLATE, 1) < place(KEEPER_MACHINE_MAKE, 0));
    assert_true(place(SAID(MACHINE_IDENTITY), 0) > 0);
    assert_int_equal(guest_of(t.cell)->limits.memory_bytes, limits.memory_bytes);
    create();
    assert_false(t.made.cold);
    assert_int_equal(times(KEEPER_MACHINE_BOOT), 1);
    k.again_once = true; /* the template's machine went */
    create();
    t.d->ops->destroy(t.cell, on_done, NULL);
    worked();
    assert_int_equal(t.gones, 0);
    shut();
}

static void test_bake_fails(void **state) {
    (void)state;
    open_with(CHOICE_MICROVM, false, 0, 1500);
    k.no_warm = true;
    t.d->ops->create(t.d, TEMPLATE, &limits, on_created, NULL);
    done();
    assert_true(t.failed);
    assert_string_equal(t.err.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(t.err.text, "not ready after"));
    assert_non_null(t.err.hint);
    turn(30);
    assert_int_equal(times(KEEPER_CELL_DESTROY), 1); /* the machine that did not get there */
    k.no_warm = false;
    k.die_in_warm = true;
    t.d->ops->create(t.d, TEMPLATE, &limits, on_created, NULL);
    done();
    assert_true(t.failed);
    assert_non_null(strstr(t.err.text, "memory"));
    k.die_in_warm = false;
    k.refuse_op = KEEPER_MACHINE_BOOT;
    k.refuse_errno = EIO;
    t.d->ops->create(t.d, TEMPLATE, &limits, on_created, NULL);
    done();
    assert_non_null(strstr(t.err.text, "the test says no"));
    k.refuse_op = 0;
    char path[256];
    (void)snprintf(path, sizeof path, "%s/machines/" TEMPLATE "/root.erofs", k.dir);
    assert_int_equal(unlink(path), 0);
    const int boots = times(KEEPER_MACHINE_BOOT);
    t.d->ops->create(t.d, TEMPLATE, &limits, on_created, NULL);
    done();
    assert_string_equal(t.err.code, ERR_TEMPLATE);
    assert_non_null(strstr(t.err.hint, "cella template build"));
    assert_int_equal(times(KEEPER_MACHINE_BOOT), boots);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    k.bad_base = true; /* one that this host cannot use is made again */
    create();
    assert_true(t.made.cold);
    shut();
}

static void test_limits(void **state) {
    struct cell_limits l = limits;
    (void)state;
    open_with(CHOICE_AUTO, true, 0, 60000);
    l.memory_bytes = 513 << 20;
    t.d->ops->create(t.d, TEMPLATE, &l, on_created, NULL);
    assert_int_equal(t.dones, 0); /* never from inside */
    done();
    assert_string_equal(t.err.code, ERR_INVALID);
    assert_non_null(strstr(t.err.hint, "microvm-memory-mb"));
    l = limits;
    l.cpu_millis = 2001;
    t.d->ops->create(t.d, TEMPLATE, &l, on_created, NULL);
    done();
    assert_string_equal(t.err.code, ERR_INVALID);
    create();
    l.cpu_millis = 2000;
    t.d->ops->set_limits(t.cell, &l, on_done, NULL);
    worked();
    assert_int_equal(guest_of(t.cell)->limits.cpu_millis, 2000);
    assert_int_equal(k.last[KEEPER_CELL_LIMITS].limits.cpu_millis, 2000);
    shut();
}

static void test_contexts(void **state) {
    char got[64], frame[WIRE_HEAD + 4] = "\1context says";
    (void)state;
    open_with(CHOICE_AUTO, true, 0, 60000);
    create();
    close_ends(&t.ends);
    k.delay_connect_once = true;
    t.d->ops->context_make(t.cell, 3, "shell", on_context, NULL);
    worked();
    assert_int_equal(times(SAID(MACHINE_CONTEXT)), 2);
    struct guest *g = guest_of(t.cell);
    assert_int_equal(send(g->context[3], "\1printed", 8, 0), 8);
    frame[0] = 0;
    assert_int_equal(send(g->context[3], frame, sizeof frame, 0), sizeof frame);
    turn(30);
    assert_int_equal(read(t.ends.stdout_fd, got, sizeof got), 7);
    assert_int_equal(recv(t.ends.control_fd, got, sizeof got, 0), sizeof frame - 1);
    t.d->ops->context_signal(t.cell, 3, SIGKILL);
    /* its last words and its end come by two connections: the end is told after the words */
    static char words[60000] = {1};
    for (int i = 0; i < 3; i++) assert_int_equal(send(g->context[3], words, sizeof words, 0), sizeof words);
    struct machine_message bye = {.type = MACHINE_CONTEXT_EXIT, .slot = 3, .fate = FATE_KILLED, .code = 9};
    assert_int_equal(send(g->control, &bye, sizeof bye, 0), sizeof bye);
    close(g->context[3]);
    g->context[3] = -1;
    turn(80);
    assert_int_equal(times(SAID(MACHINE_SIGNAL)), 1);
    assert_int_equal(t.exits, 0);
    for (size_t all = 0; all < 3 * (sizeof words - 1); turn(1)) {
        const ssize_t n = read(t.ends.stdout_fd, words, sizeof words);
        assert_true(n != 0);
        all += n > 0 ? (size_t)n : 0;
    }
    until(&t.exits, 1);
    assert_int_equal(t.exit_slot, 3);
    k.refuse_op = KEEPER_MACHINE_CONNECT;
    k.refuse_errno = EIO;
    t.d->ops->context_make(t.cell, 4, "python", on_context, NULL);
    done();
    assert_true(t.failed);
    k.refuse_op = 0;
    shut();
}

static void test_fork(void **state) {
    (void)state;
    open_with(CHOICE_AUTO, true, 0, 60000);
    create();
    struct driver_cell *parent = t.cell;
    t.d->ops->fork(parent, 6, on_child, on_fork, NULL);
    worked();
    assert_int_equal(t.children, 6);
    assert_int_equal(times(KEEPER_CAPTURE), 1);
    assert_int_equal(k.last[KEEPER_MACHINE_COPY].flags, KEEPER_LAST);
    assert_true(place(SAID(MACHINE_HOLD), 0) < place(KEEPER_CAPTURE, 0) && place(KEEPER_CAPTURE, 0) < place(KEEPER_MACHINE_COPY, 0));
    assert_false(guest_of(parent)->held);
    for (int i = 0; i < 6; i++) assert_false(guest_of(t.child[i])->held);
    assert_int_equal(guest_of(t.child[5])->limits.memory_bytes, limits.memory_bytes);
    /* a merge: the child takes the parent's name, which ends */
    char id[CELL_ID_MAX];
    (void)snprintf(id, sizeof id, "%s", t.d->ops->id(parent));
    t.d->ops->rename(t.child[2], id, on_done, NULL);
    worked();
    assert_string_equal(t.d->ops->id(t.child[2]), id);
    assert_int_equal(times(SAID(MACHINE_NAME)), 1);
    assert_true(t.d->ops->incarnation(t.child[2]) != t.d->ops->incarnation(t.child[3]));
    /* what cannot be copied goes on */
    k.refuse_op = KEEPER_CAPTURE;
    k.refuse_errno = ENOMEM;
    t.children = 0;
    t.d->ops->fork(t.child[2], 2, on_child, on_fork, NULL);
    done();
    assert_true(t.failed);
    assert_int_equal(t.children, 0);
    turn(30);
    assert_false(guest_of(t.child[2])->held);
    k.refuse_op = KEEPER_MACHINE_COPY;
    t.d->ops->fork(t.child[3], 2, on_child, on_fork, NULL);
    worked(); /* each of them failed, for its own reason */
    assert_int_equal(t.children, 0);
    k.refuse_op = 0;
    assert_int_equal(t.gones, 0);
    shut();
}

#define IMAGE "img_00000000000000000000000000000001"

static void remove_files(void) {
    char command[256];
    (void)snprintf(command, sizeof command, "rm -f %s/image/*", k.dir);
    assert_int_equal(system(command), 0);
}
static void damage(const char *file, off_t at) {
    char path[256];
    (void)snprintf(path, sizeof path, "%s/image/%s", k.dir, file);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "x", 1, at), 1);
    close(fd);
}
static void thaw(const char *image, const struct cell_limits *l) {
    char dir[96];
    (void)snprintf(dir, sizeof dir, "%s/image", k.dir);
    t.d->ops->thaw(t.d, image, dir, NULL, l, on_copy, NULL);
    done();
}

static void test_images(void **state) {
    char dir[96];
    struct cell_limits more = limits;
    (void)state;
    open_with(CHOICE_AUTO, true, 0, 60000);
    create();
    (void)snprintf(dir, sizeof dir, "%s/image", k.dir);
    struct driver_cell *cell = t.cell;
    t.d->ops->freeze(cell, IMAGE, dir, true, on_image, NULL);
    worked();
    assert_int_equal(t.image.disk_bytes, 4711);
    assert_int_equal(t.image.memory_bytes, 5 + 4096); /* what it keeps, not its holes */
    assert_int_equal(k.last[KEEPER_CAPTURE].flags, KEEPER_HOLD);
    assert_true(guest_of(cell)->held);
    t.d->ops->release(cell, on_done, NULL);
    worked();
    turn(30);
    assert_false(guest_of(cell)->held);
    assert_int_equal(times(KEEPER_CAPTURE_DROP), 1);
    for (int i = 0; i < 2; i++) { /* any number of times */
        thaw(IMAGE, &limits);
        assert_false(t.failed);
        assert_string_equal(driver_cell_ops(t.cell)->name, "microvm");
    }
    assert_string_equal(k.last[KEEPER_MACHINE_RESTORE].files, IMAGE);
    assert_int_equal(k.last[KEEPER_MACHINE_RESTORE].vcpus, 2);
    more.memory_bytes = 1ull << 30;
    thaw(IMAGE, &more);
    assert_string_equal(t.err.code, ERR_INVALID);
    thaw("img_00000000000000000000000000000002", NULL);
    assert_string_equal(t.err.code, ERR_IMAGE); /* files of another one */
    thaw("nonsense", NULL);
    assert_string_equal(t.err.code, ERR_INVALID);
    k.refuse_op = KEEPER_MACHINE_RESTORE;
    k.refuse_errno = EBADMSG;
    thaw(IMAGE, NULL);
    assert_string_equal(t.err.code, ERR_IMAGE);
    assert_non_null(t.err.hint);
    k.refuse_op = 0;
    static const struct {
        const char *file;
        off_t at;
    } hurt[] = {{"machine.state", 2}, {"machine.memory", 8200}, {"machine.memory", 500000}, {"manifest", 100}, {"manifest", 3}};
    for (size_t i = 0; i < sizeof hurt / sizeof *hurt; i++) {
        remove_files();
        t.d->ops->freeze(cell, IMAGE, dir, false, on_image, NULL);
        worked();
        assert_false(guest_of(cell)->held);
        damage(hurt[i].file, hurt[i].at);
        thaw(IMAGE, NULL);
        assert_true(t.failed);
        assert_string_equal(t.err.code, ERR_IMAGE);
    }
    /* nothing is left of one that could not be written, and the cell goes on */
    static const int refusals[] = {KEEPER_CAPTURE, KEEPER_MACHINE_SAVE, KEEPER_LAYER_KEEP};
    for (size_t i = 0; i < 3; i++) {
        remove_files();
        k.refuse_op = refusals[i];
        k.refuse_errno = ENOSPC;
        t.d->ops->freeze(cell, IMAGE, dir, true, on_image, NULL);
        done();
        assert_string_equal(t.err.code, ERR_NO_SPACE);
        k.refuse_op = 0;
        turn(30);
        assert_false(guest_of(cell)->held);
        assert_int_equal(rmdir(dir), 0); /* it is empty */
        assert_int_equal(mkdir(dir, 0700), 0);
    }
    shut();
}

/* A paused machine is copied without its processes running a moment. */
static void test_paused(void **state) {
    char dir[96];
    (void)state;
    open_with(CHOICE_AUTO, true, 0, 60000);
    create();
    (void)snprintf(dir, sizeof dir, "%s/image", k.dir);
    t.d->ops->pause(t.cell, on_done, NULL);
    worked();
    assert_true(place(SAID(MACHINE_HOLD), 0) < place(KEEPER_CELL_FREEZE, 0));
    assert_int_equal(k.last[KEEPER_CELL_FREEZE].on, 1);
    t.d->ops->stats(t.cell, on_stats, NULL);
    worked();
    assert_int_equal(t.stats.memory_bytes, 1000);
    assert_int_equal(times(SAID(MACHINE_STATS)), 0); /* it stands still */
    t.d->ops->freeze(t.cell, IMAGE, dir, false, on_image, NULL);
    worked();
    turn(30);
    assert_int_equal(k.last[KEEPER_CELL_FREEZE].on, 1); /* it is paused again */
    assert_int_equal(times(KEEPER_CELL_FREEZE), 3);
    assert_int_equal(times(SAID(MACHINE_GO)), 0);
    assert_true(guest_of(t.cell)->held);
    t.d->ops->resume(t.cell, on_done, NULL);
    worked();
    turn(30);
    assert_false(guest_of(t.cell)->held);
    t.d->ops->stats(t.cell, on_stats, NULL);
    worked();
    assert_int_equal(t.stats.pids, 5);
    assert_int_equal(t.stats.oom_kills, 3);
    shut();
}

static void test_adopt(void **state) {
    (void)state;
    open_with(CHOICE_AUTO, true, 0, 60000);
    create();
    char id[CELL_ID_MAX];
    (void)snprintf(id, sizeof id, "%s", t.d->ops->id(t.cell));
    const uint64_t incarnation = t.d->ops->incarnation(t.cell);
    shut();
    pthread_mutex_lock(&k.lock);
    k.guest[k.guests - 1].slots = 5; /* two contexts, of which one has ended by now */
    pthread_mutex_unlock(&k.lock);
    open_with(CHOICE_AUTO, true, 0, 60000);
    assert_int_equal(t.adopts, 1);
    assert_string_equal(t.d->ops->id(t.found), id);
    assert_true(t.d->ops->incarnation(t.found) == incarnation);
    turn(50);
    assert_int_equal(times(SAID(MACHINE_RESET)), 1);
    assert_true(place(SAID(MACHINE_GO), 0) > place(SAID(MACHINE_RESET), 0)); /* whatever the last daemon held */
    /* a copy of it has limits that this daemon does not know: the guest keeps them */
    t.d->ops->fork(t.found, 1, on_child, on_fork, NULL);
    worked();
    assert_int_equal(t.children, 1);
    assert_int_equal(guest_of(t.child[0])->limits.memory_bytes, limits.memory_bytes);
    shut();
}

static void test_machines_that_go(void **state) {
    (void)state;
    open_with(CHOICE_AUTO, true, 0, 60000);
    create();
    struct keeper_reply r = {.op = KEEPER_EVENT_CELL_GONE, .cell = 1, .serial = guest_of(t.cell)->serial, .fate = KEEPER_FATE_OOM};
    pthread_mutex_lock(&k.lock);
    guest_close(guest_of(t.cell));
    reply(&r, NULL, 0);
    pthread_mutex_unlock(&k.lock);
    until(&t.gones, 1);
    assert_int_equal(t.fate, CELL_FATE_OOM);
    create(); /* a guest that lies is not talked to any more */
    const int before = times(KEEPER_CELL_DESTROY);
    assert_int_equal(send(guest_of(t.cell)->control, "nonsense", 8, 0), 8);
    until(&t.gones, 2);
    assert_int_equal(t.fate, CELL_FATE_LOST);
    turn(30);
    assert_int_equal(times(KEEPER_CELL_DESTROY), before + 1);
    create(); /* one that hangs up, of whose end the keeper knows nothing */
    shutdown(guest_of(t.cell)->control, SHUT_RDWR);
    until(&t.gones, 3);
    assert_int_equal(t.fate, CELL_FATE_LOST);
    shut();
}

static void test_pool(void **state) {
    struct cell_limits l = limits;
    (void)state;
    open_with(CHOICE_AUTO, true, 2, 60000);
    t.d->ops->warm(t.d, TEMPLATE, on_done, NULL);
    worked();
    for (int i = 0; times(SAID(MACHINE_IDENTITY)) < 2 && i < 100; i++) turn(20);
    turn(50);
    const int made = times(KEEPER_MACHINE_MAKE);
    assert_int_equal(made, 2);
    create();
    assert_string_equal(t.made.from, "filled");
    l.pids_max = 7;
    close_ends(&t.ends);
    t.d->ops->create(t.d, TEMPLATE, &l, on_created, NULL);
    worked();
    assert_int_equal(guest_of(t.cell)->limits.pids_max, 7);
    for (int i = 0; times(KEEPER_MACHINE_MAKE) < 4 && i < 100; i++) turn(20);
    assert_int_equal(times(KEEPER_MACHINE_MAKE), 4);
    shut();
}

static void test_choice(void **state) {
    struct err e;
    struct json_object *o, *choice;
    (void)state;
    open_with(CHOICE_AUTO, false, 0, 1000); /* KVM without a processor for it: not by itself */
    assert_string_equal(t.d->ops->name, "process");
    assert_string_equal(t.d->ops->pick(t.d, NULL, &e)->ops->name, "process");
    assert_string_equal(t.d->ops->pick(t.d, "auto", &e)->ops->name, "process");
    assert_null(t.d->ops->pick(t.d, "microvm", &e));
    assert_string_equal(e.code, ERR_DRIVER);
    assert_non_null(strstr(e.text, "vmx"));
    assert_null(t.d->ops->pick(t.d, "docker", &e));
    assert_string_equal(e.code, ERR_INVALID);
    o = t.d->ops->report(t.d);
    assert_true(json_object_object_get_ex(o, "choice", &choice));
    assert_non_null(strstr(json_object_to_json_string(choice), "neither vmx nor svm"));
    json_object_put(o);
    shut();
    open_with(CHOICE_AUTO, true, 0, 1000);
    assert_string_equal(t.d->ops->pick(t.d, NULL, &e)->ops->name, "microvm");
    assert_string_equal(t.d->ops->pick(t.d, "process", &e)->ops->name, "process");
    shut();
    open_with(CHOICE_PROCESS, true, 0, 1000);
    assert_string_equal(t.d->ops->name, "process");
    assert_null(t.d->ops->pick(t.d, "microvm", &e));
    assert_string_equal(e.code, ERR_DRIVER);
    shut();
    open_with(CHOICE_MICROVM, false, 0, 1000); /* whoever says so wants it tried */
    assert_string_equal(t.d->ops->pick(t.d, NULL, &e)->ops->name, "microvm");
    assert_null(t.d->ops->pick(t.d, "process", &e));
    assert_string_equal(e.code, ERR_DRIVER);
    shut();
    k.no_kvm = true;
    open_with(CHOICE_MICROVM, true, 0, 1000); /* never something weaker in its place */
    assert_string_equal(t.d->ops->name, "microvm");
    assert_null(t.d->ops->pick(t.d, NULL, &e));
    assert_string_equal(e.code, ERR_DRIVER);
    shut();
    enum choice_setting s;
    assert_int_equal(choice_setting_parse("microvm", &s, &e), 0);
    assert_int_equal(s, CHOICE_MICROVM);
    assert_int_equal(choice_setting_parse("", &s, &e), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bake_and_create, set_up, tear_down), cmocka_unit_test_setup_teardown(test_bake_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_limits, set_up, tear_down),          cmocka_unit_test_setup_teardown(test_contexts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_fork, set_up, tear_down),            cmocka_unit_test_setup_teardown(test_images, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_paused, set_up, tear_down),          cmocka_unit_test_setup_teardown(test_adopt, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_machines_that_go, set_up, tear_down), cmocka_unit_test_setup_teardown(test_pool, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_choice, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("driver_microvm", tests, NULL, NULL);
}
