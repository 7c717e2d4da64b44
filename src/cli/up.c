/* cella up */
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/config.h"
#include "cli/output.h"
#include "cli/pidfile.h"
#include "cli/services.h"

#define READY_MS 60000
#define RESTARTS_MAX 5 /* of the daemon within RESTARTS_MS; then something is wrong that a restart does not mend */
#define RESTARTS_MS 60000

struct up {
    struct services services;
    char url[128];
    int keeper, daemon; /* pidfds */
    bool prepare_only;
};

static int say(const struct cli *cli, const struct up *up, const char *how) {
    if (cli->json) {
        struct json_object *object = json_object_new_object();
        json_object_object_add(object, "url", json_object_new_string(up->url));
        json_object_object_add(object, "state", json_object_new_string(up->services.state));
        json_object_object_add(object, "started", json_object_new_boolean(strcmp(how, "already running") != 0));
        output_json(object);
        json_object_put(object);
    } else {
        printf("Cella is %s at %s (state: %s)\n", how, up->url, up->services.state);
    }
    (void)fflush(stdout);
    return 0;
}

static bool healthy(const struct up *up) {
    struct cli cli = {.url = up->url};
    struct client client;
    struct err e;
    if (client_open(&client, &cli, &e) < 0) return false;
    struct call call = {.method = "GET", .path = "/healthz", .timeout_s = 5};
    bool ok = client_call(&client, &call, &e) == 0;
    call_free(&call);
    client_close(&client);
    return ok;
}

static int wait_ready(const struct up *up, struct err *e) {
    for (int64_t until = monotonic_ms() + READY_MS; monotonic_ms() < until;) {
        if (interrupted()) return err_set(e, CLI_INTERRUPTED, "interrupted");
        if (pidfd_wait(up->daemon, 0))
            return err_hint(e, ERR_UNAVAILABLE, "its log says why: STATE/log/cellad.log, or above without -d",
                            "the daemon ended while it started");
        if (healthy(up)) return 0;
        (void)pidfd_wait(up->daemon, 30);
    }
    return err_set(e, ERR_UNAVAILABLE, "the daemon does not answer at %s after %d seconds", up->url, READY_MS / 1000);
}

static void end_both(const struct up *up) {
    (void)services_end(&up->services, "cellad", DAEMON_GRACE_MS, NULL);
    if (!services_end(&up->services, "keeper", KEEPER_GRACE_MS, NULL))
        fprintf(stderr, "cella: the keeper does not end\n");
}

/* A keeper that is still there (the daemon died, or was ended alone) is used again: its cells live on. */
static int start_both(struct up *up, struct err *e) {
    char path[PROGRAM_PATH + 64];
    pid_t pid;
    services_pidfile(&up->services, "keeper", path);
    up->keeper = pidfile_open(path, NULL);
    if (up->keeper < 0 && services_start_keeper(&up->services, &pid, &up->keeper, e) < 0) return -1;
    if (services_start_daemon(&up->services, &pid, &up->daemon, e) < 0) return -1;
    return wait_ready(up, e);
}

/* Until a signal comes or the keeper ends; a daemon that ends is started again. */
static int supervise(struct up *up, struct err *e) {
    int restarts = 0;
    int64_t since = monotonic_ms();
    while (!interrupted()) {
        struct pollfd fds[2] = {{.fd = up->keeper, .events = POLLIN}, {.fd = up->daemon, .events = POLLIN}};
        if (poll(fds, 2, 1000) < 0 && errno != EINTR) return err_sys(e, errno, "poll");
        while (waitpid(-1, NULL, WNOHANG) > 0) continue;
        if (interrupted()) break;
        if (fds[0].revents) return err_set(e, ERR_INTERNAL, "the keeper ended, and all cells with it");
        if (!fds[1].revents) continue;
        if (monotonic_ms() - since > RESTARTS_MS) {
            since = monotonic_ms();
            restarts = 0;
        }
        if (++restarts > RESTARTS_MAX)
            return err_set(e, ERR_INTERNAL, "the daemon ended %d times within a minute", restarts);
        fprintf(stderr, "cella: the daemon ended; starting it again (cells live on)\n");
        close_fd(&up->daemon);
        pid_t pid;
        if (services_start_daemon(&up->services, &pid, &up->daemon, e) < 0 || (wait_ready(up, e) < 0 && !interrupted()))
            return -1;
    }
    fprintf(stderr, "cella: ending\n");
    return 0;
}

