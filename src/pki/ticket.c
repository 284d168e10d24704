#include "pki/ticket.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/text.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>

#define MAC_SIZE 32
#define FIELDS   6

static void sign(const char *text, size_t len, const uint8_t key[TICKET_KEY_SIZE],
                 char out[BASE64_SIZE(MAC_SIZE)])
{
    uint8_t mac[MAC_SIZE];
    unsigned mac_len = sizeof(mac);
    HMAC(EVP_sha256(), key, TICKET_KEY_SIZE, (const uint8_t *)text, len, mac, &mac_len);
    text_base64url(mac, sizeof(mac), out, BASE64_SIZE(MAC_SIZE));
}

void ticket_format(const struct ticket *t, const uint8_t key[TICKET_KEY_SIZE],
                   char out[TICKET_TEXT_SIZE])
{
    char mac[BASE64_SIZE(MAC_SIZE)];
    int n = snprintf(out, TICKET_TEXT_SIZE, "%s.%" PRIu64 ".%s.%" PRIu64 ".%" PRId64, t->hub,
                     t->hub_epoch, t->tunnel, t->lease_epoch, t->ends_ms);
    sign(out, (size_t)n, key, mac);
    snprintf(out + n, TICKET_TEXT_SIZE - (size_t)n, ".%s", mac);
}

/* Cuts `text` at its points. */
static int split(char *text, char *fields[FIELDS])
{
    size_t n = 0;
    for (char *at = text; at; n++) {
        char *end = strchr(at, '.');
        if (n == FIELDS)
            return ERR_INVALID;
        fields[n] = at;
        if (end)
            *end++ = '\0';
        at = end;
    }
    return n == FIELDS ? 0 : ERR_INVALID;
}

static int read_fields(char *const fields[FIELDS], struct ticket *ret)
{
    uint64_t ends;
    if (!id_is(fields[0], "hub") || !id_is(fields[2], "tun"))
        return ERR_INVALID;
    snprintf(ret->hub, sizeof(ret->hub), "%s", fields[0]);
    snprintf(ret->tunnel, sizeof(ret->tunnel), "%s", fields[2]);
    TRY(text_to_u64(fields[1], INT64_MAX, &ret->hub_epoch));
    TRY(text_to_u64(fields[3], INT64_MAX, &ret->lease_epoch));
    TRY(text_to_u64(fields[4], INT64_MAX, &ends));
    ret->ends_ms = (int64_t)ends;
    return 0;
}

int ticket_check(const char *text, const uint8_t key[TICKET_KEY_SIZE], int64_t now_ms,
                 struct ticket *ret)
{
    char copy[TICKET_TEXT_SIZE], mac[BASE64_SIZE(MAC_SIZE)];
    char *fields[FIELDS];
    struct ticket t = {0};
    const char *last = strrchr(text, '.');
    if (!last || strlen(text) >= sizeof(copy))
        return ERR_INVALID;
    sign(text, (size_t)(last - text), key, mac);
    if (strlen(last + 1) != strlen(mac) || CRYPTO_memcmp(last + 1, mac, strlen(mac)) != 0)
        return ERR_DENIED;
    memcpy(copy, text, strlen(text) + 1);
    TRY(split(copy, fields));
    TRY(read_fields(fields, &t));
    if (t.ends_ms <= now_ms)
        return ERR_EXPIRED;
    *ret = t;
    return 0;
}

int ticket_check_any(const char *text, const struct ticket_keys *keys, int64_t now_ms,
                     struct ticket *ret)
{
    int rc = ERR_DENIED;
    for (size_t i = 0; i < keys->n && rc == ERR_DENIED; i++)
        rc = ticket_check(text, keys->keys[i], now_ms, ret);
    return rc;
}
