#include "keeper/unix_peer.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/log.h"

int unix_peer_open(pid_t pid) {
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
    cleanup_close int theirs = open(path, O_RDONLY | O_CLOEXEC), ours = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (theirs < 0 || ours < 0 || setns(theirs, CLONE_NEWNET)) return -1;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (setns(ours, CLONE_NEWNET)) log_error("the keeper cannot leave the network namespace of a cell"); /* it uses no network itself */
    return fd;
}

uint64_t unix_peer_inode(int fd, uint32_t inode) {
    struct {
        struct nlmsghdr head;
        struct unix_diag_req ask;
    } q = {.head = {.nlmsg_len = sizeof q, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
           .ask = {.sdiag_family = AF_UNIX, .udiag_states = ~0u, .udiag_ino = inode, .udiag_show = UDIAG_SHOW_PEER, .udiag_cookie = {~0u, ~0u}}};
    struct {
        struct nlmsghdr head;
        struct unix_diag_msg told;
        uint8_t attributes[512];
    } a;
    if (send(fd, &q, sizeof q, 0) != (ssize_t)sizeof q) return 0;
    ssize_t n = recv(fd, &a, sizeof a, MSG_DONTWAIT); /* the kernel has answered inside send */
    if (n < (ssize_t)(sizeof a.head + sizeof a.told) || a.head.nlmsg_type != SOCK_DIAG_BY_FAMILY || a.told.udiag_ino != inode) return 0;
    size_t left = (size_t)n - sizeof a.head - sizeof a.told;
    for (const uint8_t *at = a.attributes; left >= sizeof(struct rtattr);) {
        struct rtattr r;
        uint32_t peer;
        memcpy(&r, at, sizeof r);
        if (r.rta_len < sizeof r || r.rta_len > left) break;
        if (r.rta_type == UNIX_DIAG_PEER && r.rta_len == sizeof r + sizeof peer) {
            memcpy(&peer, at + sizeof r, sizeof peer);
            return peer;
        }
        size_t step = RTA_ALIGN(r.rta_len);
        if (step > left) break;
        at += step;
        left -= step;
    }
    return 0;
}
