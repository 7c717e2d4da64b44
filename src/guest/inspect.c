/* The operations processes, ports and disk. What /proc says of a process is text that the process chose in part:
 * bounded, and made valid UTF-8. */
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/entry.h"
#include "guest/identity.h"
#include "guest/machine_group.h"
#include "guest/machine_zygote.h"
#include "guest/work.h"

#define PROCESSES_MAX 4096 /* told at once; a cell's pid limit lies far below */
#define PORTS_MAX 4096
#define COMMAND_MAX 512 /* bytes of a command line that are shown */
#define KTHREADD 2
#define TCP_LISTEN 0x0a /* state column of /proc/net/tcp */

/* The start of a file of /proc, NUL-terminated. Its length, -1 when it cannot be read. */
static ssize_t read_file(const char *path, char *out, size_t size) {
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = read(fd, out, size - 1);
    out[n > 0 ? n : 0] = 0;
    return n;
}

/* The command line with spaces; a kernel thread or zombie has none: its name in brackets. */
static json_object *command_of(const char *pid, const char *comm) {
    char path[64], text[COMMAND_MAX + 1];
    (void)snprintf(path, sizeof path, "/proc/%.16s/cmdline", pid);
    ssize_t n = read_file(path, text, sizeof text);
    if (n <= 0) {
        (void)snprintf(text, sizeof text, "[%s]", comm);
        return entry_text(text);
    }
    while (n && !text[n - 1]) n--;
    for (ssize_t i = 0; i < n; i++)
        if (!text[i]) text[i] = ' ';
    return entry_text(text);
}

static json_object *process_of(const char *pid) {
    char path[64], text[1024], comm[64] = "";
    struct stat st;
    (void)snprintf(path, sizeof path, "/proc/%.16s/stat", pid);
    if (read_file(path, text, sizeof text) <= 0) return NULL;
    char *open = strchr(text, '('), *close = strrchr(text, ')'); /* the name between them may hold anything */
    if (!open || !close || close < open) return NULL;
    *close = 0;
    (void)snprintf(comm, sizeof comm, "%s", open + 1);
    char state = '?';
    int ppid = 0;
    unsigned long user = 0, sys = 0;
    long pages = 0;
    if (sscanf(close + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %*u %*u %ld",
               &state, &ppid, &user, &sys, &pages) != 5)
        return NULL;
    /* In a machine: the kernel's own threads (children of 2), and the warm interpreter, are nothing of the cell. */
    if (identity_in_machine() && (ppid == KTHREADD || atoi(pid) == KTHREADD || atoi(pid) == zygote_pid())) return NULL;
    (void)snprintf(path, sizeof path, "/proc/%.16s", pid);
    if (stat(path, &st) < 0) return NULL;
    char state_text[2] = {state, 0};
    json_object *o = json_object_new_object();
    json_object_object_add(o, "pid", json_object_new_int(atoi(pid)));
    json_object_object_add(o, "ppid", json_object_new_int(ppid));
    json_object_object_add(o, "uid", json_object_new_int64(st.st_uid));
    json_object_object_add(o, "state", entry_text(state_text));
    json_object_object_add(o, "command", command_of(pid, comm));
    json_object_object_add(o, "cpu_ms",
                           json_object_new_int64((int64_t)((user + sys) * 1000 / (unsigned long)sysconf(_SC_CLK_TCK))));
    json_object_object_add(o, "memory_bytes", json_object_new_int64((int64_t)pages * sysconf(_SC_PAGESIZE)));
    return o;
}

int inspect_processes(struct work *w, const struct request *r, struct err *e) {
    (void)r;
    cleanup_dir DIR *d = opendir("/proc");
    if (!d) return err_sys(e, errno, "/proc");
    json_object *list = json_object_new_array(), *reply = json_object_new_object();
    for (struct dirent *ent; (ent = readdir(d)) && json_object_array_length(list) < PROCESSES_MAX;) {
        json_object *o = NULL;
        /* This worker is the guest's, gone before the answer arrives. */
        if (isdigit((unsigned char)ent->d_name[0]) && atoi(ent->d_name) != getpid()) o = process_of(ent->d_name);
        if (o) json_object_array_add(list, o);
    }
    json_object_object_add(reply, "processes", list);
    return work_reply(w, reply, e);
}

