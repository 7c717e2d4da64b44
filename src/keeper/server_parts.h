/* server_parts.h: between server.c and serve_machine.c: answers. */
#pragma once
#include "keeper/capture.h"
#include "keeper/cell.h"

extern struct keeper_report server_report;

struct keeper_reply reply_to(const struct keeper_request *);
struct keeper_reply event(uint32_t op, const struct cell *);
/* rc -1: the sentence of e instead, and no descriptors. They stay the caller's. */
void answer(struct keeper_reply *, int rc, const struct err *e, const int *fds, size_t n);
/* The cell or capture that the request names, or NULL with *e. */
struct cell *wanted(const struct keeper_request *, struct err *e);
struct capture *captured(const struct keeper_request *, struct err *e);

/* serve_machine.c: */
/* A request that is for machines, or that refuses them: true when it has been answered. fds: what came with it, -1: nothing; the caller's. */
bool serve_machine(const struct keeper_request *, const int fds[2]);
