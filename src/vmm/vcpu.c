#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "vmm/filters.h"
#include "vmm/machine.h"

static void exit_serve(struct vcpu *v) {
    struct machine *m = v->machine;
    struct kvm_run *r = v->run;
    switch (r->exit_reason) {
    case KVM_EXIT_IO:
        bus_port(m, r->io.port, r->io.direction == KVM_EXIT_IO_OUT, (uint8_t *)r + r->io.data_offset, r->io.size, r->io.count);
        break;
    case KVM_EXIT_MMIO: bus_memory(m, r->mmio.phys_addr, r->mmio.is_write, r->mmio.data, r->mmio.len); break;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IOAPIC_EOI: break;
    case KVM_EXIT_HLT: break; /* with the local APICs in the kernel it waits there */
    case KVM_EXIT_SHUTDOWN: machine_over(m, VMM_END_SHUTDOWN, "the guest reset its processor"); break;
    case KVM_EXIT_SYSTEM_EVENT: machine_over(m, VMM_END_SHUTDOWN, "the guest shut down (event %u)", r->system_event.type); break;
    case KVM_EXIT_FAIL_ENTRY:
        machine_over(m, VMM_END_KVM_ERROR, "the processor refuses the guest's state (%#llx)", (unsigned long long)r->fail_entry.hardware_entry_failure_reason);
        break;
    case KVM_EXIT_INTERNAL_ERROR: machine_over(m, VMM_END_KVM_ERROR, "KVM gives up on the guest's instruction (%u)", r->internal.suberror); break;
    default: machine_over(m, VMM_END_KVM_ERROR, "exit %u, which this VMM does not know", r->exit_reason);
    }
}

/* Wait while the machine is paused. */
static void park(struct vcpu *v) {
    struct machine *m = v->machine;
    pthread_mutex_lock(&m->lock);
    m->vcpus_parked++;
    pthread_cond_signal(&m->parked);
    while (m->pause) pthread_cond_wait(&m->go, &m->lock);
    m->vcpus_parked--;
    pthread_mutex_unlock(&m->lock);
}

#define AGAIN_MAX 10000u /* in a second: a vCPU that waits for its start is told so when something wakes it; one that cannot run, at once and always */

/* KVM_RUN says EAGAIN: true when it has been saying nothing else. */
static bool stuck(int64_t *since_ms, unsigned *times) {
    const int64_t now = monotonic_ms();
    if (now - *since_ms > 1000) *since_ms = now, *times = 0;
    return ++*times > AGAIN_MAX;
}

void *vcpu_thread(void *arg) {
    struct vcpu *v = arg;
    struct machine *m = v->machine;
    struct err e;
    int64_t since_ms = 0;
    unsigned times = 0;
    if (filters_apply(FILTER_VCPU, &e) < 0) machine_over(m, VMM_END_KVM_ERROR, "%s", e.text);
    for (;;) {
        const bool pause = __atomic_load_n(&m->pause, __ATOMIC_ACQUIRE);
        if (pause) v->run->immediate_exit = 1; /* completes the last exit, then returns at once */
        if (ioctl(v->fd, KVM_RUN, 0) == 0) {
            v->exits++;
            exit_serve(v);
        } else if (pause && (errno == EINTR || __atomic_load_n(&m->end, __ATOMIC_RELAXED) != VMM_END_NONE)) { /* over: KVM_RUN may fail for ever */
            park(v);
            v->run->immediate_exit = 0;
        } else if (errno != EINTR && (errno != EAGAIN || stuck(&since_ms, &times))) {
            machine_over(m, VMM_END_KVM_ERROR, "KVM_RUN: %s", errno == EAGAIN ? "the kernel has no task or memory for it" : strerrordesc_np(errno));
        }
    }
    return NULL;
}
