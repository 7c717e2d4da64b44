/* files.h: files of a cell, through cella-guest. Conventions as in world.h.
 *
 * Small operations take a JSON object as guest_proto.h names it and answer once. Transfers stream with flow control:
 * the API grants credit as its client takes bytes, so that a gigabyte needs no memory here. */
#pragma once
#include "cell/cell.h"

/* op in {"list","stat","mkdir","move","remove","disk","ports","processes"}; cb gets
 *   list: {"path","entries":[…]}   stat: the entry   others: as END in guest_proto.h. */
void files_call(struct cell *, struct json_object *op, cell_json_cb, void *arg);

struct transfer; /* valid until its END event was delivered or transfer_cancel was called */
enum transfer_event {
    TRANSFER_OPEN,    /* download: json {"size","mode","mtime_ms"} */
    TRANSFER_DATA,    /* download, watch (JSON lines): bytes */
    TRANSFER_DRAINED, /* upload: transfer_write has room again */
    TRANSFER_END,     /* json as in guest_proto.h, or err */
};
typedef void (*transfer_cb)(void *arg, struct transfer *, enum transfer_event, struct json_object *json, const void *bytes, size_t n, struct err *);
/* op in {"read","write","tar_get","tar_put","watch"}. */
struct transfer *transfer_start(struct cell *, struct json_object *op, transfer_cb, void *arg, struct err *);
size_t transfer_write(struct transfer *, const void *bytes, size_t n); /* upload: bytes taken */
void transfer_finish(struct transfer *);                               /* upload: that was all; END follows */
void transfer_consumed(struct transfer *, size_t n);                   /* download: the client took n bytes */
void transfer_cancel(struct transfer *);                               /* undone; no more callbacks */
