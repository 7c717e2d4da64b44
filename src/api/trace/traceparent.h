/* traceparent.h: the W3C Trace Context header (https://www.w3.org/TR/trace-context/). Pure; hostile input expected. */
#pragma once
#include <stdbool.h>

#define TRACEPARENT_SIZE 56 /* "00-" 32 hex "-" 16 hex "-" 2 hex, NUL */

struct traceparent {
    char trace[33], span[17]; /* lower-case hex */
    bool sampled;
};

/* False: missing (NULL) or malformed, and the standard says to go on as if there was none. A later version is read as
 * far as it is known. */
bool traceparent_parse(const char *text, struct traceparent *out);
void traceparent_write(const struct traceparent *, char out[static TRACEPARENT_SIZE]);
