#include "api/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

enum kind { TEXT, FLAG, NUMBER, HOST, LEVEL, DRIVER };

struct option {
    const char *name;
    enum kind kind;
    long long low, high;
    const char *value, *help; /* value: what --help shows */
};

static const struct option options[] = {
    {"state", TEXT, 0, 0, "DIR", "everything that lasts: database, templates (default /var/lib/cella)"},
    {"listen", TEXT, 0, 0, "ADDR:PORT",
     "where the API listens (default 127.0.0.1:7070); beyond loopback an API key is needed"},
    {"keeper", TEXT, 0, 0, "SOCKET", "socket of cella-keeper (default /run/cella/keeper.sock)"},
    {"config", TEXT, 0, 0, "FILE", "lines of \"name = value\", the names of this list; read before the other options"},
    {"port-file", TEXT, 0, 0, "FILE", "write the port there when the daemon listens (for --listen with port 0)"},
    {"driver", DRIVER, 0, 0, "WORD", "who makes sandboxes: process, microvm, or auto: microvm where it works (default auto)"},
    {"microvm-memory-mb", NUMBER, 128, 65536, "N", "memory of a virtual machine; no sandbox in one can have more (default 2048, or memory-mb when that is more)"},
    {"microvm-vcpus", NUMBER, 1, 8, "N", "processors of a virtual machine (default: this host's, at most 4)"},
    {"microvm-bake-seconds", NUMBER, 10, 86400, "SECONDS", "for booting and warming a template's machine, once (default 600)"},
    {"warm", TEXT, 0, 0, "TEMPLATE", "template to make ready at start (default \"default\"; \"\" for none)"},
    {"allowed-host", HOST, 0, 0, "NAME", "answer to this name in Host and Origin too; may be given more than once"},
    {"require-key", FLAG, 0, 0, NULL, "ask for an API key on loopback as well"},
    {"log-level", LEVEL, 0, 0, "LEVEL", "debug, info, warn or error (default info)"},
    {"connections-max", NUMBER, 8, 100000, "N", "client connections at once (default 4096)"},
    {"connections-per-address", NUMBER, 0, 100000, "N", "of one client address, 0 for no limit (default 0)"},
    {"header-timeout", NUMBER, 1, 3600, "SECONDS", "for a request's headers, absolute (default 10)"},
    {"body-timeout", NUMBER, 1, 3600, "SECONDS", "for a JSON body, and for progress of an upload (default 30)"},
    {"idle-timeout", NUMBER, 1, 86400, "SECONDS", "between two requests of a connection (default 75)"},
    {"write-timeout", NUMBER, 1, 86400, "SECONDS", "a client that takes nothing of its answer (default 600)"},
    {"cells-max", NUMBER, 1, 1000000, "N", "sandboxes alive at once"},
    {"memory-mb", NUMBER, 16, 1 << 22, "N", "memory of a sandbox that asks for none"},
    {"memory-mb-max", NUMBER, 16, 1 << 22, "N", "what a sandbox may ask for"},
    {"cpu-millis", NUMBER, 10, 1024000, "N", "CPU of a sandbox, 1000 for one CPU"},
    {"cpu-millis-max", NUMBER, 10, 1024000, "N", "what a sandbox may ask for"},
    {"pids", NUMBER, 8, 1 << 22, "N", "processes and threads of a sandbox"},
    {"pids-max", NUMBER, 8, 1 << 22, "N", "what a sandbox may ask for"},
    {"disk-mb", NUMBER, 1, 1 << 24, "N", "what a sandbox may write"},
    {"disk-mb-max", NUMBER, 1, 1 << 24, "N", "what a sandbox may ask for"},
    {"open-files", NUMBER, 64, 1 << 20, "N", "open files of a process in a sandbox"},
    {"open-files-max", NUMBER, 64, 1 << 20, "N", "what a sandbox may ask for"},
    {"ttl-default", NUMBER, 0, 1 << 30, "SECONDS", "life of a sandbox that asks for none, 0 for no end"},
    {"idle-default", NUMBER, 0, 1 << 30, "SECONDS", "idle timeout of a sandbox that asks for none, 0 for none"},
    {"execute-timeout", NUMBER, 1, 1 << 30, "SECONDS", "for code that asks for no timeout"},
    {"output-bytes-max", NUMBER, 1024, 1 << 30, "N", "kept and sent per stream and execution"},
    {"otlp-endpoint", TEXT, 0, 0, "URL", "send traces there, OTLP/HTTP (default: OTEL_EXPORTER_OTLP_ENDPOINT of the environment, else none)"},
    {"mcp-idle", NUMBER, 1, 1 << 30, "SECONDS", "an MCP session without a call ends after this (default 1800)"},
    {"pool-filled", NUMBER, 0, 10000, "N", "sandboxes kept ready with a warm Python"},
    {"pool-empty", NUMBER, 0, 10000, "N", "sandboxes kept ready without"},
};
#define OPTIONS (sizeof options / sizeof *options)

