#include "plain_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "base/log.h"
#include "plain_spawn.h"
#include "wire/context_proto.h"
#include "wire/guest_proto.h"

struct slot {
    pid_t pid;                /* 0: empty */
    struct context_ends kept; /* our duplicates: what a keeper holds for the next daemon */
};
struct driver_cell {
    const struct driver_ops *ops; /* first (driver.h) */
    struct driver_cell *next;
    struct plain *driver; /* NULL while nobody owns the cell (between close() and open()) */
    char id[CELL_ID_MAX], template_id[TEMPLATE_ID_HEX + 1], home[96];
    pid_t guest;
    int guest_kept;
    bool gone, handed; /* handed: create() has answered; exits are reported from then on */
    struct slot slots[DRIVER_SLOTS];
};
struct plain {
    struct driver base;
    uv_loop_t *loop;
    uv_signal_t sigchld;
    struct driver_listener listener;
    struct driver_cell *cells;
    struct later *laters;
    uint64_t created;
    char guest[512], contexts[512];
    char shell[128]; /* directory with kernel.sh and cella_shell.so side by side */
};

static struct driver_cell *survivors; /* cells of a closed driver of this process */

/* ---- callbacks happen later, never inside the call that took them ---- */

struct later {
    uv_timer_t timer;
    struct later *next;
    struct plain *p;
    void (*run)(struct later *);
    struct driver_cell *cell;
    int slot;
    void *cb, *arg;
    bool failed;
    struct err err;
    struct driver_created created;
    struct context_ends ends;
};

static void later_freed(uv_handle_t *h) { free(h->data); }
static void later_forget(struct later *l) {
    struct later **at = &l->p->laters;
    while (*at && *at != l) at = &(*at)->next;
    if (*at) *at = l->next;
    uv_close((uv_handle_t *)&l->timer, later_freed);
}
static void later_fire(uv_timer_t *t) {
    struct later *l = t->data;
    l->run(l);
    later_forget(l);
}
static struct later *later(struct plain *p, void (*run)(struct later *), void *cb, void *arg) {
    struct later *l = calloc(1, sizeof *l);
    if (!l) abort();
    *l = (struct later){.p = p, .run = run, .cb = cb, .arg = arg, .next = p->laters};
    p->laters = l;
    uv_timer_init(p->loop, &l->timer);
    l->timer.data = l;
    uv_timer_start(&l->timer, later_fire, 0, 0);
    return l;
}
static void run_done(struct later *l) {
    driver_done done;
    memcpy(&done, &l->cb, sizeof done);
    if (done) done(l->arg, l->failed ? &l->err : NULL);
}
static void later_done(struct plain *p, driver_done done, void *arg) {
    void *cb;
    memcpy(&cb, &done, sizeof cb);
    later(p, run_done, cb, arg);
}

/* ---- starting programs ---- */

static int stream_pair(int ends[2], struct err *err) {
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        return err_sys(err, errno, "socketpair");
    (void)fcntl(ends[1], F_SETFL, 0); /* the cell's end blocks */
    return 0;
}

static int keep(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 3); }

static int start_guest(struct driver_cell *c, int *fd, struct err *err) {
    int ends[2];
    if (stream_pair(ends, err) < 0) return -1;
    cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC), theirs = ends[1];
    char home[128], name[64];
    (void)snprintf(home, sizeof home, "HOME=%s", plain_workspace(c->home));
    (void)snprintf(name, sizeof name, "HOSTNAME=%.12s", c->id + 4);
    struct plain_child ch = {.argv = (const char *const[]){c->driver->guest, NULL},
                             .env = (const char *const[]){home, name, "PATH=/usr/local/bin:/usr/bin:/bin",
                                                          "LANG=C.UTF-8", "USER=user", NULL},
                             .home = c->home,
                             .fds = {null, theirs},
                             .target = {0, GUEST_FD_STREAM, -1}};
    c->guest = plain_spawn(&ch, err);
    if (c->guest < 0) {
        close(ends[0]);
        return -1;
    }
    c->guest_kept = keep(ends[0]);
    *fd = ends[0];
    return 0;
}

