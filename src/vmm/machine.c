#include "vmm/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"

#define VCPU_STACK (256u << 10) /* what its exits need, and a packet of a stream in its thread-local memory */

static void send_msi(void *arg, uint64_t address, uint32_t data) {
    struct kvm_msi msi = {.address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};
    (void)ioctl(((struct machine *)arg)->vm_fd, KVM_SIGNAL_MSI, &msi); /* to a local APIC that is off: nobody hears it */
}

static void over_ready(struct watch *w, uint32_t events) {
    struct machine *m = (struct machine *)((char *)w - offsetof(struct machine, over));
    uint64_t n;
    (void)events;
    if (read(w->fd, &n, sizeof n) < 0 || m->state == VMM_OVER) return;
    struct err e;
    if (machine_pause(m, &e) < 0) return;
    m->state = VMM_OVER;
    m->on_over(m);
}

static void nothing(int signal) { (void)signal; }

int machine_init(struct machine *m, int kvm_fd, struct err *e) {
    const struct sigaction kick = {.sa_handler = nothing}; /* no SA_RESTART: it ends KVM_RUN */
    m->kvm_fd = kvm_fd, m->vm_fd = -1, m->over = (struct watch){.fd = -1, .ready = over_ready};
    sigaction(SIGUSR1, &kick, NULL);
    serial_init(&m->serial, ioapic_raise, &m->ioapic);
    ioapic_init(&m->ioapic, send_msi, m);
    for (unsigned i = 0; i < VMM_VCPUS_MAX; i++) m->vcpu[i] = (struct vcpu){.fd = -1};
    const int bytes = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (bytes <= 0) return err_sys(e, errno, "KVM_GET_VCPU_MMAP_SIZE");
    m->run_bytes = (size_t)bytes;
    return arch_host_ask(&m->host, kvm_fd, e);
}

/* ---- what it consists of ---- */

static struct virtio_irq line(struct machine *m, unsigned window) {
    return (struct virtio_irq){.raise = ioapic_raise, .arg = &m->ioapic, .line = MACHINE_DEVICE_LINE + window};
}

int machine_configure(struct machine *m, uint64_t memory_bytes, unsigned vcpus, bool track, struct err *e) {
    if (m->memory.base) return err_set(e, ERR_CONFLICT, "the machine is configured already");
    if (!vcpus || vcpus > VMM_VCPUS_MAX) return err_set(e, ERR_INVALID, "%u vCPUs (1 to %d are possible)", vcpus, VMM_VCPUS_MAX);
    if (memory_make(&m->memory, memory_bytes, track, e) < 0) return -1;
    m->vcpus = vcpus;
    m->device[DEVICE_RNG] = rng_make(&m->memory, line(m, DEVICE_RNG));
    m->device[DEVICE_BALLOON] = balloon_make(&m->memory, line(m, DEVICE_BALLOON));
    m->device[DEVICE_STREAM] = stream_make(&m->memory, line(m, DEVICE_STREAM), &m->loop);
    return 0;
}

int machine_disk(struct machine *m, unsigned index, int fd, bool read_only, struct err *e) {
    struct virtio_dev **d = &m->device[DEVICE_DISK + index];
    if (!m->memory.base || (!*d && m->vm_fd >= 0)) {
        close(fd);
        return err_set(e, ERR_CONFLICT, "a machine that is made gets no further disk");
    }
    if (!*d) *d = block_make(index, &m->memory, line(m, DEVICE_DISK + index));
    return block_attach(*d, fd, read_only, e);
}

int machine_net(struct machine *m, int fd, uint64_t mac, struct err *e) {
    struct virtio_dev **d = &m->device[DEVICE_NET];
    if (!m->memory.base || (!*d && m->vm_fd >= 0)) {
        close(fd);
        return err_set(e, ERR_CONFLICT, "a machine that is made gets no network afterwards");
    }
    if (!*d) *d = net_make(&m->memory, line(m, DEVICE_NET), &m->loop);
    return net_attach(*d, fd, mac, e);
}

