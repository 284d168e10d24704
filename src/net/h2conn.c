#include "net/h2conn.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <linux/tcp.h> /* netinet/tcp.h lacks tcpi_min_rtt */
#include <time.h>
#include <utlist.h>

#define PING_MS                   5000
#define DEAD_MS                   10000
#define CHECK_MS                  UINT64_C(1000)
#define BULK_BATCH                (H2_DATA_LARGE + 9u) /* one frame */
#define MIXED_BATCH               (24u << 10)
#define MIXED_UNSENT              (32u << 10)
#define LONG_UNSENT               (256u << 10)
#define LONG_PATH_US              5000
#define BUSY_BYTES                (1u << 20) /* in a tick: worth another measurement of the path */
#define IDLE_BYTES                4096 /* in a tick: pings, and what is said at the beginning */
#define CONNECT_PROTOCOL_SETTING  8
#define DEFAULT(value, otherwise) ((value) ? (value) : (otherwise))

struct h2conn {
    struct conn *conn;
    struct h2 *h2;
    struct loop *loop;
    const struct h2conn_ops *ops;
    void *arg;
    struct h2conn_batch *batch;
    struct h2conn_batch push;
    struct timer keepalive, grace;
    uint32_t ping_ms, dead_ms;
    uint64_t bytes_before; /* received, at the last tick */
    uint64_t all_bytes_before;
    uint64_t pinged_after_ms; /* the last input when a ping asked for more; once for each silence */
    uint64_t pinged_ms;       /* when that was */
    bool is_ending, is_mixed, is_long;
    int err; /* why we end it; 0: not, or orderly */
};

static uint64_t now_us(void *arg)
{
    struct timespec ts;
    (void)arg;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void on_wants_output(void *arg)
{
    struct h2conn *hc = arg;
    conn_wake(hc->conn);
}

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct h2conn *hc = arg;
    if (hc->ops->on_request)
        hc->ops->on_request(hc->arg, s, h);
    else
        h2_reset(s, H2_REFUSED_STREAM);
}

static void on_settings(void *arg)
{
    struct h2conn *hc = arg;
    h2_ping(hc->h2); /* measures the path */
    if (hc->ops->on_settings)
        hc->ops->on_settings(hc->arg);
}

static void on_goaway(void *arg, uint32_t error)
{
    struct h2conn *hc = arg;
    if (hc->ops->on_goaway)
        hc->ops->on_goaway(hc->arg, error);
}

static void on_input_end(void *arg)
{
    struct h2conn *hc = arg;
    while (hc->batch) {
        struct h2conn_batch *b = hc->batch;
        h2conn_batch_cancel(b);
        b->fn(b);
    }
}

static void push(struct h2conn_batch *b)
{
    conn_push(container_of(b, struct h2conn, push)->conn);
}

static const struct h2_ops session_ops = {.on_wants_output = on_wants_output,
                                          .on_request = on_request,
                                          .on_settings = on_settings,
                                          .on_goaway = on_goaway,
                                          .on_input_end = on_input_end,
                                          .now_us = now_us};

static void end(struct h2conn *hc, int err)
{
    if (hc->is_ending)
        return;
    hc->is_ending = true;
    hc->err = err;
    if (err == ERR_PROTO || err == ERR_LIMIT || err == 0)
        conn_close(hc->conn); /* a GOAWAY may still be on its way */
    else
        conn_abort(hc->conn, err);
}

static size_t on_data(void *arg, const uint8_t *data, size_t len)
{
    struct h2conn *hc = arg;
    int rc = h2_input(hc->h2, data, len);
    if (rc < 0)
        end(hc, rc);
    else if (h2_is_done(hc->h2))
        end(hc, 0);
    conn_expect(hc->conn, h2_frame_left(hc->h2));
    return len;
}

/* Large batches are cheaper a byte; beside small messages short ones keep the turns short, and a
 * short queue in the kernel lets a message overtake what bulk streams still have to send. On a long
 * path it is long enough to last until a busy machine lets us go on. */
static void adapt(struct h2conn *hc)
{
    bool is_mixed = h2_traffic(hc->h2) == H2_TRAFFIC_MIXED;
    bool is_long = h2_round_trip_us(hc->h2) > LONG_PATH_US;
    if (is_mixed == hc->is_mixed && is_long == hc->is_long)
        return;
    hc->is_mixed = is_mixed;
    hc->is_long = is_long;
    conn_set_batch(hc->conn, !is_mixed ? BULK_BATCH : is_long ? CONN_BATCH : MIXED_BATCH);
    conn_set_unsent_max(hc->conn, !is_mixed ? 0 : is_long ? LONG_UNSENT : MIXED_UNSENT);
}

static size_t on_fill(void *arg, uint8_t *out, size_t cap)
{
    struct h2conn *hc = arg;
    size_t n = h2_output(hc->h2, out, cap);
    adapt(hc);
    if (h2_is_done(hc->h2))
        end(hc, 0);
    return n;
}

static void on_conn_end(void *arg)
{
    struct h2conn *hc = arg;
    end(hc, h2_stream_count(hc->h2) ? ERR_CLOSED : 0);
}

static void on_conn_close(void *arg, int err)
{
    struct h2conn *hc = arg;
    const struct h2conn_ops *ops = hc->ops;
    void *user = hc->arg;
    timer_stop(&hc->keepalive);
    timer_stop(&hc->grace);
    err = hc->is_ending && hc->err ? hc->err : err;
    hc->is_ending = true;
    h2conn_batch_cancel(&hc->push);
    h2_free(hc->h2);
    if (ops->on_close)
        ops->on_close(user, err);
    mem_free(hc);
}

