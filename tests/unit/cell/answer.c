#include "answer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

void on_json(void *arg, struct err *err, struct json_object *o) {
    struct answer *a = arg;
    assert_false(a->done);
    a->done = true;
    if (err) (void)snprintf(a->code, sizeof a->code, "%s", err->code);
    if (err) (void)snprintf(a->error, sizeof a->error, "%s", err->text);
    a->json = json_object_get(o);
}

void on_done(void *arg, struct err *err) { on_json(arg, err, NULL); }

void on_cell(void *arg, struct err *err, struct cell *c) {
    on_json(arg, err, NULL);
    assert_true(err || c);
    ((struct answer *)arg)->cell = c;
}

void answer_put(struct answer *a) {
    json_object_put(a->json);
    *a = (struct answer){0};
}

struct json_object *field(struct json_object *o, const char *path) {
    struct json_object *v = NULL;
    if (json_pointer_get(o, path, &v) != 0) fail_msg("no %s in %s", path, json_object_to_json_string(o));
    return v;
}

const char *text(struct json_object *o, const char *path) { return json_object_get_string(field(o, path)); }

int answer_setup(void **state, unsigned cells_max) {
    struct fake *f = fake_open();
    if (cells_max) f->config.cells_max = cells_max;
    fake_start(f);
    *state = f;
    return 0;
}

int answer_teardown(void **state) {
    fake_close(*state);
    return 0;
}
