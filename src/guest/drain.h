/* drain.h: pipes that nobody listens to any more but that living processes still write to: read and thrown away, so
 * that a background server does not die of SIGPIPE or hang on a full pipe because its starter's exec has ended. */
#pragma once

/* Takes fd over (non-blocking; a pipe's read end or a PTY master). */
void drain_add(int fd);
