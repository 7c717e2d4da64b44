/* Long operations of one cell, one after the other. */
#include "cell/domain.h"

static void next(struct deferred *d) {
    struct cell *c = container_of(d, struct cell, turn_later);
    struct turn *t = c->turns;
    c->turns = t->next;
    c->turn = t;
    t->go(t);
}

static void begin(struct cell *c) {
    c->turn_taken = true;
    defer(c->world->defers, &c->turn_later, next);
}

void cell_turn(struct cell *c, struct turn *t, void (*go)(struct turn *)) {
    t->next = NULL;
    t->go = go;
    if (!c->turns) c->turns_last = &c->turns;
    *c->turns_last = t;
    c->turns_last = &t->next;
    if (!c->turn_taken) begin(c);
}

void cell_turn_over(struct cell *c) {
    c->turn_taken = false;
    c->turn = NULL;
    if (c->turns)
        begin(c);
    else if (c->end_waits) {
        c->end_waits = false;
        cell_end_go(c);
    }
}

void cell_turns_drop(struct cell *c) {
    struct turn *t = c->turn, *rest = c->turns;
    c->turn = c->turns = NULL;
    c->turn_taken = c->end_waits = false;
    defer_cancel(c->world->defers, &c->turn_later);
    if (t && t->drop) t->drop(t);
    while ((t = rest)) {
        rest = t->next;
        if (t->drop) t->drop(t);
    }
}
