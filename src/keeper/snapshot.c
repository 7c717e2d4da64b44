#include "keeper/snapshot.h"

#include <errno.h>
#include <signal.h>

#include "keeper/layers.h"

static void *run(void *arg) {
    struct snapshot *s = arg;
    while (sem_wait(&s->go)) continue;
    if (s->wanted && s->from) s->rc = layer_snapshot(s->from, s->to, &s->err);
    if (s->wanted && !s->rc && s->then) s->then(s->arg);
    return NULL;
}

int snapshot_prepare(struct snapshot *s, const char *from, const char *to, struct err *e) {
    sigset_t all, old;
    *s = (struct snapshot){.from = from, .to = to};
    if (sem_init(&s->go, 0, 0)) return err_sys(e, errno, "thread for a snapshot");
    sigfillset(&all); /* the deadline's alarm must interrupt the thread that waits for tasks */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&s->thread, NULL, run, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    s->made = !rc;
    return rc ? err_sys(e, rc, "thread for a snapshot") : 0;
}

void snapshot_go(struct snapshot *s) {
    s->wanted = true;
    sem_post(&s->go);
}

int snapshot_end(struct snapshot *s, struct err *e) {
    if (!s->made) return 0;
    if (!s->wanted) sem_post(&s->go);
    pthread_join(s->thread, NULL);
    sem_destroy(&s->go);
    s->made = false;
    if (s->rc) *e = s->err;
    return s->rc;
}