void options_defaults(struct daemon_options *o) {
    *o = (struct daemon_options){.state_dir = "/var/lib/cella",
                                 .keeper_socket = "/run/cella/keeper.sock",
                                 .warm = "default",
                                 .log_level = LOG_INFO,
                                 .mcp_idle_ms = 1800 * 1000,
                                 .microvm_bake_ms = 600 * 1000,
                                 .pool_filled = -1,
                                 .pool_empty = -1};
    http_config_defaults(&o->http);
    world_config_defaults(&o->world);
}

static const struct option *find(const char *name) {
    for (size_t i = 0; i < OPTIONS; i++)
        if (strcmp(options[i].name, name) == 0) return &options[i];
    return NULL;
}

static void set_text(struct daemon_options *o, const char *name, const char *value) {
    if (!strcmp(name, "state")) o->state_dir = value;
    if (!strcmp(name, "listen")) o->http.listen = value;
    if (!strcmp(name, "keeper")) o->keeper_socket = value;
    if (!strcmp(name, "config")) o->config_file = value;
    if (!strcmp(name, "port-file")) o->port_file = value;
    if (!strcmp(name, "warm")) o->warm = value;
    if (!strcmp(name, "otlp-endpoint")) o->otlp_endpoint = value;
}

static bool set_limit(struct cell_limits *l, const char *name, size_t length, long long n) {
#define IS(text) (length == sizeof text - 1 && memcmp(name, text, sizeof text - 1) == 0)
    if (IS("memory-mb"))
        l->memory_bytes = (uint64_t)n << 20;
    else if (IS("cpu-millis"))
        l->cpu_millis = (uint32_t)n;
    else if (IS("pids"))
        l->pids_max = (uint32_t)n;
    else if (IS("disk-mb"))
        l->disk_bytes = (uint64_t)n << 20;
    else if (IS("open-files"))
        l->open_files = (uint32_t)n;
    else
        return false;
    return true;
#undef IS
}

static void set_number(struct daemon_options *o, const char *name, long long n) {
    size_t length = strlen(name);
    bool max = length > 4 && !strcmp(name + length - 4, "-max");
    if (max && set_limit(&o->world.limits_max, name, length - 4, n)) return;
    if (set_limit(&o->world.limits_default, name, length, n)) return;
    if (!strcmp(name, "connections-max")) o->http.connections_max = (unsigned)n;
    if (!strcmp(name, "connections-per-address")) o->http.per_address_max = (unsigned)n;
    if (!strcmp(name, "header-timeout")) o->http.header_timeout_ms = n * 1000;
    if (!strcmp(name, "body-timeout")) o->http.body_timeout_ms = n * 1000;
    if (!strcmp(name, "idle-timeout")) o->http.idle_timeout_ms = n * 1000;
    if (!strcmp(name, "write-timeout")) o->http.write_timeout_ms = n * 1000;
    if (!strcmp(name, "cells-max")) o->world.cells_max = (uint32_t)n;
    if (!strcmp(name, "ttl-default")) o->world.ttl_default_ms = n * 1000;
    if (!strcmp(name, "idle-default")) o->world.idle_timeout_default_ms = n * 1000;
    if (!strcmp(name, "execute-timeout")) o->world.execute_timeout_default_ms = n * 1000;
    if (!strcmp(name, "output-bytes-max")) o->world.output_bytes_max = (uint64_t)n;
    if (!strcmp(name, "mcp-idle")) o->mcp_idle_ms = n * 1000;
    if (!strcmp(name, "microvm-memory-mb")) o->microvm_memory_bytes = (uint64_t)n << 20;
    if (!strcmp(name, "microvm-vcpus")) o->microvm_vcpus = (uint32_t)n;
    if (!strcmp(name, "microvm-bake-seconds")) o->microvm_bake_ms = n * 1000;
    if (!strcmp(name, "pool-filled")) o->pool_filled = n;
    if (!strcmp(name, "pool-empty")) o->pool_empty = n;
}

static int set_level(struct daemon_options *o, const char *value, struct err *e) {
    static const char *const words[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++)
        if (strcmp(words[i], value) == 0) {
            o->log_level = (enum log_level)i;
            return 0;
        }
    return err_set(e, ERR_INVALID, "log-level must be debug, info, warn or error");
}