static int start_context(struct driver_cell *c, int slot, const char *language, struct context_ends *out,
                         struct err *err) {
    int control[2], o[2], e[2];
    char program[600], home[128];
    bool shell = strcmp(language, "shell") == 0;
    (void)snprintf(program, sizeof program, "%s%s", shell ? c->driver->shell : c->driver->contexts,
                   shell ? "/kernel.sh" : "/python/kernel.py");
    if (access(program, R_OK) < 0) return err_sys(err, errno, "kernel of the language %s at %s", language, program);
    if (stream_pair(control, err) < 0) return -1;
    if (pipe2(o, O_CLOEXEC) < 0 || pipe2(e, O_CLOEXEC) < 0) return err_sys(err, errno, "pipe");
    cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC), c1 = control[1], o1 = o[1], e1 = e[1];
    (void)fcntl(o[0], F_SETFL, O_NONBLOCK);
    (void)fcntl(e[0], F_SETFL, O_NONBLOCK);
    (void)snprintf(home, sizeof home, "HOME=%s", plain_workspace(c->home));
    struct plain_child ch = {.argv = shell ? (const char *const[]){"/bin/bash", "--noprofile", "--norc", program, NULL}
                                           : (const char *const[]){"/usr/bin/python3", "-X", "utf8", program, NULL},
                             .env = (const char *const[]){home, "CELLA_KERNEL_DIRECT=1",
                                                          "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8",
                                                          "USER=user", "PYTHONDONTWRITEBYTECODE=1", NULL},
                             .home = c->home,
                             .fds = {null, o1, e1, c1},
                             .target = {0, 1, 2, CONTEXT_FD},
                             .join = c->guest};
    pid_t pid = plain_spawn(&ch, err);
    *out = (struct context_ends){control[0], o[0], e[0]};
    if (pid < 0) {
        close(control[0]), close(o[0]), close(e[0]);
        return -1;
    }
    c->slots[slot] = (struct slot){pid, {keep(control[0]), keep(o[0]), keep(e[0])}};
    return 0;
}

/* ---- ends of programs ---- */

static void slot_clear(struct slot *s) {
    if (s->pid) close_fd(&s->kept.control_fd), close_fd(&s->kept.stdout_fd), close_fd(&s->kept.stderr_fd);
    s->pid = 0;
}

static void cell_free(struct driver_cell *c) {
    struct driver_cell **at = c->driver ? &c->driver->cells : &survivors;
    while (*at && *at != c) at = &(*at)->next;
    if (*at) *at = c->next;
    for (int i = 0; i < DRIVER_SLOTS; i++) slot_clear(&c->slots[i]);
    close_fd(&c->guest_kept);
    plain_remove_tree(c->home);
    free(c);
}

/* SIGKILL to everything the cell runs, and wait for it: short, the processes are ours. */
static void cell_kill(struct driver_cell *c) {
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->slots[i].pid)
            kill(-c->slots[i].pid, SIGKILL), kill(c->slots[i].pid, SIGKILL), waitpid(c->slots[i].pid, NULL, 0);
    if (c->guest > 0) kill(-c->guest, SIGKILL), kill(c->guest, SIGKILL), waitpid(c->guest, NULL, 0);
    c->guest = 0;
    for (int i = 0; i < DRIVER_SLOTS; i++) slot_clear(&c->slots[i]);
}

static void reap_slot(struct plain *p, struct driver_cell *c, int slot) {
    int status;
    if (!c->slots[slot].pid || waitpid(c->slots[slot].pid, &status, WNOHANG) != c->slots[slot].pid) return;
    kill(-c->slots[slot].pid, SIGKILL); /* what it left in its process group */
    slot_clear(&c->slots[slot]);
    if (!p->listener.on_context_exit) return;
    if (WIFSIGNALED(status))
        p->listener.on_context_exit(p->listener.arg, c, slot, FATE_KILLED, WTERMSIG(status));
    else
        p->listener.on_context_exit(p->listener.arg, c, slot, FATE_EXITED, WEXITSTATUS(status));
}

