/* fs_temp.h: a file that gets its name only when it is complete. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#define TEMP_NAME_SIZE 32

struct temp {
    int fd;  /* for writing */
    int dir; /* the caller's; must stay open */
    bool named;
    char name[TEMP_NAME_SIZE];
};

/* A hidden name nobody else has. */
void temp_name(char name[TEMP_NAME_SIZE]);
/* A new empty file, mode 0600, in dir. -1 and errno. */
int temp_open(struct temp *t, int dir);
/* Put it at `name`, over what is there. -1 and errno; then temp_discard. */
int temp_publish(struct temp *t, const char *name);
/* Remove what is left. Also after temp_publish. Keeps errno. */
void temp_discard(struct temp *t);

/* write(2) until all is out. -1 and errno. */
int write_all(int fd, const void *bytes, size_t n);
