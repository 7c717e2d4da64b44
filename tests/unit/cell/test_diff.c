/* diff: lists compared, and the whole of it against scripted guests and contexts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cell/diff.h"
#include "cell/diff_list.h"
#include "cell/diff_variables.h"
#include "fake.h"

/* ---- lists ---- */

#define FILE_LINE(path, change, size, mode, rest)                                                                      \
    "{\"path\":\"" path "\",\"type\":\"file\",\"size\":" #size ",\"mode\":" #mode                                      \
    ",\"uid\":1000,\"gid\":1000,\"change\":\"" change "\"" rest "}"
#define TIMES(inode, ctime, mtime) ",\"inode\":" #inode ",\"ctime_ns\":" #ctime ",\"mtime_ns\":" #mtime
#define BEFORE(size, mode)                                                                                             \
    ",\"before\":{\"type\":\"file\",\"size\":" #size ",\"mode\":" #mode ",\"uid\":1000,\"gid\":1000}"

static int add(struct diff_list *l, const char *line) {
    struct err e;
    return diff_list_add(l, line, strlen(line), &e);
}

static struct diff_list list_of(const char *first, ...) {
    struct diff_list l = {0};
    va_list ap;
    va_start(ap, first);
    for (const char *line = first; line; line = va_arg(ap, const char *)) assert_int_equal(add(&l, line), 0);
    va_end(ap);
    diff_list_sort(&l);
    return l;
}

/* "+/a ?/b ~/c -/d": added, undecided, modified, removed. */
static const char *compared(struct diff_list *a, struct diff_list *b, int64_t until) {
    static char out[1024];
    struct diff_entries d = {0};
    size_t n = 0;
    diff_compare(a, b, until, &d);
    out[0] = 0;
    for (size_t i = 0; i < d.n; i++)
        n += (size_t)snprintf(out + n, sizeof out - n, "%s%c%s", i ? " " : "",
                              d.list[i].undecided ? '?' : "+-~"[d.list[i].kind], d.list[i].path);
    diff_entries_free(&d);
    return out;
}

static void against_the_template(void **state) {
    (void)state;
    struct diff_list l =
        list_of(FILE_LINE("/b", "added", 1, 420, ""), FILE_LINE("/a.x", "removed", 2, 420, ""),
                FILE_LINE("/a/f", "added", 1, 420, ""), FILE_LINE("/a", "changed", 3, 420, BEFORE(4, 420)), NULL);
    assert_string_equal(compared(&l, NULL, 0), "~/a +/a/f -/a.x +/b");
    diff_list_free(&l);
}

