#include "api/compat/gather.h"

#include <string.h>

#include "cell/files.h"

bool gather_flush(struct gather *g, struct transfer *t) {
    if (g->sent < g->filled) g->sent += transfer_write(t, g->piece + g->sent, g->filled - g->sent);
    if (g->sent < g->filled) return false;
    gather_drop(g);
    return true;
}

size_t gather_put(struct gather *g, struct transfer *t, const char *bytes, size_t n) {
    if (g->filled == GATHER_PIECE && !gather_flush(g, t)) return 0;
    size_t room = GATHER_PIECE - g->filled;
    if (n > room) n = room;
    memcpy(g->piece + g->filled, bytes, n);
    g->filled += n;
    return n;
}

void gather_drop(struct gather *g) { g->filled = g->sent = 0; }
