/* guest_proto.h: daemon <-> cella-guest (PID 1 of a cell). Frames as in frame.h.
 *
 * The daemon opens a channel with OPEN; the guest answers with REPLY (once, for operations that have one), DATA, and
 * always ends the channel with exactly one END, after which both sides forget the number. Channel 0 is the guest itself.
 *
 * Flow control, both directions, bytes of DATA/DATA_ERR payload: a sender starts with GUEST_WINDOW credits a channel and
 * direction and may never send more than it has; the receiver gives back what it has consumed with CREDIT. A peer that
 * overruns breaks the protocol and the stream is closed.
 *
 * OPEN payload: one JSON object with "op" and the operation's fields. "user": "user" (uid 1000, default) or "root" (uid 0
 * of the cell: no capability outside the cell's own files). Paths are absolute, or relative to the user's home
 * (/workspace, of root /root); bytes that are not UTF-8 are refused on the way in and shown with U+FFFD on the way out.
 *
 *   op           fields                                         REPLY                     DATA
 *   exec         argv:[..] or cmd:"..." (run by /bin/bash -c,   {"pid": n}                stdout as DATA, stderr as DATA_ERR;
 *                /bin/sh when there is no bash), env:{}, cwd,                             daemon's DATA is stdin, FRAME_EOF closes it
 *                stdin: bool (default false: /dev/null),
 *                pty: {"rows":24,"cols":80} (merged into DATA)
 *                END {"exit_code": n} or {"signal": n} ; {"error","code"} when it could not start (and then no REPLY)
 *   read         path, offset, length (optional)                {"size","mode","mtime_ms"}  the bytes
 *                END {"bytes": n}
 *   write        path, mode (default 0644), append: bool,       -                          daemon's DATA, FRAME_EOF at the end
 *                parents: bool (default true)
 *                The bytes go to a temporary file beside the target, which is renamed over it only after EOF;
 *                CLOSE before EOF leaves the old file as it was. END {"bytes": n, "path": "/absolute"}
 *                Without mode an existing file keeps its own. A symlink is followed to the file it names.
 *   list         path, depth (default 1)                        -                          entries as JSON lines, one object each,
 *                sorted within a directory. A directory that the user may not read, met below the first level, has
 *                "unreadable": true. END {"entries": n}
 *   stat         path (a symlink itself, not its target)        entry                      END {}
 *   mkdir        path, parents: bool, mode (default 0755)       -                          END {"created": bool}
 *                false: the directory was there already
 *   move         from, to, overwrite: bool, parents: bool       -                          END {}
 *                across file systems too (copied under a hidden name, renamed, then the original removed)
 *   remove       path, recursive: bool                          -                          END {}
 *   tar_get      path                                           -                          a tar (pax) of the tree
 *                names relative to the directory (a file: its own name); END {"bytes","entries","skipped"}, skipped: sockets,
 *                FIFOs, devices. A file that shrinks while it is read: error conflict, the tar is cut off
 *   tar_put      path (directory to unpack into), parents: bool -                          daemon's DATA is a tar, optionally gzip;
 *                entries with "..", absolute names or links that leave `path` are refused: code invalid_request, nothing
 *                of that entry is written (entries before it stay; so they do after CLOSE). Owner is the user, set-id bits
 *                are dropped. END {"entries": n}
 *   watch        path, recursive: bool                          {}                         events as JSON lines
 *                {"type":"create|write|remove|rename|chmod","path"}; until CLOSE (then END {}). A rename is told as rename of
 *                the old path and create of the new one. {"type":"overflow","path"}: events were lost, look again
 *   processes    -                                              {"processes":[{"pid","ppid","uid","state","command","cpu_ms","memory_bytes"}]}
 *   ports        -                                              {"ports":[{"port","pid","address"}]}  (listening TCP;
 *                pid null: not found)
 *   disk         -                                              {"total_bytes","free_bytes"}  (statvfs of /)
 *   changes      -                                              -                          what differs from the template, as JSON lines, sorted by
 *                path, where "/" sorts before every other byte: entry (removed: the template's) plus {"change": "added|changed|removed"}; but for
 *                removed: {"inode", "ctime_ns", "mtime_ns"}; for changed: {"before": {"type", "size", "mode", "uid", "gid"}, "same_contents": true
 *                for a file of which only mode or owner differ}. A removed directory is told with all that it held. What was merely copied
 *                up, or written again as it was, is not told, nor are Cella's own temporary files. Always as root. END {"entries": n}
 *   digest       paths:[..] (at most 1,000, absolute)           {"digests":[hex SHA-256 of the contents, or null]}
 *                null: no regular file, not readable, or behind a symlink or a mount. Always as root.
 *
 * read with "view": "root" follows no symlink and leaves the root's own file system nowhere; "view": "template" does so in the template below.
 *
 * On channel 0 only, "user" without meaning, both answered on channel 0:
 *   environment  env:{}   replaces the cell's extra environment, which every later exec gets        END {}
 *   reset        -        see the end of this file                                                  HELLO
 *
 * Environment of exec, each layer over the one before, null takes a name away: PATH, HOME, USER, LANG, TERM (pty) · NAME=VALUE
 * lines of the template's /etc/cella/environment · op environment · the request's env. Without cwd: the user's home, or / where
 * that does not exist.
 *
 * When exec ends: the process has been waited for and both pipes are at their end. Where a background process keeps a pipe open,
 * END comes 200 ms after the death of the process, with all that was in the pipes by then; what is written later is thrown
 * away, so that the background process neither dies of SIGPIPE nor blocks. END waits as long as the daemon gives no credit.
 * With a pty FRAME_EOF is typed as ^D.
 *
 * CLOSE of exec: END {"signal": 9} as a rule, or what the process had become before. CLOSE of an operation on files: END with
 * code conflict, or its success if it had been done already; one that changes files is given 5 s to undo before it is killed.
 *
 *   entry = {"name","path","type":"file|directory|symlink|other","size","mode":0644,"uid","gid","mtime_ms","target"?}
 *
 * Every failed operation: END {"error": "sentence", "code": word of base/err.h}.
 */
