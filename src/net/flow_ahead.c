#include "net/flow_ahead.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/io.h"
#include "net/udp.h"
#include "wire/walker.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <uthash.h>
#include <utlist.h>

#define DEVICES_MAX    1024 /* known without a flow */
#define FLOWS_MAX      4096
#define SOCKETS_MAX    1024
#define SOCKET_IDLE_MS 10000
#define GATHER_MS      2 /* nobody waits for what is read ahead of a device that is fast ... */
#define GATHER_BYTES   (8u << 10) /* ... and some dozens of answers together cost what one does */

static_assert(GATHER_BYTES + READ_AHEAD_HEAD_SIZE + READ_AHEAD_ANSWER_MAX <= READ_AHEAD_BATCH_MAX,
              "one more fits");

struct device {
    struct addr peer; /* key: its bytes */
    uint32_t n_flows;
    uint32_t window;            /* to begin with */
    struct flow_ahead *turn;    /* whose turn it is; NULL: nobody's */
    struct flow_ahead *waiting; /* for their turn */
    struct device *prev, *next; /* of those without a flow, oldest first */
    UT_hash_handle hh;
};

struct flow_devices {
    struct loop *loop;
    struct device *table, *unused;
    size_t n_unused, n_sockets, n_flows;
    struct flow_devices_stats stats;
    bool is_over; /* freed with the last flow */
};

struct flow_ahead {
    struct flow_devices *all;
    struct device *device; /* NULL: not connected yet */
    struct flow *flow;
    void (*send)(void *arg, const uint8_t *data, size_t len);
    void *arg;
    struct walker *walker;
    struct io io; /* fd -1: no socket */
    struct timer timer;
    struct buf gathered; /* answers that are to be sent together */
    struct timer gather_timer;
    struct defer again;
    bool is_waiting; /* in the device's list */
    struct flow_ahead *prev, *next;
};

/* ---- devices ---- */

struct flow_devices *flow_devices_new(struct loop *l)
{
    struct flow_devices *d = NEW(struct flow_devices);
    d->loop = l;
    return d;
}

static void forget(struct flow_devices *all, struct device *d)
{
    DL_DELETE(all->unused, d); /* NOLINT(clang-analyzer-core.NullDereference): linked */
    all->n_unused--;
    HASH_DEL(all->table, d); /* NOLINT(clang-analyzer-core.NullDereference) */
    mem_free(d);
}

static void free_if_over(struct flow_devices *d)
{
    if (!d->is_over || d->n_flows)
        return;
    while (d->unused)
        forget(d, d->unused);
    assert(!d->table);
    mem_free(d);
}

void flow_devices_free(struct flow_devices *d)
{
    if (!d)
        return;
    d->is_over = true;
    free_if_over(d);
}

void flow_devices_stats(const struct flow_devices *d, struct flow_devices_stats *ret)
{
    *ret = d->stats;
}

static struct device *enter(struct flow_devices *all, const struct addr *peer)
{
    struct device *d;
    HASH_FIND(hh, all->table, &peer->in6, peer->len, d);
    if (!d) {
        d = NEW(struct device);
        d->peer = *peer;
        d->window = WALKER_START;
        HASH_ADD_KEYPTR(hh, all->table, &d->peer.in6, d->peer.len, d);
    } else if (d->n_flows == 0) {
        DL_DELETE(all->unused, d);
        all->n_unused--;
    }
    d->n_flows++;
    return d;
}

static void leave(struct flow_devices *all, struct device *d)
{
    if (--d->n_flows > 0)
        return;
    DL_APPEND(all->unused, d);
    if (++all->n_unused > DEVICES_MAX)
        forget(all, all->unused);
}

/* At once, so that many flows that lead nowhere cost a device no more than one. */
static void learn(struct flow_ahead *a)
{
    a->device->window = walker_lesson(a->walker, a->device->window);
}

/* ---- turns ---- */

static bool take_turn(struct flow_ahead *a)
{
    struct device *d = a->device;
    if (!d->turn)
        d->turn = a;
    if (d->turn != a && !a->is_waiting) {
        DL_APPEND(d->waiting, a);
        a->is_waiting = true;
    }
    return d->turn == a;
}

