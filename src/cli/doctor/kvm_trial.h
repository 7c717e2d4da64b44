/* kvm_trial.h: a machine of one page of instructions, really run. */
#pragma once
#include <stddef.h>

enum kvm_trial {
    KVM_TRIAL_OK = 0,
    KVM_TRIAL_NO_DEVICE,  /* no /dev/kvm */
    KVM_TRIAL_NO_ACCESS,  /* it may not be opened */
    KVM_TRIAL_NO_MACHINE, /* a virtual machine or CPU cannot be made */
    KVM_TRIAL_REAL_MODE,  /* the first instructions do not run */
    KVM_TRIAL_LONG_MODE,  /* 64-bit mode, page tables, MSRs, exceptions: what Linux needs */
};
/* For probe_child(): returns one of the above and writes why. */
int kvm_trial(void *unused, char *why, size_t room);
