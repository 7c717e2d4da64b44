/* driver.h: the contract between the domain (src/cell) and whatever makes cells.
 *
 * Nothing above this header knows which driver runs. All calls are made on the loop thread, none blocks; every callback
 * runs on the loop thread, exactly once, never from inside the call that took it. A `struct err *` handed to a
 * callback is NULL on success and valid only during the callback.
 *
 * Ids: the driver chooses a cell's id ("sbx_" + 32 hex) because pooled cells are made ahead with their hostname.
 * Contexts sit in slots 0..DRIVER_SLOTS-1 of a cell. A cell handed out by create() already has its first Python context in slot 0. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define DRIVER_SLOTS 32
#define CELL_ID_MAX 37   /* "sbx_" + 32 hex + NUL */
#define TEMPLATE_ID_HEX 64

struct json_object;
struct driver;
struct driver_cell; /* owned by the driver; valid until destroy()'s callback or on_cell_gone returned. Every driver's own struct begins with its ops */

struct cell_limits {
    uint64_t memory_bytes; /* RAM of all processes of the cell together */
    uint64_t disk_bytes;   /* what the cell may write on its own layer */
    uint32_t cpu_millis;   /* 1000 = one CPU */
    uint32_t pids_max;
    uint32_t open_files;   /* RLIMIT_NOFILE of contexts and processes */
};

struct cell_stats {
    uint64_t memory_bytes, memory_peak_bytes, cpu_us, disk_bytes, oom_kills;
    uint32_t pids;
};

/* Ends of a context's streams; the receiver owns all three and closes them. All non-blocking, close-on-exec. */
struct context_ends {
    int control_fd; /* SOCK_SEQPACKET, wire/context_proto.h */
    int stdout_fd, stderr_fd; /* read ends of pipes */
};

enum context_fate { FATE_EXITED, FATE_KILLED, FATE_OOM }; /* returned / signal / out of memory */
enum cell_fate { CELL_FATE_KILLED, CELL_FATE_OOM, CELL_FATE_LOST }; /* PID 1 died / keeper or VMM gone */

/* What the domain wants to hear. Set once with set_listener before anything else. */
struct driver_listener {
    /* The process of a context is gone; its slot is free. code = exit status or signal number. */
    void (*on_context_exit)(void *arg, struct driver_cell *, int slot, enum context_fate, int code);
    /* The whole cell is gone without destroy(); the driver_cell is invalid when this returns. */
    void (*on_cell_gone)(void *arg, struct driver_cell *, enum cell_fate);
    /* Start-up: a cell found alive; once each, before adopt()'s callback. ends[i].control_fd < 0: slot empty.
     * The listener owns the descriptors. */
    void (*on_adopt)(void *arg, struct driver_cell *, const char *template_id, int guest_fd,
                     const struct context_ends ends[DRIVER_SLOTS]);
    void *arg;
};

/* What create() gives. The receiver owns guest_fd and the ends. */
struct driver_created {
    struct driver_cell *cell;
    int guest_fd; /* SOCK_SEQPACKET, wire/guest_proto.h */
    struct context_ends python; /* slot 0 */
    bool cold;                  /* the template had to be baked first */
    const char *from;           /* "filled", "empty" or "made": which pool it came out of */
};

/* A new cell with everything of another: a child of a fork, or what an image held. The receiver owns the descriptors.
 * ends[i].control_fd < 0: slot empty. Its contexts are what they were: one that computed still computes. */
struct driver_copy {
    struct driver_cell *cell;
    int guest_fd;
    struct context_ends ends[DRIVER_SLOTS];
    /* What it does not have of its original: array of {"kind": "socket|pipe|file|device|mapping|process|timer", "context_slot": n or null, "fd": n or
     * null, "pid": n or null, "text": "…"}. Borrowed. */
    struct json_object *not_carried;
};

struct driver_image { /* what freeze() wrote */
    uint64_t memory_bytes, disk_bytes; /* on the disk: pages that differ from the template's, files of the layer */
    uint64_t frozen_us;                /* how long the cell stood still */
    struct json_object *not_carried;   /* as above, borrowed */
};

typedef void (*driver_done)(void *arg, struct err *);
/* Once for each child of a fork, in any order; e: this one could not be made. */
typedef void (*driver_child_done)(void *arg, unsigned index, struct err *e, const struct driver_copy *);
typedef void (*driver_fork_done)(void *arg, struct err *, uint64_t frozen_us); /* last, after every child's */
typedef void (*driver_copy_done)(void *arg, struct err *, const struct driver_copy *);
typedef void (*driver_image_done)(void *arg, struct err *, const struct driver_image *);
typedef void (*driver_create_done)(void *arg, struct err *, const struct driver_created *);
typedef void (*driver_context_done)(void *arg, struct err *, const struct context_ends *);
typedef void (*driver_stats_done)(void *arg, struct err *, const struct cell_stats *);

