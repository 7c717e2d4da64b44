/* ioapic.h: the interrupt lines of the machine. The local APICs are in the kernel (split irqchip), the I/O APIC is here: 24 lines, edges only
 * (the ACPI tables say so), each turned into one message for a local APIC. Any thread may raise a line. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/state.h"

#define IOAPIC_ADDRESS 0xfec00000u
#define IOAPIC_WINDOW 0x1000u
#define IOAPIC_LINES 24

struct ioapic {
    pthread_mutex_t lock;
    void (*send)(void *arg, uint64_t address, uint32_t data); /* a message-signalled interrupt */
    void *arg;
    uint32_t select, id, waiting; /* waiting: a bit for each masked line that was raised */
    uint64_t entry[IOAPIC_LINES];
};

void ioapic_init(struct ioapic *, void (*send)(void *, uint64_t, uint32_t), void *arg);
void ioapic_raise(void *ioapic, unsigned line);
void ioapic_read(struct ioapic *, uint32_t offset, void *to, unsigned n);
void ioapic_write(struct ioapic *, uint32_t offset, const void *from, unsigned n);
void ioapic_save(struct ioapic *, struct state_out *);
int ioapic_load(struct ioapic *, struct state_in *);
