#include "contexts/shell/variables.h"

#include "contexts/shell/digest.h"

#include <config.h>

#include <bashtypes.h>
#include <shell.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUE_BYTES 200
#define VALUE_BYTES_MAX (64u << 10)
#define ANSWER_MAX (8u << 20)
#define ATTRIBUTES (att_exported | att_readonly | att_integer | att_uppercase | att_lowercase | att_nameref)

/* From print_cmd.c; the flags of externs.h: more than one line, and valid as input. */
extern char *named_function_string(char *, COMMAND *, int);
#define AS_INPUT 3

static struct known {
    char *name;
    bool function;
    uint8_t digest[DIGEST_BYTES];
} *known;
static size_t known_count;

/* What changes by itself. (Variables that bash computes when they are read are left out by their kind.) */
static bool is_noise(const char *name) {
    static const char *const names[] = {"_", "PIPESTATUS", "BASH_ARGC", "BASH_ARGV", "BASH_LINENO", "BASH_SOURCE", "FUNCNAME",
                                        "COLUMNS", "LINES", "OLDPWD", "SHLVL", "BASH_EXECUTION_STRING"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0) return true;
    return false;
}

static const char *type_of(SHELL_VAR *v) {
    return function_p(v) ? "function" : array_p(v) || assoc_p(v) ? "array" : "string";
}

/* The value as a text, malloc'd. */
static char *value_of(SHELL_VAR *v) {
    char *text = NULL;
    if (function_p(v)) {
        text = named_function_string(name_cell(v), function_cell(v), AS_INPUT); /* its own buffer */
        return savestring(text ? text : "");
    }
    if (array_p(v))
        text = array_to_assign(array_cell(v), 0);
    else if (assoc_p(v))
        text = assoc_to_assign(assoc_cell(v), 0);
    else
        return savestring(value_cell(v) ? value_cell(v) : "");
    return text ? text : savestring("()");
}

static void add_string(struct digest *d, const char *s) { digest_add(d, s ? s : "", s ? strlen(s) + 1 : 1); }

/* An associative array has no order: the sum of its pairs' digests. */
static void add_pairs(struct digest *d, HASH_TABLE *table) {
    uint64_t sum[2] = {0, 0};
    for (int i = 0; table && i < table->nbuckets; i++)
        for (BUCKET_CONTENTS *b = table->bucket_array[i]; b; b = b->next) {
            uint64_t pair[2];
            struct digest one;
            digest_begin(&one);
            add_string(&one, b->key);
            add_string(&one, (const char *)b->data);
            digest_end(&one, (uint8_t *)pair);
            sum[0] += pair[0];
            sum[1] += pair[1];
        }
    digest_add(d, sum, sizeof sum);
}

static void digest_of(SHELL_VAR *v, const char *value, uint8_t out[DIGEST_BYTES]) {
    struct digest d;
    int attributes = v->attributes & ATTRIBUTES;
    digest_begin(&d);
    add_string(&d, assoc_p(v) ? "map" : type_of(v));
    digest_add(&d, &attributes, sizeof attributes);
    if (assoc_p(v))
        add_pairs(&d, assoc_cell(v));
    else
        add_string(&d, value);
    digest_end(&d, out);
}

static struct known *find_known(const char *name, bool function) {
    for (size_t i = 0; i < known_count; i++)
        if (known[i].function == function && strcmp(known[i].name, name) == 0) return &known[i];
    return NULL;
}

static void remember(SHELL_VAR *v) {
    bool function = function_p(v) != 0;
    struct known *k = find_known(name_cell(v), function);
    if (!k) {
        if (known_count % 64 == 0) known = xrealloc(known, (known_count + 64) * sizeof *known);
        k = &known[known_count++];
        *k = (struct known){.name = savestring(name_cell(v)), .function = function};
    }
    char *value = value_of(v);
    digest_of(v, value, k->digest);
    xfree(value);
}

static bool is_shown(SHELL_VAR *v) { return !invisible_p(v) && !v->dynamic_value && !is_noise(name_cell(v)); }

void variables_start(void) {
    SHELL_VAR **lists[] = {all_shell_variables(), all_shell_functions()};
    for (int l = 0; l < 2; l++) {
        for (SHELL_VAR **v = lists[l]; v && *v; v++)
            if (is_shown(*v)) remember(*v);
        free(lists[l]);
    }
}

