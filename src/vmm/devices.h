/* devices.h: the devices of a machine. Each is made once by its make function, which returns its virtio_dev (never NULL: a failed allocation
 * of a few kilobytes ends the program), and lives as long as the VMM. The functions below are called by the loop thread and take the lock. */
#pragma once
#include <stdbool.h>

#include "vmm/loop.h"
#include "vmm/virtio.h"

/* ---- block: a file. Requests are done by the vCPU thread that asks, so a read costs no change of thread. ---- */
struct virtio_dev *block_make(unsigned index, const struct guest_memory *, struct virtio_irq);
/* Give it its file (owned from here on; an earlier one is closed). read_only: writes are refused, and forks keep the file. */
int block_attach(struct virtio_dev *, int fd, bool read_only, struct err *);
uint64_t block_bytes(const struct virtio_dev *);

/* ---- net: a tap, or any descriptor that keeps the bounds of packets. No offloads: packets pass as they are. ---- */
struct virtio_dev *net_make(const struct guest_memory *, struct virtio_irq, struct loop *);
int net_attach(struct virtio_dev *, int fd, uint64_t mac, struct err *); /* mac 0: keep the one it has */

/* ---- rng: getrandom(2), at most 4 KiB a request ---- */
struct virtio_dev *rng_make(const struct guest_memory *, struct virtio_irq);

/* ---- balloon: free page reporting only ---- */
struct virtio_dev *balloon_make(const struct guest_memory *, struct virtio_irq);

/* ---- stream: virtio-vsock, ended in the VMM. A connection is a descriptor of the driver here and a vsock connection inside. Only the host opens
 * connections; what the guest asks for by itself is reset. host_port is the driver's name for a connection. ---- */
struct virtio_dev *stream_make(const struct guest_memory *, struct virtio_irq, struct loop *);
int stream_connect(struct virtio_dev *, uint32_t guest_port, uint32_t host_port, unsigned type, int fd, struct err *);
int stream_attach(struct virtio_dev *, uint32_t host_port, int fd, struct err *); /* after a fork or restore */
void stream_resume(struct virtio_dev *); /* reset what nobody attached, serve the rest */
unsigned stream_count(struct virtio_dev *);
