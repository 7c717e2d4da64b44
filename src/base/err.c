#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int fill(struct err *e, int sys_errno, const char *code, const char *hint, const char *fmt, va_list ap) {
    e->sys_errno = sys_errno;
    e->code = code;
    e->hint = hint;
    (void)vsnprintf(e->text, sizeof e->text, fmt, ap);
    return -1;
}

int err_set(struct err *e, const char *code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fill(e, 0, code, NULL, fmt, ap);
    va_end(ap);
    return -1;
}

int err_hint(struct err *e, const char *code, const char *hint, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fill(e, 0, code, hint, fmt, ap);
    va_end(ap);
    return -1;
}

const char *err_code_of_errno(int sys_errno) {
    switch (sys_errno) {
    case ENOENT: return ERR_NOT_FOUND;
    case EACCES:
    case EROFS:
    case EPERM: return ERR_PERMISSION;
    case ENOSPC:
    case EDQUOT: return ERR_NO_SPACE;
    case EEXIST:
    case ENOTEMPTY: return ERR_EXISTS;
    case EISDIR: return ERR_IS_DIRECTORY;
    case ENOTDIR: return ERR_NOT_DIRECTORY;
    case EINVAL:
    case ELOOP:
    case ENAMETOOLONG: return ERR_INVALID;
    default: return ERR_INTERNAL;
    }
}

int err_sys(struct err *e, int sys_errno, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fill(e, sys_errno, err_code_of_errno(sys_errno), NULL, fmt, ap);
    va_end(ap);
    size_t used = strlen(e->text);
    (void)snprintf(e->text + used, sizeof e->text - used, ": %s", strerror(sys_errno));
    return -1;
}

int err_wrap(struct err *e, const char *fmt, ...) {
    char inner[sizeof e->text];
    memcpy(inner, e->text, sizeof inner);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    size_t used = strlen(e->text);
    (void)snprintf(e->text + used, sizeof e->text - used, ": %.*s", (int)(sizeof inner - 1), inner);
    return -1;
}
