#include "vmm/arch.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/ioapic.h"

#define MSR_TSC 0x10u
#define MSR_TSC_DEADLINE 0x6e0u

/* ---- CPUID: what a guest may see ---- */

/* Bits taken away: what would need state that is not carried, or a device that is not there. */
static void filter(struct kvm_cpuid_entry2 *e) {
    switch (e->function) {
    case 1:
        e->ecx &= ~(1u << 3 | 1u << 5 | 1u << 15); /* MONITOR, VMX, PDCM */
        e->ecx |= 1u << 31 | 1u << 24;             /* a hypervisor; TSC-deadline timer (the local APIC is KVM's) */
        break;
    case 7:
        if (e->index) break;
        e->ebx &= ~(1u << 2);                               /* SGX */
        e->edx &= ~(1u << 22 | 1u << 24 | 1u << 25);        /* AMX: more than KVM_GET_XSAVE's 4 KiB */
        break;
    case 0xa: e->eax = e->ebx = e->ecx = e->edx = 0; break; /* no performance counters */
    case 0xd:
        if (e->index == 0) e->eax &= ~(3u << 17); /* AMX */
        if (e->index == 17 || e->index == 18) e->eax = e->ebx = e->ecx = e->edx = 0;
        break;
    case 0x40000001: e->eax &= ~(1u << 4 | 1u << 10 | 1u << 14); break; /* asynchronous page faults: tokens in flight do not survive a fork */
    case 0x80000001: e->ecx &= ~(1u << 2 | 1u << 23 | 1u << 24); break; /* SVM, counters */
    case 0x8000000a: e->eax = e->ebx = e->ecx = e->edx = 0; break;
    default: break;
    }
}

static void topology(struct kvm_cpuid_entry2 *e, unsigned index, unsigned vcpus) {
    unsigned bits = 0;
    while (1u << bits < vcpus) bits++;
    switch (e->function) {
    case 1:
        e->ebx = (e->ebx & 0xff00) | index << 24 | vcpus << 16 | 8u << 8;
        e->edx = vcpus > 1 ? e->edx | 1u << 28 : e->edx & ~(1u << 28);
        break;
    case 4: e->eax = (e->eax & 0x3fff) | (vcpus - 1) << 26; break;
    case 0xb:
    case 0x1f:
        e->edx = index;
        if (e->index == 0) e->eax = 0, e->ebx = 1, e->ecx = 1u << 8;
        else if (e->index == 1) e->eax = bits, e->ebx = vcpus, e->ecx = 1 | 2u << 8;
        else e->eax = e->ebx = 0, e->ecx = e->index;
        break;
    case 0x80000008: e->ecx = (e->ecx & ~0xf0ffu) | bits << 12 | (vcpus - 1); break;
    case 0x8000001d: e->eax &= ~(0xfffu << 14); break; /* caches of their own */
    case 0x8000001e: e->eax = index, e->ebx = index, e->ecx = 0; break;
    default: break;
    }
}

static int cpuid_ask(struct arch_host *h, int kvm_fd, struct err *e) {
    h->cpuid.nent = ARCH_CPUID_MAX;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, &h->cpuid) < 0) return err_sys(e, errno, "KVM_GET_SUPPORTED_CPUID");
    for (unsigned i = 0; i < h->cpuid.nent; i++) filter(&h->cpuid.entry[i]);
    return 0;
}

int arch_cpuid_set(const struct arch_host *h, int vcpu_fd, unsigned index, unsigned vcpus, struct err *e) {
    struct arch_cpuid mine = h->cpuid;
    for (unsigned i = 0; i < mine.nent; i++) topology(&mine.entry[i], index, vcpus);
    return ioctl(vcpu_fd, KVM_SET_CPUID2, &mine) < 0 ? err_sys(e, errno, "KVM_SET_CPUID2") : 0;
}

/* ---- what this kernel can do ---- */