static void stop_waiting(struct flow_ahead *a)
{
    if (a->is_waiting)
        DL_DELETE(a->device->waiting, a);
    a->is_waiting = false;
}

static void end_turn(struct flow_ahead *a)
{
    struct device *d = a->device;
    struct flow_ahead *next = d->waiting;
    if (d->turn != a)
        return;
    d->turn = next;
    if (!next)
        return;
    stop_waiting(next);
    loop_defer(next->all->loop, &next->again);
}

/* ---- asking ---- */

static void close_socket(struct flow_ahead *a)
{
    if (a->io.fd < 0)
        return;
    io_close(&a->io);
    a->io.fd = -1;
    a->all->n_sockets--;
}

static void on_event(struct io *io);

static int open_socket(struct flow_ahead *a)
{
    const struct addr *peer = &a->device->peer;
    if (a->io.fd >= 0)
        return 0;
    if (a->all->n_sockets >= SOCKETS_MAX)
        return ERR_LIMIT;
    int fd = socket(peer->sa.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int rc = fd < 0 || connect(fd, &peer->sa, peer->len) < 0 ? error_from_errno(errno) : 0;
    if (rc == 0) {
        udp_watch_errors(fd);
        rc = io_start_reading(&a->io, a->all->loop, fd, on_event);
    }
    if (rc < 0) {
        if (fd >= 0)
            close(fd);
        a->io.fd = -1;
        return rc;
    }
    a->all->n_sockets++;
    return 0;
}

static void send_orphan(struct flow_ahead *a)
{
    size_t len;
    const uint8_t *data = walker_orphan(a->walker, &len);
    if (!data)
        return;
    a->all->stats.kept--;
    a->send(a->arg, data, len);
}

static void plan(struct flow_ahead *a)
{
    uint64_t now = loop_now_ms(a->all->loop), due = walker_due_ms(a->walker);
    if (due != WALKER_NEVER)
        timer_start(&a->timer, due > now ? due - now : 0);
    else if (a->io.fd >= 0)
        timer_start(&a->timer, SOCKET_IDLE_MS);
}

static void fail(struct flow_ahead *a)
{
    walker_fail(a->walker);
    send_orphan(a);
}

/* Asks what is next if it may; gives the turn away if there is nothing to ask. */
static void ask(struct flow_ahead *a)
{
    uint8_t request[WALKER_REQUEST_MAX];
    if (!a->device || walker_is_waiting(a->walker) || flow_is_congested(a->flow) || !take_turn(a))
        return;
    size_t n = walker_next(a->walker, loop_now_ms(a->all->loop), request);
    if (n == 0) {
        end_turn(a);
        return;
    }
    if (open_socket(a) < 0 || send(a->io.fd, request, n, MSG_NOSIGNAL) < 0) {
        fail(a);
        end_turn(a);
    } else {
        a->all->stats.asked++;
    }
    plan(a);
}

static void send_gathered(struct flow_ahead *a)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf value = {0};
    timer_stop(&a->gather_timer);
    if (!a->gathered.len)
        return;
    read_ahead_pack((const uint8_t *)a->gathered.data, a->gathered.len, &value);
    buf_done(&a->gathered);
    flow_send_ahead(a->flow, CAPSULE_AHEAD, (const uint8_t *)value.data, value.len);
}

static void on_gather_timer(struct timer *t)
{
    send_gathered(container_of(t, struct flow_ahead, gather_timer));
}

/* Sends what is gathered if that is enough, or no more will follow soon. */
static void gather(struct flow_ahead *a)
{
    bool is_more_coming = walker_is_waiting(a->walker) || a->is_waiting;
    if (a->gathered.len >= GATHER_BYTES || !is_more_coming)
        send_gathered(a);
    else if (a->gathered.len && !timer_is_running(&a->gather_timer))
        timer_start(&a->gather_timer, GATHER_MS);
}

static void push(struct flow_ahead *a, const uint8_t *data, size_t len)
{
    if (walker_answer(a->walker, data, len, loop_now_ms(a->all->loop), &a->gathered)) {
        a->all->stats.answered++;
        learn(a);
    }
    send_orphan(a);
}

