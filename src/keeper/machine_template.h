/* machine_template.h: the machines of templates: restored from a base, paused, forked for every new cell; no guest code runs in one again. Nothing depends on one: it can go
 * at any time and is restored when it is asked for. */
#pragma once
#include "keeper/machine_files.h"
#include "keeper/vmm_talk.h"

#define TEMPLATE_MACHINES_MAX 16 /* the one that was not used for longest makes room */

struct template_machine {
    struct vmm vmm; /* first */
    char template_id[KEEPER_TEMPLATE], base[KEEPER_ID];
    struct base_config config;
    uint64_t used; /* the higher, the later */
};

/* NULL: MACHINE_TEMPLATE first. Counts as a use. */
struct template_machine *template_machine_find(const char *template_id, const char *base);
/* The template's machine with this base ("": the newest, if it has this much memory and these processors; 0: any), started when it is not there; out says which one it is.
 * sys_errno ENOENT: there is no base; EBADMSG: it cannot be used here. */
int machine_template(const char *template_id, const char *base, uint64_t memory_bytes, uint32_t vcpus, char out[KEEPER_ID], struct err *);
/* Tell monitor `v` to be what these files hold; every argument is open and stays the caller's. base_fd -1: they are whole. */
uint32_t machine_send_restore(struct vmm *v, int state_fd, int memory_fd, int base_fd, struct err *);
