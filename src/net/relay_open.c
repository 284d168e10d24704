/* How relays begin: at the hub with a client's socket, at the agent and in a proxy with a request.
 */
#include "net/relay_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "net/dialer.h"
#include "wire/proxy_status.h"

#include <assert.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#define KEEPALIVE_S 60
#define HEADERS_MAX 16

static struct relay *make(struct h2conn *hc, struct relay_set *set, const struct relay_ops *ops,
                          void *arg)
{
    struct relay *r = NEW(struct relay);
    r->hc = hc;
    r->loop = h2conn_loop(hc);
    r->set = set;
    r->ops = ops;
    r->arg = arg;
    r->io.fd = r->kept_fd = -1;
    r->first_chunk = r->last_chunk = RELAY_NO_CHUNK;
    r->at_end.fn = relay_on_batch_end;
    r->over.fn = relay_on_over;
    r->started_ms = r->burst_ms = r->pieces_ms = loop_now_ms(r->loop);
    DL_APPEND(set->head, r);
    set->open++;
    set->total++;
    return r;
}

/* Targets that vanish without a word are found by the kernel. */
static void watch_target(int fd)
{
    int one = 1, idle = KEEPALIVE_S;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
}

static void forget(struct relay *r)
{
    r->is_cut = true;
    r->end = RELAY_END_NOT_OPENED;
    DL_DELETE(r->set->head, r);
    r->set->open--;
    r->set->total--;
    if (r->keeps_fd)
        relay_release_socket(r);
    relay_close_socket(r, true);
    relay_stop_pacing(r);
    mem_free(r->prefix);
    mem_free(r);
}

static struct prefix *copy_prefix(const struct relay_open_params *p)
{
    if (!p->prefix_len)
        return NULL;
    struct prefix *prefix = mem_new(sizeof(*prefix) + p->prefix_len);
    prefix->len = p->prefix_len;
    memcpy(prefix->data, p->prefix, p->prefix_len);
    return prefix;
}

static size_t fill_headers(const struct relay_open_params *p, struct h2_header out[HEADERS_MAX])
{
    size_t n = 0;
    out[n++] = (struct h2_header){":method", "CONNECT"};
    out[n++] = (struct h2_header){":authority", p->authority};
    if (p->protocol) {
        out[n++] = (struct h2_header){":protocol", p->protocol};
        out[n++] = (struct h2_header){":scheme", "https"};
        out[n++] = (struct h2_header){":path", p->path};
        out[n++] = (struct h2_header){"capsule-protocol", "?1"};
    }
    assert(p->n_headers <= HEADERS_MAX - n);
    for (size_t i = 0; i < p->n_headers; i++)
        out[n++] = p->headers[i];
    return n;
}

int relay_open(struct h2conn *hc, int fd, const struct relay_open_params *p, struct relay **ret)
{
    struct h2_header headers[HEADERS_MAX];
    size_t n_headers = fill_headers(p, headers);
    struct relay *r = make(hc, p->set, p->ops, p->arg);
    r->is_hub = true;
    r->is_local = p->is_local;
    r->keeps_fd = p->keeps_fd;
    r->waits = p->waits;
    r->peer = p->peer;
    r->prefix = copy_prefix(p);
    int rc = p->pair ? relay_pair_join(r, p->pair)
                     : io_start(&r->io, h2conn_loop(hc), fd, relay_on_event);
    if (rc == 0 && h2conn_is_ending(hc))
        rc = ERR_UNAVAILABLE;
    if (rc == 0 && p->protocol && !h2conn_takes_protocols(hc))
        rc = ERR_UNSUPPORTED;
    if (rc == 0)
        rc = h2_request(h2conn_session(hc), headers, n_headers, true, &relay_stream_ops, r,
                        &r->stream);
    if (rc < 0) {
        r->io.fd = fd;
        forget(r);
        return rc;
    }
    if (r->prefix)
        h2_resume(r->stream);
    *ret = r;
    return 0;
}

uint8_t relay_read_ttl(const struct h2_headers *h)
{
    const char *text = h2_headers_get(h, RELAY_TTL);
    uint64_t ttl = 0;
    return text && text_to_u64(text, UINT8_MAX, &ttl) == 0 ? (uint8_t)ttl : 0;
}

struct relay_worker relay_read_worker(const struct h2_headers *h)
{
    struct relay_worker w;
    char rest;
    const char *text = h2_headers_get(h, RELAY_WORKER);
    if (!text || sscanf(text, "%4" SCNu16 "/%4" SCNu16 "%c", &w.number, &w.count, &rest) != 2 ||
        w.number >= w.count)
        return (struct relay_worker){0};
    return w;
}

void relay_other_ended(struct relay *r, int err)
{
    if (r->pair)
        return;
    r->other_ended = true;
    if (r->is_cut)
        return;
    if ((err < 0 && r->is_hub) || (err == 0 && r->stash.len)) {
        relay_cut_both(r, RELAY_END_SOCKET_RESET, err ? err : ERR_RESET);
        return;
    }
    r->socket_err = err; /* of a target: told after its last bytes */
    r->io.readable = true;
    if (!r->socket_ended)
        relay_resume(r);
}

