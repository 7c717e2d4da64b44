/* cell_spec.h: the body of POST /v1/sandboxes, checked. Private to this floor. */
#pragma once
#include "cell/domain.h"

struct cell_spec {
    char template_id[TEMPLATE_ID_HEX + 1], template_name[72];
    struct json_object *env, *metadata; /* borrowed from the body, or NULL */
    int64_t ttl_ms, idle_timeout_ms;    /* 0: none */
    struct cell_limits limits;
    struct driver *driver; /* that makes it */
    bool persistent, freeze_on_timeout;
    char image_id[CELL_ID_MAX];    /* from_snapshot; "": from the template */
    struct json_object *image_row; /* a reference, with image_id */
};

/* owner: whose snapshots it may be made from; "": everybody's. */
int cell_spec_parse(struct world *, struct json_object *body, const char *owner, struct cell_spec *, struct err *);
/* ttl_seconds and idle_timeout_seconds of a body: null clears, missing leaves alone. */
int cell_spec_times(struct json_object *body, int64_t *ttl_ms, int64_t *idle_ms, bool *ttl_said, bool *idle_said, struct err *);
/* persistent and on_timeout; on_timeout follows persistent when only that is said. */
int cell_spec_persistence(struct world *, struct json_object *body, bool *persistent, bool *freezes, struct err *);
int cell_spec_metadata(struct json_object *body, struct json_object **out, struct err *);
