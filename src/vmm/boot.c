#include "vmm/boot.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOTE_PVH_ENTRY 18u /* XEN_ELFNOTE_PHYS32_ENTRY */
#define PVH_MAGIC 0x336ec578u
#define NOTES_MAX 65536u
#define START_INFO 0x6000u /* start_info, module list, memory map: a page; the command line behind it */
#define CMDLINE 0x7000u
#define KERNEL_MIN 0x100000u

struct pvh_start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, cmdline, rsdp, memory_map;
    uint32_t memory_entries, reserved;
};
struct pvh_module {
    uint64_t address, bytes, cmdline, reserved;
};
struct pvh_memory {
    uint64_t address, bytes;
    uint32_t type, reserved;
};
enum { MEMORY_RAM = 1, MEMORY_RESERVED = 2 };

/* Read exactly n bytes, or say why not. */
static int read_at(int fd, void *to, size_t n, uint64_t at, const char *what, struct err *e) {
    for (uint8_t *p = to; n;) {
        const ssize_t got = pread(fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return err_sys(e, errno, "%s", what);
        if (!got) return err_set(e, ERR_INVALID, "%s: the file ends too early", what);
        p += got, n -= (size_t)got, at += (uint64_t)got;
    }
    return 0;
}

static int find_entry(const uint8_t *notes, size_t n, uint32_t *entry) {
    for (size_t at = 0; n - at >= sizeof(Elf64_Nhdr);) {
        Elf64_Nhdr h;
        memcpy(&h, notes + at, sizeof h);
        const uint64_t name = (h.n_namesz + 3ull) & ~3ull, desc = (h.n_descsz + 3ull) & ~3ull;
        at += sizeof h;
        if (name > n - at || desc > n - at - name) return -1;
        if (h.n_type == NOTE_PVH_ENTRY && h.n_namesz == 4 && !memcmp(notes + at, "Xen", 4) && h.n_descsz >= 4) {
            memcpy(entry, notes + at + name, 4);
            return 0;
        }
        at += name + desc;
    }
    return -1;
}

static int load_segment(struct machine *m, int fd, const Elf64_Phdr *p, uint64_t *end, struct err *e) {
    if (p->p_filesz > p->p_memsz || p->p_paddr < KERNEL_MIN) return err_set(e, ERR_INVALID, "kernel: a segment at %#llx", (unsigned long long)p->p_paddr);
    void *to = memory_at(&m->memory, p->p_paddr, p->p_memsz);
    if (!to) return err_set(e, ERR_INVALID, "kernel: it does not fit into the machine's memory");
    if (read_at(fd, to, p->p_filesz, p->p_offset, "kernel", e) < 0) return -1;
    memset((uint8_t *)to + p->p_filesz, 0, p->p_memsz - p->p_filesz);
    memory_dirty(&m->memory, to, p->p_memsz);
    if (p->p_paddr + p->p_memsz > *end) *end = p->p_paddr + p->p_memsz;
    return 0;
}

static int load_kernel(struct machine *m, int fd, uint32_t *entry, uint64_t *end, struct err *e) {
    Elf64_Ehdr h;
    uint8_t notes[NOTES_MAX];
    int found = -1;
    if (read_at(fd, &h, sizeof h, 0, "kernel", e) < 0) return -1;
    if (memcmp(h.e_ident, ELFMAG, SELFMAG) || h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_machine != EM_X86_64 || h.e_phentsize != sizeof(Elf64_Phdr))
        return err_set(e, ERR_INVALID, "kernel: not an ELF file for this processor (a bzImage has to be unpacked first)");
    for (unsigned i = 0; i < h.e_phnum && i < 64; i++) {
        Elf64_Phdr p;
        if (read_at(fd, &p, sizeof p, h.e_phoff + i * sizeof p, "kernel", e) < 0) return -1;
        if (p.p_type == PT_LOAD && p.p_memsz && load_segment(m, fd, &p, end, e) < 0) return -1;
        if (p.p_type == PT_NOTE && p.p_filesz <= sizeof notes && found < 0) {
            if (read_at(fd, notes, p.p_filesz, p.p_offset, "kernel", e) < 0) return -1;
            found = find_entry(notes, p.p_filesz, entry);
        }
    }
    return found < 0 ? err_set(e, ERR_INVALID, "kernel: it has no PVH entry (CONFIG_PVH)") : 0;
}

/* As high as it can be, below the gap: the kernel unpacks it from there. */
static int load_initrd(struct machine *m, int fd, uint64_t kernel_end, struct pvh_module *out, struct err *e) {
    struct stat st;
    if (fstat(fd, &st) < 0) return err_sys(e, errno, "initrd");
    const uint64_t bytes = (uint64_t)st.st_size, low = memory_low(&m->memory);
    if (st.st_size <= 0 || bytes > low) return err_set(e, ERR_INVALID, "initrd: %lld bytes", (long long)st.st_size);
    const uint64_t at = (low - bytes) & ~(uint64_t)(MEMORY_PAGE - 1);
    if (at < kernel_end) return err_set(e, ERR_INVALID, "initrd: it does not fit beside the kernel");
    uint8_t *to = memory_at(&m->memory, at, bytes);
    if (read_at(fd, to, bytes, 0, "initrd", e) < 0) return -1;
    memory_dirty(&m->memory, to, bytes);
    *out = (struct pvh_module){.address = at, .bytes = bytes};
    return 0;
}

int boot_load(struct machine *m, int kernel_fd, int initrd_fd, const char *cmdline, uint32_t *entry, uint32_t *start_info, struct err *e) {
    struct {
        struct pvh_start_info info;
        struct pvh_module module;
        struct pvh_memory map[5];
    } boot = {.info = {.magic = PVH_MAGIC, .version = 1}};
    uint64_t end = 0;
    const uint64_t low = memory_low(&m->memory), high = m->memory.bytes - low;
    const size_t line = strlen(cmdline) + 1;
    if (line > BOOT_CMDLINE_MAX) return err_set(e, ERR_INVALID, "kernel command line of more than %d bytes", BOOT_CMDLINE_MAX - 1);
    if (load_kernel(m, kernel_fd, entry, &end, e) < 0 || (initrd_fd >= 0 && load_initrd(m, initrd_fd, end, &boot.module, e) < 0)) return -1;
    const struct pvh_memory map[] = {{0, 0x9fc00, MEMORY_RAM, 0}, {0x9fc00, KERNEL_MIN - 0x9fc00, MEMORY_RESERVED, 0},
                                     {KERNEL_MIN, low - KERNEL_MIN, MEMORY_RAM, 0}, {MEMORY_HIGH, high, MEMORY_RAM, 0}};
    memcpy(boot.map, map, sizeof map);
    boot.info.modules = initrd_fd >= 0;
    boot.info.module_list = START_INFO + ((uint64_t)&boot.module - (uint64_t)&boot);
    boot.info.memory_map = START_INFO + ((uint64_t)boot.map - (uint64_t)&boot);
    boot.info.memory_entries = high ? 4 : 3;
    boot.info.cmdline = CMDLINE;
    boot.info.rsdp = acpi_write(m);
    memcpy(m->memory.base + START_INFO, &boot, sizeof boot);
    memcpy(m->memory.base + CMDLINE, cmdline, line);
    memory_dirty(&m->memory, m->memory.base + START_INFO, CMDLINE - START_INFO + line);
    *start_info = START_INFO;
    return 0;
}
