/*
 * A dial is a race: resolved addresses in a list (families alternating), attempts in slots, a timer
 * that starts the next attempt, and a deadline. The first attempt that connects wins and closes the
 * rest. Whoever fails leaves its error; the dial's error is the most telling one of them (an answer
 * beats silence).
 *
 *     start ──► resolving ──► racing ──► (TLS handshake) ──► done
 *                  ▲  persistent: again each second, beside the race
 */
#include "net/dialer.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/io.h"
#include "net/errqueue.h"
#include "net/spare_sockets.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#define DEADLINE_MS    10000
#define STAGGER_MS     250  /* RFC 8305 section 5 */
#define AGAIN_MS       1000 /* persistent: between fresh attempts, and between resolutions */
#define KNOWN_AFTER_MS 500  /* persistent: the resolver had its time */
#define ADDRS_MAX      16
#define ATTEMPTS_MAX   16
#define RESOLVES_MAX   2

struct attempt {
    struct io io; /* fd -1: free slot */
    struct dial *dial;
    struct addr addr;
};

/* Lives until libuv's callback, which may be after the dial. */
struct resolve {
    uv_getaddrinfo_t uv;
    struct dial *dial; /* NULL: nobody wants it any more */
};

struct dial {
    struct loop *loop;
    struct dial_params p;
    struct timer next, deadline, resolve_again, known;
    struct defer finish;
    struct resolve *resolves[RESOLVES_MAX];
    struct addr addrs[ADDRS_MAX];
    size_t n_addrs, next_addr;
    bool wrapped; /* every address was tried at least once */
    bool is_answered, dns_failed;
    struct attempt *attempts; /* ATTEMPTS_MAX, or 1 for a literal address */
    size_t n_slots, next_slot;
    struct conn *conn;      /* in the handshake, then finished */
    struct attempt *winner; /* of a plain dial; its socket is the result */
    struct addr peer;
    int err;                 /* the most telling failure so far */
    struct icmp_cause cause; /* of that */
    bool is_done;
    struct diag diag;
};

static void close_attempt(struct attempt *a)
{
    if (a->io.loop)
        io_stop(&a->io);
    if (a->io.fd >= 0)
        close(a->io.fd);
    a->io.fd = -1;
}

static void dial_free(struct dial *d)
{
    for (size_t i = 0; i < RESOLVES_MAX; i++) {
        if (!d->resolves[i])
            continue;
        d->resolves[i]->dial = NULL;
        uv_cancel((uv_req_t *)&d->resolves[i]->uv);
    }
    for (size_t i = 0; i < d->n_slots; i++)
        close_attempt(&d->attempts[i]);
    timer_stop(&d->next);
    timer_stop(&d->deadline);
    timer_stop(&d->resolve_again);
    timer_stop(&d->known);
    loop_defer_cancel(&d->finish);
    mem_free(d->attempts);
    mem_free(d);
}

static void stop_racing(struct dial *d)
{
    for (size_t i = 0; i < d->n_slots; i++) {
        if (&d->attempts[i] != d->winner)
            close_attempt(&d->attempts[i]);
    }
    timer_stop(&d->next);
    timer_stop(&d->resolve_again);
    timer_stop(&d->known);
}

static void finish(struct dial *d, int err)
{
    stop_racing(d);
    timer_stop(&d->deadline);
    d->err = err;
    d->is_done = true;
    loop_defer(d->loop, &d->finish);
}

/* The winner's socket goes to whoever asked. */
static int hand_over(struct dial *d)
{
    struct io *io = &TAKE(d->winner)->io;
    int fd = io->fd, rc = 0;
    if (d->p.io)
        rc = io->loop ? io_move(d->p.io, io, d->p.on_event)
                      : io_start(d->p.io, d->loop, fd, d->p.on_event);
    else if (io->loop)
        io_stop(io);
    if (rc < 0) { /* dial_free closes it */
        d->p.io->fd = -1;
        d->err = rc;
        return -1;
    }
    io->fd = -1;
    return fd;
}

static void on_finish(struct defer *defer)
{
    struct dial *d = container_of(defer, struct dial, finish);
    int fd = d->winner ? hand_over(d) : -1;
    struct dial_result r = {.err = d->err,
                            .fd = fd,
                            .conn = d->err ? NULL : d->conn,
                            .peer = d->peer,
                            .cause = d->cause,
                            .is_answered = d->is_answered,
                            .diag = d->diag};
    struct dial_params p = d->p;
    char target[HOST_SIZE + 8];
    host_port_format(&p.target, target, sizeof(target));
    if (r.err && !r.diag.code)
        diag_set(&r.diag, r.err, "%s: %s", target, error_text(r.err));
    dial_free(d);
    p.on_done(p.arg, &r);
}

