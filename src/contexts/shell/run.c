/* Runs the user's code in this bash and says how it ended. */
#include "contexts/shell/cella_shell.h"

#include "wire/context_proto.h"

#include <config.h>

#include <bashtypes.h>
#include <errno.h>
#include <poll.h>
#include <shell.h>
#include <builtins/common.h>
#include <jobs.h>
#include <quit.h>
#include <sig.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* From trap.h, execute_cmd.h and flags.h, which the header package leaves out. */
extern char *trap_list[];
extern int signal_is_trapped(int);
extern void restore_default_signal(int);
extern SigHandler *trap_to_sighandler(int);
extern void top_level_cleanup(void);
extern int already_making_children;
extern int read_but_dont_execute, variable_context, executing_builtin, evalnest, sourcenest, funcnest;
extern int no_exit_on_failed_exec, last_command_exit_value;
#define EXIT_TRAP 0

enum { IDLE, ARMED, RUNNING };

/* Both threads' handlers use these. */
static _Atomic int mode = IDLE;
static _Atomic int interrupted; /* a SIGINT counts for the execution that runs or is about to run */
static _Atomic int handling;    /* handlers that run now in the other thread */
static pid_t self;
static pthread_t shell_thread;

static bool packet_waits(void) {
    struct pollfd p = {.fd = CONTEXT_FD, .events = POLLIN};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

/* bash does not pass a signal on to what it waits for: a terminal would. With job control (wake.c) each foreground
 * pipeline is a process group; command substitutions are in the shell's own group. Background jobs are in neither. */
static void signal_children(void) {
    pid_t last = last_made_pid;
    siginfo_t info;
    if (last > 1 && last != last_asynchronous_pid && waitid(P_PID, (id_t)last, &info, WEXITED | WNOHANG | WNOWAIT) == 0) {
        pid_t group = getpgid(last);
        if (group > 1 && group != getpgrp()) kill(-group, SIGINT);
    }
    if (getpgrp() == self) kill(0, SIGINT);
}

static void take_interrupt(int number, bool in_shell_thread) {
    if (mode == RUNNING) {
        interrupted = 1;
        signal_children();
        if (in_shell_thread)
            sigint_sighandler(number);
        else
            interrupt_state = 1; /* what that handler does, and no more: this is not bash's thread */
    } else if (mode == ARMED || packet_waits()) {
        interrupted = 1;
    }
}

static void on_sigint(int number, siginfo_t *info, void *context) {
    (void)context;
    int saved = errno;
    if (getpid() != self) { /* a child between fork and exec */
        signal(number, SIG_DFL);
        raise(number);
    } else if (info->si_pid != self) { /* not our own kill(0) */
        bool in_shell_thread = pthread_equal(pthread_self(), shell_thread);
        if (!in_shell_thread) handling++;
        take_interrupt(number, in_shell_thread);
        if (!in_shell_thread) handling--;
    }
    errno = saved;
}

/* While bash reads a command substitution it blocks SIGINT and trusts the terminal to have told the child. This thread
 * does nothing but have SIGINT unblocked, so that on_sigint() runs at all times. */
static void *stand_by(void *unused) {
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, SIGINT);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    for (;;) pause();
    return unused;
}

void interrupts_start(void) {
    shell_thread = pthread_self();
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 64 << 10);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int failed = pthread_create(&thread, &attr, stand_by, NULL);
    if (failed) fprintf(stderr, "bash: command substitutions cannot be interrupted: %s\n", strerror(failed));
    pthread_attr_destroy(&attr);
}

static volatile sig_atomic_t lost; /* what the running execution waits for is not there any more */

/* bash takes a child that cannot be waited for as one that ended well (wait_for() in its jobs.c): `make && deploy` would deploy. So the execution
 * ends here. A copy whose children are there, if only as dead ones that tell how they ended, goes on. */
void children_check(void) {
    siginfo_t info;
    if (mode != RUNNING || js.c_living <= 0 || waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0) return;
    lost = 1;
    interrupt_state = 1;
}

