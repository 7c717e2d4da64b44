/* An execution from its request to the last frame of its context. Its end: execution_end.c. */
#include "cell/execution.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cell/domain.h"
#include "cell/text.h"
#include "wire/context_proto.h"
#include "wire/frame.h"

#define QUEUE_MAX 64        /* waiting in one context */
#define CODE_MAX (8u << 20) /* bytes of code of one execution */
#define STORE_AFTER_MS 100  /* what runs longer than this is written down, so that a later daemon can answer for it */
#define START_MS 60000      /* a context that was just made may still import its libraries: not the code's time */
#define DEFAULT_COLLECT_MAX (1u << 20)

static struct execution *parse(struct cell *c, struct json_object *body, struct err *err) {
    const char *language_word = NULL, *context_id = NULL, *language = NULL;
    int64_t timeout_ms = c->world->config.execute_timeout_default_ms;
    bool svg = false;
    struct json_object *code = body_get(body, "code"), *env = NULL;
    if (cell_usable(c, err) < 0) return NULL;
    if (!json_object_is_type(code, json_type_string)) {
        err_set(err, ERR_INVALID, "code must be a string");
        return NULL;
    }
    if ((size_t)json_object_get_string_len(code) > CODE_MAX) {
        err_set(err, ERR_TOO_LARGE, "code is longer than %u bytes", CODE_MAX);
        return NULL;
    }
    if (body_text(body, "language", &language_word, err) < 0 || body_text(body, "context_id", &context_id, err) < 0 ||
        body_seconds(body, "timeout_seconds", &timeout_ms, err) < 0 || body_map(body, "env", true, &env, err) < 0 ||
        body_bool(body, "svg", &svg, err) < 0)
        return NULL;
    if (language_word && !(language = language_name(language_word))) {
        err_set(err, ERR_INVALID, "language must be \"python\" or \"bash\", not \"%.40s\"", language_word);
        return NULL;
    }
    struct context *context = context_for(c, context_id, language, err);
    if (!context) return NULL;
    if (context->queued >= QUEUE_MAX) {
        err_set(err, ERR_LIMIT, "%d executions wait in this context already", QUEUE_MAX);
        return NULL;
    }
    struct execution *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct execution){.context = context, .svg = svg, .timeout_ms = timeout_ms, .body = json_object_get(body)};
    return x;
}

struct execution *execution_start(struct cell *c, struct json_object *body, bool collect, bool stop_on_input,
                                  execution_cb cb, void *arg, struct err *err) {
    struct execution *x = parse(c, body, err);
    if (!x) return NULL;
    id_make(x->id, "exe_");
    x->collect = collect;
    x->stop_on_input = stop_on_input;
    x->cb = cb;
    x->arg = arg;
    struct context *context = x->context;
    *context->queue_last = x;
    context->queue_last = &x->next;
    context->queued++;
    c->world->counters.executions++;
    cell_touch(c);
    context_next(context);
    return x;
}

const char *execution_id(const struct execution *x) { return x->id; }

/* ---- dispatch ---- */

static void tell_start(struct execution *x) {
    x->told_start = true;
    if (!x->cb) return;
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "execution_id", json_object_new_string(x->id));
    json_object_object_add(o, "context_id", json_object_new_string(x->context->id));
    x->cb(x->arg, x, EXECUTION_START, o, NULL, 0);
    json_object_put(o);
}

static void on_start_turn(struct deferred *d) {
    struct execution *x = container_of(d, struct execution, later);
    if (!x->told_start) tell_start(x);
}

void execution_emit(struct execution *x, enum execution_event event, struct json_object *json, const void *bytes,
                    size_t n) {
    if (!x->told_start && event != EXECUTION_END) tell_start(x);
    if (x->cb) x->cb(x->arg, x, event, json, bytes, n);
}

static void on_store(struct deadline *d) {
    struct execution *x = container_of(d, struct execution, store_at);
    x->stored = true;
    execution_save(x);
}

void execution_save(struct execution *x) {
    struct err err;
    struct world *w = x->context->cell->world;
    struct json_object *row = execution_row(x);
    if (store_execution_put(w->config.store, x->id, x->context->cell->id,
                            json_object_to_json_string_ext(row, JSON_C_TO_STRING_NOSLASHESCAPE), &err) < 0)
        log_warn("%s: %s", x->id, err.text);
    json_object_put(row);
}

static void put_temporary_environment(struct context_link *l, uint32_t number, struct json_object *env) {
    struct buf text = {0};
    json_object_object_foreach(env, name, value) {
        buf_str(&text, name);
        buf_str(&text, "=");
        buf_append(&text, json_object_get_string(value), (size_t)json_object_get_string_len(value) + 1);
    }
    if (text.len) context_link_put(l, CONTEXT_TEMPENV, 0, number, text.data, text.len);
    buf_free(&text);
}