/* ---- KVM ---- */

static int slot(struct machine *m, uint32_t number, uint64_t address, uint64_t at, uint64_t bytes, struct err *e) {
    struct kvm_userspace_memory_region r = {.slot = number, .flags = m->memory.dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0, .guest_phys_addr = address,
                                            .memory_size = bytes, .userspace_addr = (uint64_t)(m->memory.base + at)};
    if (!bytes || ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &r) == 0) return 0;
    return err_sys(e, errno, "guest memory at %#llx", (unsigned long long)address);
}

static int vcpu_make(struct machine *m, unsigned i, struct err *e) {
    struct vcpu *v = &m->vcpu[i];
    *v = (struct vcpu){.machine = m, .index = i, .exits = v->exits};
    v->fd = ioctl(m->vm_fd, KVM_CREATE_VCPU, i);
    if (v->fd < 0) return err_sys(e, errno, "KVM_CREATE_VCPU");
    v->run = mmap(NULL, m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (v->run == MAP_FAILED) return err_sys(e, errno, "shared page of a vCPU");
    return arch_cpuid_set(&m->host, v->fd, i, m->vcpus, e);
}

int machine_kvm(struct machine *m, struct err *e) {
    const uint64_t low = memory_low(&m->memory);
    if (!m->memory.base || m->vm_fd >= 0) return err_set(e, ERR_CONFLICT, "the machine is not configured, or made already");
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->parked, NULL);
    pthread_cond_init(&m->go, NULL);
    m->over.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (m->over.fd < 0) return err_sys(e, errno, "eventfd");
    loop_watch(&m->loop, &m->over, EPOLLIN);
    m->vm_fd = ioctl(m->kvm_fd, KVM_CREATE_VM, 0);
    if (m->vm_fd < 0) return err_sys(e, errno, "KVM_CREATE_VM");
    if (arch_vm_prepare(m->vm_fd, e) < 0 || slot(m, 0, 0, 0, low, e) < 0 || slot(m, 1, MEMORY_HIGH, low, m->memory.bytes - low, e) < 0) return -1;
    for (unsigned i = 0; i < m->vcpus; i++)
        if (vcpu_make(m, i, e) < 0) return -1;
    return 0;
}

/* ---- running and standing still ---- */

static void wait_parked(struct machine *m) {
    pthread_mutex_lock(&m->lock);
    while (m->threads && m->vcpus_parked < m->vcpus) pthread_cond_wait(&m->parked, &m->lock);
    pthread_mutex_unlock(&m->lock);
}

/* Made when the machine runs for the first time, so that no thread is woken only to wait. */
static int threads_make(struct machine *m, struct err *e) {
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, VCPU_STACK);
    m->threads = true;
    int bad = 0;
    for (unsigned i = 0; i < m->vcpus && !bad; i++) bad = pthread_create(&m->vcpu[i].thread, &attr, vcpu_thread, &m->vcpu[i]);
    pthread_attr_destroy(&attr);
    return bad ? err_sys(e, bad, "thread of a vCPU") : 0;
}

void machine_ready(struct machine *m) {
    m->pause = m->threads = false, m->vcpus_parked = 0;
    m->state = VMM_PAUSED;
}

int machine_pause(struct machine *m, struct err *e) {
    if (m->state == VMM_PAUSED) {
        wait_parked(m);
        return 0;
    }
    if (m->state != VMM_RUNNING) return err_set(e, ERR_CONFLICT, "the machine does not run");
    __atomic_store_n(&m->pause, true, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < m->vcpus; i++) {
        m->vcpu[i].run->immediate_exit = 1;
        pthread_kill(m->vcpu[i].thread, SIGUSR1);
    }
    wait_parked(m);
    m->state = VMM_PAUSED;
    return 0;
}