static void two_lists(void **state) {
    (void)state;
    struct diff_list a = list_of(
        FILE_LINE("/both/gone", "removed", 1, 420, ""), FILE_LINE("/both/new/equal", "added", 5, 420, TIMES(7, 50, 40)),
        FILE_LINE("/both/late", "added", 5, 420, TIMES(8, 150, 40)),
        FILE_LINE("/both/other_inode", "added", 5, 420, TIMES(9, 50, 40)), FILE_LINE("/both/size", "added", 5, 420, ""),
        FILE_LINE("/both/mode", "added", 5, 420, TIMES(7, 50, 40)),
        FILE_LINE("/both/empty", "added", 0, 420, TIMES(1, 1, 1)), FILE_LINE("/mine/new", "added", 1, 420, ""),
        FILE_LINE("/mine/gone", "removed", 1, 420, ""), FILE_LINE("/mine/edit", "changed", 2, 420, BEFORE(1, 420)),
        FILE_LINE("/mixed/gone_here", "removed", 1, 420, ""),
        FILE_LINE("/mixed/gone_there", "changed", 2, 420, BEFORE(1, 420)),
        FILE_LINE("/rights", "changed", 5, 384, BEFORE(5, 420) ",\"same_contents\":true"), NULL);
    struct diff_list b = list_of(
        FILE_LINE("/both/gone", "removed", 1, 420, ""), FILE_LINE("/both/new/equal", "added", 5, 420, TIMES(7, 50, 40)),
        FILE_LINE("/both/late", "added", 5, 420, TIMES(8, 150, 40)),
        FILE_LINE("/both/other_inode", "added", 5, 420, TIMES(10, 50, 40)),
        FILE_LINE("/both/size", "added", 6, 420, ""), FILE_LINE("/both/mode", "added", 5, 384, TIMES(7, 50, 40)),
        FILE_LINE("/both/empty", "added", 0, 420, TIMES(2, 2, 2)), FILE_LINE("/theirs/new", "added", 1, 420, ""),
        FILE_LINE("/theirs/gone", "removed", 1, 420, ""), FILE_LINE("/theirs/edit", "changed", 9, 420, BEFORE(1, 420)),
        FILE_LINE("/mixed/gone_here", "changed", 3, 420, BEFORE(1, 420)),
        FILE_LINE("/mixed/gone_there", "removed", 1, 420, ""),
        FILE_LINE("/rights", "changed", 5, 384, BEFORE(5, 420) ",\"same_contents\":true"), NULL);
    assert_string_equal(compared(&a, &b, 100),
                        "?/both/late ~/both/mode ?/both/other_inode ~/both/size ~/mine/edit -/mine/gone +/mine/new "
                        "-/mixed/gone_here +/mixed/gone_there ~/theirs/edit +/theirs/gone -/theirs/new");
    assert_string_equal(compared(&a, &a, 100),
                        "?/both/late"); /* equal times after the cells went apart prove nothing */
    assert_non_null(strstr(compared(&a, &b, 0), "?/both/new/equal"));
    struct diff_entries d = {0};
    diff_compare(&a, &b, 100, &d);
    for (size_t i = 0; i < d.n; i++) {
        if (strcmp(d.list[i].path, "/theirs/edit") == 0) { /* here it is as in the template, there it grew */
            assert_int_equal(d.list[i].now->size, 1);
            assert_int_equal(d.list[i].before->size, 9);
        }
        if (strcmp(d.list[i].path, "/both/mode") == 0) assert_true(d.list[i].contents_same);
        if (d.list[i].undecided) diff_entry_decide(&d.list[i], strcmp(d.list[i].path, "/both/late") == 0);
    }
    size_t before = d.n;
    diff_entries_pack(&d);
    assert_int_equal(d.n, before - 1);
    diff_entries_free(&d);
    diff_list_free(&a);
    diff_list_free(&b);
}

static void other_types(void **state) {
    (void)state;
    struct diff_list a =
        list_of("{\"path\":\"/l\",\"type\":\"symlink\",\"size\":1,\"mode\":511,\"target\":\"x\",\"change\":\"added\"}",
                "{\"path\":\"/d\",\"type\":\"directory\",\"size\":10,\"mode\":493,\"change\":\"added\"}",
                "{\"path\":\"/"
                "t\",\"type\":\"directory\",\"size\":5,\"mode\":420,\"uid\":1000,\"gid\":1000,\"change\":\"added\"}",
                NULL);
    struct diff_list b =
        list_of("{\"path\":\"/l\",\"type\":\"symlink\",\"size\":1,\"mode\":511,\"target\":\"y\",\"change\":\"added\"}",
                "{\"path\":\"/d\",\"type\":\"directory\",\"size\":99,\"mode\":493,\"change\":\"added\"}",
                FILE_LINE("/t", "added", 5, 420, ""), NULL);
    assert_string_equal(compared(&a, &b, 0), "~/l ~/t");
    diff_list_free(&a);
    diff_list_free(&b);
}

