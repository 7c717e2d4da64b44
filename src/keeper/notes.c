#include "keeper/notes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"

static struct keeper_note *next(struct notes *n) {
    if (!n) return NULL;
    if (!n->note) n->note = calloc(KEEPER_NOTES_MAX, sizeof *n->note); /* 32 KiB, and only where there is something to say */
    if (n->note && n->count < KEEPER_NOTES_MAX) return &n->note[n->count++];
    n->more++;
    return NULL;
}

void notes_add(struct notes *n, enum keeper_note_kind kind, int fd, uint32_t pid, const char *text) {
    struct keeper_note *note = next(n);
    if (!note) return;
    *note = (struct keeper_note){.kind = kind, .slot = KEEPER_SLOTS, .fd = fd, .pid = pid};
    (void)snprintf(note->text, sizeof note->text, "%s", text);
}

void notes_append(struct notes *to, const struct notes *from, uint32_t slot) {
    for (uint32_t i = 0; i < from->count; i++) {
        struct keeper_note *note = next(to);
        if (!note) continue;
        *note = from->note[i];
        note->slot = slot;
    }
    to->more += from->more;
}

int notes_file(const struct notes *n, uint32_t *count, struct err *e) {
    cleanup_close int fd = memfd_create("notes", MFD_CLOEXEC);
    if (fd < 0) return err_sys(e, errno, "memory file for notes");
    struct keeper_note last = {.slot = KEEPER_SLOTS, .fd = -1};
    ssize_t bytes = (ssize_t)(n->count * sizeof last);
    if (n->more) {
        last.kind = n->count ? n->note[n->count - 1].kind : KEEPER_NOTE_FILE;
        (void)snprintf(last.text, sizeof last.text, "%u more are not listed", n->more);
    }
    if (bytes && write(fd, n->note, (size_t)bytes) != bytes) return err_sys(e, errno, "write notes");
    if (n->more && write(fd, &last, sizeof last) != (ssize_t)sizeof last) return err_sys(e, errno, "write notes");
    *count = n->count + (n->more ? 1 : 0);
    return steal_fd(&fd);
}

void notes_free(struct notes *n) {
    free(n->note);
    *n = (struct notes){0};
}