#pragma once

#define GUEST_PROTO_VERSION 1
#define GUEST_WINDOW (256u * 1024)
#define GUEST_OPEN_MAX (1u << 20)   /* joined OPEN payload, bytes (arguments and environment) */
#define GUEST_REPLY_MAX (4u << 20)  /* joined REPLY/END payload, bytes */
#define GUEST_CHANNELS_MAX 256      /* open at once; more: END with limit_reached */

/* Descriptors the guest finds when it starts. */
#define GUEST_FD_STREAM 3  /* the guest stream */
#define GUEST_FD_SLOTS 200 /* receive end of the keeper's slot socket: never touched by the guest, see keeper/ferry.h */
#define GUEST_FD_LAYER 202 /* directory: the upper layer of the cell's root, on a read-only mount */
#define GUEST_FD_LOWER 203 /* directory: the template, the same */
#define GUEST_FD_RULES 201 /* the cell's Landlock rule set, where the kernel has Landlock: the same */

enum guest_frame {
    /* daemon -> guest */
    GUEST_OPEN = 1,
    GUEST_DATA = 2,    /* both directions: stdin, file or tar bytes; guest: stdout, file, tar, lines */
    GUEST_CONTROL = 3, /* JSON: {"signal": 15, "group": bool} (group: the whole process group) | {"resize": {"rows","cols"}} */
    GUEST_CLOSE = 4,   /* stop: a process gets SIGKILL with its process group, a transfer is undone; END follows */
    GUEST_CREDIT = 5,  /* both directions: u32 bytes */
    /* guest -> daemon */
    GUEST_HELLO = 32,  /* channel 0, first packet: {"version": 1} */
    GUEST_DATA_ERR = 33,
    GUEST_REPLY = 34,
    GUEST_END = 35,
};
/* A new daemon that takes a cell over sends GUEST_OPEN {"op":"reset"} on channel 0 first: the guest forgets every open
 * channel (processes live on, their output is discarded, writes are undone) and answers HELLO. */
