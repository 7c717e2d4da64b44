/* output.h: what a person reads: tables, JSON, sizes, ages, and text of unreviewed programs made safe for a terminal.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct json_object;

/* Print JSON on stdout: indented for a person, one line for a program. */
void output_json(struct json_object *);

/* May lines drawn with UTF-8 be used (the locale says so), may colours (stdout is a terminal, no NO_COLOR)? */
bool output_utf8(void);
bool output_colours(void);

/* "a=1,b=2" of the member "metadata"; nothing when it has none. */
void output_labels(struct json_object *with_metadata, struct buf *out);

/* Say on stderr what the member "not_carried" lists: what a copy does not have of its original. */
void output_not_carried(struct json_object *answer);

/* Say on stderr what {"stdout": {"dropped_bytes": n}, …} means; anything else says nothing. */
void output_truncated(struct json_object *);

/* A table that is filled row by row and printed with columns as wide as needed. */
#define TABLE_COLUMNS 12
struct table {
    size_t columns, cells, room;
    char **cell; /* rows one after the other; the first row is the heading */
};
void table_open(struct table *, size_t columns, const char *const *heading);
/* Copies text; control characters become '?', so that nobody's metadata can write on the screen. NULL prints "-". */
void table_add(struct table *, const char *text);
void table_addf(struct table *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_render(const struct table *, struct buf *out);
void table_print(struct table *); /* and free */
void table_free(struct table *);

/* "732 MB", "1.4 GB" (decimal units). out holds 16 bytes. */
const char *size_text(char out[16], int64_t bytes);
/* "12 s", "5 min", "3 h", "4 d" since an RFC 3339 time in UTC, "-" when it is none. */
const char *age_text(char out[16], const char *rfc3339, int64_t now_s);
/* Seconds since 1970 of "2026-11-21T07:59:22[.5]Z" (also with +hh:mm), -1 when it is no such time. */
int64_t rfc3339_seconds(const char *);

/* Filter for what a cell prints onto a terminal: line feeds, tabs, carriage returns and colours (ESC [ … m) pass, every
 * other control character and escape sequence is shown as '?': a program nobody reviewed must not drive the terminal.
 * State lives across pieces, so a sequence may be cut anywhere. A zeroed struct starts. */
struct terminal_filter {
    enum { FILTER_TEXT, FILTER_ESCAPE, FILTER_CSI, FILTER_C2 } state;
    char pending[24];
    size_t count;
};
void terminal_filter(struct terminal_filter *, const char *bytes, size_t n, struct buf *out);

/* Print bytes of a cell on stream 1 or 2; filtered when that stream is a terminal and `raw` is false. */
struct cell_output {
    struct terminal_filter filter[2];
    bool raw;
};
bool cell_output(struct cell_output *, int stream, const char *bytes, size_t n); /* false: output_failed() */
bool output_write(int fd, const char *bytes, size_t n);
/* Something could not be written (full disk, closed pipe). main() turns it into a failure. */
bool output_failed(void);
