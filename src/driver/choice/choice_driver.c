#include "driver/choice/choice_driver.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "driver/image/sealed.h"

struct choice {
    struct driver base;
    struct driver_ops ops; /* with the name and isolation of the preferred driver */
    struct choice_config config;
    struct driver *preferred;
    bool machines;         /* they can be made here */
    const char *reason;    /* of the choice, a sentence */
    const char *missing;   /* why machines cannot be made; NULL: they can */
    driver_done adopted;
    void *adopted_arg;
};

static struct choice *self(struct driver *d) { return (struct choice *)d; }
static const struct driver_ops *of(const struct driver_cell *c) { return driver_cell_ops(c); }

int choice_setting_parse(const char *word, enum choice_setting *out, struct err *e) {
    static const char *const words[] = {[CHOICE_AUTO] = "auto", [CHOICE_PROCESS] = "process", [CHOICE_MICROVM] = "microvm"};
    for (int i = CHOICE_AUTO; i <= CHOICE_MICROVM; i++) {
        if (strcmp(word, words[i])) continue;
        *out = (enum choice_setting)i;
        return 0;
    }
    return err_set(e, ERR_INVALID, "driver must be auto, process or microvm, not \"%.40s\"", word);
}

bool choice_processor(void) {
    cleanup_file FILE *f = fopen("/proc/cpuinfo", "re");
    cleanup_free char *line = NULL;
    size_t room = 0;
    while (f && getline(&line, &room, f) > 0) {
        if (strncmp(line, "flags", 5)) continue;
        return strstr(line, " vmx") || strstr(line, " svm");
    }
    return false;
}

/* ---- which ---- */

static void decide(struct choice *c) {
    const struct choice_config *k = &c->config;
    const bool kvm = k->kvm(k->microvm), asked = k->setting == CHOICE_MICROVM;
    c->machines = kvm && (asked || k->processor());
    c->missing = c->machines ? NULL
                 : kvm       ? "the processor offers no virtualization (neither vmx nor svm), so KVM cannot boot a kernel here"
                             : "the keeper cannot make virtual machines here (no usable /dev/kvm, or cella-vmm is not installed)";
    c->preferred = asked || (k->setting == CHOICE_AUTO && c->machines) ? k->microvm : k->process;
    c->reason = asked                           ? "the setting says so"
                : k->setting == CHOICE_PROCESS  ? "the setting says so"
                : c->machines                   ? "KVM works here"
                                                : c->missing;
    c->ops.name = c->preferred->ops->name;
    c->ops.isolation = c->preferred->ops->isolation;
    log_info("driver: %s (%s)", c->ops.name, c->reason);
    if (asked && c->missing) log_error("driver: microvm was set, and %s", c->missing);
}

static struct driver *pick(struct driver *base, const char *name, struct err *e) {
    struct choice *c = self(base);
    enum choice_setting wanted = CHOICE_AUTO;
    if (name && choice_setting_parse(name, &wanted, e)) return NULL;
    if (wanted == CHOICE_AUTO) wanted = c->preferred == c->config.microvm ? CHOICE_MICROVM : CHOICE_PROCESS;
    if (c->config.setting != CHOICE_AUTO && wanted != c->config.setting)
        return err_hint(e, ERR_DRIVER, "leave \"driver\" out, or ask the operator to set driver = auto", "this daemon makes sandboxes with the driver \"%s\" only", c->ops.name), NULL;
    if (wanted == CHOICE_MICROVM && c->missing)
        return err_hint(e, ERR_DRIVER, "`cella doctor` says what is missing; \"driver\": \"process\" works without", "the driver \"microvm\" cannot be used: %s", c->missing), NULL;
    return wanted == CHOICE_MICROVM ? c->config.microvm : c->config.process;
}

/* ---- the contract: what makes cells ---- */

static void set_listener(struct driver *base, const struct driver_listener *l) {
    const struct choice_config *k = &self(base)->config;
    k->process->ops->set_listener(k->process, l);
    k->microvm->ops->set_listener(k->microvm, l);
}

static void on_adopted(void *arg, struct err *e) {
    struct choice *c = arg;
    decide(c); /* the keeper said what it can before it listed its cells */
    c->adopted(c->adopted_arg, e);
}

/* One list of the keeper has the cells of both; each takes its own. */
static void adopt(struct driver *base, driver_done done, void *arg) {
    struct choice *c = self(base);
    c->adopted = done;
    c->adopted_arg = arg;
    c->config.process->ops->adopt(c->config.process, on_adopted, c);
}

static void warm(struct driver *base, const char *template_id, driver_done done, void *arg) {
    struct driver *d = self(base)->preferred;
    d->ops->warm(d, template_id, done, arg);
}

static void create(struct driver *base, const char *template_id, const struct cell_limits *l, driver_create_done done, void *arg) {
    struct driver *d = self(base)->preferred;
    d->ops->create(d, template_id, l, done, arg);
}

