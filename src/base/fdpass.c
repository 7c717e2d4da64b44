#include "base/fdpass.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

int fdpass_send(int socket, const void *data, size_t size, const int *fds, size_t n, int flags) {
    struct iovec iov = {(void *)(unsigned long)data, size};
    union {
        char space[CMSG_SPACE(FDPASS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (n > FDPASS_MAX) {
        errno = E2BIG;
        return -1;
    }
    if (n) {
        memset(&control, 0, sizeof control);
        m.msg_control = control.space;
        m.msg_controllen = CMSG_SPACE(n * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    }
    return sendmsg(socket, &m, flags | MSG_NOSIGNAL) < 0 ? -1 : 0;
}
