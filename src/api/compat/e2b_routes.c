/* What E2B's clients ask for: the control plane, and the two ports of a sandbox. e2b.h says how a request gets to its table. */
#include <string.h>

#include "api/compat/e2b_control.h"

static void no_builds(struct request *rq) { e2b_reply_later(rq, "building templates over HTTP", "use `cella template build` on the daemon's machine"); }
static void no_volumes(struct request *rq) { e2b_reply_later(rq, "volumes", NULL); }
static void no_secrets(struct request *rq) { e2b_reply_later(rq, "secrets", "hand them over as envs"); }
static void no_teams(struct request *rq) { e2b_reply_later(rq, "teams", "keys are made with `cella key create NAME`"); }

void e2b_api_health(struct request *rq) { reply_text(rq, 200, "text/plain; charset=utf-8", "OK"); }

/* ---- does it run? Asked without a token, and without waking it ---- */

static bool runs(struct request *rq) {
    if (strcmp(e2b_state(rq->cell), "running") == 0) return true;
    struct err e;
    err_set(&e, ERR_CONFLICT, "the sandbox is paused");
    reply_err_as(rq, 502, &e);
    return false;
}

void e2b_health(struct request *rq) {
    if (runs(rq)) reply_empty(rq, 204);
}

void e2b_code_health(struct request *rq) {
    if (runs(rq)) reply_text(rq, 200, "text/plain; charset=utf-8", "OK");
}

