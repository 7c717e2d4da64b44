/* owners.h: which key a cell belonged to, remembered beyond the cell's end, so that its own key hears "gone" and every
 * other one "not found". Bounded: a fixed table in which a newer cell may take an older one's place, and after a
 * restart of the daemon it is empty; both only turn a "gone" into a "not found". Loop thread only. */
#pragma once
#include <stdbool.h>

struct owners;

struct owners *owners_open(void);
void owners_close(struct owners *);
void owners_add(struct owners *, const char *cell_id, const char *key_id);
bool owners_know(const struct owners *, const char *cell_id, const char *key_id);
