/* handlers.h: every function that the route table names, grouped by file; and what several of them need. */
#pragma once
#include "api/api.h"
#include "api/events_out.h"
#include "api/json_text.h"
#include "api/reply.h"
#include "api/request.h"
#include "cell/cell.h"

/* routes_cells.c */
void handle_cell_create(struct request *);
void handle_cell_list(struct request *);
void handle_cell_get(struct request *);
void handle_cell_delete(struct request *);
void handle_lifecycle_get(struct request *);
void handle_lifecycle_set(struct request *);
void handle_pause(struct request *);
void handle_resume(struct request *);
void handle_stats(struct request *);
void handle_cell_metrics(struct request *);
void handle_logs(struct request *);
/* routes_images.c */
void handle_snapshot_create(struct request *);
void handle_cell_snapshots(struct request *);
void handle_snapshot_list(struct request *);
void handle_snapshot_get(struct request *);
void handle_snapshot_delete(struct request *);
void handle_hibernate(struct request *);
void handle_wake(struct request *);
void handle_space_list(struct request *);
void handle_space_get(struct request *);
void handle_space_delete(struct request *);
void handle_space_resume(struct request *);
/* routes_execute.c */
void handle_execute(struct request *);
/* routes_executions.c */
void handle_execution_list(struct request *);
void handle_execution_get(struct request *);
void handle_execution_input(struct request *);
void handle_execution_interrupt(struct request *);
/* routes_contexts.c */
void handle_context_create(struct request *);
void handle_context_list(struct request *);
void handle_context_get(struct request *);
void handle_context_delete(struct request *);
void handle_context_restart(struct request *);
void handle_context_interrupt(struct request *);
/* routes_repl.c */
void handle_repl(struct request *);
/* The exit code of an Execution as a number, or NULL (null) when it did not end by itself. New reference. */
struct json_object *exit_number(struct json_object *execution);
void handle_repl_languages(struct request *);
void handle_session_create(struct request *);
void handle_session_list(struct request *);
void handle_session_delete(struct request *);
void handle_session_run(struct request *);
/* routes_exec.c, exec_lines.c */
void handle_exec(struct request *);
void handle_exec_stream(struct request *);
void exec_code_as_lines(struct request *);
/* exec_ws.c, exec_pty.c */
void handle_exec_ws(struct request *);
void handle_exec_pty(struct request *);
/* routes_processes.c */
void handle_process_list(struct request *);
void handle_process_get(struct request *);
void handle_process_signal(struct request *);
void handle_process_attach(struct request *);
/* routes_files.c, routes_transfer.c, routes_watch.c */
void handle_fs_get(struct request *);
void handle_fs_put(struct request *);
void handle_fs_delete(struct request *);
void handle_fs_dir(struct request *);
void handle_fs_stat(struct request *);
void handle_fs_mkdir(struct request *);
void handle_fs_move(struct request *);
void handle_fs_disk(struct request *);
void handle_fs_ports(struct request *);
void handle_tar_get(struct request *);
void handle_tar_put(struct request *);
void handle_fs_watch(struct request *);
/* routes_events.c */
void handle_events(struct request *);
void handle_cell_events(struct request *);
/* routes_host.c */
void handle_health(struct request *);
void handle_health_text(struct request *);
void handle_version(struct request *);
void handle_metrics(struct request *);
void handle_usage(struct request *);
void handle_doctor(struct request *);
void handle_template_list(struct request *);
void handle_template_get(struct request *);
/* routes_keys.c */
void handle_key_create(struct request *);
void handle_key_list(struct request *);
void handle_key_delete(struct request *);
/* routes_branches.c */
void handle_fork(struct request *);
void handle_fork_tree(struct request *);
void handle_tree(struct request *);
void handle_promote(struct request *);
void handle_merge(struct request *);
/* routes_diff.c */
void handle_diff(struct request *);
/* mcp/mcp.c */
void handle_mcp_post(struct request *);
void handle_mcp_delete(struct request *);
/* routes_later.c */
void handle_later(struct request *);

/* Callbacks for the usual case "hand the JSON on" / "nothing to say": arg is a request that was held for them. */
void answer_json(void *rq, struct err *, struct json_object *borrowed);
void answer_created(void *rq, struct err *, struct json_object *borrowed);
void answer_empty(void *rq, struct err *);
/* A query flag; replies invalid_request and returns false when it is neither true nor false. */
bool flag_of(struct request *, const char *name, bool *out);
/* Send what a "read" or "tar_get" of the guest gives (taken over); archive: its size is not known before its end. */
void answer_download(struct request *, struct json_object *taken_op, bool archive, const char *content_type);
/* What the guest is asked about ?path= (fallback when it is missing): {"op": op, "path": …}, a new reference; NULL after a reply. */
struct json_object *path_operation(struct request *rq, const char *op, const char *fallback);
