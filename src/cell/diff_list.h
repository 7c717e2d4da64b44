/* diff_list.h: what a cell changed against its template, as its guest tells it, and the comparison of two such lists.
 * Pure functions, any thread; everything that comes from a guest is hostile and bounded. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define DIFF_CHANGES_MAX 200000        /* of one cell; more is refused with a sentence */
#define DIFF_CHANGES_BYTES (64u << 20) /* the memory of one such list */

struct json_object;

/* What can be said about a file without reading it. */
struct diff_facts {
    char *target; /* of a symlink, or NULL */
    int64_t size, uid, gid;
    unsigned mode;
    const char *type; /* "file", "directory", "symlink", "other": a literal */
};

enum diff_kind { DIFF_ADDED, DIFF_REMOVED, DIFF_MODIFIED, DIFF_KINDS };

struct diff_change {
    char *path;
    enum diff_kind kind; /* against the template */
    struct diff_facts now, before;
    uint64_t inode;
    int64_t ctime_ns, mtime_ns;
    bool same_contents; /* MODIFIED: a file of which only mode or owner differ */
};

struct diff_list {
    struct diff_change *changes;
    size_t n, cap, bytes;
};

/* One line of the guest. -1: not an entry (lost), or too many (too_large). */
int diff_list_add(struct diff_list *, const char *line, size_t n, struct err *);
void diff_list_sort(struct diff_list *); /* by path, "/" before every other byte */
void diff_list_free(struct diff_list *);

/* One line of the result: how `mine` differs from `theirs`. Strings belong to the lists. */
struct diff_entry {
    const char *path;
    enum diff_kind kind;
    const struct diff_facts *now, *before; /* now: of removed ones what they were; before: MODIFIED only */
    bool undecided;     /* two files of one size: their contents decide, unless something else differs already */
    bool contents_same; /* MODIFIED files that differ in mode or owner only */
    bool unread;        /* undecided, and nobody could look */
    bool binary, text_omitted;
    char *text; /* the unified diff */
};

struct diff_entries {
    struct diff_entry *list;
    size_t n, cap;
};

/* How the cell whose list is `mine` differs from the one whose list is `theirs` (NULL: from the template).
 * shared_until_ns: a file of both with the same inode, times and size that was last changed before this moment is the
 * same file; 0: nothing is known of the kind. */
void diff_compare(const struct diff_list *mine, const struct diff_list *theirs, int64_t shared_until_ns,
                  struct diff_entries *out);
/* What the contents of an undecided entry said. One that is no difference then goes with diff_entries_pack(), which keeps
 * the order: call it when all are decided. */
void diff_entry_decide(struct diff_entry *, bool same);
void diff_entries_pack(struct diff_entries *);
void diff_entries_free(struct diff_entries *);
/* {"added":[{path,type,size,target?}], "removed":[..], "modified":[{.., size_before, ..}], "counts":{..}, "truncated":
 * null or {"shown","total"}}: at most `most` entries, in the order of paths. New reference. */
struct json_object *diff_entries_json(const struct diff_entries *, size_t most);
