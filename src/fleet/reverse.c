#include "fleet/reverse.h"

#include "base/backoff.h"
#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "fleet/link.h"
#include "net/dialer.h"
#include "net/h2conn.h"
#include "net/relay.h"

/* Streams of one reverse connection; the hub's own limits are lower. */
#define STREAMS_MAX 65536
#define LASTING_MS  5000
#define GRACE_MS    1000  /* of one that is closed, for streams that are on their way to it */
#define FINISH_MS   10000 /* ... and for what its streams have to send */

/* Outlives its pool, for the connections that are still closing. */
struct shared {
    struct h2_budget budget;
    size_t users;
};

/* Outlives its pool while its connection closes: the pool is then NULL. */
struct reverse {
    struct reverse_pool *pool;
    struct shared *shared;
    uint32_t number;
    struct dial *dial;
    struct h2conn *hc;
    struct backoff backoff;
    struct timer retry;
    uint64_t opened_ms;
};

struct reverse_pool {
    struct reverse_config cfg;
    struct reverse *slots[REVERSE_MAX];
    uint32_t wanted, open, last_number;
    struct shared *shared;
};

static void dial(struct reverse *r);

static void unshare(struct shared *s)
{
    if (--s->users == 0)
        mem_free(s);
}

static void free_one(struct reverse *r)
{
    unshare(r->shared);
    mem_free(r);
}

static struct reverse *find(struct reverse_pool *p, uint32_t number)
{
    for (uint32_t i = 0; i < REVERSE_MAX; i++) {
        if (p->slots[i] && p->slots[i]->number == number)
            return p->slots[i];
    }
    return NULL;
}

static void accept_move(struct reverse *r, struct h2_stream *s, uint32_t from, uint32_t stream)
{
    const struct reverse *old = find(r->pool, from);
    int rc = old && old->hc ? relay_accept_move(s, old->hc, stream) : ERR_CONFLICT;
    if (rc < 0)
        relay_refuse(s, rc);
}

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct reverse *r = arg;
    uint32_t from, stream;
    if (!r->pool)
        h2_reset(s, H2_REFUSED_STREAM);
    else if (relay_is_move(h, &from, &stream))
        accept_move(r, s, from, stream);
    else
        r->pool->cfg.on_request(r->pool->cfg.arg, s, h);
}

/* A slot is free again. */
static void forget(struct reverse *r)
{
    struct reverse_pool *p = r->pool;
    for (uint32_t i = 0; i < REVERSE_MAX; i++) {
        if (p->slots[i] == r)
            p->slots[i] = NULL;
    }
    p->open--;
    free_one(r);
}

/* Where it is of use only. */
static void give_up(struct reverse *r, const char *why)
{
    const struct reverse_config cfg = r->pool->cfg;
    LOG_INFO("no shortcut", LOG_STR("hub", cfg.ask_for), LOG_STR("why", why));
    r->pool->wanted--;
    forget(r);
    cfg.on_lost(cfg.arg);
}

static void on_close(void *arg, int err)
{
    struct reverse *r = arg;
    r->hc = NULL;
    if (!r->pool) {
        free_one(r);
        return;
    }
    if (r->pool->open > r->pool->wanted) {
        LOG_DEBUG("reverse connection given up");
        forget(r);
        return;
    }
    if (r->pool->cfg.on_lost) {
        give_up(r, error_text(err));
        return;
    }
    LOG_INFO("reverse connection lost", LOG_ERR(err));
    if (loop_now_ms(r->pool->cfg.loop) - r->opened_ms >= LASTING_MS)
        backoff_reset(&r->backoff); /* one that the hub cuts at once is not dialled without end */
    timer_start(&r->retry, backoff_next(&r->backoff));
}

static const struct h2conn_ops reverse_ops = {.on_request = on_request, .on_close = on_close};

static void on_dialled(void *arg, const struct dial_result *res)
{
    struct reverse *r = arg;
    r->dial = NULL;
    if (res->err < 0 && r->pool->cfg.on_lost) {
        give_up(r, diag_text(&res->diag));
        return;
    }
    if (res->err < 0) {
        uint32_t delay = backoff_next(&r->backoff);
        LOG_WARN("no reverse connection", LOG_STR("why", diag_text(&res->diag)),
                 LOG_INT("retry_ms", delay));
        timer_start(&r->retry, delay);
        return;
    }
    const struct h2conn_config cfg = {.h2 = {.is_server = true,
                                             .max_streams = STREAMS_MAX,
                                             .enable_connect = true,
                                             .peer_is_trusted = true,
                                             .stream_window_max = FLEET_STREAM_WINDOW_MAX,
                                             .connection_window = FLEET_CONNECTION_WINDOW,
                                             .budget = &r->shared->budget,
                                             .extra = {{FLEET_SETTING_EPOCH, r->pool->cfg.epoch},
                                                       {FLEET_SETTING_NUMBER, r->number}}}};
    r->hc = h2conn_new(res->conn, &cfg, &reverse_ops, r);
    r->opened_ms = loop_now_ms(r->pool->cfg.loop);
    LOG_DEBUG("reverse connection open");
}

