#include "cli/doctor/report.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct finding *report_add(struct report *r, const char *group, const char *name, enum finding_status status,
                           const char *fmt, ...) {
    struct finding *f = &r->finding[r->count < FINDINGS_MAX ? r->count++ : FINDINGS_MAX - 1];
    *f = (struct finding){.group = group, .name = name, .status = status};
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(f->text, sizeof f->text, fmt, ap);
    va_end(ap);
    return f;
}

void finding_remedy(struct finding *f, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(f->remedy, sizeof f->remedy, fmt, ap);
    va_end(ap);
}

enum finding_status report_worst(const struct report *r) {
    enum finding_status worst = FINDING_OK;
    for (size_t i = 0; i < r->count; i++)
        if (r->finding[i].status > worst) worst = r->finding[i].status;
    return worst;
}

const char *finding_word(enum finding_status status) {
    return status == FINDING_OK ? "ok" : status == FINDING_DEGRADED ? "degraded" : "missing";
}

static void add(struct json_object *o, const char *key, const char *text) {
    json_object_object_add(o, key, text && *text ? json_object_new_string(text) : NULL);
}

struct json_object *report_json(const struct report *r, const char *driver, const char *reason) {
    struct json_object *out = json_object_new_object(), *checks = json_object_new_array();
    json_object_object_add(out, "status", json_object_new_string(finding_word(report_worst(r))));
    add(out, "driver", driver);
    add(out, "reason", reason);
    json_object_object_add(out, "kvm_works", json_object_new_boolean(r->kvm_works));
    for (size_t i = 0; i < r->count; i++) {
        const struct finding *f = &r->finding[i];
        struct json_object *check = json_object_new_object();
        add(check, "group", f->group);
        add(check, "name", f->name);
        add(check, "status", finding_word(f->status));
        add(check, "text", f->text);
        add(check, "remedy", f->remedy);
        json_object_array_add(checks, check);
    }
    json_object_object_add(out, "checks", checks);
    return out;
}

void report_text(const struct report *r, const char *driver, const char *reason, struct buf *out) {
    const char *group = "";
    for (size_t i = 0; i < r->count; i++) {
        const struct finding *f = &r->finding[i];
        if (strcmp(group, f->group) != 0) buf_printf(out, "%s%s\n", i ? "\n" : "", f->group);
        group = f->group;
        buf_printf(out, "  %-8s  %-20s %s\n", finding_word(f->status), f->name, f->text);
        if (f->remedy[0]) buf_printf(out, "  %-8s  %-20s -> %s\n", "", "", f->remedy);
    }
    buf_printf(out, "\ndriver: %s (%s)\n", driver ? driver : "none", reason);
}
