#include "cli/client.h"

#include <curl/curl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#define ANSWER_MAX (512u << 20) /* bytes of one answer kept in memory; downloads are streamed */
#define ANSWER_DEPTH 8192       /* nested values: a tree of branches takes two a generation */

struct transfer {
    struct client *client;
    struct call *call;
    struct buf body; /* the answer, or an error's text when the call streams */
    bool too_large, write_stopped, read_stopped;
};

int client_url_check(const struct cli *cli, struct err *e) {
    const char *rest = strncmp(cli->url, "http://", 7) == 0    ? cli->url + 7
                       : strncmp(cli->url, "https://", 8) == 0 ? cli->url + 8
                                                               : "";
    bool clean = cli->url[strcspn(cli->url, " \t\r\n?#@")] == 0;
    if (*rest && *rest != '/' && clean) return 0;
    return err_hint(e, CLI_USAGE, "CELLA_URL looks like http://127.0.0.1:7070", "not the URL of a daemon: \"%.100s\"",
                    cli->url);
}

int client_open(struct client *c, const struct cli *cli, struct err *e) {
    *c = (struct client){.cli = cli};
    if (client_url_check(cli, e) < 0) return -1;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || !(c->curl = curl_easy_init()))
        return err_set(e, ERR_INTERNAL, "the HTTP library did not start");
    return 0;
}

void client_close(struct client *c) {
    if (c->curl) curl_easy_cleanup(c->curl);
    c->curl = NULL;
}

void call_free(struct call *call) {
    if (call->answer) json_object_put(call->answer);
    call->answer = NULL;
    buf_free(&call->text);
}

/* ---- curl's callbacks ---- */

static size_t on_bytes(char *bytes, size_t one, size_t n, void *arg) {
    struct transfer *t = arg;
    (void)one;
    long status = 0;
    curl_easy_getinfo(t->client->curl, CURLINFO_RESPONSE_CODE, &status);
    if (t->call->write && status >= 200 && status < 300) {
        if (t->call->write(t->call->arg, bytes, n)) return n;
        t->write_stopped = true;
        return 0;
    }
    if (t->body.len + n > ANSWER_MAX) {
        t->too_large = true;
        return 0;
    }
    buf_append(&t->body, bytes, n);
    return n;
}

static size_t on_want(char *to, size_t one, size_t room, void *arg) {
    struct transfer *t = arg;
    (void)one;
    ssize_t n = t->call->read(t->call->arg, to, room);
    if (n >= 0) return (size_t)n;
    t->read_stopped = true;
    return CURL_READFUNC_ABORT;
}

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    (void)arg, (void)a, (void)b, (void)c, (void)d;
    return interrupted() ? 1 : 0;
}

/* ---- errors ---- */

/* struct err keeps literals: the word of the answer is looked up among those this program knows. */
static const char *literal_of(const char *code, long status) {
    static const char *const known[] = {ERR_INVALID,       ERR_UNAUTHORIZED, ERR_FORBIDDEN,       ERR_PERMISSION,
                                        ERR_NOT_FOUND,     ERR_METHOD,       ERR_TIMEOUT_REQUEST, ERR_CONFLICT,
                                        ERR_EXISTS,        ERR_GONE,         ERR_TOO_LARGE,       ERR_IS_DIRECTORY,
                                        ERR_NOT_DIRECTORY, ERR_UNSUPPORTED,  ERR_LIMIT,           ERR_NO_SPACE,
                                        ERR_UNAVAILABLE,   ERR_LOST,         ERR_INTERNAL,        ERR_IMAGE,
                                        ERR_DRIVER,        ERR_TEMPLATE};
    for (size_t i = 0; code && i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i], code) == 0) return known[i];
    switch (status) {
    case 400: return ERR_INVALID;
    case 401: return ERR_UNAUTHORIZED;
    case 403: return ERR_FORBIDDEN;
    case 404: return ERR_NOT_FOUND;
    case 409: return ERR_CONFLICT;
    case 413: return ERR_TOO_LARGE;
    case 429: return ERR_LIMIT;
    case 507: return ERR_NO_SPACE;
    default: return ERR_INTERNAL;
    }
}

