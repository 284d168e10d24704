#include "base/time.h"

#include "base/error.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static int64_t read_ms(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

uint64_t time_mono_ms(void)
{
    return (uint64_t)read_ms(CLOCK_MONOTONIC);
}

uint64_t time_mono_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

int64_t time_wall_ms(void)
{
    return read_ms(CLOCK_REALTIME);
}

int64_t time_created_ms(void)
{
    static _Atomic int64_t last;
    int64_t now = time_wall_ms(), before = atomic_load(&last), next;
    do {
        next = now > before ? now : before + 1;
    } while (!atomic_compare_exchange_weak(&last, &before, next));
    return next;
}

void time_format(int64_t wall_ms, char out[TIME_TEXT_SIZE])
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    size_t n = strftime(out, TIME_TEXT_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, TIME_TEXT_SIZE - n, ".%03dZ", (int)(wall_ms % 1000));
}

int time_parse(const char *s, int64_t *ret_wall_ms)
{
    struct tm tm = {0};
    const char *end = strptime(s, "%Y-%m-%dT%H:%M:%S", &tm);
    if (!end)
        return ERR_INVALID;
    int ms = 0, used = 0;
    if (*end == '.') {
        if (sscanf(end, ".%3d%n", &ms, &used) != 1 || used != 4)
            return ERR_INVALID;
        end += used;
    }
    if (strcmp(end, "Z") != 0)
        return ERR_INVALID;
    *ret_wall_ms = (int64_t)timegm(&tm) * 1000 + ms;
    return 0;
}