void relay_refuse_because(struct h2_stream *s, int err, const struct icmp_cause *cause)
{
    char status[4] = "502", field[PROXY_STATUS_SIZE];
    int code = proxy_status_format(err, field);
    proxy_status_add_cause(field, cause);
    status[0] = (char)('0' + code / 100);
    status[1] = (char)('0' + code / 10 % 10);
    status[2] = (char)('0' + code % 10);
    h2_respond(s, H2_HEADERS({":status", status}, {"proxy-status", field}), 2, false);
}

void relay_refuse(struct h2_stream *s, int err)
{
    relay_refuse_because(s, err, &(struct icmp_cause){0});
}

struct relay *relay_await(struct h2_stream *s, struct relay_set *set, const struct relay_ops *ops,
                          void *arg)
{
    struct relay *r = make(h2conn_of(s), set, ops, arg);
    r->stream = s;
    h2_stream_set(s, &relay_stream_ops, r);
    return r;
}

int relay_begin(struct relay *r, int fd)
{
    int rc = r->is_cut ? ERR_CLOSED : io_start(&r->io, r->loop, fd, relay_on_event);
    if (rc < 0)
        close(fd);
    else
        r->is_local = true;
    return rc;
}

void relay_begin_pair(struct relay *r, struct relay_pair *p)
{
    if (r->is_cut)
        relay_pair_drop(p);
    else if (relay_pair_join(r, p) == 0)
        relay_pair_write(r);
}

void relay_confirm(struct relay *r, const struct h2_header *headers, size_t n)
{
    struct h2_header all[HEADERS_MAX] = {{":status", "200"}};
    assert(n < HEADERS_MAX);
    if (r->is_cut || !r->stream)
        return;
    r->is_open = true;
    for (size_t i = 0; i < n; i++)
        all[i + 1] = headers[i];
    h2_respond(r->stream, all, n + 1, true);
    if (r->ops && r->ops->on_open)
        r->ops->on_open(r->arg, r);
    relay_shut_if_done(r);
}

void relay_fail(struct relay *r, int err, const struct h2_header *headers, size_t n)
{
    if (r->is_cut || !r->stream)
        return;
    if (headers)
        h2_respond(r->stream, headers, n, false);
    else
        relay_refuse_because(r->stream, err, &r->cause);
    relay_cut(r, RELAY_END_NOT_OPENED, err);
}

static void on_dialled(void *arg, const struct dial_result *res)
{
    struct dialling *d = arg;
    struct relay *r = d->relay;
    r->dialling = NULL;
    dial_gate_leave(&d->ticket, res->err);
    mem_free(d);
    if (res->err < 0) {
        r->cause = res->cause;
        relay_fail(r, res->err, NULL, 0);
        return;
    }
    r->peer = res->peer;
    watch_target(res->fd);
    relay_confirm(r, NULL, 0);
}

static int check_target(void *arg, const struct addr *a)
{
    const struct dialling *d = arg;
    return d->check ? d->check(d->check_arg, a) : 0;
}

static void start_dial(struct dialling *d)
{
    d->dial = dial_start(d->relay->loop, &(struct dial_params){.target = d->target,
                                                               .deadline_ms = d->deadline_ms,
                                                               .check = check_target,
                                                               .wants_cause = d->wants_cause,
                                                               .io = &d->relay->io,
                                                               .on_event = relay_on_event,
                                                               .ttl = d->ttl,
                                                               .on_done = on_dialled,
                                                               .arg = d});
}

static void on_turn(struct dial_ticket *t)
{
    start_dial(container_of(t, struct dialling, ticket));
}

/* Others need the place more: as if the target had not answered in time. */
static void give_way(struct dial_ticket *t)
{
    relay_fail(container_of(t, struct dialling, ticket)->relay, ERR_TIMEOUT, NULL, 0);
}

static int enter(struct dial_gate *gate, struct dialling *d)
{
    struct addr a;
    if (!gate || addr_parse(d->target.host, d->target.port, &a) < 0)
        return 0;
    d->ticket.on_turn = on_turn;
    d->ticket.give_way = give_way;
    return dial_gate_enter(gate, &d->ticket, &a);
}

struct relay *relay_accept(struct h2_stream *s, const struct relay_accept_params *p)
{
    struct relay *r = relay_await(s, p->set, p->ops, p->arg);
    struct dialling *d = NEW(struct dialling);
    r->dialling = d;
    d->relay = r;
    d->target = p->target;
    d->deadline_ms = p->deadline_ms;
    d->check = p->check;
    d->check_arg = p->check_arg;
    d->ttl = p->ttl;
    d->wants_cause = p->wants_cause;
    int rc = enter(p->gate, d);
    if (p->tag)
        relay_tag_set(r, p->tags, p->tag);
    if (rc == 0)
        start_dial(d);
    else if (rc < 0)
        relay_fail(r, rc, NULL, 0);
    return r;
}
