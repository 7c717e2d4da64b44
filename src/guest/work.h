/* work.h: file operations, the worker's side: one forked process per operation (worker.h), blocking, single-threaded.
 * Everything here and in the operations below runs with the file identity of the user. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "guest/request.h"

#define WORK_CHUNK 32768 /* DATA bytes a packet between worker and guest */

/* Where a worker finds what the keeper gave the guest (GUEST_FD_LAYER, GUEST_FD_LOWER), when its operation needs it. */
#define WORK_LAYER_FD 4
#define WORK_LOWER_FD 5

struct work {
    int link;
    struct buf lines; /* JSON lines not sent yet */
    json_object *end; /* END payload of success; NULL: {} */
    uint8_t packet[65536];
    const uint8_t *got; /* unread part of the last packet */
    size_t got_len;
    bool got_eof;
};

/* The forked child's life: identity, operation, END, exit. */
_Noreturn void work_run(int link, const struct request *r);

/* Send bytes as DATA; blocks while the channel has no credit. -1: nobody listens any more. */
int work_data(struct work *w, const void *bytes, size_t n, struct err *e);
/* Queue one JSON object as a line of DATA (takes o); sent by the next work_lines_flush() or when enough came together.
 */
int work_line(struct work *w, json_object *o, struct err *e);
int work_lines_flush(struct work *w, struct err *e);
/* Send REPLY; takes o. */
int work_reply(struct work *w, json_object *o, struct err *e);
/* The next piece of the daemon's DATA, valid until the next call: 1; 0 at its regular end; -1 when it was cut off
 * (closed, reset): undo. */
int work_receive(struct work *w, const uint8_t **bytes, size_t *n, struct err *e);
/* -1 when the daemon has closed the channel: long operations ask between steps. */
int work_wanted(struct work *w, struct err *e);

/* The operations. Each returns 0 and may set w->end, or fills *e. */
typedef int work_op(struct work *w, const struct request *r, struct err *e);
work_op fs_read, fs_write, fs_list, fs_stat, fs_mkdir, fs_move, fs_remove, tar_get, tar_put, fs_watch,
    inspect_processes, inspect_ports, inspect_disk, layer_changes, layer_digest;