struct driver_ops {
    const char *name;      /* "process" | "microvm" */
    const char *isolation; /* one line for the API: "namespaces, seccomp, landlock, cgroups" */

    void (*set_listener)(struct driver *, const struct driver_listener *);
    /* Report every cell that survived the last daemon through on_adopt, then call back. Cells the domain does not
     * know it destroys. */
    void (*adopt)(struct driver *, driver_done, void *arg);
    /* Make the template ready (bake its zygotes, fill its pool). Idempotent. */
    void (*warm)(struct driver *, const char *template_id, driver_done, void *arg);
    /* Which driver makes a cell that asks for this one by name (NULL, "auto": whichever this daemon prefers)? Then create() is asked of what is returned.
     * NULL with *e: invalid_request (no such driver), driver_unavailable (and why). The op itself may be NULL: the driver is the only one.
     * Known when adopt() has called back. */
    struct driver *(*pick)(struct driver *, const char *name, struct err *);
    /* limits: all fields set. */
    void (*create)(struct driver *, const char *template_id, const struct cell_limits *, driver_create_done, void *arg);
    /* Fill an empty slot. language: "python" | "shell" (later "node"). */
    void (*context_make)(struct driver_cell *, int slot, const char *language, driver_context_done, void *arg);
    /* Signal the process of the context itself (SIGINT: interrupt, SIGKILL: on_context_exit follows). */
    void (*context_signal)(struct driver_cell *, int slot, int signo);
    void (*set_limits)(struct driver_cell *, const struct cell_limits *, driver_done, void *arg);
    void (*pause)(struct driver_cell *, driver_done, void *arg);
    void (*resume)(struct driver_cell *, driver_done, void *arg);
    void (*stats)(struct driver_cell *, driver_stats_done, void *arg);
    /* Kill everything and give back memory and disk. The callback comes when nothing is left. */
    void (*destroy)(struct driver_cell *, driver_done, void *arg);
    const char *(*id)(const struct driver_cell *); /* "sbx_…", as long as the cell lives */

    /* ---- branches. One operation in four shapes: a copy of a cell, made of memory, of a file, or taking another's place. ---- */
    /* n copies of the cell at one instant, each with a new id; it goes on. Children have its limits. When nothing could be copied at all
     * `each` is not called and `done` has the error. */
    void (*fork)(struct driver_cell *, unsigned n, driver_child_done each, driver_fork_done done, void *arg);
    /* Write the cell at this instant as image `image_id` ("img_" + 32 hex). dir: an existing empty directory of the daemon, for what the driver
     * keeps in files; the caller syncs and renames it. hold: the cell stays stopped until destroy() or release(), so that nothing
     * happens in it that the image does not know. The callback comes when everything is on the disk. Nothing is left after a failure. */
    void (*freeze)(struct driver_cell *, const char *image_id, const char *dir, bool hold, driver_image_done, void *arg);
    void (*release)(struct driver_cell *, driver_done, void *arg); /* a held cell goes on */
    /* A cell from an image, any number of times. cell_id: what it is called (free at the moment), NULL: a new id. limits: NULL: those of the
     * original. Refuses an image that is damaged, not of this installation, of another template, format or processor: code
     * "image_refused", with a hint. */
    void (*thaw)(struct driver *, const char *image_id, const char *dir, const char *cell_id, const struct cell_limits *limits,
                 driver_copy_done, void *arg);
    /* Forget what the driver keeps of an image besides its directory (which the caller removes afterwards). Not there: success. */
    void (*image_drop)(struct driver *, const char *image_id, driver_done, void *arg);
    /* Forget every image that is not in keep[n]: what a crash left behind. */
    void (*images_keep)(struct driver *, const char *const *keep, size_t n, driver_done, void *arg);
    /* The cell is called id from now on; the cell that had this id ends (no on_cell_gone for it; its driver_cell is invalid
     * when the callback comes). One step: after a crash it either happened or did not, see incarnation. */
    void (*rename)(struct driver_cell *, const char *id, driver_done, void *arg);
    /* Tells this cell from every other one that has or had its id, also across restarts of the daemon; 0 is none. */
    uint64_t (*incarnation)(const struct driver_cell *);

    /* Pools, counters, reasons of degradation: for /metrics and doctor. New reference. */
    struct json_object *(*report)(struct driver *);
    /* Let go of the cells (they live on) and free the driver. */
    void (*close)(struct driver *);
};

struct driver { /* first member of every driver's own struct */
    const struct driver_ops *ops;
};

/* Whose cell it is. */
static inline const struct driver_ops *driver_cell_ops(const struct driver_cell *c) { return *(const struct driver_ops *const *)(const void *)c; }
