/*
 * A request is asked about once (struct forward_ask: worker, main loop, worker); its stream is
 * dialled like those of tunnels by name (struct web_dial), by the tunnel's id, with which its key
 * begins. The token is in the key too: nobody gets a stream that another's credentials opened.
 */
#include "tunnel/tunnel_forward.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "tunnel/tunnel_proxy.h"
#include "tunnel/web_internal.h"

#include <stdio.h>
#include <string.h>

struct tunnel_forward {
    struct tunnels *tunnels;
    struct loop *loop;
    struct gateway *gateway;
};

struct forward_ask {
    struct tunnels *tunnels;
    struct loop *loop;
    struct gateway_exchange *x;
    struct tunnel_proxy_ask ask; /* its strings are heap's */
    char *credentials, *authority;
    struct tunnel_demand demand;
    struct gateway_decision d;
    char reason[256], field[PROXY_STATUS_SIZE];
};

/* ---- decisions ---- */

static void decided_on_loop(void *arg)
{
    struct forward_ask *a = arg;
    const struct http_header headers[] = {
        {"proxy-status", a->field}, {"proxy-authenticate", TUNNEL_PROXY_CHALLENGE}, {0}};
    a->d.body = a->reason;
    if (a->d.status == 407)
        a->d.headers = headers;
    gateway_decide(a->x, &a->d);
    if (a->credentials)
        explicit_bzero(a->credentials, strlen(a->credentials));
    mem_free(a->credentials);
    mem_free(a->authority);
    mem_free(a);
}

static void refuse(struct forward_ask *a, int err, const char *text)
{
    snprintf(a->reason, sizeof(a->reason), "%s", text);
    if (err == ERR_UNAUTHENTICATED)
        a->d.status = tunnel_proxy_refusal(err, a->field);
    else
        a->d.error = err;
    loop_post(a->loop, decided_on_loop, a);
}

static void on_fail(struct tunnel_demand *d, int err, const char *text)
{
    refuse(container_of(d, struct forward_ask, demand), err, text);
}

static void on_ready(struct tunnel_demand *d, struct tunnel_object *o)
{
    struct forward_ask *a = container_of(d, struct forward_ask, demand);
    snprintf(a->d.key, sizeof(a->d.key), "%s %s", o->t.id, a->demand.by.token);
    loop_post(a->loop, decided_on_loop, a);
}

static const struct tunnel_demand_ops demand_ops = {.on_ready = on_ready, .on_fail = on_fail};

static void judge_on_main(void *arg)
{
    struct forward_ask *a = arg;
    struct diag d = {0};
    a->demand.ops = &demand_ops;
    a->demand.wants_own = true;
    int rc = tunnel_proxy_judge(a->tunnels, &a->ask, &a->demand, &d);
    if (rc < 0)
        refuse(a, rc, diag_text(&d));
    else
        tunnel_demand_start(a->tunnels, &a->demand);
}

static void on_request(void *arg, struct gateway_exchange *x, const struct gateway_ask *q)
{
    struct tunnel_forward *f = arg;
    struct forward_ask *a = NEW(struct forward_ask);
    a->tunnels = f->tunnels;
    a->loop = f->loop;
    a->x = x;
    a->credentials = mem_strdup(q->proxy_authorization);
    a->authority = mem_strdup(q->authority);
    a->ask = (struct tunnel_proxy_ask){
        .credentials = a->credentials, .authority = a->authority, .peer = q->peer, .own = q->own};
    loop_post(f->tunnels->loop, judge_on_main, a);
}

/* ---- its life ---- */

static void *on_dial(void *arg, struct gateway_stream *s, const char *key, int fd,
                     const struct addr *client)
{
    struct tunnel_forward *f = arg;
    const char *token = key + strcspn(key, " ");
    return web_dial_new(f->tunnels, f->loop, s, key, fd, client, token + (*token == ' '));
}

static void on_done(void *arg, void *dialled, int err)
{
    web_dial_end(dialled, err);
}

static const struct gateway_ops gateway_ops = {on_request, on_dial, on_done};

struct tunnel_forward *tunnel_forward_new(struct tunnels *ts, struct loop *l)
{
    struct tunnel_forward *f = NEW(struct tunnel_forward);
    f->tunnels = ts;
    f->loop = l;
    const struct gateway_config cfg = {
        .loop = l, .ops = &gateway_ops, .arg = f, .is_forward = true};
    f->gateway = gateway_new(&cfg);
    return f;
}

void tunnel_forward_take(struct tunnel_forward *f, struct conn *c)
{
    gateway_take(f->gateway, c);
}

void tunnel_forward_drain(struct tunnel_forward *f)
{
    gateway_drain(f->gateway);
}

void tunnel_forward_free(struct tunnel_forward *f)
{
    if (!f)
        return;
    gateway_free(f->gateway);
    mem_free(f);
}
