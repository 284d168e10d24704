#include "base/id.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define RANDOM_CHARS 16
#define TIME_CHARS   9 /* 45 bits: until the year 3084 */

static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";

void random_bytes(void *out, size_t len)
{
    char *p = out;
    while (len) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            perror("warren: getrandom");
            abort();
        }
        p += n;
        len -= (size_t)n;
    }
}

uint32_t random_below(uint32_t n)
{
    uint32_t random;
    random_bytes(&random, sizeof(random));
    return n ? random % n : 0;
}

/* What is no key and many shares calls to the kernel. */
static const uint8_t *take_random(size_t n)
{
    static _Thread_local struct {
        uint8_t bytes[32 * RANDOM_CHARS];
        size_t left;
    } pool;
    if (pool.left < n) {
        random_bytes(pool.bytes, sizeof(pool.bytes));
        pool.left = sizeof(pool.bytes);
    }
    pool.left -= n;
    return pool.bytes + pool.left;
}

uint32_t random_number(void)
{
    uint32_t n;
    memcpy(&n, take_random(sizeof(n)), sizeof(n));
    return n;
}

void id_new(char out[ID_SIZE], const char *prefix)
{
    const uint8_t *random = take_random(RANDOM_CHARS);
    int n = snprintf(out, ID_SIZE - RANDOM_CHARS, "%s_", prefix);
    for (size_t i = 0; i < RANDOM_CHARS; i++)
        out[(size_t)n + i] = alphabet[random[i] & 31];
    out[(size_t)n + RANDOM_CHARS] = '\0';
}

void id_new_at(char out[ID_SIZE], const char *prefix, int64_t wall_ms)
{
    id_new(out, prefix);
    char *time = out + strlen(prefix) + 1;
    for (size_t i = TIME_CHARS; i-- > 0; wall_ms >>= 5)
        time[i] = alphabet[wall_ms & 31];
}

bool id_is(const char *s, const char *prefix)
{
    size_t n = strlen(prefix);
    if (strncmp(s, prefix, n) != 0 || s[n] != '_' || strlen(s + n + 1) != RANDOM_CHARS)
        return false;
    return strspn(s + n + 1, alphabet) == RANDOM_CHARS;
}
