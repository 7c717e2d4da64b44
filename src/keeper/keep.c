#include "keeper/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/layers.h"

struct keep keeps[KEEPS_MAX];

struct outcome { /* what the child writes: at most PIPE_BUF, so whole or not at all */
    int failed;
    uint64_t bytes;
    struct err err;
};

void keeps_open(void) {
    for (size_t i = 0; i < KEEPS_MAX; i++) keeps[i].fd = -1;
}

static void child_main(const char *id, int out) {
    struct outcome o = {0};
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    fault_point("keeper.keep.before");
    o.failed = fault_error("keeper.keep.settle", &o.err) || layer_settle(id, &o.bytes, &o.err);
    o.err.code = o.err.hint = NULL; /* addresses mean nothing elsewhere */
    _exit(write(out, &o, sizeof o) != sizeof o);
}

int keep_start(struct capture *k, const char *id, uint64_t tag, struct err *e) {
    struct keep *free_one = NULL;
    int ends[2];
    if (!id_valid(id, "img_")) return err_set(e, ERR_INVALID, "not an id of a kept layer");
    if (k->kept[0]) return err_set(e, ERR_CONFLICT, "the files of this capture are kept already");
    for (size_t i = 0; i < KEEPS_MAX && !free_one; i++)
        if (!keeps[i].pid) free_one = &keeps[i];
    if (!free_one) return err_set(e, ERR_LIMIT, "%d layers are being written", KEEPS_MAX);
    if (pipe2(ends, O_CLOEXEC)) return err_sys(e, errno, "pipe");
    cleanup_close int mine = ends[0], theirs = ends[1];
    if (capture_keep_layer(k, id, e)) return -1;
    fault_point("keeper.keep.renamed");
    pid_t pid = fork();
    if (!pid) child_main(id, theirs);
    if (pid < 0) {
        struct err ignored;
        err_sys(e, errno, "fork");
        (void)keep_drop(id, &ignored);
        return -1;
    }
    *free_one = (struct keep){.pid = pid, .fd = steal_fd(&mine), .tag = tag, .capture = k->serial};
    memcpy(free_one->id, id, sizeof free_one->id);
    return 0;
}

int keep_finish(struct keep *p, uint64_t *bytes, struct err *e) {
    struct outcome o;
    char id[KEEPER_ID];
    int rc = 0;
    memcpy(id, p->id, sizeof id);
    if (p->dropped) {
        rc = err_set(e, ERR_CONFLICT, "the layer was dropped while it was being written");
    } else if (read(p->fd, &o, sizeof o) != sizeof o) {
        rc = err_set(e, ERR_INTERNAL, "writing the layer to the disk ended early");
    } else if (o.failed) {
        *e = o.err;
        e->code = err_code_of_errno(o.err.sys_errno);
        rc = -1;
    }
    *bytes = rc ? 0 : o.bytes;
    close_fd(&p->fd);
    p->pid = 0; /* reaped like any child */
    struct err ignored;
    if (rc && keep_drop(id, &ignored)) log_warn("%s", ignored.text);
    fault_point("keeper.keep.done");
    return rc;
}

int keep_drop(const char *id, struct err *e) {
    if (!id_valid(id, "img_")) return err_set(e, ERR_INVALID, "not an id of a kept layer");
    for (size_t i = 0; i < KEEPS_MAX; i++)
        if (keeps[i].pid && !strcmp(keeps[i].id, id)) { /* being written, for a daemon that is gone perhaps: it goes when keep_finish() hears of the end */
            keeps[i].dropped = true;
            kill(keeps[i].pid, SIGKILL);
            return 0;
        }
    return capture_takes_back(id, e) ? 0 : layer_remove(id, e);
}

void keeps_forget(void) {
    for (size_t i = 0; i < KEEPS_MAX; i++) keeps[i].tag = 0;
}
