/* diff_inside.h: what diff.c, diff_files.c and diff_contents.c share, nobody else. */
#pragma once
#include "cell/diff.h"
#include "cell/diff_ask.h"
#include "cell/diff_list.h"
#include "cell/inspect.h"

enum { MINE, THEIRS, SIDES };

struct diff {
    struct cell *cells[SIDES]; /* held; THEIRS NULL: the template */
    struct diff_options options;
    cell_json_cb cb;
    void *arg;
    struct deadline clock;

    struct diff_ask asks[SIDES];
    int asking; /* answers that are missing */
    struct diff_list lists[SIDES];
    struct diff_entries entries;
    bool files_done;

    size_t batch_from, batch_to; /* entries that are being digested */
    uint64_t digested;           /* bytes */
    struct json_object *digests[SIDES];
    size_t text_at; /* the entry that is being read */
    uint64_t text_read, text_written;
    struct text_work *work;

    struct inspection questions[SIDES];
    struct json_object *variables[SIDES];
    int inspecting; /* answers that are missing */
    struct err variables_error;
    bool variables_failed;
};

/* The end of a diff, at most once. */
void diff_fail(struct diff *, struct err *);
void diff_files_over(struct diff *); /* the files are known */

/* diff_files.c */
void diff_files_begin(struct diff *);
/* diff_contents.c: unified diffs of what was modified; diff_files_over() follows */
void diff_contents_begin(struct diff *);
void diff_contents_cancel(struct diff *);
