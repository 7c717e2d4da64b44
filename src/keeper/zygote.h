/* zygote.h: the warm interpreter of a template, once per language: the first sentinel. It is started in empty namespaces of its own, imports its
 * libraries, stops in pause(2) (the fork point), and never runs again: contexts are cloned from it (ferry.h). */
#pragma once
#include "keeper/image.h"
#include "wire/keeper_proto.h"

#define ZYGOTES_MAX 64
#define ZYGOTE_SPARES 2 /* copies made ahead, in the keeper's idle moments: a third of what filling a cell takes. One is 0.4 MB of page tables */

struct zygote {
    char template_id[KEEPER_TEMPLATE];
    int language;
    uint64_t number; /* never used again, not 0 */
    pid_t pid;    /* 0: entry is free */
    bool ready;
    int ready_fd; /* readable when it says that it stands at the fork point, or died; -1 once ready */
    uint64_t tag; /* of the request that waits for it */
    int64_t started_us;
    struct image image;
    pid_t spare[ZYGOTE_SPARES]; /* sentinels themselves; 0: used up */
};
extern struct zygote zygotes[ZYGOTES_MAX];

struct zygote *zygote_find(const char *template_id, int language);
/* Does the zygote with this number still stand? */
bool zygote_lives(uint64_t number);
/* Private memory that the zygote with this number has, and all its copies with it; about that much when it is gone. */
uint64_t zygote_bytes(uint64_t number);
/* Start one; it becomes ready later. NULL with *err. */
struct zygote *zygote_start(const char *template_id, int language, uint64_t tag, struct err *);
/* Its ready_fd spoke: seize it, map the stub, capture it. On failure the zygote is killed and its entry freed by zygote_reaped. */
int zygote_settle(struct zygote *, struct err *);
/* A copy made ahead, now the caller's; 0 when there is none. */
pid_t zygote_take_spare(struct zygote *);
/* Make one copy that is missing. True while more are. */
bool zygotes_make_spare(void);
/* Is this task one of the sentinels here? */
bool zygote_has_sentinel(pid_t);
/* A child ended that may be a spare; false when it is none. */
bool zygote_spare_reaped(pid_t);
void zygote_kill(struct zygote *);
/* The process is gone: frees the entry. */
void zygote_reaped(struct zygote *);
