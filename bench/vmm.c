/* vmm: what the VMM itself costs, with the bare-metal guest of tests/microvm (no Linux). Samples on stdout, one per line: "NAME MICROSECONDS".
 *
 *   vmm VMM GUEST fork|live N MEMORY_MB PAGES VCPUS TRACK   FORK sent -> first byte the child's guest writes; of that: fork(2), and how long the
 *                                             parent's guest stood still; then the child's end. PAGES: touched by the guest before.
 *                                             fork: the parent is paused, as a template is; live: its guest computes all the while.
 *   vmm VMM GUEST create N MEMORY_MB          exec of the VMM -> first byte its guest writes; of that: until READY; then its end
 *   vmm VMM GUEST restore N MEMORY_MB PAGES   snapshot of a guest that touched PAGES: exec -> first byte; RESTORE alone
 *   vmm VMM GUEST floor N MEMORY_MB PAGES     the same memory touched in a bare process: fork(2) + KVM_CREATE_VM in the child, told by a pipe
 *
 * Run as root. Any answer that is not the right one ends the program with status 1. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "wire/vmm_proto.h"

static const char *vmm_path, *guest_path;

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void must(int good, const char *what) {
    if (good) return;
    perror(what);
    exit(1);
}

/* ---- a VMM ---- */

struct vmm {
    int control, console; /* console: read end of its guest's console */
    pid_t pid;            /* of one we started, else 0 */
};

static void send_request(int fd, uint32_t type, const uint64_t *arg, unsigned args, const char *text, const int *fds, unsigned n) {
    struct vmm_message m = {.type = type, .seq = 1, .bytes = text ? (uint32_t)strlen(text) : 0};
    char room[CMSG_SPACE(sizeof(int) * 3)] = {0};
    struct iovec v[] = {{&m, sizeof m}, {(void *)text, m.bytes}};
    struct msghdr h = {.msg_iov = v, .msg_iovlen = text ? 2 : 1};
    memcpy(m.arg, arg, args * sizeof *arg);
    if (n) {
        h.msg_control = room, h.msg_controllen = CMSG_SPACE(sizeof(int) * n);
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int) * n);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
    }
    must(sendmsg(fd, &h, 0) > 0, "request");
}

static struct vmm_message receive(int fd, uint32_t type) {
    char packet[sizeof(struct vmm_message) + VMM_TEXT_MAX];
    struct vmm_message m;
    const ssize_t n = recv(fd, packet, sizeof packet, 0);
    must(n >= (ssize_t)sizeof m, "answer");
    memcpy(&m, packet, sizeof m);
    if (m.type == type && !m.status) return m;
    fprintf(stderr, "answer %u, status %d: %.*s\n", m.type, m.status, (int)m.bytes, packet + sizeof m);
    exit(1);
}

static void ask(int fd, uint32_t type, const uint64_t *arg, unsigned args, const char *text, const int *fds, unsigned n) {
    send_request(fd, type, arg, args, text, fds, n);
    (void)receive(fd, type);
}

static void send_console(struct vmm *v) {
    int ends[2];
    const uint64_t most = 64;
    must(pipe2(ends, O_CLOEXEC) == 0, "pipe");
    send_request(v->control, VMM_CONSOLE_TO, &most, 1, NULL, &ends[1], 1);
    close(ends[1]);
    v->console = ends[0];
}

static struct vmm spawn(void) {
    int pair[2];
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
    const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    must(kvm >= 0, "/dev/kvm");
    const pid_t pid = vfork();
    if (!pid) {
        dup2(fcntl(pair[1], F_DUPFD, 100), 3), dup2(fcntl(kvm, F_DUPFD, 100), 4);
        execl(vmm_path, vmm_path, "--user", "64321:64321", (char *)NULL);
        _exit(127);
    }
    close(pair[1]), close(kvm);
    return (struct vmm){.control = pair[0], .console = -1, .pid = pid};
}