int option_set(struct daemon_options *o, const char *name, const char *value, struct err *e) {
    const struct option *option = find(name);
    char *end;
    if (!option)
        return err_hint(e, ERR_INVALID, "cellad --help lists the settings", "there is no setting \"%.64s\"", name);
    switch (option->kind) {
    case TEXT: set_text(o, name, value); return 0;
    case FLAG:
        o->require_key = !strcmp(value, "true") || !strcmp(value, "1") || !strcmp(value, "yes");
        if (o->require_key || !strcmp(value, "false") || !strcmp(value, "0") || !strcmp(value, "no")) return 0;
        return err_set(e, ERR_INVALID, "%s must be true or false", name);
    case LEVEL: return set_level(o, value, e);
    case DRIVER: return choice_setting_parse(value, &o->driver, e);
    case HOST:
        if (o->allowed_hosts_count == ALLOWED_HOSTS_MAX)
            return err_set(e, ERR_INVALID, "at most %d allowed hosts", ALLOWED_HOSTS_MAX);
        o->allowed_hosts[o->allowed_hosts_count++] = value;
        return 0;
    case NUMBER: break;
    }
    errno = 0;
    long long n = strtoll(value, &end, 10);
    if (errno || end == value || *end || n < option->low || n > option->high)
        return err_set(e, ERR_INVALID, "%s must be a whole number from %lld to %lld, not \"%.40s\"", name, option->low,
                       option->high, value);
    set_number(o, name, n);
    return 0;
}

static char *trim(char *text) {
    while (isspace((unsigned char)*text)) text++;
    size_t n = strlen(text);
    while (n && isspace((unsigned char)text[n - 1])) text[--n] = 0;
    return text;
}

static const char *keep(struct daemon_options *o, const char *value) {
    size_t n = strlen(value) + 1;
    struct kept_text *kept = malloc(sizeof *kept + n);
    if (!kept) abort();
    memcpy(kept->text, value, n);
    kept->next = o->kept;
    o->kept = kept;
    return kept->text;
}

void options_free(struct daemon_options *o) {
    while (o->kept) {
        struct kept_text *next = o->kept->next;
        free(o->kept);
        o->kept = next;
    }
}

int options_read_file(struct daemon_options *o, const char *path, struct err *e) {
    cleanup_file FILE *f = fopen(path, "re");
    cleanup_free char *line = NULL;
    size_t room = 0;
    if (!f) return err_sys(e, errno, "open %s", path);
    for (unsigned number = 1; getline(&line, &room, f) >= 0; number++) {
        char *text = trim(line), *equals;
        if (!*text || *text == '#') continue;
        if (!(equals = strchr(text, '=')))
            return err_set(e, ERR_INVALID, "%s, line %u: write name = value", path, number);
        *equals = 0;
        char *value = trim(equals + 1);
        size_t n = strlen(value);
        if (n >= 2 && value[0] == '"' && value[n - 1] == '"') {
            value[n - 1] = 0;
            value++;
        }
        if (option_set(o, trim(text), keep(o, value), e) < 0) return err_wrap(e, "%s, line %u", path, number);
    }
    return 0;
}

/* One word of the command line, "--name value" or "--name=value"; *i moves over what it took. */
static int take_word(struct daemon_options *o, int argc, char **argv, int *i, bool only_config, struct err *e) {
    char name[64];
    const char *word = argv[*i];
    if (strncmp(word, "--", 2) != 0)
        return err_hint(e, ERR_INVALID, "cellad --help lists the settings", "\"%.64s\" is no setting", word);
    const char *equals = strchr(word, '='), *value = equals ? equals + 1 : NULL;
    size_t n = equals ? (size_t)(equals - word - 2) : strlen(word + 2);
    if (n >= sizeof name) return err_set(e, ERR_INVALID, "there is no setting \"%.64s\"", word);
    memcpy(name, word + 2, n);
    name[n] = 0;
    const struct option *option = find(name);
    if (!value && option && option->kind == FLAG) value = "true";
    if (!value && option) {
        if (*i + 1 >= argc) return err_set(e, ERR_INVALID, "--%s needs a value", name);
        value = argv[++*i];
    }
    if (only_config && strcmp(name, "config") != 0) return 0;
    return option_set(o, name, value ? value : "", e);
}

int options_parse(struct daemon_options *o, int argc, char **argv, struct err *e) {
    for (int i = 1; i < argc; i++)
        if (take_word(o, argc, argv, &i, true, e) < 0) return -1;
    if (o->config_file && options_read_file(o, o->config_file, e) < 0) return -1;
    for (int i = 1; i < argc; i++)
        if (take_word(o, argc, argv, &i, false, e) < 0) return -1;
    return 0;
}

void options_help(FILE *out, const char *program) {
    fprintf(out, "%s: the Cella daemon. Usually started by `cella up`.\n\n", program);
    for (size_t i = 0; i < OPTIONS; i++) {
        char head[64];
        (void)snprintf(head, sizeof head, "--%s %s", options[i].name, options[i].value ? options[i].value : "");
        fprintf(out, "  %-36s %s\n", head, options[i].help);
    }
    fprintf(out, "  %-36s %s\n  %-36s %s\n", "--routes", "print the routes of the API as JSON and exit", "--version",
            "print the version and exit");
}