/* How telling a failure is: an answer of the other side beats one of the network, and that silence.
 */
static int rank(int err)
{
    static const int order[] = {ERR_DENIED,      ERR_TIMEOUT, ERR_DNS,   ERR_IO,
                                ERR_UNREACHABLE, ERR_LIMIT,   ERR_RESET, ERR_REFUSED};
    for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
        if (order[i] == err)
            return (int)i + 1;
    }
    return err ? 4 : 0;
}

static void note_failure(struct dial *d, int err, const struct icmp_cause *cause)
{
    if (rank(err) > rank(d->err)) {
        d->err = err;
        d->cause = cause ? *cause : (struct icmp_cause){0};
    }
    if (err == ERR_REFUSED || err == ERR_RESET)
        d->is_answered = true;
}

static size_t racing(const struct dial *d)
{
    size_t n = 0;
    for (size_t i = 0; i < d->n_slots; i++)
        n += d->attempts[i].io.fd >= 0;
    return n;
}

static bool is_resolving(const struct dial *d)
{
    for (size_t i = 0; i < RESOLVES_MAX; i++) {
        if (d->resolves[i])
            return true;
    }
    return false;
}

static void launch_next(struct dial *d);

/* After a failure: whether there is anything left to wait for. */
static void settle(struct dial *d)
{
    if (d->is_done || d->conn)
        return;
    if (!d->wrapped && d->n_addrs) {
        launch_next(d);
        return;
    }
    if (racing(d) || (is_resolving(d) && !d->n_addrs))
        return;
    if (d->p.is_persistent && !d->is_answered)
        return; /* the timers go on */
    finish(d, d->err ? d->err : ERR_TIMEOUT);
}

/* TLS */

static void on_handshake(void *arg)
{
    struct dial *d = arg;
    conn_start(d->conn, NULL, NULL);
    finish(d, 0);
}

static void on_handshake_failed(void *arg, int err)
{
    struct dial *d = arg;
    d->diag = *conn_diag(d->conn);
    d->conn = NULL;
    finish(d, err ? err : ERR_CLOSED);
}

static const struct conn_ops handshake_ops = {.on_open = on_handshake,
                                              .on_close = on_handshake_failed};

/* -1: the system's. */
static void set_ttl(int fd, int ttl)
{
    setsockopt(fd, IPPROTO_IP, IP_TTL, &ttl, sizeof(ttl));
    setsockopt(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, &ttl, sizeof(ttl));
}

static void connected(struct dial *d, struct attempt *a)
{
    int fd = a->io.fd, one = 1;
    d->peer = a->addr;
    d->is_answered = true;
    d->winner = a;
    stop_racing(d);
    if (!d->p.is_datagram && !d->p.is_probe)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (d->p.wants_cause && !d->p.is_datagram)
        errqueue_watch(fd, a->addr.sa.sa_family, false); /* an ICMP error ends no live connection */
    if (d->p.ttl)
        set_ttl(fd, -1);
    if (!d->p.tls) {
        finish(d, 0);
        return;
    }
    d->winner = NULL;
    io_stop(&a->io);
    a->io.fd = -1;
    int rc = conn_new_client(d->loop, fd, &d->peer, d->p.tls, &d->conn);
    if (rc < 0) {
        finish(d, rc);
        return;
    }
    if (d->p.ask_for)
        conn_set_server_name(d->conn, d->p.ask_for);
    conn_set_handshake_ms(d->conn, DEADLINE_MS * 6); /* the dial's deadline ends it */
    conn_start(d->conn, &handshake_ops, d);
}

/* The race */

/* What the network said, if it did: an errno value, else 0. */
static int take_cause(const struct attempt *a, struct icmp_cause *ret)
{
    struct errqueue_entry e = {0};
    *ret = (struct icmp_cause){0};
    if (!a->dial->p.wants_cause || errqueue_take(a->io.fd, &e) == 0)
        return 0;
    *ret = e.cause;
    return e.errnum;
}

static enum spare_kind spare_kind(const struct dial *d)
{
    return d->p.wants_cause ? SPARE_WATCHED : SPARE_PLAIN;
}

/* After connect() has told why. */
static void attempt_failed(struct attempt *a, int errnum, const struct icmp_cause *cause)
{
    struct dial *d = a->dial;
    bool is_spare = errnum == ECONNREFUSED && !cause->version && !d->p.is_datagram && !d->p.ttl;
    if (is_spare) {
        if (a->io.loop)
            io_stop(&a->io);
        spare_socket_keep(a->io.fd, &a->addr, spare_kind(d));
        a->io.fd = -1;
    }
    close_attempt(a);
    note_failure(d, error_from_errno(errnum), cause);
}

