/* notes.h: the keeper's list of what a copy does not have (struct keeper_note in a memory file) as JSON of driver.h's `not_carried`. */
#pragma once
#include <stdint.h>

struct json_object;

/* Append the notes of the memory file to the array. The file is not closed. Texts are bytes of the cell's choice: what is not valid UTF-8 becomes U+FFFD.
 * Notes that cannot be read are one of kind "unknown": what is missing is never left unsaid. */
void notes_append(struct json_object *array, int fd, uint32_t count);