struct port {
    uint64_t inode;
    int number, pid;
    char address[INET6_ADDRSTRLEN];
};

/* The kernel prints addresses as 32-bit words in host order. */
static void address_of(const char *hex, char out[INET6_ADDRSTRLEN]) {
    uint32_t words[4] = {0};
    size_t n = strspn(hex, "0123456789ABCDEFabcdef") == 8 ? 1 : 4;
    for (size_t i = 0; i < n; i++) {
        char word[9];
        memcpy(word, hex + 8 * i, 8);
        word[8] = 0;
        words[i] = (uint32_t)strtoul(word, NULL, 16);
    }
    out[0] = 0;
    (void)inet_ntop(n == 1 ? AF_INET : AF_INET6, words, out, INET6_ADDRSTRLEN);
}

static size_t read_listening(const char *path, struct port *ports, size_t n) {
    cleanup_file FILE *f = fopen(path, "re");
    char line[512], address[40];
    unsigned number, state;
    uint64_t inode;
    if (!f) return n; /* no IPv6 */
    while (n < PORTS_MAX && fgets(line, sizeof line, f)) {
        if (sscanf(line, " %*u: %32[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*x:%*x %*x:%*x %*x %*u %*u %" SCNu64, address,
                   &number, &state, &inode) != 4 ||
            state != TCP_LISTEN || (strlen(address) != 8 && strlen(address) != 32))
            continue;
        ports[n] = (struct port){.inode = inode, .number = (int)number};
        address_of(address, ports[n++].address);
    }
    return n;
}

/* Which of the sockets does this process hold? */
static void match_process(const char *pid, struct port *ports, size_t n) {
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%.16s/fd", pid);
    cleanup_dir DIR *d = opendir(path);
    if (!d) return;
    for (struct dirent *ent; (ent = readdir(d));) {
        char target[64];
        uint64_t inode;
        ssize_t len = readlinkat(dirfd(d), ent->d_name, target, sizeof target - 1);
        target[len > 0 ? len : 0] = 0;
        if (sscanf(target, "socket:[%" SCNu64 "]", &inode) != 1) continue;
        for (size_t i = 0; i < n; i++)
            if (ports[i].inode == inode && !ports[i].pid) ports[i].pid = atoi(pid);
    }
}

/* /proc/PID/fd opens only to the process's own user: once as the user, once as the cell's root. */
static int match_all(struct port *ports, size_t n, struct err *e) {
    for (int as_root = 0; as_root < 2; as_root++) {
        if (identity_switch(as_root, e) < 0) return -1;
        cleanup_dir DIR *d = opendir("/proc");
        if (!d) return err_sys(e, errno, "/proc");
        for (struct dirent *ent; (ent = readdir(d));)
            if (isdigit((unsigned char)ent->d_name[0]) && atoi(ent->d_name) != getpid())
                match_process(ent->d_name, ports, n);
    }
    return 0;
}

int inspect_ports(struct work *w, const struct request *r, struct err *e) {
    (void)r;
    static struct port ports[PORTS_MAX];
    size_t n = read_listening("/proc/net/tcp", ports, 0);
    n = read_listening("/proc/net/tcp6", ports, n);
    if (n && match_all(ports, n, e) < 0) return -1;
    json_object *list = json_object_new_array(), *reply = json_object_new_object();
    for (size_t i = 0; i < n; i++) {
        json_object *o = json_object_new_object();
        json_object_object_add(o, "port", json_object_new_int(ports[i].number));
        json_object_object_add(o, "pid", ports[i].pid ? json_object_new_int(ports[i].pid) : NULL);
        json_object_object_add(o, "address", json_object_new_string(ports[i].address));
        json_object_array_add(list, o);
    }
    json_object_object_add(reply, "ports", list);
    return work_reply(w, reply, e);
}

int inspect_disk(struct work *w, const struct request *r, struct err *e) {
    (void)r;
    struct statvfs v;
    if (statvfs("/", &v) < 0) return err_sys(e, errno, "/");
    json_object *o = json_object_new_object();
    json_object_object_add(o, "total_bytes", json_object_new_int64((int64_t)group_disk_bytes(v.f_blocks, v.f_frsize)));
    json_object_object_add(o, "free_bytes", json_object_new_int64((int64_t)(v.f_bavail * v.f_frsize)));
    return work_reply(w, o, e);
}