static void configure(const struct vmm *v, uint64_t mb, uint64_t vcpus, uint64_t track) {
    ask(v->control, VMM_CONFIG, (uint64_t[]){mb << 20, vcpus, track}, 3, NULL, NULL, 0);
}

static void boot(const struct vmm *v, const char *line) {
    const int kernel = open(guest_path, O_RDONLY | O_CLOEXEC);
    must(kernel >= 0, guest_path);
    ask(v->control, VMM_BOOT, NULL, 0, line, &kernel, 1);
    close(kernel);
}

static void first_byte(const struct vmm *v) {
    char c;
    must(read(v->console, &c, 1) == 1, "console");
}

/* STOP -> everything of it is gone, as its socket's end shows. Its answers are read away. */
static double end(struct vmm *v) {
    const double from = now_us();
    char packet[sizeof(struct vmm_message) + 1024];
    send_request(v->control, VMM_STOP, NULL, 0, NULL, NULL, 0);
    while (recv(v->control, packet, sizeof packet, 0) > 0) continue;
    if (v->pid) must(waitpid(v->pid, NULL, 0) == v->pid, "wait");
    close(v->control), close(v->console);
    return now_us() - from;
}

/* ---- measures ---- */

static struct vmm running(uint64_t mb, uint64_t pages, uint64_t vcpus, uint64_t track) {
    char line[64], text[64];
    snprintf(line, sizeof line, "tick %llu", (unsigned long long)pages);
    struct vmm v = spawn();
    (void)receive(v.control, VMM_READY);
    configure(&v, mb, vcpus, track);
    send_console(&v);
    (void)receive(v.control, VMM_CONSOLE_TO);
    boot(&v, line);
    ask(v.control, VMM_RESUME, NULL, 0, NULL, NULL, 0);
    for (size_t got = 0; got < 64;) { /* all that the console's copy takes: every page is touched by then */
        const ssize_t n = read(v.console, text, sizeof text);
        must(n > 0, "console");
        got += (size_t)n;
    }
    return v;
}

static void measure_fork(int n, uint64_t mb, uint64_t pages, uint64_t vcpus, uint64_t track, int live) {
    struct vmm parent = running(mb, pages, vcpus, track);
    if (!live) ask(parent.control, VMM_PAUSE, NULL, 0, NULL, NULL, 0);
    for (int i = 0; i < n; i++) {
        int pair[2];
        must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
        struct vmm child = {.control = pair[0], .console = -1};
        const double from = now_us();
        send_console(&child); /* in the child's socket before there is a child */
        send_request(child.control, VMM_RESUME, NULL, 0, NULL, NULL, 0);
        send_request(parent.control, VMM_FORK, NULL, 0, NULL, &pair[1], 1);
        close(pair[1]);
        first_byte(&child);
        const double first = now_us();
        const struct vmm_message m = receive(parent.control, VMM_FORK);
        printf("first %.1f\nfork2 %llu\nfrozen %llu\n", first - from, (unsigned long long)m.arg[1], (unsigned long long)m.arg[2]);
        printf("end %.1f\n", end(&child));
    }
    (void)end(&parent);
}

static void measure_create(int n, uint64_t mb) {
    for (int i = 0; i < n; i++) {
        const double from = now_us();
        struct vmm v = spawn();
        (void)receive(v.control, VMM_READY);
        const double ready = now_us();
        configure(&v, mb, 1, 1);
        send_console(&v);
        (void)receive(v.control, VMM_CONSOLE_TO);
        boot(&v, "tick 0");
        ask(v.control, VMM_RESUME, NULL, 0, NULL, NULL, 0);
        first_byte(&v);
        printf("ready %.1f\ncreate %.1f\n", ready - from, now_us() - from);
        printf("end %.1f\n", end(&v));
    }
}

