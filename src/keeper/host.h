/* host.h: what every cell and zygote of this keeper shares: identities, places, device nodes, the filter, the layers of defence that a test
 * build can switch off. Set up once by host_open(), read-only afterwards. */
#pragma once
#include <linux/filter.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "wire/context_proto.h"
#include "wire/keeper_proto.h"

/* Host ids. OWNER owns every cell's user namespace and runs every sentinel; it lies outside all mapped ranges (sentinel.md). */
#define HOST_UID_OWNER 0x3fff0000u
#define HOST_UID_BASE 0x40000000u /* cell i gets 65,536 ids from here on */
#define HOST_UID_RANGE 65536u
/* Monitors of virtual machines: one id for a machine and its forks, because a fork of a machine that has run cannot become another user. */
#define HOST_UID_MONITORS 0x3ffe0000u
#define HOST_UID_MONITORS_COUNT 65536u
#define CELL_UID_USER 1000  /* code of a cell */
#define CELL_UID_GUEST 65533 /* cella-guest */

/* Ceilings of one cell for what the kernel counts per owner of the namespace or per host; host_open raises the common ones to the sum. */
#define HOST_PTYS_PER_CELL 128
#define HOST_INOTIFY_INSTANCES_PER_CELL "128"
#define HOST_INOTIFY_WATCHES_PER_CELL "16384"

/* RLIMIT_CORE of everything in a cell. Not 0: where core_pattern names a program, 0 would still run it, as root of the host, on memory that
 * the cell wrote; 1 is the value that stops that, and the filter keeps code in a cell from changing it. */
#define HOST_NO_CORE 1

#define FD_STUB (CONTEXT_FD + 1) /* in a zygote at its start: the sealed code */

/* Layers of defence. All on, except in a build with -Dtest_layers=true, where --without NAME switches one off so that the hostile tests
 * can show that they fail without it. */
enum layer { LAYER_SECCOMP, LAYER_LANDLOCK, LAYER_MASKS, LAYER_CAPS, LAYER_LIMITS, LAYER_USERLIMITS, LAYERS };

struct host {
    char state[3072];     /* absolute */
    char contexts[3072];  /* kernels of the contexts */
    uint32_t features;    /* KEEPER_HAS_* */
    int dev_fd;           /* directory with the device nodes of cells */
    int guest_fd;         /* sealed memory file: cella-guest */
    int stub_fd;          /* sealed memory file: injected code */
    int landlock_abi;
    uint64_t open_files_max; /* the keeper's own hard limit: no cell gets more */
    struct sock_fprog filter;
    bool off[LAYERS];
};
extern struct host host;

/* An empty directory for mounts, relative to where host_settle() leaves the keeper and its children: the directories above need not be
 * open to the ids of cells. */
#define HOST_STAGE "stage"

int host_open(const char *state, const char *contexts, const char *guest, struct err *);
/* Last step before serving: go to STATE/run. Relative paths of the command line mean nothing afterwards. */
int host_settle(struct err *);
/* Switch a layer off by name; -1 for an unknown name or in an ordinary build. */
int host_layer_off(const char *name);
/* Template's root directory, or -1: template_id is 64 hex digits, checked here. */
int host_template_fd(const char *template_id, struct err *);

/* For the children that become a cell's PID 1 or a zygote. */
void child_signals(void); /* every disposition at its default, nothing blocked */
void child_ordinary(pid_t); /* in the keeper: when memory is short it may be killed like anybody's program, whatever protects the keeper */
int child_rlimits(uint32_t open_files, struct err *);
int child_drop_bounding(uint64_t keep, struct err *);
int child_filter(struct err *); /* no_new_privs and the system call filter */
/* A clone of this directory as a detached mount; userns_fd >= 0: with that namespace's owners. Caller owns it. */
int detached_mount(int dir_fd, const char *path, int userns_fd, uint64_t attr, struct err *);
