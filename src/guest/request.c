#include "guest/request.h"

#include <json-c/json.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "guest/identity.h"
#include "guest/utf8.h"

#define JSON_DEPTH 8    /* the deepest field is env.NAME */
#define PATHS_MAX 1000  /* of one digest: guest_proto.h */
#define LIST_DEPTH 1024 /* more levels than PATH_MAX has room for in practice */
#define ENV_MAX 4096    /* names in one `env`: lists are searched one by one */
#define DEFAULT_ROWS 24
#define DEFAULT_COLS 80

static const char *const op_names[] = {
    [OP_EXEC] = "exec",       [OP_READ] = "read",       [OP_WRITE] = "write", [OP_LIST] = "list",
    [OP_STAT] = "stat",       [OP_MKDIR] = "mkdir",     [OP_MOVE] = "move",   [OP_REMOVE] = "remove",
    [OP_TAR_GET] = "tar_get", [OP_TAR_PUT] = "tar_put", [OP_WATCH] = "watch", [OP_PROCESSES] = "processes",
    [OP_PORTS] = "ports",     [OP_DISK] = "disk",       [OP_RESET] = "reset", [OP_ENVIRONMENT] = "environment",
    [OP_CHANGES] = "changes", [OP_DIGEST] = "digest",
};

/* The field, or NULL when it is missing or null. */
static json_object *field(json_object *o, const char *key) {
    json_object *v = NULL;
    return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

/* Text of a JSON string; refuses a NUL inside, which no path or argument can hold. */
static int text_of(json_object *v, const char *key, const char **out, struct err *e) {
    if (!json_object_is_type(v, json_type_string)) return err_set(e, ERR_INVALID, "`%s` must be a string", key);
    const char *s = json_object_get_string(v);
    if (strlen(s) != (size_t)json_object_get_string_len(v))
        return err_set(e, ERR_INVALID, "`%s` contains a NUL byte", key);
    if (!utf8_valid(s))
        return err_set(e, ERR_INVALID, "`%s` is no valid UTF-8", key); /* json-c lets overlong forms pass */
    *out = s;
    return 0;
}

static int take_text(json_object *o, const char *key, char **out, struct err *e) {
    json_object *v = field(o, key);
    const char *s;
    if (!v) return 0;
    if (text_of(v, key, &s, e) < 0) return -1;
    *out = strdup(s);
    if (!*out) abort();
    return 0;
}

static int take_bool(json_object *o, const char *key, bool *out, struct err *e) {
    json_object *v = field(o, key);
    if (!v) return 0;
    if (!json_object_is_type(v, json_type_boolean)) return err_set(e, ERR_INVALID, "`%s` must be true or false", key);
    *out = json_object_get_boolean(v);
    return 0;
}

static int take_number(json_object *o, const char *key, int64_t max, int64_t *out, struct err *e) {
    json_object *v = field(o, key);
    if (!v) return 0;
    int64_t n = json_object_get_int64(v);
    if (!json_object_is_type(v, json_type_int) || n < 0 || n > max)
        return err_set(e, ERR_INVALID, "`%s` must be a whole number from 0 to %lld", key, (long long)max);
    *out = n;
    return 0;
}

/* A path, made absolute from the user's home. */
static int take_path(json_object *o, const char *key, bool as_root, char **out, struct err *e) {
    cleanup_free char *given = NULL;
    if (take_text(o, key, &given, e) < 0) return -1;
    if (!given || !*given) return err_set(e, ERR_INVALID, "`%s` is missing", key);
    const char *home = *given == '/' ? "" : identity_home(as_root);
    if (strlen(home) + 1 + strlen(given) >= PATH_MAX) return err_set(e, ERR_INVALID, "`%s` is too long", key);
    if (*given == '/')
        *out = steal_ptr(&given);
    else if (asprintf(out, "%s/%s", home, given) < 0)
        abort();
    return 0;
}

static int take_env(json_object *o, struct env *out, struct err *e) {
    json_object *v = field(o, "env");
    if (!v) return 0;
    if (!json_object_is_type(v, json_type_object)) return err_set(e, ERR_INVALID, "`env` must be an object");
    if (json_object_object_length(v) > ENV_MAX) return err_set(e, ERR_INVALID, "`env` has more than %d names", ENV_MAX);
    json_object_object_foreach(v, name, value) {
        const char *text = NULL;
        if (!env_name_valid(name) || !utf8_valid(name))
            return err_set(e, ERR_INVALID, "`env` has a name that no variable can have");
        if (value && text_of(value, "env", &text, e) < 0) return -1;
        env_set(out, name, text);
    }
    return 0;
}

static int take_argv(json_object *o, struct request *r, struct err *e) {
    json_object *v = field(o, "argv");
    if (!v) return 0;
    if (!json_object_is_type(v, json_type_array) || !json_object_array_length(v))
        return err_set(e, ERR_INVALID, "`argv` must be a list with at least the program");
    size_t n = json_object_array_length(v);
    r->argv = calloc(n + 1, sizeof *r->argv);
    if (!r->argv) abort();
    for (size_t i = 0; i < n; i++) {
        const char *s;
        if (text_of(json_object_array_get_idx(v, i), "argv", &s, e) < 0) return -1;
        r->argv[i] = strdup(s);
        if (!r->argv[i]) abort();
    }
    return *r->argv[0] ? 0 : err_set(e, ERR_INVALID, "the program's name in `argv` is empty");
}

static int take_pty(json_object *o, struct request *r, struct err *e) {
    json_object *v = field(o, "pty");
    if (!v) return 0;
    if (!json_object_is_type(v, json_type_object)) return err_set(e, ERR_INVALID, "`pty` must be an object");
    int64_t rows = DEFAULT_ROWS, cols = DEFAULT_COLS;
    if (take_number(v, "rows", UINT16_MAX, &rows, e) < 0 || take_number(v, "cols", UINT16_MAX, &cols, e) < 0) return -1;
    r->pty = true;
    r->rows = (uint16_t)rows;
    r->cols = (uint16_t)cols;
    return 0;
}

static int take_exec(json_object *o, struct request *r, struct err *e) {
    if (take_argv(o, r, e) < 0 || take_text(o, "cmd", &r->cmd, e) < 0 || take_env(o, &r->env, e) < 0 ||
        take_bool(o, "stdin", &r->with_stdin, e) < 0 || take_pty(o, r, e) < 0)
        return -1;
    if (!r->argv == !r->cmd) return err_set(e, ERR_INVALID, "give either `argv` or `cmd`");
    return field(o, "cwd") ? take_path(o, "cwd", r->as_root, &r->cwd, e) : 0;
}

static int take_paths(json_object *o, struct request *r, struct err *e) {
    json_object *v = field(o, "paths");
    if (!json_object_is_type(v, json_type_array) || json_object_array_length(v) > PATHS_MAX)
        return err_set(e, ERR_INVALID, "`paths` must be a list of at most %d", PATHS_MAX);
    size_t n = json_object_array_length(v);
    r->paths = calloc(n + 1, sizeof *r->paths);
    if (!r->paths) abort();
    for (size_t i = 0; i < n; i++) {
        const char *s;
        if (text_of(json_object_array_get_idx(v, i), "paths", &s, e) < 0) return -1;
        if (*s != '/' || strlen(s) >= PATH_MAX) return err_set(e, ERR_INVALID, "`paths` must be absolute and short");
        r->paths[i] = strdup(s);
        if (!r->paths[i]) abort();
    }
    return 0;
}

static int take_view(json_object *o, struct request *r, struct err *e) {
    cleanup_free char *word = NULL;
    if (take_text(o, "view", &word, e) < 0) return -1;
    if (!word) return 0;
    r->view = strcmp(word, "template") == 0 ? VIEW_TEMPLATE : VIEW_ROOT;
    if (r->view == VIEW_ROOT && strcmp(word, "root")) return err_set(e, ERR_INVALID, "`view` must be \"root\" or \"template\"");
    return 0;
}

static int take_file(json_object *o, struct request *r, struct err *e) {
    int64_t offset = 0, length = -1, mode = -1, depth = 1;
    r->parents = r->op == OP_WRITE;
    if (r->op == OP_MOVE) {
        if (take_path(o, "from", r->as_root, &r->path, e) < 0 || take_path(o, "to", r->as_root, &r->to, e) < 0)
            return -1;
    } else if (take_path(o, "path", r->as_root, &r->path, e) < 0)
        return -1;
    if (take_number(o, "offset", INT64_MAX, &offset, e) < 0 || take_number(o, "length", INT64_MAX, &length, e) < 0 ||
        take_number(o, "mode", 07777, &mode, e) < 0 || take_number(o, "depth", LIST_DEPTH, &depth, e) < 0 ||
        take_bool(o, "append", &r->append, e) < 0 || take_bool(o, "parents", &r->parents, e) < 0 ||
        take_bool(o, "recursive", &r->recursive, e) < 0 || take_bool(o, "overwrite", &r->overwrite, e) < 0)
        return -1;
    if (r->op == OP_READ && take_view(o, r, e) < 0) return -1;
    if (!depth) return err_set(e, ERR_INVALID, "`depth` must be at least 1");
    r->offset = (uint64_t)offset;
    r->length = length < 0 ? UINT64_MAX : (uint64_t)length;
    r->mode = (int)mode;
    r->depth = (int)depth;
    return 0;
}

static int take_op(json_object *o, struct request *r, struct err *e) {
    cleanup_free char *name = NULL, *user = NULL;
    if (take_text(o, "op", &name, e) < 0 || take_text(o, "user", &user, e) < 0) return -1;
    if (!name) return err_set(e, ERR_INVALID, "`op` is missing");
    if (user && strcmp(user, "user") && strcmp(user, "root"))
        return err_set(e, ERR_INVALID, "`user` must be \"user\" or \"root\"");
    r->as_root = user && user[0] == 'r';
    for (size_t i = 0; i < sizeof op_names / sizeof *op_names; i++)
        if (!strcmp(op_names[i], name)) {
            r->op = (enum op)i;
            r->as_root |= r->op == OP_CHANGES || r->op == OP_DIGEST;
            return 0;
        }
    return err_set(e, ERR_UNSUPPORTED, "the guest knows no operation of that name");
}

static int take_all(json_object *o, struct request *r, struct err *e) {
    if (!json_object_is_type(o, json_type_object)) return err_set(e, ERR_INVALID, "the request must be a JSON object");
    if (take_op(o, r, e) < 0) return -1;
    switch (r->op) {
    case OP_EXEC: return take_exec(o, r, e);
    case OP_ENVIRONMENT: return take_env(o, &r->env, e);
    case OP_DIGEST: return take_paths(o, r, e);
    case OP_CHANGES:
    case OP_RESET:
    case OP_PROCESSES:
    case OP_PORTS:
    case OP_DISK: return 0;
    default: return take_file(o, r, e);
    }
}

int request_parse(const char *json, size_t len, struct request *r, struct err *e) {
    *r = (struct request){.mode = -1};
    if (len > INT_MAX) return err_set(e, ERR_TOO_LARGE, "the request is too long");
    json_tokener *t = json_tokener_new_ex(JSON_DEPTH);
    if (!t) abort();
    json_tokener_set_flags(t, JSON_TOKENER_VALIDATE_UTF8 | JSON_TOKENER_STRICT);
    json_object *o = json_tokener_parse_ex(t, json, (int)len);
    int rc = 0;
    if (json_tokener_get_error(t) != json_tokener_success)
        rc = err_set(e, ERR_INVALID, "the request is no valid JSON: %s",
                     json_tokener_error_desc(json_tokener_get_error(t)));
    else
        rc = take_all(o, r, e);
    json_object_put(o);
    json_tokener_free(t);
    if (rc < 0) request_free(r);
    return rc;
}

void request_free(struct request *r) {
    free(r->path);
    free(r->to);
    free(r->cmd);
    free(r->cwd);
    for (char **a = r->argv; a && *a; a++) free(*a);
    free(r->argv);
    for (char **a = r->paths; a && *a; a++) free(*a);
    free(r->paths);
    env_free(&r->env);
    *r = (struct request){.mode = -1};
}
