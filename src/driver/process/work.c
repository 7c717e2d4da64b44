#include "driver/process/work.h"

#include <stdlib.h>
#include <uv.h>

#include "driver/process/internal.h"

struct work {
    uv_work_t request;
    struct process_driver *driver;
    void (*run)(void *arg);
    void (*after)(void *arg);
    void *arg;
};

static void on_thread(uv_work_t *r) {
    struct work *w = r->data;
    w->run(w->arg);
}

static void on_loop(uv_work_t *r, int status) {
    struct work *w = r->data;
    struct process_driver *d = w->driver;
    (void)status; /* never cancelled */
    w->after(w->arg);
    free(w);
    d->works--;
    process_driver_free_last(d);
}

void process_work(struct process_driver *d, void (*run)(void *), void (*after)(void *), void *arg) {
    struct work *w = calloc(1, sizeof *w);
    if (!w) abort();
    *w = (struct work){.driver = d, .run = run, .after = after, .arg = arg};
    w->request.data = w;
    d->works++;
    uv_queue_work(d->loop, &w->request, on_thread, on_loop);
}
