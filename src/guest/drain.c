#include "guest/drain.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "guest/loop.h"

#define DRAINS_MAX 256 /* descriptors; beyond it the oldest is closed, and its writers get EPIPE */

struct drain {
    struct loop_watch watch;
    struct drain *next;
};

static struct drain *drains; /* newest first */
static unsigned drain_count;

static void drain_end(struct drain *d) {
    for (struct drain **p = &drains; *p; p = &(*p)->next)
        if (*p == d) {
            *p = d->next;
            break;
        }
    drain_count--;
    loop_close(&d->watch);
    loop_free(d);
}

static void drain_ready(void *arg, uint32_t events) {
    static char rubbish[65536];
    struct drain *d = arg;
    (void)events;
    ssize_t n = read(d->watch.fd, rubbish, sizeof rubbish);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) drain_end(d);
}

void drain_add(int fd) {
    if (drain_count >= DRAINS_MAX) {
        struct drain *oldest = drains;
        while (oldest->next) oldest = oldest->next;
        drain_end(oldest);
    }
    struct drain *d = calloc(1, sizeof *d);
    if (!d) abort();
    d->watch = (struct loop_watch){.fd = fd, .ready = drain_ready, .arg = d};
    d->next = drains;
    drains = d;
    drain_count++;
    loop_watch(&d->watch, EPOLLIN);
}
