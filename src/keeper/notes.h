/* notes.h: what a copy does not have of its original, said to the user (struct keeper_note). Bounded: what goes beyond KEEPER_NOTES_MAX is
 * counted in one last note. Running out of memory loses notes, never the copy. */
#pragma once
#include <stdint.h>

#include "base/err.h"
#include "wire/keeper_proto.h"

struct notes {
    uint32_t count, more; /* more: those there was no room for */
    struct keeper_note *note; /* owned; notes_free() */
};

/* text: NUL-terminated, cut to fit; slot is KEEPER_SLOTS until notes_append() says otherwise. Nothing happens when n is NULL. */
void notes_add(struct notes *n, enum keeper_note_kind, int fd, uint32_t pid, const char *text);
/* Copy those of one context, with its slot. */
void notes_append(struct notes *to, const struct notes *from, uint32_t slot);
/* A memory file with all of them, the last one telling how many are missing; *count gets how many entries it has. -1 with *e. */
int notes_file(const struct notes *, uint32_t *count, struct err *e);
void notes_free(struct notes *);
