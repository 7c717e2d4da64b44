/* mcp.c: `cella mcp`: the daemon's MCP endpoint over stdin and stdout, one JSON-RPC message a line.
 *
 * Every line is one POST; any number of them are under way at once, so that a cancellation or a ping gets through while
 * code runs. All of them name one session (?session=), which ends with this program. */
#include <curl/curl.h>
#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/lines.h"
#include "cli/mcp_message.h"

#define LINE_MAX_BYTES (9u << 20) /* the daemon takes 8 MiB */

struct bridge {
    const struct cli *cli;
    const char *sandbox;
    bool keep;
    char session[ID_HEX + 1], version[32]; /* version: what initialize agreed on, "" before */
    CURLM *multi;
    struct post *posts;
    struct buf in, path;
    bool skipping;    /* the rest of a line that is too long */
    bool eof, failed; /* failed: stdout is shut */
    bool greeting;    /* initialize is under way: what follows waits for its answer */
};

struct post {
    struct post *next;
    struct bridge *b;
    CURL *curl;
    struct curl_slist *headers;
    struct mcp_message message;
    struct buf body, answer;
    struct lines lines;
    bool events, answered;
};

/* ---- to the client ---- */

static void put_line(struct bridge *b, const char *text, size_t n) {
    if (fwrite(text, 1, n, stdout) != n || fputc('\n', stdout) == EOF || fflush(stdout) != 0) b->failed = true;
}

static void put_error(struct bridge *b, struct json_object *id, int code, const char *text) {
    struct buf out = {0};
    mcp_error(&out, id, code, text);
    put_line(b, out.data, out.len);
    buf_free(&out);
}

static bool on_event(void *arg, const char *event, struct json_object *json) {
    struct post *p = arg;
    struct json_object *ignored;
    (void)event;
    const char *text = json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    if (json_object_object_get_ex(json, "id", &ignored)) p->answered = true;
    put_line(p->b, text, strlen(text));
    return !p->b->failed;
}

/* ---- a post ---- */

static size_t on_bytes(char *bytes, size_t one, size_t n, void *arg) {
    struct post *p = arg;
    (void)one;
    if (!p->answer.len && !p->events) {
        const char *type = NULL;
        curl_easy_getinfo(p->curl, CURLINFO_CONTENT_TYPE, &type);
        p->events = type && strncmp(type, "text/event-stream", 17) == 0;
    }
    if (p->events) return lines_feed(&p->lines, bytes, n) ? n : 0;
    buf_append(&p->answer, bytes, n);
    return n;
}

static void add_header(struct post *p, const char *name, const char *value) {
    struct buf line = {0};
    mcp_header(&line, name, value);
    p->headers = curl_slist_append(p->headers, line.data);
    buf_free(&line);
}

static void add_headers(struct post *p) {
    const struct mcp_message *m = &p->message;
    p->headers = curl_slist_append(p->headers, "Content-Type: application/json");
    p->headers = curl_slist_append(p->headers, "Accept: application/json, text/event-stream");
    if (p->b->cli->key) {
        struct buf line = {0};
        buf_printf(&line, "Authorization: Bearer %s", p->b->cli->key);
        p->headers = curl_slist_append(p->headers, line.data);
        buf_free(&line);
    }
    if (m->version)
        (void)snprintf(p->b->version, sizeof p->b->version, "%s",
                       m->version); /* what follows without it is of the same */
    if (p->b->version[0] && !m->initialize) add_header(p, "MCP-Protocol-Version", p->b->version);
    if (m->method) add_header(p, "Mcp-Method", m->method);
    if (m->name) add_header(p, "Mcp-Name", m->name);
}

static CURL *easy(const char *url) {
    CURL *curl = curl_easy_init();
    if (!curl) abort();
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "cella-mcp/" CELLA_VERSION);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
    return curl;
}

static void post_line(struct bridge *b, const char *line, size_t n) {
    struct post *p = calloc(1, sizeof *p);
    struct buf url = {0};
    if (!p) abort();
    *p = (struct post){.next = b->posts, .b = b, .lines = {.sse = true, .on_event = on_event}};
    b->posts = p;
    p->lines.arg = p;
    buf_append(&p->body, line, n);
    mcp_message_read(&p->message, p->body.data, n);
    buf_printf(&url, "%s%s", b->cli->url, b->path.data);
    p->curl = easy(url.data);
    buf_free(&url);
    add_headers(p);
    b->greeting |= p->message.initialize;
    curl_easy_setopt(p->curl, CURLOPT_HTTPHEADER, p->headers);
    curl_easy_setopt(p->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)p->body.len);
    curl_easy_setopt(p->curl, CURLOPT_POSTFIELDS, p->body.data);
    curl_easy_setopt(p->curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(p->curl, CURLOPT_WRITEDATA, p);
    curl_easy_setopt(p->curl, CURLOPT_PRIVATE, p);
    curl_multi_add_handle(b->multi, p->curl);
}

