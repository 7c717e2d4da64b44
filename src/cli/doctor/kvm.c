/* Can microVMs run here? Asked in steps, because each "no" has another remedy. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/doctor/kvm_trial.h"
#include "cli/doctor/report.h"

#define TRIAL_MS 5000 /* the trial takes 5 ms where KVM works, 100 ms under emulation */
static const char group[] = "KVM (microVM driver)";

/* "vmx", "svm" or NULL: the first "flags" line of /proc/cpuinfo. */
static const char *virtualization_flag(bool *is_guest) {
    FILE *f = fopen("/proc/cpuinfo", "re");
    static const char *found;
    char line[8192];
    found = NULL;
    *is_guest = false;
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "flags", 5) != 0) continue;
        line[strcspn(line, "\n")] = ' ';
        found = strstr(line, " vmx ") ? "vmx" : strstr(line, " svm ") ? "svm" : NULL;
        *is_guest = strstr(line, " hypervisor ") != NULL;
        break;
    }
    if (f) fclose(f);
    return found;
}

static const char *kvm_module(void) {
    static const char *const names[] = {"kvm_intel", "kvm_amd", "kvm_pvm"};
    static char path[64];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        (void)snprintf(path, sizeof path, "/sys/module/%s", names[i]);
        if (access(path, F_OK) == 0) return names[i];
    }
    return "built into the kernel";
}

static void remedy_for_device(struct finding *f, const char *flag, bool is_guest) {
    if (flag)
        finding_remedy(f, "modprobe kvm_%s", strcmp(flag, "vmx") == 0 ? "intel" : "amd");
    else if (is_guest)
        finding_remedy(f, "this machine is itself virtual: nested virtualization must be switched on at its host, or "
                          "use a machine that has it");
    else
        finding_remedy(f, "switch on VT-x or AMD-V in the firmware");
}

static void conclude(struct report *r, enum kvm_trial result, const char *why, const char *flag, bool is_guest) {
    struct finding *f;
    switch (result) {
    case KVM_TRIAL_OK:
        if (flag) {
            r->kvm_works = true;
            (void)report_add(r, group, "trial", FINDING_OK,
                             "a tiny virtual machine ran (real mode, 64-bit mode, exceptions)");
            return;
        }
        f = report_add(
            r, group, "trial", FINDING_DEGRADED,
            "a tiny virtual machine ran, but without vmx or svm this KVM (%s) cannot boot a stock Linux guest",
            kvm_module());
        break;
    case KVM_TRIAL_NO_DEVICE: f = report_add(r, group, "device", FINDING_DEGRADED, "/dev/kvm: %s", why); break;
    case KVM_TRIAL_NO_ACCESS:
        f = report_add(r, group, "device", FINDING_DEGRADED, "/dev/kvm may not be opened: %s", why);
        finding_remedy(f, "sudo cella doctor, or put the user into the group \"kvm\"");
        (void)snprintf(r->kvm_why, sizeof r->kvm_why, "%s", f->text);
        return;
    default:
        f = report_add(r, group, "trial", FINDING_DEGRADED, "KVM is there, but a tiny virtual machine does not run: %s",
                       why);
        break;
    }
    remedy_for_device(f, flag, is_guest);
    (void)snprintf(r->kvm_why, sizeof r->kvm_why, "%s", f->text);
}

void probe_kvm(struct report *r) {
    bool is_guest;
    const char *flag = virtualization_flag(&is_guest);
    char why[256];
    if (flag)
        (void)report_add(r, group, "CPU flag", FINDING_OK, "%s", flag);
    else
        (void)report_add(r, group, "CPU flag", FINDING_DEGRADED, "neither vmx nor svm%s",
                         is_guest ? ": a virtual machine without nested virtualization" : "");
    int result = probe_child(kvm_trial, NULL, TRIAL_MS, why, sizeof why);
    if (result == CHILD_TIMEOUT) {
        struct finding *f =
            report_add(r, group, "trial", FINDING_DEGRADED,
                       "KVM is there, but a tiny virtual machine hung for %d seconds and was killed", TRIAL_MS / 1000);
        remedy_for_device(f, flag, is_guest);
        (void)snprintf(r->kvm_why, sizeof r->kvm_why, "%s", f->text);
    } else if (result == CHILD_CRASHED) {
        (void)report_add(r, group, "trial", FINDING_DEGRADED,
                         "KVM is there, but the trial of a tiny virtual machine crashed");
        (void)snprintf(r->kvm_why, sizeof r->kvm_why, "the trial of a tiny virtual machine crashed");
    } else {
        conclude(r, (enum kvm_trial)result, why, flag, is_guest);
    }
}
