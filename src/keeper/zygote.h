/* zygote.h: the warm interpreter of a template, once per language: the first sentinel. It is started in empty namespaces of its own, imports its
 * libraries, stops in pause(2) (the fork point), and never runs again: contexts are cloned from it (ferry.h). */
#pragma once
#include "keeper/image.h"
#include "wire/keeper_proto.h"

#define ZYGOTES_MAX 64

struct zygote {
    char template_id[KEEPER_TEMPLATE];
    int language;
    pid_t pid;    /* 0: entry is free */
    bool ready;
    int ready_fd; /* readable when it says that it stands at the fork point, or died; -1 once ready */
    uint64_t tag; /* of the request that waits for it */
    int64_t started_us;
    struct image image;
};
extern struct zygote zygotes[ZYGOTES_MAX];

struct zygote *zygote_find(const char *template_id, int language);
/* Start one; it becomes ready later. NULL with *err. */
struct zygote *zygote_start(const char *template_id, int language, uint64_t tag, struct err *);
/* Its ready_fd spoke: seize it, map the stub, capture it. On failure the zygote is killed and its entry freed by zygote_reaped. */
int zygote_settle(struct zygote *, struct err *);
void zygote_kill(struct zygote *);
/* The process is gone: frees the entry. */
void zygote_reaped(struct zygote *);
