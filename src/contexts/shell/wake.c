/* A copy of the template's shell becomes a shell of its own. */
#include "contexts/shell/cella_shell.h"

#include "wire/context_proto.h"

#include <config.h>

#include <bashtypes.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <shell.h>
#include <jobs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

extern pid_t dollar_dollar_pid;
extern time_t shell_start_time;
extern char *current_host_name;
extern int expand_aliases, executing_builtin, indirection_level;
extern int change_flag(int, int);
extern void sbrand(unsigned long);
extern void set_ppid(void);
extern void clear_unwind_protect_list(int);
extern void initialize_terminating_signals(void);

void wait_to_be_copied(void) {
    if (write(STDOUT_FILENO, "Z", 1) != 1) _exit(1);
    pause(); /* the template is stopped in here for good */
}

/* Set a readonly number like UID. */
static void set_number(const char *name, long value) {
    SHELL_VAR *v = find_variable(name);
    if (!v) return;
    FREE(value_cell(v));
    var_setvalue(v, itos(value));
}

static void set_user(void) {
    current_user.uid = getuid();
    current_user.euid = geteuid();
    current_user.gid = getgid();
    current_user.egid = getegid();
    set_number("UID", (long)current_user.uid);
    set_number("EUID", (long)current_user.euid);
}

static void set_host_name(const char *name) {
    FREE(current_host_name);
    current_host_name = savestring(name);
    bind_variable("HOSTNAME", current_host_name, 0);
}

static void see_host_name(void) {
    char name[256] = "";
    if (gethostname(name, sizeof name - 1) == 0) set_host_name(name);
}

/* $RANDOM, whose generator bash seeds from the time and the process id: those may be the same in two copies. ($SRANDOM comes
 * from the kernel.) Two stores and a system call: also for signal handlers. */
static void seed(void) {
    unsigned long bytes;
    if (getrandom(&bytes, sizeof bytes, 0) != sizeof bytes) {
        static const char text[] = "bash: no new entropy for this copy: it must not run on\n";
        if (write(STDERR_FILENO, text, sizeof text - 1) < 0) {}
        _exit(4);
    }
    sbrand(bytes & 0xFFFFFFFFu);
}

static volatile sig_atomic_t seeded; /* since the last FORKED frame */

static void on_copied(int number) {
    (void)number;
    int saved = errno;
    seed();
    seeded = 1;
    children_check();
    errno = saved;
}

/* With SA_RESTART: what the shell waits for goes on as if nothing had come. */
static void expect_copies(void) {
    struct sigaction act = {.sa_handler = on_copied, .sa_flags = SA_RESTART};
    sigaction(CONTEXT_FORKED_SIGNAL, &act, NULL);
}

void forked(const char *host_name) {
    struct sigaction now;
    bool ours = sigaction(CONTEXT_FORKED_SIGNAL, NULL, &now) == 0 && now.sa_handler == on_copied;
    if (!seeded || !ours) seed();
    seeded = 0;
    SHELL_VAR *v = find_variable("HOSTNAME");
    if (v && value_cell(v) && !array_p(v) && !assoc_p(v) && strcmp(value_cell(v), current_host_name) == 0) {
        set_host_name(host_name);
    } else {
        FREE(current_host_name);
        current_host_name = savestring(host_name);
    }
}

/* Error messages begin with "bash: line N:", as for any program given to bash. */
static void set_names(void) {
    FREE(dollar_vars[0]);
    dollar_vars[0] = savestring("bash");
    SHELL_VAR *source = find_variable("BASH_SOURCE");
    if (source && array_p(source)) array_insert(array_cell(source), 0, "bash");
}

/* A process group of its own, then job control: so a foreground command can be told from a background job. */
static void set_groups(void) {
    if (setsid() < 0) setpgid(0, 0); /* EPERM: leads a group already */
    change_flag('m', '-');
}

void wake_up(void) {
    dollar_dollar_pid = getpid();
    set_ppid();
    set_user();
    see_host_name();
    set_names();
    set_groups();
    seed();
    expect_copies();
    shell_start_time = time(NULL); /* SECONDS */
    expand_aliases = 1;
    initialize_terminating_signals(); /* now, or an EXIT trap would do it later and take SIGINT back */
    /* The builtin never returns to the script that called it: forget what it would clean up there. */
    clear_unwind_protect_list(0);
    executing_builtin = 0;
    indirection_level = 0; /* one + per level in the output of set -x */
}