static void hostile_lines(void **state) {
    (void)state;
    static const char *const lines[] = {
        "",
        "{",
        "[]",
        "null",
        "{}",
        "{\"path\":\"/a\"}",
        "{\"path\":\"a\",\"change\":\"added\"}",
        "{\"path\":\"/a\",\"change\":\"eaten\"}",
        "{\"path\":\"/a\",\"change\":\"changed\"}",
        "{\"path\":\"/a\",\"change\":\"changed\",\"before\":7}",
        "{\"path\":7,\"change\":\"added\"}",
        "{\"path\":\"/\\u0000\",\"change\":\"added\"}",
        "{\"path\":\"/a\",\"change\":\"added\",\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]}"};
    struct diff_list l = {0};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) assert_int_equal(add(&l, lines[i]), -1);
    assert_int_equal(add(&l, "{\"path\":\"/a\",\"change\":\"added\",\"size\":-5,\"mode\":-1,\"type\":\"comet\"}"), 0);
    assert_int_equal(l.changes[0].now.size, 0);
    assert_string_equal(l.changes[0].now.type, "other");
    int n = 0;
    while (add(&l, FILE_LINE("/many", "added", 1, 420, "")) == 0) n++;
    assert_int_equal(n, DIFF_CHANGES_MAX - 1);
    diff_list_free(&l);
}

/* ---- variables ---- */

static void variables(void **state) {
    (void)state;
    struct json_object *a = parse(
        "{\"variables\":[{\"name\":\"same\",\"type\":\"int\",\"value\":\"1\",\"digest\":\"aa\"},{\"name\":\"other\","
        "\"type\":\"int\",\"value\":\"2\","
        "\"digest\":\"bb\"},{\"name\":\"type\",\"type\":\"str\",\"value\":\"1\",\"digest\":\"aa\"},{\"name\":\"far\","
        "\"type\":\"G\",\"value\":\"<G>\","
        "\"digest\":null},{\"name\":\"shown\",\"type\":\"G\",\"value\":\"<G "
        "1>\",\"digest\":null},{\"name\":\"half\",\"type\":\"int\",\"value\":\"1\","
        "\"digest\":null},{\"name\":\"mine\",\"type\":\"int\",\"value\":\"1\",\"digest\":\"cc\"},7,{}],\"skipped\":0}");
    struct json_object *b =
        parse("{\"variables\":[{\"name\":\"same\",\"type\":\"int\",\"value\":\"1\",\"digest\":\"aa\"},{\"name\":"
              "\"other\",\"type\":\"int\",\"value\":\"2\","
              "\"digest\":\"cc\"},{\"name\":\"type\",\"type\":\"int\",\"value\":\"1\",\"digest\":\"aa\"},{\"name\":"
              "\"far\",\"type\":\"G\",\"value\":\"<G>\","
              "\"digest\":null},{\"name\":\"shown\",\"type\":\"G\",\"value\":\"<G "
              "2>\",\"digest\":null},{\"name\":\"half\",\"type\":\"int\",\"value\":\"1\","
              "\"digest\":\"aa\"},{\"name\":\"theirs\",\"type\":\"int\",\"value\":\"9\"}],\"skipped\":0}");
    struct json_object *d = diff_variables(a, b);
    assert_string_equal(
        json_object_to_json_string_ext(d, JSON_C_TO_STRING_PLAIN),
        "{\"added\":[{\"name\":\"mine\",\"type\":\"int\",\"value\":\"1\"}],\"removed\":[{\"name\":\"theirs\",\"type\":"
        "\"int\",\"value\":\"9\"}],\"changed\":["
        "{\"name\":\"other\",\"type\":\"int\",\"value\":\"2\",\"type_before\":\"int\",\"value_before\":\"2\"},"
        "{\"name\":\"type\",\"type\":\"str\",\"value\":\"1\",\"type_before\":\"int\",\"value_before\":\"1\"},"
        "{\"name\":\"shown\",\"type\":\"G\",\"value\":\"<G 1>\",\"type_before\":\"G\",\"value_before\":\"<G 2>\"}],"
        "\"unknown\":[\"far\",\"half\"],\"skipped\":0,\"truncated\":null}");
    json_object_put(d);
    json_object_object_add(b, "skipped", json_object_new_int(3)); /* what is mine alone may be among them */
    d = diff_variables(a, b);
    assert_int_equal(json_object_array_length(json_object_object_get(d, "added")), 0);
    assert_int_equal(json_object_array_length(json_object_object_get(d, "unknown")), 3);
    assert_int_equal(json_object_array_length(json_object_object_get(d, "removed")), 1);
    json_object_put(d);
    struct json_object *odd = parse("{\"variables\":7}");
    json_object_put(diff_variables(odd, NULL));
    json_object_put(odd);
    json_object_put(a);
    json_object_put(b);
}

