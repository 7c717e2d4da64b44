/* keeper_proto.h: cellad <-> cella-keeper, over an AF_UNIX SOCK_SEQPACKET connection.
 *
 * Fixed-size messages, descriptors by SCM_RIGHTS, nothing to parse. The keeper accepts connections only from the daemon's uid (SO_PEERCRED)
 * and from root, and serves one at a time: a new connection replaces the old one (a daemon that was killed and came back).
 * Requests are carried out in order; each gets exactly one answer with the same tag, except KEEPER_ZYGOTE_START, whose answer comes when the
 * zygote stands at its fork point (others are served meanwhile). Events have tag 0.
 *
 * The daemon is trusted with policy, not with the host: the keeper checks every field, takes no path from it (templates and layers are
 * found below the keeper's own state directory by hexadecimal names) and can do nothing but what this page names. */
#pragma once
#include <stdint.h>

#define KEEPER_PROTO 3
#define KEEPER_MAGIC 0x43454c03u /* "CEL", version 3 */
#define KEEPER_SLOTS 32          /* contexts of a cell */
#define KEEPER_CELLS_MAX 8192
#define KEEPER_ID 40             /* "sbx_" + 32 hex + NUL, padded */
#define KEEPER_TEMPLATE 72       /* 64 hex + NUL, padded */
#define KEEPER_TEXT 256

