#include "wire/proxy_header.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/text.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define V2_HEAD_SIZE 16
#define V2_TCP4_SIZE 12
#define V2_TCP6_SIZE 36

static const uint8_t signature[12] = "\r\n\r\n\0\r\nQUIT\n";
static const char prefix_v1[] = "PROXY ";

static const char *const version_names[] = {NULL, "v1", "v2"};
static_assert(ARRAY_SIZE(version_names) == PROXY_VERSION_COUNT, "a name for each version");

const char *proxy_version_name(enum proxy_version v)
{
    return version_names[v];
}

int proxy_version_parse(const char *s, enum proxy_version *ret)
{
    for (int v = PROXY_V1; v < PROXY_VERSION_COUNT; v++) {
        if (strcmp(version_names[v], s) == 0) {
            *ret = (enum proxy_version)v;
            return 0;
        }
    }
    return ERR_INVALID;
}

/* --- writing --------------------------------------------------------------------------------- */

static bool is_v4(const struct addr *a, uint8_t out[4])
{
    if (a->sa.sa_family == AF_INET)
        memcpy(out, &a->in4.sin_addr, 4);
    else if (IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr))
        memcpy(out, (const uint8_t *)&a->in6.sin6_addr + 12, 4);
    else
        return false;
    return true;
}

static void put_v6(const struct addr *a, uint8_t out[16])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    uint8_t v4[4];
    if (!a->len)
        memset(out, 0, 16);
    else if (is_v4(a, v4)) {
        memcpy(out, mapped, sizeof(mapped));
        memcpy(out + 12, v4, 4);
    } else
        memcpy(out, &a->in6.sin6_addr, 16);
}

/* Source and destination address, then the ports, in network order: 12 or 36 bytes. */
static size_t put_addresses(const struct addr *s, const struct addr *d, uint8_t *out)
{
    uint8_t v4[8] = {0};
    bool both_v4 = is_v4(s, v4) && (!d->len || is_v4(d, v4 + 4));
    size_t at = both_v4 ? 8 : 32;
    if (both_v4) {
        memcpy(out, v4, 8);
    } else {
        put_v6(s, out);
        put_v6(d, out + 16);
    }
    uint16_t ports[2] = {addr_port(s), d->len ? addr_port(d) : 0};
    for (int i = 0; i < 2; i++) {
        out[at++] = (uint8_t)(ports[i] >> 8);
        out[at++] = (uint8_t)ports[i];
    }
    return at;
}

static void get_address(struct addr *a, bool v6, const uint8_t *ip, const uint8_t *port)
{
    *a = (struct addr){.len = v6 ? sizeof(a->in6) : sizeof(a->in4)};
    a->sa.sa_family = v6 ? AF_INET6 : AF_INET;
    if (v6)
        memcpy(&a->in6.sin6_addr, ip, 16);
    else
        memcpy(&a->in4.sin_addr, ip, 4);
    addr_set_port(a, (uint16_t)(port[0] << 8 | port[1]));
}

static size_t write_v1(const uint8_t *addresses, bool v6, uint8_t out[PROXY_HEADER_OUT_MAX])
{
    char text[2][INET6_ADDRSTRLEN];
    struct addr a[2];
    size_t ip = v6 ? 16 : 4;
    for (size_t i = 0; i < 2; i++) {
        get_address(&a[i], v6, addresses + i * ip, addresses + 2 * ip + 2 * i);
        addr_format_ip(&a[i], text[i], sizeof(text[i]));
    }
    int n = snprintf((char *)out, PROXY_HEADER_OUT_MAX, "PROXY TCP%c %s %s %u %u\r\n",
                     v6 ? '6' : '4', text[0], text[1], addr_port(&a[0]), addr_port(&a[1]));
    return (size_t)n;
}

size_t proxy_header_write(enum proxy_version v, bool is_datagram, const struct addr *source,
                          const struct addr *destination, uint8_t out[PROXY_HEADER_OUT_MAX])
{
    uint8_t addresses[V2_TCP6_SIZE];
    assert(v == PROXY_V2 || (v == PROXY_V1 && !is_datagram));
    size_t len = put_addresses(source, destination, addresses);
    bool v6 = len == V2_TCP6_SIZE;
    if (v == PROXY_V1)
        return write_v1(addresses, v6, out);
    memcpy(out, signature, sizeof(signature));
    out[12] = 0x21; /* version 2, PROXY */
    out[13] = (uint8_t)((v6 ? 0x20 : 0x10) | (is_datagram ? 2 : 1));
    out[14] = 0;
    out[15] = (uint8_t)len;
    memcpy(out + V2_HEAD_SIZE, addresses, len);
    return V2_HEAD_SIZE + len;
}

/* --- version 1 ------------------------------------------------------------------------------- */

/* The text up to the next blank, into `out`; the rest, or NULL. */
static const char *next_word(const char *s, char *out, size_t size)
{
    size_t n = strcspn(s, " ");
    if (n == 0 || n >= size)
        return NULL;
    memcpy(out, s, n);
    out[n] = '\0';
    return s[n] ? s + n + 1 : s + n;
}

static int parse_port(const char *s, uint16_t *ret)
{
    uint64_t port;
    if (s[0] == '0' && s[1])
        return ERR_PROTO;
    if (text_to_u64(s, 65535, &port) < 0)
        return ERR_PROTO;
    *ret = (uint16_t)port;
    return 0;
}

