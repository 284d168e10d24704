#include "wire/dns.h"

#include "base/error.h"

#include <ctype.h>
#include <string.h>

#define HEADER_SIZE 12
#define LABEL_MAX   63
#define TEXT_MAX    253 /* of a name, so that it takes at most 255 bytes of a message */
#define CLASS_IN    1
#define POINTER     0xc00c /* to the question's name */

#define FLAG_ANSWER    0x8000
#define FLAG_OWN       0x0400
#define FLAG_RECURSE   0x0100
#define FLAG_RECURSIVE 0x0080
#define MASK_OPCODE    0x7800

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint8_t *put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
    return p + 2;
}

/* The bytes that the name takes at `at`; no pointers: there is nothing before it to point to. */
static int read_name(const uint8_t *data, size_t len, size_t at, char name[DNS_NAME_SIZE])
{
    size_t out = 0, start = at;
    while (at < len && data[at]) {
        size_t label = data[at++];
        if (label > LABEL_MAX || at + label > len || out + 1 + label > TEXT_MAX)
            return ERR_PROTO;
        if (out)
            name[out++] = '.';
        for (size_t i = 0; i < label; i++, at++) {
            if (!isalnum(data[at]) && data[at] != '-' && data[at] != '_')
                return ERR_PROTO;
            name[out++] = (char)tolower(data[at]);
        }
    }
    name[out] = '\0';
    return at < len ? (int)(at + 1 - start) : ERR_PROTO;
}

int dns_question_parse(const uint8_t *data, size_t len, struct dns_question *ret)
{
    struct dns_question q;
    if (len < HEADER_SIZE || get16(data + 2) & (FLAG_ANSWER | MASK_OPCODE) || get16(data + 4) != 1)
        return ERR_PROTO;
    int n = read_name(data, len, HEADER_SIZE, q.name);
    if (n < 0 || HEADER_SIZE + (size_t)n + 4 > len)
        return ERR_PROTO;
    const uint8_t *p = data + HEADER_SIZE + n;
    q.type = get16(p);
    q.len = HEADER_SIZE + (size_t)n + 4;
    if (get16(p + 2) != CLASS_IN)
        return ERR_PROTO;
    *ret = q;
    return 0;
}

static bool is_v4(const uint8_t address[16])
{
    static const uint8_t prefix[12] = {[10] = 0xff, 0xff};
    return memcmp(address, prefix, sizeof(prefix)) == 0;
}

static uint8_t *put_record(uint8_t *p, const uint8_t address[16], uint32_t ttl_s)
{
    uint16_t size = is_v4(address) ? 4 : 16;
    p = put16(p, POINTER);
    p = put16(p, size == 4 ? DNS_A : DNS_AAAA);
    p = put16(p, CLASS_IN);
    p = put16(p, (uint16_t)(ttl_s >> 16));
    p = put16(p, (uint16_t)ttl_s);
    p = put16(p, size);
    memcpy(p, address + 16 - size, size);
    return p + size;
}

size_t dns_answer(uint8_t out[DNS_ANSWER_MAX], const uint8_t *query, const struct dns_question *q,
                  enum dns_code code, const uint8_t (*addresses)[16], size_t n, uint32_t ttl_s)
{
    uint8_t *p = out + q->len;
    uint16_t written = 0;
    memcpy(out, query, q->len);
    for (size_t i = 0; i < n; i++) {
        uint16_t type = is_v4(addresses[i]) ? DNS_A : DNS_AAAA;
        if ((q->type != type && q->type != DNS_ANY) || p + 28 > out + DNS_ANSWER_MAX)
            continue;
        p = put_record(p, addresses[i], ttl_s);
        written++;
    }
    uint16_t asked = get16(query + 2) & FLAG_RECURSE;
    put16(out + 2, (uint16_t)(FLAG_ANSWER | FLAG_OWN | asked | FLAG_RECURSIVE | code));
    put16(out + 6, written);
    put16(out + 8, 0);
    put16(out + 10, 0);
    return (size_t)(p - out);
}
