#include "base/addr.h"

#include "base/error.h"
#include "base/text.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#define HOST_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"

int host_port_parse(const char *s, bool zero_ok, struct host_port *ret, struct diag *d)
{
    const char *host = s, *colon = strrchr(s, ':');
    size_t host_len;
    uint64_t port;
    if (!colon || text_to_u64(colon + 1, 65535, &port) < 0 || (port == 0 && !zero_ok))
        return diag_set(d, ERR_INVALID, "'%.100s' is not HOST:PORT, such as 10.0.0.17:80", s);
    host_len = (size_t)(colon - s);
    bool bracketed = s[0] == '[';
    if (bracketed) {
        if (host_len < 3 || s[host_len - 1] != ']' || !memchr(s, ':', host_len))
            return diag_set(d, ERR_INVALID, "'%.100s': an IPv6 address goes as [ADDRESS]:PORT", s);
        host++;
        host_len -= 2;
    } else if (memchr(s, ':', host_len)) {
        return diag_set(d, ERR_INVALID, "'%.100s': an IPv6 address goes as [ADDRESS]:PORT", s);
    }
    if (host_len == 0 || host_len >= HOST_SIZE ||
        strspn(host, bracketed ? HOST_CHARS "%:" : HOST_CHARS) < host_len)
        return diag_set(d, ERR_INVALID, "'%.100s' has no valid host before the port", s);
    memcpy(ret->host, host, host_len);
    ret->host[host_len] = '\0';
    ret->port = (uint16_t)port;
    return 0;
}

void host_port_format(const struct host_port *hp, char *out, size_t size)
{
    snprintf(out, size, strchr(hp->host, ':') ? "[%s]:%u" : "%s:%u", hp->host, hp->port);
}

bool host_port_equal(const struct host_port *a, const struct host_port *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}

static bool is_label(const char *s, size_t len)
{
    return len >= 1 && len <= 63 && s[0] != '-' && s[len - 1] != '-' &&
           strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-") >= len;
}

int host_name_parse(const char *s, char ret[HOST_SIZE])
{
    char text[HOST_SIZE];
    size_t len = strnlen(s, HOST_SIZE), label = 0;
    if (len > 0 && s[len - 1] == '.')
        len--;
    if (len == 0 || len > 253)
        return ERR_INVALID;
    for (size_t i = 0; i < len; i++)
        text[i] = s[i] >= 'A' && s[i] <= 'Z' ? (char)(s[i] - 'A' + 'a') : s[i];
    text[len] = '\0';
    for (size_t at = 0; at <= len; at += label + 1) {
        label = strcspn(text + at, ".");
        if (!is_label(text + at, label))
            return ERR_INVALID;
        if (at + label == len && strspn(text + at, "0123456789") == label)
            return ERR_INVALID; /* an IPv4 address, or something that wants to be one */
    }
    memcpy(ret, text, len + 1);
    return 0;
}

int addr_parse(const char *host, uint16_t port, struct addr *ret)
{
    struct addr a = {0};
    char ip[INET6_ADDRSTRLEN];
    const char *scope = strchr(host, '%');
    if (inet_pton(AF_INET, host, &a.in4.sin_addr) == 1) {
        a.in4.sin_family = AF_INET;
        a.in4.sin_port = htons(port);
        a.len = sizeof(a.in4);
        *ret = a;
        return 0;
    }
    size_t n = scope ? (size_t)(scope - host) : strlen(host);
    if (n >= sizeof(ip))
        return ERR_INVALID;
    memcpy(ip, host, n);
    ip[n] = '\0';
    if (inet_pton(AF_INET6, ip, &a.in6.sin6_addr) != 1)
        return ERR_INVALID;
    if (scope) {
        a.in6.sin6_scope_id = if_nametoindex(scope + 1);
        if (!a.in6.sin6_scope_id)
            return ERR_INVALID;
    }
    a.in6.sin6_family = AF_INET6;
    a.in6.sin6_port = htons(port);
    a.len = sizeof(a.in6);
    *ret = a;
    return 0;
}

void addr_format_ip(const struct addr *a, char *out, size_t size)
{
    const void *ip = a->sa.sa_family == AF_INET6 ? (const void *)&a->in6.sin6_addr
                                                 : (const void *)&a->in4.sin_addr;
    if (!a->len || !inet_ntop(a->sa.sa_family, ip, out, (socklen_t)size))
        snprintf(out, size, "-");
}

void addr_format(const struct addr *a, char *out, size_t size)
{
    char ip[INET6_ADDRSTRLEN];
    addr_format_ip(a, ip, sizeof(ip));
    snprintf(out, size, a->sa.sa_family == AF_INET6 ? "[%s]:%u" : "%s:%u", ip, addr_port(a));
}

uint16_t addr_port(const struct addr *a)
{
    return ntohs(a->sa.sa_family == AF_INET6 ? a->in6.sin6_port : a->in4.sin_port);
}

void addr_set_port(struct addr *a, uint16_t port)
{
    if (a->sa.sa_family == AF_INET6)
        a->in6.sin6_port = htons(port);
    else
        a->in4.sin_port = htons(port);
}

void addr_mapped(const struct addr *a, uint8_t out[16])
{
    if (a->sa.sa_family == AF_INET6) {
        memcpy(out, &a->in6.sin6_addr, 16);
    } else {
        memset(out, 0, 10);
        out[10] = out[11] = 0xff;
        memcpy(out + 12, &a->in4.sin_addr, 4);
    }
}

