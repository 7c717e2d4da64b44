/* The operation digest: SHA-256 of files as the cell's root shows them. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/path.h"
#include "guest/sha256.h"
#include "guest/work.h"

#define DIGEST_CHUNK 262144

/* The digest of one file, NULL when it has none. Decided before it is opened: opening a FIFO or a device does things.
 */
static json_object *digest_of(int root, const char *path) {
    static char chunk[DIGEST_CHUNK];
    struct stat st;
    struct sha256 s;
    char hex[2 * SHA256_BYTES + 1];
    cleanup_close int place = path_open_exact(root, path, O_PATH | O_NOFOLLOW);
    if (place < 0 || fstat(place, &st) < 0 || !S_ISREG(st.st_mode)) return NULL;
    cleanup_close int fd = path_reopen(place, O_RDONLY);
    if (fd < 0) return NULL;
    sha256_begin(&s);
    for (ssize_t n; (n = read(fd, chunk, sizeof chunk)) != 0;) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return NULL;
        sha256_add(&s, chunk, (size_t)n);
    }
    sha256_end(&s, hex);
    return json_object_new_string(hex);
}

int layer_digest(struct work *w, const struct request *r, struct err *e) {
    cleanup_close int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) return err_sys(e, errno, "/");
    json_object *reply = json_object_new_object(), *list = json_object_new_array();
    for (char **path = r->paths; *path; path++) json_object_array_add(list, digest_of(root, *path));
    json_object_object_add(reply, "digests", list);
    return work_reply(w, reply, e);
}
