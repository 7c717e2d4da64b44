#include "jail/landlock_policy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14) /* ABI 3, Linux 6.2 */
#endif

#define READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define MAKE \
    (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR | \
     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM)
#define NODES (LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK)
#define ABI_2 LANDLOCK_ACCESS_FS_REFER
#define ABI_3 LANDLOCK_ACCESS_FS_TRUNCATE

int landlock_policy_abi(void) {
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return abi > 0 ? (int)abi : 0;
}

static int allow(int ruleset, int parent, const char *name, __u64 access, struct err *e) {
    cleanup_close int fd = openat(parent, name, O_PATH | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    if (fd < 0) return errno == ENOENT ? 0 : err_sys(e, errno, "open /%s for a Landlock rule", name);
    if (fstat(fd, &st)) return err_sys(e, errno, "stat /%s", name);
    if (S_ISLNK(st.st_mode)) return 0; /* /bin -> usr/bin: the target has its own rule */
    if (!S_ISDIR(st.st_mode))
        access &= LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE | ABI_3;
    struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = fd};
    if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0))
        return err_sys(e, errno, "Landlock rule for /%s", name);
    return 0;
}

int landlock_policy_build(struct err *e) {
    int abi = landlock_policy_abi();
    if (!abi) return err_set(e, ERR_UNSUPPORTED, "this kernel has no Landlock");
    __u64 newer = (abi >= 2 ? ABI_2 : 0) | (abi >= 3 ? ABI_3 : 0);
    __u64 everything = READ | MAKE | NODES | LANDLOCK_ACCESS_FS_EXECUTE | newer;
    struct landlock_ruleset_attr attr = {.handled_access_fs = everything};
    cleanup_close int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    if (ruleset < 0) return err_sys(e, errno, "landlock_create_ruleset");

    cleanup_dir DIR *root = opendir("/");
    if (!root) return err_sys(e, errno, "open /");
    int rootfd = dirfd(root);
    for (struct dirent *d; (d = readdir(root));) {
        __u64 access = READ | MAKE | LANDLOCK_ACCESS_FS_EXECUTE | newer;
        if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, "..")) continue;
        if (!strcmp(d->d_name, "proc") || !strcmp(d->d_name, "sys")) access = READ;
        if (!strcmp(d->d_name, "dev")) access = READ | LANDLOCK_ACCESS_FS_WRITE_FILE | (newer & ABI_3);
        if (allow(ruleset, rootfd, d->d_name, access, e)) return -1;
    }
    if (allow(ruleset, rootfd, "dev/shm", READ | MAKE | LANDLOCK_ACCESS_FS_EXECUTE | newer, e)) return -1;
    /* the root directory itself may be listed: READ_DIR is inherited by everything below, reading files is not */
    struct landlock_path_beneath_attr list = {.allowed_access = LANDLOCK_ACCESS_FS_READ_DIR, .parent_fd = rootfd};
    if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &list, 0)) return err_sys(e, errno, "Landlock rule for /");
    return steal_fd(&ruleset);
}

int landlock_policy_show(int ruleset, int directory, struct err *e) {
    struct landlock_path_beneath_attr rule = {.allowed_access = READ, .parent_fd = directory};
    return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) ? err_sys(e, errno, "Landlock rule for a directory") : 0;
}

int landlock_policy_enter(int ruleset_fd, struct err *e) {
    if (syscall(SYS_landlock_restrict_self, ruleset_fd, 0)) return err_sys(e, errno, "landlock_restrict_self");
    return 0;
}
