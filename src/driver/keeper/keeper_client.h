/* keeper_client.h: the daemon's end of the connection to cella-keeper: requests out, answers matched by tag, events. Private to this floor; loop
 * thread.
 *
 * The keeper serves one daemon over one connection; both drivers use it. Each has a handle of its own (a struct keeper_client): what it asked comes
 * back to it, and an event goes to the handle that says it is its own. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "base/err.h"
#include "wire/keeper_proto.h"

struct keeper_client;

/* An answer: e is NULL on success. fds belong to the callee (all of them; none on failure). */
typedef void (*keeper_answer)(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n);

struct keeper_client_events {
    /* True: it is this handle's, and so are the fds. False: the next one is asked; what nobody takes is closed. */
    bool (*on_event)(void *arg, const struct keeper_reply *r, const int *fds, size_t n);
    void (*on_lost)(void *arg); /* the keeper is gone; every pending answer has failed already. Reconnecting goes on by itself */
    void (*on_back)(void *arg); /* a keeper answers again */
    void (*on_quiet)(void *arg); /* the last pending request of all handles was answered; NULL: not wanted */
    void *arg;
};

struct keeper_client *keeper_client_open(uv_loop_t *, const char *path, const struct keeper_client_events *, struct err *);
/* Another handle on the same connection. */
struct keeper_client *keeper_client_join(struct keeper_client *, const struct keeper_client_events *);
/* magic and tag are filled in here. The answer never comes from inside this call. */
void keeper_call(struct keeper_client *, struct keeper_request *, keeper_answer, void *arg);
/* The same with descriptors that go along (at most KEEPER_CALL_FDS). They are taken over: closed when they were sent or will never be. */
#define KEEPER_CALL_FDS 2
void keeper_call_fds(struct keeper_client *, struct keeper_request *, const int *fds, size_t n, keeper_answer, void *arg);
void keeper_call_fd(struct keeper_client *, struct keeper_request *, int fd, keeper_answer, void *arg);
/* Requests of all handles that have no answer yet. */
size_t keeper_client_pending(const struct keeper_client *);
/* What this handle asked is forgotten, without an answer. The connection goes with the last handle. */
void keeper_client_close(struct keeper_client *);