enum keeper_op {
    KEEPER_HELLO = 1,    /* answer: report filled */
    KEEPER_LIST,         /* one KEEPER_EVENT_FOUND for every living cell, then the answer */
    KEEPER_ZYGOTE_START, /* template, language */
    KEEPER_ZYGOTE_STOP,  /* template, language: cells made from it live on */
    KEEPER_CELL_MAKE,    /* template, id, limits, language (0: leave it empty) -> cell, serial; fds: guest [, control, stdout, stderr] */
    KEEPER_CELL_DESTROY, /* cell, serial: answer when nothing is left */
    KEEPER_CELL_LIMITS,  /* cell, serial, limits */
    KEEPER_CELL_FREEZE,  /* cell, serial, on (1 freeze, 0 thaw) */
    KEEPER_CELL_STATS,   /* cell, serial -> stats */
    KEEPER_CONTEXT_MAKE, /* cell, serial, slot, language -> fds: control, stdout, stderr */
    KEEPER_CONTEXT_SIGNAL, /* cell, serial, slot, signo */
    /* Copies of a living cell. A capture belongs to the connection: it goes with it. */
    KEEPER_CAPTURE, /* cell, serial, capture (a number of the daemon's choice, not 0 and not in use), flags (KEEPER_HOLD) -> frozen_us, notes:
                       the cell at this instant, kept in memory; it goes on. With KEEPER_HOLD its contexts stay stopped until KEEPER_CAPTURE_DROP */
    KEEPER_CAPTURE_MAKE, /* capture, id, flags (KEEPER_LAST: the capture is used up, also by a failure) -> cell, serial, slots, notes; fds as in
                            KEEPER_EVENT_FOUND: a new cell with everything of it */
    KEEPER_CAPTURE_DROP, /* capture */
    KEEPER_CAPTURE_OPEN, /* capture, slot -> language, zygote; fds: memory (read only), pagemap, maps, state (wire/context_state.h, a memory file) */
    KEEPER_ZYGOTE_OPEN,  /* template, language -> zygote; fds: memory (read only), pagemap, maps */
    /* Kept layers: files of an image, below the keeper's state directory until they are dropped. Ids are "img_" + 32 hex. */
    KEEPER_LAYER_KEEP, /* capture, id -> bytes: the capture's files under this id; the answer comes when they are on the disk */
    KEEPER_LAYER_LIST, /* one KEEPER_EVENT_LAYER for each, then the answer */
    KEEPER_LAYER_DROP, /* id */
    /* A context put together from an image: a copy of the zygote, stopped in the cell with all its rights dropped, until KEEPER_THAW_RUN. A context
     * that is not run before its cell or the connection ends is killed. */
    KEEPER_THAW_BEGIN, /* cell, serial, slot, language; fd: state -> zygote; fds: control, stdout, stderr, memory (read and write), maps */
    KEEPER_THAW_CALLS, /* cell, serial, slot; fd: a memory file with a struct keeper_calls; the keeper writes the results into it */
    KEEPER_THAW_RUN,   /* cell, serial, slot -> notes: threads, descriptors, registers as the state says; then it runs */
    KEEPER_CELL_RENAME, /* cell, serial, id: it has this id from now on, and the cell that had it until now is destroyed: one step, never half */
    /* Machines: cells that are virtual machines (cella-vmm, wire/vmm_proto.h). The keeper starts the monitors, holds their control sockets, limits them as
     * a group and keeps their disks as layers (one file "disk.img" in each); what is said inside (wire/machine_proto.h) is the daemon's. Such a cell has
     * a serial and an index like every other; DESTROY, LIMITS (of the group: memory is what is given here plus what the monitor needs), FREEZE,
     * STATS, RENAME, LIST, CAPTURE (also with HOLD), CAPTURE_DROP and LAYER_* mean the same for it; the other requests above refuse it.
     * The daemon says HOLD to the guest before a capture. */
    KEEPER_MACHINE_BOOT,     /* template, id, limits (memory_bytes: of the machine, for good), vcpus -> cell, serial: the template's kernel starts on a fresh
                                disk; for baking */
    KEEPER_MACHINE_BASE,     /* cell, serial, layer ("bas_" + 32 hex) -> bytes: memory, state and disk of a machine that was booted become this base, the newest of
                                its template. The answer comes when all is on the disk; then the machine ends, without an event */
    KEEPER_MACHINE_TEMPLATE, /* template, layer (a base, or "": the newest), limits.memory_bytes and vcpus (what the newest must have; 0: any) -> layer: its machine is
                                restored and waits to be copied. ENOENT: there is no base; EBADMSG: it cannot be used here (text says why): bake again */
    KEEPER_MACHINE_MAKE,     /* template, layer (as answered by MACHINE_TEMPLATE), id, limits -> cell, serial; fds: machine control, guest, context of slot 0: a copy of
                                the template's machine with a copy of its disk; it runs. EAGAIN: MACHINE_TEMPLATE first */
    KEEPER_MACHINE_CONNECT,  /* cell, serial, slot (port = MACHINE_HOST_CONTEXT + slot; KEEPER_SLOTS: control; KEEPER_SLOTS + 1: guest) -> fd: our end of a new
                                connection. A guest that refuses it closes it */
    KEEPER_MACHINE_COPY,     /* capture of a machine, id, flags (KEEPER_LAST) -> cell, serial, slots; fds: machine control, guest, one for each bit of slots, lowest
                                first: like CAPTURE_MAKE. It runs */
    KEEPER_MACHINE_SAVE,     /* capture, fds: state, memory (empty files of the daemon) -> bytes, layer (its base), vcpus: what the capture's machine has beyond its base; the
                                answer comes when both are written (not synced) */
    KEEPER_MACHINE_RESTORE,  /* template, layer (its base), files (the kept layer, "img_…"), id, limits, vcpus; fds: state, memory -> as MACHINE_COPY. The memory file must never
                                change again. EBADMSG: refused, text says why */
    /* events, keeper -> daemon */
    KEEPER_EVENT_FOUND = 100, /* cell, serial, id, template, slots (bit mask); fds: guest, then three for each bit, lowest first. machine set: fds as
                                 MACHINE_COPY; layer: its base */
    KEEPER_EVENT_CONTEXT_EXIT, /* cell, serial, slot, fate, code */
    KEEPER_EVENT_CELL_GONE,    /* cell, serial, fate (KEEPER_FATE_KILLED or _OOM) */
    KEEPER_EVENT_ZYGOTE_GONE,  /* template, language: it will be baked again when needed */
    KEEPER_EVENT_LAYER,        /* id, bytes */
};

/* keeper_request.flags */
#define KEEPER_HOLD 0x1u
#define KEEPER_LAST 0x2u

enum keeper_language { KEEPER_NONE = 0, KEEPER_PYTHON = 1, KEEPER_SHELL = 2, KEEPER_LANGUAGES };
enum keeper_fate { KEEPER_FATE_EXITED = 0, KEEPER_FATE_KILLED = 1, KEEPER_FATE_OOM = 2 };

/* Feature bits of keeper_report.features: what the host gave. A missing one is a degradation that `doctor` names. */
#define KEEPER_HAS_MSEAL 0x1
#define KEEPER_HAS_LANDLOCK 0x2
#define KEEPER_HAS_BTRFS 0x4
#define KEEPER_HAS_DISK_QUOTA 0x8
#define KEEPER_HAS_MEMORY 0x10
#define KEEPER_HAS_CPU 0x20
#define KEEPER_HAS_PIDS 0x40
#define KEEPER_HAS_CGROUP_KILL 0x80
#define KEEPER_HAS_KVM 0x100 /* /dev/kvm opens and makes a virtual machine; whether that boots Linux, `cella doctor` tries */

struct keeper_limits {
    uint64_t memory_bytes, disk_bytes;
    uint32_t cpu_millis, pids_max, open_files, pad;
};

