/* gather.h: bits of a file gathered into pieces on their way to a transfer. Loop thread only.
 *
 * A form comes apart into as many bits as there are line breaks in it, and each would be a message of its own to the cell. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#define GATHER_PIECE (32u * 1024)

struct transfer;

struct gather { /* zeroed is empty */
    size_t filled, sent; /* bytes of `piece` that are in it, and that the transfer took */
    char piece[GATHER_PIECE];
};

/* How many of the bytes were taken. 0: the piece is full and the transfer is busy; TRANSFER_DRAINED follows. */
size_t gather_put(struct gather *, struct transfer *, const char *bytes, size_t n);
/* Hand the transfer what is gathered. false: it is busy, TRANSFER_DRAINED follows; call again then. */
bool gather_flush(struct gather *, struct transfer *);
/* Forget what is gathered: its transfer is over. */
void gather_drop(struct gather *);
