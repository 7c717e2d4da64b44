/* report.h: what `cella doctor` finds: one line per question, with what to do about it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

enum finding_status {
    FINDING_OK,
    FINDING_DEGRADED, /* Cella works, with less speed or one layer less */
    FINDING_MISSING,  /* cells cannot run */
};

struct finding {
    const char *group, *name; /* literals */
    enum finding_status status;
    char text[320], remedy[320]; /* remedy: "" when nothing is to be done */
};

#define FINDINGS_MAX 64
struct report {
    const char *state;     /* state directory */
    const char *url, *key; /* of the daemon; key may be NULL */
    struct finding finding[FINDINGS_MAX];
    size_t count;
    bool kvm_works;
    char kvm_why[320]; /* why not */
};

struct finding *report_add(struct report *, const char *group, const char *name, enum finding_status, const char *fmt,
                           ...) __attribute__((format(printf, 5, 6)));
void finding_remedy(struct finding *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The worst status of all. */
enum finding_status report_worst(const struct report *);
const char *finding_word(enum finding_status);
struct json_object;
struct json_object *report_json(const struct report *, const char *driver, const char *reason);
void report_text(const struct report *, const char *driver, const char *reason, struct buf *out);

/* The probes; each adds its findings. */
void probe_kernel(struct report *);
void probe_process(struct report *);
void probe_mounts(struct report *);
void probe_cgroups(struct report *);
void probe_storage(struct report *);
void probe_kvm(struct report *);
void probe_installation(struct report *);

/* Run `probe` in a child process with a time limit: what it tries may hang, crash or leave mounts behind, and none of
 * that may reach this program. The child writes its sentence into why. → its return value (0…63), or one of these. */
#define CHILD_TIMEOUT (-1)
#define CHILD_CRASHED (-2)
int probe_child(int (*probe)(void *arg, char *why, size_t room), void *arg, int timeout_ms, char *why, size_t room);

/* First line of a small file, "" when there is none. */
const char *probe_read(const char *path, char *out, size_t room);
/* Idmap the file system of `directory` in a mount namespace of the caller's own: 0, or the errno. */
int probe_idmap(const char *directory);
