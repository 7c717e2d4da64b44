/* config.h: /etc/cella/cella.conf: "name = value" lines, "#" comments. packaging/cella.conf is the manual of every
 * setting. The daemon reads the file itself (--config) and checks it; `up` and `down` look up where its state is and
 * where it listens. */
#pragma once
#include "base/err.h"

#define CONFIG_DEFAULT "/etc/cella/cella.conf"
#define CONFIG_SETTINGS_MAX 128

struct config {
    char *text;       /* the file; names and values point into it */
    const char *path; /* NULL: there is no file */
    const char *name[CONFIG_SETTINGS_MAX], *value[CONFIG_SETTINGS_MAX];
    unsigned count;
};
/* file NULL: CONFIG_DEFAULT, which may be missing. A line that is none is an error with its number. */
int config_load(struct config *, const char *file, struct err *);
int config_parse(struct config *, char *text, const char *path, struct err *); /* takes text (malloc'ed) */
const char *config_value(const struct config *, const char *name);             /* the last one given; NULL: not set */
void config_free(struct config *);
