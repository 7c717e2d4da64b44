/* state.h: a context's image (image.h) as a string of bytes (wire/context_state.h): how it leaves the keeper for an image on disk and comes
 * back for a thaw. What comes back is trusted with nothing: every count, length, descriptor and address is checked here, and what the kernel
 * checks by itself (registers, vector state) fails the thaw there. */
#pragma once
#include "keeper/image.h"

/* A memory file with it, the caller's; -1 with *e. */
int image_write(const struct image *, struct err *);
/* Read from a memory file (any other kind of file is refused); the image is `stated` and the caller's (image_free). */
int image_read(int memfd, struct image *, struct err *);
/* The same from memory: what image_read does after reading. */
int image_parse(const void *bytes, size_t n, struct image *, struct err *);
