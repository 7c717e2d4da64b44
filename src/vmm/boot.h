/* boot.h: a kernel into a guest's memory, by the PVH boot protocol: an ELF whose note says where its 32-bit entry is. */
#pragma once
#include "vmm/machine.h"

#define BOOT_CMDLINE_MAX 2048

/* Load kernel (an ELF file with PVH note) and initrd (or -1), write command line, memory map and ACPI tables. Gives the
 * entry point and the address of start_info. Every number in the files is checked against the guest's memory. */
int boot_load(struct machine *, int kernel_fd, int initrd_fd, const char *cmdline, uint32_t *entry, uint32_t *start_info, struct err *);
/* acpi.c: the tables of this machine; returns the address of the root pointer. */
uint64_t acpi_write(struct machine *);
#define ACPI_ADDRESS 0xe0000u
#define ACPI_BYTES_MAX 0x10000u
