/* control.h: the VMM's side of wire/vmm_proto.h: one request after the other, on the loop thread. */
#pragma once
#include "vmm/machine.h"
#include "vmm/snapshot.h"

struct control {
    struct watch watch;
    struct machine *machine;
    struct snapshot_writer writer;
};

/* Serve fd (owned); says READY. Returns when the machine's loop is told to end. */
void control_start(struct control *, struct machine *, int fd);