/* 0: it is connected; EALREADY: that is not known yet; else why it is not. Another connect() tells,
 * after which Linux lets the socket of one that failed connect anew. */
static int outcome(const struct attempt *a)
{
    if (connect(a->io.fd, &a->addr.sa, a->addr.len) == 0 || errno == EISCONN)
        return 0;
    return errno;
}

static void on_event(struct io *io)
{
    struct attempt *a = container_of(io, struct attempt, io);
    struct dial *d = a->dial;
    struct icmp_cause cause;
    if (d->is_done || (!io->writable && !io->hup && !io->error))
        return;
    /* Only a connected socket is writable and well. */
    int err = !io->hup && !io->error ? 0 : outcome(a);
    /* The kernel may have an error that came within connect() in its queue alone. */
    int said = err ? take_cause(a, &cause) : 0;
    if (err == EALREADY)
        err = said;
    else if (!err) {
        connected(d, a);
        return;
    }
    if (!err)
        return; /* an event before the outcome */
    attempt_failed(a, err, &cause);
    settle(d);
}

/* A free slot, if need be that of the oldest attempt, which had its time. */
static struct attempt *take_slot(struct dial *d)
{
    struct attempt *a = &d->attempts[d->next_slot];
    d->next_slot = (d->next_slot + 1) % d->n_slots;
    io_close(&a->io);
    return a;
}

static int make_socket(const struct dial *d, const struct addr *to)
{
    int type = d->p.is_datagram ? SOCK_DGRAM : SOCK_STREAM;
    bool can_be_spare = !d->p.is_datagram && !d->p.ttl;
    int fd = can_be_spare ? spare_socket_take(to, spare_kind(d)) : -1;
    if (fd >= 0)
        return fd;
    fd = socket(to->sa.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && d->p.wants_cause)
        errqueue_watch(fd, to->sa.sa_family, true);
    return fd;
}

/* Whether an attempt at `addr` is now under way (or has succeeded already). */
static bool launch(struct dial *d, const struct addr *addr)
{
    if (d->p.check && d->p.check(d->p.arg, addr) != 0) {
        note_failure(d, ERR_DENIED, NULL);
        return false;
    }
    struct attempt *a = take_slot(d);
    *a = (struct attempt){.dial = d, .addr = *addr, .io.fd = -1};
    int fd = make_socket(d, addr);
    if (fd < 0) {
        note_failure(d, errno == EMFILE || errno == ENFILE ? ERR_LIMIT : error_from_errno(errno),
                     NULL);
        return false;
    }
    a->io.fd = fd;
    if (d->p.is_probe)
        setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &(int){0}, sizeof(int));
    if (d->p.ttl)
        set_ttl(fd, d->p.ttl);
    int failure = outcome(a);
    bool is_under_way = failure == EINPROGRESS;
    if (is_under_way) /* who is on this machine has answered by now */
        failure = outcome(a);
    if (!failure) {
        connected(d, a);
        return true;
    }
    if (failure == EALREADY) {
        if (io_start(&a->io, d->loop, fd, on_event) == 0)
            return true;
        failure = errno;
    }
    struct icmp_cause cause;
    if (!take_cause(a, &cause) && d->p.wants_cause && !is_under_way) /* its own routes say so */
        icmp_cause_of_errno(failure, addr->sa.sa_family == AF_INET6, &cause);
    attempt_failed(a, failure, &cause);
    return false;
}

/* Starts one attempt, passing over addresses that fail at once, and sets the clock for the next. */
static void launch_next(struct dial *d)
{
    bool is_launched = false;
    for (size_t i = 0; i < d->n_addrs && !is_launched; i++) {
        const struct addr *a = &d->addrs[d->next_addr];
        d->next_addr = (d->next_addr + 1) % d->n_addrs;
        is_launched = launch(d, a);
        if (d->next_addr == 0) {
            d->wrapped = true;
            break;
        }
    }
    if (d->is_done || d->conn)
        return;
    if (!d->wrapped)
        timer_start(&d->next, STAGGER_MS);
    else if (d->p.is_persistent)
        timer_start(&d->next, AGAIN_MS);
    if (d->wrapped && !racing(d))
        settle(d);
}

static void on_next(struct timer *t)
{
    launch_next(container_of(t, struct dial, next));
}

static void on_deadline(struct timer *t)
{
    struct dial *d = container_of(t, struct dial, deadline);
    int err = d->err ? d->err : d->dns_failed || !d->n_addrs ? ERR_DNS : ERR_TIMEOUT;
    if (d->conn || racing(d))
        err = ERR_TIMEOUT;
    if (d->conn) {
        struct conn *c = TAKE(d->conn);
        conn_start(c, NULL, NULL);
        conn_abort(c, ERR_TIMEOUT);
    }
    finish(d, err);
}

