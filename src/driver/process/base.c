#include "driver/process/base.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "driver/process/base_file.h"
#include "driver/process/image_scan.h"
#include "driver/process/internal.h"
#include "driver/work.h"

/* One request; they are served one after the other: the second of two that need the same base finds it made. */
struct need {
    struct need *next;
    struct process_driver *driver;
    char template_id[TEMPLATE_ID_HEX + 1];
    uint32_t language;
    bool named, want_zygote, no_base; /* no_base: there is none, and no interpreter to make it of */
    uint8_t digest[IMAGE_DIGEST];
    base_done done;
    void *arg;
    /* under way */
    uint64_t zygote;
    struct memory_source from;
    struct base_view *view;
    char directory[4096];
    bool failed;
    struct err err;
};

static const char *language_name(uint32_t language) { return language == KEEPER_SHELL ? "shell" : "python"; }

static void serve_next(struct process_driver *);

/* ---- views ---- */

static void view_free(struct base_view *v) {
    if (!v) return;
    close_fd(&v->pagemap_fd);
    base_file_free(v->base);
    free(v->same);
    free(v);
}

void view_release(struct process_driver *d, struct base_view *v) {
    (void)d;
    if (v && !--v->users) view_free(v);
}

/* Newer requests do not find it any more; whoever has it keeps it. */
static void unlist(struct process_driver *d, struct base_view *v) {
    struct base_view **at = &d->views;
    while (*at && *at != v) at = &(*at)->next;
    if (*at) *at = v->next;
    view_release(d, v);
}

void bases_forget_zygote(struct process_driver *d, const char *template_id, uint32_t language) {
    for (struct base_view *v = d->views, *next; v; v = next) {
        next = v->next;
        if (!template_id || (v->language == language && !strcmp(v->template_id, template_id))) unlist(d, v);
    }
}

void bases_forget(struct process_driver *d) { bases_forget_zygote(d, NULL, 0); }

static struct base_view *listed(const struct need *n) {
    for (struct base_view *v = n->driver->views; v; v = v->next)
        if (v->language == n->language && !strcmp(v->template_id, n->template_id) && (!n->named || !memcmp(v->base->digest, n->digest, IMAGE_DIGEST)) && v->zygote)
            return v;
    return NULL;
}

/* ---- one request ---- */

static void need_over(struct need *n, struct err *e, struct base_view *v) {
    struct process_driver *d = n->driver;
    d->need_active = NULL;
    memory_source_close(&n->from);
    if (v) v->users++;
    n->done(n->arg, e, v);
    free(n);
    serve_next(d);
}

/* All of the interpreter's own pages are in the base that was just made of it. */
static void view_of_maker(struct base_view *v) {
    const struct memory_index *x = &v->base->index;
    v->same = calloc(x->runs ? x->runs : 1, sizeof *v->same);
    if (!v->same) abort();
    for (uint32_t i = 0; i < x->runs; i++) {
        const uint64_t end = x->run[i].address + x->run[i].pages * PAGE;
        v->same[v->runs++] = (struct same_run){x->run[i].address, end, true};
        v->pages += x->run[i].pages;
    }
    v->pages_equal = v->pages;
}

static int make_base(struct need *n, struct base_view *v) {
    n->no_base = !n->zygote;
    if (!n->zygote) return err_set(&n->err, ERR_UNAVAILABLE, "the template's interpreter is not warm");
    v->base = base_file_make(n->directory, n->template_id, language_name(n->language), &n->from, &n->err);
    if (!v->base) return -1;
    view_of_maker(v);
    return 0;
}

static int look(struct need *n, struct base_view *v) {
    uint8_t digest[IMAGE_DIGEST];
    const char *name = language_name(n->language);
    if (n->named) memcpy(digest, n->digest, sizeof digest);
    else if (!base_file_newest(n->directory, n->template_id, name, digest)) return make_base(n, v);
    v->base = base_file_open(n->directory, n->template_id, name, digest, &n->err);
    if (!v->base && !n->named) { /* damaged: images made of it are lost, new ones need not be */
        log_error("%s", n->err.text);
        return make_base(n, v);
    }
    if (!v->base) return -1;
    if (!n->zygote) return 0;
    if (memory_compare(&n->from, v, &n->err)) return -1;
    log_info("warm %s of template %.12s: %llu of %llu pages as in its base", name, n->template_id, (unsigned long long)v->pages_equal, (unsigned long long)v->pages);
    if (n->named || v->pages_equal >= v->pages / 2) return 0;
    base_file_free(v->base); /* it lies elsewhere now (another kernel, another interpreter): a base that fits */
    free(v->same);
    v->base = NULL, v->same = NULL, v->runs = 0, v->pages = v->pages_equal = 0;
    return make_base(n, v);
}

