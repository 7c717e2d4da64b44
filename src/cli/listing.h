/* listing.h: GET of a collection, shown as a table, as ids, or as JSON. */
#pragma once
#include "cli/client.h"

struct listing {
    const char *path; /* with its query */
    const char *what; /* "cells", for the error when the answer is no list */
    const char *id;   /* the field that names one */
    bool quiet;       /* only these, one a line */
    void (*table)(struct json_object *list);
};
/* → 0, or -1 with *e. */
int listing_show(struct client *, const struct listing *, struct err *);
