#include <fcntl.h>
#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "driver/process/base_file.h"
#include "driver/process/image_fill.h"
#include "driver/process/image_manifest.h"
#include "driver/process/image_plan.h"

static char directory[64];

static int make_directory(void **state) {
    (void)state;
    strcpy(directory, "/tmp/cella-test-images-XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state) {
    char command[128];
    (void)state;
    (void)snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

/* ---- the index ---- */

#define A 0x10000000ull

/* Anonymous A…A+8 pages with data, base; a file at A+16 pages with data and zero. */
static void sample(struct memory_index *x) {
    *x = (struct memory_index){0};
    memory_map_add(&x->map, &(struct area){.start = A, .end = A + 8 * PAGE, .prot = 3, .kind = AREA_ANONYMOUS}, NULL);
    memory_map_add(&x->map, &(struct area){.start = A + 16 * PAGE, .end = A + 20 * PAGE, .prot = 1, .kind = AREA_FILE, .inode = 7, .offset = PAGE}, "/lib/x.so");
    memory_index_page(x, A + PAGE, RUN_DATA, PAGE);
    memory_index_page(x, A + 2 * PAGE, RUN_DATA, 2 * PAGE);
    memory_index_page(x, A + 3 * PAGE, RUN_BASE, 0);
    memory_index_cut(x);
    memory_index_page(x, A + 16 * PAGE, RUN_DATA, 3 * PAGE);
    memory_index_page(x, A + 17 * PAGE, RUN_ZERO, 0);
    buf_append(&x->state, "state", 5);
}
#define SAMPLE_END (4 * PAGE)

static void index_round_trip(void **state) {
    struct memory_index x, y;
    struct buf bytes = {0}, again = {0};
    struct err e;
    (void)state;
    sample(&x);
    memory_index_build(&x, &bytes);
    assert_int_equal(memory_index_parse(&y, bytes.data, bytes.len, SAMPLE_END, 1, &e), 0);
    assert_int_equal(y.runs, 4);
    assert_int_equal(y.run[0].pages, 2);
    assert_string_equal(memory_map_path(&y.map, &y.map.area[1]), "/lib/x.so");
    assert_int_equal(y.state.len, 5);
    memory_index_build(&y, &again);
    assert_int_equal(bytes.len, again.len);
    assert_memory_equal(bytes.data, again.data, bytes.len);
    memory_index_free(&x);
    memory_index_free(&y);
    buf_free(&bytes);
    buf_free(&again);
}

static void refused(const void *bytes, size_t n, uint64_t end, int based) {
    struct memory_index y;
    struct err e;
    assert_int_equal(memory_index_parse(&y, bytes, n, end, based, &e), -1);
    assert_string_equal(e.code, ERR_IMAGE);
    memory_index_free(&y);
}

static void index_refusals(void **state) {
    struct memory_index x;
    struct buf whole = {0};
    (void)state;
    sample(&x);
    memory_index_build(&x, &whole);
    for (size_t n = 0; n < whole.len; n++) {
        char *cut = malloc(n + 1); /* of exactly this size: a read beyond it is seen */
        memcpy(cut, whole.data, n);
        refused(cut, n, SAMPLE_END, 1);
        free(cut);
    }
    refused(whole.data, whole.len, SAMPLE_END, 0);           /* a base names no other base */
    refused(whole.data, whole.len, SAMPLE_END + PAGE, 1);    /* contents nobody names */
    refused(whole.data, whole.len, SAMPLE_END - PAGE, 1);    /* contents that are not there */
    struct { size_t at; uint64_t value; } change[] = {
        {offsetof(struct index_head, magic), 1}, {offsetof(struct index_head, areas), 0xffffffff}, {offsetof(struct index_head, vdso), 123},
        {72 + offsetof(struct area, start), A + 9 * PAGE}, {72 + offsetof(struct area, end), A + 17 * PAGE}, {72 + offsetof(struct area, end), 0x7fffffffffff000},
        {72 + offsetof(struct area, inode), 5}, {120 + offsetof(struct area, offset), 100}, {120 + offsetof(struct area, offset), INT64_MAX - PAGE + 1},
        {168 + offsetof(struct page_run, address), A + 7 * PAGE}, {168 + offsetof(struct page_run, address), A - PAGE}, {168 + offsetof(struct page_run, offset), 2 * PAGE},
        {168 + offsetof(struct page_run, pages), 0x100000000ull}, {168 + offsetof(struct page_run, pages), 0x1ffffffffull}, {192 + offsetof(struct page_run, offset), PAGE},
        {192 + offsetof(struct page_run, pages), 0x300000001ull}, {192 + offsetof(struct page_run, pages), 0x900000001ull}};
    for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
        char *copy = malloc(whole.len);
        memcpy(copy, whole.data, whole.len);
        memcpy(copy + change[i].at, &change[i].value, 8);
        refused(copy, whole.len, SAMPLE_END, 1);
        free(copy);
    }
    memory_index_free(&x);
    buf_free(&whole);
}

static void trailer(void **state) {
    struct err e;
    struct memory_trailer t = {MEMORY_MAGIC, 2 * PAGE, 100, 2 * PAGE + 100 + sizeof t};
    (void)state;
    assert_int_equal(memory_trailer_check(&t, t.file_bytes, &e), 0);
    assert_int_equal(memory_trailer_check(&t, t.file_bytes + 1, &e), -1);
    t.index_offset = UINT64_MAX - 4095;
    assert_int_equal(memory_trailer_check(&t, t.file_bytes, &e), -1);
    t.index_offset = 0;
    assert_int_equal(memory_trailer_check(&t, t.file_bytes, &e), -1);
}

/* ---- the manifest ---- */

static void manifest(void **state) {
    struct image_manifest m = {.made_at_ms = 5, .limits = {1 << 30, 1 << 20, 1000, 64, 1024}, .layer_bytes = 77}, n;
    uint8_t key[IMAGE_KEY], other[IMAGE_KEY];
    char path[128];
    struct stat st;
    struct err e;
    (void)state;
    (void)snprintf(path, sizeof path, "%s/key", directory);
    assert_int_equal(image_key(path, key, &e), 0);
    assert_int_equal(image_key(path, other, &e), 0);
    assert_memory_equal(key, other, sizeof key);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    memset(m.template_id, 'a', TEMPLATE_ID_HEX);
    (void)snprintf(m.image_id, sizeof m.image_id, "img_%032d", 1);
    arch_features_here(&m.features);
    m.slot[3] = (struct image_slot){.used = true, .language = 2, .memory = {.file_bytes = 2 * PAGE + 132, .index_offset = 2 * PAGE, .index_bytes = 100}};
    m.not_carried = json_object_new_array();
    int dir = open(directory, O_RDONLY | O_DIRECTORY);
    assert_int_equal(image_manifest_write(&m, key, dir, &e), 0);
    assert_int_equal(image_manifest_write(&m, key, dir, &e), -1); /* never over another */
    assert_int_equal(image_manifest_read(&n, key, dir, &e), 0);
    assert_int_equal(image_manifest_fits(&n, &e), 0);
    assert_true(n.slot[3].used && !n.slot[0].used && n.slot[3].memory.index_bytes == 100 && n.layer_bytes == 77);
    n.features.word[0] |= 1u << 31;
    assert_int_equal(image_manifest_fits(&n, &e), -1);
    image_manifest_free(&n);
    other[0] ^= 1;
    assert_int_equal(image_manifest_read(&n, other, dir, &e), -1);
    assert_string_equal(e.code, ERR_IMAGE);
    image_manifest_free(&n);
    image_manifest_free(&m);
    (void)unlinkat(dir, MANIFEST_NAME, 0);
    close(dir);
}

/* ---- the plan ---- */

static size_t calls_of(const struct call_tables *c, long nr) {
    size_t n = 0;
    for (size_t t = 0; t < c->tables; t++)
        for (uint32_t i = 0; i < c->table[t].count; i++) n += c->table[t].call[i].nr == (uint64_t)nr;
    return n;
}

static void plan_of_the_same(void **state) {
    struct memory_index x;
    struct same_run same[] = {{A + 3 * PAGE, A + 4 * PAGE, true}};
    const struct base_view view = {.same = same, .runs = 1};
    struct thaw_plan p;
    struct err e;
    (void)state;
    sample(&x);
    assert_int_equal(thaw_plan_make(&p, &x.map, &x, &view, &e), 0);
    /* data and zero are written, the base's page is there already; the file's area is opened for it and shut again */
    assert_int_equal(p.writes, 3);
    assert_int_equal(p.write_bytes, 4 * PAGE);
    assert_int_equal(calls_of(&p.before, SYS_mmap) + calls_of(&p.before, SYS_munmap) + calls_of(&p.before, SYS_madvise), 0);
    assert_int_equal(calls_of(&p.before, SYS_mprotect), 1);
    assert_int_equal(calls_of(&p.after, SYS_mprotect), 1);
    assert_int_equal(p.after.table[0].call[0].arg[2], PROT_READ);
    thaw_plan_free(&p);
    memory_index_free(&x);
}

static void plan_of_another(void **state) {
    struct memory_index x;
    struct memory_map now = {0};
    /* pages of the interpreter: one that the image has not, one that differs from the base */
    struct same_run same[] = {{A, A + PAGE, true}, {A + 3 * PAGE, A + 4 * PAGE, false}};
    const struct base_view view = {.same = same, .runs = 2};
    struct thaw_plan p;
    struct err e;
    (void)state;
    sample(&x);
    memory_map_add(&now, &(struct area){.start = A - PAGE, .end = A + 4 * PAGE, .prot = 3, .kind = AREA_ANONYMOUS}, NULL);
    memory_map_add(&now, &(struct area){.start = A + 16 * PAGE, .end = A + 20 * PAGE, .prot = 1, .kind = AREA_FILE, .inode = 8, .offset = PAGE}, "/lib/x.so");
    memory_map_add(&now, &(struct area){.start = A + 30 * PAGE, .end = A + 31 * PAGE, .prot = 1, .kind = AREA_STUB}, NULL);
    assert_int_equal(thaw_plan_make(&p, &now, &x, &view, &e), 0);
    assert_int_equal(calls_of(&p.before, SYS_munmap), 1);  /* what lies before A; never the stub */
    assert_int_equal(calls_of(&p.before, SYS_madvise), 1); /* A itself */
    assert_int_equal(calls_of(&p.before, SYS_mmap), 2);    /* the rest of the memory; the file, which is another one now */
    assert_int_equal(calls_of(&p.before, SYS_openat2), 1);
    assert_int_equal(calls_of(&p.before, SYS_close), 1);
    assert_int_equal(p.write_bytes, 5 * PAGE);
    assert_int_equal(p.write[1].kind, RUN_BASE);
    thaw_plan_free(&p);
    /* memory of the image where the keeper's pages are */
    memory_map_add(&x.map, &(struct area){.start = A + 30 * PAGE, .end = A + 31 * PAGE, .prot = 3, .kind = AREA_ANONYMOUS}, NULL);
    assert_int_equal(thaw_plan_make(&p, &now, &x, &view, &e), -1);
    assert_string_equal(e.code, ERR_IMAGE);
    thaw_plan_free(&p);
    memory_map_free(&now);
    memory_index_free(&x);
}

static void results_are_read(void **state) {
    struct keeper_calls k = {.count = 1};
    struct err e;
    (void)state;
    k.call[0] = (struct keeper_one_call){.nr = SYS_mmap, .arg = {A, PAGE}, .ret = (int64_t)A};
    assert_int_equal(thaw_calls_check(&k, &e), 0);
    k.call[0].ret = (int64_t)A + 4096;
    assert_int_equal(thaw_calls_check(&k, &e), -1);
    k.call[0] = (struct keeper_one_call){.nr = SYS_openat2, .arg = {0, KEEPER_SCRATCH_ADDRESS}, .ret = -2};
    k.scratch_bytes = 10;
    memcpy(k.scratch, "/a/b", 5);
    assert_int_equal(thaw_calls_check(&k, &e), -1);
    assert_non_null(strstr(e.text, "/a/b"));
    k.call[0].arg[1] = 3; /* a pointer to nowhere */
    assert_int_equal(thaw_calls_check(&k, &e), -1);
    k.call[0] = (struct keeper_one_call){.nr = SYS_openat2, .ret = 4};
    assert_int_equal(thaw_calls_check(&k, &e), -1);
}

/* ---- the search, on a child that stands still ---- */

struct child {
    pid_t pid;
    int hold[2];
    uint8_t *data, *zeros;
};

/* Its memory changes no more when it sleeps: between its sign and read(2) it still writes to its stack. */
static void wait_asleep(pid_t pid) {
    char path[64], kind = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    while (kind != 'S') {
        FILE *f = fopen(path, "re");
        assert_non_null(f);
        assert_int_equal(fscanf(f, "%*d %*s %c", &kind), 1);
        (void)fclose(f);
        if (kind != 'S') (void)usleep(1000);
    }
}

static void child_start(struct child *c) {
    char byte;
    int said[2];
    assert_int_equal(pipe(c->hold) | pipe(said), 0);
    c->data = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    c->zeros = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(c->data, 'd', 16 * PAGE);
    c->pid = fork();
    if (!c->pid) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that failed leaves nobody behind */
        c->data[3 * PAGE] = 'x'; /* its own */
        memset(c->zeros, 0, 4 * PAGE);
        (void)!write(said[1], "r", 1);
        (void)!read(c->hold[0], &byte, 1);
        _exit(0);
    }
    assert_int_equal(read(said[0], &byte, 1), 1);
    close(said[0]), close(said[1]);
    wait_asleep(c->pid);
}

