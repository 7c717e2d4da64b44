/* entry.h: how files are told about in JSON. */
#pragma once
#include <json-c/json.h>
#include <sys/stat.h>

/* A JSON string of bytes that a cell chose: what is not UTF-8 becomes U+FFFD. */
json_object *entry_text(const char *bytes);
/* {"name","path","type","size","mode","uid","gid","mtime_ms"}, and "target" for a symlink `name` in `dir`. */
json_object *entry_json(int dir, const char *name, const char *path, const struct stat *st);
int64_t entry_mtime_ms(const struct stat *st);