static void thaw(struct driver *base, const char *image_id, const char *dir, const char *cell_id, const struct cell_limits *l, driver_copy_done done, void *arg) {
    const struct choice_config *k = &self(base)->config;
    char name[16];
    sealed_driver(dir, name); /* its own word, for now: the driver that reads it checks it */
    struct driver *d = strcmp(name, k->microvm->ops->name) ? k->process : k->microvm;
    d->ops->thaw(d, image_id, dir, cell_id, l, done, arg);
}

/* The files of all images are in one list of the keeper. */
static void image_drop(struct driver *base, const char *image_id, driver_done done, void *arg) {
    struct driver *d = self(base)->config.process;
    d->ops->image_drop(d, image_id, done, arg);
}
static void images_keep(struct driver *base, const char *const *keep, size_t n, driver_done done, void *arg) {
    struct driver *d = self(base)->config.process;
    d->ops->images_keep(d, keep, n, done, arg);
}

/* ---- what is asked of a cell ---- */

static void context_make(struct driver_cell *c, int slot, const char *language, driver_context_done done, void *arg) { of(c)->context_make(c, slot, language, done, arg); }
static void context_signal(struct driver_cell *c, int slot, int signo) { of(c)->context_signal(c, slot, signo); }
static void set_limits(struct driver_cell *c, const struct cell_limits *l, driver_done done, void *arg) { of(c)->set_limits(c, l, done, arg); }
static void cell_pause(struct driver_cell *c, driver_done done, void *arg) { of(c)->pause(c, done, arg); }
static void cell_resume(struct driver_cell *c, driver_done done, void *arg) { of(c)->resume(c, done, arg); }
static void stats(struct driver_cell *c, driver_stats_done done, void *arg) { of(c)->stats(c, done, arg); }
static void destroy(struct driver_cell *c, driver_done done, void *arg) { of(c)->destroy(c, done, arg); }
static const char *id(const struct driver_cell *c) { return of(c)->id(c); }
static void cell_fork(struct driver_cell *c, unsigned n, driver_child_done each, driver_fork_done done, void *arg) { of(c)->fork(c, n, each, done, arg); }
static void freeze(struct driver_cell *c, const char *image_id, const char *dir, bool hold, driver_image_done done, void *arg) {
    of(c)->freeze(c, image_id, dir, hold, done, arg);
}
static void release(struct driver_cell *c, driver_done done, void *arg) { of(c)->release(c, done, arg); }
static void cell_rename(struct driver_cell *c, const char *new_id, driver_done done, void *arg) { of(c)->rename(c, new_id, done, arg); }
static uint64_t incarnation(const struct driver_cell *c) { return of(c)->incarnation(c); }

/* ---- report, close ---- */

/* The preferred driver's report, and the other one's and the choice beside it. */
static struct json_object *report(struct driver *base) {
    struct choice *c = self(base);
    static const char *const settings[] = {"auto", "process", "microvm"};
    struct driver *other = c->preferred == c->config.process ? c->config.microvm : c->config.process;
    struct json_object *o = c->preferred->ops->report(c->preferred), *choice = json_object_new_object();
    json_object_object_add(choice, "setting", json_object_new_string(settings[c->config.setting]));
    json_object_object_add(choice, "reason", json_object_new_string(c->reason));
    json_object_object_add(choice, "microvm_usable", json_object_new_boolean(c->machines));
    json_object_object_add(choice, "microvm_missing", c->missing ? json_object_new_string(c->missing) : NULL);
    json_object_object_add(o, "choice", choice);
    json_object_object_add(o, "other", other->ops->report(other));
    return o;
}

static void driver_close(struct driver *base) {
    struct choice *c = self(base);
    c->config.microvm->ops->close(c->config.microvm);
    c->config.process->ops->close(c->config.process);
    free(c);
}

static const struct driver_ops template = {
    .set_listener = set_listener, .adopt = adopt, .warm = warm, .create = create, .pick = pick, .context_make = context_make, .context_signal = context_signal,
    .set_limits = set_limits, .pause = cell_pause, .resume = cell_resume, .stats = stats, .destroy = destroy, .id = id, .fork = cell_fork, .freeze = freeze,
    .release = release, .thaw = thaw, .image_drop = image_drop, .images_keep = images_keep, .rename = cell_rename, .incarnation = incarnation, .report = report,
    .close = driver_close,
};

struct driver *choice_driver_open(const struct choice_config *config) {
    struct choice *c = calloc(1, sizeof *c);
    if (!c) abort();
    c->config = *config;
    c->ops = template;
    c->base.ops = &c->ops;
    c->preferred = config->setting == CHOICE_MICROVM ? config->microvm : config->process; /* until it is decided */
    c->reason = "not decided yet";
    c->missing = "the keeper was not asked yet";
    c->ops.name = c->preferred->ops->name;
    c->ops.isolation = c->preferred->ops->isolation;
    return &c->base;
}