static int msrs_ask(struct arch_host *h, int kvm_fd, struct err *e) {
    struct {
        uint32_t nmsrs, index[1024];
    } list = {.nmsrs = 1024};
    if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, &list) < 0) return err_sys(e, errno, "KVM_GET_MSR_INDEX_LIST");
    h->msr[h->msrs++] = MSR_TSC; /* first: the deadline below is in its ticks */
    for (unsigned i = 0; i < list.nmsrs && h->msrs < ARCH_MSRS_MAX - 1; i++) {
        const uint32_t m = list.index[i];
        const int counters = (m >= 0x186 && m < 0x18e) || (m >= 0xc1 && m < 0xc9) || (m >= 0x309 && m < 0x310) || (m >= 0x38d && m <= 0x390) ||
                             (m >= 0xc0010000 && m < 0xc0010008) || (m >= 0xc0010200 && m < 0xc001020c) || (m >= 0xc0000300 && m <= 0xc0000303);
        const int vmx = m >= 0x480 && m <= 0x491, hyperv = m >= 0x40000000 && m <= 0x400000ff;
        if (m != MSR_TSC && m != MSR_TSC_DEADLINE && !counters && !vmx && !hyperv) h->msr[h->msrs++] = m;
    }
    h->msr[h->msrs++] = MSR_TSC_DEADLINE;
    return 0;
}

int arch_host_ask(struct arch_host *h, int kvm_fd, struct err *e) {
    static const int need[] = {KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_SIGNAL_MSI, KVM_CAP_USER_MEMORY, KVM_CAP_ADJUST_CLOCK};
    memset(h, 0, sizeof *h);
    if (ioctl(kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) return err_set(e, ERR_UNSUPPORTED, "/dev/kvm has another API version");
    for (unsigned i = 0; i < sizeof need / sizeof *need; i++)
        if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, need[i]) <= 0) return err_set(e, ERR_UNSUPPORTED, "this kernel's KVM lacks capability %d", need[i]);
    h->xcrs = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0;
    return cpuid_ask(h, kvm_fd, e) < 0 ? -1 : msrs_ask(h, kvm_fd, e);
}

int arch_vm_prepare(int vm_fd, struct err *e) {
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {IOAPIC_LINES}};
    if (ioctl(vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000ul) < 0) return err_sys(e, errno, "KVM_SET_TSS_ADDR");
    /* Before the memory: made afterwards, or as a whole irqchip, it waits for grace periods of the kernel (7.5 ms instead of 0.5). */
    return ioctl(vm_fd, KVM_ENABLE_CAP, &split) < 0 ? err_sys(e, errno, "split irqchip") : 0;
}

/* ---- the first instruction ---- */

