/* services.h: keeper and daemon as processes: what `up` and `down` share. Needs root. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "cli/programs.h"

#define SERVICE_USER "cella"
#define STATE_DEFAULT "/var/lib/cella"
#define LISTEN_DEFAULT "127.0.0.1:7070"

struct services {
    char state[PROGRAM_PATH]; /* absolute */
    const char *listen;
    const char *driver; /* --driver of the daemon, or NULL */
    bool background;    /* logs go to STATE/log, otherwise to this program's stderr */
    const char *config; /* settings file for cellad, absolute, or NULL */
};

/* The state directory of --state or CELLA_STATE, made absolute. */
int services_state(struct services *, const char *option, struct err *);
/* The absolute path of the settings file for cellad. */
int services_config(struct services *, const char *path, struct err *);
/* "http://127.0.0.1:7070" of a --listen value; for an address that means "all", the loopback one. */
int services_url(const char *listen, char out[128], struct err *);
/* STATE/run/<name>.pid */
void services_pidfile(const struct services *, const char *name, char out[PROGRAM_PATH + 64]);
/* User, directories, owners and modes. Does nothing that is done already. */
int services_prepare(const struct services *, struct err *);
/* Start one of them and record its pid. *pidfd is the caller's. */
int services_start_keeper(const struct services *, pid_t *pid, int *pidfd, struct err *);
int services_start_daemon(const struct services *, pid_t *pid, int *pidfd, struct err *);
/* End what a pid file names. False when it would not end. *was_running may be NULL. */
bool services_end(const struct services *, const char *name, int grace_ms, bool *was_running);

/* Grace: the daemon finishes requests; the keeper takes down every cell, which costs a few milliseconds each. */
#define DAEMON_GRACE_MS 10000
#define KEEPER_GRACE_MS 30000
