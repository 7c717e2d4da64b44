#include "cli/listing.h"

#include <json-c/json.h>
#include <stdio.h>

#include "cli/output.h"

int listing_show(struct client *c, const struct listing *l, struct err *e) {
    struct json_object *list = NULL;
    int result = client_json(c, "GET", l->path, NULL, &list, e);
    if (result == 0 && !json_object_is_type(list, json_type_array)) result = err_set(e, ERR_INTERNAL, "the daemon sent no list of %s", l->what);
    if (result == 0 && c->cli->json)
        output_json(list);
    else if (result == 0 && l->quiet)
        for (size_t i = 0; i < json_object_array_length(list); i++)
            printf("%s\n", json_text(json_object_array_get_idx(list, i), l->id, "-"));
    else if (result == 0)
        l->table(list);
    json_object_put(list);
    return result;
}