/* clang-format off */
static const struct route control[] = {
    {"GET", "/health", e2b_api_health, BODY_NONE, AUTH_OPEN, SCOPE_HOST, "Health of the control plane"},
    {"POST", "/v2/sandboxes", e2b_create, BODY_JSON, AUTH_KEY, SCOPE_HOST, "Create a sandbox"},
    {"POST", "/sandboxes", e2b_create, BODY_JSON, AUTH_KEY, SCOPE_HOST, "Create a sandbox (older)"},
    {"GET", "/v2/sandboxes", e2b_list, BODY_NONE, AUTH_KEY, SCOPE_HOST, "List sandboxes"},
    {"GET", "/sandboxes", e2b_list_running, BODY_NONE, AUTH_KEY, SCOPE_HOST, "List running sandboxes (older)"},
    {"GET", "/sandboxes/metrics", e2b_metrics_of_many, BODY_NONE, AUTH_KEY, SCOPE_HOST, "What sandboxes use"},
    {"GET", "/sandboxes/{id}", e2b_get, BODY_NONE, AUTH_KEY, SCOPE_ASLEEP, "Describe a sandbox"},
    {"DELETE", "/sandboxes/{id}", e2b_kill, BODY_NONE, AUTH_KEY, SCOPE_ASLEEP, "End a sandbox"},
    {"POST", "/sandboxes/{id}/timeout", e2b_timeout, BODY_JSON, AUTH_KEY, SCOPE_ASLEEP, "Set when a sandbox ends"},
    {"POST", "/sandboxes/{id}/refreshes", e2b_refresh, BODY_JSON, AUTH_KEY, SCOPE_ASLEEP, "Keep a sandbox longer"},
    {"POST", "/sandboxes/{id}/pause", e2b_pause, BODY_JSON, AUTH_KEY, SCOPE_ASLEEP, "Pause a sandbox"},
    {"POST", "/v2/sandboxes/{id}/connect", e2b_connect, BODY_JSON, AUTH_KEY, SCOPE_ASLEEP, "Connect to a sandbox, resumed if need be"},
    {"POST", "/sandboxes/{id}/connect", e2b_connect, BODY_JSON, AUTH_KEY, SCOPE_ASLEEP, "The same (older)"},
    {"POST", "/sandboxes/{id}/resume", e2b_resume, BODY_JSON, AUTH_KEY, SCOPE_ASLEEP, "Resume a paused sandbox (older)"},
    {"POST", "/sandboxes/{id}/fork", e2b_fork, BODY_JSON, AUTH_KEY, SCOPE_ASLEEP, "Copy a running sandbox"},
    {"POST", "/sandboxes/{id}/snapshots", e2b_snapshot_create, BODY_JSON, AUTH_KEY, SCOPE_ASLEEP, "Make a snapshot"},
    {"GET", "/snapshots", e2b_snapshot_list, BODY_NONE, AUTH_KEY, SCOPE_HOST, "List snapshots"},
    {"GET", "/sandboxes/{id}/metrics", e2b_metrics, BODY_NONE, AUTH_KEY, SCOPE_ASLEEP, "What a sandbox uses"},
    {"GET", "/sandboxes/{id}/logs", e2b_logs, BODY_NONE, AUTH_KEY, SCOPE_ASLEEP, "Events of a sandbox (older)"},
    {"GET", "/v2/sandboxes/{id}/logs", e2b_logs_v2, BODY_NONE, AUTH_KEY, SCOPE_ASLEEP, "Events of a sandbox"},
    {"PUT", "/sandboxes/{id}/network", e2b_network, BODY_JSON, AUTH_KEY, SCOPE_ASLEEP, "Change the network"},
    {"GET", "/templates", e2b_template_list, BODY_NONE, AUTH_KEY, SCOPE_HOST, "List templates"},
    {"GET", "/v2/templates", e2b_template_list, BODY_NONE, AUTH_KEY, SCOPE_HOST, "List templates"},
    {"GET", "/templates/aliases/{alias}", e2b_template_alias, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Is there a template?"},
    {"GET", "/templates/{name}", e2b_template_get, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Describe a template"},
    {"DELETE", "/templates/{name}", e2b_template_delete, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Delete a snapshot"},
    {"*", "/templates", no_builds, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Template builds"},
    {"*", "/v2/templates", no_builds, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Template builds"},
    {"*", "/v3/templates", no_builds, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Template builds"},
    {"*", "/templates/{rest...}", no_builds, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Template builds"},
    {"*", "/v2/templates/{rest...}", no_builds, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Template builds"},
    {"*", "/v3/templates/{rest...}", no_builds, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Template builds"},
    {"*", "/volumes", no_volumes, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Volumes"},
    {"*", "/volumes/{rest...}", no_volumes, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Volumes"},
    {"*", "/volumecontent/{rest...}", no_volumes, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Volumes"},
    {"*", "/secrets", no_secrets, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Secrets"},
    {"*", "/secrets/{rest...}", no_secrets, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Secrets"},
    {"*", "/teams", no_teams, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Teams"},
    {"*", "/teams/{rest...}", no_teams, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Teams"},
};

static const struct route envd[] = {
    {"GET", "/health", e2b_health, BODY_NONE, AUTH_OPEN, SCOPE_ASLEEP, "Does the sandbox run?"},
    /* files, filesystem and processes */
    {"GET", "/files", e2b_files_get, BODY_NONE, AUTH_KEY, SCOPE_CELL, "Read a file"},
    {"POST", "/files", e2b_files_post, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Write files"},
    {"POST", "/files/compose", e2b_files_compose, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "compose files"},
    {"POST", "/filesystem.Filesystem/Stat", e2b_fs_stat, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Describe a file"},
    {"POST", "/filesystem.Filesystem/MakeDir", e2b_fs_make_dir, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Make a directory"},
    {"POST", "/filesystem.Filesystem/Move", e2b_fs_move, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Move a file"},
    {"POST", "/filesystem.Filesystem/ListDir", e2b_fs_list_dir, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "List a directory"},
    {"POST", "/filesystem.Filesystem/Remove", e2b_fs_remove, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Delete a file or directory"},
    {"POST", "/filesystem.Filesystem/WatchDir", e2b_fs_watch_dir, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Follow changes of files"},
    {"POST", "/filesystem.Filesystem/CreateWatcher", e2b_fs_create_watcher, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Begin to keep changes of files"},
    {"POST", "/filesystem.Filesystem/GetWatcherEvents", e2b_fs_watcher_events, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Kept changes of files"},
    {"POST", "/filesystem.Filesystem/RemoveWatcher", e2b_fs_remove_watcher, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Stop keeping changes of files"},
    {"POST", "/process.Process/Start", e2b_process_start, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Start a process"},
    {"POST", "/process.Process/Connect", e2b_process_connect, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Follow a process"},
    {"POST", "/process.Process/List", e2b_process_list, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "List processes"},
    {"POST", "/process.Process/Update", e2b_process_update, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Change the size of a terminal"},
    {"POST", "/process.Process/SendInput", e2b_process_send_input, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Write to a process"},
    {"POST", "/process.Process/StreamInput", e2b_process_stream_input, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Write to a process, piece by piece"},
    {"POST", "/process.Process/CloseStdin", e2b_process_close_stdin, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "End the input of a process"},
    {"POST", "/process.Process/SendSignal", e2b_process_send_signal, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Send a signal"},
    {"GET", "/metrics", e2b_port_metrics, BODY_NONE, AUTH_KEY, SCOPE_CELL, "metrics of the port"},
    {"GET", "/envs", e2b_port_envs, BODY_NONE, AUTH_KEY, SCOPE_CELL, "environment of the port"},
    {"POST", "/init", e2b_port_init, BODY_NONE, AUTH_KEY, SCOPE_CELL, "set-up of the port"},
};

static const struct route code[] = {
    {"GET", "/health", e2b_code_health, BODY_NONE, AUTH_OPEN, SCOPE_ASLEEP, "Does the sandbox run?"},
    {"POST", "/execute", e2b_code_execute, BODY_JSON, AUTH_KEY, SCOPE_CELL, "Run code"},
    {"POST", "/contexts", e2b_code_context_create, BODY_JSON, AUTH_KEY, SCOPE_CELL, "Make a context"},
    {"GET", "/contexts", e2b_code_context_list, BODY_NONE, AUTH_KEY, SCOPE_CELL, "List contexts"},
    {"DELETE", "/contexts/{cid}", e2b_code_context_delete, BODY_NONE, AUTH_KEY, SCOPE_CELL, "Delete a context"},
    {"POST", "/contexts/{cid}/restart", e2b_code_context_restart, BODY_NONE, AUTH_KEY, SCOPE_CELL, "Start a context afresh"},
};
/* clang-format on */

const struct route_table e2b_control_routes = {"e2b:", control, sizeof control / sizeof *control};
const struct route_table e2b_envd_routes = {"e2b:49983", envd, sizeof envd / sizeof *envd};
const struct route_table e2b_code_routes = {"e2b:49999", code, sizeof code / sizeof *code};
