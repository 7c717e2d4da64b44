/* Lists in pages, as OpenAI's clients walk them: the next page begins behind the last id of this one. */
#include <stdlib.h>
#include <string.h>

#include "api/compat/containers.h"
#include "api/handlers.h"

static const char *id_of(struct json_object *item) { return json_object_get_string(json_field(item, "id")); }

/* By age; the id decides between two of one second, so that pages do not overlap. */
static int older_first(const void *left, const void *right) {
    struct json_object *a = *(struct json_object *const *)left, *b = *(struct json_object *const *)right;
    int64_t x = json_object_get_int64(json_field(a, "created_at")), y = json_object_get_int64(json_field(b, "created_at"));
    return x != y ? (x > y) - (x < y) : strcmp(id_of(a), id_of(b));
}

static int newer_first(const void *left, const void *right) { return older_first(right, left); }

static int sort(struct request *rq, struct json_object *items, struct err *e) {
    const char *order = request_query(rq, "order");
    if (order && strcmp(order, "asc") && strcmp(order, "desc")) return err_set(e, ERR_INVALID, "the query field \"order\" must be asc or desc");
    json_object_array_sort(items, order && order[0] == 'a' ? older_first : newer_first);
    return 0;
}

/* Where the page begins. */
static int start_of(struct request *rq, struct json_object *items, size_t *at, struct err *e) {
    const char *after = request_query(rq, "after");
    *at = 0;
    if (!after || !*after) return 0;
    for (size_t i = 0; i < json_object_array_length(items); i++)
        if (strcmp(id_of(json_object_array_get_idx(items, i)), after) == 0) {
            *at = i + 1;
            return 0;
        }
    return err_set(e, ERR_INVALID, "the query field \"after\" names nothing of this list");
}

static void put_id(struct json_object *page, const char *name, struct json_object *data, size_t i) {
    struct json_object *item = json_object_array_get_idx(data, i);
    json_set(page, name, item ? json_object_get(json_field(item, "id")) : NULL);
}

struct json_object *container_page(struct request *rq, struct json_object *items, struct err *e) {
    long long limit;
    size_t at, count = json_object_array_length(items);
    if (query_number(&rq->query, "limit", 1, 100, 20, &limit, e) < 0 || sort(rq, items, e) < 0 || start_of(rq, items, &at, e) < 0) {
        json_object_put(items);
        return NULL;
    }
    struct json_object *page = json_object_new_object(), *data = json_object_new_array();
    for (size_t i = at; i < count && i < at + (size_t)limit; i++) json_object_array_add(data, json_object_get(json_object_array_get_idx(items, i)));
    size_t given = json_object_array_length(data);
    json_set_text(page, "object", "list");
    json_set(page, "data", data);
    put_id(page, "first_id", data, 0);
    put_id(page, "last_id", data, given ? given - 1 : 0);
    json_set_flag(page, "has_more", at + given < count);
    json_object_put(items);
    return page;
}
