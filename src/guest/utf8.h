/* utf8.h: well-formed UTF-8 as Unicode 15, table 3-7, has it: no overlong forms, no surrogates. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Bytes of the sequence at s (a NUL-terminated string, not at its end), 0 when it is not well-formed. */
size_t utf8_sequence(const unsigned char *s);
bool utf8_valid(const char *text);
