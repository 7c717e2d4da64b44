/* image_sink.h: a file that is written front to back, with its SHA-256. The digest is made by a thread of its own while the next piece is read. Used
 * by one thread of the pool. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "driver/process/image_format.h"

#define SINK_PIECE (1u << 20)

struct image_sink;

/* A new file below the directory; it must not exist. */
struct image_sink *sink_open(int dir_fd, const char *name, struct err *);
/* Room for sink_left() bytes (never 0), to be filled and given back by sink_commit: nothing is copied. */
uint8_t *sink_room(struct image_sink *);
size_t sink_left(const struct image_sink *);
int sink_commit(struct image_sink *, size_t n, struct err *);
uint64_t sink_at(const struct image_sink *); /* bytes committed so far */
int sink_write(struct image_sink *, const void *data, size_t n, struct err *);
/* Everything is on the disk (fsync); digest of the whole file. Frees the sink, also after a failure, when the file is removed. */
int sink_close(struct image_sink *, uint8_t digest[IMAGE_DIGEST], struct err *);
void sink_drop(struct image_sink *); /* removes the file */
