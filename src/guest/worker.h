/* worker.h: file operations, the guest's side. Each runs in a process of its own, forked from the guest:
 *
 *   - a slow or endless operation (a deep tree, a big archive, an inotify queue) never holds up another channel;
 *   - it has the file identity of the user it works for and no other right (identity_file_access), which PID 1 could
 * not take on and off without losing its PDEATHSIG;
 *   - libarchive reads hostile archives far from PID 1 and from the stream to the daemon.
 *
 * The two talk over a SOCK_SEQPACKET pair with the frames of the stream itself: worker -> guest DATA, REPLY, END; guest
 * -> worker DATA with FRAME_EOF at the end. The guest trusts a worker as little as the daemon trusts the guest: one
 * frame a packet, those three types, bounded sizes; anything else kills it.
 *
 * CLOSE: an operation that only reads is killed. One that changes files sees the end of its input, undoes what it can,
 * and says so in END; it is killed only when that takes longer than WORKER_UNDO_MS. */
#pragma once
#include "guest/channel.h"
#include "guest/request.h"

#define WORKER_UNDO_MS 5000

void worker_start(struct channel *c, const struct request *r);