int client_error_of(const char *body, long status, char *hint_room, size_t room, struct err *e) {
    struct json_object *answer = body ? json_tokener_parse(body) : NULL;
    const char *text = json_text(answer, "error", NULL), *hint = json_text(answer, "hint", NULL);
    if (!hint && status == 401) hint = "set CELLA_API_KEY; `cella key create` on the daemon's host makes one";
    (void)snprintf(hint_room, room, "%s", hint ? hint : "");
    const char *code = literal_of(json_text(answer, "code", NULL), status);
    if (text)
        (void)err_hint(e, code, hint_room, "%s", text);
    else
        (void)err_hint(e, code, hint_room, "the daemon answered HTTP %ld without a reason", status);
    json_object_put(answer);
    return -1;
}

static int transport_error(struct client *c, const struct transfer *t, CURLcode code, struct err *e) {
    if (interrupted()) return err_set(e, CLI_INTERRUPTED, "interrupted");
    if (t->too_large) return err_set(e, ERR_TOO_LARGE, "the answer is larger than %u MiB", ANSWER_MAX >> 20);
    switch (code) {
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
        return err_hint(e, CLI_UNREACHABLE, "start it with `sudo cella up -d`, or set CELLA_URL to where it runs",
                        "no daemon answers at %s", c->cli->url);
    case CURLE_URL_MALFORMAT:
        return err_hint(e, CLI_USAGE, "CELLA_URL looks like http://127.0.0.1:7070", "not a URL: %s", c->cli->url);
    case CURLE_OPERATION_TIMEDOUT: return err_set(e, ERR_TIMEOUT_REQUEST, "the daemon did not answer in time");
    case CURLE_WRITE_ERROR:
    case CURLE_ABORTED_BY_CALLBACK:
        if (t->write_stopped || t->read_stopped) return err_set(e, ERR_INTERNAL, "broken off");
        break;
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
        return err_set(e, ERR_LOST, "the connection to the daemon broke before the answer was complete (%s)",
                       curl_easy_strerror(code));
    default: break;
    }
    return err_set(e, ERR_INTERNAL, "request failed: %s", curl_easy_strerror(code));
}

/* ---- a call ---- */

static bool is_loopback(const char *url) {
    return strncmp(url, "http://127.", 11) == 0 || strncmp(url, "http://localhost", 16) == 0 ||
           strncmp(url, "http://[::1]", 12) == 0;
}

static struct curl_slist *headers_of(struct client *c, const struct call *call) {
    struct buf line = {0};
    struct curl_slist *list = NULL;
    const char *type = call->body   ? "application/json"
                       : call->read ? (call->read_type ? call->read_type : "application/octet-stream")
                                    : NULL;
    if (type) {
        buf_printf(&line, "Content-Type: %s", type);
        list = curl_slist_append(list, line.data);
        buf_clear(&line);
    }
    if (c->cli->key) {
        buf_printf(&line, "Authorization: Bearer %s", c->cli->key);
        list = curl_slist_append(list, line.data);
        buf_clear(&line);
    }
    buf_printf(&line, "Accept: %s", call->accept ? call->accept : "application/json");
    list = curl_slist_append(list, line.data);
    buf_free(&line);
    return list;
}

static void set_body(CURL *curl, struct call *call, struct transfer *t) {
    if (call->read) {
        curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_want);
        curl_easy_setopt(curl, CURLOPT_READDATA, t);
        if (call->read_size >= 0) curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)call->read_size);
    } else if (call->body) {
        const char *text =
            json_object_to_json_string_ext(call->body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(text));
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, text); /* lives in call->body */
    } else if (strcmp(call->method, "POST") == 0) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, 0L);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, "");
    }
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, call->method);
}

static void set_up(struct client *c, struct call *call, struct transfer *t, const char *url,
                   struct curl_slist *headers) {
    CURL *curl = c->curl;
    curl_easy_reset(curl); /* keeps the connection */
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    if (is_loopback(c->cli->url)) curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "cella/" CELLA_VERSION);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
    if (call->timeout_s > 0) curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)(call->timeout_s * 1000));
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    set_body(curl, call, t);
}