static void receive(struct flow_ahead *a)
{
    struct udp_datagram batch[UDP_BATCH];
    int n = udp_receive(a->io.fd, batch, NULL);
    if (n < 0)
        fail(a);
    if (n >= 0 && n < UDP_BATCH)
        a->io.readable = false;
    for (int i = 0; i < n; i++)
        push(a, batch[i].data, batch[i].len);
    if (a->io.readable)
        loop_defer(a->all->loop, &a->again);
}

/* The one under way has ended, or not; whoever is next asks. */
static void go_on(struct flow_ahead *a)
{
    if (a->device && !walker_is_waiting(a->walker)) {
        end_turn(a);
        ask(a);
    }
    gather(a);
    plan(a);
}

static void on_event(struct io *io)
{
    struct flow_ahead *a = container_of(io, struct flow_ahead, io);
    if (io->error) {
        io->error = false;
        if (udp_take_error(io->fd))
            fail(a);
    }
    if (io->readable)
        receive(a);
    go_on(a);
}

static void on_again(struct defer *d)
{
    struct flow_ahead *a = container_of(d, struct flow_ahead, again);
    if (a->io.fd >= 0 && a->io.readable) {
        receive(a);
        go_on(a);
    } else if (a->device->turn == a && !walker_is_waiting(a->walker)) {
        ask(a);
    }
}

static void on_timer(struct timer *t)
{
    struct flow_ahead *a = container_of(t, struct flow_ahead, timer);
    if (!walker_is_waiting(a->walker)) {
        close_socket(a);
        return;
    }
    walker_timeout(a->walker, loop_now_ms(a->all->loop));
    send_orphan(a);
    go_on(a);
}

/* ---- what the flow tells ---- */

struct flow_ahead *flow_ahead_new(struct flow_devices *d, struct flow *f,
                                  void (*send)(void *arg, const uint8_t *data, size_t len),
                                  void *arg)
{
    if (d->n_flows >= FLOWS_MAX)
        return NULL;
    struct flow_ahead *a = NEW(struct flow_ahead);
    uint32_t seed = 0;
    if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) < 0)
        seed = (uint32_t)loop_now_ms(d->loop); /* only differs from others' by chance */
    d->n_flows++;
    a->all = d;
    a->flow = f;
    a->send = send;
    a->arg = arg;
    a->io.fd = -1;
    a->again.fn = on_again;
    a->walker = walker_new(seed);
    timer_init(&a->timer, d->loop, on_timer);
    timer_init(&a->gather_timer, d->loop, on_gather_timer);
    return a;
}

void flow_ahead_free(struct flow_ahead *a)
{
    if (!a)
        return;
    if (a->device) {
        stop_waiting(a);
        end_turn(a);
        learn(a);
        leave(a->all, a->device);
    }
    close_socket(a);
    timer_stop(&a->timer);
    timer_stop(&a->gather_timer);
    loop_defer_cancel(&a->again);
    buf_done(&a->gathered);
    walker_free(a->walker);
    a->all->n_flows--;
    free_if_over(a->all);
    mem_free(a);
}

void flow_ahead_connected(struct flow_ahead *a, const struct addr *peer)
{
    a->device = enter(a->all, peer);
    walker_set_window(a->walker, a->device->window);
}

void flow_ahead_note(struct flow_ahead *a, const uint8_t *value, size_t len)
{
    struct read_ahead_note n;
    if (read_ahead_note_read(value, len, &n) < 0)
        return;
    walker_note(a->walker, &n, loop_now_ms(a->all->loop));
    if (a->device)
        learn(a);
    if (a->device && a->device->turn == a && !walker_is_waiting(a->walker))
        end_turn(a); /* a new generation: what was under way is void */
    ask(a);
}

bool flow_ahead_request(struct flow_ahead *a, const uint8_t *data, size_t len)
{
    bool is_kept = walker_request(a->walker, data, len, loop_now_ms(a->all->loop));
    a->all->stats.kept += is_kept;
    send_orphan(a);
    if (a->device)
        go_on(a);
    return is_kept;
}

void flow_ahead_response(struct flow_ahead *a, const uint8_t *data, size_t len)
{
    walker_response(a->walker, data, len, loop_now_ms(a->all->loop));
    ask(a);
}
