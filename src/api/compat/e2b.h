/* e2b.h: how requests of E2B's clients find their place here. Loop thread only.
 *
 * One listen address serves three things that are three origins at E2B (a client's E2B_API_URL and E2B_SANDBOX_URL both name it):
 *
 *   control plane       paths without "/v1" that routes.c does not know: /v2/sandboxes, /sandboxes/{id}/pause, /templates/… ;  table e2b_control_routes
 *   port 49983 (envd)   files, filesystem and process calls to one sandbox ;                                                table e2b_envd_routes
 *   port 49999 (code)   /execute and /contexts of one sandbox ;                                                              table e2b_code_routes
 *
 * A request is for a port of a sandbox when it names one: headers E2b-Sandbox-Id and E2b-Sandbox-Port, else a Host "{port}-{id}.anything", else
 * /files?signature=… without either (a signed URL of a client that knows one origin only names no sandbox: the signature tells which). So
 * /metrics and /health with those headers are the sandbox's, without them the daemon's. Other ports answer 501 until ports are published.
 *
 * What a handler of the port tables may rely on (e2b_admit did it before the handler, or before the first byte of a BODY_STREAM):
 *   - the client may use this sandbox: AUTH_KEY rows want the sandbox's token (X-Access-Token, or E2B-Traffic-Access-Token), a valid signature on
 *     /files, or an API key of the sandbox's owner. AUTH_OPEN rows want nothing (health).
 *   - rq->cell is the sandbox, held, and awake: a paused one was woken first when it was created with autoResume, else the client got the 502 that
 *     its SDK reads as "not running". SCOPE_ASLEEP rows run without that: they look at cell_asleep() themselves.
 *   - rq->match.params are those of the row's own pattern, there is no sandbox id among them. api_owner(rq) is the sandbox's owner.
 *   - every reply_err(rq, …) of port 49983, also by shared helpers (answer_json, answer_empty, flag_of, path_operation), is written in E2B's shape
 *     {"code": <HTTP status>, "message": "…; hint"}: rq->reply_error points to e2b_reply_error. A handler whose client wants another shape
 *     (Connect's {"code": "not_found", "message"}) sets rq->reply_error to its own function, first thing.
 *
 * To add routes to a port: write handlers in a file of your own, declare them in the section at the end, put rows into the table in e2b_routes.c and
 * the file into src/api/meson.build. A row is the same as in routes.c, e.g.
 *   {"POST", "/filesystem.Filesystem/Stat", e2b_stat, BODY_JSON, AUTH_KEY, SCOPE_CELL, "Describe a file"},
 *   {"POST", "/files", e2b_files_put, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Write files"},
 *   {"POST", "/process.Process/Start", e2b_process_start, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Start a process"},   (framed body: not BODY_JSON)
 *
 * Paths: E2B's user is "user" with the home /home/user. Here it is uid 1000 with /workspace; every sandbox that an E2B client made or connected to has
 * a link /home/user -> /workspace, so absolute paths need no translation and answer with the path that was asked for; relative ones begin in
 * E2B_HOME. The user name comes as ?username= or as "Authorization: Basic base64(name:)": e2b_user(). */
#pragma once
#include <stdbool.h>

#include "api/api.h"
#include "api/router.h"
#include "cell/cell.h"

#define E2B_PORT_ENVD 49983
#define E2B_PORT_CODE 49999
#define E2B_ENVD_VERSION "0.6.4" /* what clients decide by what they may ask for */
#define E2B_HOME "/home/user"
#define E2B_TOKEN_MAX 65 /* 64 hex digits + NUL */
/* Pairs in a sandbox's metadata that say what E2B's create asked for; E2B's clients do not see them. A fork inherits them. */
#define E2B_TAG_PREFIX "e2b."
#define E2B_TAG_OPEN "e2b.open"          /* "true" (secure: false): no token is asked for where the daemon asks for no key */
#define E2B_TAG_RESUME "e2b.auto_resume" /* "true": a request to a paused one wakes it */

/* ---- for handlers ---- */

