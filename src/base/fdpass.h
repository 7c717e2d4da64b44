/* fdpass.h: descriptors through a unix socket (SCM_RIGHTS). */
#pragma once
#include <stddef.h>

#define FDPASS_MAX 128 /* below the kernel's own limit of 253 */

/* Send one message with n descriptors (n may be 0). flags as for sendmsg; SIGPIPE never comes. 0, or -1 with errno. */
int fdpass_send(int socket, const void *data, size_t size, const int *fds, size_t n, int flags);
