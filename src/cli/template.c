/* cella template ls|build */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/config.h"
#include "cli/output.h"
#include "cli/programs.h"
#include "cli/services.h"

struct template_call {
    const char *state, *cache, *machine;
    struct words mirrors;
    bool rebuild, check;
};

static int list(struct client *c, void *arg, struct err *e) {
    (void)arg;
    struct json_object *templates = NULL;
    if (client_json(c, "GET", "/v1/templates", NULL, &templates, e) < 0) return -1;
    if (c->cli->json) {
        output_json(templates);
        json_object_put(templates);
        return EXIT_OK;
    }
    static const char *const heading[] = {"NAME", "ID", "ALIASES", "LANGUAGES", "SIZE", "AGE"};
    struct table t;
    table_open(&t, 6, heading);
    for (size_t i = 0; json_object_is_type(templates, json_type_array) && i < json_object_array_length(templates);
         i++) {
        struct json_object *one = json_object_array_get_idx(templates, i);
        char text[16];
        table_add(&t, json_text(one, "name", NULL));
        table_addf(&t, "%.12s", json_text(one, "id", "-"));
        static const char *const lists[] = {"aliases", "languages"};
        for (size_t k = 0; k < 2; k++) {
            struct buf joined = {0};
            struct json_object *names = json_object_object_get(one, lists[k]);
            for (size_t n = 0; json_object_is_type(names, json_type_array) && n < json_object_array_length(names); n++)
                buf_printf(&joined, "%s%s", n ? "," : "", json_object_get_string(json_object_array_get_idx(names, n)));
            table_add(&t, joined.data);
            buf_free(&joined);
        }
        table_add(&t, size_text(text, json_whole(one, "size_bytes", 0)));
        table_add(&t, age_text(text, json_text(one, "created_at", NULL), (int64_t)time(NULL)));
    }
    table_print(&t);
    json_object_put(templates);
    return EXIT_OK;
}

/* A path, or the name of a recipe that comes with Cella. */
static int find_recipe(const char *name, const char *directory, char out[PROGRAM_PATH], struct err *e) {
    int n = strchr(name, '/') || strstr(name, ".toml") ? snprintf(out, PROGRAM_PATH, "%s", name)
                                                       : snprintf(out, PROGRAM_PATH, "%s/%s.toml", directory, name);
    if (n >= PROGRAM_PATH) return err_set(e, ERR_INVALID, "the recipe's path is too long");
    if (access(out, R_OK) == 0) return 0;
    return err_hint(e, ERR_NOT_FOUND,
                    "give a path such as ./mine.toml, or the name of a recipe that comes with Cella: python",
                    "cannot read the recipe %s: %s", out, strerror(errno));
}

/* The builder takes this program's place: its progress, exit status and JSON are the command's. */
static int build(struct template_call *t, const char *recipe, struct err *e) {
    static struct services services;
    char directory[PROGRAM_PATH], builder[PROGRAM_PATH + 32], path[PROGRAM_PATH], guest[PROGRAM_PATH], contexts[PROGRAM_PATH];
    if (program_directory("templates", directory, e) < 0 || program_find("cella-guest", guest, e) < 0 || program_directory("contexts", contexts, e) < 0 || find_recipe(recipe, directory, path, e) < 0 ||
        services_state(&services, t->state, e) < 0)
        return -1;
    if (!t->check && geteuid() != 0)
        return err_hint(e, ERR_PERMISSION, "sudo cella template build",
                        "building a template needs root: its files have several owners");
    (void)snprintf(builder, sizeof builder, "%s/build_template.py", directory);
    /* Debian's python3, not what a user's PATH says: the builder needs its tomllib (3.11) and nothing else. -I: no
     * modules from elsewhere. */
    const char *argv[WORDS_MAX + 24] = {"/usr/bin/python3", "-B", builder, "--state", services.state, "--guest", guest, "--contexts", contexts};
    size_t n = 9;
    if (t->cache) argv[n++] = "--cache", argv[n++] = t->cache;
    if (t->machine) argv[n++] = "--machine", argv[n++] = t->machine;
    for (size_t i = 0; i < t->mirrors.count && n + 6 < sizeof argv / sizeof *argv; i++)
        argv[n++] = "--mirror", argv[n++] = t->mirrors.word[i];
    if (t->rebuild) argv[n++] = "--rebuild";
    if (t->check) argv[n++] = "--check";
    argv[n++] = path;
    execv(argv[0], (char *const *)argv);
    return err_hint(e, ERR_UNAVAILABLE, "apt-get install python3 mmdebstrap", "cannot start %s: %s", argv[0],
                    strerror(errno));
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct template_call t;
    static struct words words;
    const struct option options[] = {
        {"state", 's', OPTION_TEXT, &t.state, "DIR", "build: state directory (default: " STATE_DEFAULT ")"},
        {"mirror", 0, OPTION_LIST, &t.mirrors, "URL", "build: Debian mirror (default: the sources of this host's apt)"},
        {"cache", 0, OPTION_TEXT, &t.cache, "DIR", "build: where built roots are kept; \"\" for nowhere"},
        {"machine", 0, OPTION_TEXT, &t.machine, "WHEN",
         "build: also the files of the microVM driver: auto (where this host runs virtual machines), yes or no"},
        {"rebuild", 0, OPTION_FLAG, &t.rebuild, NULL,
         "build: also when this recipe was built before (new package versions)"},
        {"check", 0, OPTION_FLAG, &t.check, NULL, "build: only check the recipe"},
        {0}};
    int code;
    struct err e;
    if (!arguments_take(cli, command, options, (struct arguments_form){.least = 1, .most = 2}, argc, argv, &words,
                        &code))
        return code;
    if (strcmp(words.word[0], "ls") == 0 && words.count == 1) return client_with(cli, list, NULL);
    if (strcmp(words.word[0], "build") == 0 && words.count == 2)
        (void)build(&t, words.word[1], &e);
    else
        (void)err_hint(&e, CLI_USAGE, "cella template ls, or cella template build RECIPE",
                       "that is no template command");
    return cli_fail(&e);
}

const struct command command_template = {
    "template",
    "Operation",
    "List and build templates",
    "template ls | template build [options] RECIPE",
    "A template is what cells are copies of: a root file system built from a recipe (`cella help recipe`), and an "
    "interpreter\n"
    "that has imported its libraries already. It never changes once it is built; a name can be given to a new "
    "build.\n\n"
    "Examples:\n"
    "  cella template ls\n"
    "  sudo cella template build python             the recipe that comes with Cella\n"
    "  sudo cella template build ./geo.toml         your own\n"
    "  cella template build --check ./geo.toml      is it right?\n"
    "  sudo cella template build --rebuild python   take up new package versions\n",
    run};