static void measure_restore(int n, uint64_t mb, uint64_t pages) {
    char name[] = "/var/tmp/cella-bench-XXXXXX";
    int files[2];
    for (int i = 0; i < 2; i++) {
        strcpy(name + sizeof name - 7, "XXXXXX");
        files[i] = mkstemp(name);
        must(files[i] >= 0 && unlink(name) == 0, "file");
    }
    struct vmm v = running(mb, pages, 1, 1);
    send_request(v.control, VMM_SNAPSHOT, NULL, 0, NULL, files, 2);
    const struct vmm_message s = receive(v.control, VMM_SNAPSHOT);
    printf("# pages %llu\nsnapshot_frozen %llu\n", (unsigned long long)s.arg[0], (unsigned long long)s.arg[1]);
    (void)end(&v);
    for (int i = 0; i < n; i++) {
        const double from = now_us();
        v = spawn();
        (void)receive(v.control, VMM_READY);
        configure(&v, mb, 1, 1);
        send_console(&v);
        (void)receive(v.control, VMM_CONSOLE_TO);
        const double before = now_us();
        ask(v.control, VMM_RESTORE, NULL, 0, NULL, files, 2);
        const double after = now_us();
        ask(v.control, VMM_RESUME, NULL, 0, NULL, NULL, 0);
        first_byte(&v);
        printf("restore %.1f\nfirst %.1f\n", after - before, now_us() - from);
        (void)end(&v);
    }
}

/* What every machine needs after KVM_CREATE_VM. */
static int made(int kvm, int vm, uint8_t *memory, uint64_t mb) {
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entry[128];
    } cpuid = {.head.nent = 128};
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
    struct kvm_userspace_memory_region r = {.memory_size = mb << 20, .userspace_addr = (uint64_t)memory};
    if (ioctl(vm, KVM_ENABLE_CAP, &split) < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r) < 0) return -1;
    const int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    return vcpu < 0 || ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) < 0 ? -1 : ioctl(vcpu, KVM_SET_CPUID2, &cpuid);
}

static double one_floor(int kvm, uint8_t *memory, uint64_t mb, int whole) {
    int ends[2];
    char c;
    must(pipe(ends) == 0, "pipe");
    const double from = now_us();
    const pid_t pid = fork();
    if (!pid) {
        const int vm = ioctl(kvm, KVM_CREATE_VM, 0);
        _exit(vm >= 0 && (!whole || made(kvm, vm, memory, mb) == 0) && write(ends[1], "x", 1) == 1 ? 0 : 1);
    }
    must(read(ends[0], &c, 1) == 1, "child");
    const double took = now_us() - from;
    must(waitpid(pid, NULL, 0) == pid, "wait");
    close(ends[0]), close(ends[1]);
    return took;
}

static void measure_floor(int n, uint64_t mb, uint64_t pages) {
    uint8_t *memory = mmap(NULL, mb << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    must(memory != MAP_FAILED, "memory");
    (void)madvise(memory, mb << 20, MADV_HUGEPAGE);
    for (uint64_t i = 0; i < pages; i++) memory[(4u << 20) + i * 4096] = 1;
    const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    must(kvm >= 0, "/dev/kvm");
    for (int i = 0; i < n; i++) {
        printf("floor %.1f\n", one_floor(kvm, memory, mb, 0));
        printf("made %.1f\n", one_floor(kvm, memory, mb, 1));
    }
}

int main(int argc, char **argv) {
    uint64_t a[5] = {0, 0, 0, 1, 1};
    if (argc < 6) return 2;
    vmm_path = argv[1], guest_path = argv[2];
    for (int i = 0; i < 5 && i + 4 < argc; i++) a[i] = strtoull(argv[i + 4], NULL, 10);
    const int n = (int)a[0];
    signal(SIGPIPE, SIG_IGN);
    const int live = !strcmp(argv[3], "live");
    if (live || !strcmp(argv[3], "fork")) measure_fork(n, a[1], a[2], a[3], a[4], live);
    else if (!strcmp(argv[3], "create")) measure_create(n, a[1]);
    else if (!strcmp(argv[3], "restore")) measure_restore(n, a[1], a[2]);
    else if (!strcmp(argv[3], "floor")) measure_floor(n, a[1], a[2]);
    else return 2;
    return 0;
}
