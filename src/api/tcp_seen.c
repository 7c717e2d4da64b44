/* The kernel's count of bytes of a connection. In a file of its own because <linux/tcp.h>, which alone has the counter,
 * cannot stand next to <netinet/tcp.h>. */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

uint64_t tcp_bytes_received(int fd);

uint64_t tcp_bytes_received(int fd) {
    struct tcp_info info = {0};
    socklen_t n = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) == 0 ? info.tcpi_bytes_received : 0;
}
