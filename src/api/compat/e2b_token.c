/* The token of a sandbox: HMAC-SHA256 of its id under a secret of this daemon. Nothing is stored per sandbox, so a token is good across restarts,
 * pauses and wakes, and a fork, which has another id, has another one. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/compat/e2b.h"
#include "api/compat/e2b_token.h"
#include "base/cleanup.h"
#include "base/id.h"

#define SIGNATURE_PREFIX "v1_"

static int read_secret(const char *path, unsigned char *out, struct err *e) {
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errno == ENOENT ? 0 : err_sys(e, errno, "open %s", path);
    ssize_t n = read(fd, out, E2B_SECRET);
    return n == E2B_SECRET ? 1 : err_hint(e, ERR_INTERNAL, "remove it: a new one is made, and clients connect anew", "%s is damaged", path);
}

/* Written beside and renamed: a crash leaves no half secret. */
static int write_secret(const char *path, const unsigned char *secret, struct err *e) {
    char fresh[4200];
    (void)snprintf(fresh, sizeof fresh, "%s.new", path);
    cleanup_close int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return err_sys(e, errno, "open %s", fresh);
    if (write(fd, secret, E2B_SECRET) != E2B_SECRET || fsync(fd) < 0 || rename(fresh, path) < 0) return err_sys(e, errno, "write %s", fresh);
    return 0;
}

int e2b_open(struct api *api, const char *state_dir, struct err *e) {
    char path[4160];
    (void)snprintf(path, sizeof path, "%s/db/e2b.secret", state_dir);
    int found = read_secret(path, api->e2b_secret, e);
    if (found) return found < 0 ? -1 : 0;
    random_fill(api->e2b_secret, E2B_SECRET);
    return write_secret(path, api->e2b_secret, e);
}

void e2b_token(struct api *api, const struct cell *cell, char out[static E2B_TOKEN_MAX]) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    const char *id = cell_id(cell);
    if (!HMAC(EVP_sha256(), api->e2b_secret, E2B_SECRET, (const unsigned char *)id, strlen(id), digest, &n) || n != 32) abort();
    for (unsigned i = 0; i < 32; i++) (void)snprintf(out + 2 * (size_t)i, 3, "%02x", digest[i]);
}

static bool same(const char *a, const char *b) {
    size_t n = strlen(a);
    return strlen(b) == n && CRYPTO_memcmp(a, b, n) == 0;
}

bool e2b_token_is(struct api *api, const struct cell *cell, const char *said) {
    char token[E2B_TOKEN_MAX];
    e2b_token(api, cell, token);
    return said && same(token, said);
}

bool e2b_signature_is(struct api *api, const struct cell *cell, const struct e2b_signed *s) {
    char token[E2B_TOKEN_MAX], base64[48], text[sizeof SIGNATURE_PREFIX + sizeof base64];
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    struct buf b = {0};
    e2b_token(api, cell, token);
    buf_printf(&b, "%s:%s:%s:%s", s->path, s->operation, s->user, token);
    if (s->expiration) buf_printf(&b, ":%s", s->expiration);
    if (EVP_Digest(b.data, b.len, digest, &n, EVP_sha256(), NULL) != 1 || n != 32) abort();
    buf_free(&b);
    EVP_EncodeBlock((unsigned char *)base64, digest, 32); /* 44 characters, the last is "=" */
    (void)snprintf(text, sizeof text, SIGNATURE_PREFIX "%.43s", base64);
    return same(text, s->signature);
}