/* ---- the whole ---- */

struct fixture {
    struct fake *f;
    struct cell *c[2];
    struct driver_cell *dc[2];
};
struct answer {
    bool done;
    const char *code;
    char error[384];
    struct json_object *json;
};

static int setup(void **state) {
    struct fixture *x = calloc(1, sizeof *x);
    x->f = fake_open();
    fake_start(x->f);
    for (int i = 0; i < 2; i++) x->c[i] = fake_cell(x->f, "{}", &x->dc[i]);
    *state = x;
    return 0;
}
static int teardown(void **state) {
    struct fixture *x = *state;
    fake_close(x->f);
    free(x);
    return 0;
}
#define FIXTURE struct fixture *x = *state

static void on_answer(void *arg, struct err *err, struct json_object *o) {
    struct answer *a = arg;
    assert_false(a->done);
    a->done = true;
    a->code = err ? err->code : NULL;
    if (err) (void)snprintf(a->error, sizeof a->error, "%s", err->text);
    a->json = json_object_get(o);
}

/* The next question to the guest must be this one; its channel. */
static uint32_t guest_asked(struct fixture *x, int side, const char *text) {
    struct received *r = peer_receive(x->f, x->dc[side]->guest);
    while (r->type == GUEST_CREDIT) r = peer_receive(x->f, x->dc[side]->guest);
    assert_int_equal(r->type, GUEST_OPEN);
    assert_string_equal(r->payload, text);
    return r->channel;
}

static void guest_says(struct fixture *x, int side, uint32_t channel, uint16_t type, const char *text) {
    peer_frame(x->dc[side]->guest, type, 0, channel, text);
}

