/* statements.h: the prepared statements of the store. Private to this floor. */
#pragma once
#include <sqlite3.h>

#include "store/store.h"

enum statement {
    CELL_PUT,
    CELL_END,
    CELL_ALIVE,
    CELL_REASON,
    CELL_TRIM,
    EXECUTION_PUT,
    EXECUTION_EACH,
    EXECUTION_TRIM,
    EXECUTION_MOVE,
    EXECUTION_FORGET,
    EVENT_ADD,
    EVENT_TRIM,
    EVENT_TAIL,
    EVENT_TAIL_CELL,
    IMAGE_PUT,
    IMAGE_GET,
    IMAGE_DELETE,
    IMAGE_EACH,
    BRANCH_PUT,
    BRANCH_GET,
    BRANCH_EACH,
    BRANCH_TRIM,
    JOURNAL_PUT,
    JOURNAL_DELETE,
    JOURNAL_EACH,
    KEY_ADD,
    KEY_FIND,
    KEY_DELETE,
    KEY_EACH,
    KEY_USED,
    KEY_ANY,
    USAGE_PUT,
    USAGE_EACH,
    STATEMENTS,
};
extern const char *const statement_text[STATEMENTS];

struct store {
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENTS];
    unsigned events_since_trim, ended_since_trim, branches_since_trim;
};

/* Fill *err from the newest failure of the database; -1. */
int store_fail(struct store *, struct err *, const char *what);

/* rows.c: one statement at a time. Texts are bound in order, NULL ones are left out. */
sqlite3_stmt *store_bind(struct store *, enum statement, const char *first, const char *second, const char *third);
int store_run(struct store *, sqlite3_stmt *, struct err *, const char *what);
int store_each(struct store *, sqlite3_stmt *, int (*row)(void *, const char *, const char *), void *arg, struct err *);
