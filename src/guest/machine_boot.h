/* machine_boot.h: from the first root of a virtual machine (an initramfs, templates/builder/machine_image.py) to the root of a cell. */
#pragma once
#include <stdbool.h>

#include "base/err.h"

/* True for the first program of a machine that is Cella's: no stream at GUEST_FD_STREAM, process 1, and "cella.machine" on the kernel's command line. Mounts
 * /proc to see it. */
bool machine_here(void);
/* Modules, disks, overlay, file systems of the kernel, loopback; then the cell's root is this process's root, and GUEST_FD_LAYER and
 * GUEST_FD_LOWER are there. */
int machine_boot(struct err *e);
