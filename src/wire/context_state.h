/* context_state.h: what the kernel keeps of a stopped context, beside its memory: threads with their registers, descriptors, signal actions,
 * limits. The keeper writes it (KEEPER_CAPTURE_OPEN) and takes it back (KEEPER_THAW_BEGIN); for everybody in between it is a string of bytes
 * that is kept, authenticated and returned unchanged. x86-64.
 *
 * One struct state_head, then `threads` struct state_thread (leader first), then `files` struct state_file, each followed by its path
 * (path_bytes with the NUL, padded to 8), then `actions` struct state_action. Everything little-endian, nothing else, no slack. */
#pragma once
#include <stdint.h>

#define STATE_MAGIC 0x54534c43u /* "CLST" */
#define STATE_VERSION 1
#define STATE_THREADS_MAX 64
#define STATE_XSTATE_MAX 12288 /* AVX-512 and AMX fit: 11,008 bytes on the largest processor known here */
#define STATE_FILES_MAX 4096
#define STATE_PATH_MAX 4096
#define STATE_BYTES_MAX (8u << 20)

struct state_head {
    uint32_t magic, version, bytes; /* of the whole */
    uint32_t threads, files, actions;
    uint32_t umask, pad;
    uint64_t stub;      /* address of the keeper's page of code in this memory */
    uint64_t timer_us, timer_interval_us; /* ITIMER_REAL: what was left */
    struct {
        uint64_t soft, hard;
    } limit[16]; /* by number of RLIMIT_*; NOFILE belongs to the cell and is not taken from here */
    char cwd[512];
};

struct state_thread {
    int32_t tid; /* in its own pid namespace */
    uint32_t xstate_bytes;
    uint64_t regs[27]; /* struct user_regs_struct */
    uint64_t signal_mask;
    uint64_t rseq_address, rseq_signature;
    uint32_t rseq_bytes, rseq_flags;
    uint64_t robust_list, robust_bytes, clear_tid;
    uint64_t altstack_address, altstack_bytes;
    int32_t altstack_flags, pad;
    char name[16];
    uint8_t xstate[STATE_XSTATE_MAX];
};

enum state_file_kind {
    STATE_REGULAR = 1, /* file, directory or harmless device: opened again at path, compared by inode (0: a directory), set to offset */
    STATE_DUP,         /* the same open file as descriptor `other` */
    STATE_EVENTFD,     /* offset = counter, other = 1: a semaphore */
    STATE_TIMERFD,     /* offset = ns left, inode = interval ns, other = clock */
    STATE_EPOLL,       /* its list follows as struct state_watch records in the path bytes (at most STATE_WATCHES_MAX) */
    STATE_PIPE,        /* both ends are descriptors of this context: flags say which end, other = the other end's descriptor. The path bytes of the
                          end that is read are what waited in it */
    STATE_SOCKETPAIR,  /* the same for two connected unnamed local sockets, each with what waited in it; offset = SOCK_* type */
    STATE_MAPPING,     /* not a descriptor: a shared mapping; fd = -1, offset = address, length and file offset in `mapping`. With a path: of that
                          file, inode compared (its pages are no part of the memory). Without: of the unnamed file at descriptor `other`, or, when that
                          is -1, of memory whose contents lie in private pages at the same place until it is shared again */
    STATE_STREAM,      /* the same open file as the one the driver places at `other` (0, 1, 2 or CONTEXT_FD), whatever stands there now */
    STATE_UNNAMED,     /* a file that cannot be found by path (unlinked, memory file, in /dev/shm): its contents lie in the context's memory at
                          mapping_offset, mapping_bytes long, in pages of their own that go when it is made again; path = "" or its name in /dev/shm */
    STATE_LOCK,        /* an advisory lock held through fd: other = STATE_LOCK_*, flags = F_RDLCK or F_WRLCK, offset and mapping_bytes (0: to the end) */
    STATE_LOST,        /* something that has no copy: its number stays taken, so that no other file gets what the program writes to it. other =
                          STATE_LOST_*: a pipe or connection whose other end is gone (end of file, EPIPE), or EBADF for whatever is tried */
    STATE_KINDS
};
enum { STATE_LOST_FILE = 0, STATE_LOST_PIPE, STATE_LOST_SOCKET };
enum { STATE_LOCK_POSIX = 1, STATE_LOCK_OPEN_FILE, STATE_LOCK_FLOCK };
#define STATE_WATCHES_MAX 4096
#define STATE_WAITING_MAX 65536 /* bytes that wait in a pipe or socket; more is not carried */
struct state_file {
    int32_t fd, other;
    uint32_t kind, flags; /* O_* without creation flags; O_CLOEXEC says close-on-exec */
    uint64_t offset, inode;
    uint64_t mapping_bytes, mapping_offset;
    uint32_t mapping_prot, path_bytes;
};
struct state_watch {
    int32_t fd;
    uint32_t events;
    uint64_t data;
};
struct state_action { /* of signals that are not at their default */
    int32_t signo, pad;
    uint64_t handler, flags, restorer, mask;
};
