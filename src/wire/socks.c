#include "wire/socks.h"

#include "base/error.h"
#include "base/macro.h"

#include <arpa/inet.h>
#include <string.h>

enum { TYPE_IPV4 = 1, TYPE_NAME = 3, TYPE_IPV6 = 4 };

/* ---- version 5 ---- */

int socks_greeting_parse(const uint8_t *data, size_t len, struct socks_greeting *ret)
{
    struct socks_greeting g = {0};
    if (len > 0 && data[0] != 5)
        return ERR_PROTO;
    if (len < 2 || len < (size_t)data[1] + 2)
        return 0;
    for (size_t i = 0; i < data[1]; i++) {
        g.offers_none |= data[2 + i] == SOCKS_NONE;
        g.offers_password |= data[2 + i] == SOCKS_PASSWORD;
    }
    *ret = g;
    return data[1] + 2;
}

void socks_method_write(enum socks_method m, uint8_t out[SOCKS_METHOD_SIZE])
{
    out[0] = 5;
    out[1] = (uint8_t)m;
}

/* A length and as many bytes of text. */
static int take_text(const uint8_t *data, size_t len, char ret[256])
{
    if (len < 1 || len < (size_t)data[0] + 1)
        return 0;
    if (memchr(data + 1, 0, data[0]))
        return ERR_PROTO;
    memcpy(ret, data + 1, data[0]);
    ret[data[0]] = '\0';
    return data[0] + 1;
}

int socks_login_parse(const uint8_t *data, size_t len, struct socks_login *ret)
{
    if (len > 0 && data[0] != 1)
        return ERR_PROTO;
    int user = len > 1 ? TRY(take_text(data + 1, len - 1, ret->user)) : 0;
    if (!user)
        return 0;
    int password = TRY(take_text(data + 1 + user, len - 1 - (size_t)user, ret->password));
    return password ? 1 + user + password : 0;
}

void socks_login_answer(bool is_good, uint8_t out[SOCKS_METHOD_SIZE])
{
    out[0] = 1;
    out[1] = is_good ? 0 : 1;
}

/* A host as others may have to read it again: what host_port_parse takes. */
static int check_host(struct host_port *hp)
{
    char text[HOST_SIZE + 16];
    struct host_port again;
    host_port_format(hp, text, sizeof(text));
    return host_port_parse(text, true, &again, NULL);
}

/* Type, address and port; 0: incomplete. ERR_INVALID goes with a size in `ret_size`. */
static int take_address(const uint8_t *data, size_t len, struct host_port *ret, size_t *ret_size)
{
    if (len < 2)
        return 0;
    bool is_name = data[0] == TYPE_NAME;
    size_t size = data[0] == TYPE_IPV4 ? 4 : data[0] == TYPE_IPV6 ? 16 : is_name ? data[1] : 0;
    const uint8_t *at = data + 1 + is_name;
    if (!size)
        return ERR_INVALID;
    *ret_size = 1 + is_name + size + 2;
    if (len < *ret_size)
        return 0;
    if (is_name) {
        memcpy(ret->host, at, size);
        ret->host[size] = '\0';
    } else {
        inet_ntop(size == 4 ? AF_INET : AF_INET6, at, ret->host, sizeof(ret->host));
    }
    ret->port = (uint16_t)(at[size] << 8 | at[size + 1]);
    if (is_name && (memchr(at, 0, size) || check_host(ret) < 0))
        return ERR_INVALID;
    return (int)*ret_size;
}

int socks_request_parse(const uint8_t *data, size_t len, struct socks_request *ret)
{
    size_t size;
    if (len > 0 && data[0] != 5)
        return ERR_PROTO;
    if (len < 4)
        return 0;
    ret->command = data[1];
    int n = TRY(take_address(data + 3, len - 3, &ret->target, &size));
    return n ? 3 + n : 0;
}

