/*
 * Strangers, from accept() to a finished handshake. A connection waits as a small `struct guest`
 * (no TLS state) until its first byte; that byte must open a TLS record. Guests are in two lists,
 * oldest first: `silent` and `shaking`. When there are too many, the oldest silent one goes, or
 * else the oldest shaking one if it had its fair time; so strangers who say nothing, or dribble,
 * cannot keep out those who shake hands at once.
 *
 * A handshake takes a token when it begins, and whoever comes while there is none is reset before
 * anything is known of it; unless some TLS is not ours, which needs a look at the name first.
 */
#include "net/server.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/io.h"
#include "net/listener.h"
#include "wire/client_hello.h"

#include <errno.h>
#include <malloc.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uthash.h>
#include <utlist.h>

#define DEFAULT(value, otherwise) ((value) ? (value) : (otherwise))
#define TLS_HANDSHAKE_RECORD      22
#define FAIR_MS                   2000 /* a handshake younger than this is never evicted */
#define SWEEP_MS                  500
#define TRIM_AFTER                100 /* handshakes */

static const char plain_http_hint[] =
    "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    "This port speaks TLS: use https://\n";

struct origin { /* the guests of one address */
    uint8_t ip[16];
    uint32_t guests;
    UT_hash_handle hh;
};

struct guest {
    struct server *server;
    struct origin *origin;
    struct io io;      /* while silent */
    struct conn *conn; /* while shaking */
    struct addr peer;
    uint64_t since_ms;
    struct guest *prev, *next;
};

struct server {
    struct loop *loop;
    struct server_config cfg;
    struct listener *listener;
    struct origin *origins;
    struct guest *silent, *shaking;
    uint32_t n_guests;
    struct timer sweep;
    struct server_stats stats;
    uint64_t finished_before, finished_at_trim; /* handshakes, at the last sweep and trim */
    struct {
        uint64_t thousandths, at_ms; /* of tokens, at that loop time */
    } bucket;
};

/* ---- overload ---- */

static bool has_token(struct server *s)
{
    uint64_t now = loop_now_ms(s->loop), rate = s->cfg.handshakes_per_second;
    uint64_t gained = (now - s->bucket.at_ms) * rate; /* a token a second is one thousandth a ms */
    s->bucket.thousandths = MIN(s->bucket.thousandths + gained, rate * 1000);
    s->bucket.at_ms = now;
    return !rate || s->bucket.thousandths >= 1000;
}

static bool take_token(struct server *s)
{
    if (!has_token(s))
        return false;
    if (s->cfg.handshakes_per_second)
        s->bucket.thousandths -= 1000;
    return true;
}

static void refuse(struct server *s, int fd)
{
    const struct linger reset = {.l_onoff = 1};
    s->stats.refused++;
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
}

static struct origin *origin_of(struct server *s, const struct addr *peer)
{
    uint8_t ip[16];
    struct origin *o;
    addr_origin(peer, ip);
    HASH_FIND(hh, s->origins, ip, sizeof(ip), o);
    if (o)
        return o;
    o = NEW(struct origin);
    memcpy(o->ip, ip, sizeof(ip));
    HASH_ADD(hh, s->origins, ip, sizeof(o->ip), o);
    return o;
}

/* Unlinks and frees; what becomes of the socket or connection is the caller's matter. */
static void guest_free(struct guest *g)
{
    struct server *s = g->server;
    if (g->conn)
        DL_DELETE(s->shaking, g);
    else
        DL_DELETE(s->silent, g);
    if (--g->origin->guests == 0) {
        HASH_DEL(s->origins, g->origin);
        mem_free(g->origin);
    }
    s->n_guests--;
    s->stats.waiting--;
    mem_free(g);
}

static void guest_drop(struct guest *g)
{
    if (g->conn)
        conn_abort(g->conn, ERR_LIMIT); /* guest_free follows by on_guest_close */
    else {
        io_close(&g->io);
        guest_free(g);
    }
}

static void on_guest_open(void *arg)
{
    struct guest *g = arg;
    struct server *s = g->server;
    struct conn *c = g->conn;
    guest_free(g);
    s->stats.finished++;
    conn_start(c, NULL, NULL);
    s->cfg.on_conn(s->cfg.arg, c, conn_lane(c));
}

