/* The log of a cell and who follows it. */
#include <stdlib.h>

#include "cell/domain.h"

struct log_follower {
    struct log_follower *next, *prev;
    struct cell *cell; /* NULL: it ended */
    cell_log_cb cb;
    void *arg;
};

void cell_log_put(struct cell *c, bool is_err, const void *bytes, size_t n) {
    tail_append(&c->log, is_err, bytes, n);
    for (struct log_follower *f = c->log_followers, *next; f; f = next) {
        next = f->next; /* a follower may leave while it is told */
        f->cb(f->arg, is_err, bytes, n);
    }
}

static void unlink_from(struct cell *c, struct log_follower *f) {
    if (f->prev)
        f->prev->next = f->next;
    else
        c->log_followers = f->next;
    if (f->next) f->next->prev = f->prev;
    f->cell = NULL;
}

void cell_log_end(struct cell *c) {
    for (struct log_follower *f; (f = c->log_followers);) {
        unlink_from(c, f);
        f->cb(f->arg, false, NULL, 0);
    }
}

static void replay(void *arg, int stream, const void *bytes, size_t n) {
    struct log_follower *f = arg;
    f->cb(f->arg, stream != 0, bytes, n);
}

struct log_follower *cell_log_follow(struct cell *c, cell_log_cb cb, void *arg) {
    if (c->status == CELL_ENDED) return NULL;
    struct log_follower *f = calloc(1, sizeof *f);
    if (!f) abort();
    *f = (struct log_follower){.cell = c, .next = c->log_followers, .cb = cb, .arg = arg};
    tail_each(&c->log, replay, f);
    if (f->next) f->next->prev = f;
    c->log_followers = f;
    return f;
}

void cell_log_unfollow(struct log_follower *f) {
    if (f && f->cell) unlink_from(f->cell, f);
    free(f);
}
