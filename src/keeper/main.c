/* cella-keeper: the only privileged program of Cella. See docs/architecture.md. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "keeper/cgroup.h"
#include "keeper/host.h"
#include "keeper/keep.h"
#include "keeper/layers.h"
#include "keeper/machine_files.h"
#include "keeper/server.h"
#include "keeper/vmm_talk.h"
#include "keeper/zygote.h"
#include "wire/keeper_proto.h"

static const char usage[] =
    "cella-keeper: makes and keeps the cells of one state directory. Started by `cella up`; run as root.\n\n"
    "  --state DIR      state directory (templates, layers)\n"
    "  --socket PATH    where cellad connects\n"
    "  --user NAME      user of cellad; nobody else but root may connect\n"
    "  --contexts DIR   kernels of the contexts (python/, shell/)\n"
    "  --guest PATH     the cella-guest program\n"
    "  --debug          log more\n"
    "  --plain-layers   cells' files as plain directories, without limits and snapshots (copies instead), also where btrfs could be used\n"
    "  --layers-reserve MIB  the image of the layers grows when less than this is free in it (512)\n"
#ifdef CELLA_TEST_LAYERS
    "  --without LAYER  test build: switch a layer of defence off (seccomp, landlock, masks, caps, limits, userlimits)\n"
#endif
    ;

struct options {
    const char *state, *socket, *user, *contexts, *guest;
    struct layers_options layers;
};

static int parse(int argc, char **argv, struct options *o) {
    static const struct option known[] = {{"state", 1, NULL, 's'}, {"socket", 1, NULL, 'S'}, {"user", 1, NULL, 'u'},
                                          {"contexts", 1, NULL, 'c'}, {"guest", 1, NULL, 'g'}, {"debug", 0, NULL, 'd'},
                                          {"without", 1, NULL, 'w'}, {"foreground", 0, NULL, 'f'}, {"plain-layers", 0, NULL, 'p'}, {"layers-reserve", 1, NULL, 'r'}, {"help", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "h", known, NULL)) >= 0;) switch (c) {
        case 's': o->state = optarg; break;
        case 'S': o->socket = optarg; break;
        case 'u': o->user = optarg; break;
        case 'c': o->contexts = optarg; break;
        case 'g': o->guest = optarg; break;
        case 'd': log_open("cella-keeper", LOG_DEBUG); break;
        case 'p': o->layers.plain = true; break;
        case 'r': o->layers.reserve_bytes = strtoull(optarg, NULL, 10) << 20; break;
        case 'f': break; /* it always stays in the foreground */
        case 'w':
            if (!host_layer_off(optarg)) break;
            (void)fprintf(stderr, "cella-keeper: layer %s cannot be switched off in this build\n", optarg);
            return -1;
        default: (void)fputs(usage, c == 'h' ? stdout : stderr); return -1;
        }
    if (o->state && o->socket && o->user && o->contexts && o->guest && optind == argc) return 0;
    (void)fputs(usage, stderr);
    return -1;
}

/* One keeper per state directory: the lock goes with the process. */
static int lock_state(const char *state, struct err *e) {
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/run", state);
    (void)mkdir(path, 0755);
    (void)snprintf(path, sizeof path, "%s/run/keeper.lock", state);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct flock l = {.l_type = F_WRLCK};
    if (fd < 0 || fcntl(fd, F_SETLK, &l))
        return err_hint(e, ERR_CONFLICT, "stop it with `cella down` or choose another --state", "another keeper holds %s", state);
    return 0; /* stays open for the life of the program */
}

static void prepare_process(void) {
    /* each cell takes about six descriptors, a virtual machine four and more */
    const struct rlimit wanted = {KEEPER_CELLS_MAX * 8, KEEPER_CELLS_MAX * 8};
    struct rlimit files;
    sigset_t set;
    if (setrlimit(RLIMIT_NOFILE, &wanted) && !getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
        log_warn("open files stay limited to %llu: about %llu cells", (unsigned long long)files.rlim_max, (unsigned long long)files.rlim_max / 8);
    }
    const struct rlimit no_core = {HOST_NO_CORE, HOST_NO_CORE}; /* here: a child cannot raise a hard limit of 0 any more */
    (void)setrlimit(RLIMIT_CORE, &no_core);
    const struct rlimit endless = {RLIM_INFINITY, RLIM_INFINITY}; /* host.c, pending_signals */
    (void)setrlimit(RLIMIT_SIGPENDING, &endless);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); /* a monitor whose parent ended first is the keeper's to reap */
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    umask(022);
}

int main(int argc, char **argv) {
    struct options o = {0};
    struct err e = {0};
    log_open("cella-keeper", LOG_INFO);
    if (parse(argc, argv, &o)) return 2;
    const struct passwd *user = getpwnam(o.user);
    if (!user) {
        log_error("there is no user %s (create it with: useradd --system %s)", o.user, o.user);
        return 1;
    }
    uid_t uid = user->pw_uid;
    for (size_t i = 0; i < ZYGOTES_MAX; i++) zygotes[i].ready_fd = -1;
    keeps_open();
    prepare_process();
    int listen_fd = -1;
    if (!lock_state(o.state, &e) && !host_open(o.state, o.contexts, o.guest, &e) && !cgroup_open(host.state, &host.features, &e) &&
        !cgroup_make("zygotes", NULL, &e) && !layers_open(host.state, &o.layers, &host.features, &e) && !vmm_open(&e)) {
        if (vmm_possible()) host.features |= KEEPER_HAS_KVM;
        machine_files_open();
        listen_fd = server_listen(o.socket, uid, &e);
    }
    if (listen_fd < 0 || host_settle(&e)) {
        log_error("%s%s%s", e.text, e.hint ? ": " : "", e.hint ? e.hint : "");
        return 1;
    }
    log_info("ready: state %s, features %#x, landlock ABI %d", host.state, host.features, host.landlock_abi);
    int rc = server_run(listen_fd, uid, &e);
    if (rc) log_error("%s", e.text);
    cgroup_close(); /* kills every cell and zygote */
    return rc ? 1 : 0;
}
