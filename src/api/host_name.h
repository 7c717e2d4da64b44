/* host_name.h: what stands in Host and Origin headers. Pure, hostile input expected. */
#pragma once
#include <stdbool.h>

/* "name[:port]" split into host (lower case, brackets removed) and port (-1 when missing). False: malformed. */
bool host_split(const char *text, char host[static 256], int *port);
/* Is host one of 127.0.0.0/8, ::1, localhost, *.localhost? */
bool host_is_loopback(const char *host);
/* "49983-sbx_….name": the part behind the first dot, which names a port of a sandbox; else host itself. */
const char *host_behind_sandbox(const char *host);
/* Does an Origin header (scheme://host[:port]) name that host and port (-1: the scheme's own)? */
bool host_is_origin(const char *origin, const char *host, int port);
