/* keeper_ask.h: what both drivers say to the keeper in the same way. */
#pragma once
#include <stdbool.h>

#include "driver/driver.h"
#include "driver/keeper/keeper_client.h"

/* A request that is answered with nothing but success. done may be NULL: nobody waits. */
void keeper_ask(struct keeper_client *, struct keeper_request *, driver_done done, void *arg);
struct keeper_limits keeper_limits_of(const struct cell_limits *);
bool limits_equal(const struct cell_limits *, const struct cell_limits *);
