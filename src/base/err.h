/* err.h: one error value that travels up.
 *
 * A function that can fail takes a `struct err *` as its last argument (owned by the caller, usually on its stack,
 * never NULL) and returns -1 or NULL. The function that finds the failure fills it; a caller may put one clause in
 * front with err_wrap(). The API floor turns it into {"error": text, "code": code, "hint": hint}.
 *
 * `code` and `hint` are string literals: they are never freed. */
#pragma once
#include <stdarg.h>
#include <stddef.h>

struct err {
    int sys_errno;    /* errno of the failed call, 0 when none */
    const char *code; /* machine word, see the list below; never NULL after err_set */
    const char *hint; /* what the user can do next, or NULL */
    char text[384];   /* one sentence without the final full stop */
};

/* The machine words. Everything a client can see as "code" stands here, once. */
#define ERR_INVALID "invalid_request"      /* 400: a field is wrong or missing */
#define ERR_UNAUTHORIZED "unauthorized"    /* 401 */
#define ERR_FORBIDDEN "forbidden"          /* 403: Host, Origin, or permission */
#define ERR_PERMISSION "permission_denied" /* 403: the cell's file system says no */
#define ERR_NOT_FOUND "not_found"          /* 404 */
#define ERR_METHOD "method_not_allowed"    /* 405 */
#define ERR_TIMEOUT_REQUEST "request_timeout" /* 408: the client was too slow */
#define ERR_CONFLICT "conflict"            /* 409: wrong state for this request */
#define ERR_EXISTS "already_exists"        /* 409 */
#define ERR_IMAGE "image_refused"          /* 409: damaged, foreign, or of another template, format or processor */
#define ERR_DRIVER "driver_unavailable"    /* 409: the driver that was asked for cannot make sandboxes here; the text says why */
#define ERR_TEMPLATE "template_not_ready"  /* 409: the template was not built for this driver */
#define ERR_GONE "gone"                    /* 410: the cell ended; the text says why */
#define ERR_TOO_LARGE "too_large"          /* 413 */
#define ERR_IS_DIRECTORY "is_a_directory"  /* 400 */
#define ERR_NOT_DIRECTORY "not_a_directory" /* 400 */
#define ERR_UNSUPPORTED "unsupported"      /* 501: not in this version or on this host */
#define ERR_LIMIT "limit_reached"          /* 429 */
#define ERR_NO_SPACE "no_space"            /* 507: the cell's disk is full */
#define ERR_UNAVAILABLE "unavailable"      /* 503: keeper or template not ready */
#define ERR_LOST "lost"                    /* 500: the cell or its answer was lost */
#define ERR_INTERNAL "internal"            /* 500 */

/* Fill *e and return -1. */
int err_set(struct err *e, const char *code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Same, with a hint (a string literal). */
int err_hint(struct err *e, const char *code, const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* A system call failed: the text becomes "fmt: strerror(sys_errno)" and the code follows from errno
 * (ENOENT not_found, EACCES/EPERM permission_denied, ENOSPC/EDQUOT no_space, EEXIST already_exists,
 * EISDIR is_a_directory, ENOTDIR not_a_directory, anything else internal). Returns -1. */
int err_sys(struct err *e, int sys_errno, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Put "fmt: " in front of the text already there. Returns -1. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The machine word for an errno, as err_sys chooses it. */
const char *err_code_of_errno(int sys_errno);