static const char *files_of(struct answer *a) {
    return json_object_to_json_string_ext(json_object_object_get(a->json, "files"),
                                          JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
}

static struct diff *start(struct fixture *x, bool other, struct diff_options o, struct answer *a) {
    struct err e;
    struct diff *d = diff_start(x->c[0], other ? x->c[1] : NULL, &o, on_answer, a, &e);
    if (!d) fail_msg("%s", e.text);
    return d;
}

static void template_with_text(void **state) {
    FIXTURE;
    struct answer a = {0};
    (void)start(x, false, (struct diff_options){.text = true}, &a);
    uint32_t ch = guest_asked(x, 0, "{\"op\":\"changes\"}");
    /* lines cut anywhere */
    const char *lines =
        FILE_LINE("/etc/f", "changed", 4, 420, BEFORE(2, 420)) "\n" FILE_LINE("/new", "added", 7, 420, "") "\n";
    char half[4096];
    (void)snprintf(half, sizeof half, "%.40s", lines);
    guest_says(x, 0, ch, GUEST_DATA, half);
    guest_says(x, 0, ch, GUEST_DATA, lines + 40);
    guest_says(x, 0, ch, GUEST_END, "{\"entries\":2}");
    uint32_t mine = guest_asked(x, 0, "{\"op\":\"read\",\"path\":\"/etc/f\",\"user\":\"root\",\"view\":\"root\"}");
    uint32_t theirs =
        guest_asked(x, 0, "{\"op\":\"read\",\"path\":\"/etc/f\",\"user\":\"root\",\"view\":\"template\"}");
    guest_says(x, 0, theirs, GUEST_REPLY, "{\"size\":2}");
    guest_says(x, 0, theirs, GUEST_DATA, "a\n");
    guest_says(x, 0, theirs, GUEST_END, "{\"bytes\":2}");
    guest_says(x, 0, mine, GUEST_DATA, "a\nb\n");
    guest_says(x, 0, mine, GUEST_END, "{\"bytes\":4}");
    run_until(x->f, a.done);
    assert_null(a.code);
    assert_string_equal(
        files_of(&a),
        "{\"added\":[{\"path\":\"/new\",\"type\":\"file\",\"size\":7}],\"removed\":[],\"modified\":[{\"path\":\"/etc/"
        "f\",\"type\":\"file\","
        "\"size\":4,\"size_before\":2,\"same_contents\":false,\"text_diff\":\"--- a/etc/f\\n+++ b/etc/f\\n@@ -1 +1,2 "
        "@@\\n a\\n+b\\n\"}],"
        "\"counts\":{\"added\":1,\"removed\":0,\"modified\":1},\"truncated\":null}");
    assert_null(json_object_object_get(a.json, "variables"));
    json_object_put(a.json);
}

static void digests_decide(void **state) {
    FIXTURE;
    struct answer a = {0};
    (void)start(x, true, (struct diff_options){0}, &a);
    for (int side = 0; side < 2; side++) {
        uint32_t ch = guest_asked(x, side, "{\"op\":\"changes\"}");
        guest_says(x, side, ch, GUEST_DATA,
                   FILE_LINE("/differs", "added", 4, 420, "") "\n" FILE_LINE(
                       "/same", "added", 4, 420, "") "\n" FILE_LINE("/unread", "added", 4, 420, "") "\n");
        guest_says(x, side, ch, GUEST_END, "{\"entries\":3}");
    }
    static const char one[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    for (int side = 0; side < 2; side++) {
        char reply[512];
        uint32_t ch = guest_asked(x, side, "{\"op\":\"digest\",\"paths\":[\"/differs\",\"/same\",\"/unread\"]}");
        (void)snprintf(reply, sizeof reply, "{\"digests\":[\"%c%s\",\"%s\",null]}", side ? 'b' : 'a', one + 1, one);
        guest_says(x, side, ch, GUEST_REPLY, reply);
        guest_says(x, side, ch, GUEST_END, "{}");
    }
    run_until(x->f, a.done);
    assert_null(a.code);
    assert_string_equal(files_of(&a),
                        "{\"added\":[],\"removed\":[],\"modified\":[{\"path\":\"/"
                        "differs\",\"type\":\"file\",\"size\":4,\"size_before\":4,\"same_contents\":false},"
                        "{\"path\":\"/unread\",\"type\":\"file\",\"size\":4,\"size_before\":4,\"same_contents\":null}],"
                        "\"counts\":{\"added\":0,\"removed\":0,\"modified\":2},\"truncated\":null}");
    json_object_put(a.json);
}

static void a_guest_that_fails(void **state) {
    FIXTURE;
    static const char *const bad[] = {"not json\n", "{\"path\":\"/a\",\"change\":\"eaten\"}\n", "{}\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct answer a = {0};
        (void)start(x, true, (struct diff_options){0}, &a);
        uint32_t mine = guest_asked(x, 0, "{\"op\":\"changes\"}"), theirs = guest_asked(x, 1, "{\"op\":\"changes\"}");
        guest_says(x, 0, mine, GUEST_DATA, bad[i]);
        assert_int_equal(peer_receive(x->f, x->dc[0]->guest)->type, GUEST_CLOSE);
        guest_says(x, 0, mine, GUEST_END, "{\"error\":\"closed\",\"code\":\"conflict\"}");
        run_until(x->f, a.done);
        assert_string_equal(a.code, ERR_LOST);
        assert_int_equal(peer_receive(x->f, x->dc[1]->guest)->type,
                         GUEST_CLOSE); /* nobody waits for the other side any more */
        guest_says(x, 1, theirs, GUEST_END, "{\"error\":\"closed\",\"code\":\"conflict\"}");
        fake_turns(x->f, 3);
    }
    struct answer a = {0};
    (void)start(x, false, (struct diff_options){0}, &a);
    uint32_t ch = guest_asked(x, 0, "{\"op\":\"changes\"}");
    guest_says(x, 0, ch, GUEST_END,
               "{\"error\":\"this sandbox does not show what it changed\",\"code\":\"unsupported\"}");
    run_until(x->f, a.done);
    assert_string_equal(a.code, ERR_UNSUPPORTED);
}

static void cell_ends_meanwhile(void **state) {
    FIXTURE;
    struct answer a = {0};
    (void)start(x, true, (struct diff_options){.variables = true}, &a);
    (void)guest_asked(x, 0, "{\"op\":\"changes\"}");
    cell_delete(x->c[1], "deleted", NULL, NULL);
    run_until(x->f, a.done);
    assert_non_null(a.code);
    fake_turns(x->f, 5);
}

static void cancelled(void **state) {
    FIXTURE;
    struct answer a = {0};
    struct diff *d = start(x, true, (struct diff_options){.text = true, .variables = true}, &a);
    (void)guest_asked(x, 0, "{\"op\":\"changes\"}");
    struct received *r = peer_receive(x->f, x->dc[0]->slots[0].control);
    assert_int_equal(r->type, CONTEXT_INSPECT);
    uint32_t number = r->channel;
    diff_cancel(d);
    assert_int_equal(x->dc[0]->signals[0][2], 1); /* SIGINT */
    assert_int_equal(peer_receive(x->f, x->dc[0]->guest)->type, GUEST_CLOSE);
    /* an execution waits until the context is done with the question that nobody wants any more */
    struct heard h;
    assert_non_null(fake_execute(x->c[0], "{\"code\":\"1\"}", true, &h, NULL));
    assert_true(peer_silent(x->f, x->dc[0]->slots[0].control));
    peer_frame(x->dc[0]->slots[0].control, CONTEXT_DONE, 0, number, "{\"status\":\"interrupted\"}");
    uint32_t run = peer_executes(x->f, x->dc[0], 0, "1");
    peer_done(x->dc[0], 0, run, "ok");
    run_until(x->f, h.end != NULL);
    assert_string_equal(end_text(&h, "exit"), "ok");
    assert_false(a.done);
    json_object_put(h.end);
}

/* The question takes its turn: after what runs, before what waits, and leaves no trace. */
static void variables_take_their_turn(void **state) {
    FIXTURE;
    struct heard first, second;
    struct answer a = {0};
    int control = x->dc[0]->slots[0].control;
    assert_non_null(fake_execute(x->c[0], "{\"code\":\"1\"}", true, &first, NULL));
    uint32_t run = peer_executes(x->f, x->dc[0], 0, "1");
    assert_non_null(fake_execute(x->c[0], "{\"code\":\"2\"}", true, &second, NULL));
    (void)start(x, false, (struct diff_options){.variables = true, .variables_wanted = true}, &a);
    guest_says(x, 0, guest_asked(x, 0, "{\"op\":\"changes\"}"), GUEST_END, "{\"entries\":0}");
    assert_true(peer_silent(x->f, control));
    peer_done(x->dc[0], 0, run, "ok");
    struct received *r = peer_receive(x->f, control);
    assert_int_equal(r->type, CONTEXT_INSPECT);
    assert_string_equal(r->payload, "{\"value_bytes\":200}");
    uint32_t number = r->channel;
    assert_true(peer_silent(x->f, control));
    peer_frame(control, CONTEXT_VARIABLES, 0, number,
               "{\"variables\":[{\"name\":\"v\",\"type\":\"int\",\"value\":\"3\",\"bytes\":28,\"digest\":\"aa\"}],"
               "\"skipped\":0}");
    peer_frame(control, CONTEXT_DONE, 0, number, "{\"status\":\"ok\",\"execution_count\":1}");
    run_until(x->f, a.done);
    assert_null(a.code);
    assert_string_equal(
        json_object_to_json_string_ext(json_object_object_get(json_object_object_get(a.json, "variables"), "added"),
                                       JSON_C_TO_STRING_PLAIN),
        "[{\"name\":\"v\",\"type\":\"int\",\"value\":\"3\"}]");
    run = peer_executes(x->f, x->dc[0], 0, "2");
    peer_done(x->dc[0], 0, run, "ok");
    run_until(x->f, second.end != NULL);
    struct json_object *list = execution_list(x->c[0]);
    assert_int_equal(json_object_array_length(list), 2);
    json_object_put(list);
    json_object_put(a.json);
    json_object_put(first.end);
    json_object_put(second.end);
}

static void context_dies_meanwhile(void **state) {
    FIXTURE;
    for (int wanted = 0; wanted < 2; wanted++) {
        struct answer a = {0};
        struct heard h;
        (void)start(x, false, (struct diff_options){.variables = true, .variables_wanted = wanted}, &a);
        uint32_t ch = guest_asked(x, 0, "{\"op\":\"changes\"}");
        assert_int_equal(peer_receive(x->f, x->dc[0]->slots[0].control)->type, CONTEXT_INSPECT);
        fake_exit(x->dc[0], 0, FATE_KILLED, 9);
        if (!wanted) guest_says(x, 0, ch, GUEST_END, "{\"entries\":0}");
        run_until(x->f, a.done);
        if (wanted)
            assert_string_equal(a.code, ERR_CONFLICT);
        else {
            assert_null(a.code);
            assert_null(json_object_object_get(a.json, "variables"));
            assert_string_equal(json_object_get_string(
                                    json_object_object_get(json_object_object_get(a.json, "variables_error"), "code")),
                                "conflict");
        }
        json_object_put(a.json);
        if (wanted) break;
        assert_non_null(fake_execute(x->c[0], "{\"code\":\"1\"}", true, &h, NULL)); /* makes it again */
        run_until(x->f, x->dc[0]->slots[0].alive);
        peer_frame(x->dc[0]->slots[0].control, CONTEXT_READY, 0, 0,
                   "{\"language\":\"python\",\"version\":\"3\",\"pid\":2}");
        peer_done(x->dc[0], 0, peer_executes(x->f, x->dc[0], 0, "1"), "ok");
        run_until(x->f, h.end != NULL);
        json_object_put(h.end);
    }
}

static void refusals(void **state) {
    FIXTURE;
    struct err e;
    const char *id;
    struct diff_options o = {0};
    assert_null(diff_start(x->c[0], x->c[0], &o, on_answer, NULL, &e));
    assert_string_equal(e.code, ERR_INVALID);
    assert_int_equal(diff_against(x->c[0], NULL, &id, &e), 0);
    assert_null(id);
    assert_int_equal(diff_against(x->c[0], "template", &id, &e), 0);
    assert_null(id);
    assert_int_equal(diff_against(x->c[0], "sbx_1", &id, &e), 0);
    assert_string_equal(id, "sbx_1");
    assert_int_equal(diff_against(x->c[0], "parent", &id, &e), -1);
    assert_string_equal(e.code, ERR_CONFLICT);
    o = (struct diff_options){.variables = true, .variables_wanted = true, .context_id = "ctx_none"};
    assert_null(diff_start(x->c[0], NULL, &o, on_answer, NULL, &e));
    assert_string_equal(e.code, ERR_NOT_FOUND);
}

int main(void) {
#define WITH_CELLS(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_the_template),
        cmocka_unit_test(two_lists),
        cmocka_unit_test(other_types),
        cmocka_unit_test(hostile_lines),
        cmocka_unit_test(variables),
        WITH_CELLS(template_with_text),
        WITH_CELLS(digests_decide),
        WITH_CELLS(a_guest_that_fails),
        WITH_CELLS(cell_ends_meanwhile),
        WITH_CELLS(cancelled),
        WITH_CELLS(variables_take_their_turn),
        WITH_CELLS(context_dies_meanwhile),
        WITH_CELLS(refusals),
    };
    return cmocka_run_group_tests_name("diff", tests, NULL, NULL);
}
