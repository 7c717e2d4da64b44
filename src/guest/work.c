#include "guest/work.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/channel.h"
#include "guest/child.h"
#include "guest/identity.h"
#include "wire/guest_proto.h"

#define LINK_FD 3

static int send_frame(struct work *w, uint16_t type, uint16_t flags, const void *bytes, size_t n, struct err *e) {
    uint8_t packet[WIRE_PACKET_MAX];
    size_t len = 0;
    (void)frame_put(packet, &len, type, flags, 0, bytes, n);
    while (send(w->link, packet, len, MSG_NOSIGNAL) < 0)
        if (errno != EINTR) return err_set(e, ERR_CONFLICT, "closed before the operation had ended");
    return 0;
}

int work_data(struct work *w, const void *bytes, size_t n, struct err *e) {
    const char *at = bytes;
    while (n) {
        size_t part = n < WORK_CHUNK ? n : WORK_CHUNK;
        if (send_frame(w, GUEST_DATA, 0, at, part, e) < 0) return -1;
        at += part;
        n -= part;
    }
    return 0;
}

static int send_json(struct work *w, uint16_t type, json_object *o, struct err *e) {
    size_t n = 0;
    const char *text =
        json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
    int rc = 0;
    for (; rc == 0 && n > WORK_CHUNK; text += WORK_CHUNK, n -= WORK_CHUNK)
        rc = send_frame(w, type, FRAME_MORE, text, WORK_CHUNK, e);
    if (rc == 0) rc = send_frame(w, type, 0, text, n, e);
    json_object_put(o);
    return rc;
}

int work_reply(struct work *w, json_object *o, struct err *e) { return send_json(w, GUEST_REPLY, o, e); }

int work_lines_flush(struct work *w, struct err *e) {
    int rc = work_data(w, w->lines.data, w->lines.len, e);
    buf_clear(&w->lines);
    return rc;
}

int work_line(struct work *w, json_object *o, struct err *e) {
    size_t n = 0;
    const char *text =
        json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
    buf_append(&w->lines, text, n);
    buf_append(&w->lines, "\n", 1);
    json_object_put(o);
    return w->lines.len >= WORK_CHUNK ? work_lines_flush(w, e) : 0;
}

int work_receive(struct work *w, const uint8_t **bytes, size_t *n, struct err *e) {
    if (w->got_eof) return 0;
    ssize_t len;
    do len = recv(w->link, w->packet, sizeof w->packet, 0);
    while (len < 0 && errno == EINTR);
    struct frame f;
    size_t at = 0;
    if (len <= 0 || frame_next(w->packet, (size_t)len, &at, &f) != 1)
        return err_set(e, ERR_CONFLICT, "closed before the end of the data");
    *bytes = f.payload;
    *n = f.length;
    w->got_eof = f.flags & FRAME_EOF;
    return f.length || !w->got_eof ? 1 : 0;
}

int work_wanted(struct work *w, struct err *e) {
    struct pollfd p = {.fd = w->link, .events = POLLRDHUP};
    if (poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR))
        return err_set(e, ERR_CONFLICT, "closed before the operation had ended");
    return 0;
}

static work_op *op_function(enum op op) {
    switch (op) {
    case OP_READ: return fs_read;
    case OP_WRITE: return fs_write;
    case OP_LIST: return fs_list;
    case OP_STAT: return fs_stat;
    case OP_MKDIR: return fs_mkdir;
    case OP_MOVE: return fs_move;
    case OP_REMOVE: return fs_remove;
    case OP_TAR_GET: return tar_get;
    case OP_TAR_PUT: return tar_put;
    case OP_WATCH: return fs_watch;
    case OP_PROCESSES: return inspect_processes;
    case OP_PORTS: return inspect_ports;
    case OP_CHANGES: return layer_changes;
    case OP_DIGEST: return layer_digest;
    default: return inspect_disk;
    }
}

/* The layer and the template stay with an operation that looks at them; -1: this cell was given none. */
static int keep_layers(struct err *e) {
    if (dup2(GUEST_FD_LAYER, WORK_LAYER_FD) < 0 || dup2(GUEST_FD_LOWER, WORK_LOWER_FD) < 0)
        return err_set(e, ERR_UNSUPPORTED, "this sandbox does not show what it changed");
    return close_range(WORK_LOWER_FD + 1, ~0u, 0) < 0 ? err_sys(e, errno, "cannot close descriptors") : 0;
}

/* Only the link stays; what libraries might print goes to /dev/null (the guest's descriptor 0), not to the keeper's
 * log. */
static int work_isolate(int *link, const struct request *r, struct err *e) {
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t none;
    sigemptyset(&none);
    if (child_enter_group(e) < 0) return -1;
    if (dup2(STDIN_FILENO, STDOUT_FILENO) < 0 || dup2(STDIN_FILENO, STDERR_FILENO) < 0 || dup2(*link, LINK_FD) < 0)
        return err_sys(e, errno, "cannot place descriptors");
    *link = LINK_FD;
    if (r->op == OP_CHANGES || r->view == VIEW_TEMPLATE) {
        if (keep_layers(e) < 0) return -1;
    } else if (close_range(LINK_FD + 1, ~0u, 0) < 0)
        return err_sys(e, errno, "cannot close descriptors");
    if (sigaction(SIGXFSZ, &ignore, NULL) < 0 || sigprocmask(SIG_SETMASK, &none, NULL) < 0)
        return err_sys(e, errno, "cannot reset signals");
    umask(0);
    return identity_file_access(r->as_root, r->op == OP_PORTS, e);
}

void work_run(int link, const struct request *r) {
    static struct work w;
    struct err e;
    w.link = link;
    int rc = work_isolate(&w.link, r, &e);
    if (rc == 0) rc = op_function(r->op)(&w, r, &e);
    if (rc == 0) rc = work_lines_flush(&w, &e);
    if (rc == 0)
        rc = send_json(&w, GUEST_END, w.end ? w.end : json_object_new_object(), &e);
    else
        (void)send_json(&w, GUEST_END, err_json(&e), &e);
    _exit(rc == 0 ? 0 : 1);
}
