#include "net/listener.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/io.h"
#include "net/proxy_gate.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <unistd.h>

#define ACCEPT_BATCH     64
#define BACKLOG          4096
#define NO_DESCRIPTOR_MS 100
#define KEEPALIVE_S      60 /* idle clients that vanished are found by the kernel */

struct listener {
    struct io io;
    struct loop *loop;
    struct defer again;
    struct timer timer;
    void (*on_accept)(void *arg, int fd, const struct addr *peer);
    void *arg;
    struct proxy_trust *trust; /* NULL: no proxies before us */
    struct proxy_gate *gate;   /* if there is trust */
    bool is_paused;
    bool *gone; /* set while accepting */
};

int listener_bind_failed(int fd, const struct addr *a, struct diag *d)
{
    char text[ADDR_TEXT_SIZE];
    int saved = errno, code;
    close(fd);
    addr_format(a, text, sizeof(text));
    switch (saved) {
    case EADDRINUSE:
        code = ERR_EXISTS;
        break;
    case EADDRNOTAVAIL:
        code = ERR_UNREACHABLE;
        break;
    case EACCES:
    case EPERM:
        code = ERR_DENIED;
        break;
    default:
        code = error_from_errno(saved);
    }
    return diag_set(d, code, "cannot listen on %s: %s", text,
                    code == ERR_EXISTS        ? "the address is in use"
                    : code == ERR_UNREACHABLE ? "this machine does not have the address"
                    : code == ERR_DENIED      ? "not permitted"
                                              : error_text(code));
}

int listener_bind(const struct addr *a, bool reuse_port, int *ret_fd, struct addr *ret_bound,
                  struct diag *d)
{
    int one = 1, idle = KEEPALIVE_S;
    int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return diag_set(d, error_from_errno(errno), "cannot make a socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (reuse_port)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
    /* Accepted sockets inherit these, which saves a call for each. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    if (bind(fd, &a->sa, a->len) < 0 || listen(fd, BACKLOG) < 0)
        return listener_bind_failed(fd, a, d);
    if (ret_bound) {
        ret_bound->len = sizeof(ret_bound->in6);
        getsockname(fd, &ret_bound->sa, &ret_bound->len);
    }
    *ret_fd = fd;
    return 0;
}

static bool is_about_one_connection(int errnum)
{
    return errnum == ECONNABORTED || errnum == EINTR || errnum == EPROTO || errnum == EPERM;
}

static void accept_some(struct listener *li)
{
    bool gone = false;
    li->gone = &gone;
    for (int i = 0; i < ACCEPT_BATCH && li->io.readable && !li->is_paused; i++) {
        struct addr peer = {.len = sizeof(peer.in6)};
        int fd = accept4(li->io.fd, &peer.sa, &peer.len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && is_about_one_connection(errno))
            continue;
        if (fd < 0) {
            li->io.readable = false;
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                timer_start(&li->timer, NO_DESCRIPTOR_MS);
            break;
        }
        if (li->gate && proxy_trust_has(li->trust, &peer))
            proxy_gate_take(li->gate, fd, &peer);
        else
            li->on_accept(li->arg, fd, &peer);
        if (gone)
            return;
    }
    li->gone = NULL;
    if (li->io.readable && !li->is_paused)
        loop_defer(li->loop, &li->again);
}

static void on_event(struct io *io)
{
    accept_some(container_of(io, struct listener, io));
}

static void on_again(struct defer *d)
{
    accept_some(container_of(d, struct listener, again));
}

static void on_timer(struct timer *t)
{
    struct listener *li = container_of(t, struct listener, timer);
    li->io.readable = true;
    accept_some(li);
}

int listener_start(struct loop *l, int fd,
                   void (*on_accept)(void *arg, int fd, const struct addr *peer), void *arg,
                   struct listener **ret)
{
    struct listener *li = NEW(struct listener);
    li->loop = l;
    li->on_accept = on_accept;
    li->arg = arg;
    li->again.fn = on_again;
    timer_init(&li->timer, l, on_timer);
    int rc = io_start(&li->io, l, fd, on_event);
    if (rc < 0) {
        mem_free(li);
        return rc;
    }
    *ret = li;
    return 0;
}

void listener_trust(struct listener *li, struct proxy_trust *trust)
{
    if (!trust || !trust->n)
        return;
    li->trust = trust;
    li->gate = proxy_gate_new(li->loop, trust, li->on_accept, li->arg);
}

void listener_pause(struct listener *li)
{
    li->is_paused = true;
}

void listener_resume(struct listener *li)
{
    li->is_paused = false;
    li->io.readable = true; /* another watcher of the socket may have taken the event */
    loop_defer(li->loop, &li->again);
}

void listener_stop(struct listener *li)
{
    if (!li)
        return;
    if (li->gone)
        *li->gone = true;
    loop_defer_cancel(&li->again);
    timer_stop(&li->timer);
    io_stop(&li->io);
    proxy_gate_free(li->gate);
    mem_free(li);
}
