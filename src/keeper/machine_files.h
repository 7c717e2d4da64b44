/* machine_files.h: STATE/machines/<template>: what virtual machines are made of (kernel, initrd, root.erofs, disk.img, made by `cella template build`) and the bases the
 * keeper writes (<bas_…>/state, memory, config, root.erofs: the very file that it was booted with, linked; and `newest`, a link to one of them). Nothing below the state directory is followed but that link,
 * whose text is checked. Everything is opened for one purpose and closed by the caller. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/keeper_proto.h"

#define CONSOLE_BYTES (64u << 10) /* of a machine's console are kept */

struct base_config { /* <bas_…>/config */
    char magic[8];         /* BASE_MAGIC */
    uint64_t memory_bytes;
    uint32_t vcpus, slots; /* slots that were connected: bit mask */
    uint64_t disk_size;    /* of disk.img */
};
#define BASE_MAGIC "CELBASE1"

/* Remove what a keeper before this one did not finish: half bases, disks of bases that are gone, consoles. */
void machine_files_open(void);
/* The directory of a template's machines. */
int machine_dir(const char *template_id, struct err *);
/* Open a file below it to read. */
int machine_file(int dir, const char *name, struct err *);
/* The newest base's name; -1 with sys_errno ENOENT: there is none. */
int base_newest(int dir, char out[KEEPER_ID], struct err *);
int base_file(int dir, const char *base, const char *name, struct err *);
int base_read(int dir, const char *base, struct base_config *, struct err *);

/* A base in three steps, so that a crash leaves none: an empty directory and its files; everything durable and the base the newest one (takes as long as the
 * disk does); or away with it, after a failure of either. */
struct base_files {
    int state, memory; /* to write */
};
int base_begin(int dir, const char *base, const struct base_config *, int root_fd, struct base_files *, struct err *);
int base_finish(int dir, const char *base, uint64_t *bytes, struct err *);
void base_drop(int dir, const char *base);

/* A file for a console, of at most CONSOLE_BYTES; name: the cell's, or NULL: the one of the last boot, which stays. */
int console_make(int dir, const char *name, struct err *);
void console_drop(const char *template_id, const char *name);
/* The disk of a machine is disk.img in a layer: open it to write. */
int disk_open(const char *layer, struct err *);
/* A copy of the template's fresh disk in an empty layer. */
int disk_fresh(int dir, const char *layer, struct err *);
