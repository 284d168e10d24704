#include "base/text.h"

#include "base/error.h"
#include "base/macro.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Leading decimal digits; *end is where they stop. */
static int parse_digits(const char *s, uint64_t *ret, const char **end)
{
    if (!isdigit((unsigned char)*s))
        return ERR_INVALID;
    errno = 0;
    char *stop;
    unsigned long long v = strtoull(s, &stop, 10);
    if (errno)
        return ERR_INVALID;
    *ret = v;
    *end = stop;
    return 0;
}

int text_to_u64(const char *s, uint64_t max, uint64_t *ret)
{
    uint64_t v;
    const char *end;
    TRY(parse_digits(s, &v, &end));
    if (*end || v > max)
        return ERR_INVALID;
    *ret = v;
    return 0;
}

int text_to_bool(const char *s, bool *ret)
{
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};
    for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
        if (strcasecmp(s, yes[i]) == 0 || strcasecmp(s, no[i]) == 0) {
            *ret = strcasecmp(s, yes[i]) == 0;
            return 0;
        }
    }
    return ERR_INVALID;
}

struct unit {
    const char *name;
    uint64_t factor;
};

/* A number directly followed by one of the units. */
static int parse_with_unit(const char *s, const struct unit *units, size_t n, uint64_t *ret)
{
    uint64_t v;
    const char *end;
    TRY(parse_digits(s, &v, &end));
    for (size_t i = 0; i < n; i++) {
        if (strcmp(end, units[i].name) == 0) {
            if (v > (uint64_t)INT64_MAX / units[i].factor)
                return ERR_INVALID;
            *ret = v * units[i].factor;
            return 0;
        }
    }
    return ERR_INVALID;
}

static const struct unit duration_units[] = {
    {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

int text_to_duration_ms(const char *s, int64_t *ret_ms)
{
    uint64_t v;
    TRY(parse_with_unit(s, duration_units, ARRAY_SIZE(duration_units), &v));
    *ret_ms = (int64_t)v;
    return 0;
}

void text_from_duration_ms(int64_t ms, char *out, size_t size)
{
    for (size_t i = 0; i < ARRAY_SIZE(duration_units); i++) {
        int64_t factor = (int64_t)duration_units[i].factor;
        if (ms % factor == 0 && (ms != 0 || factor == 1000)) {
            snprintf(out, size, "%" PRId64 "%s", ms / factor, duration_units[i].name);
            return;
        }
    }
}

int text_to_bytes(const char *s, uint64_t *ret)
{
    static const struct unit units[] = {
        {"", 1}, {"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}};
    return parse_with_unit(s, units, ARRAY_SIZE(units), ret);
}

bool text_is_name(const char *s)
{
    size_t n = strlen(s);
    if (n < 1 || n > 63 || strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != n)
        return false;
    return s[0] != '-' && s[n - 1] != '-';
}

static const char base64_std[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char base64_url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void encode64(const char *alphabet, bool padded, const uint8_t *in, size_t len, char *out,
                     size_t size)
{
    size_t o = 0;
    for (size_t i = 0; i < len && o + 5 <= size; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t v = (uint32_t)in[i] << 16 | (n > 1 ? (uint32_t)in[i + 1] << 8 : 0) |
                     (n > 2 ? in[i + 2] : 0);
        for (size_t k = 0; k < 4; k++) {
            if (k <= n)
                out[o++] = alphabet[v >> (18 - 6 * k) & 63];
            else if (padded)
                out[o++] = '=';
        }
    }
    out[o] = '\0';
}

static int decode64(const char *alphabet, bool padded, const char *s, size_t s_len, uint8_t *out,
                    size_t *len)
{
    if (padded) {
        if (s_len % 4)
            return ERR_INVALID;
        for (int i = 0; i < 2 && s_len && s[s_len - 1] == '='; i++)
            s_len--;
    }
    if (s_len % 4 == 1 || s_len / 4 * 3 + (s_len % 4 ? s_len % 4 - 1 : 0) > *len)
        return ERR_INVALID;
    uint32_t acc = 0;
    size_t bits = 0, o = 0;
    for (size_t i = 0; i < s_len; i++) {
        const char *at = s[i] ? strchr(alphabet, s[i]) : NULL;
        if (!at)
            return ERR_INVALID;
        acc = acc << 6 | (uint32_t)(at - alphabet);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            out[o++] = (uint8_t)(acc >> bits);
        }
    }
    if (acc & ((1U << bits) - 1)) /* one spelling a value: unused bits are zero */
        return ERR_INVALID;
    *len = o;
    return 0;
}

void text_base64(const void *data, size_t len, char *out, size_t size)
{
    encode64(base64_std, true, data, len, out, size);
}

void text_base64url(const void *data, size_t len, char *out, size_t size)
{
    encode64(base64_url, false, data, len, out, size);
}

int text_unbase64(const char *s, size_t s_len, void *out, size_t *len)
{
    return decode64(base64_std, true, s, s_len, out, len);
}

int text_unbase64url(const char *s, size_t s_len, void *out, size_t *len)
{
    return decode64(base64_url, false, s, s_len, out, len);
}

void text_hex(const void *data, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *in = data;
    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    out[2 * len] = '\0';
}

int text_hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}
