#include "driver/process/notes.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "wire/keeper_proto.h"

static const char *kind_word(uint32_t kind) {
    static const char *const words[] = {
        [KEEPER_NOTE_SOCKET] = "socket", [KEEPER_NOTE_PIPE] = "pipe",       [KEEPER_NOTE_FILE] = "file", [KEEPER_NOTE_DEVICE] = "device",
        [KEEPER_NOTE_MAPPING] = "mapping", [KEEPER_NOTE_PROCESS] = "process", [KEEPER_NOTE_TIMER] = "timer"};
    return kind > 0 && kind < sizeof words / sizeof *words ? words[kind] : "unknown";
}

/* Length of the valid UTF-8 sequence at s, 0 when there is none. */
static size_t sequence(const unsigned char *s, size_t left) {
    size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4 : 0;
    if (n > left) return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if (n == 3 && ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f))) return 0; /* overlong, surrogate */
    if (n == 4 && ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))) return 0;
    return n;
}

static struct json_object *text_of(const char *bytes, size_t size) {
    struct buf out = {0};
    size_t n = strnlen(bytes, size);
    for (size_t i = 0; i < n;) {
        size_t one = sequence((const unsigned char *)bytes + i, n - i);
        if (one) buf_append(&out, bytes + i, one);
        else buf_str(&out, "\xef\xbf\xbd");
        i += one ? one : 1;
    }
    struct json_object *o = json_object_new_string_len(out.data ? out.data : "", (int)out.len);
    buf_free(&out);
    return o;
}

static void add(struct json_object *array, const struct keeper_note *note) {
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "kind", json_object_new_string(kind_word(note->kind)));
    json_object_object_add(o, "context_slot", note->slot < KEEPER_SLOTS ? json_object_new_int((int)note->slot) : NULL);
    json_object_object_add(o, "fd", note->fd >= 0 ? json_object_new_int(note->fd) : NULL);
    json_object_object_add(o, "pid", note->pid ? json_object_new_int64(note->pid) : NULL);
    json_object_object_add(o, "text", text_of(note->text, sizeof note->text));
    json_object_array_add(array, o);
}

void notes_append(struct json_object *array, int fd, uint32_t count) {
    if (count > KEEPER_NOTES_MAX + 1) count = KEEPER_NOTES_MAX + 1; /* one more: how many others there are */
    for (uint32_t i = 0; i < count; i++) {
        struct keeper_note note = {0};
        bool whole = pread(fd, &note, sizeof note, (off_t)(i * sizeof note)) == (ssize_t)sizeof note;
        if (!whole) note = (struct keeper_note){.slot = KEEPER_SLOTS, .fd = -1, .text = "the list could not be read"};
        add(array, &note);
        if (!whole) return;
    }
}
