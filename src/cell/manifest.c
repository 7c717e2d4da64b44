#include "cell/manifest.h"

#include <json-c/json.h>
#include <string.h>

#include "base/id.h"
#include "cell/text.h"

#define NAME_MAX_LEN 64
#define ID_DIGITS 64 /* SHA-256, as driver.h's TEMPLATE_ID_HEX */

bool template_name_valid(const char *s) {
    size_t n = 0;
    for (; s[n]; n++) {
        bool fine = (s[n] >= 'a' && s[n] <= 'z') || (s[n] >= '0' && s[n] <= '9') ||
                    (n && (s[n] == '-' || s[n] == '_' || s[n] == '.'));
        if (!fine || n >= NAME_MAX_LEN) return false;
    }
    return n > 0;
}

struct json_object *manifest_parse(const char *text, size_t n, const char *id) {
    struct json_object *o = text_parse_object(text, n, MANIFEST_VALUES_MAX), *v;
    if (!o) return NULL;
    const char *said = text_field(o, "id"), *name = text_field(o, "name");
    bool fine =
        said && hex_valid(said, ID_DIGITS) && (!id || strcmp(said, id) == 0) && name && template_name_valid(name);
    static const struct {
        const char *key;
        enum json_type type;
    } typed[] = {{"aliases", json_type_array},
                 {"packages", json_type_array},
                 {"languages", json_type_array},
                 {"limits", json_type_object}};
    for (size_t i = 0; fine && i < sizeof typed / sizeof *typed; i++)
        if (json_object_object_get_ex(o, typed[i].key, &v)) fine = json_object_is_type(v, typed[i].type);
    if (fine) return o;
    json_object_put(o);
    return NULL;
}