static uint8_t reply_code(int err)
{
    switch (err) {
    case 0:
        return 0;
    case ERR_DENIED:
    case ERR_UNAUTHENTICATED:
        return 2; /* not allowed by the ruleset */
    case ERR_UNAVAILABLE:
    case ERR_UNREACHABLE:
    case ERR_NOT_FOUND:
        return 3; /* network unreachable */
    case ERR_DNS:
    case ERR_TIMEOUT:
        return 4; /* host unreachable */
    case ERR_REFUSED:
        return 5;
    case ERR_UNSUPPORTED:
        return 7;
    case ERR_INVALID:
        return 8; /* address type not supported */
    default:
        return 1;
    }
}

/* Type, address and port. */
static size_t put_address(const struct addr *a, uint8_t *out)
{
    bool is_v6 = a && a->len && a->sa.sa_family == AF_INET6;
    uint16_t port = a && a->len ? addr_port(a) : 0;
    size_t size = is_v6 ? 16 : 4;
    memset(out, 0, 1 + size);
    out[0] = is_v6 ? TYPE_IPV6 : TYPE_IPV4;
    if (is_v6)
        memcpy(out + 1, &a->in6.sin6_addr, size);
    else if (a && a->len)
        memcpy(out + 1, &a->in4.sin_addr, size);
    out[1 + size] = (uint8_t)(port >> 8);
    out[2 + size] = (uint8_t)port;
    return 3 + size;
}

size_t socks_reply(int err, const struct addr *bound, uint8_t out[SOCKS_REPLY_MAX])
{
    out[0] = 5;
    out[1] = reply_code(err);
    out[2] = 0;
    return 3 + put_address(bound, out + 3);
}

int socks_datagram_parse(const uint8_t *data, size_t len, struct host_port *ret)
{
    size_t size;
    if (len < 4 || data[0] || data[1])
        return ERR_PROTO;
    if (data[2])
        return ERR_UNSUPPORTED;
    int n = take_address(data + 3, len - 3, ret, &size);
    return n > 0 ? 3 + n : ERR_PROTO;
}

size_t socks_datagram_head(const struct host_port *from, uint8_t out[SOCKS_DATAGRAM_HEAD_MAX])
{
    struct addr a;
    memset(out, 0, 3);
    if (addr_parse(from->host, from->port, &a) == 0)
        return 3 + put_address(&a, out + 3);
    size_t len = strlen(from->host);
    out[3] = TYPE_NAME;
    out[4] = (uint8_t)len;
    memcpy(out + 5, from->host, len);
    out[5 + len] = (uint8_t)(from->port >> 8);
    out[6 + len] = (uint8_t)from->port;
    return 7 + len;
}

/* ---- version 4 ---- */

/* The size of a text with its NUL; 0: it is not complete. */
static int text_size(const uint8_t *data, size_t len, size_t max)
{
    const uint8_t *end = memchr(data, 0, MIN(len, max));
    if (!end)
        return len >= max ? ERR_PROTO : 0;
    return (int)(end - data) + 1;
}

int socks4_request_parse(const uint8_t *data, size_t len, struct socks_request *ret)
{
    if (len > 0 && data[0] != 4)
        return ERR_PROTO;
    if (len < 9)
        return 0;
    ret->command = data[1];
    ret->target.port = (uint16_t)(data[2] << 8 | data[3]);
    int user = TRY(text_size(data + 8, len - 8, 256));
    if (!user)
        return 0;
    bool is_named = !data[4] && !data[5] && !data[6] && data[7]; /* 0.0.0.x */
    size_t at = 8 + (size_t)user;
    if (!is_named) {
        inet_ntop(AF_INET, data + 4, ret->target.host, sizeof(ret->target.host));
        return (int)at;
    }
    int name = TRY(text_size(data + at, len - at, HOST_SIZE));
    if (!name)
        return 0;
    memcpy(ret->target.host, data + at, (size_t)name);
    return check_host(&ret->target) < 0 ? ERR_INVALID : (int)at + name;
}

size_t socks4_reply(int err, uint8_t out[SOCKS_REPLY_MAX])
{
    memset(out, 0, 8);
    out[1] = err ? 91 : 90;
    return 8;
}