static int take_answer(struct client *c, struct transfer *t, struct err *e) {
    struct call *call = t->call;
    if (call->status < 200 || call->status > 299)
        return client_error_of(t->body.data, call->status, c->hint, sizeof c->hint, e);
    if (!t->body.len) return 0;
    const char *type = NULL;
    curl_easy_getinfo(c->curl, CURLINFO_CONTENT_TYPE, &type);
    if (type && strncmp(type, "application/json", 16) == 0) {
        struct json_tokener *tokener = json_tokener_new_ex(ANSWER_DEPTH);
        if (!tokener) return err_set(e, ERR_INTERNAL, "out of memory");
        /* with the NUL: a number at the end is complete */
        call->answer = json_tokener_parse_ex(tokener, t->body.data, (int)t->body.len + 1);
        enum json_tokener_error why = json_tokener_get_error(tokener);
        json_tokener_free(tokener);
        if (!call->answer && why != json_tokener_success)
            return err_set(e, ERR_INTERNAL, "the daemon's answer is not JSON: %s", json_tokener_error_desc(why));
        return 0;
    }
    call->text = t->body;
    t->body = (struct buf){0};
    return 0;
}

int client_call(struct client *c, struct call *call, struct err *e) {
    struct transfer t = {.client = c, .call = call};
    struct buf url = {0};
    buf_printf(&url, "%s%s", c->cli->url, call->path);
    struct curl_slist *headers = headers_of(c, call);
    set_up(c, call, &t, url.data, headers);
    CURLcode code = curl_easy_perform(c->curl);
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &call->status);
    /* A daemon may refuse an upload before it has read all of it; its answer says more than the broken connection. */
    bool refused_early = code != CURLE_OK && call->status >= 400 && t.body.len;
    int result = code == CURLE_OK || refused_early ? take_answer(c, &t, e) : transport_error(c, &t, code, e);
    curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    buf_free(&url);
    buf_free(&t.body);
    return result;
}

int client_json(struct client *c, const char *method, const char *path, struct json_object *body,
                struct json_object **answer, struct err *e) {
    struct call call = {.method = method, .path = path, .body = body};
    int result = client_call(c, &call, e);
    if (result == 0 && answer) {
        *answer = call.answer;
        call.answer = NULL;
    }
    call_free(&call);
    return result;
}

int client_with(const struct cli *cli, int (*work)(struct client *, void *arg, struct err *), void *arg) {
    struct client client;
    struct err e;
    int result = client_open(&client, cli, &e);
    if (result == 0) result = work(&client, arg, &e);
    if (result < 0) result = cli_fail(&e);
    client_close(&client);
    return result;
}

/* ---- paths and JSON ---- */

void path_segment(struct buf *path, const char *text) {
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        bool plain =
            (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("-._~", *p);
        if (plain)
            buf_append(path, p, 1);
        else
            buf_printf(path, "%%%02X", *p);
    }
}

void path_query(struct buf *path, const char *name, const char *value) {
    buf_str(path, path->data && strchr(path->data, '?') ? "&" : "?");
    buf_str(path, name);
    buf_str(path, "=");
    path_segment(path, value);
}

void path_cell(struct buf *path, const char *id, const char *tail) {
    buf_str(path, "/v1/sandboxes/");
    path_segment(path, id);
    buf_str(path, tail);
}

const char *json_text(struct json_object *object, const char *key, const char *otherwise) {
    struct json_object *value = NULL;
    if (!json_object_is_type(object, json_type_object) || !json_object_object_get_ex(object, key, &value))
        return otherwise;
    return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : otherwise;
}

int64_t json_whole(struct json_object *object, const char *key, int64_t otherwise) {
    struct json_object *value = NULL;
    if (!json_object_is_type(object, json_type_object) || !json_object_object_get_ex(object, key, &value))
        return otherwise;
    if (!json_object_is_type(value, json_type_int) && !json_object_is_type(value, json_type_double)) return otherwise;
    return json_object_get_int64(value);
}
