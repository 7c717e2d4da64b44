/* A MIME bundle under the names of E2B's results. */
#include <string.h>

#include "api/compat/e2b_code.h"

static const struct {
    const char *mime, *key;
} names[] = {
    {"text/plain", "text"},       {"text/html", "html"},  {"text/markdown", "markdown"},   {"image/svg+xml", "svg"},
    {"image/png", "png"},         {"image/jpeg", "jpeg"}, {"application/pdf", "pdf"},      {"text/latex", "latex"},
    {"application/json", "json"}, {"e2b/data", "data"},   {"application/javascript", "javascript"}, {"e2b/chart", "chart"},
};

static const char *key_of(const char *mime) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i].mime, mime) == 0) return names[i].key;
    return NULL;
}

/* The text of a string comes without the quotes of its repr, as E2B's does. */
static struct json_object *text_of(struct json_object *value) {
    const char *text = json_object_get_string(value);
    int n = json_object_get_string_len(value);
    if (n < 2 || text[0] != text[n - 1] || (text[0] != '\'' && text[0] != '"')) return json_object_get(value);
    return json_object_new_string_len(text + 1, n - 2);
}

struct json_object *e2b_code_result(struct json_object *bundle, bool is_main) {
    struct json_object *o = json_object_new_object(), *data = json_field(bundle, "data"), *extra = json_object_new_object();
    json_set_text(o, "type", "result");
    json_set_flag(o, "is_main_result", is_main);
    if (data) {
        json_object_object_foreach(data, mime, value) {
            const char *key = key_of(mime);
            if (key && strcmp(key, "text") == 0 && json_object_is_type(value, json_type_string)) {
                json_set(o, key, text_of(value));
            } else if (key) {
                json_set(o, key, json_object_get(value));
            } else { /* the one SDK looks beside the known names, the other one in "extra" */
                json_set(o, mime, json_object_get(value));
                json_set(extra, mime, json_object_get(value));
            }
        }
    }
    if (json_object_object_length(extra))
        json_set(o, "extra", extra);
    else
        json_object_put(extra);
    return o;
}
