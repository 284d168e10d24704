#include "cli/mount_attach.h"

#include "base/error.h"
#include "base/macro.h"
#include "tunnel/tunnel_ranges.h"

#define AGAIN_MS     250
#define AGAIN_MAX_MS 3000
#define TARGET       TUNNEL_LEASE ":9"

static void open_flow(struct attach *a);

static void set_state(struct attach *a, bool is_up, int err)
{
    bool is_news = a->is_up != is_up || a->err != err;
    a->is_up = is_up;
    a->err = err;
    if (is_news && !a->is_stopping)
        a->cfg.on_change(a->cfg.arg);
}

static void again_in(struct attach *a, uint32_t ms)
{
    if (!a->is_stopping)
        timer_start(&a->again, ms);
}

static void failed(struct attach *a, int err)
{
    uint32_t ms = AGAIN_MS << MIN(a->failures, 4u);
    a->failures++;
    set_state(a, false, err);
    again_in(a, MIN(ms, (uint32_t)AGAIN_MAX_MS));
}

/* ---- the flow ---- */

static void on_flow_open(void *arg, struct flow *f)
{
    struct attach *a = arg;
    a->failures = 0;
    set_state(a, true, 0);
}

static void on_datagram(void *arg, struct flow *f, const uint8_t *data, size_t len, bool is_kept)
{
}

static void on_flow_end(void *arg, struct flow *f, const struct flow_result *res)
{
    struct attach *a = arg;
    a->flow = NULL;
    failed(a, res->err ? res->err : ERR_UNAVAILABLE);
}

static const struct flow_ops ops = {
    .on_open = on_flow_open, .on_datagram = on_datagram, .on_end = on_flow_end};

static void on_conn(struct uplink_waiter *w, struct h2conn *hc, int err)
{
    struct attach *a = container_of(w, struct attach, waiter);
    struct host_port target;
    int rc = err ? err : host_port_parse(TARGET, false, &target, NULL);
    const struct flow_open_params p = {.target = &target,
                                       .authority = uplink_hub(a->cfg.uplink),
                                       .headers = a->cfg.headers,
                                       .n_headers = a->cfg.n_headers,
                                       .set = &a->flows,
                                       .ops = &ops,
                                       .arg = a};
    if (rc == 0)
        rc = flow_open(hc, &p, &a->flow);
    if (rc < 0)
        failed(a, rc);
}

static void open_flow(struct attach *a)
{
    uplink_wait(a->cfg.uplink, &a->waiter);
}

static void on_again(struct timer *t)
{
    open_flow(container_of(t, struct attach, again));
}

/* ---- its life ---- */

void attach_start(struct attach *a, const struct attach_config *cfg)
{
    a->cfg = *cfg;
    a->waiter.fn = on_conn;
    timer_init(&a->again, cfg->loop, on_again);
    open_flow(a);
}

void attach_stop(struct attach *a)
{
    a->is_stopping = true;
    timer_stop(&a->again);
    uplink_wait_cancel(&a->waiter);
    flow_set_abort(&a->flows, ERR_CANCELED);
}

bool attach_is_up(const struct attach *a)
{
    return a->is_up;
}

int attach_error(const struct attach *a)
{
    return a->err;
}
