/* env.h: lists of environment variables, and the three layers every process of exec starts with:
 * the fixed base, the template's /etc/cella/environment, and the cell's own extra (op "environment"). */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* "NAME=VALUE" strings, NULL-terminated once not empty; "NAME" without '=' means: take NAME away. Owner: env_free. */
struct env {
    char **vars;
    size_t n;
};

/* True when name can be a variable's name: not empty, no '='. */
bool env_name_valid(const char *name);
/* Add or replace; value NULL: NAME is to be taken away by whoever merges this list. */
void env_set(struct env *list, const char *name, const char *value);
/* Put every entry of `over` on top of `list`, taking away what it takes away. */
void env_merge(struct env *list, const struct env *over);
void env_free(struct env *list);
const char *env_get(const struct env *list, const char *name);

/* Read NAME=VALUE lines (blank lines and lines starting with # are skipped, others without '=' too) from the file, at
 * most 64 KiB. No file: no entries. Called once, at start. */
void env_template_load(const char *path);
/* Replace the cell's extra environment; takes the entries over. */
void env_extra_set(struct env *extra);
/* Environment of a new process: base, template, extra, then `request`. New list. */
struct env env_for_process(bool as_root, bool pty, const struct env *request);
