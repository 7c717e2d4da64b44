#include "driver/work.h"

#include <stdlib.h>

struct work {
    uv_work_t request;
    struct works *of;
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
    struct works *of = w->of;
    (void)status; /* never cancelled */
    w->after(w->arg);
    free(w);
    of->count--;
    of->done(of->driver);
}

void work_start(struct works *of, void (*run)(void *), void (*after)(void *), void *arg) {
    struct work *w = calloc(1, sizeof *w);
    if (!w) abort();
    *w = (struct work){.of = of, .run = run, .after = after, .arg = arg};
    w->request.data = w;
    of->count++;
    uv_queue_work(of->loop, &w->request, on_thread, on_loop);
}
