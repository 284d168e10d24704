#include "wire/client_hello.h"

#include "base/error.h"
#include "base/macro.h"

#include <string.h>

#define RECORD_HEADER    5
#define RECORD_HANDSHAKE 22
#define RECORD_MAX       16384
#define MESSAGE_HEADER   4
#define MESSAGE_HELLO    1
#define EXT_SERVER_NAME  0
#define NAME_TYPE_HOST   0

struct reader {
    const uint8_t *at;
    size_t left;
    bool is_short; /* something was missing: what was read since is 0 */
};

static const uint8_t *take(struct reader *r, size_t n)
{
    if (r->is_short || r->left < n) {
        r->is_short = true;
        return NULL;
    }
    const uint8_t *at = r->at;
    r->at += n;
    r->left -= n;
    return at;
}

static size_t number(struct reader *r, size_t bytes)
{
    const uint8_t *at = take(r, bytes);
    size_t value = 0;
    for (size_t i = 0; at && i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

/* A vector with a length of `bytes` bytes before it. */
static struct reader vector(struct reader *r, size_t bytes)
{
    size_t len = number(r, bytes);
    const uint8_t *at = take(r, len);
    return (struct reader){at, at ? len : 0, !at};
}

/* The handshake message, out of the records that it came in. */
static int gather(const uint8_t *data, size_t len, uint8_t *out, size_t *ret_len)
{
    size_t n = 0, want = MESSAGE_HEADER;
    while (n < want) {
        if (len > 0 && data[0] != RECORD_HANDSHAKE)
            return ERR_PROTO;
        if (len < RECORD_HEADER)
            return CLIENT_HELLO_MORE;
        size_t record = (size_t)data[3] << 8 | data[4];
        if (data[1] != 3 || record == 0 || record > RECORD_MAX)
            return ERR_PROTO;
        size_t part = MIN(record, len - RECORD_HEADER);
        part = MIN(part, CLIENT_HELLO_MAX - n);
        memcpy(out + n, data + RECORD_HEADER, part);
        n += part;
        if (n > 0 && out[0] != MESSAGE_HELLO)
            return ERR_PROTO;
        if (n >= MESSAGE_HEADER)
            want = MESSAGE_HEADER + ((size_t)out[1] << 16 | (size_t)out[2] << 8 | out[3]);
        if (want > CLIENT_HELLO_MAX)
            return ERR_TOO_LARGE;
        if (n < want && len < RECORD_HEADER + record)
            return CLIENT_HELLO_MORE;
        data += RECORD_HEADER + part;
        len -= RECORD_HEADER + part;
    }
    *ret_len = want;
    return 0;
}

bool client_hello_sni(const uint8_t *ext, size_t len, char name[HOST_SIZE])
{
    struct reader r = {ext, len, false};
    struct reader list = vector(&r, 2);
    size_t type = number(&list, 1);
    struct reader host = vector(&list, 2);
    char text[HOST_SIZE];
    if (host.is_short || type != NAME_TYPE_HOST || host.left >= sizeof(text) ||
        memchr(host.at, 0, host.left))
        return false;
    memcpy(text, host.at, host.left);
    text[host.left] = '\0';
    return host_name_parse(text, name) == 0;
}

int client_hello_name(const uint8_t *data, size_t len, char name[HOST_SIZE])
{
    uint8_t message[CLIENT_HELLO_MAX];
    size_t n = 0;
    int rc = gather(data, len, message, &n);
    if (rc != 0)
        return rc;
    struct reader r = {message + MESSAGE_HEADER, n - MESSAGE_HEADER, false};
    take(&r, 2 + 32); /* version, random */
    vector(&r, 1);    /* session id */
    vector(&r, 2);    /* cipher suites */
    vector(&r, 1);    /* compression */
    if (r.is_short)
        return ERR_PROTO;
    char found[HOST_SIZE] = "";
    struct reader extensions = vector(&r, 2);
    while (extensions.left > 0) {
        size_t type = number(&extensions, 2);
        struct reader body = vector(&extensions, 2);
        if (body.is_short)
            return ERR_PROTO;
        if (type == EXT_SERVER_NAME && !client_hello_sni(body.at, body.left, found))
            found[0] = '\0';
    }
    memcpy(name, found, sizeof(found));
    return 0;
}
