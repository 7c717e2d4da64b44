/* process_run: one process, one answer. */
#include <stdlib.h>
#include <string.h>

#include "cell/proc.h"
#include "cell/text.h"

struct run {
    struct cell *cell;
    cell_json_cb cb;
    void *arg;
    bool background;
    int64_t pid;
    char id[DOMAIN_ID];
    struct buf out[2];
    uint64_t dropped[2];
    struct err err;
    struct deferred later;
};

static void run_done(struct run *r, struct err *err, struct json_object *o) {
    r->cb(r->arg, err, o);
    json_object_put(o);
    buf_free(&r->out[0]);
    buf_free(&r->out[1]);
    cell_release(r->cell);
    free(r);
}

static void run_refused(struct deferred *d) {
    struct run *r = container_of(d, struct run, later);
    run_done(r, &r->err, NULL);
}

static struct json_object *head(struct run *r) {
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "id", json_object_new_string(r->id));
    json_object_object_add(o, "pid", json_object_new_int64(r->pid));
    return o;
}

static void collect(struct run *r, int stream, const char *bytes, size_t n) {
    uint64_t max = r->cell->world->config.output_bytes_max;
    size_t room = r->out[stream].len < max ? (size_t)max - r->out[stream].len : 0, take = n < room ? n : room;
    if (r->dropped[stream])
        take = 0;
    else if (take < n)
        take -= text_partial_tail(bytes, take);
    if (take) buf_append(&r->out[stream], bytes, take);
    r->dropped[stream] += n - take;
    r->cell->world->counters.dropped_bytes += n - take;
}

static struct json_object *truncated(struct run *r) {
    static const char *const names[] = {"stdout", "stderr"};
    if (!r->dropped[0] && !r->dropped[1]) return NULL;
    struct json_object *o = json_object_new_object();
    for (int i = 0; i < 2; i++) {
        if (!r->dropped[i]) continue;
        struct json_object *v = json_object_new_object();
        json_object_object_add(v, "dropped_bytes", json_object_new_uint64(r->dropped[i]));
        json_object_object_add(o, names[i], v);
    }
    return o;
}

static void on_end(struct run *r, struct json_object *end, struct err *err) {
    if (err) {
        run_done(r, err, NULL);
        return;
    }
    struct json_object *o = head(r);
    json_object_object_add(o, "stdout", text_json(r->out[0].data, r->out[0].len));
    json_object_object_add(o, "stderr", text_json(r->out[1].data, r->out[1].len));
    json_object_object_foreach(end, key, value) json_object_object_add(o, key, json_object_get(value));
    json_object_object_add(o, "truncated", truncated(r));
    run_done(r, NULL, o);
}

static void on_event(void *arg, struct process *v, enum process_event event, struct json_object *json,
                     const void *bytes, size_t n, struct err *err) {
    struct run *r = arg;
    switch (event) {
    case PROCESS_START:
        r->pid = json_object_get_int64(body_get(json, "pid"));
        if (r->background) {
            struct json_object *o = head(r);
            json_object_object_add(o, "background", json_object_new_boolean(true));
            process_detach(v, false);
            run_done(r, NULL, o);
        }
        break;
    case PROCESS_STDOUT: collect(r, 0, bytes, n); break;
    case PROCESS_STDERR: collect(r, 1, bytes, n); break;
    case PROCESS_END: on_end(r, json, err); break;
    case PROCESS_STDIN_DRAINED: break;
    }
}

static void run(struct cell *c, struct json_object *body, bool ours, cell_json_cb cb, void *arg) {
    struct run *r = calloc(1, sizeof *r);
    if (!r) abort();
    *r = (struct run){.cell = cell_hold(c), .cb = cb, .arg = arg};
    struct proc *p = proc_start(c, body, false, &r->err);
    if (!p) {
        defer(c->world->defers, &r->later, run_refused);
        return;
    }
    p->ours = ours;
    r->background = p->background;
    memcpy(r->id, p->id, sizeof r->id);
    proc_view(p, on_event, r);
}

void process_run(struct cell *c, struct json_object *body, cell_json_cb cb, void *arg) { run(c, body, false, cb, arg); }
void process_run_ours(struct cell *c, struct json_object *body, cell_json_cb cb, void *arg) { run(c, body, true, cb, arg); }