static const struct conn_ops conn_ops = {
    .on_data = on_data, .on_end = on_conn_end, .on_fill = on_fill, .on_close = on_conn_close};

static void read_rtt(struct h2conn *hc)
{
    struct tcp_info info;
    socklen_t len = sizeof(info);
    if (getsockopt(conn_fd(hc->conn), IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
        len >= offsetof(struct tcp_info, tcpi_min_rtt) + sizeof(info.tcpi_min_rtt) &&
        info.tcpi_min_rtt)
        h2_set_rtt(hc->h2, MIN(info.tcpi_min_rtt, 1000000u));
}

/* A connection on which nothing but pings moves costs no system call for this. */
static void measure_path(struct h2conn *hc)
{
    uint64_t in = conn_bytes_in(hc->conn), all = in + conn_bytes_out(hc->conn);
    if (all - hc->all_bytes_before > IDLE_BYTES)
        read_rtt(hc);
    if (in - hc->bytes_before > BUSY_BYTES)
        h2_ping(hc->h2);
    hc->bytes_before = in;
    hc->all_bytes_before = all;
}

/* A loop that was held up is late with its pings, and finds its timers due before it has read what
 * came meanwhile: neither is the peer's silence. */
static void on_keepalive(struct timer *t)
{
    struct h2conn *hc = container_of(t, struct h2conn, keepalive);
    uint64_t last_input_ms = conn_last_input_ms(hc->conn);
    uint64_t now_ms = loop_now_ms(hc->loop), silent = now_ms - last_input_ms;
    h2_tick(hc->h2);
    if (silent < hc->ping_ms) {
        measure_path(hc);
        timer_start(t, hc->ping_ms - silent);
        return;
    }
    if (hc->pinged_after_ms != last_input_ms) {
        hc->pinged_after_ms = last_input_ms;
        hc->pinged_ms = now_ms;
        h2_ping(hc->h2);
    } else if (now_ms - hc->pinged_ms >= hc->dead_ms && !conn_has_unread(hc->conn)) {
        end(hc, ERR_TIMEOUT);
        return;
    }
    uint64_t asked = now_ms - hc->pinged_ms;
    timer_start(t, asked < hc->dead_ms ? MIN(CHECK_MS, hc->dead_ms - asked) : CHECK_MS);
}

static void on_grace(struct timer *t)
{
    end(container_of(t, struct h2conn, grace), 0);
}

static struct h2conn *make(struct conn *c, struct loop *l, const struct h2conn_config *cfg,
                           const struct h2conn_ops *ops, void *arg)
{
    struct h2conn *hc = NEW(struct h2conn);
    hc->conn = c;
    hc->loop = l;
    hc->ops = ops;
    hc->arg = arg;
    hc->push.fn = push;
    hc->ping_ms = DEFAULT(cfg->ping_ms, PING_MS);
    hc->dead_ms = DEFAULT(cfg->dead_ms, DEAD_MS);
    timer_init(&hc->keepalive, l, on_keepalive);
    timer_init(&hc->grace, l, on_grace);
    if (h2_new(&cfg->h2, &session_ops, hc, &hc->h2) < 0) {
        mem_free(hc);
        return NULL;
    }
    read_rtt(hc);
    conn_set_batch(c, BULK_BATCH);
    conn_set_prompt(c);
    timer_start(&hc->keepalive, hc->ping_ms);
    return hc;
}

struct h2conn *h2conn_new(struct conn *c, const struct h2conn_config *cfg,
                          const struct h2conn_ops *ops, void *arg)
{
    struct h2conn *hc = make(c, conn_loop(c), cfg, ops, arg);
    conn_start(c, &conn_ops, hc);
    return hc;
}

struct h2conn *h2conn_attach(struct conn *c, struct loop *l, const struct h2conn_config *cfg,
                             const struct h2conn_ops *ops, void *arg)
{
    struct h2conn *hc = make(c, l, cfg, ops, arg);
    conn_attach(c, l, &conn_ops, hc);
    return hc;
}

struct h2 *h2conn_session(const struct h2conn *hc)
{
    return hc->h2;
}

struct conn *h2conn_conn(const struct h2conn *hc)
{
    return hc->conn;
}

struct loop *h2conn_loop(const struct h2conn *hc)
{
    return hc->loop;
}

void *h2conn_arg(const struct h2conn *hc)
{
    return hc->arg;
}

struct h2conn *h2conn_of(const struct h2_stream *s)
{
    return h2_arg(h2_stream_session(s));
}

void h2conn_at_batch_end(struct h2conn *hc, struct h2conn_batch *b)
{
    if (b->hc)
        return;
    DL_APPEND(hc->batch, b);
    b->hc = hc;
}

void h2conn_push_at_batch_end(struct h2conn *hc, struct h2conn *other)
{
    h2conn_at_batch_end(hc, &other->push);
}

void h2conn_batch_cancel(struct h2conn_batch *b)
{
    if (!b->hc)
        return;
    DL_DELETE(b->hc->batch, b);
    b->hc = NULL;
}

bool h2conn_takes_protocols(const struct h2conn *hc)
{
    uint32_t value;
    return h2_peer_setting(hc->h2, CONNECT_PROTOCOL_SETTING, &value) && value == 1;
}

bool h2conn_is_ending(const struct h2conn *hc)
{
    return hc->is_ending;
}

void h2conn_shutdown(struct h2conn *hc, uint32_t grace_ms)
{
    h2_goaway(hc->h2, H2_NO_ERROR);
    timer_start(&hc->grace, grace_ms);
    conn_wake(hc->conn);
}

void h2conn_abort(struct h2conn *hc, int err)
{
    hc->is_ending = true;
    hc->err = err;
    conn_abort(hc->conn, err);
}