static struct memory_source source_of(pid_t pid) {
    char path[64];
    struct memory_source s;
    (void)snprintf(path, sizeof path, "/proc/%d/mem", pid), s.memory_fd = open(path, O_RDONLY);
    (void)snprintf(path, sizeof path, "/proc/%d/pagemap", pid), s.pagemap_fd = open(path, O_RDONLY);
    (void)snprintf(path, sizeof path, "/proc/%d/maps", pid), s.maps_fd = open(path, O_RDONLY);
    assert_true(s.memory_fd >= 0 && s.pagemap_fd >= 0 && s.maps_fd >= 0);
    return s;
}

/* What the index says of this page; 0: nothing. */
static uint32_t kind_at(const struct memory_index *x, uint64_t address) {
    for (uint32_t i = 0; i < x->runs; i++)
        if (x->run[i].address <= address && address < x->run[i].address + x->run[i].pages * PAGE) return x->run[i].kind;
    return 0;
}

static void search(void **state) {
    struct child one, two;
    struct err e;
    struct memory_written w;
    const struct buf nothing = {0};
    (void)state;
    child_start(&one);
    struct memory_source from = source_of(one.pid);
    struct base_view view = {.pagemap_fd = -1};
    view.base = base_file_make(directory, "t", "python", &from, &e);
    assert_non_null(view.base);
    uint32_t cursor = 0;
    assert_memory_equal(base_page(view.base, (uint64_t)one.data, &cursor), one.data, PAGE);
    assert_int_equal(base_page(view.base, (uint64_t)one.data + 3 * PAGE, &cursor)[0], 'x');
    cursor = 0;
    assert_null(base_page(view.base, (uint64_t)one.zeros, &cursor)); /* zero is not stored */
    assert_int_equal(memory_compare(&from, &view, &e), 0);
    assert_true(view.pages > 10 && view.pages == view.pages_equal);

    two = one; /* another process with the same addresses: this one's memory after the fork */
    child_start(&two);
    struct memory_source other = source_of(two.pid);
    int dir = open(directory, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < 2; i++) { /* by contents, and with the pages that the two share physically (as root they are seen) */
        view.pagemap_fd = i ? from.pagemap_fd : -1;
        assert_int_equal(memory_write(&other, &view, i == 1, &nothing, dir, "memory-0", &w, &e), 0);
        struct image_slot slot = {.used = true, .memory = w};
        struct slot_file file;
        assert_int_equal(slot_open(&file, dir, 0, &slot, &e), 0);
        assert_int_equal(kind_at(&file.index, (uint64_t)one.data), RUN_BASE);
        assert_int_equal(kind_at(&file.index, (uint64_t)two.data + 3 * PAGE), RUN_DATA);
        assert_int_equal(kind_at(&file.index, (uint64_t)two.zeros), 0);
        slot_free(&file);
        assert_int_equal(unlinkat(dir, "memory-0", 0), 0);
    }
    assert_int_equal(memory_write(&other, NULL, false, &nothing, dir, "memory-0", &w, &e), 0);
    assert_int_equal(memory_write(&other, NULL, false, &nothing, dir, "memory-0", &w, &e), -1); /* in the way */
    assert_int_equal(unlinkat(dir, "memory-0", 0), 0);
    close(dir);
    free(view.same);
    base_file_free(view.base);
    memory_source_close(&from);
    memory_source_close(&other);
    (void)!write(one.hold[1], "e", 1);
    (void)!write(two.hold[1], "e", 1);
    while (wait(NULL) > 0) continue;
}

