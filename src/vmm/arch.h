/* arch.h: what knows the processor: CPUID, registers, MSRs, the state of a vCPU and of the VM's clock (arch_x86_64.c). */
#pragma once
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vmm/state.h"

#define ARCH_MSRS_MAX 256
#define ARCH_CPUID_MAX 128

/* struct kvm_cpuid2 and kvm_msrs with room in them: laid out as the kernel's, whose last member has no size. */
struct arch_cpuid {
    uint32_t nent, padding;
    struct kvm_cpuid_entry2 entry[ARCH_CPUID_MAX];
};
struct arch_msrs {
    uint32_t nmsrs, padding;
    struct kvm_msr_entry entry[ARCH_MSRS_MAX];
};
_Static_assert(offsetof(struct arch_cpuid, entry) == sizeof(struct kvm_cpuid2) && offsetof(struct arch_msrs, entry) == sizeof(struct kvm_msrs), "the kernel's layout");
struct arch_host { /* what this kernel offers, asked once per process */
    struct arch_cpuid cpuid; /* filtered: what a guest may see, but for the fields that differ by vCPU */
    uint32_t msr[ARCH_MSRS_MAX], msrs;
    int xcrs; /* KVM_CAP_XCRS: missing under an emulated SVM */
};

struct arch_vcpu { /* one stopped vCPU */
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    uint32_t xsave[1024]; /* struct kvm_xsave without what AMX would add */
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debugregs;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp;
    uint32_t msrs, have_xcrs;
    struct arch_msrs msr; /* last: a snapshot keeps only as many as there are */
};

int arch_host_ask(struct arch_host *, int kvm_fd, struct err *);
/* Before memory is given to it: split irqchip and what else a fresh VM needs. */
int arch_vm_prepare(int vm_fd, struct err *);
/* First thing with a new vCPU. */
int arch_cpuid_set(const struct arch_host *, int vcpu_fd, unsigned index, unsigned vcpus, struct err *);
/* The first vCPU as PVH has it: 32-bit protected mode, paging off, ebx = start_info. */
int arch_boot_set(int vcpu_fd, uint32_t entry, uint32_t start_info, struct err *);

/* The vCPU must have completed its last exit (KVM_RUN with immediate_exit). */
int arch_vcpu_save(const struct arch_host *, int vcpu_fd, struct arch_vcpu *, struct err *);
int arch_vcpu_load(const struct arch_host *, int vcpu_fd, const struct arch_vcpu *, struct err *);
int arch_clock_save(int vm_fd, uint64_t *ns, struct err *);
int arch_clock_load(int vm_fd, uint64_t ns, struct err *); /* the guest's clock goes on where it stopped */

/* The processor that a state needs, into a snapshot; load refuses what this host cannot be. */
void arch_host_save(const struct arch_host *, struct state_out *);
int arch_host_load(struct arch_host *, struct state_in *, struct err *);
void arch_vcpu_put(const struct arch_vcpu *, struct state_out *);
int arch_vcpu_get(struct arch_vcpu *, struct state_in *);