static void on_sigchld(uv_signal_t *h, int signo) {
    (void)signo;
    struct plain *p = h->data;
    for (struct driver_cell *c = p->cells, *next; c; c = next) {
        next = c->next;
        if (c->gone || !c->handed) continue;
        for (int i = 0; i < DRIVER_SLOTS; i++) reap_slot(p, c, i);
        if (c->guest <= 0 || waitpid(c->guest, NULL, WNOHANG) != c->guest) continue;
        c->guest = 0;
        c->gone = true;
        cell_kill(c);
        if (p->listener.on_cell_gone) p->listener.on_cell_gone(p->listener.arg, c, CELL_FATE_KILLED);
        cell_free(c);
    }
}

/* ---- the operations ---- */

static void op_set_listener(struct driver *d, const struct driver_listener *l) { ((struct plain *)d)->listener = *l; }

static void run_adopt(struct later *l) {
    for (struct driver_cell *c = l->p->cells, *next; c; c = next) {
        next = c->next;
        struct context_ends ends[DRIVER_SLOTS];
        for (int i = 0; i < DRIVER_SLOTS; i++) {
            struct slot *s = &c->slots[i];
            ends[i] = s->pid ? (struct context_ends){keep(s->kept.control_fd), keep(s->kept.stdout_fd),
                                                     keep(s->kept.stderr_fd)}
                             : (struct context_ends){-1, -1, -1};
        }
        l->p->listener.on_adopt(l->p->listener.arg, c, c->template_id, keep(c->guest_kept), ends);
    }
    run_done(l);
}
static void op_adopt(struct driver *d, driver_done done, void *arg) {
    void *cb;
    memcpy(&cb, &done, sizeof cb);
    later((struct plain *)d, run_adopt, cb, arg);
}
static void op_warm(struct driver *d, const char *template_id, driver_done done, void *arg) {
    (void)template_id;
    later_done((struct plain *)d, done, arg);
}

static void run_create(struct later *l) {
    driver_create_done done;
    memcpy(&done, &l->cb, sizeof done);
    done(l->arg, l->failed ? &l->err : NULL, l->failed ? NULL : &l->created);
    if (l->failed) return;
    l->created.cell->handed = true;
    on_sigchld(&l->p->sigchld, SIGCHLD); /* what ended meanwhile */
}
static int make_cell(struct driver_cell *c, struct driver_created *out, struct err *err) {
    (void)snprintf(c->home, sizeof c->home, "/tmp/cella-plain-%s", c->id + 4);
    if (mkdir(c->home, 0755) < 0) return err_sys(err, errno, "mkdir %s", c->home);
    if (geteuid() == 0 && chown(c->home, 1000, 1000) < 0) return err_sys(err, errno, "chown %s", c->home);
    out->cell = c;
    out->from = "made";
    if (start_guest(c, &out->guest_fd, err) < 0) return -1;
    if (start_context(c, 0, "python", &out->python, err) == 0) return 0;
    close(out->guest_fd);
    return -1;
}
static void op_create(struct driver *d, const char *template_id, const struct cell_limits *limits,
                      driver_create_done done, void *arg) {
    (void)limits;
    struct plain *p = (struct plain *)d;
    void *cb;
    memcpy(&cb, &done, sizeof cb);
    struct later *l = later(p, run_create, cb, arg);
    struct driver_cell *c = calloc(1, sizeof *c);
    if (!c) abort();
    c->driver = p;
    c->ops = p->base.ops;
    c->guest_kept = -1;
    id_make(c->id, "sbx_");
    (void)snprintf(c->template_id, sizeof c->template_id, "%s", template_id);
    c->next = p->cells;
    p->cells = c;
    if (make_cell(c, &l->created, &l->err) < 0) {
        l->failed = true;
        cell_kill(c);
        cell_free(c);
    } else
        p->created++;
}

