/* cella-vmm: one virtual machine. See wire/vmm_proto.h for how it is driven, docs/microvm.md for what it is. */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "vmm/control.h"
#include "vmm/filters.h"
#include "vmm/jail.h"

static struct machine machine;
static struct control control;

static int usage(void) {
    fputs("usage: cella-vmm --user UID:GID [--children-change-user]\n"
          "Started as root with a control socket as descriptor 3 and /dev/kvm as descriptor 4; gives everything up and runs as UID:GID.\n", stderr);
    return 2;
}

static int parse_user(const char *s, unsigned *uid, unsigned *gid) {
    char extra;
    return sscanf(s, "%u:%u%c", uid, gid, &extra) == 2 && *uid && *gid ? 0 : -1;
}

static int start(unsigned uid, unsigned gid, bool children, struct err *e) {
    const struct sigaction reap = {.sa_handler = SIG_IGN, .sa_flags = SA_NOCLDWAIT};
    sigaction(SIGCHLD, &reap, NULL); /* forks are nobody's to wait for: the keeper watches them */
    signal(SIGPIPE, SIG_IGN);
    mallopt(M_ARENA_MAX, 1); /* vCPU threads allocate nothing, and may not map memory */
    if (machine_init(&machine, VMM_FD_KVM, e) < 0 || loop_make(&machine.loop, e) < 0) return -1;
    return jail_enter(uid, gid, children, e) < 0 || filters_build(e) < 0 ? -1 : filters_apply(FILTER_LOOP, e);
}

int main(int argc, char **argv) {
    unsigned uid = 0, gid = 0;
    bool children = false;
    struct err e = {0};
    log_open("cella-vmm", LOG_INFO);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--user") && i + 1 < argc && parse_user(argv[i + 1], &uid, &gid) == 0) i++;
        else if (!strcmp(argv[i], "--children-change-user")) children = true;
        else return usage();
    }
    if (!uid) return usage();
    if (start(uid, gid, children, &e) < 0) {
        log_error("%s", e.text);
        return 1;
    }
    control_start(&control, &machine, VMM_FD_CONTROL);
    loop_run(&machine.loop);
    _Exit(0); /* the kernel takes everything back; vCPU threads may still stand in KVM_RUN */
}
