/* Small operations on a cell's files: one question, one answer. Paths go to the guest as they come. */
#include <stdlib.h>
#include <string.h>

#include "api/files_json.h"
#include "api/handlers.h"
#include "cell/files.h"

static void call(struct request *rq, struct json_object *taken, cell_json_cb done) {
    files_call(rq->cell, taken, done, request_hold(rq));
    json_object_put(taken);
}

static void listed(void *arg, struct err *e, struct json_object *json) {
    struct request *rq = arg;
    if (e)
        reply_err(rq, e);
    else
        reply_json(rq, 200, files_listing(json));
    request_release(rq);
}

static void statted(void *arg, struct err *e, struct json_object *json) {
    struct request *rq = arg;
    if (e)
        reply_err(rq, e);
    else
        reply_json(rq, 200, files_entry(json));
    request_release(rq);
}

static void done_empty(void *arg, struct err *e, struct json_object *json) {
    (void)json;
    answer_empty(arg, e);
}

void handle_fs_dir(struct request *rq) {
    struct err e;
    long long depth;
    if (query_number(&rq->query, "depth", 1, 64, 1, &depth, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    struct json_object *op = path_operation(rq, "list", "/workspace");
    if (!op) return;
    json_set_int(op, "depth", depth);
    call(rq, op, listed);
}

void handle_fs_stat(struct request *rq) {
    struct json_object *op = path_operation(rq, "stat", NULL);
    if (op) call(rq, op, statted);
}

void handle_fs_delete(struct request *rq) {
    bool recursive;
    if (!flag_of(rq, "recursive", &recursive)) return;
    struct json_object *op = path_operation(rq, "remove", NULL);
    if (!op) return;
    json_set_flag(op, "recursive", recursive);
    call(rq, op, done_empty);
}

/* Fields of the JSON body that the operation knows, checked for their types; ?path= stands in for "path". */
static int text_field(struct request *rq, struct json_object *op, const char *name, struct err *e) {
    const char *value = NULL;
    if (json_get_text(rq->body, name, &value, e) < 0) return -1;
    if (!value) value = request_query(rq, name);
    if (!value || !*value) return err_set(e, ERR_INVALID, "\"%s\" is missing", name);
    json_set_text(op, name, value);
    return 0;
}

static int flag_field(struct request *rq, struct json_object *op, const char *name, bool fallback, struct err *e) {
    bool value = fallback;
    if (json_get_flag(rq->body, name, &value, e) < 0) return -1;
    json_set_flag(op, name, value);
    return 0;
}

static struct json_object *checked(struct request *rq, struct json_object *op, int result, const struct err *e) {
    if (result == 0) return op;
    reply_err(rq, e);
    json_object_put(op);
    return NULL;
}

void handle_fs_mkdir(struct request *rq) {
    struct err e;
    int mode = -1, bad = 0;
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "mkdir");
    bad = text_field(rq, op, "path", &e) < 0 || flag_field(rq, op, "parents", true, &e) < 0 ||
          files_mode(json_field(rq->body, "mode"), &mode, &e) < 0;
    if (mode >= 0) json_set_int(op, "mode", mode);
    if (checked(rq, op, bad, &e)) call(rq, op, answer_json);
}

void handle_fs_move(struct request *rq) {
    struct err e;
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "move");
    int bad = text_field(rq, op, "from", &e) < 0 || text_field(rq, op, "to", &e) < 0 ||
              flag_field(rq, op, "overwrite", false, &e) < 0;
    if (checked(rq, op, bad, &e)) call(rq, op, done_empty);
}

void handle_fs_disk(struct request *rq) {
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "disk");
    call(rq, op, answer_json);
}

void handle_fs_ports(struct request *rq) {
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "ports");
    call(rq, op, answer_json);
}
