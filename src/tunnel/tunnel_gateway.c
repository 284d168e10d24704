/*
 * The worker's side of tunnels by name: carries what a gateway asks to the main loop, and back what
 * it was told.
 */
#include "tunnel/web_internal.h"

#include "base/macro.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

struct tunnel_gateway {
    struct tunnels *tunnels;
    struct loop *worker;
    struct gateway *gateway;
    struct tunnel_gateway *prev, *next; /* the main loop's */
};

/* ---- decisions ---- */

static void decided_on_worker(void *arg)
{
    struct web_ask *a = arg;
    a->headers[a->n_headers] = (struct http_header){0};
    a->d.headers = a->headers;
    gateway_decide(a->x, &a->d);
    if (a->check.password)
        explicit_bzero((char *)a->check.password, strlen(a->check.password));
    arena_done(&a->arena);
    mem_free(a);
}

void web_decided(struct web_ask *a)
{
    loop_post(a->worker, decided_on_worker, a);
}

static void judge_on_main(void *arg)
{
    web_judge(arg);
}

static const char *keep(struct web_ask *a, const char *text)
{
    return text ? arena_strdup(&a->arena, text) : NULL;
}

static void on_request(void *arg, struct gateway_exchange *x, const struct gateway_ask *q)
{
    struct tunnel_gateway *tg = arg;
    struct web_ask *a = NEW(struct web_ask);
    a->tunnels = tg->tunnels;
    a->worker = tg->worker;
    a->x = x;
    a->q = *q;
    a->q.method = keep(a, q->method);
    a->q.path = keep(a, q->path);
    a->q.host = keep(a, q->host);
    a->q.authorization = keep(a, q->authorization);
    a->q.cookie = keep(a, q->cookie);
    a->q.origin = keep(a, q->origin);
    a->q.accept = keep(a, q->accept);
    a->q.body = keep(a, q->body);
    loop_post(tg->tunnels->loop, judge_on_main, a);
}

/* ---- streams ---- */

void web_dial_unref(struct web_dial *wd)
{
    if (atomic_fetch_sub(&wd->refs, 1) == 1)
        mem_free(wd);
}

static void told_on_worker(void *arg)
{
    struct web_dial *wd = arg;
    if (wd->stream)
        gateway_dialled(wd->stream, wd->err, wd->reason);
    web_dial_unref(wd);
}

void web_dial_tell(struct web_dial *wd, int err, const char *reason)
{
    wd->err = err;
    snprintf(wd->reason, sizeof(wd->reason), "%s", reason ? reason : "");
    atomic_fetch_add(&wd->refs, 1);
    loop_post(wd->worker, told_on_worker, wd);
}

struct web_dial *web_dial_new(struct tunnels *ts, struct loop *worker, struct gateway_stream *s,
                              const char *key, int fd, const struct addr *client, const char *token)
{
    struct web_dial *wd = NEW(struct web_dial);
    wd->refs = 1; /* until done_on_main */
    wd->tunnels = ts;
    wd->worker = worker;
    wd->stream = s;
    wd->fd = fd;
    wd->client = *client;
    snprintf(wd->tunnel, sizeof(wd->tunnel), "%.*s", (int)strcspn(key, " "), key);
    snprintf(wd->goal.token, sizeof(wd->goal.token), "%s", token);
    loop_post(ts->loop, web_dial_start, wd);
    return wd;
}

static void *on_dial(void *arg, struct gateway_stream *s, const char *key, int fd,
                     const struct addr *client)
{
    struct tunnel_gateway *tg = arg;
    return web_dial_new(tg->tunnels, tg->worker, s, key, fd, client, "");
}

struct done {
    struct web_dial *dial;
    int err;
};

static void done_on_main(void *arg)
{
    CLEANUP(mem_free) struct done *d = arg;
    web_dial_done(d->dial, d->err);
    web_dial_unref(d->dial);
}

void web_dial_end(struct web_dial *wd, int err)
{
    struct done *d = NEW(struct done);
    *d = (struct done){wd, err};
    wd->stream = NULL;
    loop_post(wd->tunnels->loop, done_on_main, d);
}

static void on_done(void *arg, void *dialled, int err)
{
    web_dial_end(dialled, err);
}

static const struct gateway_ops gateway_ops = {on_request, on_dial, on_done};

/* ---- TLS that passes ---- */

struct passing {
    struct tunnels *tunnels;
    int fd;
    struct addr peer;
    char name[HOST_SIZE];
};

static void pass_on_main(void *arg)
{
    CLEANUP(mem_free) struct passing *p = arg;
    web_pass(p->tunnels, p->fd, &p->peer, p->name);
}

void tunnel_gateway_pass(struct tunnel_gateway *tg, int fd, const struct addr *peer,
                         const char *name)
{
    struct passing *p = NEW(struct passing);
    *p = (struct passing){.tunnels = tg->tunnels, .fd = fd, .peer = *peer};
    snprintf(p->name, sizeof(p->name), "%s", name);
    loop_post(tg->tunnels->loop, pass_on_main, p);
}

/* ---- news ---- */

struct news {
    struct tunnel_gateway *to;
    char key[GATEWAY_KEY_SIZE];
};

static void news_on_worker(void *arg)
{
    CLEANUP(mem_free) struct news *n = arg;
    gateway_supersede(n->to->gateway, n->key);
}

void web_gateways_tell(struct tunnel_web *w, const char *key)
{
    struct tunnel_gateway *tg;
    DL_FOREACH (w->gateways, tg) {
        struct news *n = NEW(struct news);
        n->to = tg;
        snprintf(n->key, sizeof(n->key), "%s", key);
        loop_post(tg->worker, news_on_worker, n);
    }
}

void tunnel_gateway_retire(struct tunnel_gateway *tg)
{
    DL_DELETE(tg->tunnels->web->gateways, tg);
}

/* ---- the gateway ---- */

struct tunnel_gateway *tunnel_gateway_new(struct tunnels *ts, struct loop *worker)
{
    struct tunnel_gateway *tg = NEW(struct tunnel_gateway);
    tg->tunnels = ts;
    tg->worker = worker;
    const struct gateway_config cfg = {.loop = worker, .ops = &gateway_ops, .arg = tg};
    tg->gateway = gateway_new(&cfg);
    DL_APPEND(ts->web->gateways, tg);
    return tg;
}

void tunnel_gateway_take(struct tunnel_gateway *tg, struct conn *c)
{
    gateway_take(tg->gateway, c);
}

const struct gateway_stats *tunnel_gateway_stats(const struct tunnel_gateway *tg)
{
    return gateway_stats(tg->gateway);
}

void tunnel_gateway_drain(struct tunnel_gateway *tg)
{
    gateway_drain(tg->gateway);
}

void tunnel_gateway_free(struct tunnel_gateway *tg)
{
    if (!tg)
        return;
    gateway_free(tg->gateway);
    mem_free(tg);
}
