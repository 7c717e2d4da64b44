/* Fuzz target (libFuzzer): the state of a context as it comes back to the keeper from an image (src/keeper/state.c), the one thing of an image that
 * the privileged program reads.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/context_state_fuzz.c src/keeper/state.c \
 *     src/keeper/image.c src/keeper/notes.c src/keeper/inject.c src/keeper/arch_x86_64.c src/base/err.c -o /tmp/context_state_fuzz
 *   /tmp/context_state_fuzz -max_total_time=10 tests/fuzz/context_state_corpus
 *
 * What must hold: no read beyond the input; what is accepted has only what the keeper may use without looking again, and is written out as the
 * very same bytes. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "keeper/host.h"
#include "keeper/state.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

struct host host;

static void must(int holds) {
    if (!holds) abort();
}

static void check_file(const struct image *im, const struct image_file *f) {
    const struct state_file *h = &f->head;
    must(h->kind && h->kind < STATE_KINDS && (h->path_bytes == 0) == (f->extra == NULL));
    must(h->kind == STATE_MAPPING ? h->fd == -1 : h->fd >= 0 && h->fd < 65536 && h->fd != 60);
    if (h->kind == STATE_REGULAR) must(strlen(f->extra) + 1 == h->path_bytes && *(char *)f->extra == '/');
    if (h->kind == STATE_DUP) must(h->other >= 0 && h->other < h->fd);
    if (h->kind == STATE_MAPPING) must(h->offset + h->mapping_bytes > h->offset && h->offset + h->mapping_bytes < 1ull << 47);
    must(im->files <= STATE_FILES_MAX);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct image im;
    struct err e = {0};
    if (image_parse(data, size, &im, &e)) {
        must(e.code != NULL && !im.thread && !im.file && !im.action);
        return 0;
    }
    must(im.stated && !im.zygote && im.threads >= 1 && im.threads <= IMAGE_THREADS_MAX && memchr(im.cwd, 0, sizeof im.cwd));
    for (int i = 0; i < im.threads; i++) must(im.thread[i].xstate_len <= IMAGE_XSTATE_MAX && memchr(im.thread[i].name, 0, 16) && im.thread[i].tid > 0);
    for (uint32_t i = 0; i < im.files; i++) check_file(&im, &im.file[i]);
    int fd = image_write(&im, &e);
    must(fd >= 0 && lseek(fd, 0, SEEK_END) == (off_t)size);
    struct image again;
    must(!image_read(fd, &again, &e) && again.threads == im.threads && again.files == im.files && again.actions == im.actions);
    image_free(&again);
    close(fd);
    image_free(&im);
    return 0;
}
