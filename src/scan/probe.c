#include "scan/probe.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "net/arp.h"
#include "net/errqueue.h"
#include "net/pinger.h"
#include "scan/snmp_get.h"

#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#define ANSWER_BYTES 2048
#define ECHOES_MAX   4096 /* under way */

static_assert(65536 % ECHOES_MAX == 0, "a place is never that of two numbers in a row");

/* One for each version of IP. */
struct echoes {
    struct pinger pinger;
    bool is_tried;
    struct probe **asked; /* by number */
    uint16_t next;
};

struct prober {
    struct loop *loop;
    struct echoes echoes[2]; /* IPv4, IPv6 */
    struct arp arp;
    struct probe *asked; /* by ARP */
};

struct probe {
    struct io io; /* fd -1: by a socket of the prober */
    struct probe_params p;
    struct prober *prober;
    struct timer timer;
    struct defer over;
    uint64_t started_us;
    uint16_t number; /* of an echo */
    bool was_repeated, is_over;
    struct probe_result result;
    struct probe *prev, *next; /* by ARP */
};

static bool is_v6(const struct probe *p)
{
    return p->p.target.sa.sa_family == AF_INET6;
}

static struct echoes *echoes_of(const struct probe *p)
{
    return &p->prober->echoes[is_v6(p)];
}

/* ---- the end ---- */

