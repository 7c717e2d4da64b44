#include "vmm/serial.h"

#include <string.h>
#include <unistd.h>

enum { R_DATA, R_ENABLE, R_IDENT, R_CONTROL, R_MODEM, R_LINE, R_MODEM_STATUS, R_SCRATCH };
enum { DIVISOR = 0x80, THR_EMPTY = 2, LINE_IDLE = 0x60, MODEM_READY = 0xb0 };

void serial_init(struct serial *s, void (*raise)(void *, unsigned), void *arg) {
    *s = (struct serial){.raise = raise, .arg = arg, .fd = -1};
    pthread_mutex_init(&s->lock, NULL);
}

void serial_to(struct serial *s, int fd, uint64_t most) {
    pthread_mutex_lock(&s->lock);
    if (s->fd >= 0) close(s->fd);
    s->fd = fd, s->left = most;
    pthread_mutex_unlock(&s->lock);
}

static void out(struct serial *s, uint8_t byte) {
    s->ring[s->written++ % SERIAL_RING] = (char)byte;
    if (s->fd >= 0 && s->left && write(s->fd, &byte, 1) == 1) s->left--;
}

uint8_t serial_read(struct serial *s, unsigned reg) {
    uint8_t value = 0;
    pthread_mutex_lock(&s->lock);
    switch (reg) {
    case R_DATA: value = s->control & DIVISOR ? s->divisor[0] : 0; break;
    case R_ENABLE: value = s->control & DIVISOR ? s->divisor[1] : s->enable; break;
    case R_IDENT: value = (uint8_t)((s->enable & THR_EMPTY ? 2 : 1) | (s->fifo & 1 ? 0xc0 : 0)); break; /* always ready for the next byte */
    case R_CONTROL: value = s->control; break;
    case R_MODEM: value = s->modem; break;
    case R_LINE: value = LINE_IDLE; break;
    case R_MODEM_STATUS: value = MODEM_READY; break;
    default: value = s->scratch;
    }
    pthread_mutex_unlock(&s->lock);
    return value;
}

void serial_write(struct serial *s, unsigned reg, uint8_t value) {
    bool interrupt = false;
    pthread_mutex_lock(&s->lock);
    const bool divisor = s->control & DIVISOR;
    switch (reg) {
    case R_DATA:
        if (divisor) s->divisor[0] = value;
        else out(s, value), interrupt = s->enable & THR_EMPTY;
        break;
    case R_ENABLE:
        if (divisor) s->divisor[1] = value;
        else s->enable = value & 0xf, interrupt = value & THR_EMPTY;
        break;
    case R_IDENT: s->fifo = value; break;
    case R_CONTROL: s->control = value; break;
    case R_MODEM: s->modem = value & 0x1f; break;
    case R_SCRATCH: s->scratch = value; break;
    default: break;
    }
    pthread_mutex_unlock(&s->lock);
    if (interrupt) s->raise(s->arg, SERIAL_LINE);
}

size_t serial_tail(struct serial *s, char *to, size_t n) {
    pthread_mutex_lock(&s->lock);
    uint64_t have = s->written < SERIAL_RING ? s->written : SERIAL_RING;
    if (have > n) have = n;
    for (uint64_t i = 0; i < have; i++) to[i] = s->ring[(s->written - have + i) % SERIAL_RING];
    pthread_mutex_unlock(&s->lock);
    return have;
}

void serial_forked(struct serial *s) {
    pthread_mutex_init(&s->lock, NULL);
    if (s->fd >= 0) close(s->fd);
    s->fd = -1, s->left = 0;
}

void serial_save(struct serial *s, struct state_out *o) {
    const uint8_t regs[8] = {s->enable, s->control, s->modem, s->scratch, s->fifo, s->divisor[0], s->divisor[1]};
    state_put(o, regs, sizeof regs);
}

int serial_load(struct serial *s, struct state_in *in) {
    uint8_t r[8];
    if (state_get(in, r, sizeof r) < 0) return -1;
    s->enable = r[0] & 0xf, s->control = r[1], s->modem = r[2], s->scratch = r[3], s->fifo = r[4], s->divisor[0] = r[5], s->divisor[1] = r[6];
    return 0;
}
