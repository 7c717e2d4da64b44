#include "cli/remove.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "cli/arguments.h"
#include "cli/output.h"

static int remove_one(struct client *c, const char *collection, const char *id, struct err *e) {
    struct buf path = {0};
    buf_printf(&path, "%s/", collection);
    path_segment(&path, id);
    int result = client_json(c, "DELETE", path.data, NULL, NULL, e);
    buf_free(&path);
    return result;
}

int remove_each(struct client *c, const char *collection, const struct words *ids, size_t from, bool force) {
    struct json_object *removed = json_object_new_array();
    int code = EXIT_OK;
    for (size_t i = from; i < ids->count && !interrupted(); i++) {
        struct err e;
        if (remove_one(c, collection, ids->word[i], &e) == 0) {
            json_object_array_add(removed, json_object_new_string(ids->word[i]));
            if (!c->cli->json) printf("%s\n", ids->word[i]);
        } else if (!force || exit_code_of(e.code) != EXIT_NOT_FOUND) {
            int failed = cli_fail(&e);
            if (code == EXIT_OK) code = failed;
            if (strcmp(e.code, CLI_UNREACHABLE) == 0) break;
        }
    }
    if (c->cli->json) {
        struct json_object *answer = json_object_new_object();
        json_object_object_add(answer, "deleted", json_object_get(removed));
        output_json(answer);
        json_object_put(answer);
    }
    json_object_put(removed);
    return code;
}
