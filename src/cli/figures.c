#include "cli/figures.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "cli/client.h"
#include "cli/output.h"

static const struct {
    const char *mime, *suffix;
    int base64;
} kinds[] = {{"image/png", "png", 1},
             {"image/jpeg", "jpeg", 1},
             {"image/svg+xml", "svg", 0},
             {"image/gif", "gif", 1},
             {"application/pdf", "pdf", 1}};

int base64_decode(const char *text, size_t n, struct buf *out) {
    EVP_ENCODE_CTX *context = EVP_ENCODE_CTX_new();
    unsigned char *bytes = malloc(n + 4);
    if (!context || !bytes) abort();
    int first = 0, last = 0, result = -1;
    EVP_DecodeInit(context);
    if (n < (size_t)1 << 30 && EVP_DecodeUpdate(context, bytes, &first, (const unsigned char *)text, (int)n) >= 0 &&
        EVP_DecodeFinal(context, bytes + first, &last) == 1) {
        buf_append(out, bytes, (size_t)(first + last));
        result = 0;
    }
    free(bytes);
    EVP_ENCODE_CTX_free(context);
    return result;
}

int figures_in(struct json_object *bundle) {
    int n = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) n += json_text(bundle, kinds[i].mime, NULL) != NULL;
    return n;
}

static int save(const char *path, const char *bytes, size_t n, struct err *e) {
    if (unlink(path) < 0 && errno != ENOENT) return err_sys(e, errno, "cannot replace %s", path);
    cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0) return err_sys(e, errno, "cannot write %s", path);
    while (n > 0) {
        ssize_t wrote = write(fd, bytes, n);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return err_sys(e, errno, "cannot write %s", path);
        bytes += wrote;
        n -= (size_t)wrote;
    }
    return 0;
}

static int save_kind(const struct figures *f, size_t kind, const char *text, struct buf *said, struct err *e) {
    struct buf path = {0}, bytes = {0};
    buf_printf(&path, "%s/figure-%u.%s", f->directory, f->count, kinds[kind].suffix);
    int result = 0;
    if (!kinds[kind].base64)
        buf_str(&bytes, text);
    else if (base64_decode(text, strlen(text), &bytes) < 0)
        result = err_set(e, ERR_INTERNAL, "the %s of a result is not base64", kinds[kind].mime);
    if (result == 0) result = save(path.data, bytes.data ? bytes.data : "", bytes.len, e);
    if (result == 0) buf_printf(said, "%s\n", path.data);
    buf_free(&bytes);
    buf_free(&path);
    return result;
}

int figures_save(struct figures *f, struct json_object *bundle, struct buf *said, struct err *e) {
    if (!figures_in(bundle)) return 0;
    f->count++;
    if (!f->directory) return 0;
    if (mkdir(f->directory, 0755) < 0 && errno != EEXIST)
        return err_sys(e, errno, "cannot make the directory %s", f->directory);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const char *text = json_text(bundle, kinds[i].mime, NULL);
        if (text && save_kind(f, i, text, said, e) < 0) return -1;
    }
    return 0;
}
