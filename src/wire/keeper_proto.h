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

#define KEEPER_PROTO 1
#define KEEPER_MAGIC 0x43454c01u /* "CEL", version 1 */
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
    KEEPER_CAPTURE,      /* cell, serial -> capture, frozen_us: the cell at this instant, kept in memory; it goes on */
    KEEPER_CAPTURE_MAKE, /* capture, id -> cell, serial, slots; fds as in KEEPER_EVENT_FOUND: a new cell with everything of it */
    KEEPER_CAPTURE_DROP, /* capture */
    /* events, keeper -> daemon */
    KEEPER_EVENT_FOUND = 100, /* cell, serial, id, template, slots (bit mask); fds: guest, then three for each bit, lowest first */
    KEEPER_EVENT_CONTEXT_EXIT, /* cell, serial, slot, fate, code */
    KEEPER_EVENT_CELL_GONE,    /* cell, serial, fate (KEEPER_FATE_KILLED or _OOM) */
    KEEPER_EVENT_ZYGOTE_GONE,  /* template, language: it will be baked again when needed */
};

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
    union {
        uint32_t on;
        uint32_t capture;
    };
    struct keeper_limits limits;
    char id[KEEPER_ID];
    char template_id[KEEPER_TEMPLATE];
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
    uint32_t capture;
    union {
        uint32_t frozen_us; /* KEEPER_CAPTURE */
        struct keeper_stats stats;
        struct keeper_report report;
        char text[KEEPER_TEXT];
    };
    char id[KEEPER_ID];
    char template_id[KEEPER_TEMPLATE];
};

#define KEEPER_FDS_MAX (1 + 3 * KEEPER_SLOTS)
_Static_assert(sizeof(struct keeper_request) == 184, "the request is part of the protocol");
_Static_assert(sizeof(struct keeper_reply) == 424, "the reply is part of the protocol");
