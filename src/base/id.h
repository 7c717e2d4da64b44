/* id.h: random names. 128 bits from getrandom(2), printed as 32 lower-case hex digits. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ID_HEX 32 /* digits of a 128-bit id */

/* Write prefix + 32 hex digits + NUL into out (which holds strlen(prefix) + 33 bytes). */
void id_make(char *out, const char *prefix);
/* True when s is exactly prefix + 32 lower-case hex digits. */
bool id_valid(const char *s, const char *prefix);
/* True when s is exactly n lower-case hex digits. */
bool hex_valid(const char *s, size_t n);
/* Fill p with n random bytes; aborts when the kernel has none (fail closed). */
void random_fill(void *p, size_t n);
