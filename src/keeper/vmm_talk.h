/* vmm_talk.h: the keeper's side of one monitor (cella-vmm, wire/vmm_proto.h): its process, its control socket, its group.
 *
 * A guest may have taken its monitor over, so everything that comes from one is distrusted: sizes are exact, descriptors are thrown away, an answer
 * has a time limit, and a monitor that breaks a rule is killed with its whole group, which costs only its own machine. The functions block for as long
 * as their limits say. Single-threaded. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "wire/keeper_proto.h"
#include "wire/vmm_proto.h"

/* Time limits of answers. Pausing waits for one flush of a disk at most; a fork copies page tables: tens of milliseconds for the largest machine. */
#define VMM_START_MS 10000
#define VMM_ANSWER_MS 5000
#define VMM_RESTORE_MS 10000
#define VMM_BOOT_MS 30000 /* reads a kernel and an initrd of tens of megabytes, on a slow machine */

struct watch { /* what vmm_loop_fd() tells about; `ready` may end its own watch and any other one */
    int fd;    /* -1: nothing */
    void (*ready)(struct watch *);
};

struct vmm {
    struct watch watch;     /* first; its fd is the control socket, -1: there is no monitor */
    pid_t pid;              /* as the kernel told it; not to be signalled, for it may be nobody's child: see vmm_end() */
    uid_t uid;              /* one of vmm_uid() */
    char group[KEEPER_ID];  /* its group of processes, where it is alone but for what it forks */
    uint32_t seq;
    bool over;              /* it has ended, or has been killed: `why` says it in words */
    char why[160];
    uint32_t later;         /* of a request that is answered some time: 0: none */
    void (*on_later)(struct vmm *, int status, const uint64_t arg[6], const char *text); /* status: 0 or an errno */
};

extern bool vmm_fell; /* one is over: whoever looks after machines looks at them all and sets it back */

/* ---- the loop ---- */
int vmm_open(struct err *); /* once, at start */
int vmm_loop_fd(void);      /* readable: call vmm_loop() */
void vmm_loop(void);
int watch_add(struct watch *, struct err *);
void watch_end(struct watch *); /* and close its descriptor */

/* ---- processes ---- */

/* Is there a /dev/kvm that makes virtual machines, and a cella-vmm beside the keeper's own program? Logs what is missing. */
bool vmm_possible(void);
/* A user for a family of monitors: a machine and its forks. Nobody else's as long as one of them has it. */
uid_t vmm_uid(void);
/* Start one in its group, which exists, and wait until it is ready. v->group and v->uid are set; the uid is the monitor's from here on. template: its
 * forks can become other users. */
int vmm_start(struct vmm *v, bool of_template, struct err *);
/* The other end of v's control socket, for VMM_FORK; v->group and v->uid are set. Requests can be sent to v at once. */
int vmm_pair(struct vmm *v, struct err *);
/* Fork `parent`, in two steps, between which other things can be done: the child is on its way, it is v of vmm_pair(), whose end `theirs` this closes; it stands, paused, in
 * its own group. */
int vmm_fork(struct vmm *parent, struct vmm *v, int theirs, struct err *);
int vmm_forked(struct vmm *parent, struct vmm *v, struct err *);
/* Into another group, which is the monitor's from then on. */
int vmm_move(struct vmm *v, const char *group, struct err *);
/* The monitor and its socket are `to`'s. */
void vmm_take(struct vmm *to, struct vmm *from);
/* Kill everything in its group and let go of it; fine for one that never was. The group can be removed when it is empty: vmm_bury(). */
void vmm_end(struct vmm *v);
/* Remove this group as soon as nothing is in it. */
void vmm_bury(const char *group);
/* Try again. True while something waits. */
bool vmm_sweep(void);

/* ---- requests ---- */
struct vmm_ask {
    uint64_t arg[3];
    const char *text; /* may be NULL */
    int fd[VMM_FDS_MAX];
    unsigned fds;
};
/* The number of the request, to wait for, or 0 with *e. The descriptors stay the caller's. */
uint32_t vmm_send(struct vmm *, enum vmm_type, const struct vmm_ask *, struct err *);
/* Wait for the answer to the request; answers to earlier ones are dropped. A refusal has the monitor's errno and sentence; when v->over is set, there will be no
 * further answer. arg may be NULL. */
int vmm_wait(struct vmm *, uint32_t seq, enum vmm_type, int limit_ms, uint64_t arg[6], struct err *);
int vmm_ask(struct vmm *, enum vmm_type, const struct vmm_ask *, int limit_ms, uint64_t arg[6], struct err *);
/* In watch.ready: take everything it has said. Afterwards look at v->over. */
void vmm_hear(struct vmm *);
