#include "wire/connect_udp.h"

#include "base/error.h"
#include "base/text.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const char prefix[] = "/.well-known/masque/udp/";

static bool is_unreserved(char c)
{
    return isalnum((unsigned char)c) || (c && strchr("-._~", c));
}

void connect_udp_path(const struct host_port *target, char out[CONNECT_UDP_PATH_SIZE])
{
    char *p = stpcpy(out, prefix);
    for (const char *c = target->host; *c; c++) {
        if (is_unreserved(*c))
            *p++ = *c;
        else
            p += snprintf(p, 4, "%%%02X", (unsigned char)*c);
    }
    snprintf(p, sizeof("/65535/"), "/%u/", target->port);
}

/* One variable up to the next slash; what is behind that, or NULL. */
static const char *read_variable(const char *s, char *out, size_t size)
{
    size_t n = 0;
    while (*s && *s != '/') {
        char c = *s++;
        if (c == '%') {
            int high = text_hex_value(s[0]), low = high < 0 ? -1 : text_hex_value(s[1]);
            if (low < 0)
                return NULL;
            c = (char)(high << 4 | low);
            s += 2;
        }
        if (n + 1 >= size || (unsigned char)c <= ' ' || c == 0x7f)
            return NULL;
        out[n++] = c;
    }
    out[n] = '\0';
    return *s == '/' && n ? s + 1 : NULL;
}

int connect_udp_parse(const char *path, struct host_port *ret, struct diag *d)
{
    struct host_port target;
    struct addr literal;
    char port[8];
    uint64_t number = 0;
    const char *rest = NULL;
    if (strncmp(path, prefix, strlen(prefix)) == 0)
        rest = read_variable(path + strlen(prefix), target.host, sizeof(target.host));
    if (rest)
        rest = read_variable(rest, port, sizeof(port));
    if (!rest || *rest)
        return diag_set(d, ERR_INVALID, "the path must be %sHOST/PORT/", prefix);
    if (text_to_u64(port, UINT16_MAX, &number) < 0 || number == 0)
        return diag_set(d, ERR_INVALID, "'%s' is not a port", port);
    target.port = (uint16_t)number;
    if (strpbrk(target.host, ":[]/?#@") && addr_parse(target.host, target.port, &literal) < 0)
        return diag_set(d, ERR_INVALID, "'%.80s' is not a host", target.host);
    *ret = target;
    return 0;
}
