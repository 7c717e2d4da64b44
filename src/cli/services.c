#include "cli/services.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/pidfile.h"

int services_state(struct services *s, const char *option, struct err *e) {
    const char *wanted = option ? option : getenv("CELLA_STATE");
    if (!wanted || !*wanted) wanted = STATE_DEFAULT;
    char here[PROGRAM_PATH] = "";
    if (wanted[0] != '/' && !getcwd(here, sizeof here)) return err_sys(e, errno, "cannot tell the current directory");
    int n = snprintf(s->state, sizeof s->state, "%s%s%s", here, here[0] ? "/" : "", wanted);
    if (n >= PROGRAM_PATH - 128) return err_set(e, ERR_INVALID, "the path of the state directory is too long");
    while (n > 1 && s->state[n - 1] == '/') s->state[--n] = 0;
    return 0;
}

int services_config(struct services *s, const char *path, struct err *e) {
    static char absolute[PROGRAM_PATH];
    s->config = path ? realpath(path, absolute) : NULL; /* cellad starts in / */
    return path && !s->config ? err_sys(e, errno, "cannot find %s", path) : 0;
}

int services_url(const char *listen, char out[128], struct err *e) {
    const char *colon = strrchr(listen, ':');
    char host[80], *end = NULL;
    long port = colon ? strtol(colon + 1, &end, 10) : 0;
    if (!colon || colon == listen || !end || *end || port < 1 || port > 65535 ||
        (size_t)(colon - listen) >= sizeof host)
        return err_hint(e, ERR_INVALID, "such as 127.0.0.1:7070 or [::1]:7070",
                        "--listen needs ADDRESS:PORT, not \"%.80s\"", listen);
    (void)snprintf(host, sizeof host, "%.*s", (int)(colon - listen), listen);
    if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "*") == 0) (void)snprintf(host, sizeof host, "127.0.0.1");
    if (strcmp(host, "[::]") == 0) (void)snprintf(host, sizeof host, "[::1]");
    (void)snprintf(out, 128, "http://%s:%ld", host, port);
    return 0;
}

void services_pidfile(const struct services *s, const char *name, char out[PROGRAM_PATH + 64]) {
    (void)snprintf(out, PROGRAM_PATH + 64, "%s/run/%s.pid", s->state, name);
}

/* ---- user and directories ---- */

