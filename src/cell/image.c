/* Images on the disk: made durable, removed. */
#include "cell/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "cell/text.h"

/* Something for the thread pool, maybe after the driver has answered. The part in the pool knows paths only; the world
 * may be closed while it works. */
struct image_job {
    struct image_job *next;
    struct world *world; /* NULL: closed meanwhile, nobody is told */
    uv_work_t work;
    int (*run)(struct image_job *);
    char id[CELL_ID_MAX], parent[IMAGE_PATH], from[IMAGE_PATH], to[IMAGE_PATH];
    char (*names)[CELL_ID_MAX + 4]; /* of a sweep */
    size_t count, kept;
    driver_done done;
    void *arg;
    bool working /* in the pool */, failed;
    struct err err;
};

static void images_path(struct world *w, char out[IMAGE_PATH]) {
    (void)snprintf(out, IMAGE_PATH, "%.4000s/images", w->state_dir);
}

void image_path(struct world *w, const char *id, bool tmp, char out[IMAGE_PATH]) {
    (void)snprintf(out, IMAGE_PATH, "%.4000s/images/%.40s%s", w->state_dir, id, tmp ? ".tmp" : "");
}

bool image_there(struct world *w, const char *id) {
    char path[IMAGE_PATH];
    struct stat st;
    image_path(w, id, false, path);
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int image_begin(struct world *w, char id[CELL_ID_MAX], struct err *err) {
    char path[IMAGE_PATH];
    images_path(w, path);
    if (mkdir(path, 0700) < 0 && errno != EEXIST) return err_sys(err, errno, "make %s", path);
    id_make(id, "img_");
    image_path(w, id, true, path);
    return mkdir(path, 0700) < 0 ? err_sys(err, errno, "make %s", path) : 0;
}

/* ---- jobs ---- */

static void on_work(uv_work_t *work) {
    struct image_job *j = container_of(work, struct image_job, work);
    j->failed = j->run(j) < 0;
}

static void job_free(struct image_job *j) {
    struct image_job **at = j->world ? &j->world->image_jobs : NULL;
    while (at && *at && *at != j) at = &(*at)->next;
    if (at && *at) *at = j->next;
    free(j->names);
    free(j);
}

static void on_worked(uv_work_t *work, int status) {
    (void)status; /* never cancelled */
    struct image_job *j = container_of(work, struct image_job, work);
    if (j->world && j->failed) log_warn("image %s: %s", j->id, j->err.text);
    if (j->world && j->done) j->done(j->arg, j->failed ? &j->err : NULL);
    job_free(j);
}

static struct image_job *job_new(struct world *w, const char *id, int (*run)(struct image_job *)) {
    struct image_job *j = calloc(1, sizeof *j);
    if (!j) abort();
    j->world = w;
    j->run = run;
    (void)snprintf(j->id, sizeof j->id, "%s", id);
    images_path(w, j->parent);
    j->next = w->image_jobs;
    w->image_jobs = j;
    return j;
}

static void job_go(struct image_job *j) {
    j->working = true;
    (void)uv_queue_work(j->world->config.loop, &j->work, on_work, on_worked);
}

void image_jobs_forget(struct world *w) {
    while (w->image_jobs) {
        struct image_job *j = w->image_jobs;
        w->image_jobs = j->next;
        j->world = NULL;
        if (!j->working) job_free(j); /* it waited for the driver, which is closed next and answers nothing more */
    }
}

/* ---- to the disk ---- */

static int sync_path(const char *path, struct err *err) {
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return err_sys(err, errno, "open %s", path);
    return fsync(fd) < 0 ? err_sys(err, errno, "sync %s", path) : 0;
}

static int publish(struct image_job *j) {
    char path[IMAGE_PATH + 260];
    cleanup_dir DIR *dir = opendir(j->from);
    if (!dir) return err_sys(&j->err, errno, "open %s", j->from);
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] == '.') continue;
        (void)snprintf(path, sizeof path, "%s/%s", j->from, e->d_name);
        if (sync_path(path, &j->err) < 0) return -1;
    }
    if (sync_path(j->from, &j->err) < 0 || fault_error("domain.image.synced", &j->err) < 0) return -1;
    if (rename(j->from, j->to) < 0) return err_sys(&j->err, errno, "rename %s", j->from);
    if (fault_error("domain.image.renamed", &j->err) < 0) return -1;
    return sync_path(j->parent, &j->err);
}

void image_publish(struct world *w, const char *id, driver_done done, void *arg) {
    struct image_job *j = job_new(w, id, publish);
    image_path(w, id, true, j->from);
    image_path(w, id, false, j->to);
    j->done = done;
    j->arg = arg;
    job_go(j);
}

/* ---- away ---- */

/* A directory of plain files, as drivers make them; what is deeper is removed as well, to a small depth. */
static void remove_below(int at, const char *name, int depth) {
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir && fd >= 0) close(fd);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (unlinkat(dirfd(dir), e->d_name, 0) < 0 && depth > 0) remove_below(dirfd(dir), e->d_name, depth - 1);
    }
    if (dir) closedir(dir);
    (void)unlinkat(at, name, AT_REMOVEDIR);
}

static int discard(struct image_job *j) {
    remove_below(AT_FDCWD, j->from, 3);
    remove_below(AT_FDCWD, j->to, 3);
    return 0;
}