struct keeper_stats {
    uint64_t memory_bytes, memory_peak_bytes, cpu_us, disk_bytes, oom_kills;
    uint32_t pids, pad;
};

struct keeper_report {
    uint32_t features, cells, zygotes, landlock_abi;
    uint64_t cells_made, contexts_made;
    uint64_t cell_make_us_last, ferry_us_last; /* how long the newest ones took */
};

struct keeper_request {
    uint32_t magic, op;
    uint64_t tag;
    uint32_t cell, serial;
    uint32_t slot, language;
    int32_t signo;
    uint32_t on;
    uint32_t capture, flags;
    struct keeper_limits limits;
    char id[KEEPER_ID];
    char template_id[KEEPER_TEMPLATE];
    char layer[KEEPER_ID]; /* KEEPER_CELL_MAKE: the cell starts with the files of this kept layer; "": with none. Machines: a base */
    char files[KEEPER_ID]; /* KEEPER_MACHINE_RESTORE */
    uint32_t vcpus, pad;
};

struct keeper_reply {
    uint32_t magic, op;
    uint64_t tag;
    int32_t error; /* 0, or errno: text says what failed */
    uint32_t cell, serial;
    uint32_t slot, slots;
    uint32_t fate, language;
    int32_t code;
    uint32_t cold;
    uint32_t notes;  /* entries of struct keeper_note; a memory file with them is the last descriptor when there are any */
    uint32_t machine, vcpus; /* EVENT_FOUND: 1, it is a machine */
    uint64_t zygote; /* which warm interpreter the memory descends from, a number never used again; 0: one that is gone */
    union {
        uint32_t frozen_us; /* KEEPER_CAPTURE */
        uint64_t bytes;     /* KEEPER_LAYER_KEEP, KEEPER_EVENT_LAYER */
        struct keeper_stats stats;
        struct keeper_report report;
        char text[KEEPER_TEXT];
    };
    char id[KEEPER_ID];
    char template_id[KEEPER_TEMPLATE];
    char layer[KEEPER_ID];
};

/* What a copy of a cell does not have of its original, or has as something else. */
enum keeper_note_kind {
    KEEPER_NOTE_SOCKET = 1, /* a connection: in the copy it has ended (end of file, EPIPE) */
    KEEPER_NOTE_PIPE,       /* a pipe whose other end is outside: it has ended */
    KEEPER_NOTE_FILE,       /* a file that could not be opened again at its path: its number is taken, every use of it fails (EBADF) */
    KEEPER_NOTE_DEVICE,     /* something else that has no copy (inotify, a terminal, …): the same */
    KEEPER_NOTE_MAPPING,    /* memory shared with others: the copy has a memory of its own with the same contents */
    KEEPER_NOTE_PROCESS,    /* a process other than a context: not there */
    KEEPER_NOTE_TIMER,      /* a timer of the process that could not be set again */
};
struct keeper_note {
    uint32_t kind, slot; /* slot: KEEPER_SLOTS when it belongs to no context */
    int32_t fd;          /* descriptor in the context, or -1 */
    uint32_t pid;        /* of a process, as seen in the cell */
    char text[112];      /* path, name of the process, kind of device; NUL-terminated, bytes of the cell's choice */
};
#define KEEPER_NOTES_MAX 256 /* further ones are counted in one last note */

/* Calls for KEEPER_THAW_CALLS. The keeper takes only these: munmap mmap mprotect madvise brk openat2 close mremap (all with the rights
 * of the cell's user). Pointers point into the scratch area at `scratch`, whose bytes follow the calls. A result that is an error
 * stops the table unless `ignore` is set; the reply tells the first such error. */
struct keeper_one_call {
    uint64_t nr, arg[6];
    int64_t ret;
    uint64_t ignore;
};
#define KEEPER_CALLS_MAX 160
#define KEEPER_SCRATCH_MAX 8192
struct keeper_calls {
    uint32_t count, scratch_bytes;
    struct keeper_one_call call[KEEPER_CALLS_MAX];
    uint8_t scratch[KEEPER_SCRATCH_MAX];
};
#define KEEPER_SCRATCH_ADDRESS 0x200000004000ul /* where scratch lies in the context */

#define KEEPER_FDS_MAX (2 + 3 * KEEPER_SLOTS) /* also enough for a machine */
_Static_assert(sizeof(struct keeper_request) == 280, "the request is part of the protocol");
_Static_assert(sizeof(struct keeper_reply) == 480, "the reply is part of the protocol");
_Static_assert(sizeof(struct keeper_note) == 128, "a note is part of the protocol");
