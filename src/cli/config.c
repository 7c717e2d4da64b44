#include "cli/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/cli.h"

#define CONFIG_FILE_MAX (256u << 10)

static char *trim(char *text) {
    while (isspace((unsigned char)*text)) text++;
    size_t n = strlen(text);
    while (n > 0 && isspace((unsigned char)text[n - 1])) text[--n] = 0;
    return text;
}

static char *unquoted(char *value) {
    size_t n = strlen(value);
    if (n < 2 || value[0] != '"' || value[n - 1] != '"') return value;
    value[n - 1] = 0;
    return value + 1;
}

static int take_line(struct config *c, char *line, unsigned number, struct err *e) {
    static const char *const hint = "a setting is written: name = value";
    line = trim(line);
    if (!*line || *line == '#') return 0;
    char *equals = strchr(line, '=');
    if (!equals || equals == line)
        return err_hint(e, CLI_USAGE, hint, "%s, line %u: this is no setting", c->path, number);
    if (c->count == CONFIG_SETTINGS_MAX)
        return err_hint(e, CLI_USAGE, hint, "%s, line %u: too many settings", c->path, number);
    *equals = 0;
    c->name[c->count] = trim(line);
    c->value[c->count++] = unquoted(trim(equals + 1));
    return 0;
}

int config_parse(struct config *c, char *text, const char *path, struct err *e) {
    *c = (struct config){.text = text, .path = path};
    unsigned number = 0;
    for (char *line = text; line;) {
        char *end = strchr(line, '\n');
        if (end) *end = 0;
        if (take_line(c, line, ++number, e) < 0) {
            config_free(c);
            return -1;
        }
        line = end ? end + 1 : NULL;
    }
    return 0;
}

int config_load(struct config *c, const char *file, struct err *e) {
    *c = (struct config){0};
    const char *path = file ? file : CONFIG_DEFAULT;
    cleanup_file FILE *f = fopen(path, "re");
    if (!f && errno == ENOENT && !file) return 0;
    if (!f) return err_sys(e, errno, "cannot read %s", path);
    char *text = malloc(CONFIG_FILE_MAX + 1);
    if (!text) abort();
    size_t n = fread(text, 1, CONFIG_FILE_MAX, f);
    text[n] = 0;
    if (ferror(f) || !feof(f) || strlen(text) != n) {
        free(text);
        return err_set(e, CLI_USAGE, "%s is not a settings file", path);
    }
    return config_parse(c, text, path, e);
}

const char *config_value(const struct config *c, const char *name) {
    for (unsigned i = c->count; i > 0; i--)
        if (strcmp(c->name[i - 1], name) == 0) return c->value[i - 1];
    return NULL;
}

void config_free(struct config *c) {
    free(c->text);
    *c = (struct config){0};
}
