#include "guest/identity.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <signal.h>
#include <stdint.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BITS_LOCKED                                                                                                    \
    (SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED |                   \
     SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED)
#define CAP(x) (UINT64_C(1) << (x))

static bool in_machine;

void identity_machine(void) { in_machine = true; }
bool identity_in_machine(void) { return in_machine; }

const char *identity_home(bool as_root) { return as_root ? "/root" : IDENTITY_HOME; }

static int caps_get(struct __user_cap_data_struct data[2]) {
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    return (int)syscall(SYS_capget, &head, data);
}

/* Permitted and effective become `caps`, inheritable becomes empty. */
static int caps_set(uint64_t caps, struct err *e) {
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {
        {.effective = (uint32_t)caps, .permitted = (uint32_t)caps},
        {.effective = (uint32_t)(caps >> 32), .permitted = (uint32_t)(caps >> 32)},
    };
    if (syscall(SYS_capset, &head, data) < 0) return err_sys(e, errno, "cannot set capabilities");
    if (caps_get(data) < 0 || (data[0].permitted | (uint64_t)data[1].permitted << 32) != caps || data[0].inheritable ||
        data[1].inheritable)
        return err_set(e, ERR_INTERNAL, "capabilities did not become what was asked");
    return 0;
}

static void bounding_drop(void) {
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) return;
}

int identity_become(bool as_root, struct err *e) {
    unsigned id = as_root ? 0 : IDENTITY_USER_ID;
    if (in_machine) { /* the kernel takes the capabilities away with the user id */
        if (setgroups(0, NULL) < 0) return err_sys(e, errno, "cannot drop groups");
        return setresgid(id, id, id) < 0 || setresuid(id, id, id) < 0 ? err_sys(e, errno, "cannot become uid %u", id) : 0;
    }
    bounding_drop();
    (void)prctl(PR_SET_SECUREBITS, BITS_LOCKED, 0, 0, 0);
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return err_sys(e, errno, "cannot clear ambient capabilities");
    if (setgroups(0, NULL) < 0) return err_sys(e, errno, "cannot drop groups");
    if (setresgid(id, id, id) < 0 || setresuid(id, id, id) < 0) return err_sys(e, errno, "cannot become uid %u", id);
    if (caps_set(0, e) < 0) return -1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return err_sys(e, errno, "cannot set no_new_privs");
    return 0;
}

/* setfsuid and setfsgid tell no error: asking again with an impossible id shows what holds. */
int identity_switch(bool as_root, struct err *e) {
    unsigned id = as_root ? 0 : IDENTITY_USER_ID;
    setfsgid(id);
    setfsuid(id);
    if (setfsgid((gid_t)-1) != (int)id || setfsuid((uid_t)-1) != (int)id)
        return err_set(e, ERR_INTERNAL, "cannot take the file identity of uid %u", id);
    return 0;
}

int identity_file_access(bool as_root, bool keep_switch, struct err *e) {
    uint64_t caps = as_root ? CAP(CAP_CHOWN) | CAP(CAP_DAC_OVERRIDE) | CAP(CAP_FOWNER) : 0;
    if (keep_switch) caps |= CAP(CAP_SETUID) | CAP(CAP_SETGID);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return err_sys(e, errno, "cannot set no_new_privs");
    if (setgroups(0, NULL) < 0) return err_sys(e, errno, "cannot drop groups");
    if (identity_switch(as_root, e) < 0 || caps_set(caps, e) < 0) return -1;
    /* A change of credentials clears both, the fork did not. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return err_sys(e, errno, "cannot protect the worker");
    return 0;
}
