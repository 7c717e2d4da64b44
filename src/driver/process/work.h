/* work.h: work of the process driver that takes time goes to libuv's threads. */
#pragma once

struct process_driver;

/* run on a thread of the pool, then after on the loop thread. While the driver closes, after is still called: it must look at driver->closing
 * and only free what it has. */
void process_work(struct process_driver *, void (*run)(void *arg), void (*after)(void *arg), void *arg);
