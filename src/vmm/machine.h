/* machine.h: one virtual machine: memory, vCPUs, devices, and the state they are in.
 *
 * Threads: the loop thread (main) owns this structure and every descriptor; each vCPU has a thread that runs the guest and serves its exits.
 * While the machine is paused all vCPU threads are parked outside every lock, with their last exit completed, so the loop thread may read and
 * write everything, fork included. A machine goes through: empty -> (boot | restore | forked) paused <-> running -> over. */
#pragma once
#include <linux/kvm.h>
#include <pthread.h>

#include "vmm/arch.h"
#include "vmm/devices.h"
#include "vmm/ioapic.h"
#include "vmm/loop.h"
#include "vmm/serial.h"
#include "wire/vmm_proto.h"

#define MACHINE_DEVICE_ADDRESS 0xd0000000u /* window i begins at + i * VIRTIO_WINDOW */
#define MACHINE_DEVICE_LINE 5u             /* and raises this line + i */
#define MACHINE_DEVICES_MAX 8
enum { DEVICE_RNG, DEVICE_STREAM, DEVICE_NET, DEVICE_DISK, DEVICE_BALLOON = DEVICE_DISK + VMM_DISKS_MAX }; /* windows; disk i is DEVICE_DISK + i */
_Static_assert(DEVICE_BALLOON < MACHINE_DEVICES_MAX, "a window for each");

struct machine;
struct vcpu {
    struct machine *machine;
    unsigned index;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    uint64_t exits;
};

struct machine {
    int kvm_fd, vm_fd;
    unsigned vcpus, disks;
    enum vmm_state state;
    enum vmm_end end;
    char end_text[160];
    bool forked_from_parent, net;
    struct guest_memory memory;
    struct arch_host host;
    struct ioapic ioapic;
    struct serial serial;
    struct virtio_dev *device[MACHINE_DEVICES_MAX]; /* NULL: nothing in that window */
    struct loop loop;
    struct watch over; /* eventfd: a vCPU ended the machine */
    void (*on_over)(struct machine *);
    /* pausing */
    pthread_mutex_t lock;
    pthread_cond_t parked, go;
    bool pause, threads; /* threads: they were made */
    unsigned vcpus_parked;
    struct vcpu vcpu[VMM_VCPUS_MAX];
    /* what a fork carries over (the rest of the memory it carries anyway) */
    struct arch_vcpu saved[VMM_VCPUS_MAX];
    uint64_t clock_ns;
    uint8_t base_id[16]; /* of the snapshot that later ones with VMM_SNAPSHOT_CHANGED are relative to; zero: none */
    size_t run_bytes;
};

/* Once per process (not in a fork): ask the host. */
int machine_init(struct machine *, int kvm_fd, struct err *);
int machine_configure(struct machine *, uint64_t memory_bytes, unsigned vcpus, bool track, struct err *);
/* Make devices; index < VMM_DISKS_MAX. A disk or net that exists gets a new descriptor. fd is owned from here on. */
int machine_disk(struct machine *, unsigned index, int fd, bool read_only, struct err *);
int machine_net(struct machine *, int fd, uint64_t mac, struct err *);
/* KVM's objects for this process: VM, memory, vCPUs. Then load or boot, then machine_ready. */
int machine_kvm(struct machine *, struct err *);
void machine_ready(struct machine *); /* loaded or booted: paused, to be resumed */
int machine_pause(struct machine *, struct err *); /* returns with all parked */
int machine_resume(struct machine *, struct err *);
/* Paused machines only: the registers of all vCPUs and the clock, to and from `saved`; and KVM's log of written pages into the bitmap. */
int machine_save(struct machine *, struct err *);
int machine_load(struct machine *, struct err *);
int machine_harvest(struct machine *, struct err *);
/* In a forked process: forget the parent's KVM objects, threads and descriptors. */
int machine_forked(struct machine *, struct err *);
/* Any thread: the guest ended by itself. */
void machine_over(struct machine *, enum vmm_end, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* bus.c: an access of a vCPU to a port or an address where no memory is. Nothing there reads as ones. */
void bus_port(struct machine *, uint16_t port, bool is_write, void *data, unsigned size, unsigned count);
void bus_memory(struct machine *, uint64_t address, bool is_write, void *data, unsigned size);
/* vcpu.c: the thread's function. */
void *vcpu_thread(void *vcpu);
