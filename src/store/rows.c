#include <stdio.h>
#include <string.h>

#include "store/statements.h"

#define EVENTS_MAX "100000"
#define ENDED_MAX "100000"   /* ended cells whose reason is still known */
#define EXECUTIONS_MAX "200" /* of one cell: twice what the domain keeps in memory */
#define BRANCHES_MAX "10000" /* of cells that ended */
#define TRIM_EVERY 512       /* a trim costs two index look-ups when there is nothing to do */

const char *const statement_text[STATEMENTS] = {
    [CELL_PUT] = "INSERT INTO cell(id,json) VALUES(?1,?2) ON CONFLICT(id) DO UPDATE SET json=?2, reason=NULL",
    /* An ended cell keeps its id and the reason; what was in it goes. */
    [CELL_END] = "INSERT INTO cell(id,json,reason) VALUES(?1,'',?2) ON CONFLICT(id) DO UPDATE SET json='', reason=?2",
    [CELL_ALIVE] = "SELECT id,json FROM cell WHERE reason IS NULL ORDER BY id",
    [CELL_REASON] = "SELECT reason FROM cell WHERE id=?1 AND reason IS NOT NULL",
    [CELL_TRIM] =
        "DELETE FROM cell WHERE reason IS NOT NULL AND id IN (SELECT id FROM cell WHERE reason IS NOT NULL LIMIT "
        "max(0,(SELECT count(*) FROM cell WHERE reason IS NOT NULL)-" ENDED_MAX "))",
    [EXECUTION_PUT] = "INSERT INTO execution(id,cell_id,json) VALUES(?1,?2,?3) ON CONFLICT(id) DO UPDATE SET json=?3",
    [EXECUTION_EACH] = "SELECT id,json FROM execution WHERE cell_id=?1 ORDER BY seq",
    [EXECUTION_TRIM] = "DELETE FROM execution WHERE cell_id=?1 AND seq <= (SELECT seq FROM execution WHERE cell_id=?1 "
                       "ORDER BY seq DESC LIMIT 1 OFFSET " EXECUTIONS_MAX ")",
    [EXECUTION_MOVE] = "UPDATE execution SET cell_id=?2 WHERE cell_id=?1",
    [EXECUTION_FORGET] = "DELETE FROM execution WHERE cell_id=?1",
    [EVENT_ADD] = "INSERT INTO event(ts,cell_id,json) VALUES(?1,?2,?3)",
    [EVENT_TRIM] = "DELETE FROM event WHERE seq <= (SELECT max(seq) FROM event)-" EVENTS_MAX,
    [EVENT_TAIL] = "SELECT json FROM (SELECT seq,json FROM event ORDER BY seq DESC LIMIT ?1) ORDER BY seq",
    [EVENT_TAIL_CELL] =
        "SELECT json FROM (SELECT seq,json FROM event WHERE cell_id=?2 ORDER BY seq DESC LIMIT ?1) ORDER BY seq",
    [IMAGE_PUT] = "INSERT INTO image(id,cell_id,json) VALUES(?1,?2,?3) ON CONFLICT(id) DO UPDATE SET cell_id=?2, json=?3",
    [IMAGE_GET] = "SELECT json FROM image WHERE id=?1",
    [IMAGE_DELETE] = "DELETE FROM image WHERE id=?1",
    [IMAGE_EACH] = "SELECT id,json FROM image ORDER BY seq",
    [BRANCH_PUT] = "INSERT INTO branch(id,root_id,json) VALUES(?1,?2,?3) ON CONFLICT(id) DO UPDATE SET root_id=?2, json=?3",
    [BRANCH_GET] = "SELECT json FROM branch WHERE id=?1",
    [BRANCH_EACH] = "SELECT id,json FROM branch WHERE root_id=?1 ORDER BY seq",
    [BRANCH_TRIM] = "DELETE FROM branch WHERE seq IN (SELECT seq FROM branch WHERE id NOT IN (SELECT id FROM cell WHERE "
                    "reason IS NULL) ORDER BY seq DESC LIMIT -1 OFFSET " BRANCHES_MAX ")",
    [JOURNAL_PUT] = "INSERT INTO journal(id,json) VALUES(?1,?2) ON CONFLICT(id) DO UPDATE SET json=?2",
    [JOURNAL_DELETE] = "DELETE FROM journal WHERE id=?1",
    [JOURNAL_EACH] = "SELECT id,json FROM journal ORDER BY seq",
    [KEY_ADD] = "INSERT INTO api_key(id,name,sha256,created) VALUES(?1,?2,?3,?4)",
    [KEY_FIND] = "SELECT id FROM api_key WHERE sha256=?1",
    [KEY_DELETE] = "DELETE FROM api_key WHERE id=?1",
    [KEY_EACH] = "SELECT id,name,created,used FROM api_key ORDER BY created,id",
    [KEY_USED] = "UPDATE api_key SET used=?2 WHERE id=?1",
    [KEY_ANY] = "SELECT 1 FROM api_key LIMIT 1",
    [USAGE_PUT] = "INSERT INTO usage(key_id,what,n) VALUES(?1,?2,?3) ON CONFLICT(key_id,what) DO UPDATE SET n=?3",
    [USAGE_EACH] = "SELECT key_id,what,n FROM usage",
};

