/* Character sets, for libarchive in a file worker: there is one, UTF-8, and nothing is ever loaded for it.
 *
 * The C library would answer these calls with files of the cell (locale archives, gconv modules, which are shared
 * objects it loads): whoever is root in a cell could put code into a process of the guest. So the program defines them
 * itself; the linker then takes none of the library's. libarchive converts between UTF-8 and UTF-8 with its own code,
 * and where it wants another charset it is told that there is none. */
#include <errno.h>
#include <iconv.h>
#include <langinfo.h>
#include <stdint.h>

static char utf8_name[] = "UTF-8", nothing[] = "";

char *nl_langinfo(nl_item item) { return item == CODESET ? utf8_name : nothing; }

iconv_t iconv_open(const char *to, const char *from) {
    (void)to;
    (void)from;
    errno = EINVAL; /* "the conversion is not supported" */
    return (iconv_t)-1;
}

size_t iconv(iconv_t cd, char **in, size_t *in_left, char **out, size_t *out_left) {
    (void)cd, (void)in, (void)in_left, (void)out, (void)out_left;
    errno = EBADF;
    return (size_t)-1;
}

int iconv_close(iconv_t cd) {
    (void)cd;
    return 0;
}
