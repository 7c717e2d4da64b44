/* client.h: one connection to the daemon's HTTP API (libcurl + json-c). Errors of the API arrive as struct err with the
 * daemon's own sentence, code and hint; a daemon that cannot be reached is CLI_UNREACHABLE; an answer that ends too
 * early is ERR_LOST, never a short success.
 *
 * err.hint may point into the client: print it before client_close(). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"
#include "cli/cli.h"

struct json_object;

struct client {
    void *curl;
    const struct cli *cli;
    char hint[512];
};
/* Is cli->url http(s)://host[:port]? */
int client_url_check(const struct cli *, struct err *);
int client_open(struct client *, const struct cli *, struct err *);
void client_close(struct client *);

/* One request. Only method and path are needed. */
struct call {
    const char *method, *path;
    struct json_object *body; /* borrowed; sent as application/json */
    const char *accept;
    /* Body from a function instead: bytes put into `to`, 0 at the end, -1 breaks off. Size -1: not known. */
    ssize_t (*read)(void *arg, char *to, size_t room);
    int64_t read_size;
    const char *read_type; /* Content-Type of such a body */
    /* Answer to a function instead of memory (2xx only): false breaks off. */
    bool (*write)(void *arg, const char *bytes, size_t n);
    void *arg;
    double timeout_s; /* for the whole call; 0: none */
    /* Out: */
    long status;
    struct json_object *answer; /* parsed JSON, a new reference, or NULL */
    struct buf text;            /* the answer's bytes when it is not JSON */
};
/* 0 when the answer has a 2xx status and came whole. call_free() either way. */
int client_call(struct client *, struct call *, struct err *);
void call_free(struct call *);
/* The usual case: JSON there (or NULL) and JSON back (*answer may be NULL when the daemon sent none: 204). */
int client_json(struct client *, const char *method, const char *path, struct json_object *body,
                struct json_object **answer, struct err *);

/* The error in the body of an answer with this status; its hint is copied into hint_room. Returns -1. */
int client_error_of(const char *body, long status, char *hint_room, size_t room, struct err *);

/* Open a client, do `work`, print its error, close. work returns an exit code, or -1 with *e. → exit code. */
int client_with(const struct cli *, int (*work)(struct client *, void *arg, struct err *), void *arg);

/* Paths: fixed text by buf_str(), segments and query values of the user by these two (percent-encoded). */
void path_segment(struct buf *, const char *text);
void path_query(struct buf *, const char *name, const char *value); /* adds ? or & */
/* "/v1/sandboxes/<id>" + tail. */
void path_cell(struct buf *, const char *id, const char *tail);

/* String member of a JSON object, or `otherwise`. */
const char *json_text(struct json_object *, const char *key, const char *otherwise);
int64_t json_whole(struct json_object *, const char *key, int64_t otherwise);
