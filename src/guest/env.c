#include "guest/env.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "guest/identity.h"

#define FILE_MAX (64 * 1024)

static struct env template_env, extra_env;

bool env_name_valid(const char *name) { return *name && !strchr(name, '='); }

static char **find(const struct env *list, const char *name, size_t len) {
    for (size_t i = 0; i < list->n; i++)
        if (strncmp(list->vars[i], name, len) == 0 && (list->vars[i][len] == '=' || !list->vars[i][len]))
            return &list->vars[i];
    return NULL;
}

/* Takes `var` over. */
static void put(struct env *list, char *var) {
    char **old = find(list, var, strcspn(var, "="));
    if (old) {
        free(*old);
        *old = var;
        return;
    }
    char **vars = realloc(list->vars, (list->n + 2) * sizeof *vars);
    if (!vars) abort();
    vars[list->n++] = var;
    vars[list->n] = NULL;
    list->vars = vars;
}

void env_set(struct env *list, const char *name, const char *value) {
    struct buf var = {0};
    buf_str(&var, name);
    if (value) {
        buf_str(&var, "=");
        buf_str(&var, value);
    }
    put(list, var.data);
}

static void take_away(struct env *list, const char *name) {
    char **old = find(list, name, strlen(name));
    if (!old) return;
    free(*old);
    *old = list->vars[--list->n];
    list->vars[list->n] = NULL;
}

void env_merge(struct env *list, const struct env *over) {
    for (size_t i = 0; i < over->n; i++) {
        if (!strchr(over->vars[i], '=')) {
            take_away(list, over->vars[i]);
            continue;
        }
        char *copy = strdup(over->vars[i]);
        if (!copy) abort();
        put(list, copy);
    }
}

void env_free(struct env *list) {
    for (size_t i = 0; i < list->n; i++) free(list->vars[i]);
    free(list->vars);
    *list = (struct env){0};
}

const char *env_get(const struct env *list, const char *name) {
    size_t len = strlen(name);
    char **var = find(list, name, len);
    return var && (*var)[len] == '=' ? *var + len + 1 : NULL;
}

void env_template_load(const char *path) {
    struct stat st;
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) return;
    cleanup_free char *text = malloc(FILE_MAX + 1);
    if (!text) abort();
    ssize_t n = read(fd, text, FILE_MAX);
    if (n <= 0) return;
    text[n] = 0;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        char *value = strchr(line, '=');
        if (*line == '#' || !value || value == line) continue;
        *value++ = 0;
        env_set(&template_env, line, value);
    }
}

void env_extra_set(struct env *extra) {
    env_free(&extra_env);
    extra_env = *extra;
    *extra = (struct env){0};
}

struct env env_for_process(bool as_root, bool pty, const struct env *request) {
    struct env list = {0};
    env_set(&list, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    env_set(&list, "HOME", identity_home(as_root));
    env_set(&list, "USER", as_root ? "root" : "user");
    env_set(&list, "LANG", "C.UTF-8");
    if (pty) env_set(&list, "TERM", "xterm-256color");
    env_merge(&list, &template_env);
    env_merge(&list, &extra_env);
    env_merge(&list, request);
    return list;
}