bool addr_equal_ip(const struct addr *a, const struct addr *b)
{
    uint8_t x[16], y[16];
    addr_mapped(a, x);
    addr_mapped(b, y);
    return a->len && b->len && memcmp(x, y, 16) == 0;
}

void addr_origin(const struct addr *a, uint8_t out[16])
{
    addr_mapped(a, out);
    if (a->sa.sa_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr))
        memset(out + 8, 0, 8);
}

bool addr_same_origin(const struct addr *a, const struct addr *b)
{
    uint8_t x[16], y[16];
    addr_origin(a, x);
    addr_origin(b, y);
    return memcmp(x, y, sizeof(x)) == 0;
}

static int parse_ports(const char *s, struct addr_rule *r)
{
    while (*s) {
        char part[16];
        size_t n = strcspn(s, ",");
        uint64_t first, last;
        if (n == 0 || n >= sizeof(part) || r->n_ports == ADDR_RULE_PORTS)
            return ERR_INVALID;
        memcpy(part, s, n);
        part[n] = '\0';
        char *dash = strchr(part, '-');
        if (dash)
            *dash = '\0';
        TRY(text_to_u64(part, 65535, &first));
        last = first;
        if (dash)
            TRY(text_to_u64(dash + 1, 65535, &last));
        if (last < first)
            return ERR_INVALID;
        r->ports[r->n_ports].first = (uint16_t)first;
        r->ports[r->n_ports++].last = (uint16_t)last;
        s += n;
        if (*s == ',' && !*++s)
            return ERR_INVALID;
    }
    return 0;
}

static int parse_rule(const char *s, struct addr_rule *r)
{
    char ip[INET6_ADDRSTRLEN], bits_text[8];
    const char *rest, *start = s;
    size_t n;
    if (*s == '[') {
        start = s + 1;
        n = strcspn(start, "]");
        if (start[n] != ']')
            return ERR_INVALID;
        rest = start + n + 1;
    } else {
        /* An IPv6 address without brackets may carry a prefix, but no ports. */
        const char *second = strchr(s, ':') ? strchr(strchr(s, ':') + 1, ':') : NULL;
        n = strcspn(s, second ? "/" : "/:");
        rest = s + n;
    }
    if (n == 0 || n >= sizeof(ip))
        return ERR_INVALID;
    memcpy(ip, start, n);
    ip[n] = '\0';
    struct addr a;
    TRY(addr_parse(ip, 0, &a));
    bool v6 = a.sa.sa_family == AF_INET6;
    uint64_t bits = v6 ? 128 : 32;
    if (*rest == '/') {
        n = strcspn(++rest, ":");
        if (n >= sizeof(bits_text))
            return ERR_INVALID;
        memcpy(bits_text, rest, n);
        bits_text[n] = '\0';
        TRY(text_to_u64(bits_text, bits, &bits));
        rest += n;
    }
    addr_mapped(&a, r->ip);
    r->prefix = (uint8_t)(bits + (v6 ? 0 : 96));
    if (*rest == '\0')
        return 0;
    if (*rest != ':' || !rest[1])
        return ERR_INVALID;
    return parse_ports(rest + 1, r);
}

int addr_rule_parse(const char *s, struct addr_rule *ret, struct diag *d)
{
    struct addr_rule r = {0};
    if (parse_rule(s, &r) < 0)
        return diag_set(
            d, ERR_INVALID,
            "'%.100s' is not CIDR[:PORTS], such as 10.0.0.0/8 or 10.0.0.17:80,8000-8100", s);
    *ret = r;
    return 0;
}

static bool begins_alike(const struct addr *a, const uint8_t with[16], uint8_t prefix)
{
    uint8_t ip[16];
    addr_mapped(a, ip);
    size_t whole = prefix / 8, rest = prefix % 8;
    if (memcmp(ip, with, whole) != 0)
        return false;
    return !rest || !((ip[whole] ^ with[whole]) >> (8 - rest));
}

bool addr_rule_match(const struct addr_rule *r, const struct addr *a)
{
    if (!begins_alike(a, r->ip, r->prefix))
        return false;
    uint16_t port = addr_port(a);
    for (size_t i = 0; i < r->n_ports; i++) {
        if (port >= r->ports[i].first && port <= r->ports[i].last)
            return true;
    }
    return r->n_ports == 0;
}

int addr_range_parse(const char *s, struct addr_range *ret)
{
    struct addr_rule r = {0};
    if (*s == '[' || parse_rule(s, &r) < 0 || r.n_ports)
        return ERR_INVALID;
    for (size_t bit = r.prefix; bit < 128; bit++)
        r.ip[bit / 8] &= (uint8_t) ~(0x80 >> bit % 8);
    memcpy(ret->ip, r.ip, sizeof(ret->ip));
    ret->prefix = r.prefix;
    return 0;
}

void addr_range_format(const struct addr_range *r, char out[ADDR_TEXT_SIZE])
{
    char ip[INET6_ADDRSTRLEN];
    static const uint8_t v4[12] = {[10] = 0xff, 0xff};
    bool is_v4 = r->prefix >= 96 && memcmp(r->ip, v4, sizeof(v4)) == 0;
    inet_ntop(is_v4 ? AF_INET : AF_INET6, is_v4 ? r->ip + 12 : r->ip, ip, sizeof(ip));
    snprintf(out, ADDR_TEXT_SIZE, "%s/%d", ip, is_v4 ? r->prefix - 96 : r->prefix);
}

bool addr_range_match(const struct addr_range *r, const struct addr *a)
{
    return begins_alike(a, r->ip, r->prefix);
}