/* It left the queue: one packet carries it to the context. */
void execution_dispatch(struct execution *x) {
    struct context *c = x->context;
    struct world *w = c->cell->world;
    struct json_object *code = body_get(x->body, "code"), *env = body_get(x->body, "env");
    if (++c->last_number == 0) c->last_number = 1; /* 0 means none */
    x->number = c->last_number;
    x->stage = STAGE_RUNNING;
    x->started_ms = wall_ms();
    x->started_us = monotonic_us();
    x->context_restarted = c->restart_unsaid;
    c->restart_unsaid = false;
    if (env) put_temporary_environment(c->link, x->number, env);
    context_link_put(c->link, CONTEXT_EXECUTE, x->svg ? FRAME_SVG : 0, x->number, json_object_get_string(code),
                     (size_t)json_object_get_string_len(code));
    context_link_send(c->link);
    x->known = true;
    context_link_pause(c->link, x->paused);
    execution_arm(x, c->ready ? x->timeout_ms : x->timeout_ms + START_MS);
    deadline_set(w->deadlines, &x->store_at, x->started_us / 1000 + STORE_AFTER_MS, on_store);
    if (!x->told_start) defer(w->defers, &x->later, on_start_turn);
}

/* ---- what the context says ---- */

void execution_on_output(struct execution *x, bool is_err, const void *bytes, size_t n) {
    struct world *w = x->context->cell->world;
    struct output *o = &x->out[is_err];
    uint64_t max = w->config.output_bytes_max ? w->config.output_bytes_max : DEFAULT_COLLECT_MAX,
             room = max - o->passed;
    size_t take = n < room ? n : (size_t)room;
    w->counters.output_bytes += n;
    /* The cut falls between two characters: half of one would be shown as something that was never printed. */
    if (take < n && o->dropped == 0) take -= text_partial_tail(bytes, take);
    if (o->dropped) take = 0; /* after the cut nothing more, or the text would have a hole that nobody sees */
    o->passed += take;
    o->dropped += n - take;
    w->counters.dropped_bytes += n - take;
    if (!take) return;
    if (x->collect) buf_append(&o->kept, bytes, take);
    execution_emit(x, is_err ? EXECUTION_STDERR : EXECUTION_STDOUT, NULL, bytes, take);
}

static void on_input(struct execution *x, struct json_object *json) {
    struct context_link *l = x->context->link;
    /* One that came out of a copy is waited for through its id. */
    if (x->stop_on_input || (!x->cb && !x->forked_from[0])) {
        context_link_put(l, CONTEXT_INPUT_REPLY, FRAME_EOF, x->number, NULL, 0);
        context_link_send(l);
    } else {
        x->wants_input = true;
        execution_emit(x, EXECUTION_INPUT_REQUEST, json, NULL, 0);
    }
}

static void on_done(struct execution *x, struct json_object *json) {
    struct context *c = x->context;
    struct cell *cell = cell_hold(c->cell);
    const char *status = text_field(json, "status");
    struct json_object *v = body_get(json, "execution_count");
    if (json_object_is_type(v, json_type_int)) x->execution_count = json_object_get_int64(v);
    v = body_get(json, "exit_code");
    if (json_object_is_type(v, json_type_int)) {
        x->has_exit_code = true;
        x->exit_code = json_object_get_int(v);
    }
    c->execution_count++;
    c->running = NULL;
    bool signalled = x->stop == STOP_INTERRUPT || x->stop == STOP_TIMEOUT;
    context_link_pause(c->link, false);
    execution_finish(x, execution_word(x, status), NULL);
    if (signalled && !c->restart_cb) context_settle(c);
    context_next(c);
    cell_release(cell);
}

void execution_on_frame(struct execution *x, uint16_t type, struct json_object *json) {
    struct context *c = x->context;
    switch (type) {
    case CONTEXT_DISPLAY:
    case CONTEXT_RESULT:
        x->shown++;
        if (!execution_add_result(x, json, type == CONTEXT_RESULT))
            context_broken(c, "it displayed something that is not a MIME bundle");
        break;
    case CONTEXT_ERROR:
        json_object_put(x->error);
        x->error = execution_clean_error(json);
        execution_emit(x, EXECUTION_ERROR, x->error, NULL, 0);
        break;
    case CONTEXT_INPUT_REQUEST: on_input(x, json); break;
    case CONTEXT_DONE:
        if (text_field(json, "status"))
            on_done(x, json);
        else
            context_broken(c, "it ended an execution without a status");
        break;
    default: break;
    }
}