static int foreground(const struct cli *cli, struct up *up, struct err *e) {
    char path[PROGRAM_PATH + 64];
    services_pidfile(&up->services, "up", path);
    int result = pidfile_write(path, getpid(), e);
    if (result == 0) result = start_both(up, e);
    if (result == 0) {
        (void)say(cli, up, "running");
        if (!cli->json) printf("Ctrl-C ends it. Try: cella run -c 'print(1 + 1)'\n");
        (void)fflush(stdout);
        result = supervise(up, e);
    }
    interrupt_clear();
    end_both(up);
    (void)unlink(path);
    return result;
}

static int background(const struct cli *cli, struct up *up, struct err *e) {
    if (start_both(up, e) < 0) {
        end_both(up);
        return -1;
    }
    return say(cli, up, "running");
}

static int work(const struct cli *cli, struct up *up, struct err *e) {
    if (geteuid() != 0)
        return err_hint(e, ERR_PERMISSION, "sudo cella up; the daemon itself runs without privileges",
                        "the keeper needs root: it makes namespaces, mounts and cgroups");
    if (services_url(up->services.listen, up->url, e) < 0 || services_prepare(&up->services, e) < 0) return -1;
    if (up->prepare_only) return 0;
    char path[PROGRAM_PATH + 64];
    services_pidfile(&up->services, "cellad", path);
    cleanup_close int running = pidfile_open(path, NULL);
    if (running >= 0) {
        if (healthy(up)) return say(cli, up, "already running");
        return err_hint(e, ERR_CONFLICT, "`cella down` ends it",
                        "a daemon with this state directory runs already, but not at %s", up->url);
    }
    return up->services.background ? background(cli, up, e) : foreground(cli, up, e);
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct up up = {.keeper = -1, .daemon = -1};
    static struct config config;
    static struct words words;
    const char *state = NULL, *config_file = NULL;
    const struct option options[] = {
        {"state", 's', OPTION_TEXT, &state, "DIR", "state directory (default: " STATE_DEFAULT ")"},
        {"listen", 'L', OPTION_TEXT, &up.services.listen, "ADDR:PORT",
         "where the API answers (default: " LISTEN_DEFAULT ")"},
        {"driver", 0, OPTION_TEXT, &up.services.driver, "WORD", "who makes cells: process, microvm, or auto: microvm where it works"},
        {"detach", 'd', OPTION_FLAG, &up.services.background, NULL, "run in the background, with logs in STATE/log"},
        {"config", 0, OPTION_TEXT, &config_file, "FILE", "settings (default: " CONFIG_DEFAULT " when it is there)"},
        {"prepare", 0, OPTION_FLAG, &up.prepare_only, NULL, "only make the user and the directories (for systemd)"},
        {0}};
    int code;
    struct err e;
    if (!arguments_take(cli, command, options, (struct arguments_form){0}, argc, argv, &words, &code)) return code;
    if (config_load(&config, config_file, &e) < 0) return cli_fail(&e);
    if (!state) state = config_value(&config, "state");
    if (!up.services.listen) up.services.listen = config_value(&config, "listen");
    if (!up.services.listen) up.services.listen = LISTEN_DEFAULT;
    if (services_config(&up.services, config.path, &e) < 0 || services_state(&up.services, state, &e) < 0)
        return cli_fail(&e);
    interrupt_watch();
    code = work(cli, &up, &e) < 0 ? cli_fail(&e) : EXIT_OK;
    close_fd(&up.keeper);
    close_fd(&up.daemon);
    config_free(&config);
    return code;
}

const struct command command_up = {
    "up",
    "Operation",
    "Start Cella on this machine",
    "up [--state DIR] [--listen ADDR:PORT] [--driver WORD] [-d]",
    "Starts the keeper (root, makes the cells) and the daemon (user \"cella\", no privileges, the HTTP API), waits "
    "until the\n"
    "API answers and prints its URL. Stays in the foreground until Ctrl-C, which ends both and every cell; a daemon "
    "that\n"
    "dies is started again, and the cells live on. Makes the user and the state directory when they are missing.\n"
    "Listening beyond this machine makes every client need a key (`cella help key`).\n\n"
    "Examples:\n"
    "  sudo cella up                            in the foreground\n"
    "  sudo cella up -d                         in the background; `sudo cella down` ends it\n"
    "  sudo cella up --state /srv/cella -L 127.0.0.1:7171\n",
    run};
