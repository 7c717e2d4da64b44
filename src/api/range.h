/* range.h: the Range header of a request (RFC 9110, 14). Pure, any thread. */
#pragma once
#include <stdint.h>

enum range_kind {
    RANGE_WHOLE,   /* none, or one that is not understood or asks for several parts: the whole file answers it, as the RFC allows */
    RANGE_PART,    /* *from and *length say which; the part is not empty and lies inside */
    RANGE_OUTSIDE, /* well-formed, and no byte of the file is in it: 416 */
};

/* header may be NULL. size: of the file. */
enum range_kind range_of(const char *header, uint64_t size, uint64_t *from, uint64_t *length);