static int run_program(char *const argv[]) {
    pid_t pid = fork();
    if (pid == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    int status = 0;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const struct passwd *service_user(struct err *e) {
    const struct passwd *user = getpwnam(SERVICE_USER);
    if (user) return user;
    fprintf(stderr, "making the system user \"%s\", which the daemon runs as\n", SERVICE_USER);
    char *const argv[] = {"useradd",      "--system", "--user-group",      "--no-create-home", "--home-dir",
                          "/nonexistent", "--shell",  "/usr/sbin/nologin", SERVICE_USER,       NULL};
    int status = run_program(argv);
    user = getpwnam(SERVICE_USER);
    if (!user)
        (void)err_hint(e, ERR_UNAVAILABLE, "make it by hand: useradd --system --user-group cella",
                       "cannot make the user \"%s\" (useradd: status %d)", SERVICE_USER, status);
    return user;
}

static int make_directory(const char *state, const char *name, mode_t mode, uid_t uid, gid_t gid, struct err *e) {
    char path[PROGRAM_PATH + 64];
    (void)snprintf(path, sizeof path, "%s%s", state, name);
    if (mkdir(path, mode) < 0 && errno != EEXIST) return err_sys(e, errno, "cannot make %s", path);
    cleanup_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) return err_sys(e, errno, "cannot open %s", path);
    if ((st.st_uid != uid || st.st_gid != gid) && fchown(fd, uid, gid) < 0)
        return err_sys(e, errno, "cannot change the owner of %s", path);
    if ((st.st_mode & 07777) != mode && fchmod(fd, mode) < 0)
        return err_sys(e, errno, "cannot change the mode of %s", path);
    return 0;
}

static int make_parents(const char *path, struct err *e) {
    char part[PROGRAM_PATH];
    (void)snprintf(part, sizeof part, "%s", path);
    for (char *p = strchr(part + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        if (mkdir(part, 0755) < 0 && errno != EEXIST) return err_sys(e, errno, "cannot make %s", part);
        *p = '/';
    }
    return 0;
}

int services_prepare(const struct services *s, struct err *e) {
    const struct passwd *user = service_user(e);
    if (!user) return -1;
    uid_t uid = user->pw_uid;
    gid_t gid = user->pw_gid;
    mode_t old = umask(0);
    int result = make_parents(s->state, e);
    if (result == 0) result = make_directory(s->state, "", 0755, 0, 0, e);
    if (result == 0) result = make_directory(s->state, "/db", 0700, uid, gid, e);
    if (result == 0) result = make_directory(s->state, "/images", 0700, uid, gid, e);
    if (result == 0) result = make_directory(s->state, "/bases", 0700, uid, gid, e);
    if (result == 0) result = make_directory(s->state, "/templates", 0755, 0, 0, e);
    if (result == 0) result = make_directory(s->state, "/templates/names", 0755, 0, 0, e);
    if (result == 0) result = make_directory(s->state, "/run", 0755, 0, 0, e);
    if (result == 0) result = make_directory(s->state, "/log", 0750, 0, 0, e);
    umask(old);
    return result;
}

/* ---- processes ---- */

struct service {
    const char *name;
    bool as_user;
    const char *argv[32];
};

static int log_fd(const struct services *s, const char *name, struct err *e) {
    if (!s->background) return dup(STDERR_FILENO);
    char path[PROGRAM_PATH + 64];
    (void)snprintf(path, sizeof path, "%s/log/%s.log", s->state, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0640);
    return fd >= 0 ? fd : err_sys(e, errno, "cannot write %s", path);
}

/* In the child, between fork and exec. Says on stderr (already the log) what failed. */
static void become(const struct services *s, const struct service *service, int program_fd, int log,
                   const struct passwd *user) {
    char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", NULL};
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, 0) < 0 || dup2(s->background ? null : log, 1) < 0 || dup2(log, 2) < 0) _exit(126);
    (void)syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
    signal(SIGPIPE, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (setsid() < 0 || chdir("/") < 0) _exit(126); /* Ctrl-C reaches `cella up`, which ends both in order */
    umask(022);
    if (service->as_user &&
        (setgroups(0, NULL) < 0 || setresgid(user->pw_gid, user->pw_gid, user->pw_gid) < 0 ||
         setresuid(user->pw_uid, user->pw_uid, user->pw_uid) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)) {
        perror("cella: cannot become the user " SERVICE_USER);
        _exit(126);
    }
    /* After the credentials, which clear it: without `cella up` in front of them nobody would end them. */
    if (!s->background && prctl(PR_SET_PDEATHSIG, SIGTERM) < 0) _exit(126);
    fexecve(program_fd, (char *const *)service->argv, environment);
    perror("cella: cannot start the program");
    _exit(126);
}

static int start(const struct services *s, const struct service *service, pid_t *pid, int *pidfd, struct err *e) {
    /* Opened as root: the build tree may lie where the user cannot look. */
    cleanup_close int program_fd = open(service->argv[0], O_PATH | O_CLOEXEC);
    if (program_fd < 0) return err_sys(e, errno, "cannot open %s", service->argv[0]);
    const struct passwd *user = getpwnam(SERVICE_USER);
    if (!user) return err_set(e, ERR_UNAVAILABLE, "there is no user \"%s\"", SERVICE_USER);
    cleanup_close int log = log_fd(s, service->name, e);
    if (log < 0) return -1;
    *pid = fork();
    if (*pid < 0) return err_sys(e, errno, "fork");
    if (*pid == 0) become(s, service, program_fd, log, user);
    *pidfd = (int)syscall(SYS_pidfd_open, *pid, 0);
    if (*pidfd < 0) return err_sys(e, errno, "pidfd_open");
    char path[PROGRAM_PATH + 64];
    services_pidfile(s, service->name, path);
    return pidfile_write(path, *pid, e);
}

static int ended_early(const struct services *s, const char *name, struct err *e) {
    if (!s->background)
        return err_hint(e, ERR_UNAVAILABLE, "its messages are above; `cella doctor` says what this machine lacks",
                        "%s ended while it started", name);
    return err_hint(e, ERR_UNAVAILABLE, "read the log; `cella doctor` says what this machine lacks",
                    "%s ended while it started: see %s/log/%s.log", name, s->state, name);
}

int services_start_keeper(const struct services *s, pid_t *pid, int *pidfd, struct err *e) {
    char program[PROGRAM_PATH], contexts[PROGRAM_PATH], guest[PROGRAM_PATH], socket_path[PROGRAM_PATH + 64];
    if (program_find("cella-keeper", program, e) < 0 || program_find("cella-guest", guest, e) < 0 ||
        program_directory("contexts", contexts, e) < 0)
        return -1;
    (void)snprintf(socket_path, sizeof socket_path, "%s/run/keeper.sock", s->state);
    const struct service service = {"keeper",
                                    false,
                                    {program, "--state", s->state, "--socket", socket_path, "--user", SERVICE_USER,
                                     "--contexts", contexts, "--guest", guest, "--foreground", NULL}};
    if (unlink(socket_path) < 0 && errno != ENOENT) return err_sys(e, errno, "cannot remove %s", socket_path);
    if (start(s, &service, pid, pidfd, e) < 0) return -1;
    struct stat st;
    for (int64_t until = monotonic_ms() + 20000; monotonic_ms() < until;) {
        if (stat(socket_path, &st) == 0) return 0;
        if (pidfd_wait(*pidfd, 20)) return ended_early(s, "keeper", e);
    }
    return err_set(e, ERR_UNAVAILABLE, "the keeper did not open %s within 20 seconds", socket_path);
}

int services_start_daemon(const struct services *s, pid_t *pid, int *pidfd, struct err *e) {
    char program[PROGRAM_PATH], socket_path[PROGRAM_PATH + 64];
    if (program_find("cellad", program, e) < 0) return -1;
    (void)snprintf(socket_path, sizeof socket_path, "%s/run/keeper.sock", s->state);
    struct service service = {
        "cellad", true, {program, "--state", s->state, "--listen", s->listen, "--keeper", socket_path}};
    size_t n = 7;
    if (s->config) service.argv[n++] = "--config", service.argv[n++] = s->config;
    if (s->driver) service.argv[n++] = "--driver", service.argv[n++] = s->driver;
    return start(s, &service, pid, pidfd, e);
}

bool services_end(const struct services *s, const char *name, int grace_ms, bool *was_running) {
    char path[PROGRAM_PATH + 64];
    services_pidfile(s, name, path);
    cleanup_close int pidfd = pidfile_open(path, NULL);
    if (was_running) *was_running = pidfd >= 0;
    if (pidfd >= 0 && !pidfd_end(pidfd, grace_ms)) return false;
    (void)unlink(path);
    return true;
}