static void run_context(struct later *l) {
    driver_context_done done;
    memcpy(&done, &l->cb, sizeof done);
    done(l->arg, l->failed ? &l->err : NULL, l->failed ? NULL : &l->ends);
}
static void op_context_make(struct driver_cell *c, int slot, const char *language, driver_context_done done,
                            void *arg) {
    void *cb;
    memcpy(&cb, &done, sizeof cb);
    struct later *l = later(c->driver, run_context, cb, arg);
    l->failed = true;
    if (slot < 0 || slot >= DRIVER_SLOTS || c->slots[slot].pid)
        err_set(&l->err, ERR_CONFLICT, "slot %d is taken", slot);
    else
        l->failed = start_context(c, slot, language, &l->ends, &l->err) < 0;
}
static void op_context_signal(struct driver_cell *c, int slot, int signo) {
    if (slot >= 0 && slot < DRIVER_SLOTS && c->slots[slot].pid) kill(c->slots[slot].pid, signo);
}
static void op_set_limits(struct driver_cell *c, const struct cell_limits *limits, driver_done done, void *arg) {
    (void)limits;
    later_done(c->driver, done, arg);
}
static void signal_all(struct driver_cell *c, int signo) {
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->slots[i].pid) kill(-c->slots[i].pid, signo);
}
static void op_pause(struct driver_cell *c, driver_done done, void *arg) {
    signal_all(c, SIGSTOP);
    later_done(c->driver, done, arg);
}
static void op_resume(struct driver_cell *c, driver_done done, void *arg) {
    signal_all(c, SIGCONT);
    later_done(c->driver, done, arg);
}

static uint64_t rss_of(pid_t pid) {
    char path[64];
    unsigned long long size, resident = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    cleanup_file FILE *f = fopen(path, "re");
    if (!f || fscanf(f, "%llu %llu", &size, &resident) != 2) return 0;
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}
/* Of that process alone: what it started and has not waited for is not in it. */
static uint64_t cpu_us_of(pid_t pid) {
    char path[64];
    unsigned long long user, system;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    cleanup_file FILE *f = fopen(path, "re");
    if (!f || fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2) return 0;
    return (user + system) * 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);
}
static void run_stats(struct later *l) {
    driver_stats_done done;
    memcpy(&done, &l->cb, sizeof done);
    struct cell_stats s = {.pids = 1, .memory_bytes = rss_of(l->cell->guest)};
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (l->cell->slots[i].pid) {
            s.pids++;
            s.memory_bytes += rss_of(l->cell->slots[i].pid);
            s.cpu_us += cpu_us_of(l->cell->slots[i].pid);
        }
    s.memory_peak_bytes = s.memory_bytes;
    done(l->arg, NULL, &s);
}
static void op_stats(struct driver_cell *c, driver_stats_done done, void *arg) {
    void *cb;
    memcpy(&cb, &done, sizeof cb);
    later(c->driver, run_stats, cb, arg)->cell = c;
}

static void run_destroy(struct later *l) {
    cell_free(l->cell);
    run_done(l);
}
static void op_destroy(struct driver_cell *c, driver_done done, void *arg) {
    void *cb;
    memcpy(&cb, &done, sizeof cb);
    c->gone = true;
    cell_kill(c);
    later(c->driver, run_destroy, cb, arg)->cell = c;
}
static const char *op_id(const struct driver_cell *c) { return c->id; }
static struct json_object *op_report(struct driver *d) {
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "name", json_object_new_string("plain"));
    json_object_object_add(o, "created_total", json_object_new_int64((int64_t)((struct plain *)d)->created));
    return o;
}

