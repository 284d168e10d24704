/*
 * Plain requests to `warren proxy`: a gateway in forward mode (http/gateway.h), which keeps
 * connections on both sides and takes care of what a proxy owes to both. A stream to a target is a
 * socketpair, whose other end a relay joins with a stream of the uplink.
 *
 *   gateway ─ fd ═ fd ─ relay ═══ uplink
 */
#include "cli/local.h"

#include "base/error.h"
#include "base/mem.h"
#include "http/gateway.h"
#include "net/conn.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct local_web {
    struct gateway *gateway;
};

/* A stream that the gateway asked for. It lives until both are done with it. */
struct web_stream {
    struct local *local;
    struct gateway_stream *stream; /* NULL: it said `done` */
    struct uplink_waiter waiter;
    struct relay *relay; /* NULL: not yet, or ended */
    int fd;              /* -1: the relay's */
    struct addr client;
    char authority[LOCAL_TARGET_SIZE];
    struct timer tell; /* never from within a call of the gateway's */
    int err;
};

static void free_if_over(struct web_stream *s)
{
    if (s->stream || s->relay)
        return;
    uplink_wait_cancel(&s->waiter);
    timer_stop(&s->tell);
    if (s->fd >= 0)
        close(s->fd);
    mem_free(s);
}

static void on_tell(struct timer *t)
{
    struct web_stream *s = container_of(t, struct web_stream, tell);
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    gateway_dialled(s->stream, s->err, NULL);
}

static void tell(struct web_stream *s, int err)
{
    if (!s->stream)
        return;
    s->err = err;
    timer_start(&s->tell, 0);
}

static void on_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct web_stream *s = arg;
    s->relay = NULL;
    if (res->end == RELAY_END_NOT_OPENED && !s->local->is_stopping)
        local_note(s->local, "%s: %s", s->authority, error_text(res->err));
    tell(s, res->end == RELAY_END_FINISHED ? 0 : res->err ? res->err : ERR_RESET);
    free_if_over(s);
}

static const struct relay_ops relay_ops = {.on_end = on_end};

static void on_uplink(struct uplink_waiter *w, struct h2conn *hc, int err)
{
    struct web_stream *s = container_of(w, struct web_stream, waiter);
    struct local *l = s->local;
    struct relay_open_params p = {.peer = s->client,
                                  .authority = s->authority,
                                  .set = &l->relays,
                                  .ops = &relay_ops,
                                  .arg = s,
                                  .is_local = true};
    p.headers = uplink_headers(l->uplink, &p.n_headers);
    if (!err) {
        err = relay_open(hc, s->fd, &p, &s->relay);
        s->fd = -1;
    }
    if (err < 0)
        tell(s, err);
}

/* ---- struct gateway_ops ---- */

struct decision {
    struct gateway_exchange *x;
    struct gateway_decision d;
};

static void decide(void *arg)
{
    CLEANUP(mem_free) struct decision *d = arg;
    gateway_decide(d->x, &d->d);
}

static void on_request(void *arg, struct gateway_exchange *x, const struct gateway_ask *ask)
{
    static const struct http_header challenge[] = {{"proxy-authenticate", "Basic realm=\"warren\""},
                                                   {NULL, NULL}};
    struct local *l = arg;
    struct decision *d = NEW(struct decision);
    d->x = x;
    if (local_users_know_header(&l->users, ask->proxy_authorization)) {
        snprintf(d->d.key, sizeof(d->d.key), "%s", ask->authority);
    } else {
        d->d.status = 407;
        d->d.body = "this proxy wants a user and a password";
        d->d.headers = challenge;
    }
    loop_post(l->loop, decide, d);
}

static void *on_dial(void *arg, struct gateway_stream *stream, const char *key, int fd,
                     const struct addr *client)
{
    struct local *l = arg;
    struct web_stream *s = NEW(struct web_stream);
    s->local = l;
    s->stream = stream;
    s->fd = fd;
    s->client = *client;
    s->waiter.fn = on_uplink;
    snprintf(s->authority, sizeof(s->authority), "%s", key);
    timer_init(&s->tell, l->loop, on_tell);
    uplink_wait(l->uplink, &s->waiter);
    return s;
}

static void on_done(void *arg, void *dialled, int err)
{
    struct web_stream *s = dialled;
    s->stream = NULL;
    if (s->relay)
        relay_other_ended(s->relay, err);
    free_if_over(s);
}

static const struct gateway_ops ops = {on_request, on_dial, on_done};

/* ---- its life ---- */

static struct gateway *get_gateway(struct local *l)
{
    const struct gateway_config cfg = {.loop = l->loop,
                                       .ops = &ops,
                                       .arg = l,
                                       .limits = {.exchanges = LOCAL_CLIENTS_MAX},
                                       .is_forward = true};
    if (!l->web) {
        l->web = NEW(struct local_web);
        l->web->gateway = gateway_new(&cfg);
    }
    return l->web->gateway;
}

void local_web_take(struct local_client *c)
{
    struct local *l = c->local;
    struct addr peer = c->peer;
    struct conn *conn;
    io_stop(&c->io);
    int fd = c->fd;
    c->fd = -1;
    local_client_close(c, false);
    if (conn_new_plain(l->loop, fd, &peer, &conn) == 0)
        gateway_take(get_gateway(l), conn);
}

void local_web_end(struct local *l)
{
    if (l->web)
        gateway_free(TAKE(l->web->gateway));
}

void local_web_free(struct local *l)
{
    mem_free(TAKE(l->web));
}
