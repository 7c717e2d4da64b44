#include "tenant/usage.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/store.h"

/* How a kind is called in the store and in answers; micro: kept in millionths, shown in units. */
static const struct kind {
    const char *stored, *shown;
    bool micro;
} kinds[USAGE_KINDS] = {
    [USE_CREATED] = {"created", "sandboxes_created", false},
    [USE_FORKED] = {"forked", "forks", false},
    [USE_EXECUTIONS] = {"executions", "executions", false},
    [USE_EXECUTION_US] = {"execution_us", "execution_seconds", true},
    [USE_COMMANDS] = {"commands", "commands", false},
    [USE_CPU_US] = {"cpu_us", "cpu_seconds", true},
    [USAGE_REQUESTS] = {"requests", "requests", false},
    [USAGE_BYTES_IN] = {"bytes_in", "bytes_in", false},
    [USAGE_BYTES_OUT] = {"bytes_out", "bytes_out", false},
};

struct account {
    struct account *next;
    char key_id[64];
    uint64_t sum[USAGE_KINDS], written[USAGE_KINDS];
};

struct usage {
    struct store *store;
    struct account *accounts; /* the one that was used last comes first */
    uv_timer_t timer;
    bool armed, stopped;
};

/* NULL: it has none. */
static struct account *find(struct usage *u, const char *key_id) {
    for (struct account **at = &u->accounts, *a; (a = *at); at = &a->next) {
        if (strcmp(a->key_id, key_id) != 0) continue;
        *at = a->next;
        a->next = u->accounts;
        return u->accounts = a;
    }
    return NULL;
}

static struct account *account(struct usage *u, const char *key_id) {
    struct account *a = find(u, key_id);
    if (a) return a;
    a = calloc(1, sizeof *a);
    if (!a) abort();
    (void)snprintf(a->key_id, sizeof a->key_id, "%s", key_id);
    a->next = u->accounts;
    return u->accounts = a;
}

/* ---- the store ---- */

static int write_account(struct usage *u, struct account *a, struct err *e) {
    for (unsigned i = 0; i < USAGE_KINDS; i++)
        if (a->sum[i] != a->written[i] && store_usage_put(u->store, a->key_id, kinds[i].stored, a->sum[i], e) < 0) return -1;
    return 0;
}

/* All or nothing: what could not be written is tried again with the next change. */
static void write_all(struct usage *u) {
    struct err e;
    int out = 0;
    store_begin(u->store);
    for (struct account *a = u->accounts; a && out == 0; a = a->next) out = write_account(u, a, &e);
    if (out < 0) {
        log_warn("usage is not written: %s", e.text);
        store_rollback(u->store);
        return;
    }
    if (store_commit(u->store) < 0) return;
    for (struct account *a = u->accounts; a; a = a->next) memcpy(a->written, a->sum, sizeof a->written);
}

static void on_timer(uv_timer_t *t) {
    struct usage *u = t->data;
    u->armed = false;
    write_all(u);
}

static int take(void *arg, const char *key_id, const char *what, uint64_t sum) {
    for (unsigned i = 0; i < USAGE_KINDS; i++) {
        if (strcmp(what, kinds[i].stored) != 0) continue;
        struct account *a = account(arg, key_id);
        a->sum[i] = a->written[i] = sum;
    }
    return 0;
}

struct usage *usage_open(uv_loop_t *loop, struct store *store, struct err *e) {
    struct usage *u = calloc(1, sizeof *u);
    if (!u) abort();
    u->store = store;
    if (store_usage_each(store, take, u, e) < 0) {
        u->stopped = true;
        usage_close(u);
        return NULL;
    }
    uv_timer_init(loop, &u->timer);
    uv_unref((uv_handle_t *)&u->timer);
    u->timer.data = u;
    return u;
}

void usage_stop(struct usage *u) {
    if (u->stopped) return;
    u->stopped = true;
    uv_close((uv_handle_t *)&u->timer, NULL);
}

void usage_close(struct usage *u) {
    if (!u) return;
    bool changed = false;
    for (struct account *a = u->accounts; a; a = a->next) changed |= memcmp(a->sum, a->written, sizeof a->sum) != 0;
    if (changed) write_all(u);
    for (struct account *a; (a = u->accounts);) {
        u->accounts = a->next;
        free(a);
    }
    free(u);
}

void usage_add(void *usage, const char *key_id, unsigned kind, uint64_t n) {
    struct usage *u = usage;
    if (!n) return;
    account(u, key_id)->sum[kind] += n;
    if (u->armed || u->stopped) return;
    u->armed = true;
    uv_timer_start(&u->timer, on_timer, USAGE_WRITE_MS, 0);
}

void usage_of_domain(void *usage, const char *key_id, enum use use, uint64_t n) { usage_add(usage, key_id, (unsigned)use, n); }

/* ---- answers ---- */

static struct json_object *row(const char *key_id, const uint64_t *sums, usage_more more, void *arg) {
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "id", *key_id ? json_object_new_string(key_id) : NULL);
    for (unsigned i = 0; i < USAGE_KINDS; i++) {
        uint64_t n = (sums ? sums[i] : 0) + (more ? more(arg, key_id, i) : 0);
        json_object_object_add(o, kinds[i].shown, kinds[i].micro ? json_object_new_double((double)n / 1e6) : json_object_new_uint64(n));
    }
    return o;
}

static int by_id(const void *a, const void *b) {
    return strcmp((*(struct account *const *)a)->key_id, (*(struct account *const *)b)->key_id);
}

struct json_object *usage_list(struct usage *u, const char *key_id, usage_more more, void *arg) {
    struct json_object *list = json_object_new_array();
    if (key_id) {
        struct account *a = find(u, key_id);
        json_object_array_add(list, row(key_id, a ? a->sum : NULL, more, arg));
        return list;
    }
    size_t n = 0;
    for (struct account *a = u->accounts; a; a = a->next) n++;
    struct account **sorted = calloc(n + 1, sizeof *sorted);
    if (!sorted) abort();
    n = 0;
    for (struct account *a = u->accounts; a; a = a->next) sorted[n++] = a;
    qsort(sorted, n, sizeof *sorted, by_id);
    for (size_t i = 0; i < n; i++) json_object_array_add(list, row(sorted[i]->key_id, sorted[i]->sum, more, arg));
    free(sorted);
    return list;
}

struct json_object *usage_sum(struct json_object *list) {
    struct json_object *o = json_object_new_object(), *v;
    for (unsigned k = 0; k < USAGE_KINDS; k++) {
        uint64_t n = 0;
        double seconds = 0;
        for (size_t i = 0; i < json_object_array_length(list); i++) {
            if (!json_object_object_get_ex(json_object_array_get_idx(list, i), kinds[k].shown, &v)) continue;
            if (kinds[k].micro)
                seconds += json_object_get_double(v);
            else
                n += json_object_get_uint64(v);
        }
        json_object_object_add(o, kinds[k].shown, kinds[k].micro ? json_object_new_double(seconds) : json_object_new_uint64(n));
    }
    return o;
}
