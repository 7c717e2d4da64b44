/* machine.h: cella-guest as process 1 of a virtual machine: the control connection (wire/machine_proto.h) and who the machine is. */
#pragma once
#include "base/err.h"

/* After machine_boot() and loop_open(): the guest stream's descriptor is made, the port is listened on. */
int machine_open(struct err *e);
