/* vmm_process.h: between vmm_talk.c and vmm_process.c. */
#pragma once
#include <sys/socket.h>

#include "keeper/vmm_talk.h"

/* One packet, kept until the next one: 1, 0 when there is none now, -1 when none will come (v->over is set then). creds (may be NULL): who sent it. */
int vmm_receive(struct vmm *v, struct ucred *creds);
const struct vmm_message *vmm_received(const char **text);
/* -1 with the monitor's own errno and words. */
int vmm_refused(const struct vmm_message *, const char *text, struct err *);
/* It broke a rule, or has ended: it is killed and over. */
void vmm_lost(struct vmm *v, const char *why);
/* Wait for something to receive; after the limit the monitor is killed. */
int vmm_readable(struct vmm *v, int64_t until_ms, int limit_ms, struct err *);
