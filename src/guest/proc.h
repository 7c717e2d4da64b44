/* proc.h: the operation exec: one process (with its own session and process group) on one channel.
 *
 * END is sent when the process has been waited for and both output pipes are at their end. A background grandchild that
 * keeps a pipe open delays END by at most PROC_GRACE_MS after the death of the process: what is in the pipes at that
 * moment is still delivered, everything later is read and thrown away (drain.h), so that the grandchild lives on. */
#pragma once
#include "guest/channel.h"
#include "guest/request.h"

#define PROC_GRACE_MS 200

/* Takes the channel (its ops) and what it needs of r. A failure ends the channel. */
void proc_start(struct channel *c, struct request *r);
