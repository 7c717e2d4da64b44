#include "cli/run_show.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

static void say(struct run_show *s, int stream, const char *text, size_t n) {
    if (!n) return;
    if (!s->first_output_us) s->first_output_us = monotonic_us();
    if (!cell_output(&s->out, stream, text, n) && !s->problem.code)
        (void)err_set(&s->problem, ERR_INTERNAL, "cannot write the output");
    if (stream == STDOUT_FILENO) s->at_line_start = text[n - 1] == '\n';
}

static void say_line(struct run_show *s, int stream, const char *text) {
    say(s, stream, text, strlen(text));
    if (*text && text[strlen(text) - 1] != '\n') say(s, stream, "\n", 1);
}

static void show_text(struct run_show *s, struct json_object *event, int stream) {
    struct json_object *text = json_object_object_get(event, "text");
    if (json_object_is_type(text, json_type_string))
        say(s, stream, json_object_get_string(text), (size_t)json_object_get_string_len(text));
}

/* A result or display: its pictures become files, its text is printed on a line of its own. */
static void show_bundle(struct run_show *s, struct json_object *event) {
    struct json_object *data = json_object_object_get(event, "data");
    if (!json_object_is_type(data, json_type_object)) data = event;
    struct buf said = {0};
    int pictures = figures_in(data);
    if (figures_save(&s->figures, data, &said, &s->problem) < 0) pictures = 0;
    if (pictures && said.data) {
        (void)fflush(stdout);
        fprintf(stderr, "saved %s", said.data);
    } else if (pictures) {
        fprintf(stderr, "[figure %u: --save-figures DIR writes it to a file]\n", s->figures.count);
    } else {
        const char *text = json_text(data, "text/plain", json_text(data, "text/markdown", NULL));
        if (text && !s->at_line_start) say(s, STDOUT_FILENO, "\n", 1);
        if (text) say_line(s, STDOUT_FILENO, text);
    }
    buf_free(&said);
}

/* input() in the cell: ask here, answer on a connection of its own (this one is busy with the stream). */
static int answer_input(struct run_show *s, struct json_object *event, struct err *e) {
    cleanup_free char *line = NULL;
    size_t room = 0;
    ssize_t n = -1;
    const char *prompt = json_text(event, "prompt", "");
    if (!s->stdin_taken) {
        (void)cell_output(&s->out, STDERR_FILENO, prompt, strlen(prompt));
        n = getline(&line, &room, stdin);
    }
    if (n > 0 && line[n - 1] == '\n') line[--n] = 0;
    struct json_object *body = json_object_new_object();
    if (n >= 0)
        json_object_object_add(body, "input", json_object_new_string_len(line, (int)n));
    else
        json_object_object_add(body, "eof", json_object_new_boolean(true));
    struct buf path = {0};
    path_cell(&path, s->cell, "/executions/");
    path_segment(&path, s->execution_id);
    buf_str(&path, "/input");
    struct client client;
    int result = client_open(&client, s->cli, e);
    if (result == 0) result = client_json(&client, "POST", path.data, body, NULL, e);
    e->hint = NULL; /* may point into the client that ends here */
    client_close(&client);
    buf_free(&path);
    json_object_put(body);
    return result;
}

void run_show_end(struct run_show *s, struct json_object *execution) {
    s->ended = true;
    s->exit_code = (int)json_whole(execution, "exit_code", -1);
    (void)snprintf(s->exit_word, sizeof s->exit_word, "%s", json_text(execution, "exit", ""));
    output_truncated(json_object_object_get(execution, "truncated"));
    struct json_object *restarted = json_object_object_get(execution, "context_restarted");
    if (restarted && json_object_get_boolean(restarted))
        fprintf(stderr, "cella: the context was restarted, its state is gone\n");
}

bool run_show_event(void *arg, const char *name, struct json_object *event) {
    struct run_show *s = arg;
    const char *type = json_text(event, "type", name);
    if (strcmp(type, "start") == 0) {
        (void)snprintf(s->execution_id, sizeof s->execution_id, "%s", json_text(event, "execution_id", ""));
    } else if (strcmp(type, "stdout") == 0) {
        show_text(s, event, STDOUT_FILENO);
    } else if (strcmp(type, "stderr") == 0) {
        show_text(s, event, STDERR_FILENO);
    } else if (strcmp(type, "result") == 0 || strcmp(type, "display") == 0) {
        show_bundle(s, event);
    } else if (strcmp(type, "error") == 0) {
        const char *traceback = json_text(event, "traceback", NULL);
        if (traceback && *traceback)
            say_line(s, STDERR_FILENO, traceback);
        else
            fprintf(stderr, "%s: %s\n", json_text(event, "name", "error"), json_text(event, "value", ""));
    } else if (strcmp(type, "input_request") == 0) {
        if (answer_input(s, event, &s->problem) < 0) return false;
    } else if (strcmp(type, "end") == 0) {
        struct json_object *execution = json_object_object_get(event, "execution");
        run_show_end(s, execution ? execution : event);
    }
    return s->problem.code == NULL;
}

int run_show_results(struct run_show *s, struct json_object *execution, struct err *e) {
    struct json_object *results = json_object_object_get(execution, "results");
    struct buf said = {0};
    int code = 0;
    for (size_t i = 0;
         code == 0 && json_object_is_type(results, json_type_array) && i < json_object_array_length(results); i++) {
        struct json_object *result = json_object_array_get_idx(results, i),
                           *data = json_object_object_get(result, "data");
        code = figures_save(&s->figures, json_object_is_type(data, json_type_object) ? data : result, &said, e);
    }
    buf_free(&said);
    return code;
}
