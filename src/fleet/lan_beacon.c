#include "fleet/lan_beacon.h"

#include "base/error.h"
#include "base/macro.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdio.h>
#include <string.h>

#define TEXT_SIZE 96
#define VERSION   1

/* Places in the text; what follows the last is zero. */
enum {
    AT_VERSION = 0,
    AT_FAMILY = 1, /* 4 or 6 */
    AT_PREFIX = 2,
    AT_AGENT = 4,
    AT_INSTANCE = AT_AGENT + ID_SIZE,
    AT_EPOCH = AT_INSTANCE + 8,
    AT_TIME = AT_EPOCH + 8,
    AT_IP = AT_TIME + 8,
    AT_END = AT_IP + 16
};
static_assert(AT_END <= TEXT_SIZE, "the text holds it all");
static_assert(LAN_BEACON_SIZE == 12 + TEXT_SIZE + 16, "nonce and tag of pki/seal");

static const char *const verdict_names[] = {"heard",     "own",   "foreign", "replayed",
                                            "elsewhere", "clone", "dropped"};
static_assert(ARRAY_SIZE(verdict_names) == LAN_VERDICT_COUNT, "a name for each verdict");

const char *lan_verdict_name(enum lan_verdict v)
{
    return verdict_names[v];
}

/* ---- the text ---- */

static void put64(uint8_t *out, uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8)
        out[i] = (uint8_t)v;
}

static uint64_t get64(const uint8_t *in)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | in[i];
    return v;
}

int lan_beacon_seal(const struct lan_keys *keys, const struct lan_beacon *b, uint8_t *out)
{
    uint8_t text[TEXT_SIZE] = {VERSION};
    __attribute__((cleanup(buf_done_cleanup))) struct buf sealed = {0};
    if (!keys->n)
        return ERR_PRECONDITION;
    text[AT_FAMILY] = b->from.family == AF_INET ? 4 : 6;
    text[AT_PREFIX] = b->from.prefix;
    snprintf((char *)text + AT_AGENT, ID_SIZE, "%s", b->agent);
    put64(text + AT_INSTANCE, b->instance);
    put64(text + AT_EPOCH, b->epoch);
    put64(text + AT_TIME, (uint64_t)b->time_ms);
    memcpy(text + AT_IP, b->from.ip, sizeof(b->from.ip));
    TRY(seal(keys->key[0], text, sizeof(text), &sealed));
    assert(sealed.len == LAN_BEACON_SIZE);
    memcpy(out, sealed.data, sealed.len);
    return 0;
}

static int read_text(const uint8_t *text, struct lan_beacon *ret)
{
    struct lan_beacon b = {.instance = get64(text + AT_INSTANCE),
                           .epoch = get64(text + AT_EPOCH),
                           .time_ms = (int64_t)get64(text + AT_TIME)};
    if (text[AT_VERSION] != VERSION || (text[AT_FAMILY] != 4 && text[AT_FAMILY] != 6) ||
        text[AT_INSTANCE - 1] != '\0')
        return ERR_PROTO;
    b.from.family = text[AT_FAMILY] == 4 ? AF_INET : AF_INET6;
    b.from.prefix = text[AT_PREFIX];
    memcpy(b.from.ip, text + AT_IP, sizeof(b.from.ip));
    memcpy(b.agent, text + AT_AGENT, ID_SIZE);
    if (!id_is(b.agent, "agt") || b.from.prefix > (b.from.family == AF_INET ? 32 : 128))
        return ERR_PROTO;
    *ret = b;
    return 0;
}

int lan_beacon_open(const struct lan_keys *keys, const void *data, size_t len,
                    struct lan_beacon *ret)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf text = {0};
    if (len != LAN_BEACON_SIZE)
        return ERR_DENIED;
    for (size_t i = 0; i < keys->n; i++) {
        int rc = unseal(keys->key[i], data, len, &text);
        if (rc == 0)
            return read_text((const uint8_t *)text.data, ret);
        if (rc != ERR_DENIED)
            return rc;
    }
    return ERR_DENIED;
}

/* ---- what it proves ---- */

static size_t ip_size(int family)
{
    return family == AF_INET ? 4 : 16;
}

static bool same_bits(const uint8_t *a, const uint8_t *b, uint8_t bits)
{
    uint8_t rest = bits % 8, mask = (uint8_t)(0xff00 >> rest);
    return memcmp(a, b, bits / 8) == 0 && (!rest || !((a[bits / 8] ^ b[bits / 8]) & mask));
}

bool lan_same_subnet(const struct lan_address *a, const struct lan_address *b)
{
    return a->family == b->family && a->prefix == b->prefix && same_bits(a->ip, b->ip, a->prefix);
}

enum lan_verdict lan_beacon_judge(const struct lan_beacon *b, const char *self, uint64_t instance,
                                  const struct lan_address *src, const struct lan_address *here,
                                  int64_t hub_now_ms)
{
    bool is_self = strcmp(b->agent, self) == 0;
    if (is_self && b->instance == instance)
        return LAN_OWN;
    if (b->time_ms > hub_now_ms + LAN_WINDOW_MS || b->time_ms < hub_now_ms - LAN_WINDOW_MS)
        return LAN_REPLAYED;
    if (b->from.family != src->family || memcmp(b->from.ip, src->ip, ip_size(src->family)) != 0 ||
        !lan_same_subnet(&b->from, here))
        return LAN_ELSEWHERE;
    return is_self ? LAN_CLONE : LAN_HEARD;
}

/* ---- as text ---- */

void lan_address_format(const struct lan_address *a, char out[LAN_ADDRESS_SIZE])
{
    if (!inet_ntop(a->family, a->ip, out, LAN_ADDRESS_SIZE))
        out[0] = '\0';
}

void lan_prefix_format(const struct lan_address *a, char out[LAN_PREFIX_SIZE])
{
    struct lan_address net = *a;
    char text[LAN_ADDRESS_SIZE];
    for (size_t i = 0; i < ip_size(a->family); i++) {
        int bits = (int)a->prefix - (int)i * 8;
        net.ip[i] &= bits >= 8 ? 0xff : bits <= 0 ? 0 : (uint8_t)(0xff00 >> bits);
    }
    lan_address_format(&net, text);
    snprintf(out, LAN_PREFIX_SIZE, "%s/%u", text, a->prefix);
}
