/* Fuzz target (libFuzzer): what the keeper makes of a daemon's requests (src/keeper/server.c, cell.c, machine.c and the like, the real ones; the hands
 * below them are replaced by ones that check what they are told to do).
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/keeper_request_fuzz.c \
 *     src/keeper/cell.c src/keeper/cell_make.c src/keeper/capture.c src/keeper/notes.c src/keeper/serve_machine.c src/keeper/machine.c \
 *     src/keeper/machine_copy.c src/keeper/machine_save.c src/keeper/machine_template.c src/base/err.c src/base/fdpass.c src/base/id.c src/base/log.c -lpthread -o /tmp/keeper_request_fuzz
 *   /tmp/keeper_request_fuzz -max_total_time=10 tests/fuzz/keeper_request_corpus
 *
 * Input: requests one after the other. What must hold: no path, number or limit that was not checked reaches the system. */
#include <fcntl.h>
#include <stdlib.h>

#include "keeper/server.c"

#include "keeper/cell_start.h"
#include "keeper/ferry.h"
#include "keeper/left.h"
#include "keeper/snapshot.h"
#include "keeper/shared.h"
#include "keeper/descriptors.h"
#include "keeper/layers.h"
#include "keeper/machine.h"
#include "keeper/machine_files.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

struct host host;
struct zygote zygotes[ZYGOTES_MAX];
static const char good_template[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
#define CAPTURE_NUMBERS 24u
static pid_t next_pid = 1 << 23; /* above every real one: a kill() of it reaches nobody */

static void must(int holds) {
    if (!holds) abort();
}

struct zygote *zygote_find(const char *template_id, int language) {
    for (size_t i = 0; i < 2; i++)
        if (zygotes[i].language == language && !strcmp(zygotes[i].template_id, template_id)) return &zygotes[i];
    return NULL;
}
struct zygote *zygote_start(const char *template_id, int language, uint64_t tag, struct err *e) {
    (void)tag;
    must(strlen(template_id) < KEEPER_TEMPLATE && language > 0 && language < KEEPER_LANGUAGES);
    err_set(e, ERR_NOT_FOUND, "no such template");
    return NULL;
}
int zygote_settle(struct zygote *z, struct err *e) { return (void)z, err_set(e, ERR_INTERNAL, "not here"); }
void zygote_kill(struct zygote *z) { must(z->pid != 0); }
void zygote_reaped(struct zygote *z) { (void)z; }
pid_t zygote_take_spare(struct zygote *z) { return (void)z, 0; }
uint64_t zygote_bytes(uint64_t number) { return (void)number, 0; }
bool zygotes_make_spare(void) { return false; }
bool zygote_has_sentinel(pid_t pid) { return (void)pid, false; }
bool zygote_spare_reaped(pid_t pid) { return (void)pid, false; }

int host_template_fd(const char *template_id, struct err *e) {
    if (strcmp(template_id, good_template)) return err_set(e, ERR_NOT_FOUND, "no such template");
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}
static void name_is_an_id(const char *name) {
    must(id_valid(name, "cel_") || id_valid(name, "cap_") || id_valid(name, "img_") || id_valid(name, "bas_") || id_valid(name, "tpl_") || !strcmp(name, "zygotes"));
}
int layer_make(const char *id, uint64_t disk_bytes, struct err *e) {
    (void)e;
    name_is_an_id(id);
    must(disk_bytes >= 1u << 20);
    return 0;
}
int layer_make_empty(const char *id, uint64_t disk_bytes, struct err *e) { return layer_make(id, disk_bytes, e); }
int layer_fd(const char *id, struct err *e) { return (void)e, name_is_an_id(id), open("/dev/null", O_RDONLY | O_CLOEXEC); }
int layer_limit(const char *id, uint64_t bytes, struct err *e) { return (void)e, name_is_an_id(id), must(bytes >= 1u << 20), 0; }
uint64_t layer_used(const char *id) { return name_is_an_id(id), 0; }
int layer_remove(const char *id, struct err *e) { return (void)e, name_is_an_id(id), 0; }
int cgroup_make(const char *id, const struct keeper_limits *l, struct err *e) { return (void)e, name_is_an_id(id), must(!l || l->pids_max >= 8), 0; }
int cgroup_limit(const char *id, const struct keeper_limits *l, struct err *e) {
    return (void)e, name_is_an_id(id), must(l->memory_bytes >= 16u << 20 && l->cpu_millis >= 10), 0;
}
int cgroup_freeze(const char *id, bool on, struct err *e) { return (void)e, (void)on, name_is_an_id(id), 0; }
int cgroup_freeze_begin(const char *id, bool on, struct err *e) { return cgroup_freeze(id, on, e); }
void cgroup_kill(const char *id) { name_is_an_id(id); }
int cgroup_remove(const char *id) { return name_is_an_id(id), 0; }
int cgroup_stats(const char *id, struct keeper_stats *s, struct err *e) { return (void)s, (void)e, name_is_an_id(id), 0; }
uint64_t cgroup_oom_kills(const char *id) { return name_is_an_id(id), 0; }
uint64_t cgroup_room(const char *id, uint64_t limit) { return (void)limit, name_is_an_id(id), UINT64_MAX; }
int cgroup_enter(const char *id, enum cgroup_place place, pid_t pid, struct err *e) { return (void)e, (void)place, name_is_an_id(id), must(pid >= 1 << 23), 0; }
void cell_hostname(char out[16], const char *id) { must(id_valid(id, "sbx_")), out[0] = 0; }
int cell_start_blank(const struct cell_seed *s, struct cell_blank *out, struct err *e) {
    (void)e;
    name_is_an_id(s->name);
    must(s->uid_base >= HOST_UID_BASE && s->uid_base <= 0x7fff0000u - HOST_UID_RANGE);
    *out = (struct cell_blank){.guest = next_pid++, .sync_fd = -1};
    return 0;
}
int cell_start_tell(const struct cell_blank *b, const struct cell_start *s, struct err *e) {
    (void)e;
    must(b->guest >= 1 << 23 && id_valid(s->id, "sbx_") && s->limits->open_files >= 1024);
    return 0;
}
int cell_start_await(struct cell_blank *b, struct err *e) { return (void)b, (void)e, 0; }
int layer_rename(const char *from, const char *to, struct err *e) { return (void)e, name_is_an_id(from), name_is_an_id(to), 0; }
struct keep keeps[KEEPS_MAX];
int keep_start(struct capture *k, const char *id, uint64_t tag, struct err *e) {
    (void)tag;
    must(k->used);
    return id_valid(id, "img_") && !k->kept[0] ? capture_keep_layer(k, id, e) : err_set(e, ERR_INVALID, "not an id");
}
int keep_finish(struct keep *p, uint64_t *bytes, struct err *e) { return (void)p, (void)e, (int)(*bytes = 0); }
int keep_drop(const char *id, struct err *e) {
    if (!id_valid(id, "img_")) return err_set(e, ERR_INVALID, "not an id");
    return capture_takes_back(id, e) ? 0 : layer_remove(id, e);
}
void keeps_forget(void) {}
DIR *layers_list(void) { return opendir("/proc/self/fdinfo"); }
const char *layers_next_kept(DIR *d) { return (void)d, NULL; }
uint64_t layer_bytes(const char *id) { return name_is_an_id(id), 0; }
void layers_grow(void) {}
bool zygote_lives(uint64_t number) { return number == 1; }
int ferry(pid_t sentinel, pid_t spare, const struct image *im, const struct ferry_target *to, struct ferry_result *out, struct err *e) {
    (void)im, (void)e;
    must(!spare);
    name_is_an_id(to->cell_name);
    must(sentinel == 7777777 || sentinel >= 1 << 23);
    *out = (struct ferry_result){.sentinel = next_pid, .context = next_pid + 1, .control_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    next_pid += 2;
    return 0;
}

int layer_snapshot(const char *from, const char *id, struct err *e) { return (void)e, name_is_an_id(from), name_is_an_id(id), 0; }
int layer_flush(const char *from, const char *id, struct err *e) { return (void)e, name_is_an_id(from), name_is_an_id(id), 0; }
uint64_t cgroup_dirty(const char *id) { return name_is_an_id(id), 1u << 20; }
void inject_deadline(unsigned ms) { (void)ms; }
int image_freeze(struct image *im, pid_t leader, pid_t sentinel, struct err *e) {
    (void)sentinel;
    must(leader >= 1 << 23);
    *im = (struct image){.thread = calloc(1, sizeof *im->thread), .threads = 1, .frozen = true};
    return im->thread ? 0 : err_set(e, ERR_INTERNAL, "memory");
}
void image_thaw(struct image *im) { im->frozen = false; }
void image_free(struct image *im) {
    must(!im->frozen);
    free(im->thread);
    *im = (struct image){0};
}
pid_t sentinel_copy(pid_t sentinel, const struct image *im, struct err *e) {
    (void)e;
    must(sentinel >= 1 << 23 && im->thread);
    return next_pid++;
}

void inject_stay(bool on) { (void)on; }
int snapshot_prepare(struct snapshot *s, const char *from, const char *to, struct err *e) {
    (void)e;
    if (from) name_is_an_id(from), name_is_an_id(to);
    *s = (struct snapshot){.from = from, .to = to, .made = true};
    return 0;
}
void snapshot_go(struct snapshot *s) {
    must(s->made);
    s->wanted = true;
    if (s->then) s->then(s->arg);
}
int snapshot_end(struct snapshot *s, struct err *e) { return (void)e, s->made = false, 0; }
int descriptors_note(struct image *im, pid_t leader, const int streams[2], struct err *e) { return (void)streams, (void)e, must(im->frozen && leader >= 1 << 23), 0; }
int descriptors_copy(struct image *im, pid_t leader, pid_t copy, struct copy_budget *left, struct err *e) { return (void)e, must(left->files > 0), must(im->frozen && leader != copy), 0; }
int descriptors_join(struct image *im, pid_t copy, struct err *e) { return (void)im, (void)e, must(copy >= 1 << 23), 0; }
int shared_copy(struct image *im, pid_t leader, pid_t copy, struct copy_budget *left, struct err *e) { return (void)im, (void)left, (void)e, must(leader != copy), 0; }
int image_write(const struct image *im, struct err *e) { return (void)e, must(im->thread != NULL), open("/dev/null", O_RDONLY | O_CLOEXEC); }
int thaw_begin(struct cell *c, int slot, struct zygote *z, int state_fd, int fds[2], struct err *e) {
    (void)z, (void)state_fd, (void)fds;
    must(cell_alive(c) && slot >= 0 && slot < KEEPER_SLOTS);
    return err_set(e, ERR_INVALID, "no state");
}
int thaw_calls(struct cell *c, int slot, int fd, struct err *e) {
    (void)fd, must(cell_alive(c) && slot >= 0 && slot < KEEPER_SLOTS);
    return err_set(e, ERR_INVALID, "no table");
}
int thaw_run(struct cell *c, int slot, struct notes *n, struct err *e) {
    (void)n, must(cell_alive(c) && slot >= 0 && slot < KEEPER_SLOTS);
    return err_set(e, ERR_NOT_FOUND, "nothing waits here");
}
void thaws_drop(void) {}
void left_processes(const struct cell *c, struct notes *n) { (void)n, must(cell_alive(c)); }
void left_timers(pid_t context, struct notes *n) { (void)n, must(context >= 1 << 23); }
int image_ask_actions(struct image *im, pid_t copy, struct err *e) { return (void)e, must(im->thread && copy >= 1 << 23), 0; }

/* ---- machines: monitors that do what they are told ---- */

static int nothing(void) { return open("/dev/null", O_RDWR | O_CLOEXEC); }
bool vmm_fell;
int vmm_loop_fd(void) { return -1; }
void vmm_loop(void) {}
int watch_add(struct watch *w, struct err *e) { return (void)e, must(w->fd >= 0), 0; }
void watch_end(struct watch *w) { close_fd(&w->fd); }
uid_t vmm_uid(void) { return HOST_UID_MONITORS; }
int vmm_start(struct vmm *v, bool of_template, struct err *e) {
    (void)of_template, (void)e;
    name_is_an_id(v->group);
    must(v->uid >= HOST_UID_MONITORS);
    v->watch.fd = nothing();
    v->pid = next_pid++;
    v->over = false;
    return 0;
}
int vmm_pair(struct vmm *v, struct err *e) {
    (void)e;
    v->watch.fd = nothing();
    v->over = false;
    return nothing();
}
int vmm_fork(struct vmm *parent, struct vmm *v, int theirs, struct err *e) {
    (void)e;
    must(parent->watch.fd >= 0 && !parent->over && v->watch.fd >= 0 && v->uid);
    name_is_an_id(v->group);
    close(theirs);
    return 0;
}
int vmm_forked(struct vmm *parent, struct vmm *v, struct err *e) { return (void)parent, (void)e, v->pid = next_pid++, 0; }
int vmm_move(struct vmm *v, const char *group, struct err *e) {
    (void)e;
    name_is_an_id(group);
    (void)snprintf(v->group, sizeof v->group, "%s", group);
    return 0;
}
void vmm_take(struct vmm *to, struct vmm *from) {
    *to = *from;
    to->watch.ready = NULL;
    from->watch.fd = -1;
    from->group[0] = 0;
    from->over = true;
}
void vmm_end(struct vmm *v) {
    close_fd(&v->watch.fd);
    v->over = true;
}
void vmm_bury(const char *group) { name_is_an_id(group); }
bool vmm_sweep(void) { return false; }
uint32_t vmm_send(struct vmm *v, enum vmm_type type, const struct vmm_ask *a, struct err *e) {
    (void)e;
    must(v->watch.fd >= 0 && !v->over && type >= VMM_CONFIG && type <= VMM_STOP);
    for (unsigned i = 0; a && i < a->fds; i++) must(a->fd[i] >= 0);
    return ++v->seq;
}
int vmm_wait(struct vmm *v, uint32_t seq, enum vmm_type type, int limit_ms, uint64_t arg[6], struct err *e) {
    (void)e;
    must(v->watch.fd >= 0 && seq && type >= VMM_CONFIG && limit_ms > 0);
    if (arg) memset(arg, 0, 6 * sizeof *arg);
    return 0;
}
int vmm_ask(struct vmm *v, enum vmm_type type, const struct vmm_ask *a, int limit_ms, uint64_t arg[6], struct err *e) {
    if (type == VMM_CONFIG) must(a->arg[1] >= 1 && a->arg[1] <= VMM_VCPUS_MAX && a->arg[0] >= 16u << 20);
    return vmm_wait(v, vmm_send(v, type, a, e), type, limit_ms, arg, e);
}
void vmm_hear(struct vmm *v) { (void)v; }

int machine_dir(const char *template_id, struct err *e) { return host_template_fd(template_id, e); }
int machine_file(int dir, const char *name, struct err *e) { return (void)e, must(dir >= 0 && !strchr(name, '/')), nothing(); }
int base_newest(int dir, char out[KEEPER_ID], struct err *e) {
    (void)e, (void)dir;
    (void)snprintf(out, KEEPER_ID, "bas_%032d", 1);
    return 0;
}
int base_file(int dir, const char *base, const char *name, struct err *e) { /* checks the name itself, like the real one */
    (void)dir, must(!strchr(name, '/'));
    return id_valid(base, "bas_") ? nothing() : err_set(e, ERR_INVALID, "not the name of a base");
}
int base_read(int dir, const char *base, struct base_config *out, struct err *e) {
    cleanup_close int fd = base_file(dir, base, "config", e);
    if (fd < 0) return -1;
    *out = (struct base_config){.memory_bytes = 64u << 20, .vcpus = 1, .slots = 1, .disk_size = 1u << 20};
    return 0;
}
int base_begin(int dir, const char *base, const struct base_config *c, int root_fd, struct base_files *out, struct err *e) {
    (void)dir, (void)e;
    must(id_valid(base, "bas_") && root_fd >= 0 && c->vcpus);
    *out = (struct base_files){nothing(), nothing()};
    return 0;
}
int base_finish(int dir, const char *base, uint64_t *bytes, struct err *e) { return (void)dir, (void)bytes, (void)e, must(id_valid(base, "bas_")), 0; }
void base_drop(int dir, const char *base) { (void)dir, must(id_valid(base, "bas_")); }
int console_make(int dir, const char *name, struct err *e) { return (void)dir, (void)e, name ? name_is_an_id(name) : (void)0, nothing(); }
void console_drop(const char *template_id, const char *name) { must(!strcmp(template_id, good_template)), name_is_an_id(name); }
int disk_open(const char *layer, struct err *e) { return (void)e, name_is_an_id(layer), nothing(); }
int disk_fresh(int dir, const char *layer, struct err *e) { return (void)e, must(dir >= 0), name_is_an_id(layer), 0; }

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    static const int no_fds[2] = {-1, -1};
    static int fds[2] = {-1, -1};
    for (int i = 0; i < 2; i++)
        if (fds[i] < 0) fds[i] = nothing();
    host.features |= KEEPER_HAS_KVM;
    log_open("fuzz", LOG_ERROR);
    for (size_t i = 0; i < 2; i++) {
        zygotes[i] = (struct zygote){.language = (int)i + 1, .pid = 7777777, .ready = true, .ready_fd = -1};
        memcpy(zygotes[i].template_id, good_template, sizeof good_template);
    }
    for (; size >= sizeof(struct keeper_request); data += sizeof(struct keeper_request), size -= sizeof(struct keeper_request)) {
        struct keeper_request q;
        memcpy(&q, data, sizeof q);
        q.magic = KEEPER_MAGIC;
        q.op %= KEEPER_MACHINE_RESTORE + 2;
        q.cell %= 16;
        if (q.serial & 1) q.serial = cells[q.cell].serial; /* the fuzzer cannot know it */
        if ((q.op >= KEEPER_CAPTURE && q.op <= KEEPER_LAYER_KEEP) || q.op == KEEPER_MACHINE_COPY || q.op == KEEPER_MACHINE_SAVE) q.capture %= CAPTURE_NUMBERS;
        if (q.on & 2) memcpy(q.template_id, good_template, sizeof good_template);
        serve(&q, q.op >= KEEPER_MACHINE_BOOT ? fds : no_fds); /* they stay the caller's */
        machines_settle();
    }
    forget_client();
    /* end what was made, as the reaper would */
    for (uint32_t i = 0; i < KEEPER_CELLS_MAX && cells[i].used; i++) {
        for (int slot = 0; slot < KEEPER_SLOTS; slot++) {
            pid_t context = cells[i].context[slot].context, sentinel = cells[i].context[slot].sentinel;
            if (context) must(cell_reaped(context, 9));
            if (sentinel) must(cell_reaped(sentinel, 9));
        }
        if (cells[i].guest) must(cell_reaped(cells[i].guest, 9));
        if (cells[i].machine && !cells[i].dying) cell_destroy(&cells[i]);
    }
    must(!cell_sweep());
    must(!capture_has_sentinel(next_pid - 1));
    for (uint32_t i = 0; i < 64; i++) must(!cells[i].used);
    return 0;
}