static void on_guest_close(void *arg, int err)
{
    struct guest *g = arg;
    char peer[ADDR_TEXT_SIZE];
    addr_format(&g->peer, peer, sizeof(peer));
    LOG_DEBUG("handshake failed", LOG_STR("peer", peer), LOG_ERR(err),
              LOG_STR("why", conn_diag(g->conn)->text));
    g->server->stats.failed++;
    guest_free(g);
}

static const struct conn_ops guest_ops = {.on_open = on_guest_open, .on_close = on_guest_close};

static uint32_t time_left(const struct guest *g)
{
    uint64_t used = loop_now_ms(g->server->loop) - g->since_ms;
    uint32_t all = DEFAULT(g->server->cfg.handshake_ms, 10000);
    return used < all ? all - (uint32_t)used : 1;
}

static void shake_hands(struct guest *g)
{
    struct server *s = g->server;
    int fd = g->io.fd;
    struct conn *c;
    io_stop(&g->io);
    if (!take_token(s)) {
        refuse(s, fd);
        guest_free(g);
        return;
    }
    if (conn_new_server(s->loop, fd, &g->peer, s->cfg.tls, &c) < 0) {
        s->stats.failed++;
        guest_free(g);
        return;
    }
    DL_DELETE(s->silent, g);
    g->conn = c;
    DL_APPEND(s->shaking, g);
    conn_set_handshake_ms(c, time_left(g));
    conn_start(c, &guest_ops, g);
}

/* Whether the connection is somebody else's, who has it now; or is not to be decided yet. */
static bool pass_raw(struct guest *g)
{
    const struct server_config *cfg = &g->server->cfg;
    uint8_t hello[CLIENT_HELLO_MAX + 64];
    char name[HOST_SIZE];
    if (!cfg->raw || !cfg->raw->has_any(cfg->arg))
        return false;
    ssize_t n = recv(g->io.fd, hello, sizeof(hello), MSG_PEEK);
    int rc = n > 0 ? client_hello_name(hello, (size_t)n, name) : CLIENT_HELLO_MORE;
    if (rc == CLIENT_HELLO_MORE && !g->io.hup && n < (ssize_t)sizeof(hello)) {
        g->io.readable = false; /* an event tells of more */
        return true;
    }
    if (rc != 0 || !cfg->raw->wants(cfg->arg, name))
        return false;
    int fd = g->io.fd;
    struct addr peer = g->peer;
    io_stop(&g->io);
    guest_free(g);
    cfg->raw->on_raw(cfg->arg, fd, &peer, name);
    return true;
}

static void on_first_byte(struct io *io)
{
    struct guest *g = container_of(io, struct guest, io);
    uint8_t first;
    if (!io->readable)
        return;
    ssize_t n = recv(io->fd, &first, 1, MSG_PEEK);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        io->readable = false;
        return;
    }
    if (n == 1 && first == TLS_HANDSHAKE_RECORD) {
        if (!pass_raw(g))
            shake_hands(g);
        return;
    }
    if (n == 1 && first >= 'A' && first <= 'Z')
        (void)!send(io->fd, plain_http_hint, sizeof(plain_http_hint) - 1,
                    MSG_NOSIGNAL | MSG_DONTWAIT);
    g->server->stats.failed++;
    guest_drop(g);
}

/* Whether there is room for one more, after someone gave way if need be. */
static bool make_room(struct server *s)
{
    uint64_t now = loop_now_ms(s->loop);
    if (s->n_guests < DEFAULT(s->cfg.max_waiting, 4096))
        return true;
    s->stats.evicted++;
    if (s->silent) {
        guest_drop(s->silent);
        return true;
    }
    if (s->shaking && now - s->shaking->since_ms > FAIR_MS)
        guest_drop(s->shaking);
    return false; /* its end comes later; this one waits for another day */
}

