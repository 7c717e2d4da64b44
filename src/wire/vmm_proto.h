/* vmm_proto.h: keeper or driver <-> cella-vmm, over the VMM's control socket (AF_UNIX SOCK_SEQPACKET).
 *
 * One packet is one struct vmm_message, `bytes` bytes of text behind it, and descriptors (SCM_RIGHTS) as the table says. The VMM answers each
 * request with exactly one message of the same type and seq: status 0, or an errno with a sentence in the text. Requests are done one after the
 * other, in order, so a caller may send several at once. Messages with seq 0 are events. The VMM ends when the other side closes the socket.
 *
 * A VMM starts empty, with this socket as descriptor 3 and /dev/kvm as descriptor 4, and everything else comes through here:
 *
 *   new       CONFIG, DISK…, NET, CONSOLE_TO, BOOT,    then RESUME
 *   restored  CONFIG, DISK…, NET, CONSOLE_TO, RESTORE, ATTACH…, then RESUME
 *   forked    (the parent got FORK) DISK…, NET, CONSOLE_TO, ATTACH…, then RESUME. A forked VMM has no descriptor of its parent but /dev/kvm
 *             and the disks that can only be read.
 *
 * After a BOOT or RESTORE that failed only STOP is left.
 *
 *   request     arg[0], arg[1], …                          descriptors         answer arg[0], arg[1], …
 *   CONFIG      memory bytes, vCPUs, VMM_CONFIG_*          -                   -
 *   DISK        index, VMM_DISK_*                          file                bytes
 *   NET         MAC (48 bits, first byte lowest)           tap, or a socket    -
 *               that keeps the bounds of packets
 *   CONSOLE_TO  most bytes that are written                file or pipe        -
 *   BOOT        -; text: the kernel's command line         ELF with PVH note,  entry point
 *                                                          [initrd]
 *   RESTORE     -                                          state, memory,      pages of its own, mappings made
 *                                                          [memory of the base]
 *               The memory files are mapped: they must not change as long as the machine or a fork of it lives.
 *   RESUME      -                                          -                   -
 *   PAUSE       -                                          -                   µs that it took
 *   FORK        VMM_FORK_*, uid, gid                       child's control     child's pid, µs in fork(2), µs that the machine stood still
 *               A machine that runs is paused for it and goes on; one that is paused stays so. The child is paused.
 *   SNAPSHOT    VMM_SNAPSHOT_*                             state, memory       pages written, µs that the machine stood still
 *               The same. The answer comes when the files are written; until then no other SNAPSHOT (EBUSY).
 *   CONNECT     guest port, VMM_STREAM_*, host port        our end             -
 *               (the caller's name for it, unique, > 0)
 *               Refused by the guest, or closed later: the descriptor is closed.
 *               A connection from a host port that is in use takes its place; the guest is told that the old one has ended, then of the new one.
 *   ATTACH      host port                                  our end             -
 *               A connection that a fork or a restore carried goes on. What is not attached at RESUME is reset inside the guest.
 *   STATUS      -                                          -                   enum vmm_state, exits served, pages written since the base
 *                                                                              (as of the last FORK or SNAPSHOT), vCPUs, memory bytes, streams
 *   CONSOLE     -                                          -                   text: the last bytes of the console (at most VMM_TEXT_MAX)
 *   STOP        -                                          -                   answered, then the VMM ends
 *
 *   event       READY   pid, VMM_PROTO_VERSION: first message of every VMM, forked ones too
 *               ENDED   enum vmm_end; text: a sentence. The guest stopped by itself; memory and console can still be asked for.
 */
#pragma once
#include <stdint.h>

#define VMM_PROTO_VERSION 1
#define VMM_FD_CONTROL 3
#define VMM_FD_KVM 4
#define VMM_VCPUS_MAX 8
#define VMM_DISKS_MAX 4
#define VMM_STREAMS_MAX 128
#define VMM_TEXT_MAX 32768 /* bytes behind the record */
#define VMM_FDS_MAX 3

enum vmm_type {
    VMM_READY = 1,
    VMM_ENDED,
    VMM_CONFIG = 16,
    VMM_DISK,
    VMM_NET,
    VMM_CONSOLE_TO,
    VMM_BOOT,
    VMM_RESTORE,
    VMM_RESUME,
    VMM_PAUSE,
    VMM_FORK,
    VMM_SNAPSHOT,
    VMM_CONNECT,
    VMM_ATTACH,
    VMM_STATUS,
    VMM_CONSOLE,
    VMM_STOP,
};

#define VMM_CONFIG_TRACK 1u     /* remember which pages are written, for SNAPSHOT with VMM_SNAPSHOT_CHANGED */
#define VMM_DISK_READ_ONLY 1u   /* also kept by forked VMMs */
#define VMM_FORK_UID 1u         /* the child becomes this user for good (a VMM that was started with --children-change-user) */
#define VMM_SNAPSHOT_CHANGED 1u /* only pages written since the last base; else all that are not zero */
#define VMM_SNAPSHOT_BASE 2u    /* this snapshot is the base from now on */
#define VMM_STREAM_BYTES 1u     /* virtio-vsock's type numbers: SOCK_STREAM, pipes */
#define VMM_STREAM_PACKETS 2u   /* SOCK_SEQPACKET, at most 65,536 bytes a packet */

enum vmm_state { VMM_EMPTY, VMM_PAUSED, VMM_RUNNING, VMM_OVER };
enum vmm_end { VMM_END_NONE, VMM_END_SHUTDOWN, VMM_END_KVM_ERROR };

struct vmm_message {
    uint32_t type;
    uint32_t seq;    /* of the request; 0: an event */
    int32_t status;  /* answers: 0 or an errno */
    uint32_t bytes;  /* of text behind this record */
    uint64_t arg[6];
};
_Static_assert(sizeof(struct vmm_message) == 64, "fixed record");