int arch_boot_set(int vcpu_fd, uint32_t entry, uint32_t start_info, struct err *e) {
    struct kvm_sregs s;
    if (ioctl(vcpu_fd, KVM_GET_SREGS, &s) < 0) return err_sys(e, errno, "KVM_GET_SREGS");
    const struct kvm_segment code = {.limit = UINT32_MAX, .selector = 8, .type = 11, .present = 1, .s = 1, .db = 1, .g = 1};
    const struct kvm_segment data = {.limit = UINT32_MAX, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    s.cs = code, s.ds = s.es = s.ss = s.fs = s.gs = data;
    s.tr = (struct kvm_segment){.limit = 0x67, .type = 11, .present = 1};
    s.cr0 = 0x11, s.cr4 = 0, s.cr3 = 0, s.efer = 0; /* PE, ET */
    const struct kvm_regs r = {.rip = entry, .rbx = start_info, .rflags = 2};
    if (ioctl(vcpu_fd, KVM_SET_SREGS, &s) < 0) return err_sys(e, errno, "KVM_SET_SREGS");
    return ioctl(vcpu_fd, KVM_SET_REGS, &r) < 0 ? err_sys(e, errno, "KVM_SET_REGS") : 0;
}

/* ---- a stopped vCPU ---- */

#define ASK(what, to)                                                                                                                                    \
    if (ioctl(fd, what, to) < 0) return err_sys(e, errno, #what)

static void msrs_save(const struct arch_host *h, int fd, struct arch_vcpu *v) {
    v->msrs = 0;
    for (uint32_t next = 0; next < h->msrs;) { /* KVM stops at the first one it does not have after all: leave that out */
        struct arch_msrs part;
        part.nmsrs = h->msrs - next, part.padding = 0;
        for (uint32_t i = next; i < h->msrs; i++) part.entry[i - next] = (struct kvm_msr_entry){.index = h->msr[i]};
        const int got = ioctl(fd, KVM_GET_MSRS, &part);
        const uint32_t n = got < 0 ? 0 : (uint32_t)got;
        memcpy(v->msr.entry + v->msrs, part.entry, n * sizeof *part.entry);
        v->msrs += n, next += n + (n < h->msrs - next);
    }
    v->msr.nmsrs = v->msrs, v->msr.padding = 0;
}

static int msrs_load(int fd, const struct arch_vcpu *v, struct err *e) {
    struct arch_msrs all = v->msr;
    for (uint32_t next = 0; next < v->msrs;) {
        all.nmsrs = v->msrs - next;
        memmove(all.entry, v->msr.entry + next, (v->msrs - next) * sizeof *all.entry);
        const int set = ioctl(fd, KVM_SET_MSRS, &all);
        if (set < 0) return err_sys(e, errno, "KVM_SET_MSRS");
        next += (uint32_t)set;
        if (next < v->msrs) { /* one that reads as zero and cannot be written has nothing to restore */
            if (v->msr.entry[next].data) return err_set(e, ERR_UNSUPPORTED, "MSR %#x cannot be restored", v->msr.entry[next].index);
            next++;
        }
    }
    return 0;
}

int arch_vcpu_save(const struct arch_host *h, int fd, struct arch_vcpu *v, struct err *e) {
    ASK(KVM_GET_MP_STATE, &v->mp); /* first: it takes in what waits in the local APIC */
    ASK(KVM_GET_REGS, &v->regs);
    ASK(KVM_GET_SREGS, &v->sregs);
    ASK(KVM_GET_XSAVE, v->xsave);
    v->have_xcrs = h->xcrs ? 1 : 0;
    if (h->xcrs) ASK(KVM_GET_XCRS, &v->xcrs);
    ASK(KVM_GET_DEBUGREGS, &v->debugregs);
    ASK(KVM_GET_LAPIC, &v->lapic);
    msrs_save(h, fd, v);
    ASK(KVM_GET_VCPU_EVENTS, &v->events);
    return 0;
}

int arch_vcpu_load(const struct arch_host *h, int fd, const struct arch_vcpu *v, struct err *e) {
    ASK(KVM_SET_SREGS, &v->sregs);
    if (h->xcrs && v->have_xcrs) ASK(KVM_SET_XCRS, &v->xcrs);
    ASK(KVM_SET_XSAVE, v->xsave);
    ASK(KVM_SET_REGS, &v->regs);
    ASK(KVM_SET_DEBUGREGS, &v->debugregs);
    ASK(KVM_SET_LAPIC, &v->lapic);
    if (msrs_load(fd, v, e) < 0) return -1;
    ASK(KVM_SET_VCPU_EVENTS, &v->events);
    ASK(KVM_SET_MP_STATE, &v->mp);
    (void)ioctl(fd, KVM_KVMCLOCK_CTRL, 0); /* a guest that does not use the clock refuses; it saves a false alarm of its watchdog */
    return 0;
}

int arch_clock_save(int fd, uint64_t *ns, struct err *e) {
    struct kvm_clock_data c;
    ASK(KVM_GET_CLOCK, &c);
    *ns = c.clock;
    return 0;
}

int arch_clock_load(int fd, uint64_t ns, struct err *e) {
    struct kvm_clock_data c = {.clock = ns};
    ASK(KVM_SET_CLOCK, &c);
    return 0;
}