static void dial(struct reverse *r)
{
    const struct reverse_config *cfg = &r->pool->cfg;
    const struct dial_params p = {.target = cfg->target,
                                  .is_persistent = true,
                                  .known = cfg->known,
                                  .tls = cfg->tls,
                                  .ask_for = cfg->ask_for,
                                  .on_done = on_dialled,
                                  .arg = r};
    r->dial = dial_start(cfg->loop, &p);
}

static void on_retry(struct timer *t)
{
    dial(container_of(t, struct reverse, retry));
}

static void drop(struct reverse *r)
{
    r->pool = NULL;
    timer_stop(&r->retry);
    if (r->dial)
        dial_cancel(r->dial);
    if (r->hc)
        h2conn_abort(r->hc, ERR_CANCELED); /* on_close frees */
    else
        free_one(r);
}

struct reverse_pool *reverse_pool_new(const struct reverse_config *cfg)
{
    struct reverse_pool *p = NEW(struct reverse_pool);
    p->cfg = *cfg;
    p->shared = NEW(struct shared);
    *p->shared = (struct shared){.budget = FLEET_BUDGET, .users = 1};
    tls_client_ref(p->cfg.tls);
    return p;
}

static void add(struct reverse_pool *p, uint32_t slot)
{
    struct reverse *r = NEW(struct reverse);
    r->pool = p;
    r->shared = p->shared;
    r->shared->users++;
    r->number = ++p->last_number;
    r->backoff = (struct backoff){100, 5000, 0};
    timer_init(&r->retry, p->cfg.loop, on_retry);
    p->slots[slot] = r;
    p->open++;
    dial(r);
}

/* One that is not open, or any. */
static void drop_slot(struct reverse_pool *p, uint32_t slot)
{
    p->open--;
    drop(TAKE(p->slots[slot]));
}

void reverse_pool_want(struct reverse_pool *p, uint32_t count)
{
    p->wanted = MIN(count, (uint32_t)REVERSE_MAX);
    for (uint32_t i = 0; i < REVERSE_MAX; i++) {
        struct reverse *r = p->slots[i];
        if (!r && p->open < p->wanted)
            add(p, i);
        else if (r && (!p->wanted || (!r->hc && p->open > p->wanted)))
            drop_slot(p, i);
    }
}

void reverse_pool_leave(struct reverse_pool *p)
{
    p->wanted = 0;
    for (uint32_t i = 0; i < REVERSE_MAX; i++) {
        if (p->slots[i] && !p->slots[i]->hc)
            drop_slot(p, i);
    }
}

void reverse_pool_close_idle(struct reverse_pool *p)
{
    reverse_pool_leave(p);
    for (uint32_t i = 0; i < REVERSE_MAX; i++) {
        struct reverse *r = p->slots[i];
        if (r && !h2_stream_count(h2conn_session(r->hc)))
            h2conn_shutdown(r->hc, GRACE_MS);
    }
}

uint32_t reverse_pool_count(const struct reverse_pool *p)
{
    return p->open;
}

size_t reverse_pool_streams(const struct reverse_pool *p)
{
    size_t n = 0;
    for (uint32_t i = 0; i < REVERSE_MAX; i++) {
        const struct reverse *r = p->slots[i];
        n += r && r->hc ? h2_stream_count(h2conn_session(r->hc)) : 0;
    }
    return n;
}

void reverse_pool_finish(struct reverse_pool *p)
{
    for (uint32_t i = 0; p && i < REVERSE_MAX; i++) {
        struct reverse *r = p->slots[i];
        if (!r || !r->hc)
            continue;
        p->slots[i] = NULL;
        p->open--;
        r->pool = NULL;
        h2conn_shutdown(r->hc, FINISH_MS); /* on_close frees */
    }
    reverse_pool_free(p);
}

void reverse_pool_set_tls(struct reverse_pool *p, struct tls_client *tls)
{
    tls_client_ref(tls);
    tls_client_unref(p->cfg.tls);
    p->cfg.tls = tls;
}

void reverse_pool_free(struct reverse_pool *p)
{
    if (!p)
        return;
    reverse_pool_want(p, 0);
    tls_client_unref(p->cfg.tls);
    unshare(p->shared);
    mem_free(p);
}
