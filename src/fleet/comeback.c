#include "fleet/comeback.h"

#include "base/id.h"
#include "base/macro.h"

#define FIRST_DELAY_MS      100
#define MAX_DELAY_MS        30000
#define UNANSWERED_DELAY_MS 500 /* the dial itself repeats */
#define BUSY_DELAY_MS       1000
#define BUSY_MAX_MS         120000
#define DIAL_MS             3000
#define DIAL_MAX_MS         10000

void comeback_init(struct comeback *c)
{
    *c = (struct comeback){.backoff = {FIRST_DELAY_MS, MAX_DELAY_MS, 0},
                           .busy = {BUSY_DELAY_MS, BUSY_MAX_MS, 0}};
}

void comeback_reset(struct comeback *c)
{
    backoff_reset(&c->backoff);
    backoff_reset(&c->busy);
}

uint32_t comeback_dial_ms(const struct comeback *c)
{
    uint32_t ms = DIAL_MS;
    for (uint32_t i = 1; i < c->backoff.attempts && ms < DIAL_MAX_MS; i++)
        ms *= 2;
    return MIN(ms, (uint32_t)DIAL_MAX_MS);
}

uint32_t comeback_after_session(struct comeback *c)
{
    return backoff_next(&c->backoff) + random_below(c->return_ms);
}

uint32_t comeback_after_login(struct comeback *c)
{
    return backoff_next(&c->backoff);
}

uint32_t comeback_after_dial(struct comeback *c, enum comeback_dial how, bool has_untried)
{
    if (how == COMEBACK_BUSY && !has_untried)
        return backoff_next(&c->busy) + random_below(c->return_ms);
    return how == COMEBACK_UNANSWERED ? UNANSWERED_DELAY_MS : backoff_next(&c->backoff);
}
