#include "api/host_name.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

bool host_split(const char *text, char host[static 256], int *port) {
    const char *colon = NULL;
    size_t n;
    *port = -1;
    if (*text == '[') {
        const char *end = strchr(++text, ']');
        if (!end || (end[1] && end[1] != ':')) return false;
        n = (size_t)(end - text);
        colon = end[1] ? end + 1 : NULL;
    } else {
        colon = strchr(text, ':');
        n = colon ? (size_t)(colon - text) : strlen(text);
    }
    if (!n || n > 255) return false;
    for (size_t i = 0; i < n; i++) {
        if (!isalnum((unsigned char)text[i]) && !strchr(".-_:%", text[i])) return false;
        host[i] = (char)tolower((unsigned char)text[i]);
    }
    if (host[n - 1] == '.') n--; /* the same name, written in full */
    host[n] = 0;
    if (!colon || !colon[1]) return n > 0;
    char *end;
    unsigned long number = strtoul(colon + 1, &end, 10);
    if (*end || number > 65535 || !isdigit((unsigned char)colon[1])) return false;
    *port = (int)number;
    return n > 0;
}

bool host_is_loopback(const char *host) {
    struct in_addr four;
    struct in6_addr six;
    size_t n = strlen(host);
    if (!strcmp(host, "localhost") || (n > 10 && !strcmp(host + n - 10, ".localhost"))) return true;
    if (inet_pton(AF_INET, host, &four) == 1) return ntohl(four.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

const char *host_behind_sandbox(const char *host) {
    size_t digits = strspn(host, "0123456789");
    const char *id = host + digits + 1, *dot = strchr(host, '.');
    if (!digits || digits > 5 || host[digits] != '-' || !dot || strncmp(id, "sbx_", 4) != 0) return host;
    return dot == id + 4 + strspn(id + 4, "0123456789abcdef") && dot[1] ? dot + 1 : host;
}

static int default_port(const char *scheme) { return strcmp(scheme, "https") == 0 ? 443 : 80; }

/* Origin = scheme://host[:port], the same place that Host names. */
bool host_is_origin(const char *origin, const char *host, int port) {
    char scheme[16], other[256];
    int other_port;
    const char *rest = strstr(origin, "://");
    if (!rest || (size_t)(rest - origin) >= sizeof scheme) return false;
    memcpy(scheme, origin, (size_t)(rest - origin));
    scheme[rest - origin] = 0;
    if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0) return false;
    if (!host_split(rest + 3, other, &other_port) || strcmp(other, host) != 0) return false;
    int standard = default_port(scheme);
    return (other_port < 0 ? standard : other_port) == (port < 0 ? standard : port);
}
