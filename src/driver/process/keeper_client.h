/* keeper_client.h: the daemon's end of the connection to cella-keeper: requests out, answers matched by tag, events. Private to this
 * directory; loop thread. */
#pragma once
#include <stddef.h>
#include <uv.h>

#include "base/err.h"
#include "wire/keeper_proto.h"

struct keeper_client;

/* An answer: e is NULL on success. fds belong to the callee (all of them; none on failure). */
typedef void (*keeper_answer)(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n);

struct keeper_client_events {
    void (*on_event)(void *arg, const struct keeper_reply *r, const int *fds, size_t n); /* owns the fds */
    void (*on_lost)(void *arg); /* the keeper is gone; every pending answer has failed already. Reconnecting goes on by itself */
    void (*on_back)(void *arg); /* a keeper answers again */
    void (*on_quiet)(void *arg); /* the last pending request was answered */
    void *arg;
};

struct keeper_client *keeper_client_open(uv_loop_t *, const char *path, const struct keeper_client_events *, struct err *);
/* magic and tag are filled in here. The answer never comes from inside this call. */
void keeper_call(struct keeper_client *, struct keeper_request *, keeper_answer, void *arg);
/* The same with a descriptor that goes along. It is taken over: closed when it was sent or will never be. */
void keeper_call_fd(struct keeper_client *, struct keeper_request *, int fd, keeper_answer, void *arg);
/* Requests that have no answer yet. */
size_t keeper_client_pending(const struct keeper_client *);
void keeper_client_close(struct keeper_client *);
