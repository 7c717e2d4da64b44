/* cella down */
#include <json-c/json.h>
#include <stdio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/arguments.h"
#include "cli/config.h"
#include "cli/output.h"
#include "cli/pidfile.h"
#include "cli/services.h"

/* The order matters: first the `cella up` in front (it would start the daemon again), then the daemon, then the keeper.
 */
static int end_all(const struct services *s, bool *any, struct err *e) {
    static const struct {
        const char *name;
        int grace_ms;
    } order[] = {{"up", DAEMON_GRACE_MS + KEEPER_GRACE_MS}, {"cellad", DAEMON_GRACE_MS}, {"keeper", KEEPER_GRACE_MS}};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        bool was_running = false;
        if (!services_end(s, order[i].name, order[i].grace_ms, &was_running))
            return err_set(e, ERR_INTERNAL, "%s does not end", order[i].name);
        *any = *any || was_running;
    }
    return 0;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct services services;
    static struct config config;
    static struct words words;
    const char *state = NULL;
    const struct option options[] = {
        {"state", 's', OPTION_TEXT, &state, "DIR", "state directory (default: " STATE_DEFAULT ")"}, {0}};
    int code;
    struct err e;
    bool any = false;
    if (!arguments_take(cli, command, options, (struct arguments_form){0}, argc, argv, &words, &code)) return code;
    if (!state) {
        if (config_load(&config, NULL, &e) < 0) return cli_fail(&e);
        state = config_value(&config, "state");
    }
    int result = services_state(&services, state, &e);
    if (result == 0 && geteuid() != 0)
        result = err_hint(&e, ERR_PERMISSION, "sudo cella down", "ending the keeper needs root");
    if (result == 0) result = end_all(&services, &any, &e);
    config_free(&config);
    if (result < 0) return cli_fail(&e);
    if (cli->json) {
        struct json_object *object = json_object_new_object();
        json_object_object_add(object, "was_running", json_object_new_boolean(any));
        output_json(object);
        json_object_put(object);
    } else {
        printf(any ? "Cella ended; so did its cells\n" : "Cella was not running (state: %s)\n", services.state);
    }
    return EXIT_OK;
}

const struct command command_down = {
    "down",
    "Operation",
    "End Cella and every cell on this machine",
    "down [--state DIR]",
    "Ends the daemon and then the keeper; cells end with the keeper. What is on disk (templates, keys) stays.\n",
    run};