static void on_thread(void *arg) {
    struct need *n = arg;
    struct base_view *v = calloc(1, sizeof *v);
    if (!v) abort();
    v->pagemap_fd = -1;
    v->users = 1; /* the list's */
    v->language = n->language;
    v->zygote = n->zygote;
    memcpy(v->template_id, n->template_id, sizeof v->template_id);
    n->view = v;
    n->failed = look(n, v) != 0;
    if (!n->failed && n->zygote) v->pagemap_fd = steal_fd(&n->from.pagemap_fd);
}

static void open_zygote(struct need *);

static void on_warm(void *arg, struct err *e, bool cold) {
    struct need *n = arg;
    (void)cold;
    if (e) need_over(n, e, NULL);
    else open_zygote(n);
}

static void on_done(void *arg) {
    struct need *n = arg;
    struct process_driver *d = n->driver;
    if (d->closing) {
        memory_source_close(&n->from);
        view_free(n->view);
        d->need_active = NULL;
        free(n);
        return;
    }
    if (n->failed) {
        view_free(n->view);
        n->view = NULL;
        if (n->no_base) { /* once: the next look has an interpreter or ends before it */
            n->no_base = false;
            zygote_ensure(d, n->template_id, n->language, on_warm, n);
            return;
        }
        need_over(n, &n->err, NULL);
        return;
    }
    if (n->zygote) {
        n->view->next = d->views;
        d->views = n->view;
    } else {
        n->view->users = 0; /* of use to this request only */
    }
    need_over(n, NULL, n->view);
}

static void on_opened(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t count) {
    struct need *n = arg;
    if (e && e->sys_errno == EAGAIN && n->want_zygote) { /* it is not warm, or just ended */
        n->want_zygote = false;
        zygote_ensure(n->driver, n->template_id, n->language, on_warm, n);
        return;
    }
    if (e && e->sys_errno != EAGAIN) {
        need_over(n, e, NULL);
        return;
    }
    if (!e && count == 3) {
        n->zygote = r->zygote;
        n->from = (struct memory_source){fds[0], fds[1], fds[2]};
    }
    work_start(&n->driver->works, on_thread, on_done, n);
}

static void open_zygote(struct need *n) {
    struct keeper_request q = {.op = KEEPER_ZYGOTE_OPEN, .language = n->language};
    memcpy(q.template_id, n->template_id, sizeof n->template_id);
    keeper_call(n->driver->keeper, &q, on_opened, n);
}

static void serve_next(struct process_driver *d) {
    struct need *n = d->needs;
    if (!n || d->need_active) return;
    d->needs = n->next;
    d->need_active = n;
    struct base_view *v = listed(n);
    if (v) need_over(n, NULL, v);
    else open_zygote(n);
}

void base_need(struct process_driver *d, const char *template_id, uint32_t language, const uint8_t *digest, bool want_zygote, base_done done, void *arg) {
    struct need *n = calloc(1, sizeof *n), **at = &d->needs;
    if (!n) abort();
    *n = (struct need){.driver = d, .language = language, .named = digest != NULL, .want_zygote = want_zygote, .done = done, .arg = arg, .from = {-1, -1, -1}};
    (void)snprintf(n->template_id, sizeof n->template_id, "%s", template_id);
    (void)snprintf(n->directory, sizeof n->directory, "%s", d->bases);
    if (digest) memcpy(n->digest, digest, sizeof n->digest);
    while (*at) at = &(*at)->next;
    *at = n;
    serve_next(d);
}

void bases_close(struct process_driver *d) {
    while (d->needs) {
        struct need *n = d->needs;
        d->needs = n->next;
        free(n);
    }
    bases_forget(d);
}