void variables_refresh(const char *name) {
    SHELL_VAR *v = find_variable(name);
    if (v && is_shown(v)) remember(v);
}

struct question {
    char **names; /* NULL: all that changed */
    size_t count, value_bytes;
};

static bool read_names(const char *at, const char *end, struct question *q) {
    if (end - at >= 4 && memcmp(at, "null", 4) == 0) return true;
    if (*at != '[') return false;
    q->names = xmalloc(sizeof *q->names);
    at = json_space(at + 1, end);
    while (at < end && *at == '"') {
        q->names = xrealloc(q->names, (q->count + 1) * sizeof *q->names);
        if (!json_string(&at, end, &q->names[q->count])) return false;
        q->count++;
        at = json_space(at, end);
        if (at < end && *at == ',') at = json_space(at + 1, end);
    }
    return at < end && *at == ']';
}

static bool read_question(const char *text, size_t n, struct question *q) {
    if (n == 0) return true;
    const char *opening = json_space(text, text + n);
    if (opening == text + n || *opening != '{') return false;
    const char *names = json_member(text, n, "names"), *size = json_member(text, n, "value_bytes");
    if (size) {
        char *copy = substring(size, 0, (int)(text + n - size)); /* ends with a NUL */
        q->value_bytes = strtoul(copy, NULL, 10);
        xfree(copy);
        if (q->value_bytes < 4) q->value_bytes = 4;
        if (q->value_bytes > VALUE_BYTES_MAX) q->value_bytes = VALUE_BYTES_MAX;
    }
    return !names || read_names(names, text + n, q);
}

static bool is_asked(const struct question *q, const char *name) {
    for (size_t i = 0; i < q->count; i++)
        if (strcmp(q->names[i], name) == 0) return true;
    return false;
}

static void tell_one(struct text *out, SHELL_VAR *v, const char *value, const uint8_t digest[DIGEST_BYTES], size_t max) {
    char rest[128], hex[2 * DIGEST_BYTES + 1];
    for (int i = 0; i < DIGEST_BYTES; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    text_add(out, "{\"name\":", 8);
    text_add_json(out, name_cell(v), strlen(name_cell(v)), SIZE_MAX);
    text_add(out, rest, (size_t)snprintf(rest, sizeof rest, ",\"type\":\"%s\",\"value\":", type_of(v)));
    text_add_json(out, value, strlen(value), max);
    text_add(out, rest, (size_t)snprintf(rest, sizeof rest, ",\"bytes\":%zu,\"digest\":\"%s\"}", strlen(value), hex));
}

static void tell(struct text *out, SHELL_VAR *v, const struct question *q, unsigned *skipped, bool *first) {
    uint8_t digest[DIGEST_BYTES];
    if (q->names ? !is_asked(q, name_cell(v)) : !is_shown(v)) return;
    char *value = value_of(v);
    digest_of(v, value, digest);
    struct known *k = find_known(name_cell(v), function_p(v) != 0);
    if (!q->names && k && memcmp(k->digest, digest, sizeof digest) == 0) {
        /* as it was at the start */
    } else if (out->len > ANSWER_MAX) {
        ++*skipped;
    } else {
        if (!*first) text_add(out, ",", 1);
        *first = false;
        tell_one(out, v, value, digest, q->value_bytes);
    }
    xfree(value);
}

bool variables_tell(const char *question, size_t n, struct text *out) {
    struct question q = {.value_bytes = VALUE_BYTES};
    bool ok = read_question(question, n, &q), first = true;
    unsigned skipped = 0;
    char end[32];
    if (ok) {
        SHELL_VAR **lists[] = {all_shell_variables(), all_shell_functions()};
        text_add(out, "{\"variables\":[", 14);
        for (int l = 0; l < 2; l++) {
            for (SHELL_VAR **v = lists[l]; v && *v; v++)
                if (!invisible_p(*v)) tell(out, *v, &q, &skipped, &first);
            free(lists[l]);
        }
        text_add(out, end, (size_t)snprintf(end, sizeof end, "],\"skipped\":%u}", skipped));
    }
    for (size_t i = 0; i < q.count; i++) xfree(q.names[i]);
    if (q.names) xfree(q.names);
    return ok;
}
