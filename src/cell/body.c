#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cell/domain.h"

#define YEAR_SECONDS (366.0 * 86400)
#define MAP_PAIRS 1024
#define MAP_BYTES (256u * 1024)

struct json_object *body_get(struct json_object *body, const char *key) {
    struct json_object *v = NULL;
    return json_object_object_get_ex(body, key, &v) ? v : NULL;
}

int body_text(struct json_object *body, const char *key, const char **out, struct err *err) {
    struct json_object *v = body_get(body, key);
    if (!v) return 0;
    if (!json_object_is_type(v, json_type_string)) return err_set(err, ERR_INVALID, "%s must be a string", key);
    const char *s = json_object_get_string(v);
    if (strlen(s) != (size_t)json_object_get_string_len(v))
        return err_set(err, ERR_INVALID, "%s must not contain NUL", key);
    *out = s;
    return 0;
}

int body_bool(struct json_object *body, const char *key, bool *out, struct err *err) {
    struct json_object *v = body_get(body, key);
    if (!v) return 0;
    if (!json_object_is_type(v, json_type_boolean)) return err_set(err, ERR_INVALID, "%s must be true or false", key);
    *out = json_object_get_boolean(v);
    return 0;
}

int body_int(struct json_object *body, const char *key, int64_t low, int64_t high, int64_t *out, struct err *err) {
    struct json_object *v = body_get(body, key);
    if (!v) return 0;
    if (!json_object_is_type(v, json_type_int) || json_object_get_int64(v) < low || json_object_get_int64(v) > high)
        return err_set(err, ERR_INVALID, "%s must be a whole number from %lld to %lld", key, (long long)low,
                       (long long)high);
    *out = json_object_get_int64(v);
    return 0;
}

int body_seconds(struct json_object *body, const char *key, int64_t *out_ms, struct err *err) {
    struct json_object *v = body_get(body, key);
    if (!v) return 0;
    bool number = json_object_is_type(v, json_type_int) || json_object_is_type(v, json_type_double);
    double seconds = number ? json_object_get_double(v) : 0;
    if (!(seconds > 0 && seconds <= YEAR_SECONDS))
        return err_set(err, ERR_INVALID, "%s must be a number of seconds greater than 0 and at most a year", key);
    *out_ms = (int64_t)ceil(seconds * 1000);
    return 0;
}

static int pair_check(const char *key, const char *name, struct json_object *v, bool names, struct err *err) {
    if (!json_object_is_type(v, json_type_string))
        return err_set(err, ERR_INVALID, "%s: the value of \"%.60s\" must be a string", key, name);
    if (strlen(json_object_get_string(v)) != (size_t)json_object_get_string_len(v))
        return err_set(err, ERR_INVALID, "%s: the value of \"%.60s\" must not contain NUL", key, name);
    if (names && (!*name || strchr(name, '=')))
        return err_set(err, ERR_INVALID, "%s: \"%.60s\" is not the name of a variable", key, name);
    return 0;
}

int body_map(struct json_object *body, const char *key, bool names, struct json_object **out, struct err *err) {
    struct json_object *map = body_get(body, key);
    if (!map) return 0;
    if (!json_object_is_type(map, json_type_object))
        return err_set(err, ERR_INVALID, "%s must be an object of strings", key);
    size_t bytes = 0;
    struct json_object_iterator it = json_object_iter_begin(map), end = json_object_iter_end(map);
    for (; !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
        const char *name = json_object_iter_peek_name(&it);
        struct json_object *v = json_object_iter_peek_value(&it);
        if (pair_check(key, name, v, names, err) < 0) return -1;
        bytes += strlen(name) + (size_t)json_object_get_string_len(v) + 2;
    }
    if (json_object_object_length(map) > MAP_PAIRS || bytes > MAP_BYTES)
        return err_set(err, ERR_TOO_LARGE, "%s holds more than %d pairs or %u bytes", key, MAP_PAIRS, MAP_BYTES);
    *out = map;
    return 0;
}

void format_time(char out[32], int64_t ms) {
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    size_t n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(out + n, 32 - n, ".%03dZ", (int)(ms % 1000));
}
