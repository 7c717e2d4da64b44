#include "guest/pty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/identity.h"

int pty_resize(int master, uint16_t rows, uint16_t cols) {
    struct winsize size = {.ws_row = rows, .ws_col = cols};
    return ioctl(master, TIOCSWINSZ, &size);
}

int pty_open(bool as_root, uint16_t rows, uint16_t cols, int *master, int *slave, struct err *e) {
    cleanup_close int m = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (m < 0) return err_sys(e, errno, "cannot open a terminal");
    if (grantpt(m) < 0 || unlockpt(m) < 0) return err_sys(e, errno, "cannot unlock the terminal");
    /* By ioctl and not by name: the path in /dev/pts is the cell's to play with. */
    cleanup_close int s = ioctl(m, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (s < 0) return err_sys(e, errno, "cannot open the terminal's other side");
    unsigned id = as_root ? 0 : IDENTITY_USER_ID;
    if (fchown(s, id, (gid_t)-1) < 0) return err_sys(e, errno, "cannot hand the terminal over");
    if (pty_resize(m, rows, cols) < 0) return err_sys(e, errno, "cannot size the terminal");
    *master = steal_fd(&m);
    *slave = steal_fd(&s);
    return 0;
}