static void on_dropped(void *arg, struct err *err) {
    struct image_job *j = arg;
    if (err) log_warn("image %s: %s", j->id, err->text);
    job_go(j);
}

void image_discard(struct world *w, const char *id) {
    const struct driver_ops *ops = w->config.driver->ops;
    if (!id[0] || w->closing) return;
    struct image_job *j = job_new(w, id, discard);
    image_path(w, id, true, j->from);
    image_path(w, id, false, j->to);
    if (ops->image_drop)
        ops->image_drop(w->config.driver, id, on_dropped, j);
    else
        job_go(j);
}

static struct json_object *row_about(const char *image_id) {
    char id[DOMAIN_ID];
    struct json_object *o = json_object_new_object();
    (void)snprintf(id, sizeof id, "snap_%s", image_id + 4);
    json_object_object_add(o, "snapshot_id", json_object_new_string(id));
    return o;
}

static bool is_kept(const struct image_job *j, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(j->names[i], name) == 0) return true;
    return false;
}

static void add_name(struct image_job *j, const char *name) {
    if (j->count % 64 == 0) j->names = realloc(j->names, (j->count + 64) * sizeof *j->names);
    if (!j->names) abort();
    (void)snprintf(j->names[j->count++], sizeof *j->names, "%.40s", name);
}

/* names[kept…]: what is there now and has no row. Looked at before anybody makes a new one. */
static void list_rest(struct image_job *j) {
    j->kept = j->count;
    cleanup_dir DIR *dir = opendir(j->parent);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strncmp(e->d_name, "img_", 4) == 0 && !is_kept(j, j->kept, e->d_name)) add_name(j, e->d_name);
}

static int sweep(struct image_job *j) {
    cleanup_close int parent = open(j->parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = j->kept; parent >= 0 && i < j->count; i++) {
        log_info("the image %s was never finished or is deleted: its files are removed", j->names[i]);
        remove_below(parent, j->names[i], 3);
    }
    return 0;
}

static void on_kept(void *arg, struct err *err) {
    struct image_job *j = arg;
    if (err) log_warn("images that nobody needs are still there: %s", err->text);
    job_go(j);
}

/* Not silently: a snapshot whose directory is gone is told, and its row stays, since the directory may come back (a
 * disk that was not mounted). */
static int look_at(void *arg, const char *id, const char *json) {
    struct image_job *j = arg;
    struct world *w = j->world;
    struct json_object *row = json_tokener_parse(json);
    const char *kind = row ? text_field(row, "kind") : NULL, *cell_id = row ? text_field(row, "cell_id") : NULL;
    if (kind && strcmp(kind, "snapshot") == 0 && !image_there(w, id)) {
        log_error("the snapshot snap_%s has no files: %s/%s is missing", id + 4, j->parent, id);
        world_event(w, cell_id ? cell_id : "", "snapshot.missing", ERR_IMAGE, "the files of a snapshot are not there",
                    row_about(id));
    }
    json_object_put(row);
    add_name(j, id);
    return 0;
}

void images_at_start(struct world *w) {
    const struct driver_ops *ops = w->config.driver->ops;
    struct image_job *j = job_new(w, "", sweep);
    if (store_image_each(w->config.store, look_at, j, &j->err) < 0) { /* nothing is removed that might be known */
        log_error("images: %s", j->err.text);
        job_free(j);
        return;
    }
    const char **keep = calloc(j->count + 1, sizeof *keep);
    if (!keep) abort();
    list_rest(j);
    for (size_t i = 0; i < j->kept; i++) keep[i] = j->names[i];
    if (ops->images_keep)
        ops->images_keep(w->config.driver, keep, j->kept, on_kept, j);
    else
        job_go(j);
    free(keep);
}

/* ---- rows ---- */

static void add(struct json_object *o, const char *key, struct json_object *v) { json_object_object_add(o, key, v); }
static void add_text(struct json_object *o, const char *key, const char *s) { add(o, key, json_object_new_string(s)); }

struct json_object *image_row(struct cell *c, const char *kind, const char *name, const struct driver_image *image) {
    struct json_object *o = json_object_new_object();
    add_text(o, "kind", kind);
    add_text(o, "cell_id", c->id);
    add_text(o, "owner", c->owner);
    if (name) add_text(o, "name", name);
    add_text(o, "template_id", c->template_id);
    add_text(o, "template", c->template_name);
    add(o, "memory_bytes", json_object_new_uint64(image->memory_bytes));
    add(o, "disk_bytes", json_object_new_uint64(image->disk_bytes));
    add(o, "frozen_us", json_object_new_uint64(image->frozen_us));
    return o;
}

struct json_object *image_row_get(struct world *w, const char *id) {
    char *text = NULL;
    if (!id[0] || !store_image_get(w->config.store, id, &text)) return NULL;
    struct json_object *row = json_tokener_parse(text);
    free(text);
    return row;
}

int image_row_put(struct world *w, const char *id, struct json_object *row, struct err *err) {
    return store_image_put(w->config.store, id, json_object_get_string(body_get(row, "cell_id")),
                           json_object_to_json_string_ext(row, JSON_C_TO_STRING_NOSLASHESCAPE), err);
}
