/* cella cp */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/cp.h"
#include "cli/output.h"
#include "cli/transfer.h"

void cp_place_parse(const char *word, struct cp_place *place) {
    const char *colon = strchr(word, ':'), *slash = strchr(word, '/');
    *place = (struct cp_place){.path = word};
    if (!colon || colon == word || (slash && slash < colon) || (size_t)(colon - word) >= sizeof place->cell) return;
    (void)snprintf(place->cell, sizeof place->cell, "%.*s", (int)(colon - word), word);
    place->path = colon[1] ? colon + 1 : ".";
}

/* Last name of a path ("" for "/", "." and ".."). */
static void last_name(const char *path, char out[256]) {
    size_t end = strlen(path);
    while (end > 0 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') start--;
    (void)snprintf(out, 256, "%.*s", (int)(end - start), path + start);
    if (strcmp(out, ".") == 0 || strcmp(out, "..") == 0) out[0] = 0;
}

/* 1: a directory, 0: not one, or nothing there; -1: *e. */
static int is_directory(struct client *c, const struct cp_place *place, bool must_exist, struct err *e) {
    if (!place->cell[0]) {
        struct stat st;
        if (strcmp(place->path, "-") == 0) return 0;
        if (stat(place->path, &st) == 0) return S_ISDIR(st.st_mode) ? 1 : 0;
        return must_exist ? err_set(e, ERR_NOT_FOUND, "there is no %s", place->path) : 0;
    }
    struct buf url = {0};
    struct json_object *entry = NULL;
    path_cell(&url, place->cell, "/fs/stat");
    path_query(&url, "path", place->path);
    int result = client_json(c, "GET", url.data, NULL, &entry, e);
    buf_free(&url);
    struct json_object *is_dir = json_object_object_get(entry, "is_dir");
    bool directory = is_dir && json_object_get_boolean(is_dir);
    json_object_put(entry);
    if (result == 0) return directory ? 1 : 0;
    return strcmp(e->code, ERR_NOT_FOUND) == 0 && !must_exist && strstr(e->text, place->cell) == NULL ? 0 : -1;
}

/* Into an existing directory (or one written with a slash at its end) the source keeps its name. */
static int final_path(struct client *c, const struct cp_place *from, const struct cp_place *to, struct buf *out,
                      struct err *e) {
    size_t n = strlen(to->path);
    bool slash = n > 0 && to->path[n - 1] == '/';
    int directory = is_directory(c, to, false, e);
    if (directory < 0) return -1;
    char name[256];
    last_name(from->path, name);
    bool keeps_name = (directory || slash) && name[0] && strcmp(from->path, "-") != 0;
    if (keeps_name && strcmp(to->path, ".") == 0)
        buf_str(out, name);
    else
        buf_printf(out, "%s%s%s", to->path, keeps_name && !slash ? "/" : "", keeps_name ? name : "");
    return 0;
}

struct cp {
    struct cp_place from, to;
};

static int work(struct client *c, void *arg, struct err *e) {
    struct cp *cp = arg;
    struct buf target = {0};
    int tree = is_directory(c, &cp->from, true, e);
    int result = tree < 0 ? -1 : final_path(c, &cp->from, &cp->to, &target, e);
    if (result == 0 && cp->to.cell[0])
        result = (tree ? transfer_tree_up : transfer_up)(c, cp->from.path, cp->to.cell, target.data, e);
    else if (result == 0)
        result = (tree ? transfer_tree_down : transfer_down)(c, cp->from.cell, cp->from.path, target.data, e);
    if (result == 0 && c->cli->json && strcmp(cp->to.path, "-") != 0) {
        struct json_object *done = json_object_new_object();
        json_object_object_add(done, "path", json_object_new_string(target.data));
        json_object_object_add(done, "directory", json_object_new_boolean(tree));
        output_json(done);
        json_object_put(done);
    }
    buf_free(&target);
    return result;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct cp cp;
    static struct words words;
    int code;
    if (!arguments_take(cli, command, NULL, (struct arguments_form){.least = 2, .most = 2}, argc, argv, &words, &code))
        return code;
    cp_place_parse(words.word[0], &cp.from);
    cp_place_parse(words.word[1], &cp.to);
    if (!cp.from.cell[0] == !cp.to.cell[0]) {
        struct err e;
        (void)err_hint(&e, CLI_USAGE, "a file in a cell is written CELL:PATH",
                       "exactly one of the two places must be in a cell");
        return cli_fail(&e);
    }
    interrupt_watch();
    return client_with(cli, work, &cp);
}

const struct command command_cp = {"cp",
                                   "Cells",
                                   "Copy files and directories into and out of a cell",
                                   "cp PATH CELL:PATH | cp CELL:PATH PATH",
                                   "Paths in a cell are absolute or relative to /workspace. \"-\" is stdin or stdout. "
                                   "Everything is streamed; there is no size\n"
                                   "limit but the disks'. Into a directory that exists the source keeps its name.\n\n"
                                   "Examples:\n"
                                   "  cella cp sales.csv sbx_0123…:              into /workspace\n"
                                   "  cella cp sbx_0123…:out/chart.png .         out again\n"
                                   "  cella cp ./project sbx_0123…:/workspace    a directory, as /workspace/project\n"
                                   "  tar c src | cella cp - sbx_0123…:src.tar   from a pipe\n",
                                   run};
