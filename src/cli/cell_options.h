/* cell_options.h: the options of `create` and `run` that describe a new cell, and the POST /v1/sandboxes body they
 * make. */
#pragma once
#include "cli/arguments.h"

struct json_object;

struct cell_options {
    const char *template, *from_snapshot, *on_timeout, *driver;
    bool persistent;
    struct words env, metadata;
    double ttl, idle, cpus;                       /* negative: not given */
    int64_t memory_mb, pids, disk_mb, open_files; /* negative: not given */
};
#define CELL_OPTIONS_INIT                                                                                              \
    { .ttl = -1, .idle = -1, .cpus = -1, .memory_mb = -1, .pids = -1, .disk_mb = -1, .open_files = -1 }

/* Rows of an option table for `struct cell_options o`. */
#define CELL_OPTION_ROWS(o)                                                                                            \
    {"template", 't', OPTION_TEXT, &(o).template, "NAME", "template to start from (default: default)"},                \
        {"env", 'e', OPTION_LIST, &(o).env, "NAME=VALUE", "environment variable inside; may be repeated"},             \
        {"metadata", 'm', OPTION_LIST, &(o).metadata, "KEY=VALUE", "label to find the cell by; may be repeated"},      \
        {"from-snapshot", 0, OPTION_TEXT, &(o).from_snapshot, "NAME", "start as this snapshot (its name or id)"},      \
        {"driver", 0, OPTION_TEXT, &(o).driver, "WORD", "process, microvm, or auto: what the daemon prefers"},         \
        {"ttl", 0, OPTION_SECONDS, &(o).ttl, "SECONDS", "end the cell after this time"},                               \
        {"idle", 0, OPTION_SECONDS, &(o).idle, "SECONDS", "end the cell when nothing asked for it this long"},         \
        {"memory", 0, OPTION_WHOLE, &(o).memory_mb, "MB", "memory limit"},                                             \
        {"cpus", 0, OPTION_SECONDS, &(o).cpus, "N", "CPU limit, such as 0.5 or 2"},                                    \
        {"pids", 0, OPTION_WHOLE, &(o).pids, "N", "limit of processes and threads"},                                   \
        {"disk", 0, OPTION_WHOLE, &(o).disk_mb, "MB", "limit of what the cell may write"}, {                           \
        "open-files", 0, OPTION_WHOLE, &(o).open_files, "N", "limit of open files per process"                         \
    }

/* Rows that only `create` has: its cell stays. */
#define CELL_OPTION_ROWS_KEPT(o)                                                                                       \
    {"idle-timeout", 0, OPTION_SECONDS, &(o).idle, "SECONDS", "the same as --idle"},                                   \
        {"persistent", 'p', OPTION_FLAG, &(o).persistent, NULL, "keep it in a Space: idle, it is frozen, not ended"},  \
    {                                                                                                                  \
        "on-timeout", 0, OPTION_TEXT, &(o).on_timeout, "WORD", "freeze (default of --persistent) or delete"            \
    }

/* A new reference, or NULL with *e (a pair without '='). */
struct json_object *cell_options_json(const struct cell_options *, struct err *e);
/* {"NAME": "VALUE"} of NAME=VALUE words; NULL with *e otherwise. what: "--env". */
struct json_object *pairs_json(const struct words *, const char *what, struct err *e);