/* ---- one statement at a time ---- */

sqlite3_stmt *store_bind(struct store *s, enum statement which, const char *first, const char *second,
                         const char *third) {
    sqlite3_stmt *st = s->statements[which];
    const char *const text[] = {first, second, third};
    for (int i = 0; i < 3; i++)
        if (text[i]) sqlite3_bind_text(st, i + 1, text[i], -1, SQLITE_STATIC);
    return st;
}

static void finish(sqlite3_stmt *st) {
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
}

int store_run(struct store *s, sqlite3_stmt *st, struct err *err, const char *what) {
    int rc = sqlite3_step(st);
    int out = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : store_fail(s, err, what);
    finish(st);
    return out;
}

static const char *column(sqlite3_stmt *st, int i) {
    const unsigned char *text = sqlite3_column_text(st, i);
    return text ? (const char *)text : "";
}

int store_each(struct store *s, sqlite3_stmt *st, int (*row)(void *, const char *, const char *), void *arg,
               struct err *err) {
    int rc, out = 0;
    while (out == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW) out = row(arg, column(st, 0), column(st, 1));
    if (out == 0 && rc != SQLITE_DONE) out = store_fail(s, err, "read");
    finish(st);
    return out;
}

/* ---- cells ---- */

int store_cell_put(struct store *s, const char *id, const char *json, struct err *err) {
    return store_run(s, store_bind(s, CELL_PUT, id, json, NULL), err, "write a sandbox");
}

int store_cell_delete(struct store *s, const char *id, const char *reason, struct err *err) {
    if (store_run(s, store_bind(s, CELL_END, id, reason, NULL), err, "end a sandbox") < 0 ||
        store_run(s, store_bind(s, EXECUTION_FORGET, id, NULL, NULL), err, "forget executions") < 0)
        return -1;
    if (++s->ended_since_trim < TRIM_EVERY) return 0;
    s->ended_since_trim = 0;
    return store_run(s, store_bind(s, CELL_TRIM, NULL, NULL, NULL), err, "trim ended sandboxes");
}

int store_cell_each(struct store *s, int (*row)(void *, const char *, const char *), void *arg, struct err *err) {
    return store_each(s, store_bind(s, CELL_ALIVE, NULL, NULL, NULL), row, arg, err);
}

int store_cell_ended(struct store *s, const char *id, char *reason, size_t reason_size) {
    sqlite3_stmt *st = store_bind(s, CELL_REASON, id, NULL, NULL);
    int found = sqlite3_step(st) == SQLITE_ROW;
    if (found) (void)snprintf(reason, reason_size, "%s", column(st, 0));
    finish(st);
    return found;
}

/* ---- executions ---- */

int store_execution_put(struct store *s, const char *id, const char *cell_id, const char *json, struct err *err) {
    if (store_run(s, store_bind(s, EXECUTION_PUT, id, cell_id, json), err, "write an execution") < 0) return -1;
    return store_run(s, store_bind(s, EXECUTION_TRIM, cell_id, NULL, NULL), err, "trim executions");
}

int store_execution_move(struct store *s, const char *from, const char *to, struct err *err) {
    return store_run(s, store_bind(s, EXECUTION_MOVE, from, to, NULL), err, "move executions");
}

int store_execution_each(struct store *s, const char *cell_id, int (*row)(void *, const char *, const char *),
                         void *arg, struct err *err) {
    return store_each(s, store_bind(s, EXECUTION_EACH, cell_id, NULL, NULL), row, arg, err);
}

/* ---- events ---- */

