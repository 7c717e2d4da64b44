/* pidfile.h: "PID START-TIME" in a file. A pid alone may belong to another process by now; pid and start time together
 * name one process of this boot. Signals go through a pidfd that was checked after it was opened. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

/* Record a process (written, then renamed into place). */
int pidfile_write(const char *path, pid_t pid, struct err *);
/* A pidfd of the recorded process (close it), or -1 when it does not run any more or nothing is recorded. *pid may be
 * NULL. */
int pidfile_open(const char *path, pid_t *pid);
/* True when the process behind the pidfd ended within timeout_ms. */
bool pidfd_wait(int pidfd, int timeout_ms);
int pidfd_signal(int pidfd, int signo);
/* SIGTERM, wait, SIGKILL, wait. False when it still runs. */
bool pidfd_end(int pidfd, int grace_ms);
