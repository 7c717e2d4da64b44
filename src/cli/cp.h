/* cp.h: the two places of `cella cp`. */
#pragma once
#include <stdbool.h>

struct cp_place {
    char cell[64];    /* "": on this machine */
    const char *path; /* points into the word, or is "." */
};
/* "CELL:PATH" is in a cell; a word with a slash before its first colon, or without one, is here. */
void cp_place_parse(const char *word, struct cp_place *);
