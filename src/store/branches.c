/* Rows of images, branches and the journal. */
#include <stdlib.h>
#include <string.h>

#include "store/statements.h"

#define TRIM_EVERY 512

/* Found: *json is a copy the caller frees. */
static int get(sqlite3_stmt *st, char **json) {
    int found = sqlite3_step(st) == SQLITE_ROW;
    if (found) {
        const char *text = (const char *)sqlite3_column_text(st, 0);
        *json = strdup(text ? text : "");
        if (!*json) abort();
    }
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return found;
}

/* ---- images ---- */

/* A statement whose effect must survive a power cut; inside a transaction that is the matter of its begin. */
static int run_durably(struct store *s, sqlite3_stmt *st, struct err *err, const char *what) {
    if (!sqlite3_get_autocommit(s->db)) return store_run(s, st, err, what);
    store_begin_durable(s);
    int out = store_run(s, st, err, what);
    if (out == 0) return store_commit_durable(s, err);
    store_rollback(s);
    return out;
}

int store_image_put(struct store *s, const char *id, const char *cell_id, const char *json, struct err *err) {
    return run_durably(s, store_bind(s, IMAGE_PUT, id, cell_id, json), err, "write an image");
}

int store_image_get(struct store *s, const char *id, char **json) {
    return get(store_bind(s, IMAGE_GET, id, NULL, NULL), json);
}

int store_image_delete(struct store *s, const char *id, struct err *err) {
    return run_durably(s, store_bind(s, IMAGE_DELETE, id, NULL, NULL), err, "delete an image");
}

int store_image_each(struct store *s, int (*row)(void *, const char *, const char *), void *arg, struct err *err) {
    return store_each(s, store_bind(s, IMAGE_EACH, NULL, NULL, NULL), row, arg, err);
}

/* ---- branches ---- */

int store_branch_put(struct store *s, const char *id, const char *root_id, const char *json, struct err *err) {
    if (store_run(s, store_bind(s, BRANCH_PUT, id, root_id, json), err, "write a branch") < 0) return -1;
    if (++s->branches_since_trim < TRIM_EVERY) return 0;
    s->branches_since_trim = 0;
    return store_run(s, store_bind(s, BRANCH_TRIM, NULL, NULL, NULL), err, "trim branches");
}

int store_branch_each(struct store *s, const char *root_id, int (*row)(void *, const char *, const char *), void *arg,
                      struct err *err) {
    return store_each(s, store_bind(s, BRANCH_EACH, root_id, NULL, NULL), row, arg, err);
}

int store_branch_get(struct store *s, const char *id, char **json) {
    return get(store_bind(s, BRANCH_GET, id, NULL, NULL), json);
}

/* ---- journal ---- */

int store_journal_put(struct store *s, const char *id, const char *json, struct err *err) {
    return store_run(s, store_bind(s, JOURNAL_PUT, id, json, NULL), err, "write the journal");
}

int store_journal_delete(struct store *s, const char *id, struct err *err) {
    return store_run(s, store_bind(s, JOURNAL_DELETE, id, NULL, NULL), err, "write the journal");
}

int store_journal_each(struct store *s, int (*row)(void *, const char *, const char *), void *arg, struct err *err) {
    return store_each(s, store_bind(s, JOURNAL_EACH, NULL, NULL, NULL), row, arg, err);
}
