/* diff_show.h: what differs between two branches, for a person. Names, values and text come out of cells: everything
 * passes the terminal filter when stdout is a terminal. */
#pragma once
#include <stdbool.h>

#include "base/buf.h"

struct json_object;

struct diff_show {
    bool colours;
    bool utf8; /* "→" and "…" instead of "->" and "..." */
};
/* The answer of GET …/diff as text: a line for each file and variable, text diffs below their file, then the sums. */
void diff_render(const struct diff_show *, struct json_object *answer, struct buf *out);
/* Only the sums: "3 files: 1 added, …". */
void diff_render_sums(struct json_object *answer, struct buf *out);
