#include "wire/icmp_cause.h"

#include "base/error.h"
#include "base/macro.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <stdio.h>
#include <string.h>

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff}; /* ::ffff:0:0/96 */
static const uint8_t nobody[16];

bool icmp_cause_is_error(const struct icmp_cause *c)
{
    if (c->version == 4)
        return (c->type == ICMP_DEST_UNREACH && c->code != ICMP_FRAG_NEEDED) ||
               c->type == ICMP_TIME_EXCEEDED || c->type == ICMP_PARAMETERPROB;
    return c->version == 6 && (c->type == ICMP6_DST_UNREACH || c->type == ICMP6_TIME_EXCEEDED ||
                               c->type == ICMP6_PARAM_PROB);
}

bool icmp_cause_has_sender(const struct icmp_cause *c)
{
    return memcmp(c->from, nobody, sizeof(nobody)) != 0;
}

void icmp_cause_format(const struct icmp_cause *c, char out[ICMP_CAUSE_SIZE])
{
    char from[INET6_ADDRSTRLEN];
    bool is_v4 = c->version == 4;
    inet_ntop(is_v4 ? AF_INET : AF_INET6, is_v4 ? c->from + sizeof(mapped) : c->from, from,
              sizeof(from));
    snprintf(out, ICMP_CAUSE_SIZE, "%u.%u %s", c->type, c->code, from);
}

/* Up to 255, and what follows it. */
static const char *read_byte(const char *s, char end, uint8_t *ret)
{
    unsigned value = 0, digits = 0;
    for (; *s >= '0' && *s <= '9' && digits < 3; s++, digits++)
        value = value * 10 + (unsigned)(*s - '0');
    if (!digits || value > UINT8_MAX || *s != end)
        return NULL;
    *ret = (uint8_t)value;
    return s + 1;
}

int icmp_cause_parse(const char *s, size_t len, struct icmp_cause *ret)
{
    char text[ICMP_CAUSE_SIZE];
    struct icmp_cause c = {0};
    struct in_addr v4;
    if (len >= sizeof(text))
        return ERR_INVALID;
    memcpy(text, s, len);
    text[len] = '\0';
    const char *p = read_byte(text, '.', &c.type);
    if (p)
        p = read_byte(p, ' ', &c.code);
    if (!p)
        return ERR_INVALID;
    if (inet_pton(AF_INET, p, &v4) == 1) {
        c.version = 4;
        if (v4.s_addr) {
            memcpy(c.from, mapped, sizeof(mapped));
            memcpy(c.from + sizeof(mapped), &v4, sizeof(v4));
        }
    } else if (inet_pton(AF_INET6, p, c.from) == 1) {
        c.version = 6;
    }
    if (!icmp_cause_is_error(&c))
        return ERR_INVALID;
    *ret = c;
    return 0;
}

bool icmp_cause_of_errno(int errnum, bool is_v6, struct icmp_cause *ret)
{
    static const struct {
        int errnum;
        uint8_t code, code6;
    } rows[] = {
        {ENETUNREACH, ICMP_NET_UNREACH, ICMP6_DST_UNREACH_NOROUTE},
        {EHOSTUNREACH, ICMP_HOST_UNREACH, ICMP6_DST_UNREACH_ADDR},
        {EACCES, ICMP_PKT_FILTERED, ICMP6_DST_UNREACH_ADMIN},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].errnum != errnum)
            continue;
        *ret = (struct icmp_cause){.version = is_v6 ? 6 : 4,
                                   .type = is_v6 ? ICMP6_DST_UNREACH : ICMP_DEST_UNREACH,
                                   .code = is_v6 ? rows[i].code6 : rows[i].code};
        return true;
    }
    return false;
}
