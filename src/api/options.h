/* options.h: the daemon's settings, from the command line and from a file of "name = value" lines. */
#pragma once
#include <stdbool.h>
#include <stdio.h>

#include "api/api.h"
#include "api/http_server.h"
#include "base/err.h"
#include "base/log.h"
#include "cell/world.h"
#include "driver/choice/choice_driver.h"

struct kept_text {
    struct kept_text *next;
    char text[];
};

struct daemon_options {
    const char *state_dir, *keeper_socket, *config_file, *port_file, *warm;
    const char *allowed_hosts[ALLOWED_HOSTS_MAX];
    unsigned allowed_hosts_count;
    bool require_key;
    enum log_level log_level;
    struct http_config http;           /* listen and the limits of clients */
    struct world_config world;         /* the defaults and limits of cells */
    const char *otlp_endpoint;         /* where spans go, or NULL */
    int64_t mcp_idle_ms;               /* an MCP session without a call ends after this */
    enum choice_setting driver;        /* who makes cells */
    uint64_t microvm_memory_bytes;     /* of a machine; 0: as large as the default limit of a sandbox needs */
    uint32_t microvm_vcpus;            /* 0: as many as this host has, at most 4 */
    int64_t microvm_bake_ms;           /* a template's machine that is not ready by then failed */
    long long pool_filled, pool_empty; /* -1: the driver's own choice */
    struct kept_text *kept;            /* values that came from a file */
};

void options_defaults(struct daemon_options *);
/* Read argv[1..]. A --config file is read first, so that the command line has the last word. Strings point into argv
 * or to what options_free frees. invalid_request. */
int options_parse(struct daemon_options *, int argc, char **argv, struct err *);
/* One setting by name ("listen"), as it stands in a file or behind "--". */
int option_set(struct daemon_options *, const char *name, const char *value, struct err *);
int options_read_file(struct daemon_options *, const char *path, struct err *);
void options_free(struct daemon_options *);
/* Every setting with its meaning, for --help. */
void options_help(FILE *, const char *program);
