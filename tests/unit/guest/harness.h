/* harness.h: runs the real cella-guest on a socket pair and speaks its protocol, for the tests of this folder.
 *
 * GUEST_IN_CELL starts it as the keeper does: own user, pid, mount, ipc, uts, net and cgroup namespaces, an own root
 * (tmpfs, with the host's /usr and /etc), /workspace as an overlay, /proc, /dev, a devpts, uid 65533 with the guest's
 * capabilities, Landlock, the system-call filter, and something at the descriptors that it must neither use nor pass
 * on. GUEST_PLAIN starts it as root beside the test. Both need root.
 *
 * Every wait has a deadline; running into it fails the test with what was being waited for. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/buf.h"
#include "wire/frame.h"
#include "wire/guest_proto.h"

#define CHANNELS 1024
#define WAIT_MS 20000 /* far above anything a test needs on a busy machine */

enum guest_mode { GUEST_IN_CELL, GUEST_PLAIN };

struct channel_seen {
    struct buf out, err, reply, end;
    uint64_t out_total;             /* bytes of DATA, also when not kept */
    uint64_t send_credit;           /* what may still be sent to the guest */
    bool ended, discard, no_credit; /* discard: count DATA, do not keep it; no_credit: give none back */
    uint32_t hash;                  /* of all DATA, FNV-1a */
};

struct guest {
    int fd;
    pid_t pid; /* as seen by the test */
    int exit_status;
    char root[64]; /* of the cell, as seen by the test; "" when plain */
    bool eof;
    bool any_frames; /* the test sends nonsense: do not judge the order of the answers */
    unsigned hellos;
    uint32_t next_channel;
    struct channel_seen channels[CHANNELS]; /* 0: the guest itself */
};

/* Path of the binary: first argument of the test program. */
extern const char *guest_binary;
/* What a GUEST_PLAIN finds as GUEST_FD_LAYER and GUEST_FD_LOWER; NULL: nothing. (In a cell they are the two sides of /layered.) */
extern const char *guest_layers[2];
/* What a test's main calls: takes the argument, checks for root, runs. */
int guest_tests_main(int argc, char **argv, const char *name, const struct CMUnitTest *tests, size_t n);

struct guest *guest_start(enum guest_mode mode); /* HELLO has been seen */
void guest_stop(struct guest *g);                /* close, wait, expect exit status 0, free */
int guest_wait_exit(struct guest *g);            /* wait status */

void guest_frame_send(struct guest *g, uint16_t type, uint16_t flags, uint32_t channel, const void *bytes, size_t n);
/* Send OPEN with this JSON text. */
uint32_t guest_open(struct guest *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Receive one packet (false: none within timeout_ms) and file its frames. */
bool guest_pump(struct guest *g, int timeout_ms);
struct channel_seen *guest_wait_end(struct guest *g, uint32_t channel);
/* Wait until out (err) of the channel contains the text. */
void guest_wait_text(struct guest *g, uint32_t channel, const char *text);
void guest_wait_reply(struct guest *g, uint32_t channel);
/* DATA of any length within the credit, then FRAME_EOF when eof. */
void guest_data(struct guest *g, uint32_t channel, const void *bytes, size_t n, bool eof);
void guest_close(struct guest *g, uint32_t channel);
/* Run one operation without input to its end. */
struct channel_seen *guest_run(struct guest *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Write a file through the guest; expects success. */
void guest_put(struct guest *g, const char *path, const char *text);
/* Run a shell command in the cell as user or root; expects exit code 0, returns its output. */
const char *guest_sh(struct guest *g, const char *user, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Members of JSON text; the test fails when they are not there. */
long long json_number(const struct buf *json, const char *key);
const char *json_word(const struct buf *json, const char *key); /* valid until the next call */
bool json_has(const struct buf *json, const char *key);
/* END must be an error with this code. */
void expect_error(const struct channel_seen *c, const char *code);
void expect_ok(const struct channel_seen *c);

uint32_t hash_more(uint32_t h, const void *bytes, size_t n);
#define HASH_START 2166136261u
/* KiB of anonymous memory of the guest process. */
long guest_memory_kib(const struct guest *g);
/* The sanitizer's shadow and quarantine are no measure of the guest: in such a build these bounds are a hundredfold. */
#ifdef __SANITIZE_ADDRESS__
#define MEMORY_SCALE 100
#else
#define MEMORY_SCALE 1
#endif
#define expect_memory_below(g, kib) assert_in_range(guest_memory_kib(g), 1, (kib)*MEMORY_SCALE)
