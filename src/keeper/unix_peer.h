/* unix_peer.h: which local socket is the other end of this one (sock_diag netlink, in the network namespace of a cell). */
#pragma once
#include <stdint.h>
#include <sys/types.h>

/* A socket for such questions in the network namespace of this task; -1 when it cannot be had. */
int unix_peer_open(pid_t);
/* Inode of the peer of the socket with this inode; 0: none, or not known. */
uint64_t unix_peer_inode(int fd, uint32_t inode);