static void odd_maps(void **state) {
    static const char *const text[] = {"", "x\n", "1000-2000 r--p 0 0:0 0", "2000-1000 r--p 00000000 00:00 0\n", "1001-2000 r--p 00000000 00:00 0\n",
                                       "1000-3000 r--p 00000000 00:00 0\n2000-4000 r--p 00000000 00:00 0\n", "1000-2000 r--p\n"};
    struct memory_map m;
    struct err e;
    (void)state;
    for (size_t i = 0; i < sizeof text / sizeof *text; i++) {
        int fd = memfd_create("maps", 0);
        assert_int_equal(write(fd, text[i], strlen(text[i])), strlen(text[i]));
        assert_int_equal(memory_map_read(&m, fd, &e), -1);
        memory_map_free(&m);
        close(fd);
    }
    int fd = memfd_create("maps", 0);
    const char *good = "1000-2000 r-xp 00001000 fd:00 12                         /a\\012b c\n3000-4000 rw-s 00000000 00:01 9    /dev/zero (deleted)\n";
    assert_int_equal(write(fd, good, strlen(good)), strlen(good));
    assert_int_equal(memory_map_read(&m, fd, &e), 0);
    assert_string_equal(memory_map_path(&m, &m.area[0]), "/a\nb c");
    assert_int_equal(m.area[0].kind, AREA_FILE);
    assert_int_equal(m.area[1].kind, AREA_SHARED);
    memory_map_free(&m);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(index_round_trip), cmocka_unit_test(index_refusals), cmocka_unit_test(trailer), cmocka_unit_test(manifest), cmocka_unit_test(plan_of_the_same),
        cmocka_unit_test(plan_of_another), cmocka_unit_test(results_are_read), cmocka_unit_test(search), cmocka_unit_test(odd_maps),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
