/* cella version */
#include <json-c/json.h>
#include <stdio.h>

#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/output.h"

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct words words;
    int code;
    if (!arguments_take(cli, command, NULL, (struct arguments_form){0}, argc, argv, &words, &code)) return code;
    if (!cli->json) {
        printf("cella " CELLA_VERSION "\n");
        return EXIT_OK;
    }
    struct json_object *object = json_object_new_object();
    json_object_object_add(object, "version", json_object_new_string(CELLA_VERSION));
    output_json(object);
    json_object_put(object);
    return EXIT_OK;
}

const struct command command_version = {"version", "Other", "Print the version", "version", NULL, run};
