/* cella key create|ls|rm */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/output.h"

struct key {
    const char *verb, *name;
};

static int create(struct client *c, const struct key *key, struct err *e) {
    struct json_object *body = json_object_new_object(), *answer = NULL;
    if (key->name) json_object_object_add(body, "name", json_object_new_string(key->name));
    int result = client_json(c, "POST", "/v1/keys", body, &answer, e);
    json_object_put(body);
    const char *secret = json_text(answer, "key", NULL);
    if (result == 0 && !secret) result = err_set(e, ERR_INTERNAL, "the daemon's answer holds no key");
    if (result == 0 && c->cli->json) {
        output_json(answer);
    } else if (result == 0) {
        fprintf(stderr, "The key is shown only now; the daemon keeps a hash. Use it as CELLA_API_KEY.\n");
        printf("%s\n", secret);
    }
    json_object_put(answer);
    return result;
}

static int list(struct client *c, struct err *e) {
    struct json_object *keys = NULL;
    if (client_json(c, "GET", "/v1/keys", NULL, &keys, e) < 0) return -1;
    if (c->cli->json) {
        output_json(keys);
    } else {
        static const char *const heading[] = {"ID", "NAME", "AGE", "LAST USED"};
        struct table t;
        table_open(&t, 4, heading);
        for (size_t i = 0; json_object_is_type(keys, json_type_array) && i < json_object_array_length(keys); i++) {
            struct json_object *key = json_object_array_get_idx(keys, i);
            char text[16];
            int64_t now = (int64_t)time(NULL);
            table_add(&t, json_text(key, "id", NULL));
            table_add(&t, json_text(key, "name", NULL));
            table_add(&t, age_text(text, json_text(key, "created_at", NULL), now));
            table_add(&t, age_text(text, json_text(key, "last_used_at", NULL), now));
        }
        table_print(&t);
    }
    json_object_put(keys);
    return EXIT_OK;
}

static int revoke(struct client *c, const struct key *key, struct err *e) {
    struct buf path = {0};
    buf_str(&path, "/v1/keys/");
    path_segment(&path, key->name);
    int result = client_json(c, "DELETE", path.data, NULL, NULL, e);
    buf_free(&path);
    if (result == 0 && !c->cli->json) printf("%s\n", key->name);
    return result;
}

static int work(struct client *c, void *arg, struct err *e) {
    const struct key *key = arg;
    if (strcmp(key->verb, "create") == 0) return create(c, key, e);
    if (strcmp(key->verb, "ls") == 0) return list(c, e);
    if (strcmp(key->verb, "rm") != 0)
        return err_hint(e, CLI_USAGE, "`cella help key`", "unknown: cella key %.40s", key->verb);
    return key->name ? revoke(c, key, e) : err_hint(e, CLI_USAGE, "`cella key ls` lists them", "which key?");
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct key key;
    static struct words words;
    int code;
    if (!arguments_take(cli, command, NULL, (struct arguments_form){.least = 1, .most = 2}, argc, argv, &words, &code))
        return code;
    key.verb = words.word[0];
    key.name = words.count > 1 ? words.word[1] : NULL;
    return client_with(cli, work, &key);
}

const struct command command_key = {"key",
                                    "Operation",
                                    "Make, list and revoke API keys",
                                    "key create [NAME] | key ls | key rm ID",
                                    "A daemon that listens beyond this machine asks every client for a key. Keys are "
                                    "made on the daemon's own machine.\n\n"
                                    "Examples:\n"
                                    "  cella key create laptop            prints the key, once\n"
                                    "  export CELLA_API_KEY=cella_…       what the CLI and the SDKs use\n"
                                    "  cella key rm key_0123…             from now on refused\n",
                                    run};
