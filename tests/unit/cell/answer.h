/* answer.h: what a call of the domain answered, for tests that wait for it with run_until(). */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>

#include "fake.h"

struct answer {
    bool done;
    char code[32], error[384]; /* "" when it went well */
    struct json_object *json;  /* owned: answer_put() */
    struct cell *cell;
};
/* Callbacks whose arg is a struct answer; a second call fails the test. */
void on_json(void *arg, struct err *err, struct json_object *o);
void on_done(void *arg, struct err *err);
void on_cell(void *arg, struct err *err, struct cell *c);
void answer_put(struct answer *);

/* The value at a JSON pointer; the test fails when there is none. Borrowed. */
struct json_object *field(struct json_object *o, const char *path);
const char *text(struct json_object *o, const char *path);

/* A world with at most so many cells (0: as many as the fake has), and its end, for cmocka's fixtures. */
int answer_setup(void **state, unsigned cells_max);
int answer_teardown(void **state);