static void post_free(struct post *p) {
    struct post **at = &p->b->posts;
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    curl_multi_remove_handle(p->b->multi, p->curl);
    curl_easy_cleanup(p->curl);
    curl_slist_free_all(p->headers);
    mcp_message_free(&p->message);
    lines_free(&p->lines);
    buf_free(&p->body);
    buf_free(&p->answer);
    free(p);
}

static bool is_rpc(const struct buf *answer) {
    struct json_object *o = answer->len ? json_tokener_parse(answer->data) : NULL;
    bool is = json_object_is_type(o, json_type_array) || json_text(o, "jsonrpc", NULL);
    json_object_put(o);
    return is;
}

/* The daemon did not answer in JSON-RPC: somebody who waits hears why, and so does the log. */
static void tell_failure(struct post *p, CURLcode code, long status) {
    struct err e;
    char hint[512] = "", text[1024];
    if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST)
        (void)err_hint(&e, CLI_UNREACHABLE, "start it with `sudo cella up -d`, or set CELLA_URL to where it runs",
                       "no daemon answers at %s", p->b->cli->url);
    else if (code != CURLE_OK)
        (void)err_set(&e, ERR_LOST, "the connection to the daemon broke before the answer was complete (%s)",
                      curl_easy_strerror(code));
    else if (p->events || status < 300)
        (void)err_set(&e, ERR_LOST, "the daemon's answer ended too early");
    else
        (void)client_error_of(p->answer.data, status, hint, sizeof hint, &e);
    (void)snprintf(text, sizeof text, "%s%s%s", e.text, e.hint && *e.hint ? "; " : "", e.hint ? e.hint : "");
    fprintf(stderr, "cella mcp: %s\n", text);
    if (p->message.request) put_error(p->b, p->message.id, -32000, text);
}

static void post_done(struct post *p, CURLcode code) {
    struct bridge *b = p->b;
    long status = 0;
    curl_easy_getinfo(p->curl, CURLINFO_RESPONSE_CODE, &status);
    if (p->message.initialize) b->greeting = false;
    if (code == CURLE_OK && !p->events && is_rpc(&p->answer)) {
        if (p->message.initialize) mcp_agreed(p->answer.data, p->answer.len, b->version, sizeof b->version);
        if (p->message.request) put_line(b, p->answer.data, p->answer.len);
    } else if (code == CURLE_OK && status == 202) {
        /* heard, or cancelled: nothing to say */
    } else if (code != CURLE_OK || !p->events || p->lines.broken) {
        if (!p->answered && !b->failed) tell_failure(p, code, status);
    }
    post_free(p);
}

/* ---- from the client ---- */

static bool blank(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r", text[i]) || !text[i]) return false;
    return true;
}

static void take_lines(struct bridge *b) {
    char *end;
    while (!b->greeting && b->in.len && (end = memchr(b->in.data, '\n', b->in.len))) {
        size_t n = (size_t)(end - b->in.data);
        if (!b->skipping && !blank(b->in.data, n)) post_line(b, b->in.data, n);
        b->skipping = false;
        buf_consume(&b->in, n + 1);
    }
    if (b->greeting || b->in.len <= LINE_MAX_BYTES || memchr(b->in.data, '\n', b->in.len)) return;
    if (!b->skipping) put_error(b, NULL, -32600, "a message may have at most 8 MiB");
    b->skipping = true;
    buf_clear(&b->in);
}

static void read_in(struct bridge *b) {
    static char piece[65536];
    ssize_t n = read(STDIN_FILENO, piece, sizeof piece);
    if (n > 0)
        buf_append(&b->in, piece, (size_t)n);
    else if (n == 0 || (errno != EINTR && errno != EAGAIN))
        b->eof = true;
}

static void reap(struct bridge *b) {
    CURLMsg *said;
    int left;
    while ((said = curl_multi_info_read(b->multi, &left))) {
        struct post *p = NULL;
        if (said->msg != CURLMSG_DONE) continue;
        curl_easy_getinfo(said->easy_handle, CURLINFO_PRIVATE, (char **)&p);
        post_done(p, said->data.result);
    }
}

