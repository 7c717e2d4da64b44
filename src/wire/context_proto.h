/* context_proto.h: daemon <-> context (a Python or shell REPL inside a cell). Frames as in frame.h.
 *
 * A context has these descriptors, placed by the driver:
 *   0    /dev/null
 *   1,2  pipes whose read ends the daemon holds: everything the code, its C libraries and its children print
 *   CONTEXT_FD  this stream
 *
 * Life: the context sends CONTEXT_READY once, then waits. The daemon sends zero or more SETENV/TEMPENV frames and one
 * EXECUTE (often in one packet, EXECUTE cut by FRAME_MORE when the code is long); the context answers with any number
 * of DISPLAY/RESULT/ERROR/INPUT_REQUEST frames, all carrying the execution's number as channel, and exactly one DONE.
 * Before DONE the context has flushed its stdout and stderr, so a reader that drains both pipes when DONE arrives has
 * seen all of the execution's own output. One execution at a time; the daemon queues the others. The last RESULT and
 * DONE go in one packet where they fit.
 *
 * Interrupt is a SIGINT to the context's process, sent by the driver. A context that gets it while it executes answers
 * ERROR (KeyboardInterrupt) and DONE {"status":"interrupted"}; while idle it ignores it.
 *
 * Taking over: a daemon that finds a live context sends HELLO. When idle, the context answers by sending again every
 * frame of its newest execution with FRAME_REPLAY, then STATUS. The daemon drops every frame without FRAME_REPLAY that
 * comes before STATUS. (stdout and stderr are not replayed: an execution that spans a restart says so in `truncated`.)
 */
#pragma once

/* Below 64, the size of a fresh descriptor table: a higher number would make the kernel grow a table that a sentinel shares, which waits
 * for an RCU grace period (5 to 12 ms of a create, measured). */
#define CONTEXT_FD 60
/* Sent to a copied context's process before its first instruction: entropy is taken anew between two bytecodes of whatever it computes. Its
 * default action is to be ignored, so that a program that reset it is not killed. */
#define CONTEXT_FORKED_SIGNAL 23 /* SIGURG */
#define CONTEXT_STREAM_MAX (1u << 20) /* default for output kept per stream and execution, bytes */
#define CONTEXT_JSON_MAX (32u << 20)  /* bound on one joined DISPLAY/RESULT/ERROR payload, bytes */

enum context_frame {
    /* daemon -> context */
    CONTEXT_EXECUTE = 1,     /* payload: the code, UTF-8; FRAME_SVG asks for SVG next to PNG */
    CONTEXT_SETENV = 2,      /* payload: NAME=VALUE NUL, repeated; stays in the context's environment */
    CONTEXT_TEMPENV = 3,     /* the same, for the next EXECUTE only; put back afterwards */
    CONTEXT_INPUT_REPLY = 4, /* payload: one line without newline; FRAME_EOF: end of input (EOFError) */
    CONTEXT_HELLO = 5,       /* no payload: see "Taking over" */
    CONTEXT_CWD = 6,         /* payload: absolute path to chdir to, NUL-terminated (at creation of the context) */
    CONTEXT_FORKED = 7,      /* JSON {"sandbox_id", "hostname"}: this is a copy of a live context, or one that comes back from an image: take new entropy
                                before anything else (CONTEXT_FORKED_SIGNAL has come already; this is for a context that ignored it). No answer */
    CONTEXT_INSPECT = 8,     /* like EXECUTE (number, DONE, interrupt), without code: names, types, values. JSON {"names": [..] or absent: all,
                                "value_bytes": 200}. Answered by VARIABLES and DONE. Leaves no trace in the history and counts as no execution */
    /* context -> daemon; all payloads are JSON objects, UTF-8 */
    CONTEXT_READY = 32,         /* {"language": "python", "version": "3.11.2", "pid": 2} */
    CONTEXT_DISPLAY = 33,       /* {"data": {"text/plain": "...", "image/png": "<base64>"}, "metadata": {}} */
    CONTEXT_RESULT = 34,        /* the same: value of the last expression */
    CONTEXT_ERROR = 35,         /* {"name": "ValueError", "value": "...", "traceback": "plain text, no escapes"} */
    CONTEXT_INPUT_REQUEST = 36, /* {"prompt": "...", "password": false} */
    CONTEXT_DONE = 37, /* {"status": "ok|error|interrupted|exit", "exit_code": 3 (with exit; shell: always),
                          "execution_count": 7} ; "exit" = SystemExit / shell exit: state is kept */
    CONTEXT_STATUS = 38, /* {"last": 7 (execution number, 0 = none)} */
    CONTEXT_VARIABLES = 39, /* {"variables": [{"name", "type", "value": "short repr", "bytes": size or null, "digest": hex or null (equal digests:
                                equal contents; null: cannot be told)}], "skipped": n} ; user's own names only */
};