static void freed(uv_handle_t *h) { free(h->data); }
static void op_close(struct driver *d) {
    struct plain *p = (struct plain *)d;
    while (p->laters) {
        struct later *l = p->laters;
        if (l->run == run_destroy) cell_free(l->cell);
        later_forget(l);
    }
    for (struct driver_cell *c; (c = p->cells);) {
        p->cells = c->next;
        c->driver = NULL;
        c->next = survivors;
        survivors = c;
    }
    if (strncmp(p->shell, "/tmp/cella-plain-shell-", 23) == 0) plain_remove_tree(p->shell);
    uv_signal_stop(&p->sigchld);
    uv_close((uv_handle_t *)&p->sigchld, freed);
}

static const struct driver_ops plain_ops = {
    .name = "plain",
    .isolation = "none: development and tests only",
    .set_listener = op_set_listener,
    .adopt = op_adopt,
    .warm = op_warm,
    .create = op_create,
    .context_make = op_context_make,
    .context_signal = op_context_signal,
    .set_limits = op_set_limits,
    .pause = op_pause,
    .resume = op_resume,
    .stats = op_stats,
    .destroy = op_destroy,
    .id = op_id,
    .report = op_report,
    .close = op_close,
};

/* The shell kernel looks for its module beside its script; in a build tree they lie apart. */
static int shell_directory(struct plain *p, struct err *err) {
    const char *module = getenv("CELLA_SHELL_SO");
    char script[600], path[192];
    (void)snprintf(path, sizeof path, "%.100s/shell", p->contexts);
    (void)snprintf(script, sizeof script, "%s/cella_shell.so", path);
    if (!module && access(script, R_OK) == 0) { /* an installed tree has both */
        (void)snprintf(p->shell, sizeof p->shell, "%.120s", path);
        return 0;
    }
    (void)snprintf(p->shell, sizeof p->shell, "/tmp/cella-plain-shell-%d", (int)getpid());
    (void)snprintf(script, sizeof script, "%s/shell/kernel.sh", p->contexts);
    if (!module) module = "/nonexistent"; /* a shell context then says that it cannot start */
    if (mkdir(p->shell, 0755) < 0 && errno != EEXIST) return err_sys(err, errno, "mkdir %s", p->shell);
    (void)snprintf(path, sizeof path, "%s/kernel.sh", p->shell);
    (void)unlink(path);
    if (symlink(script, path) < 0) return err_sys(err, errno, "symlink %s", path);
    (void)snprintf(path, sizeof path, "%s/cella_shell.so", p->shell);
    (void)unlink(path);
    return symlink(module, path) < 0 ? err_sys(err, errno, "symlink %s", path) : 0;
}

struct driver *plain_driver_open(uv_loop_t *loop, struct err *err) {
    const char *guest = getenv("CELLA_GUEST"), *contexts = getenv("CELLA_CONTEXTS");
    if (!guest || access(guest, X_OK) < 0 || !contexts) {
        err_hint(err, ERR_UNAVAILABLE, "Set CELLA_GUEST to the cella-guest binary and CELLA_CONTEXTS to src/contexts.",
                 "the plain driver does not find the programs of a cell");
        return NULL;
    }
    struct plain *p = calloc(1, sizeof *p);
    if (!p) abort();
    p->base.ops = &plain_ops;
    p->loop = loop;
    (void)snprintf(p->guest, sizeof p->guest, "%s", guest);
    (void)snprintf(p->contexts, sizeof p->contexts, "%s", contexts);
    uv_signal_init(loop, &p->sigchld);
    p->sigchld.data = p;
    uv_signal_start(&p->sigchld, on_sigchld, SIGCHLD);
    uv_unref((uv_handle_t *)&p->sigchld);
    if (shell_directory(p, err) < 0) {
        uv_close((uv_handle_t *)&p->sigchld, freed);
        return NULL;
    }
    p->cells = survivors;
    survivors = NULL;
    for (struct driver_cell *c = p->cells; c; c = c->next) c->driver = p;
    return &p->base;
}

const char *plain_driver_home(const struct driver_cell *c) { return c->home; }
