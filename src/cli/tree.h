/* tree.h: a family of cells drawn as the rows of a table. */
#pragma once
#include <stdint.h>

#include "cli/client.h"
#include "cli/output.h"

/* What stands in front of a child, of the last child, and of what is below each of them. */
struct tree_lines {
    const char *child, *last, *under, *under_last;
};
extern const struct tree_lines tree_lines_utf8, tree_lines_ascii;

struct tree_show {
    const struct tree_lines *lines;
    const char *asked;                                                    /* id marked with "*"; may be NULL */
    int64_t (*memory_of)(struct client *, struct json_object *tree_node); /* bytes, -1: none; NULL: no such column */
    struct client *client;                                                /* for memory_of */
    /* Out: */
    struct table table; /* table_print or table_free it */
    int64_t memory_bytes;
};
/* root: {id, state, reason?, created_at, metadata, children: […]}; borrowed. */
void tree_fill(struct tree_show *, struct json_object *root);