int machine_resume(struct machine *m, struct err *e) {
    if (m->state == VMM_RUNNING) return 0;
    if (m->state != VMM_PAUSED) return err_set(e, ERR_CONFLICT, "the machine is not made, or over");
    for (unsigned i = 0; i < MACHINE_DEVICES_MAX; i++) {
        const struct virtio_dev *d = m->device[i];
        const char *why = d && d->ops->missing ? d->ops->missing(d) : NULL;
        if (why) return err_set(e, ERR_CONFLICT, "%s", why);
    }
    stream_resume(m->device[DEVICE_STREAM]);
    m->state = VMM_RUNNING;
    if (!m->threads) return threads_make(m, e);
    pthread_mutex_lock(&m->lock);
    __atomic_store_n(&m->pause, false, __ATOMIC_SEQ_CST);
    pthread_cond_broadcast(&m->go);
    pthread_mutex_unlock(&m->lock);
    return 0;
}

void machine_over(struct machine *m, enum vmm_end end, const char *fmt, ...) {
    const uint64_t one = 1;
    va_list ap;
    pthread_mutex_lock(&m->lock);
    if (m->end == VMM_END_NONE) {
        va_start(ap, fmt);
        (void)vsnprintf(m->end_text, sizeof m->end_text, fmt, ap);
        va_end(ap);
        __atomic_store_n(&m->end, end, __ATOMIC_RELAXED);
    }
    /* Nothing of the guest runs from here on; the loop pauses the others. */
    __atomic_store_n(&m->pause, true, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&m->lock);
    if (write(m->over.fd, &one, sizeof one) < 0) return; /* a full counter has been told already */
}

/* ---- carrying it over ---- */

int machine_save(struct machine *m, struct err *e) {
    for (unsigned i = 0; i < m->vcpus; i++)
        if (arch_vcpu_save(&m->host, m->vcpu[i].fd, &m->saved[i], e) < 0) return -1;
    return arch_clock_save(m->vm_fd, &m->clock_ns, e);
}

int machine_load(struct machine *m, struct err *e) {
    if (arch_clock_load(m->vm_fd, m->clock_ns, e) < 0) return -1;
    for (unsigned i = 0; i < m->vcpus; i++)
        if (arch_vcpu_load(&m->host, m->vcpu[i].fd, &m->saved[i], e) < 0) return -1;
    return 0;
}

int machine_harvest(struct machine *m, struct err *e) {
    const uint64_t low = memory_low(&m->memory) / MEMORY_PAGE;
    if (!m->memory.dirty) return 0;
    cleanup_free uint64_t *log = calloc(1, memory_dirty_bytes(&m->memory));
    if (!log) return err_sys(e, ENOMEM, "log of written pages");
    for (uint32_t s = 0; s < (memory_pages(&m->memory) > low ? 2u : 1u); s++) { /* the second slot begins at a multiple of 64 pages */
        struct kvm_dirty_log ask = {.slot = s, .dirty_bitmap = log};
        if (ioctl(m->vm_fd, KVM_GET_DIRTY_LOG, &ask) < 0) return err_sys(e, errno, "KVM_GET_DIRTY_LOG");
        const uint64_t first = s ? low / 64 : 0, pages = s ? memory_pages(&m->memory) - low : low;
        for (uint64_t i = 0; i < (pages + 63) / 64; i++) m->memory.dirty[first + i] |= log[i];
    }
    return 0;
}

int machine_forked(struct machine *m, struct err *e) {
    for (unsigned i = 0; i < m->vcpus; i++) {
        munmap(m->vcpu[i].run, m->run_bytes);
        close(m->vcpu[i].fd);
        m->vcpu[i].fd = -1;
    }
    close_fd(&m->vm_fd);
    close_fd(&m->over.fd);
    m->over.added = false;
    close_fd(&m->loop.epoll_fd);
    pthread_mutex_init(&m->ioapic.lock, NULL);
    serial_forked(&m->serial);
    for (unsigned i = 0; i < MACHINE_DEVICES_MAX; i++)
        if (m->device[i]) virtio_forked(m->device[i]);
    m->state = VMM_EMPTY, m->forked_from_parent = true;
    return loop_make(&m->loop, e);
}