static void let_go(struct probe *p)
{
    const struct linger reset = {.l_onoff = 1};
    struct echoes *e = echoes_of(p);
    if (p->p.kind == PROBE_ECHO && e->asked && e->asked[p->number % ECHOES_MAX] == p)
        e->asked[p->number % ECHOES_MAX] = NULL;
    if (p->p.kind == PROBE_ARP)
        DL_DELETE(p->prober->asked, p);
    if (p->io.fd < 0)
        return;
    if (p->p.kind == PROBE_TCP)
        setsockopt(p->io.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    if (p->io.loop)
        io_close(&p->io);
    else
        close(p->io.fd);
    p->io.fd = -1;
}

static void done(struct probe *p)
{
    timer_stop(&p->timer);
    loop_defer_cancel(&p->over);
    let_go(p);
    mem_free(p);
}

static void on_over(struct defer *d)
{
    struct probe *p = container_of(d, struct probe, over);
    struct probe_params params = p->p;
    struct probe_result r = p->result;
    done(p);
    params.on_end(params.arg, &r);
}

static void end(struct probe *p, enum probe_end how, bool is_alive)
{
    timer_stop(&p->timer);
    if (p->io.loop)
        io_stop(&p->io);
    p->is_over = true;
    p->result.end = how;
    p->result.is_alive = is_alive;
    p->result.rtt_us = (uint32_t)(time_mono_us() - p->started_us);
    loop_defer(p->prober->loop, &p->over);
}

void probe_cancel(struct probe *p)
{
    if (p)
        done(p);
}

/* ---- questions ---- */

static int ask_echo(struct probe *p)
{
    const struct ping_request r = {.to = &p->p.target, .seq = p->number};
    return pinger_send(&echoes_of(p)->pinger, &r);
}

/* ERR_LIMIT: the kernel has no room for it now, such as in its table of neighbours; else it cannot
 * be asked. */
static int ask(struct probe *p)
{
    uint8_t message[SNMP_GET_MAX];
    int errnum = 0;
    switch (p->p.kind) {
    case PROBE_UDP:
        errnum = send(p->io.fd, "", 0, 0) < 0 ? errno : 0;
        break;
    case PROBE_ECHO:
        errnum = ask_echo(p);
        break;
    case PROBE_SNMP:
        if (send(p->io.fd, message, snmp_get_write(p->p.community, message), 0) < 0)
            errnum = errno;
        break;
    case PROBE_ARP:
        errnum = arp_ask(&p->prober->arp, &p->p.target);
        break;
    default:
        break;
    }
    if (errnum == ENOBUFS || errnum == ENOMEM)
        return ERR_LIMIT;
    /* On a socket of its own an error is about what was sent before. */
    return errnum && p->io.fd < 0 ? error_from_errno(errnum) : 0;
}

static void on_timer(struct timer *t)
{
    struct probe *p = container_of(t, struct probe, timer);
    if (p->p.kind == PROBE_TCP || p->was_repeated) {
        end(p, PROBE_SILENT, false);
        return;
    }
    p->was_repeated = true;
    (void)ask(p);
    if (!p->is_over)
        timer_start(&p->timer, p->p.timeout_ms - p->p.timeout_ms / 2);
}

/* ---- answers ---- */

static bool is_target(const struct probe *p, const uint8_t ip[16])
{
    uint8_t target[16];
    addr_mapped(&p->p.target, target);
    return memcmp(target, ip, sizeof(target)) == 0;
}

static void failed(struct probe *p, int errnum)
{
    struct errqueue_entry e;
    int err = error_from_errno(errnum);
    bool is_told = errqueue_take(p->io.fd, &e) && e.cause.version && is_target(p, e.cause.from);
    if (err != ERR_REFUSED && err != ERR_RESET)
        end(p, PROBE_SILENT, is_told);
    else if (p->p.kind == PROBE_TCP && is_told)
        end(p, PROBE_SILENT, true); /* "port unreachable" is what firewalls say */
    else
        end(p, PROBE_REFUSED, true);
}

static void on_echo(struct pinger *pinger, const struct ping_answer *a)
{
    struct echoes *e = container_of(pinger, struct echoes, pinger);
    struct probe *p = e->asked[a->seq % ECHOES_MAX];
    if (!p || p->is_over || p->number != a->seq)
        return;
    if (a->is_error)
        end(p, PROBE_SILENT, is_target(p, a->cause.from));
    else if (is_target(p, a->from))
        end(p, PROBE_OPEN, true);
}

static void on_arp(struct arp *a, struct in_addr ip, const uint8_t mac[6])
{
    struct prober *r = container_of(a, struct prober, arp);
    struct probe *p, *next;
    DL_FOREACH_SAFE (r->asked, p, next) {
        if (p->is_over || p->p.target.in4.sin_addr.s_addr != ip.s_addr)
            continue;
        memcpy(p->result.mac, mac, sizeof(p->result.mac));
        end(p, PROBE_OPEN, true);
    }
}

static void on_tcp_event(struct io *io)
{
    struct probe *p = container_of(io, struct probe, io);
    int err = 0;
    socklen_t len = sizeof(err);
    struct sockaddr_storage peer;
    socklen_t peer_len = sizeof(peer);
    if (!io->writable && !io->hup)
        return;
    if (getsockopt(io->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
        err = errno;
    if (err)
        failed(p, err);
    else if (getpeername(io->fd, (struct sockaddr *)&peer, &peer_len) == 0)
        end(p, PROBE_OPEN, true);
}

/* false: it is something else. */
static bool read_answer(struct probe *p, const uint8_t *data, size_t len)
{
    if (p->p.kind == PROBE_SNMP)
        return snmp_get_read(data, len, p->result.descr, p->result.name, PROBE_TEXT_SIZE) == 0;
    return true;
}

static void on_datagram_event(struct io *io)
{
    struct probe *p = container_of(io, struct probe, io);
    uint8_t data[ANSWER_BYTES];
    if (!io->readable && !io->error)
        return;
    for (;;) {
        ssize_t n = recv(io->fd, data, sizeof(data), 0);
        if (n < 0 && errno == EAGAIN) {
            io->readable = false;
            return;
        }
        if (n < 0) {
            failed(p, errno);
            return;
        }
        if (read_answer(p, data, (size_t)n)) {
            end(p, PROBE_OPEN, true);
            return;
        }
    }
}

/* ---- the beginning ---- */

static int open_socket(const struct probe *p)
{
    int type = p->p.kind == PROBE_TCP ? SOCK_STREAM : SOCK_DGRAM;
    int fd = socket(p->p.target.sa.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno == EMFILE || errno == ENFILE ? ERR_LIMIT : error_from_errno(errno);
    errqueue_watch(fd, p->p.target.sa.sa_family, true);
    if (p->p.kind == PROBE_TCP) /* a service does not hear of who resets it at once */
        setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &(int){0}, sizeof(int));
    return fd;
}

static int begin_echo(struct probe *p)
{
    struct echoes *e = echoes_of(p);
    if (!e->is_tried) {
        e->is_tried = true;
        e->asked = mem_new(ECHOES_MAX * sizeof(struct probe *));
        e->pinger.on_answer = on_echo;
        (void)pinger_start(&e->pinger, p->prober->loop, is_v6(p));
    }
    if (e->pinger.io.fd < 0)
        return ERR_DENIED;
    for (int i = 0; i < ECHOES_MAX; i++) {
        p->number = e->next++;
        if (e->asked[p->number % ECHOES_MAX])
            continue;
        e->asked[p->number % ECHOES_MAX] = p;
        return 0;
    }
    return ERR_LIMIT;
}

static int begin_socket(struct probe *p)
{
    p->io.fd = TRY(open_socket(p));
    if (connect(p->io.fd, &p->p.target.sa, p->p.target.len) < 0 && errno != EINPROGRESS)
        return error_from_errno(errno);
    return io_start(&p->io, p->prober->loop, p->io.fd,
                    p->p.kind == PROBE_TCP ? on_tcp_event : on_datagram_event);
}

static int begin(struct probe *p)
{
    if (p->p.kind == PROBE_ARP)
        DL_APPEND(p->prober->asked, p);
    else
        TRY(p->p.kind == PROBE_ECHO ? begin_echo(p) : begin_socket(p));
    TRY(ask(p));
    if (!p->is_over)
        timer_start(&p->timer, p->p.kind == PROBE_TCP ? p->p.timeout_ms : p->p.timeout_ms / 2);
    return 0;
}

int probe_start(struct prober *r, const struct probe_params *params, struct probe **ret)
{
    struct probe *p = NEW(struct probe);
    p->p = *params;
    p->prober = r;
    p->io.fd = -1;
    p->over.fn = on_over;
    p->started_us = time_mono_us();
    timer_init(&p->timer, r->loop, on_timer);
    if (p->p.kind == PROBE_UDP)
        addr_set_port(&p->p.target, PROBE_UDP_PORT);
    else if (p->p.kind == PROBE_SNMP)
        addr_set_port(&p->p.target, PROBE_SNMP_PORT);
    int rc = begin(p);
    if (rc < 0) {
        done(p);
        return rc;
    }
    *ret = p;
    return 0;
}

struct prober *prober_new(struct loop *l)
{
    struct prober *r = NEW(struct prober);
    r->loop = l;
    r->echoes[0].pinger.io.fd = r->echoes[1].pinger.io.fd = -1;
    r->arp.on_answer = on_arp;
    (void)arp_start(&r->arp, l); /* else the kernel has to ask */
    return r;
}

bool prober_has_arp(const struct prober *r, const struct addr *a)
{
    return arp_reaches(&r->arp, a);
}

void prober_free(struct prober *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(r->echoes); i++) {
        pinger_stop(&r->echoes[i].pinger);
        mem_free(r->echoes[i].asked);
    }
    arp_stop(&r->arp);
    mem_free(r);
}
