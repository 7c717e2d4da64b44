/* machine.h: cells that are virtual machines. Such a cell has an entry, a group, a layer (its disk) and an id like every other (cell.h), and instead of a
 * guest process and contexts a monitor (vmm_talk.h). This page is the machine as a part of a cell; machine_copy.h makes machines, machine_save.h
 * writes them to files.
 *
 * The keeper holds a copy of the daemon's end of every connection into the guest, so that the next daemon gets them; it reads nothing of them. */
#pragma once
#include "keeper/cell.h"
#include "keeper/snapshot.h"
#include "keeper/vmm_talk.h"

/* Numbers of connections: a context's slot, then these two. */
#define MACHINE_CONTROL KEEPER_SLOTS
#define MACHINE_GUEST (KEEPER_SLOTS + 1)
#define MACHINE_STREAMS (KEEPER_SLOTS + 2)
#define MACHINE_BIT(number) (1ull << (number))
#define MACHINE_DISK_ROOT 0
#define MACHINE_DISK_PRIVATE 1

/* What a group has beyond the memory that its cell is given: the guest's kernel and what it keeps of the root (200 MiB: a Debian kernel with initrd takes 120),
 * KVM's page tables and those of the process, twice for a fork that is about to leave (16 MiB for each 2 GiB), stacks and buffers of the monitor and its
 * streams (128 of them with 448 KiB each at most: 56 MiB). */
#define MACHINE_MEMORY_EXTRA (320ull << 20)

/* What a machine's disk may take beyond the cell's files, on the host: the guest's own file system (journal, bitmaps, tables of inodes) and a btrfs's of small pieces.
 * Inside, the guest sees to it that the cell has its limit and no more; this is for one that does not, because its kernel is the cell's. */
#define MACHINE_DISK_EXTRA (512ull << 20)

struct machine {
    struct vmm vmm; /* first */
    struct cell *cell;
    uint32_t vcpus;
    uint64_t memory_bytes;    /* of the machine, for good */
    char base[KEEPER_ID];     /* what its memory descends from; "": booted */
    bool held;                /* a capture makes it stand still */
    bool writing;             /* it is becoming a base */
    struct snapshot disk;     /* its layer, which is being made; no layer before machine_fit() */
    char disk_from[KEEPER_ID];
    int root_fd;              /* of one that was booted: the template's root, which its base is to have; else -1 */
    int stream[MACHINE_STREAMS]; /* the daemon's ends; -1: not connected */
};

/* A cell with everything but a monitor: entry, serial, group with limits, layer, a machine that is not started. Its layer starts empty, or as `files` says; a snapshot is taken
 * by another thread while the monitor is made. NULL with *e. */
struct machine_wish {
    const char *id, *template_id;
    const struct keeper_limits *limits;
    struct cell_files files;
    uint32_t vcpus;
    uint64_t memory_bytes;
    const char *base;
};
struct cell *machine_cell(const struct machine_wish *, struct err *);
/* Limit of a machine's layer. */
int machine_disk_limit(const char *layer, uint64_t disk_bytes, struct err *);
/* A group for monitors with the limits of such a cell. NULL: without limits. */
int machine_group(const char *name, const struct keeper_limits *, uint32_t vcpus, struct err *);
int machine_limit(const char *name, const struct keeper_limits *, uint32_t vcpus, struct err *);

/* Requests that are on their way to a new machine's monitor. */
struct machine_fitting {
    uint32_t disk, console, restore, attach[MACHINE_STREAMS];
};
/* Disk and console; then what a fork or a restore carried: the connections in `streams` (bit n: number n). Can be sent before the machine is there. */
int machine_fit(struct machine *, int dir, struct machine_fitting *, struct err *);
int machine_attach(struct machine *, uint64_t streams, struct machine_fitting *, struct err *);
/* Wait for all that. A connection that is not carried is left out; one of `needed` must be. */
int machine_fitted(struct machine *, const struct machine_fitting *, uint64_t needed, struct err *);
/* Memory, processors and the root for a monitor that was started. */
int machine_configure(struct vmm *, int root_fd, uint64_t memory_bytes, uint32_t vcpus, bool track, struct err *);
/* It runs, and its end is noticed from now on. */
int machine_run(struct machine *, struct err *);

/* The template's kernel on a fresh disk. */
struct cell *machine_boot(const char *id, const char *template_id, const struct keeper_limits *, uint32_t vcpus, struct err *);
/* A new connection, the old one of this number is forgotten. The daemon's end stays the machine's. */
int machine_connect(struct machine *, uint32_t number, struct err *);
/* For an answer or EVENT_FOUND: control, guest, slots; *slots says which. The descriptors stay the machine's. */
size_t machine_streams(struct machine *, uint32_t *slots, int fds[KEEPER_FDS_MAX]);
/* Can it be asked anything? -1 with the reason: frozen, being written, gone. */
int machine_usable(const struct cell *, struct err *);

/* Freeze the group, or let it go on. A frozen machine is paused as well, so that nothing of the guest runs when its monitor has to answer (machine_capture). */
int machine_freeze(struct cell *, bool on, struct err *);
/* The machine goes on, unless something else makes it stand. */
int machine_resume(struct cell *, struct err *);

/* For cell.c: the cell is dying, what it has of the monitor goes at once; the entry is freed. */
void machine_stop(struct machine *);
void machine_free(struct machine *);
/* Tell (on_cell_gone) and remove those that are over: call it in every turn of the loop. */
void machines_settle(void);