static int open_signals(struct err *e) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) (void)err_sys(e, errno, "signalfd");
    return fd;
}

/* Until the client closes stdin, or a signal comes. */
static void run_loop(struct bridge *b, int signals) {
    for (bool asked = false; !b->eof && !asked && !b->failed;) {
        int running;
        bool room = b->in.len <= LINE_MAX_BYTES;
        struct curl_waitfd fds[2] = {{.fd = signals, .events = CURL_WAIT_POLLIN},
                                     {.fd = STDIN_FILENO, .events = CURL_WAIT_POLLIN}};
        take_lines(b);
        curl_multi_perform(b->multi, &running);
        reap(b);
        take_lines(b);
        curl_multi_perform(b->multi, &running);
        if (curl_multi_poll(b->multi, fds, room ? 2 : 1, 1000, NULL) != CURLM_OK) break;
        asked = fds[0].revents != 0;
        if (room && fds[1].revents) read_in(b);
    }
}

/* Requests that came before the end of stdin are still answered when they end soon; then the session ends, and with it
 * what runs. */
static void finish(struct bridge *b) {
    int running = 1;
    for (int i = 0; b->eof && !b->failed && i < 20 && (b->posts || b->in.len); i++) {
        take_lines(b);
        curl_multi_perform(b->multi, &running);
        reap(b);
        if (!b->posts && !memchr(b->in.data ? b->in.data : "", '\n', b->in.len)) break;
        curl_multi_poll(b->multi, NULL, 0, 50, NULL);
    }
    while (b->posts) post_free(b->posts);
}

static int end_session(struct client *c, struct bridge *b) {
    struct err e;
    int result = client_json(c, "DELETE", b->path.data, NULL, NULL, &e);
    if (result < 0 && strcmp(e.code, ERR_NOT_FOUND) != 0)
        fprintf(stderr, "cella mcp: the session was not ended: %s\n", e.text);
    return result;
}

static int work(struct client *c, void *arg, struct err *e) {
    struct bridge *b = arg;
    if (client_json(c, "GET", "/healthz", NULL, NULL, e) < 0) return -1;
    cleanup_close int signals = open_signals(e);
    if (signals < 0) return -1;
    if (!(b->multi = curl_multi_init())) return err_set(e, ERR_INTERNAL, "the HTTP library did not start");
    buf_str(&b->path, "/mcp");
    path_query(&b->path, "session", b->session);
    if (b->sandbox) path_query(&b->path, "sandbox", b->sandbox);
    if (b->keep) path_query(&b->path, "keep", "1");
    run_loop(b, signals);
    finish(b);
    (void)end_session(c, b);
    curl_multi_cleanup(b->multi);
    buf_free(&b->in);
    buf_free(&b->path);
    return b->failed ? EXIT_CELLA : EXIT_OK;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct bridge b;
    static struct words words;
    const struct option options[] = {
        {"sandbox", 0, OPTION_TEXT, &b.sandbox, "ID", "work in this cell instead of a new one"},
        {"keep", 0, OPTION_FLAG, &b.keep, NULL,
         "the cells that are made outlive the session: they are written to the disk when idle"},
        {0}};
    int code;
    if (!arguments_take(cli, command, options, (struct arguments_form){0}, argc, argv, &words, &code)) return code;
    b.cli = cli;
    id_make(b.session, "");
    return client_with(cli, work, &b);
}

const struct command command_mcp = {"mcp",
                                    "Running code",
                                    "Serve the Model Context Protocol on stdin and stdout",
                                    "mcp [options]",
                                    "For programs that start MCP servers themselves (desktop assistants, editors, "
                                    "agents): put `cella mcp` where they ask for a command. Messages\n"
                                    "go on to the daemon's /mcp, which has to be up (`sudo cella up -d`); programs "
                                    "that speak HTTP may use that directly. A model gets tools to\n"
                                    "run code and commands, to read and write files, and to fork, merge and snapshot; "
                                    "all of it in one cell, made when it is first needed and\n"
                                    "ended when the program closes stdin.\n\n"
                                    "Examples:\n"
                                    "  cella mcp                         one new cell per session\n"
                                    "  cella mcp --keep                  and it stays afterwards\n"
                                    "  cella mcp --sandbox sbx_…         in a cell that exists\n",
                                    run};
