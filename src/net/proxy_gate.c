#include "net/proxy_gate.h"

#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/io.h"
#include "wire/proxy_header.h"

#include <errno.h>
#include <unistd.h>
#include <utlist.h>

#define SWEEP_MS 500

struct arrival {
    struct proxy_gate *gate;
    struct io io;
    struct addr peer;
    uint64_t since_ms;
    bool has_spoken;
    struct arrival *prev, *next; /* the oldest first */
};

struct proxy_gate {
    struct loop *loop;
    struct proxy_trust *trust;
    void (*on_pass)(void *arg, int fd, const struct addr *client);
    void *arg;
    struct arrival *waiting;
    size_t n_waiting;
    struct timer sweep;
};

bool proxy_trust_has(const struct proxy_trust *t, const struct addr *peer)
{
    for (size_t i = 0; t && i < t->n; i++)
        if (addr_rule_match(&t->rules[i], peer))
            return true;
    return false;
}

/* Yields the descriptor. */
static int forget(struct arrival *a)
{
    int fd = a->io.fd;
    DL_DELETE(a->gate->waiting, a);
    a->gate->n_waiting--;
    io_stop(&a->io);
    mem_free(a);
    return fd;
}

/* One that closes without a word is a health check, and nothing to talk about. */
static void refuse(struct arrival *a, bool is_news, const char *why)
{
    char peer[ADDR_TEXT_SIZE];
    addr_format(&a->peer, peer, sizeof(peer));
    if (is_news) {
        atomic_fetch_add_explicit(&a->gate->trust->refused, 1, memory_order_relaxed);
        LOG_WARN("refused a connection of a trusted proxy", LOG_STR("peer", peer),
                 LOG_STR("why", why));
    }
    close(forget(a));
}

static void pass(struct arrival *a, const struct proxy_header *h, size_t size)
{
    uint8_t header[PROXY_HEADER_MAX];
    struct proxy_gate *g = a->gate;
    struct addr client = h->has_addresses ? h->source : a->peer;
    if (h->has_addresses && h->is_datagram) {
        refuse(a, true, "a PROXY header for datagrams");
        return;
    }
    ssize_t n = recv(a->io.fd, header, size, 0);
    if (n != (ssize_t)size) {
        refuse(a, true, "the connection broke");
        return;
    }
    atomic_fetch_add_explicit(&g->trust->accepted, 1, memory_order_relaxed);
    g->on_pass(g->arg, forget(a), &client);
}

static void on_event(struct io *io)
{
    struct arrival *a = container_of(io, struct arrival, io);
    uint8_t data[PROXY_HEADER_MAX];
    struct proxy_header h;
    struct diag d = {0};
    if (!io->readable && !io->hup)
        return;
    ssize_t n = recv(io->fd, data, sizeof(data), MSG_PEEK);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        io->readable = false;
        return;
    }
    if (n <= 0) {
        refuse(a, a->has_spoken, "it ended within its PROXY header");
        return;
    }
    a->has_spoken = true;
    int size = proxy_header_parse(data, (size_t)n, &h, &d);
    if (size > 0)
        pass(a, &h, (size_t)size);
    else if (size < 0)
        refuse(a, true, diag_text(&d));
    else if (io->hup)
        refuse(a, true, "it ended within its PROXY header");
    else
        io->readable = false; /* an edge comes with the next bytes */
}

static void on_sweep(struct timer *t)
{
    struct proxy_gate *g = container_of(t, struct proxy_gate, sweep);
    uint64_t now = loop_now_ms(g->loop);
    while (g->waiting && now - g->waiting->since_ms >= PROXY_GATE_MS)
        refuse(g->waiting, true, "no PROXY header came in time");
    if (g->waiting)
        timer_start(t, SWEEP_MS);
}

struct proxy_gate *proxy_gate_new(struct loop *l, struct proxy_trust *trust,
                                  void (*on_pass)(void *arg, int fd, const struct addr *client),
                                  void *arg)
{
    struct proxy_gate *g = NEW(struct proxy_gate);
    *g = (struct proxy_gate){.loop = l, .trust = trust, .on_pass = on_pass, .arg = arg};
    timer_init(&g->sweep, l, on_sweep);
    return g;
}

void proxy_gate_take(struct proxy_gate *g, int fd, const struct addr *peer)
{
    if (g->n_waiting >= PROXY_GATE_WAITING)
        refuse(g->waiting, true, "too many wait for their PROXY header");
    struct arrival *a = NEW(struct arrival);
    a->gate = g;
    a->peer = *peer;
    a->since_ms = loop_now_ms(g->loop);
    if (io_start(&a->io, g->loop, fd, on_event) < 0) {
        close(fd);
        mem_free(a);
        return;
    }
    DL_APPEND(g->waiting, a);
    g->n_waiting++;
    if (!timer_is_running(&g->sweep))
        timer_start(&g->sweep, SWEEP_MS);
}

void proxy_gate_free(struct proxy_gate *g)
{
    if (!g)
        return;
    while (g->waiting)
        close(forget(g->waiting));
    timer_stop(&g->sweep);
    mem_free(g);
}
