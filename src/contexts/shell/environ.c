/* Environment variables that the daemon sets. */
#include "contexts/shell/cella_shell.h"

#include <config.h>

#include <bashtypes.h>
#include <shell.h>
#include <stdio.h>
#include <string.h>

extern int array_needs_making;
extern void stupidly_hack_special_variables(char *);

/* What a temporary variable was before; value NULL: not set. */
struct before {
    struct before *next;
    char *name, *value;
    bool exported;
};
static struct before *changed;

static void remember(const char *name) {
    struct before *b = xmalloc(sizeof *b);
    SHELL_VAR *v = find_variable(name);
    const char *value = v && !invisible_p(v) ? get_variable_value(v) : NULL;
    *b = (struct before){.next = changed, .name = savestring(name), .value = value ? savestring(value) : NULL,
                         .exported = v && exported_p(v)};
    changed = b;
}

static void set(const char *name, const char *value, bool exported) {
    SHELL_VAR *v = bind_variable(name, (char *)value, 0);
    if (!v) return;
    if (exported)
        VSETATTR(v, att_exported);
    else
        VUNSETATTR(v, att_exported);
    array_needs_making = 1;
    stupidly_hack_special_variables((char *)name); /* PATH, TZ, LANG, ... */
}

/* "NAME=VALUE NUL" repeated, and nothing else. */
static bool valid(const uint8_t *p, size_t n) {
    while (n) {
        const uint8_t *end = memchr(p, 0, n);
        if (!end || *p == '=' || !memchr(p, '=', (size_t)(end - p))) return false;
        n -= (size_t)(end - p) + 1;
        p = end + 1;
    }
    return true;
}

bool environ_apply(const uint8_t *entries, size_t n, bool temporary) {
    if (!valid(entries, n)) return false;
    const char *p = (const char *)entries, *end = p + n;
    for (; p < end; p += strlen(p) + 1) {
        const char *value = strchr(p, '=') + 1;
        char *name = substring(p, 0, (int)(value - 1 - p));
        if (!legal_identifier(name)) {
            fprintf(stderr, "bash: environment: `%s' is not a valid variable name\n", name);
        } else {
            if (temporary) remember(name);
            set(name, value, true);
        }
        xfree(name);
    }
    return true;
}

void environ_restore(void) {
    while (changed) {
        struct before *b = changed;
        changed = b->next;
        if (b->value) {
            set(b->name, b->value, b->exported);
        } else {
            unbind_variable(b->name);
            stupidly_hack_special_variables(b->name);
        }
        xfree(b->name);
        if (b->value) xfree(b->value);
        xfree(b);
    }
}
