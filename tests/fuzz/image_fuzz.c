/* Fuzz target (libFuzzer): what the daemon reads of an image: the list of a context's memory, the plan made of it, the manifest.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc -I/usr/include/json-c tests/fuzz/image_fuzz.c \
 *     src/driver/process/image_format.c src/driver/process/image_plan.c src/driver/process/image_manifest.c src/driver/image/sealed.c src/driver/process/memory_map.c \
 *     src/driver/process/arch_x86_64.c src/base/err.c src/base/buf.c src/base/id.c -ljson-c -lcrypto -luv \
 *     -o /tmp/image_fuzz
 *   /tmp/image_fuzz -max_total_time=10 tests/fuzz/image_corpus
 *
 * What must hold: what is accepted is written again as it was; the plan touches neither the keeper's pages nor the kernel's, writes within the
 * image's areas only, and reads contents within the file only. */
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "driver/process/image_manifest.h"
#include "driver/process/image_plan.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void must(int holds) {
    if (!holds) abort();
}

static void now_is(struct memory_map *m) {
    const struct area area[] = {
        {.start = 0x400000, .end = 0x500000, .prot = 5, .kind = AREA_FILE, .inode = 3}, {.start = 0x10000000, .end = 0x10100000, .prot = 3, .kind = AREA_HEAP},
        {.start = 0x200000000000, .end = 0x200000006000, .prot = 5, .kind = AREA_STUB}, {.start = 0x7ffff7fc1000, .end = 0x7ffff7fc5000, .prot = 1, .kind = AREA_KERNEL},
        {.start = 0x7ffffffde000, .end = 0x7ffffffff000, .prot = 3, .kind = AREA_STACK}};
    for (size_t i = 0; i < sizeof area / sizeof *area; i++) memory_map_add(m, &area[i], area[i].kind == AREA_FILE ? "/usr/bin/python3" : NULL);
}

static int fixed(const struct memory_map *now, uint64_t at, uint64_t bytes) {
    for (uint32_t i = 0; i < now->areas; i++)
        if ((now->area[i].kind == AREA_STUB || now->area[i].kind == AREA_KERNEL) && at < now->area[i].end && at + bytes > now->area[i].start) return 1;
    return 0;
}

static void check_tables(const struct call_tables *c, const struct memory_map *now) {
    for (size_t t = 0; t < c->tables; t++) {
        must(c->table[t].count <= KEEPER_CALLS_MAX && c->table[t].scratch_bytes <= KEEPER_SCRATCH_MAX);
        for (uint32_t i = 0; i < c->table[t].count; i++) {
            const struct keeper_one_call *k = &c->table[t].call[i];
            if (k->nr == SYS_mmap || k->nr == SYS_munmap || k->nr == SYS_mprotect || k->nr == SYS_madvise)
                must(k->arg[1] && k->arg[0] + k->arg[1] <= ADDRESS_END && !fixed(now, k->arg[0], k->arg[1]));
        }
    }
}

static void check_plan(const struct memory_index *x, uint64_t data_end) {
    struct memory_map now = {0};
    struct same_run same[] = {{0x480000, 0x481000, false}, {0x10000000, 0x10004000, true}, {0x10008000, 0x10009000, false}};
    const struct base_view view = {.same = same, .runs = 3};
    struct thaw_plan p;
    struct err e;
    now_is(&now);
    if (!thaw_plan_make(&p, &now, x, &view, &e)) {
        uint64_t end = 0;
        check_tables(&p.before, &now);
        check_tables(&p.after, &now);
        for (size_t i = 0; i < p.writes; i++) {
            const struct page_write *w = &p.write[i];
            must(w->address >= end && w->bytes && w->address + w->bytes <= ADDRESS_END && !fixed(&now, w->address, w->bytes));
            if (w->kind == RUN_DATA) must(w->offset >= PAGE && w->offset + w->bytes <= data_end);
            end = w->address + w->bytes;
        }
        (void)thaw_files_check(&now, x, &e);
    }
    thaw_plan_free(&p);
    memory_map_free(&now);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct image_manifest m;
    struct memory_index x;
    struct buf again = {0};
    struct err e;
    if (size < 2) return 0;
    if (data[0] == '{') {
        (void)image_manifest_parse(&m, (const char *)data, size, &e);
        image_manifest_free(&m);
        return 0;
    }
    const uint64_t data_end = (uint64_t)data[0] * PAGE; /* how many pages of contents the file is said to have */
    char *exact = malloc(size - 1);
    memcpy(exact, data + 1, size - 1);
    if (!memory_index_parse(&x, exact, size - 1, data_end, data[0] & 1, &e)) {
        memory_index_build(&x, &again);
        must(again.len >= sizeof(struct index_head));
        struct memory_index y;
        must(!memory_index_parse(&y, again.data, again.len, data_end, data[0] & 1, &e) && y.runs == x.runs && y.map.areas == x.map.areas);
        memory_index_free(&y);
        check_plan(&x, data_end);
    }
    memory_index_free(&x);
    buf_free(&again);
    free(exact);
    return 0;
}