int store_event_add(struct store *s, int64_t ts_ms, const char *cell_id, const char *json, struct err *err) {
    sqlite3_stmt *st = store_bind(s, EVENT_ADD, NULL, cell_id, json);
    sqlite3_bind_int64(st, 1, ts_ms);
    if (store_run(s, st, err, "write an event") < 0) return -1;
    if (++s->events_since_trim < TRIM_EVERY) return 0;
    s->events_since_trim = 0;
    return store_run(s, store_bind(s, EVENT_TRIM, NULL, NULL, NULL), err, "trim events");
}

int store_event_each(struct store *s, const char *cell_id, int tail, int (*row)(void *, const char *), void *arg,
                     struct err *err) {
    sqlite3_stmt *st = store_bind(s, cell_id ? EVENT_TAIL_CELL : EVENT_TAIL, NULL, cell_id, NULL);
    sqlite3_bind_int(st, 1, tail);
    int rc, out = 0;
    while (out == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW) out = row(arg, column(st, 0));
    if (out == 0 && rc != SQLITE_DONE) out = store_fail(s, err, "read events");
    finish(st);
    return out;
}

/* ---- keys ---- */

int store_key_add(struct store *s, const char *id, const char *name, const char *sha256_hex, int64_t created_ms,
                  struct err *err) {
    sqlite3_stmt *st = store_bind(s, KEY_ADD, id, name, sha256_hex);
    sqlite3_bind_int64(st, 4, created_ms);
    int rc = sqlite3_step(st);
    finish(st);
    if (rc == SQLITE_DONE) return 0;
    if (rc == SQLITE_CONSTRAINT) return err_set(err, ERR_EXISTS, "a key with this id or value exists");
    return store_fail(s, err, "write a key");
}

int store_key_find(struct store *s, const char *sha256_hex, char *id, size_t id_size) {
    sqlite3_stmt *st = store_bind(s, KEY_FIND, sha256_hex, NULL, NULL);
    int found = sqlite3_step(st) == SQLITE_ROW;
    if (found) (void)snprintf(id, id_size, "%s", column(st, 0));
    finish(st);
    return found;
}

int store_key_delete(struct store *s, const char *id, struct err *err) {
    if (store_run(s, store_bind(s, KEY_DELETE, id, NULL, NULL), err, "delete a key") < 0) return -1;
    return sqlite3_changes(s->db) ? 0 : err_set(err, ERR_NOT_FOUND, "no key has the id %.60s", id);
}

int store_key_each(struct store *s, int (*row)(void *, const char *, const char *, int64_t, int64_t), void *arg,
                   struct err *err) {
    sqlite3_stmt *st = store_bind(s, KEY_EACH, NULL, NULL, NULL);
    int rc, out = 0;
    while (out == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW)
        out = row(arg, column(st, 0), column(st, 1), sqlite3_column_int64(st, 2), sqlite3_column_int64(st, 3));
    if (out == 0 && rc != SQLITE_DONE) out = store_fail(s, err, "read keys");
    finish(st);
    return out;
}

int store_key_used(struct store *s, const char *id, int64_t now_ms) {
    struct err err;
    sqlite3_stmt *st = store_bind(s, KEY_USED, id, NULL, NULL);
    sqlite3_bind_int64(st, 2, now_ms);
    return store_run(s, st, &err, "note the use of a key");
}

bool store_key_any(struct store *s) {
    sqlite3_stmt *st = store_bind(s, KEY_ANY, NULL, NULL, NULL);
    bool any = sqlite3_step(st) == SQLITE_ROW;
    finish(st);
    return any;
}

/* ---- usage ---- */

int store_usage_put(struct store *s, const char *key_id, const char *what, uint64_t sum, struct err *err) {
    sqlite3_stmt *st = store_bind(s, USAGE_PUT, key_id, what, NULL);
    sqlite3_bind_int64(st, 3, (int64_t)sum);
    return store_run(s, st, err, "write usage");
}

int store_usage_each(struct store *s, int (*row)(void *, const char *, const char *, uint64_t), void *arg, struct err *err) {
    sqlite3_stmt *st = store_bind(s, USAGE_EACH, NULL, NULL, NULL);
    int rc, out = 0;
    while (out == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW)
        out = row(arg, column(st, 0), column(st, 1), (uint64_t)sqlite3_column_int64(st, 2));
    if (out == 0 && rc != SQLITE_DONE) out = store_fail(s, err, "read usage");
    finish(st);
    return out;
}
