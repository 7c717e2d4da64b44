/* guard.h: may this request come in at all? Checked on every route before anything else.
 *
 *  - Host must be a loopback name, the address the client connected to, or an allowed name: a web page that made its
 * own name point at this machine (DNS rebinding) does not get in.
 *  - Origin, when a browser sends one, must be the same host and port as Host: no other web page drives this daemon.
 *  - A key is needed beyond loopback, for proxied requests, and on loopback with --require-key. */
#pragma once
#include "api/api.h"

#define URL_MAX 6144      /* bytes of path and query; longer: 414 */
#define HEADERS_MAX 10240 /* bytes of all names and values; longer: 431 */

/* Each returns 0 or -1 with the error to answer; *status is set where the code alone does not say it (414, 431). */
int guard_size(struct request *, unsigned *status, struct err *);
int guard_host(struct request *, struct err *);
int guard_key(struct request *, enum route_auth, struct err *);
