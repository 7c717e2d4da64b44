/* keep.h: layers that are being made durable. It takes as long as the disk does, so a child of the keeper does it while others are served. */
#pragma once
#include <stdbool.h>

#include "keeper/capture.h"

#define KEEPS_MAX 16

struct keep {
    pid_t pid;    /* 0: entry is free */
    int fd;       /* readable when it is done or dead */
    uint64_t tag; /* of the request that waits; 0: nobody does any more */
    uint32_t capture;
    bool dropped; /* by KEEPER_LAYER_DROP meanwhile */
    char id[KEEPER_ID];
};
extern struct keep keeps[KEEPS_MAX];

void keeps_open(void);
/* The capture's layer is called `id` from now on; the capture goes on using it. The answer follows when the descriptor speaks. */
int keep_start(struct capture *, const char *id, uint64_t tag, struct err *);
/* It spoke: frees the entry. A layer that did not become durable is kept no longer. */
int keep_finish(struct keep *, uint64_t *bytes, struct err *);
/* Remove a kept layer; one that a capture still uses goes with the capture. */
int keep_drop(const char *id, struct err *);
/* The daemon's connection ended: nobody waits for an answer. */
void keeps_forget(void);
