/*
 * What an API token has opened ends with it, at the moment that it expires: a timer for the one
 * that does so next. By this hub's wall clock, which may be set while the timer runs; so it is
 * looked at each minute in any case.
 */
#include "identity/internal.h"

#include "base/log.h"

#define LOOK_MS 60000

static void on_expiry(struct timer *t)
{
    struct identity *i = container_of(t, struct identity, expiry);
    int64_t now = identity_now(i), next = now + LOOK_MS;
    for (struct token_view *v = i->tokens; v; v = v->hh.next) {
        if (v->r.kind != TOKEN_API || !v->r.expires || v->r.revoked || v->is_over)
            continue;
        if (v->r.expires > now) {
            next = MIN(next, v->r.expires);
            continue;
        }
        v->is_over = true;
        LOG_INFO("an API token has expired", LOG_STR("token", v->r.id));
        if (i->cfg.on_token_revoked)
            i->cfg.on_token_revoked(i->cfg.arg, v->r.id);
    }
    timer_start(t, (uint64_t)(next - now));
}

void expiry_start(struct identity *i)
{
    timer_init(&i->expiry, i->cfg.loop, on_expiry);
    timer_start(&i->expiry, 0);
}

void expiry_of(struct identity *i, const struct token_record *r)
{
    if (r->kind == TOKEN_API && r->expires && r->expires - identity_now(i) < LOOK_MS &&
        timer_is_running(&i->expiry))
        timer_start(&i->expiry, 0);
}
