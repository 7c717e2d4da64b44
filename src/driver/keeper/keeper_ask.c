#include "driver/keeper/keeper_ask.h"

#include <stdlib.h>
#include <unistd.h>

struct ask {
    driver_done done;
    void *arg;
};

static void on_answer(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct ask *a = arg;
    (void)r;
    for (size_t i = 0; !e && i < n; i++) close(fds[i]);
    if (!a) return;
    a->done(a->arg, e);
    free(a);
}

void keeper_ask(struct keeper_client *k, struct keeper_request *q, driver_done done, void *arg) {
    struct ask *a = NULL; /* when nobody waits there is nothing that a handle which is closed first could leave behind */
    if (done) {
        if (!(a = calloc(1, sizeof *a))) abort();
        *a = (struct ask){done, arg};
    }
    keeper_call(k, q, on_answer, a);
}

struct keeper_limits keeper_limits_of(const struct cell_limits *l) {
    return (struct keeper_limits){.memory_bytes = l->memory_bytes, .disk_bytes = l->disk_bytes, .cpu_millis = l->cpu_millis, .pids_max = l->pids_max,
                                  .open_files = l->open_files};
}

bool limits_equal(const struct cell_limits *a, const struct cell_limits *b) {
    return a->memory_bytes == b->memory_bytes && a->disk_bytes == b->disk_bytes && a->cpu_millis == b->cpu_millis && a->pids_max == b->pids_max &&
           a->open_files == b->open_files;
}