/* "TCP4 1.2.3.4 5.6.7.8 1000 80" */
static int parse_words(const char *s, struct proxy_header *h)
{
    char word[5][INET6_ADDRSTRLEN];
    uint16_t ports[2];
    for (int i = 0; i < 5; i++) {
        s = next_word(s, word[i], sizeof(word[i]));
        if (!s)
            return ERR_PROTO;
    }
    if (*s || strncmp(word[0], "TCP", 3) != 0 ||
        (strcmp(word[0] + 3, "4") != 0 && strcmp(word[0] + 3, "6") != 0))
        return ERR_PROTO;
    sa_family_t family = word[0][3] == '6' ? AF_INET6 : AF_INET;
    TRY(parse_port(word[3], &ports[0]));
    TRY(parse_port(word[4], &ports[1]));
    if (addr_parse(word[1], ports[0], &h->source) < 0 ||
        addr_parse(word[2], ports[1], &h->destination) < 0 || h->source.sa.sa_family != family ||
        h->destination.sa.sa_family != family)
        return ERR_PROTO;
    h->has_addresses = true;
    return 0;
}

static int parse_v1(const uint8_t *data, size_t len, struct proxy_header *ret, struct diag *d)
{
    struct proxy_header h = {.version = PROXY_V1};
    char line[PROXY_HEADER_V1_MAX + 1];
    const uint8_t *end = memchr(data, '\n', MIN(len, (size_t)PROXY_HEADER_V1_MAX));
    if (!end)
        return len < PROXY_HEADER_V1_MAX
                   ? 0
                   : diag_set(d, ERR_TOO_LARGE, "a PROXY line longer than 107 bytes");
    size_t n = (size_t)(end - data);
    if (data[n - 1] != '\r' || memchr(data, '\0', n))
        return diag_set(d, ERR_PROTO, "a PROXY line that does not end properly");
    memcpy(line, data, n - 1);
    line[n - 1] = '\0';
    const char *words = line + sizeof(prefix_v1) - 1;
    bool is_unknown = strncmp(words, "UNKNOWN", 7) == 0 && (!words[7] || words[7] == ' ');
    if (!is_unknown && parse_words(words, &h) < 0)
        return diag_set(d, ERR_PROTO, "a PROXY line that is malformed");
    *ret = h;
    return (int)n + 1;
}

/* --- version 2 ------------------------------------------------------------------------------- */

/* Type, two bytes of length, value: one after the other, to the very end. */
static bool has_sound_tlvs(const uint8_t *p, size_t len)
{
    while (len > 0) {
        size_t size = len < 3 ? SIZE_MAX : 3 + ((size_t)p[1] << 8 | p[2]);
        if (size > len)
            return false;
        p += size;
        len -= size;
    }
    return true;
}

static int take_v2(const uint8_t *data, size_t len, struct proxy_header *h, struct diag *d)
{
    uint8_t family = data[13] >> 4, transport = data[13] & 0x0f;
    const uint8_t *p = data + V2_HEAD_SIZE;
    static const size_t sizes[] = {0, V2_TCP4_SIZE, V2_TCP6_SIZE, 216};
    if (family >= ARRAY_SIZE(sizes) || transport > 2)
        return diag_set(d, ERR_PROTO, "a PROXY header of an unknown family (0x%02x)", data[13]);
    if (data[12] == 0x20) /* LOCAL: what follows is to be skipped */
        return 0;
    if (len < sizes[family])
        return diag_set(d, ERR_PROTO, "a PROXY header too short for its addresses");
    if (!has_sound_tlvs(p + sizes[family], len - sizes[family]))
        return diag_set(d, ERR_PROTO, "a PROXY header whose TLVs are malformed");
    h->has_addresses = (family == 1 || family == 2) && transport != 0;
    if (!h->has_addresses)
        return 0;
    size_t ip = family == 2 ? 16 : 4;
    h->is_datagram = transport == 2;
    get_address(&h->source, family == 2, p, p + 2 * ip);
    get_address(&h->destination, family == 2, p + ip, p + 2 * ip + 2);
    return 0;
}

static int parse_v2(const uint8_t *data, size_t len, struct proxy_header *ret, struct diag *d)
{
    struct proxy_header h = {.version = PROXY_V2};
    if (len > 12 && data[12] != 0x21 && data[12] != 0x20)
        return diag_set(d, ERR_PROTO, "a PROXY header of an unknown version or command (0x%02x)",
                        data[12]);
    if (len < V2_HEAD_SIZE)
        return 0;
    size_t rest = (size_t)data[14] << 8 | data[15];
    if (V2_HEAD_SIZE + rest > PROXY_HEADER_MAX)
        return diag_set(d, ERR_TOO_LARGE, "a PROXY header of %zu bytes", V2_HEAD_SIZE + rest);
    if (len < V2_HEAD_SIZE + rest)
        return 0;
    TRY(take_v2(data, rest, &h, d));
    *ret = h;
    return (int)(V2_HEAD_SIZE + rest);
}

int proxy_header_parse(const uint8_t *data, size_t len, struct proxy_header *ret, struct diag *d)
{
    if (memcmp(data, signature, MIN(len, sizeof(signature))) == 0)
        return len < sizeof(signature) ? 0 : parse_v2(data, len, ret, d);
    if (memcmp(data, prefix_v1, MIN(len, sizeof(prefix_v1) - 1)) == 0)
        return len < sizeof(prefix_v1) - 1 ? 0 : parse_v1(data, len, ret, d);
    return diag_set(d, ERR_PROTO, "no PROXY header");
}
