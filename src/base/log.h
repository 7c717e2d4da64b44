/* log.h: one line per event on stderr: time, level, program, text. Any thread may call.
 * Bytes outside printable ASCII are escaped, so that nothing a cell says can forge a line. */
#pragma once

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Name shown in every line and the lowest level that is printed. Call once, first thing in main. */
void log_open(const char *program, enum log_level lowest);
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
