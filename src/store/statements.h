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
    EXECUTION_FORGET,
    EVENT_ADD,
    EVENT_TRIM,
    EVENT_TAIL,
    EVENT_TAIL_CELL,
    KEY_ADD,
    KEY_FIND,
    KEY_DELETE,
    KEY_EACH,
    KEY_USED,
    KEY_ANY,
    STATEMENTS,
};
extern const char *const statement_text[STATEMENTS];

struct store {
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENTS];
    unsigned events_since_trim, ended_since_trim;
};

/* Fill *err from the newest failure of the database; -1. */
int store_fail(struct store *, struct err *, const char *what);
