/* e2b_filesystem_events.h: changes below a directory as E2B's clients read them. Loop thread only.
 *
 * Events come in order. With entries each one waits for a look at the file (deleted files have no entry), and those behind it wait too; the
 * cell's watch is not read further while many wait. Of the calls below only `start` may close the watch from inside. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct cell;
struct fs_events;

struct fs_events_to {
    void (*start)(void *arg);                                       /* from here on nothing is missed */
    void (*event)(void *arg, struct json_object *borrowed);         /* {"name","type","entry"?} */
    bool (*full)(void *arg);                                        /* do not bring more until fs_events_more */
    void (*end)(void *arg, const struct err *);                     /* it is over, always with a reason; the last call */
    void *arg;
};

/* What a client asks for: message {path, recursive, includeEntry}. NULL with *e. */
struct fs_events *fs_events_open(struct cell *, const char *user, struct json_object *message, const struct fs_events_to *, struct err *);
void fs_events_more(struct fs_events *);
void fs_events_close(struct fs_events *); /* no more calls */
