#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "store/statements.h"

#define SCHEMA_VERSION 3
#define BUSY_MS 2000 /* a reader such as the sqlite3 shell may hold the file for a moment */

/* What each version added; a new file goes through all of them. */
static const char *const schema[SCHEMA_VERSION] = {
    "CREATE TABLE cell(id TEXT PRIMARY KEY, json TEXT NOT NULL, reason TEXT) WITHOUT ROWID;"
    "CREATE INDEX cell_alive ON cell(id) WHERE reason IS NULL;"
    "CREATE TABLE execution(seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, "
    "cell_id TEXT NOT NULL, json TEXT NOT NULL);"
    "CREATE INDEX execution_cell ON execution(cell_id, seq);"
    "CREATE TABLE event(seq INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL, cell_id "
    "TEXT NOT NULL, json TEXT NOT NULL);"
    "CREATE INDEX event_cell ON event(cell_id, seq);"
    "CREATE TABLE api_key(id TEXT PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL "
    "UNIQUE, created INTEGER NOT NULL,"
    " used INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;",
    /* 2: branches and persistence */
    "CREATE TABLE image(seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, cell_id TEXT NOT NULL, "
    "json TEXT NOT NULL);"
    "CREATE TABLE branch(seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, root_id TEXT NOT NULL, "
    "json TEXT NOT NULL);"
    "CREATE INDEX branch_root ON branch(root_id, seq);"
    "CREATE TABLE journal(seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, json TEXT NOT NULL);",
    /* 3: what each key used; key_id '': requests without one */
    "CREATE TABLE usage(key_id TEXT NOT NULL, what TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY(key_id, what)) WITHOUT ROWID;",
};

int store_fail(struct store *s, struct err *err, const char *what) {
    int code = sqlite3_errcode(s->db);
    return err_set(err, code == SQLITE_FULL ? ERR_NO_SPACE : ERR_INTERNAL, "%s in the database: %s", what,
                   sqlite3_errmsg(s->db));
}

static int run(struct store *s, const char *sql, struct err *err, const char *what) {
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : store_fail(s, err, what);
}

static int version_of(struct store *s) {
    sqlite3_stmt *st = NULL;
    int version = -1;
    if (sqlite3_prepare_v2(s->db, "PRAGMA user_version", -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW)
        version = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    return version;
}

/* All steps are one commit: a file is of one version or of another. */
static int migrate(struct store *s, struct err *err) {
    int version = version_of(s);
    if (version == SCHEMA_VERSION) return 0;
    if (version > SCHEMA_VERSION)
        return err_hint(err, ERR_CONFLICT, "Start the version of Cella that wrote it, or another state directory.",
                        "the database has version %d, this program knows %d", version, SCHEMA_VERSION);
    if (version < 0) return store_fail(s, err, "read the version");
    char text[64];
    (void)snprintf(text, sizeof text, "PRAGMA user_version=%d; COMMIT", SCHEMA_VERSION);
    if (run(s, "BEGIN IMMEDIATE", err, "migrate") < 0) return -1;
    for (; version < SCHEMA_VERSION; version++)
        if (run(s, schema[version], err, "migrate") < 0) return -1;
    return run(s, text, err, "migrate");
}

static int prepare(struct store *s, struct err *err) {
    for (int i = 0; i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(s->db, statement_text[i], -1, SQLITE_PREPARE_PERSISTENT, &s->statements[i], NULL) !=
            SQLITE_OK)
            return store_fail(s, err, "prepare a statement");
    return 0;
}

/* The file holds environments of cells, which may be secrets: for its owner only, from its first byte on. */
static int make_private(const char *path, struct err *err) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return err_sys(err, errno, "open the database %s", path);
    (void)fchmod(fd, 0600);
    close(fd);
    return 0;
}

struct store *store_open(const char *path, struct err *err) {
    struct store *s = calloc(1, sizeof *s);
    if (!s) abort();
    if (strcmp(path, ":memory:") != 0 && make_private(path, err) < 0) goto failed;
    if (sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK) {
        if (s->db)
            store_fail(s, err, "open");
        else
            err_set(err, ERR_INTERNAL, "open the database: out of memory");
        goto failed;
    }
    sqlite3_busy_timeout(s->db, BUSY_MS);
    if (run(s, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-2000;",
            err, "set up") == 0 &&
        migrate(s, err) == 0 && prepare(s, err) == 0)
        return s;
failed:
    store_close(s);
    return NULL;
}

void store_close(struct store *s) {
    if (!s) return;
    for (int i = 0; i < STATEMENTS; i++) sqlite3_finalize(s->statements[i]);
    sqlite3_close(s->db);
    free(s);
}

void store_begin(struct store *s) { sqlite3_exec(s->db, "BEGIN", NULL, NULL, NULL); }
int store_commit(struct store *s) {
    if (sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK) return 0;
    log_error("database: %s", sqlite3_errmsg(s->db));
    sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return -1;
}

/* In WAL mode NORMAL leaves the sync to the checkpoint and FULL does it in every commit. The level cannot change inside a
 * transaction, so a durable one says so when it begins. */
void store_begin_durable(struct store *s) {
    sqlite3_exec(s->db, "PRAGMA synchronous=FULL; BEGIN IMMEDIATE", NULL, NULL, NULL);
}

void store_rollback(struct store *s) {
    if (!sqlite3_get_autocommit(s->db)) sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_exec(s->db, "PRAGMA synchronous=NORMAL", NULL, NULL, NULL);
}

int store_commit_durable(struct store *s, struct err *err) {
    int out = sqlite3_get_autocommit(s->db) /* a failed statement undid it, or it never began */
                  ? err_set(err, ERR_INTERNAL, "the database took nothing of a transaction")
                  : run(s, "COMMIT", err, "commit");
    store_rollback(s);
    return out;
}
