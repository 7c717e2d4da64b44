/* A vCPU in a snapshot, and which processors may go on with it. */
#include <string.h>

#include "vmm/arch.h"

static const struct kvm_cpuid_entry2 *leaf(const struct arch_host *h, uint32_t function, uint32_t index) {
    for (unsigned i = 0; i < h->cpuid.nent; i++)
        if (h->cpuid.entry[i].function == function && h->cpuid.entry[i].index == index) return &h->cpuid.entry[i];
    static const struct kvm_cpuid_entry2 none;
    return &none;
}

void arch_host_save(const struct arch_host *h, struct state_out *out) {
    state_put(out, &h->cpuid.nent, sizeof h->cpuid.nent);
    state_put(out, h->cpuid.entry, h->cpuid.nent * sizeof *h->cpuid.entry);
}

/* What the machine saw must be there: the vendor, and every feature of these leaves. */
static int missing(const struct arch_host *here, const struct arch_host *there) {
    static const struct {
        uint32_t function, index;
        int eax, ebx, ecx, edx;
    } features[] = {{1, 0, 0, 0, 1, 1}, {7, 0, 0, 1, 1, 1}, {7, 1, 1, 0, 0, 1}, {0xd, 0, 1, 0, 0, 0}, {0xd, 1, 1, 0, 0, 0}, {0x40000001, 0, 1, 0, 0, 0},
                    {0x80000001, 0, 0, 0, 1, 1}, {0x80000008, 0, 0, 1, 0, 0}};
    const struct kvm_cpuid_entry2 *a = leaf(here, 0, 0), *b = leaf(there, 0, 0);
    if (a->ebx != b->ebx || a->ecx != b->ecx || a->edx != b->edx) return 1;
    for (unsigned i = 0; i < sizeof features / sizeof *features; i++) {
        a = leaf(here, features[i].function, features[i].index), b = leaf(there, features[i].function, features[i].index);
        const uint32_t want[] = {features[i].eax ? b->eax : 0, features[i].ebx ? b->ebx : 0, features[i].ecx ? b->ecx : 0, features[i].edx ? b->edx : 0};
        if (want[0] & ~a->eax || want[1] & ~a->ebx || want[2] & ~a->ecx || want[3] & ~a->edx) return 1;
    }
    return 0;
}

int arch_host_load(struct arch_host *h, struct state_in *in, struct err *e) {
    struct arch_host saw = *h;
    if (state_get(in, &saw.cpuid.nent, sizeof saw.cpuid.nent) < 0 || saw.cpuid.nent > ARCH_CPUID_MAX ||
        state_get(in, saw.cpuid.entry, saw.cpuid.nent * sizeof *saw.cpuid.entry) < 0 || !state_done(in))
        return err_set(e, ERR_IMAGE, "the state's description of the processor is damaged");
    if (missing(h, &saw)) return err_hint(e, ERR_IMAGE, "resume it on a host with the same or a newer processor of the same maker", "the machine was made on another kind of processor");
    h->cpuid = saw.cpuid;
    return 0;
}

void arch_vcpu_put(const struct arch_vcpu *v, struct state_out *out) {
    state_put(out, v, offsetof(struct arch_vcpu, msr));
    state_put(out, v->msr.entry, v->msrs * sizeof *v->msr.entry);
}

int arch_vcpu_get(struct arch_vcpu *v, struct state_in *in) {
    if (state_get(in, v, offsetof(struct arch_vcpu, msr)) < 0 || v->msrs > ARCH_MSRS_MAX ||
        state_get(in, v->msr.entry, v->msrs * sizeof *v->msr.entry) < 0)
        return -1;
    v->msr.nmsrs = v->msrs;
    return 0;
}
