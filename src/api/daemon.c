#include "api/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "api/compat/e2b.h"
#include "api/json_text.h"
#include "api/mcp/session.h"
#include "api/metrics.h"
#include "api/owners.h"
#include "api/router.h"
#include "api/trace/exporter.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "cell/template.h"
#include "store/store.h"
#include "tenant/keys.h"
#include "tenant/usage.h"

struct daemon {
    const struct daemon_options *options;
    struct api api;
    uv_loop_t loop;
    uv_signal_t term, interrupt;
    char warm_id[TEMPLATE_ID_HEX + 1];
    int lock_fd;
    bool stopping, failed;
};

/* ---- before the loop ---- */

static void raise_limits(struct daemon_options *o) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    /* A cell costs about six descriptors: clients may not use up what cells need. */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY &&
        o->http.connections_max > files.rlim_cur / 4)
        o->http.connections_max = (unsigned)(files.rlim_cur / 4);
}

static int make_dir(const char *path, struct err *e) {
    if (mkdir(path, 0750) == 0 || errno == EEXIST) return 0;
    return err_sys(e, errno, "make the directory %s", path);
}

/* The state directory and the lock that keeps a second daemon out of it. */
static int open_state(struct daemon *d, struct err *e) {
    char path[4096];
    const char *state = d->options->state_dir;
    if (strlen(state) > sizeof path - 64) return err_set(e, ERR_INVALID, "the state directory's name is too long");
    if (make_dir(state, e) < 0) return -1;
    (void)snprintf(path, sizeof path, "%s/db", state);
    if (make_dir(path, e) < 0) return -1;
    (void)snprintf(path, sizeof path, "%s/db/cellad.lock", state);
    d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (d->lock_fd < 0) return err_sys(e, errno, "open %s", path);
    if (flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return err_hint(e, ERR_CONFLICT, "stop it, or choose another --state", "another daemon uses %s", state);
    (void)snprintf(path, sizeof path, "%s/db/cella.db", state);
    d->api.store = store_open(path, e);
    return d->api.store ? 0 : -1;
}

static int check_listen(struct daemon *d, struct err *e) {
    struct sockaddr_storage address;
    socklen_t length;
    if (http_parse_listen(d->options->http.listen, &address, &length, e) < 0) return -1;
    d->api.beyond_loopback = !http_address_is_loopback((struct sockaddr *)&address);
    if (!d->api.beyond_loopback || keys_any(d->api.keys)) return 0;
    return err_hint(e, ERR_FORBIDDEN,
                    "start on 127.0.0.1 first and make a key with `cella key create NAME`, or put a proxy in front",
                    "refusing to listen on %s without an API key: everybody who reaches it could run code here",
                    d->options->http.listen);
}

/* Off unless an address is set, here or where every program that traces looks for it. */
static int open_tracing(struct daemon *d, struct err *e) {
    const char *endpoint = d->options->otlp_endpoint;
    if (!endpoint || !*endpoint) endpoint = getenv("OTEL_EXPORTER_OTLP_ENDPOINT");
    if (!endpoint || !*endpoint) return 0;
    d->api.exporter = exporter_open(endpoint, getenv("OTEL_EXPORTER_OTLP_HEADERS"), e);
    if (d->api.exporter) log_info("tracing: spans go to %s", endpoint);
    return d->api.exporter ? 0 : -1;
}

static int open_parts(struct daemon *d, driver_open_fn open_driver, struct err *e) {
    const struct daemon_options *o = d->options;
    if (open_state(d, e) < 0) return -1;
    if (e2b_open(&d->api, o->state_dir, e) < 0) return -1;
    d->api.keys = keys_open(d->api.store);
    d->api.usage = usage_open(&d->loop, d->api.store, e);
    if (!d->api.usage) return -1;
    d->api.metrics = metrics_open();
    d->api.owners = owners_open();
    if (check_listen(d, e) < 0) return -1;
    d->api.driver = open_driver(&d->loop, o, e);
    if (!d->api.driver) return -1;
    struct world_config world = o->world;
    world.loop = &d->loop;
    world.driver = d->api.driver;
    world.store = d->api.store;
    world.state_dir = o->state_dir;
    world.used = usage_of_domain;
    world.used_arg = d->api.usage;
    d->api.world = world_open(&world, e);
    if (!d->api.world) return -1;
    if (open_tracing(d, e) < 0) return -1;
    d->api.mcp = mcp_open(&d->api, &d->loop, o->mcp_idle_ms);
    struct http_config http = o->http;
    http.loop = &d->loop;
    http.begin = api_begin;
    http.run = api_run;
    http.replied = api_replied;
    http.over = api_over;
    http.freed = api_freed;
    http.arg = &d->api;
    d->api.http = http_server_open(&http, e);
    return d->api.http ? 0 : -1;
}

static int write_port(const char *path, int port, struct err *e) {
    char temporary[4096];
    (void)snprintf(temporary, sizeof temporary, "%s.new", path);
    FILE *f = fopen(temporary, "we");
    if (!f) return err_sys(e, errno, "write %s", temporary);
    fprintf(f, "%d\n", port);
    if (fclose(f) != 0 || rename(temporary, path) < 0) return err_sys(e, errno, "write %s", path);
    return 0;
}

/* ---- the loop ---- */

static void stop(struct daemon *d) {
    if (d->stopping) return;
    d->stopping = true;
    if (d->api.http) http_server_close(d->api.http);
    if (d->api.mcp) mcp_close(d->api.mcp);
    if (d->api.world) world_close(d->api.world);
    if (d->api.usage) usage_stop(d->api.usage);
    d->api.world = NULL;
    uv_close((uv_handle_t *)&d->term, NULL);
    uv_close((uv_handle_t *)&d->interrupt, NULL);
}

static void on_signal(uv_signal_t *handle, int signo) {
    log_info("%s: stopping, cells live on", strsignal(signo));
    stop(handle->data);
}

static void on_warm(void *arg, struct err *e) {
    struct daemon *d = arg;
    if (d->stopping) return;
    if (e)
        log_warn("the template \"%s\" is not ready: %s", d->options->warm, e->text);
    else
        log_info("the template \"%s\" is ready", d->options->warm);
}

static void warm(struct daemon *d) {
    struct err e;
    const char *name = d->options->warm;
    if (!*name) return;
    if (template_resolve(d->api.world, name, d->warm_id, &e) < 0) {
        log_warn("nothing to make ready: %s", e.text);
        return;
    }
    d->api.driver->ops->warm(d->api.driver, d->warm_id, on_warm, d);
}

static void on_started(void *arg, struct err *e) {
    struct daemon *d = arg;
    struct err failed;
    if (d->stopping) return;
    if (!e && d->options->port_file && write_port(d->options->port_file, http_server_port(d->api.http), &failed) < 0)
        e = &failed;
    if (e) {
        log_error("%s", e->text);
        d->failed = true;
        stop(d);
        return;
    }
    d->api.ready = true;
    log_info("ready on %s (port %d), driver %s", d->options->http.listen, http_server_port(d->api.http),
             d->api.driver->ops->name);
    warm(d);
}

static void listen_for_signals(struct daemon *d) {
    d->term.data = d->interrupt.data = d;
    uv_signal_init(&d->loop, &d->term);
    uv_signal_init(&d->loop, &d->interrupt);
    uv_signal_start(&d->term, on_signal, SIGTERM);
    uv_signal_start(&d->interrupt, on_signal, SIGINT);
    uv_unref((uv_handle_t *)&d->term);
    uv_unref((uv_handle_t *)&d->interrupt);
}

static void close_parts(struct daemon *d) {
    if (d->api.http) http_server_free(d->api.http);
    if (d->api.exporter) exporter_close(d->api.exporter); /* the requests have ended their spans */
    if (d->api.keys) keys_close(d->api.keys);
    usage_close(d->api.usage); /* the requests are over and counted */
    if (d->api.store) store_close(d->api.store);
    if (d->api.metrics) metrics_close(d->api.metrics);
    if (d->api.owners) owners_close(d->api.owners);
    close_fd(&d->lock_fd);
    if (uv_loop_close(&d->loop) != 0) log_debug("some handles of the loop were not closed");
}

int daemon_run(struct daemon_options *o, driver_open_fn open_driver) {
    struct err e;
    struct daemon d = {.options = o, .lock_fd = -1};
    (void)signal(SIGPIPE, SIG_IGN);
    raise_limits(o);
    d.api.require_key = o->require_key;
    d.api.started_ms = monotonic_ms();
    d.api.allowed_hosts_count = o->allowed_hosts_count;
    memcpy(d.api.allowed_hosts, o->allowed_hosts, sizeof d.api.allowed_hosts);
    uv_loop_init(&d.loop);
    listen_for_signals(&d);
    if (open_parts(&d, open_driver, &e) < 0) {
        log_error("%s%s%s", e.text, e.hint ? "; " : "", e.hint ? e.hint : "");
        d.failed = true;
        stop(&d);
    } else {
        world_start(d.api.world, on_started, &d);
    }
    uv_run(&d.loop, UV_RUN_DEFAULT);
    close_parts(&d);
    return d.failed ? 1 : 0;
}

/* ---- main's part ---- */

/* The tables of other people's clients say whose they are in "of"; our own rows say "cella". */
static void put_routes(struct json_object *list, const struct route_table *table) {
    static const char *const bodies[] = {"none", "json", "stream", "text"}, *const auths[] = {"open", "key", "local"};
    char of[32];
    (void)snprintf(of, sizeof of, "%.*s", (int)strcspn(table->name, ":"), table->name);
    for (size_t i = 0; i < table->count; i++) {
        const struct route *route = &table->rows[i];
        struct json_object *row = json_object_new_object();
        json_set_text(row, "method", route->method);
        json_set_text(row, "path", route->pattern);
        json_set_text(row, "of", of[0] ? of : "cella");
        json_set_text(row, "summary", route->summary);
        json_set_text(row, "body", bodies[route->body]);
        json_set_text(row, "auth", auths[route->auth]);
        json_object_array_add(list, row);
    }
}

static int print_routes(void) {
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < route_tables_count; i++) put_routes(list, route_tables[i]);
    puts(json_object_to_json_string_ext(list, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(list);
    return 0;
}

int daemon_main(int argc, char **argv, driver_open_fn open_driver) {
    struct err e;
    struct daemon_options o;
    const char *program = argc ? argv[0] : "cellad", *slash = strrchr(program, '/');
    program = slash ? slash + 1 : program;
    log_open(program, LOG_INFO);
    /* 815.29, not 815.28999999999996. Numbers that came from a cell keep the text they came with. */
    (void)json_c_set_serialization_double_format("%.15g", JSON_C_OPTION_GLOBAL);
    options_defaults(&o);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--routes")) return print_routes();
        if (!strcmp(argv[i], "--version")) return puts("cellad " CELLA_VERSION) < 0;
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            options_help(stdout, program);
            return 0;
        }
    }
    if (options_parse(&o, argc, argv, &e) < 0) {
        log_error("%s%s%s", e.text, e.hint ? "; " : "", e.hint ? e.hint : "");
        options_free(&o);
        return 2;
    }
    log_open(program, o.log_level);
    int status = daemon_run(&o, open_driver);
    options_free(&o);
    return status;
}
