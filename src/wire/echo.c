#include "wire/echo.h"

#include "base/error.h"

#include <assert.h>
#include <string.h>

#define FIXED 8 /* bytes in front of the address */

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff}; /* ::ffff:0:0/96 */

size_t echo_record_head(uint8_t out[ECHO_HEAD_MAX], const struct echo_record *r)
{
    bool is_v4 = r->version == 4;
    size_t size = is_v4 ? 4 : 16;
    assert(r->len <= ECHO_DATA_MAX);
    out[0] = (uint8_t)(r->kind << 4 | r->version);
    out[1] = r->ttl;
    out[2] = r->kind == ECHO_ERROR ? r->type : r->tos;
    out[3] = r->code;
    for (size_t i = 0; i < 4; i++)
        out[4 + i] = (uint8_t)(r->cookie >> (24 - 8 * i));
    memcpy(out + FIXED, r->address + 16 - size, size);
    return FIXED + size;
}

static void read_address(const uint8_t *p, struct echo_record *r)
{
    static const uint8_t none[4];
    if (r->version == 6) {
        memcpy(r->address, p, 16);
    } else if (r->kind != ECHO_ERROR || memcmp(p, none, sizeof(none)) != 0) {
        memcpy(r->address, mapped, sizeof(mapped));
        memcpy(r->address + sizeof(mapped), p, 4);
    }
}

static bool is_error(const struct echo_record *r)
{
    return icmp_cause_is_error(
        &(struct icmp_cause){.version = r->version, .type = r->type, .code = r->code});
}

int echo_record_parse(const uint8_t *data, size_t len, struct echo_record *ret)
{
    if (len < FIXED)
        return ERR_PROTO;
    struct echo_record r = {.kind = data[0] >> 4,
                            .version = data[0] & 15,
                            .ttl = data[1],
                            .cookie = (uint32_t)data[4] << 24 | (uint32_t)data[5] << 16 |
                                      (uint32_t)data[6] << 8 | data[7]};
    size_t head = FIXED + (r.version == 4 ? 4 : 16);
    if (r.kind >= ECHO_KIND_COUNT || (r.version != 4 && r.version != 6) || len < head ||
        len - head > ECHO_DATA_MAX)
        return ERR_PROTO;
    if (r.kind == ECHO_REQUEST)
        r.tos = data[2];
    if (r.kind == ECHO_ERROR) {
        r.type = data[2];
        r.code = data[3];
    }
    read_address(data + FIXED, &r);
    r.data = data + head;
    r.len = len - head;
    if (r.kind == ECHO_ERROR && (r.len || !is_error(&r)))
        return ERR_PROTO;
    *ret = r;
    return 0;
}
