/* Processes of a cell: listed, looked up, signalled, watched. */
#include <signal.h>
#include <string.h>

#include "api/exec_stream.h"
#include "api/handlers.h"
#include "cell/process.h"

void handle_process_list(struct request *rq) { process_list(rq->cell, answer_json, request_hold(rq)); }

void handle_process_get(struct request *rq) {
    struct err e;
    struct json_object *record = process_get(rq->cell, request_param(rq, 1), &e);
    if (record)
        reply_json(rq, 200, record);
    else
        reply_err(rq, &e);
}

static int signal_of(struct json_object *body, int *out, struct err *e) {
    static const struct {
        const char *name;
        int number;
    } known[] = {{"TERM", SIGTERM}, {"KILL", SIGKILL}, {"INT", SIGINT},   {"HUP", SIGHUP},   {"QUIT", SIGQUIT},
                 {"USR1", SIGUSR1}, {"USR2", SIGUSR2}, {"STOP", SIGSTOP}, {"CONT", SIGCONT}, {"WINCH", SIGWINCH}};
    struct json_object *field = json_field(body, "signal");
    *out = SIGTERM;
    if (!field) return 0;
    if (json_object_is_type(field, json_type_int)) {
        int64_t number = json_object_get_int64(field);
        *out = (int)number;
        if (number >= 1 && number <= 64) return 0;
    } else if (json_object_is_type(field, json_type_string)) {
        const char *name = json_object_get_string(field);
        if (strncmp(name, "SIG", 3) == 0) name += 3;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (strcmp(name, known[i].name) == 0) {
                *out = known[i].number;
                return 0;
            }
    }
    return err_hint(e, ERR_INVALID, "a number from 1 to 64 or a name such as \"SIGTERM\"",
                    "\"signal\" is not a signal");
}

void handle_process_signal(struct request *rq) {
    struct err e;
    int signo;
    if (signal_of(rq->body, &signo, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    process_signal_by_id(rq->cell, request_param(rq, 1), signo, answer_empty, request_hold(rq));
}

void handle_process_attach(struct request *rq) {
    enum event_format format = event_format_asked(rq);
    exec_stream_attach(rq, format == FORMAT_NDJSON ? FORMAT_NDJSON : FORMAT_SSE, request_param(rq, 1));
}
