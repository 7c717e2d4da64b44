/* state.h: the state file of a snapshot, as a buffer: a head, then sections that follow each other in a fixed order.
 *
 * A section is a tag and a length; the reader takes it whole or refuses the file. Everything but the memory of the machine stands here; all
 * integers are those of the processor the machine runs on (a state never travels to another kind of processor). Nothing here trusts the bytes. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define STATE_VM_MAGIC 0x4d56616c6c6543ull /* "CellaVM" */
#define STATE_VM_VERSION 1u                /* any change of any section's layout is another version */
#define STATE_BYTES_MAX (64u << 20)

struct state_out {
    struct buf bytes;
    size_t section; /* where the open section's length stands */
};
struct state_in {
    const uint8_t *at, *end;
};

void state_section(struct state_out *, uint32_t tag); /* opens one (and ends the one before) */
void state_put(struct state_out *, const void *, size_t);
void state_end(struct state_out *);

/* The next section, which must have this tag: 0 and *out is its bytes; -1 when it is another one or does not fit. */
int state_enter(struct state_in *, uint32_t tag, struct state_in *out);
/* Exactly n bytes: 0, or -1 when there are fewer. */
int state_get(struct state_in *, void *, size_t n);
/* True when nothing is left. */
static inline int state_done(const struct state_in *s) { return s->at == s->end; }
