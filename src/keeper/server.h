/* server.h: the keeper's loop: one daemon connection, zygotes that become ready, children that end. */
#pragma once
#include <sys/types.h>

#include "base/err.h"

/* Listen on this path (removed and made anew, owned by daemon_uid, mode 0600). Returns the descriptor. */
int server_listen(const char *path, uid_t daemon_uid, struct err *);
/* Serve until SIGTERM or SIGINT (both blocked by the caller, like SIGCHLD); then every cell is ended. 0, or -1 with *e. */
int server_run(int listen_fd, uid_t daemon_uid, struct err *);
