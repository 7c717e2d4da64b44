/* fake.h: a world whose cells are scripted by the test: the driver hands out socket pairs and pipes whose other ends
 * the test plays. Nothing here starts a process. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <uv.h>

#include "cell/cell.h"
#include "cell/execution.h"
#include "cell/files.h"
#include "cell/process.h"
#include "driver/driver.h"
#include "store/store.h"
#include "wire/context_proto.h"
#include "wire/frame.h"
#include "wire/guest_proto.h"

#define FAKE_CELLS 24
#define FAKE_IMAGES 24

struct fake_slot {
    bool alive;
    int control, out, err; /* what a context has as 900, 1, 2 */
    int makes;
    struct context_ends kept; /* duplicates of the daemon's ends, for the next daemon */
};
struct driver_cell {
    const struct driver_ops *ops; /* first (driver.h) */
    struct fake *fake;
    char id[CELL_ID_MAX], template_id[TEMPLATE_ID_HEX + 1];
    bool alive;
    int guest; /* what cella-guest has as 3 */
    int guest_kept;
    struct fake_slot slots[DRIVER_SLOTS];
    int signals[DRIVER_SLOTS][65]; /* how often each was sent */
    struct cell_stats stats;
    bool paused, held;
};
struct fake {
    uv_loop_t loop;
    uv_timer_t beat;
    struct store *store;
    struct driver *driver;
    struct world *world;
    struct world_config config;
    char state_dir[64];
    struct driver_cell cells[FAKE_CELLS];
    int cell_count, destroyed;
    bool fail_make, fail_create, no_exit_on_kill;
    bool fail_fork, fail_rename, drop_rename /* the request never arrives: no effect, no answer */;
    bool lose_contexts;     /* the contexts die before the copy is made */
    bool hold_forks;        /* copies are made and not answered until it is cleared */
    unsigned fail_children; /* bit i: child i of a fork cannot be made */
    int forks, renames;
    const char *fail_freeze, *fail_thaw; /* the word of the error */
    bool hold_images;                    /* freezes and thaws are not answered until it is cleared */
    int freezes, thaws, releases, images_dropped;
    char images[FAKE_IMAGES][CELL_ID_MAX]; /* what the driver keeps of images; "": free */
    struct json_object *not_carried; /* what every copy lacks; owned */
};

/* A world without cells; settings may be changed in config before fake_start(). */
struct fake *fake_open(void);
void fake_start(struct fake *);
/* The daemon dies and another one starts: the world is closed, the cells live on and are adopted. */
void fake_restart(struct fake *);
void fake_close(struct fake *);
/* Let the loop run until the condition holds; fails the test after five seconds. */
#define run_until(f, condition)                                                                                        \
    do {                                                                                                               \
        int turns_ = 0;                                                                                                \
        while (!(condition)) {                                                                                         \
            fake_turn(f);                                                                                              \
            if (++turns_ > 5000) fail_msg("never happened: %s", #condition);                                           \
        }                                                                                                              \
    } while (0)
void fake_turn(struct fake *); /* one turn of at most a millisecond */
void fake_turns(struct fake *, int n);

/* Create one cell and return it; *dc is its other side. The guest has said HELLO, the Python context READY. */
struct cell *fake_cell(struct fake *, const char *body, struct driver_cell **dc);
/* The context's process ends. */
void fake_exit(struct driver_cell *, int slot, enum context_fate, int code);

/* The whole cell is gone without having been asked. */
void fake_gone(struct driver_cell *, enum cell_fate);
/* The newest cell that is alive: what a thaw has made. */
struct driver_cell *fake_newest(struct fake *);

/* ---- the other side ---- */
void peer_frame(int fd, uint16_t type, uint16_t flags, uint32_t channel, const char *text);
void peer_bytes(int fd, const void *packet, size_t n);
/* The next frame that the daemon sent, skipping none; the payload is NUL-terminated. Turns the loop while it waits. */
struct received {
    uint16_t type, flags;
    uint32_t channel;
    size_t length;
    char payload[WIRE_PACKET_MAX + 1];
};
struct received *peer_receive(struct fake *, int fd);
bool peer_silent(struct fake *, int fd); /* nothing came within a few turns */
void print_to(int fd, const char *text);

/* ---- what an execution said ---- */
struct heard {
    struct execution *x;
    char order[64]; /* one letter an event: S start, o stdout, e stderr, D display, R result, E error, I input, . end */
    char out[4096], err[4096];
    struct json_object *end;
};
void heard_event(void *arg, struct execution *, enum execution_event, struct json_object *, const void *, size_t);
/* Start code; NULL when refused, with the word in *code. */
struct execution *fake_execute(struct cell *, const char *body, bool collect, struct heard *, const char **code);
const char *end_text(struct heard *, const char *key); /* string field of END */
struct json_object *parse(const char *text);           /* fails the test when it is not JSON */
/* Play the context for one execution: receive EXECUTE and return its number. */
uint32_t peer_executes(struct fake *, struct driver_cell *, int slot, const char *code);
void peer_done(struct driver_cell *, int slot, uint32_t number, const char *status);