/* Resolving */

static void add_addr(struct dial *d, const struct addr *a)
{
    for (size_t i = 0; i < d->n_addrs; i++) {
        if (addr_equal_ip(&d->addrs[i], a))
            return;
    }
    if (d->n_addrs < ADDRS_MAX)
        d->addrs[d->n_addrs++] = *a;
}

/* Takes over the resolver's order within a family, alternating between the two. */
static void add_results(struct dial *d, const struct addrinfo *ai)
{
    struct addr by_family[2][ADDRS_MAX];
    size_t n[2] = {0, 0}, first = 0;
    for (const struct addrinfo *i = ai; i; i = i->ai_next) {
        size_t f = i->ai_family == AF_INET6;
        if ((i->ai_family != AF_INET && !f) || n[f] == ADDRS_MAX)
            continue;
        if (i == ai)
            first = f;
        struct addr *a = &by_family[f][n[f]++];
        a->len = i->ai_addrlen;
        memcpy(&a->sa, i->ai_addr, i->ai_addrlen);
        addr_set_port(a, d->p.target.port);
    }
    for (size_t i = 0; i < ADDRS_MAX; i++) {
        for (size_t k = 0; k < 2; k++) {
            if (i < n[first ^ k])
                add_addr(d, &by_family[first ^ k][i]);
        }
    }
}

static void on_resolved(uv_getaddrinfo_t *uv, int status, struct addrinfo *ai)
{
    struct resolve *r = container_of(uv, struct resolve, uv);
    struct dial *d = r->dial;
    for (size_t i = 0; d && i < RESOLVES_MAX; i++) {
        if (d->resolves[i] == r)
            d->resolves[i] = NULL;
    }
    mem_free(r);
    if (d && !d->is_done && !d->conn) {
        size_t before = d->n_addrs;
        d->dns_failed = status != 0;
        if (status == 0)
            add_results(d, ai);
        else
            note_failure(d, ERR_DNS, NULL);
        if (d->n_addrs > before && !timer_is_running(&d->next))
            launch_next(d);
        else if (d->n_addrs > before)
            d->wrapped = false; /* new ones: soon */
        else
            settle(d);
    }
    uv_freeaddrinfo(ai);
}

static void resolve(struct dial *d)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    for (size_t i = 0; i < RESOLVES_MAX; i++) {
        if (d->resolves[i])
            continue;
        struct resolve *r = NEW(struct resolve);
        r->dial = d;
        if (uv_getaddrinfo(loop_uv(d->loop), &r->uv, on_resolved, d->p.target.host, NULL, &hints) ==
            0)
            d->resolves[i] = r;
        else
            mem_free(r);
        break;
    }
    if (d->p.is_persistent)
        timer_start(&d->resolve_again, AGAIN_MS);
}

static void on_resolve_again(struct timer *t)
{
    resolve(container_of(t, struct dial, resolve_again));
}

static void on_known(struct timer *t)
{
    struct dial *d = container_of(t, struct dial, known);
    size_t before = d->n_addrs;
    add_addr(d, &d->p.known);
    if (d->n_addrs > before && !timer_is_running(&d->next))
        launch_next(d);
}

struct dial *dial_start(struct loop *l, const struct dial_params *p)
{
    struct dial *d = NEW(struct dial);
    struct addr literal;
    bool is_literal = addr_parse(p->target.host, p->target.port, &literal) == 0;
    d->loop = l;
    d->p = *p;
    d->finish.fn = on_finish;
    timer_init(&d->next, l, on_next);
    timer_init(&d->deadline, l, on_deadline);
    timer_init(&d->resolve_again, l, on_resolve_again);
    timer_init(&d->known, l, on_known);
    timer_start(&d->deadline, p->deadline_ms ? p->deadline_ms : DEADLINE_MS);
    d->n_slots = is_literal && !p->is_persistent ? 1 : ATTEMPTS_MAX;
    d->attempts = mem_new(d->n_slots * sizeof(*d->attempts));
    for (size_t i = 0; i < d->n_slots; i++)
        d->attempts[i].io.fd = -1;
    if (is_literal) {
        add_addr(d, &literal);
        launch_next(d);
        return d;
    }
    resolve(d);
    if (p->known.len)
        timer_start(&d->known, KNOWN_AFTER_MS);
    return d;
}

void dial_cancel(struct dial *d)
{
    if (!d)
        return;
    if (d->conn) {
        struct conn *c = TAKE(d->conn);
        conn_start(c, NULL, NULL);
        conn_abort(c, ERR_CANCELED);
    }
    dial_free(d);
}
