/* serial.h: a 16550 that only speaks: the kernel's words of the first seconds. What the guest writes goes to a ring of the last bytes, and to a
 * descriptor up to a bound. Input does not exist. Any thread may call. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/state.h"

#define SERIAL_PORT 0x3f8u
#define SERIAL_LINE 4u
#define SERIAL_RING 16384u

struct serial {
    pthread_mutex_t lock;
    void (*raise)(void *arg, unsigned line);
    void *arg;
    int fd; /* or -1; non-blocking: a reader that is slow loses bytes of the copy, the ring has them */
    uint64_t left, written; /* bytes the descriptor may still get; bytes there ever were */
    uint8_t enable, control, modem, scratch, fifo, divisor[2];
    char ring[SERIAL_RING];
};

void serial_init(struct serial *, void (*raise)(void *, unsigned), void *arg);
void serial_to(struct serial *, int fd, uint64_t most); /* owned from here on */
uint8_t serial_read(struct serial *, unsigned reg);
void serial_write(struct serial *, unsigned reg, uint8_t value);
/* The last bytes, oldest first; returns how many (at most n). */
size_t serial_tail(struct serial *, char *to, size_t n);
void serial_forked(struct serial *); /* the copy's console is its own */
void serial_save(struct serial *, struct state_out *);
int serial_load(struct serial *, struct state_in *);