/* The same for one address. */
static bool make_room_of(struct server *s, const struct origin *o)
{
    struct guest *g;
    uint64_t now = loop_now_ms(s->loop);
    if (o->guests < DEFAULT(s->cfg.max_per_address, 1024))
        return true;
    DL_FOREACH (s->silent, g) {
        if (g->origin != o)
            continue;
        if (o->guests > 1) /* `o` dies with its last guest */
            guest_drop(g);
        s->stats.evicted++;
        return true;
    }
    DL_FOREACH (s->shaking, g) {
        if (g->origin == o && now - g->since_ms > FAIR_MS) {
            guest_drop(g);
            break;
        }
    }
    return false;
}

/* Numbers are given lowest first, so this one tells how many are in use. A stranger who says
 * nothing gives way to one who may. */
static bool has_descriptor(struct server *s, int fd)
{
    if (!s->cfg.fd_max || fd < s->cfg.fd_max)
        return true;
    if (!s->silent)
        return false;
    s->stats.evicted++;
    guest_drop(s->silent);
    return true;
}

static void on_accept(void *arg, int fd, const struct addr *peer)
{
    struct server *s = arg;
    s->stats.accepted++;
    bool may_be_raw = s->cfg.raw && s->cfg.raw->has_any(s->cfg.arg);
    if ((!has_token(s) && !may_be_raw) || !has_descriptor(s, fd)) {
        refuse(s, fd);
        return;
    }
    struct origin *o = make_room(s) ? origin_of(s, peer) : NULL;
    if (!o || !make_room_of(s, o)) {
        s->stats.evicted++;
        close(fd);
        return;
    }
    struct guest *g = NEW(struct guest);
    g->server = s;
    g->origin = o;
    g->peer = *peer;
    g->since_ms = loop_now_ms(s->loop);
    o->guests++;
    s->n_guests++;
    s->stats.waiting++;
    DL_APPEND(s->silent, g);
    if (io_start(&g->io, s->loop, fd, on_first_byte) < 0) {
        close(fd);
        guest_free(g);
    }
}

/* A handshake needs a lot of memory for a short time, and leaves the heap full of holes: a quarter
 * of what a connection costs afterwards. They are given back once a storm is over. */
static void trim_after_storm(struct server *s)
{
    uint64_t finished = s->stats.finished + s->stats.failed;
    bool is_calm = finished == s->finished_before;
    s->finished_before = finished;
    if (!is_calm || finished - s->finished_at_trim < TRIM_AFTER)
        return;
    s->finished_at_trim = finished;
    malloc_trim(0);
}

static void on_sweep(struct timer *t)
{
    struct server *s = container_of(t, struct server, sweep);
    trim_after_storm(s);
    uint64_t now = loop_now_ms(s->loop);
    while (s->silent && now - s->silent->since_ms >= DEFAULT(s->cfg.handshake_ms, 10000)) {
        s->stats.failed++;
        guest_drop(s->silent);
    }
    timer_start(t, SWEEP_MS);
}

int server_start(struct loop *l, int fd, const struct server_config *cfg, struct server **ret)
{
    struct server *s = NEW(struct server);
    s->loop = l;
    s->cfg = *cfg;
    s->bucket.at_ms = loop_now_ms(l);
    s->bucket.thousandths = (uint64_t)cfg->handshakes_per_second * 1000;
    int rc = listener_start(l, fd, on_accept, s, &s->listener);
    if (rc < 0) {
        mem_free(s);
        return rc;
    }
    listener_trust(s->listener, cfg->trust);
    s->cfg.tls = tls_server_ref(cfg->tls);
    timer_init(&s->sweep, l, on_sweep);
    timer_start(&s->sweep, SWEEP_MS);
    *ret = s;
    return 0;
}

void server_stop_accepting(struct server *s)
{
    listener_stop(TAKE(s->listener));
}

void server_free(struct server *s)
{
    if (!s)
        return;
    server_stop_accepting(s);
    timer_stop(&s->sweep);
    while (s->silent)
        guest_drop(s->silent);
    while (s->shaking) {
        struct conn *c = s->shaking->conn;
        guest_free(s->shaking);
        conn_start(c, NULL, NULL);
        conn_abort(c, ERR_CANCELED);
    }
    tls_server_unref(s->cfg.tls);
    mem_free(s);
}

const struct server_stats *server_stats(const struct server *s)
{
    return &s->stats;
}
