/* Fuzz target (libFuzzer): the manifest of a template, and with it every JSON text that a cell sends
 * (text_parse_object).
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc -I/usr/include/json-c \
 *     tests/fuzz/manifest_fuzz.c src/cell/manifest.c src/cell/text.c src/base/buf.c src/base/id.c -ljson-c \
 *     -o /tmp/manifest_fuzz
 *   /tmp/manifest_fuzz -max_total_time=10 tests/fuzz/manifest_corpus
 *
 * What must hold: what is accepted is an object with the fields and types that its users take for granted, and cleaned
 * text is valid UTF-8 that cleaning leaves alone. */
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "cell/manifest.h"
#include "cell/text.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void must(int holds) {
    if (!holds) abort();
}

static void text_is_clean(const unsigned char *data, size_t size) {
    struct buf once = {0}, twice = {0};
    text_append_utf8(&once, data, size);
    text_append_utf8(&twice, once.data, once.len);
    must(once.len == twice.len && (!once.len || memcmp(once.data, twice.data, once.len) == 0));
    must(text_partial_tail(data, size) <= 3);
    if (once.len) must(text_partial_tail(once.data, once.len) == 0);
    buf_free(&once);
    buf_free(&twice);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    text_is_clean(data, size);
    struct json_object *any = text_parse_object(data, size, 1000);
    if (any) must(json_object_is_type(any, json_type_object));
    json_object_put(any);
    struct json_object *o = manifest_parse((const char *)data, size, NULL), *v;
    if (!o) return 0;
    const char *id = text_field(o, "id"), *name = text_field(o, "name");
    must(id && hex_valid(id, 64) && name && template_name_valid(name));
    if (json_object_object_get_ex(o, "packages", &v)) must(json_object_is_type(v, json_type_array));
    if (json_object_object_get_ex(o, "limits", &v)) must(json_object_is_type(v, json_type_object));
    json_object_put(o);
    return 0;
}
