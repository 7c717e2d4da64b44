/* diff.h: how a cell differs from its template or from another cell of the same template. Conventions as in world.h.
 *
 * Files: each guest tells what its cell changed against the template (its own layer, not the whole root); two such
 * lists are compared by path. A file of both sides that was last changed before the cells were one is the same; files
 * of one size with other times are told apart by their digests, which the guests compute. Variables: the Python context
 * of both is asked (inspect.h). The cells go on meanwhile: what they write during the comparison may or may not be in
 * it. */
#pragma once
#include "cell/cell.h"

#define DIFF_SHOWN 10000 /* entries of an answer; how many there are is told beyond */

struct diff_options {
    bool text; /* with unified diffs of modified text files */
    bool variables;
    bool variables_wanted;  /* by name: what keeps them from being told fails the whole; else it is told in
                               "variables_error" */
    const char *context_id; /* NULL: "default". Borrowed during the call */
};

/* Which sandbox `against` names: "parent", "template", an id, or NULL: the parent when it has one that lives, else the
 * template. *id is borrowed, NULL for the template. -1: "parent" of one that has none (conflict). */
int diff_against(struct cell *, const char *against, const char **id, struct err *);

struct diff; /* valid until its callback was called or diff_cancel */

/* theirs: NULL: the template. cb's JSON: {sandbox_id, against, files:{..diff_list.h}, variables?: {..diff_variables.h}
 * or null, variables_error?}. NULL with *err when refused: no callback then. conflict: one of them is paused or frozen,
 * or they have different templates. */
struct diff *diff_start(struct cell *mine, struct cell *theirs, const struct diff_options *, cell_json_cb, void *arg,
                        struct err *);
void diff_cancel(struct diff *); /* nobody waits any more: no callback */
