/* process_driver.h: the driver that makes cells of namespaces, with cella-keeper as its hands (docs/architecture.md, "The sentinel").
 *
 * Policy lives here, mechanism in the keeper: how many cells are kept ready, empty (namespaces, root, guest) and filled (with a warm Python),
 * when they are made, what a create takes. Loop thread only, like everything behind driver.h. */
#pragma once
#include <uv.h>

#include "base/err.h"
#include "driver/driver.h"

/* Connect to the keeper's socket. NULL with *err when there is none. */
struct driver *process_driver_open(uv_loop_t *loop, const char *keeper_socket, struct err *);

/* How many cells a warm template keeps ready; takes effect at once. -1: the default (process_driver.c). */
void process_driver_pool(struct driver *, long long filled, long long empty);
/* What a pooled cell is made with; a create with other limits changes them (one more call to the keeper). */
void process_driver_limits(struct driver *, const struct cell_limits *);
/* Where images are at home: bases_dir, what they leave out (process/base.h; made when missing), and key_file, what authenticates them (made when
 * missing, in a directory that exists). Without it freeze and thaw are refused. */
int process_driver_images(struct driver *, const char *bases_dir, const char *key_file, struct err *);
/* Its connection to the keeper, for another driver beside it (keeper_client_join). */
struct keeper_client;
struct keeper_client *process_driver_keeper(struct driver *);
