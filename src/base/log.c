#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static const char *program_name = "cella";
static enum log_level lowest_level = LOG_INFO;

void log_open(const char *program, enum log_level lowest) {
    program_name = program;
    lowest_level = lowest;
}

void log_line(enum log_level level, const char *fmt, ...) {
    static const char *const word[] = {"debug", "info", "warn", "error"};
    if (level < lowest_level) return;
    char text[1024], line[4400];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);

    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = (size_t)snprintf(line, sizeof line, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %s %s: ", tm.tm_year + 1900,
                                tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000,
                                word[level], program_name);
    for (const char *p = text; *p && n < sizeof line - 6; p++) {
        unsigned char c = (unsigned char)*p;
        if (c < 0x20 || c > 0x7e)
            n += (size_t)snprintf(line + n, sizeof line - n, "\\x%02x", c);
        else
            line[n++] = (char)c;
    }
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0) return; /* nobody left to tell */
}
