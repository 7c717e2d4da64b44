/* cella-guest: PID 1 of every cell. It finds the stream to the daemon at descriptor 3, answers it (wire/guest_proto.h),
 * and waits for every process of the cell. It ends when the stream does; the cell ends with it.
 *
 * In a virtual machine it is the kernel's first program: it makes the cell's root itself (machine_boot.h) and talks to the driver over virtio-vsock
 * (machine.h), one connection of which takes the place of descriptor 3. It never ends then.
 *
 * Exit status: 0 the stream ended or broke the protocol (the reason is on stderr), 1 it could not start. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "guest/channel.h"
#include "guest/child.h"
#include "guest/env.h"
#include "guest/loop.h"
#include "guest/machine.h"
#include "guest/machine_boot.h"
#include "guest/reap.h"
#include "guest/stream.h"
#include "wire/guest_proto.h"

#define TEMPLATE_ENVIRONMENT "/etc/cella/environment"
#define FILES_WANTED 4096 /* 256 channels of at most 4 descriptors, 256 drains, and room */

/* Descriptor 0 is /dev/null: stdin of processes that were given none, and never a place where another descriptor lands.
 */
static int place_null(struct err *e) {
    struct stat st;
    int fd = open("/dev/null", O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) return err_sys(e, errno, "/dev/null");
    if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode)) return err_set(e, ERR_INTERNAL, "/dev/null is no device");
    if (fd != 0 && (dup2(fd, 0) < 0 || close(fd) < 0)) return err_sys(e, errno, "cannot place /dev/null");
    for (int i = 1; i <= 2; i++)
        if (fcntl(i, F_GETFD) < 0 && dup2(0, i) < 0) return err_sys(e, errno, "cannot place /dev/null");
    return 0;
}

/* Whatever the keeper's own handling was: children get the defaults. SIGPIPE is answered by EPIPE here. */
static void reset_signals(void) {
    for (int signo = 1; signo <= SIGRTMAX; signo++) (void)signal(signo, SIG_DFL);
    (void)signal(SIGPIPE, SIG_IGN);
}

static int raise_files(struct err *e) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return err_sys(e, errno, "RLIMIT_NOFILE");
    child_set_nofile(&limit);
    limit.rlim_cur = limit.rlim_max < FILES_WANTED ? limit.rlim_max : FILES_WANTED;
    return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? err_sys(e, errno, "RLIMIT_NOFILE") : 0;
}

static int start(bool machine, struct err *e) {
    if (machine && machine_boot(e) < 0) return -1;
    if (place_null(e) < 0) return -1;
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return err_sys(e, errno, "cannot become undumpable");
    reset_signals();
    if (machine && fcntl(GUEST_FD_STREAM, F_GETFD) < 0 && dup3(0, GUEST_FD_STREAM, O_CLOEXEC) < 0) return err_sys(e, errno, "keep a place");
    if (machine && (loop_open(e) < 0 || reap_open(e) < 0 || machine_open(e) < 0)) return -1;
    if (fcntl(GUEST_FD_STREAM, F_SETFD, FD_CLOEXEC) < 0) return err_sys(e, errno, "descriptor %d", GUEST_FD_STREAM);
    for (int fd = GUEST_FD_LAYER; fd <= GUEST_FD_LOWER; fd++) (void)fcntl(fd, F_SETFD, FD_CLOEXEC); /* not in every cell */
    if (raise_files(e) < 0 || (!machine && (loop_open(e) < 0 || reap_open(e) < 0)) || stream_open(GUEST_FD_STREAM, e) < 0) return -1;
    env_template_load(TEMPLATE_ENVIRONMENT);
    return 0;
}

/* What the host broke is forgotten: the machine lives on, and the next connection finds a fresh stream. */
static void begin_anew(void) {
    channels_forget();
    stream_restart();
    channel_hello();
}

int main(void) {
    struct err e;
    const bool machine = machine_here();
    log_open("cella-guest", LOG_INFO);
    /* Small and steady: one arena, and the memory of a burst goes back to the cell. */
    (void)mallopt(M_ARENA_MAX, 1);
    (void)mallopt(M_TRIM_THRESHOLD, 256 * 1024);
    if (start(machine, &e) < 0) {
        log_error("%s", e.text);
        return 1;
    }
    channel_hello();
    while (machine || !stream_over()) {
        stream_flush();
        if (stream_over() && machine) begin_anew();
        if (stream_over()) break;
        if (loop_round(&e) < 0) {
            log_error("%s", e.text);
            return 1;
        }
    }
    return 0;
}
