#include "api/compat/e2b_process_end.h"

#include <stdio.h>
#include <string.h>

#include "api/json_text.h"

/* Names that a Go program gives to Linux' signals, which is what their server is. */
static const char *const names[] = {
    [1] = "hangup",         [2] = "interrupt",     [3] = "quit",   [4] = "illegal instruction", [5] = "trace/breakpoint trap", [6] = "aborted",
    [7] = "bus error",      [8] = "floating point exception",      [9] = "killed",              [10] = "user defined signal 1",
    [11] = "segmentation fault", [12] = "user defined signal 2",   [13] = "broken pipe",        [14] = "alarm clock", [15] = "terminated"};

static struct json_object *exited(int code) {
    struct json_object *out = json_object_new_object();
    char text[40];
    (void)snprintf(text, sizeof text, "exit status %d", code);
    json_set_int(out, "exitCode", code);
    json_set_flag(out, "exited", true);
    json_set_text(out, "status", text);
    if (code) json_set_text(out, "error", text);
    return out;
}

static struct json_object *killed(int signo, bool memory) {
    struct json_object *out = json_object_new_object();
    char text[80], error[120];
    if (signo > 0 && signo < (int)(sizeof names / sizeof *names))
        (void)snprintf(text, sizeof text, "signal: %s", names[signo]);
    else
        (void)snprintf(text, sizeof text, "signal: signal %d", signo);
    (void)snprintf(error, sizeof error, "%s%s", text, memory ? " (the sandbox ran out of memory)" : "");
    json_set_int(out, "exitCode", -1);
    json_set_flag(out, "exited", false);
    json_set_text(out, "status", text);
    json_set_text(out, "error", error);
    return out;
}

struct json_object *e2b_process_end(struct json_object *end, bool timed, struct err *e) {
    struct json_object *code = json_field(end, "exit_code"), *signal = json_field(end, "signal");
    const char *word = json_object_get_string(json_field(end, "exit"));
    if (timed && word && strcmp(word, "timeout") == 0) {
        err_set(e, ERR_TIMEOUT_REQUEST, "the process was killed: the time that it was given is over");
        return NULL;
    }
    if (code) return exited(json_object_get_int(code));
    if (signal) return killed(json_object_get_int(signal), word && strcmp(word, "oom") == 0);
    err_set(e, ERR_GONE, "the sandbox ended or was paused while the process ran: nobody knows how it would have ended");
    return NULL;
}