static void install(void) {
    struct sigaction act = {.sa_sigaction = on_sigint, .sa_flags = SA_SIGINFO};
    sigset_t only;
    sigaction(SIGINT, &act, NULL);
    sigemptyset(&only);
    sigaddset(&only, SIGINT);
    sigprocmask(SIG_UNBLOCK, &only, NULL);
}

void interrupts_idle(void) {
    self = getpid();
    mode = IDLE;
    install();
}

void interrupts_arm(void) { mode = ARMED; }

void interrupts_forget(void) {
    mode = IDLE;
    if (!packet_waits()) interrupted = 0;
}

/* Run the code until it ends or jumps out; returns the jump's code, 0 for the plain end. */
static int run_to_end(const char *code, size_t n, int *result) {
    char *copy = xmalloc(n + 1); /* parse_and_execute frees it */
    memcpy(copy, code, n);
    copy[n] = 0;
    int jump = setjmp_sigs(top_level);
    if (jump == 0)
        *result = parse_and_execute(copy, "bash", SEVAL_NOHIST | SEVAL_NOHISTEXP | SEVAL_RESETLINE);
    else
        *result = last_command_exit_value;
    return jump;
}

/* Leave nothing of a jump behind: function contexts, loops, half a parse. */
static void tidy(int jump) {
    if (jump) {
        cleanup_the_pipeline(); /* interrupted while it was being made: the next command would be taken for its end */
        already_making_children = 0;
        pipeline_pgrp = 0;
        top_level_cleanup();
        if (variable_context) reset_local_contexts();
        variable_context = 0;
    }
    reset_parser(); /* a syntax error leaves the parser's stack of quotes one too short: the next parse would corrupt memory */
    executing_builtin = evalnest = sourcenest = funcnest = 0;
    read_but_dont_execute = 0; /* set -n could never be undone */
}

static int run_exit_trap_once(int exit_code) {
    if (!signal_is_trapped(EXIT_TRAP) || !trap_list[EXIT_TRAP]) return exit_code;
    char *code = strdup(trap_list[EXIT_TRAP]);
    restore_default_signal(EXIT_TRAP);
    if (!code) return exit_code;
    int result;
    last_command_exit_value = exit_code;
    int jump = run_to_end(code, strlen(code), &result);
    tidy(jump);
    free(code);
    return jump == EXITBLTIN || jump == EXITPROG ? result : exit_code;
}

/* Nothing that comes from here on is meant for the execution that just ended; true when something came before. */
static bool close_gate(void) {
    mode = IDLE;
    while (handling) sched_yield();
    bool came = interrupted || interrupt_state;
    interrupted = 0;
    interrupt_state = 0;
    return came;
}

enum outcome run_code(const char *code, size_t n, int *exit_code) {
    int jump = 0, result = 2;
    lost = 0;
    no_exit_on_failed_exec = 1; /* `exec nosuch` fails like any command */
    interrupt_state = 0;
    if (signal_is_trapped(SIGINT)) set_signal_handler(SIGINT, trap_to_sighandler(SIGINT));
    mode = RUNNING;
    if (interrupted)
        result = 128 + SIGINT;
    else if (memchr(code, 0, n))
        fprintf(stderr, "bash: the code contains a NUL byte\n");
    else
        jump = run_to_end(code, n, &result);
    if (getpid() != self) _exit(last_command_exit_value & 0xFF); /* a child that jumped out of its own error */
    tidy(jump);
    if (jump == EXITBLTIN && !interrupted) result = run_exit_trap_once(result & 0xFF);
    if (getpid() != self) _exit(last_command_exit_value & 0xFF);
    bool told = interrupted, stopped = close_gate();
    if (lost && !told) {
        fprintf(stderr, "bash: this is a copy of a shell whose programs were not copied: what it was doing ends here\n");
        *exit_code = last_command_exit_value = 128 + SIGKILL;
        return OUTCOME_ERROR;
    }
    result &= 0xFF;
    *exit_code = last_command_exit_value = stopped && result == 0 ? 128 + SIGINT : result;
    if (stopped) return OUTCOME_INTERRUPTED;
    if (jump == EXITBLTIN) return OUTCOME_EXIT;
    return result ? OUTCOME_ERROR : OUTCOME_OK;
}
