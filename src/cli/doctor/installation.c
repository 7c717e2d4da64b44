/* The parts of Cella itself, a template, and the daemon. */
#include <json-c/json.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/doctor/report.h"
#include "cli/programs.h"
#include "cli/services.h"

static const char group[] = "Cella";

static void programs(struct report *r) {
    static const char *const names[] = {"cellad", "cella-keeper", "cella-guest"};
    char path[PROGRAM_PATH];
    struct err e;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (program_find(names[i], path, &e) < 0) {
            finding_remedy(report_add(r, group, "programs", FINDING_MISSING, "%s", e.text), "%s", e.hint);
            return;
        }
    if (program_directory("contexts", path, &e) < 0 || program_directory("templates", path, &e) < 0) {
        finding_remedy(report_add(r, group, "programs", FINDING_MISSING, "%s", e.text), "%s", e.hint);
        return;
    }
    (void)report_add(r, group, "programs", FINDING_OK,
                     "cellad, cella-keeper and cella-guest, contexts and recipes are in place");
}

static void user(struct report *r) {
    if (getpwnam(SERVICE_USER))
        (void)report_add(r, group, "user", FINDING_OK, "\"%s\" exists", SERVICE_USER);
    else
        (void)report_add(r, group, "user", FINDING_OK, "\"%s\" does not exist yet; `cella up` makes it", SERVICE_USER);
}

static void template(struct report *r) {
    char path[PROGRAM_PATH + 64];
    (void)snprintf(path, sizeof path, "%s/templates/names/default/root", r->state);
    if (access(path, F_OK) == 0) {
        (void)report_add(r, group, "template", FINDING_OK, "\"default\" is built in %.200s", r->state);
        return;
    }
    finding_remedy(report_add(r, group, "template", FINDING_DEGRADED, "no template is built in %.200s", r->state),
                   "sudo cella template build python%s%s", strcmp(r->state, STATE_DEFAULT) == 0 ? "" : " --state ",
                   strcmp(r->state, STATE_DEFAULT) == 0 ? "" : r->state);
    if (access("/usr/bin/mmdebstrap", X_OK) < 0)
        finding_remedy(report_add(r, group, "mmdebstrap", FINDING_DEGRADED, "not installed: templates cannot be built"),
                       "apt-get install mmdebstrap");
}

/* Where KVM works, cells are machines, and those start from files of their own. */
static void machine(struct report *r) {
    char name[PROGRAM_PATH + 64], target[256], path[PROGRAM_PATH + 64];
    struct err e;
    if (!r->kvm_works) return;
    if (program_find("cella-vmm", path, &e) < 0) {
        finding_remedy(report_add(r, group, "microVM monitor", FINDING_DEGRADED, "%s", e.text), "%s", e.hint);
        return;
    }
    (void)snprintf(name, sizeof name, "%s/templates/names/default", r->state);
    const ssize_t n = readlink(name, target, sizeof target - 1);
    if (n <= 0) return; /* there is no template at all: said already */
    target[n] = 0;
    const char *slash = strrchr(target, '/');
    (void)snprintf(path, sizeof path, "%s/machines/%s/machine.json", r->state, slash ? slash + 1 : target);
    if (access(path, F_OK) == 0)
        (void)report_add(r, group, "machine", FINDING_OK, "\"default\" is built for the microVM driver too");
    else
        finding_remedy(report_add(r, group, "machine", FINDING_DEGRADED, "\"default\" is not built for the microVM driver"),
                       "sudo cella template build python --machine yes%s%s", strcmp(r->state, STATE_DEFAULT) == 0 ? "" : " --state ",
                       strcmp(r->state, STATE_DEFAULT) == 0 ? "" : r->state);
}

/* What the running daemon says it must do without: {"report": {"features": {name: bool}}}. */
static void daemon_features(struct report *r, struct client *client) {
    struct err e;
    struct json_object *about = NULL;
    if (client_json(client, "GET", "/v1/doctor", NULL, &about, &e) < 0) {
        finding_remedy(report_add(r, group, "driver", FINDING_DEGRADED, "the daemon does not say: %s", e.text), "%s",
                       e.hint ? e.hint : "");
        return;
    }
    struct json_object *features = json_object_object_get(json_object_object_get(about, "report"), "features");
    struct buf without = {0};
    if (json_object_is_type(features, json_type_object)) {
        json_object_object_foreach(features, name, value) {
            if (!json_object_get_boolean(value)) buf_printf(&without, "%s%s", without.len ? ", " : "", name);
        }
    }
    (void)report_add(r, group, "driver", without.len ? FINDING_DEGRADED : FINDING_OK, "%s: %s%s%s",
                     json_text(about, "driver", "?"), json_text(about, "isolation", "?"),
                     without.len ? "; without: " : "", without.len ? without.data : "");
    buf_free(&without);
    json_object_put(about);
}

static void daemon_answers(struct report *r) {
    struct cli cli = {.url = r->url, .key = r->key};
    struct client client;
    struct err e;
    struct call call = {.method = "GET", .path = "/healthz", .timeout_s = 3};
    bool answers = client_open(&client, &cli, &e) == 0 && client_call(&client, &call, &e) == 0;
    if (answers)
        (void)report_add(r, group, "daemon", FINDING_OK, "answers at %s", r->url);
    else if (strcmp(e.code, CLI_UNREACHABLE) == 0)
        finding_remedy(report_add(r, group, "daemon", FINDING_OK, "does not run at %s", r->url), "sudo cella up -d");
    else
        finding_remedy(report_add(r, group, "daemon", FINDING_DEGRADED, "at %s: %s", r->url, e.text),
                       "%s/log/cellad.log", r->state);
    if (answers) daemon_features(r, &client);
    call_free(&call);
    client_close(&client);
}

void probe_installation(struct report *r) {
    programs(r);
    user(r);
    template(r);
    machine(r);
    daemon_answers(r);
}
