/* PID 1 of the Linux guest of the ring: loads the modules of the virtio devices, says what it found, and answers packets on vsock port 5.
 *   "e…" the same bytes      "c" a counter of a process of its own, one higher      "l" the next line of an open file
 *   "w N" writes N pages     "n" how many of them still hold what was written       "r" 16 bytes of getrandom
 *   "m N" writes N MiB and frees them
 *   "d" what the disks said  "k" CPUs online   "t" CLOCK_MONOTONIC in ms            "b" counts of a thread that never stops   "q" reboots */
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char report[2048];
static volatile unsigned long busy;
static unsigned char *pages;
static unsigned long pages_written;
static FILE *lines;
static int counter_in, counter_out;

static void modules(void) {
    char name[128], path[160];
    FILE *list = fopen("/modules/order", "r");
    while (list && fgets(name, sizeof name, list)) {
        name[strcspn(name, "\n")] = 0;
        snprintf(path, sizeof path, "/modules/%s", name);
        const int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)) printf("init: module %s: %s\n", name, strerror(errno));
        if (fd >= 0) close(fd);
    }
    if (list) fclose(list);
}

static void add(const char *what, const char *text) {
    snprintf(report + strlen(report), sizeof report - strlen(report), "%s=%s ", what, text);
}

static void file(const char *what, const char *path) {
    char text[64] = "";
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    for (ssize_t i = 0; i < n; i++)
        if (text[i] < 33) text[i] = 0;
    add(what, n < 0 ? strerror(errno) : text);
    if (fd >= 0) close(fd);
}

static void disks(void) {
    char block[4096] = "written by linux", back[4096] = "";
    file("vda", "/dev/vda");
    file("ro", "/sys/block/vdb/ro");
    file("mac", "/sys/class/net/eth0/address");
    file("rng", "/sys/class/misc/hw_random/rng_current");
    const int fd = open("/dev/vda", O_RDWR | O_CLOEXEC | O_DIRECT);
    void *page = aligned_alloc(4096, 4096);
    memcpy(page, block, sizeof block);
    const int wrote = fd >= 0 && pwrite(fd, page, 4096, 8192) == 4096 && fdatasync(fd) == 0;
    memset(page, 0, 4096);
    if (wrote && pread(fd, page, 4096, 8192) == 4096) memcpy(back, page, 64);
    add("back", wrote && !strcmp(back, block) ? "same" : "no");
    if (fd >= 0) close(fd);
    free(page);
}

/* A process of its own that only counts: whether it is carried shows whether processes are. */
static void counter_start(void) {
    int to[2], from[2];
    if (pipe(to) < 0 || pipe(from) < 0) return;
    counter_in = to[1], counter_out = from[0];
    if (fork()) return;
    char c;
    for (unsigned long n = 1; read(to[0], &c, 1) == 1; n++)
        if (write(from[1], &n, sizeof n) != sizeof n) break;
    _exit(0);
}

static void *count(void *arg) {
    for (;;) busy++;
    return arg;
}

static size_t number(char *out, unsigned long n) { return (size_t)sprintf(out, "%lu", n); }

static size_t answer(const char *in, size_t n, char *out) {
    struct timespec t;
    unsigned long v = 0, k;
    switch (in[0]) {
    case 'c': return write(counter_in, "x", 1) == 1 && read(counter_out, &v, sizeof v) == sizeof v ? number(out, v) : number(out, 0);
    case 'l': return fgets(out, 64, lines) ? strcspn(out, "\n") : 0;
    case 'w':
        for (k = strtoul(in + 1, NULL, 10); k; k--) memset(pages + pages_written * 4096, (int)(pages_written % 251 + 1), 4096), pages_written++;
        return number(out, pages_written);
    case 'n':
        for (k = 0; k < pages_written; k++) v += pages[k * 4096 + 4095] == k % 251 + 1;
        return number(out, v);
    case 'm': {
        const size_t size = strtoul(in + 1, NULL, 10) << 20;
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(p, 1, size);
        munmap(p, size);
        return number(out, size);
    }
    case 'r': return syscall(SYS_getrandom, out, 16, 0) == 16 ? 16 : 0;
    case 'd': return (size_t)sprintf(out, "%s", report);
    case 'k': return number(out, (unsigned long)sysconf(_SC_NPROCESSORS_ONLN));
    case 't': clock_gettime(CLOCK_MONOTONIC, &t); return number(out, (unsigned long)t.tv_sec * 1000 + (unsigned long)t.tv_nsec / 1000000);
    case 'b': return number(out, busy);
    case 'q': reboot(RB_AUTOBOOT); return 0;
    default: memcpy(out, in, n); return n;
    }
}

static void *serve(void *arg) {
    const int fd = (int)(long)arg;
    char *in = malloc(65537), *out = malloc(65537);
    for (ssize_t n; (n = recv(fd, in, 65536, 0)) > 0;) {
        in[n] = 0;
        const size_t k = answer(in, (size_t)n, out);
        if (send(fd, out, k, 0) != (ssize_t)k) break;
    }
    close(fd);
    free(in), free(out);
    return NULL;
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    mount("dev", "/dev", "devtmpfs", 0, NULL), mount("proc", "/proc", "proc", 0, NULL), mount("sys", "/sys", "sysfs", 0, NULL);
    printf("init: first program\n");
    modules();
    disks();
    counter_start();
    pages = mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    lines = fopen("/lines", "r");
    printf("init: %s\n", report);
    const struct sockaddr_vm any = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 5};
    const int listener = socket(AF_VSOCK, SOCK_SEQPACKET, 0);
    pthread_t t;
    if (listener < 0 || bind(listener, (const struct sockaddr *)&any, sizeof any) < 0 || listen(listener, 16) < 0) printf("init: vsock: %s\n", strerror(errno));
    FILE *line = fopen("/proc/cmdline", "r");
    char text[1024] = "";
    if (line && fgets(text, sizeof text, line) && strstr(text, "busy")) pthread_create(&t, NULL, count, NULL);
    printf("init: listening\n");
    for (;;) {
        const int fd = accept(listener, NULL, NULL);
        if (fd >= 0) pthread_create(&t, NULL, serve, (void *)(long)fd);
        else sleep(1);
    }
}