/* {"code","message"}. The code in the body is the HTTP status: SDKs look at it. A sandbox that ended is 404 as one that never was. */
void e2b_reply_error(struct request *, unsigned status, const struct err *);
/* The same for port 49999, whose clients show the body as it is: a plain sentence. */
void e2b_reply_sentence(struct request *, unsigned status, const struct err *);
/* A capability that is not in this version: 501, "<what> is not in this version of Cella: <instead>". */
void e2b_reply_later(struct request *, const char *what, const char *instead);
/* The sandbox's access token: what the client got as envdAccessToken. The same for the whole life of the sandbox, another one for each fork. */
void e2b_token(struct api *, const struct cell *, char out[static E2B_TOKEN_MAX]);
/* "user" or "root" as the request says (?username=, else Basic authorization), "user" when it says nothing. Any other name: NULL after a reply
 * (invalid_request). */
const char *e2b_user(struct request *);
/* Did its create say secure: false? */
bool e2b_is_open(const struct cell *);
/* Should the sandbox run again by itself when a request comes (autoResume)? */
bool e2b_resumes(const struct cell *);

/* ---- for api.c ---- */

/* Reads or makes the secret that tokens come from (STATE/db/e2b.secret, mode 0600). */
int e2b_open(struct api *, const char *state_dir, struct err *);
/* Is the request for a port of a sandbox? Then its route is found, the client's right checked and rq->cell set: 1, or -1 with the error to answer
 * (*status where the code does not say it). 0: it is for the daemon. */
int e2b_admit_port(struct request *, unsigned *status, char allow[static 64], struct err *);
/* A path that routes.c does not know: a route of the control plane? 1, 0 no, -1 with the error to answer. Who asks is checked by the caller, as for
 * every route. */
int e2b_find_control(struct request *, char allow[static 64], struct err *);

extern const struct route_table e2b_control_routes, e2b_code_routes, e2b_envd_routes;

/* ---- handlers, by file ---- */

/* e2b_control.c, e2b_control_create.c, e2b_control_list.c */
void e2b_create(struct request *);
void e2b_list(struct request *);
void e2b_list_running(struct request *);
void e2b_get(struct request *);
void e2b_timeout(struct request *);
void e2b_refresh(struct request *);
void e2b_network(struct request *);
/* e2b_control_life.c */
void e2b_kill(struct request *);
void e2b_pause(struct request *);
void e2b_connect(struct request *);
void e2b_resume(struct request *);
void e2b_fork(struct request *);
/* e2b_control_images.c */
void e2b_snapshot_create(struct request *);
void e2b_snapshot_list(struct request *);
void e2b_template_list(struct request *);
void e2b_template_get(struct request *);
void e2b_template_delete(struct request *);
void e2b_template_alias(struct request *);
/* e2b_control_numbers.c */
void e2b_metrics(struct request *);
void e2b_metrics_of_many(struct request *);
void e2b_logs(struct request *);
void e2b_logs_v2(struct request *);
/* e2b_routes.c: health, and what answers "not in this version" */
void e2b_api_health(struct request *);
void e2b_health(struct request *);
void e2b_code_health(struct request *);
/* e2b_code.c, e2b_code_contexts.c */
void e2b_code_execute(struct request *);
void e2b_code_context_create(struct request *);
void e2b_code_context_list(struct request *);
void e2b_code_context_delete(struct request *);
void e2b_code_context_restart(struct request *);
/* e2b_files.c, e2b_files_host.c */
void e2b_files_get(struct request *);
void e2b_files_post(struct request *);
void e2b_files_compose(struct request *);
void e2b_port_metrics(struct request *);
void e2b_port_envs(struct request *);
void e2b_port_init(struct request *);
/* e2b_filesystem.c, e2b_filesystem_watch.c */
void e2b_fs_stat(struct request *);
void e2b_fs_make_dir(struct request *);
void e2b_fs_move(struct request *);
void e2b_fs_list_dir(struct request *);
void e2b_fs_remove(struct request *);
void e2b_fs_watch_dir(struct request *);
void e2b_fs_create_watcher(struct request *);
void e2b_fs_watcher_events(struct request *);
void e2b_fs_remove_watcher(struct request *);
/* e2b_process.c, e2b_process_input.c */
void e2b_process_start(struct request *);
void e2b_process_connect(struct request *);
void e2b_process_list(struct request *);
void e2b_process_update(struct request *);
void e2b_process_send_input(struct request *);
void e2b_process_stream_input(struct request *);
void e2b_process_close_stdin(struct request *);
void e2b_process_send_signal(struct request *);
