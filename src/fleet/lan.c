/*
 * Theory of operation. Each link (interface) has a socket for IPv4 and one for IPv6 (lan_port.c).
 * On each, a few beacons go out in quick succession when it comes up, then one every half minute;
 * a question for the service, or a peer that was not heard before, brings the next one forward. So
 * two agents know of each other within one round trip of either's start, lost packets are made good
 * by the burst, and an idle LAN of fifty agents carries fewer than four small packets a second.
 *
 * What arrives is judged (lan_beacon.c), entered in the table (lan_peers.c) and reported, all at
 * once, at most every REPORT_SPACE_MS.
 */
#include "fleet/lan.h"

#include "base/log.h"
#include "base/mem.h"
#include "fleet/lan_port.h"
#include "warren/v1/agent.pb-c.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PORTS_MAX       (2 * LAN_LINKS_MAX)
#define RESCAN_MS       30000 /* and when netlink says so */
#define RESCAN_SOON_MS  200
#define REPORT_SOON_MS  150
#define REPORT_SPACE_MS 1000
#define REPORT_AGAIN_MS 5000
#define REPORT_LEAST_MS 300000 /* for the counters, of which the first are told sooner */
#define REPORT_COUNT_MS 2000
#define OPENED_PER_S    400    /* beacons that are looked at */
#define INSTANCE_TTL_S  120    /* of our records in the caches of others */
#define CLONE_MS        600000 /* how long a clone is reported after it was heard */
#define CLONE_WARN_MS   300000

struct lan {
    struct lan_config cfg;
    struct lan_keys keys;
    int64_t clock_offset;               /* the hub's clock less the loop's */
    int64_t last_time;                  /* of the newest beacon we made */
    int64_t born;                       /* the hub's clock when it was first told */
    uint64_t epoch;                     /* of our session; 0: none */
    bool is_up, is_reporting, is_stale; /* stale: something changed since the last report */
    struct lan_port *ports[PORTS_MAX];
    size_t n_ports;
    struct lan_peers peers;
    uint64_t counts[LAN_VERDICT_COUNT];
    uint64_t budget_ms; /* loop time up to which beacons were paid for */
    char clone[LAN_ADDRESS_SIZE];
    uint64_t clone_ms, clone_warned_ms; /* 0: never */
    uint64_t reported_ms, counted_ms;   /* counted: a report that was due to refused beacons */
    struct timer tick, rescan, report;
    struct io watch;
};

static uint32_t random32(void)
{
    uint32_t r;
    random_bytes(&r, sizeof(r));
    return r;
}

static int64_t hub_now(const struct lan *l)
{
    return (int64_t)loop_now_ms(l->cfg.loop) + l->clock_offset;
}

/* ---- reporting ---- */

static void report_in(struct lan *l, uint64_t delay_ms)
{
    uint64_t now = loop_now_ms(l->cfg.loop), earliest = l->reported_ms + REPORT_SPACE_MS;
    if (l->reported_ms && now + delay_ms < earliest)
        delay_ms = earliest - now;
    l->is_stale = l->is_stale || delay_ms < REPORT_LEAST_MS;
    if (l->is_up && !l->is_reporting &&
        (!timer_is_running(&l->report) || l->report.due_ms > now + delay_ms))
        timer_start(&l->report, delay_ms);
}

static void on_reported(void *arg, const struct rpc_result *r, const ProtobufCMessage *reply)
{
    struct lan *l = arg;
    l->is_reporting = false;
    if (r->status != RPC_OK)
        LOG_DEBUG("the hub did not take a report of the LAN", LOG_STR("why", diag_text(&r->diag)));
    report_in(l, r->status != RPC_OK ? REPORT_AGAIN_MS : l->is_stale ? 0 : REPORT_LEAST_MS);
}

/* One link of a report, with what its members point to. */
struct link_text {
    Warren__V1__LanLink message;
    char gateway[LAN_GATEWAY_SIZE];
    Warren__V1__LanPeer peers[LAN_PEERS_MAX], *list[LAN_PEERS_MAX];
    char addresses[LAN_PEERS_MAX][LAN_ADDRESS_SIZE];
};

static void fill_link(const struct lan *l, struct lan_link *link, struct link_text *t)
{
    warren__v1__lan_link__init(&t->message);
    t->message.interface = link->name;
    t->message.prefix = link->prefix;
    lan_gateway(link->name, t->gateway);
    t->message.gateway = t->gateway;
    t->message.peers = t->list;
    for (size_t i = 0; i < l->peers.n; i++) {
        struct lan_peer *p = &l->peers.list[i];
        size_t n = t->message.n_peers;
        if (p->link != link->index)
            continue;
        lan_address_format(&p->from, t->addresses[n]);
        warren__v1__lan_peer__init(&t->peers[n]);
        t->peers[n].agent = p->agent;
        t->peers[n].address = t->addresses[n];
        t->list[n] = &t->peers[n];
        t->message.n_peers++;
    }
}

static void send_report(struct lan *l, struct rpc_client *rpc)
{
    struct lan_link links[LAN_LINKS_MAX];
    size_t n = lan_links_scan(links, LAN_LINKS_MAX);
    CLEANUP(mem_free) struct link_text *texts = mem_new(n * sizeof(*texts));
    Warren__V1__LanLink *list[LAN_LINKS_MAX];
    Warren__V1__LanCounts counts = WARREN__V1__LAN_COUNTS__INIT;
    Warren__V1__ReportLanRequest req = WARREN__V1__REPORT_LAN_REQUEST__INIT;
    for (size_t i = 0; i < n; i++) {
        fill_link(l, &links[i], &texts[i]);
        list[i] = &texts[i].message;
    }
    counts.heard = l->counts[LAN_HEARD];
    counts.foreign = l->counts[LAN_FOREIGN];
    counts.replayed = l->counts[LAN_REPLAYED];
    counts.elsewhere = l->counts[LAN_ELSEWHERE];
    counts.dropped = l->counts[LAN_DROPPED];
    req.session_epoch = l->epoch;
    req.n_links = n;
    req.links = list;
    req.counts = &counts;
    uint64_t now = loop_now_ms(l->cfg.loop);
    if (l->clone_ms && now - l->clone_ms < CLONE_MS)
        req.clone = l->clone;
    l->is_reporting = true;
    l->peers.has_changed = l->is_stale = false;
    l->reported_ms = now;
    rpc_call_unary(rpc, "/warren.v1.AgentService/ReportLan", &req.base,
                   &warren__v1__report_lan_response__descriptor, 10000, on_reported, l);
}

static void on_report(struct timer *t)
{
    struct lan *l = container_of(t, struct lan, report);
    struct rpc_client *rpc = session_rpc(l->cfg.session);
    if (l->is_up && rpc)
        send_report(l, rpc);
}

/* ---- hearing ---- */

static void heard_clone(struct lan *l, const struct lan_address *src, uint64_t now)
{
    bool is_news = !l->clone_ms || now - l->clone_ms >= CLONE_MS;
    lan_address_format(src, l->clone);
    l->clone_ms = now;
    if (!l->clone_warned_ms || now - l->clone_warned_ms >= CLONE_WARN_MS) {
        l->clone_warned_ms = now;
        LOG_ERROR("another machine on this LAN bears this agent's identity: its data folder was "
                  "copied; on one of the two run: warren-agent enroll --force",
                  LOG_STR("address", l->clone));
    }
    if (is_news)
        report_in(l, REPORT_SOON_MS);
}

/* Another tenant on the LAN is refused for ever; that is no reason to report all the time. */
static void count_refused(struct lan *l)
{
    uint64_t now = loop_now_ms(l->cfg.loop);
    if (l->counted_ms && now - l->counted_ms < REPORT_LEAST_MS)
        return;
    l->counted_ms = now;
    report_in(l, REPORT_COUNT_MS);
}

static void sooner(struct lan *l);

static enum lan_verdict judge(struct lan *l, struct lan_port *p, const struct lan_address *src,
                              const void *blob, size_t len)
{
    struct lan_beacon b;
    bool is_new = false;
    uint64_t now = loop_now_ms(l->cfg.loop);
    l->budget_ms = l->budget_ms + 1000 < now ? now - 1000 : l->budget_ms;
    if (l->budget_ms >= now)
        return LAN_DROPPED;
    l->budget_ms += 1000 / OPENED_PER_S;
    if (lan_beacon_open(&l->keys, blob, len, &b) < 0)
        return LAN_FOREIGN;
    enum lan_verdict v =
        lan_beacon_judge(&b, l->cfg.agent, l->cfg.instance, src, &p->here, hub_now(l));
    if (v == LAN_CLONE && b.time_ms <= l->born)
        return LAN_REPLAYED; /* of the process before this one */
    if (v == LAN_CLONE)
        heard_clone(l, src, now);
    if (v != LAN_HEARD)
        return v;
    v = lan_peers_hear(&l->peers, l->cfg.agent, p->link, &b, now, &is_new);
    if (is_new) /* who comes needs to hear us too */
        lan_pace_hurry(&p->pace, now, random32());
    return v;
}

static void on_packet(struct lan_port *p, const struct lan_address *src, const uint8_t *data,
                      size_t len)
{
    struct lan *l = p->owner;
    struct mdns_message m;
    if (mdns_read(data, len, &m) < 0)
        return;
    for (size_t i = 0; i < m.n_blobs; i++) {
        enum lan_verdict v = judge(l, p, src, m.blobs[i].data, m.blobs[i].len);
        l->counts[v]++;
        if (v != LAN_HEARD && v != LAN_OWN)
            count_refused(l);
    }
    if (m.asks_service || m.asks_types)
        lan_pace_hurry(&p->pace, loop_now_ms(l->cfg.loop), random32());
    if (l->peers.has_changed)
        report_in(l, REPORT_SOON_MS);
    sooner(l);
}

/* ---- speaking ---- */

static void speak(struct lan *l, struct lan_port *p, uint32_t ttl_s)
{
    uint8_t sealed[LAN_BEACON_SIZE], packet[MDNS_PACKET_MAX];
    struct lan_beacon b = {.instance = l->cfg.instance, .epoch = l->epoch, .from = p->here};
    l->last_time = MAX(hub_now(l), l->last_time + 1);
    b.time_ms = l->last_time;
    snprintf(b.agent, sizeof(b.agent), "%s", l->cfg.agent);
    if (lan_beacon_seal(&l->keys, &b, sealed) < 0)
        return;
    struct mdns_instance i = {.family = p->here.family,
                              .ttl_s = ttl_s,
                              .with_types = true,
                              .blob = sealed,
                              .blob_len = sizeof(sealed)};
    memcpy(i.label, p->label, sizeof(i.label));
    memcpy(i.address, p->here.ip, sizeof(i.address));
    lan_port_send(p, packet, mdns_write_instance(&i, packet));
}

static void ask(struct lan_port *p)
{
    uint8_t packet[MDNS_PACKET_MAX];
    lan_port_send(p, packet, mdns_write_query(packet));
}

/* The tick is for the port that is due first. */
static void sooner(struct lan *l)
{
    uint64_t now = loop_now_ms(l->cfg.loop), due = now + RESCAN_MS;
    for (size_t i = 0; i < l->n_ports; i++)
        due = MIN(due, l->ports[i]->pace.due_ms);
    if (!l->n_ports)
        timer_stop(&l->tick);
    else if (!timer_is_running(&l->tick) || l->tick.due_ms != due)
        timer_start(&l->tick, due > now ? due - now : 0);
}

static void on_tick(struct timer *t)
{
    struct lan *l = container_of(t, struct lan, tick);
    uint64_t now = loop_now_ms(l->cfg.loop);
    for (size_t i = 0; i < l->n_ports; i++) {
        struct lan_port *p = l->ports[i];
        if (p->pace.due_ms > now)
            continue;
        if (p->pace.burst)
            ask(p);
        speak(l, p, INSTANCE_TTL_S);
        lan_pace_sent(&p->pace, now, random32());
    }
    lan_peers_expire(&l->peers, now);
    if (l->peers.has_changed)
        report_in(l, REPORT_SOON_MS);
    sooner(l);
}

/* ---- the machine's links, which come and go ---- */

static bool speaks_still(const struct lan_port *p, const struct lan_link *links, size_t n)
{
    const struct lan_address *a;
    for (size_t i = 0; i < n; i++) {
        a = &links[i].speaks[p->here.family == AF_INET ? 0 : 1];
        if (links[i].index == p->link && a->family == p->here.family &&
            a->prefix == p->here.prefix && memcmp(a->ip, p->here.ip, sizeof(a->ip)) == 0)
            return true;
    }
    return false;
}

static bool has_port(const struct lan *l, unsigned int link, int family)
{
    for (size_t i = 0; i < l->n_ports; i++) {
        if (l->ports[i]->link == link && l->ports[i]->here.family == family)
            return true;
    }
    return false;
}

static void open_port(struct lan *l, const struct lan_link *link, const struct lan_address *here)
{
    if (!here->family || l->n_ports == PORTS_MAX || has_port(l, link->index, here->family))
        return;
    struct lan_port *p = lan_port_open(l->cfg.loop, link->index, here, on_packet, l);
    if (!p)
        return;
    lan_pace_start(&p->pace, loop_now_ms(l->cfg.loop), random32());
    l->ports[l->n_ports++] = p;
    report_in(l, REPORT_SOON_MS);
}

/* Peers of a link whose last port has gone, have gone too. */
static void close_port(struct lan *l, size_t i)
{
    unsigned int link = l->ports[i]->link;
    lan_port_close(l->ports[i]);
    l->ports[i] = l->ports[--l->n_ports];
    if (!has_port(l, link, AF_INET) && !has_port(l, link, AF_INET6))
        lan_peers_drop_link(&l->peers, link);
    report_in(l, REPORT_SOON_MS);
}

static void rescan(struct lan *l)
{
    struct lan_link links[LAN_LINKS_MAX];
    size_t n = lan_links_scan(links, LAN_LINKS_MAX);
    for (size_t i = l->n_ports; i-- > 0;) {
        if (!speaks_still(l->ports[i], links, n))
            close_port(l, i);
    }
    for (size_t i = 0; i < n; i++) {
        open_port(l, &links[i], &links[i].speaks[0]);
        open_port(l, &links[i], &links[i].speaks[1]);
    }
    sooner(l);
}

static void on_rescan(struct timer *t)
{
    struct lan *l = container_of(t, struct lan, rescan);
    rescan(l);
    timer_start(t, RESCAN_MS);
}

/* What it says is not read: the machine itself is asked, once the news have settled. */
static void on_watch(struct io *io)
{
    struct lan *l = container_of(io, struct lan, watch);
    char news[1024];
    while (read(io->fd, news, sizeof(news)) > 0)
        ;
    io->readable = false;
    if (l->keys.n && (!timer_is_running(&l->rescan) ||
                      l->rescan.due_ms > loop_now_ms(l->cfg.loop) + RESCAN_SOON_MS))
        timer_start(&l->rescan, RESCAN_SOON_MS);
}

/* ---- what the hub says ---- */

static void take_keys(struct lan *l, const Warren__V1__LanKeys *m)
{
    struct lan_keys keys = {0};
    for (size_t i = 0; m && i < m->n_keys && keys.n < LAN_KEYS_MAX; i++) {
        if (m->keys[i].len == LAN_KEY_SIZE)
            memcpy(keys.key[keys.n++], m->keys[i].data, LAN_KEY_SIZE);
    }
    l->keys = keys;
    if (keys.n) {
        timer_start(&l->rescan, 0);
        return;
    }
    timer_stop(&l->rescan);
    while (l->n_ports)
        close_port(l, l->n_ports - 1);
    sooner(l);
}

void lan_on_up(struct lan *l, const Warren__V1__Welcome *w)
{
    l->is_up = true;
    l->is_reporting = false;
    l->epoch = w->epoch;
    if (!l->born)
        l->born = w->now_ms;
    if (w->now_ms)
        l->clock_offset = w->now_ms - (int64_t)loop_now_ms(l->cfg.loop);
    take_keys(l, w->lan_keys);
    report_in(l, REPORT_SOON_MS);
}

void lan_on_event(struct lan *l, const Warren__V1__HubEvent *e)
{
    if (e->event_case == WARREN__V1__HUB_EVENT__EVENT_LAN_KEYS)
        take_keys(l, e->lan_keys);
    else if (e->event_case == WARREN__V1__HUB_EVENT__EVENT_NETWORK_CHANGED)
        LOG_INFO("this agent's network is another now: the hub merged the two",
                 LOG_STR("network", e->network_changed->network),
                 LOG_STR("name", e->network_changed->name));
}

void lan_on_down(struct lan *l)
{
    l->is_up = l->is_reporting = false;
    l->epoch = 0;
    timer_stop(&l->report);
}

struct lan *lan_new(const struct lan_config *cfg)
{
    struct lan *l = NEW(struct lan);
    l->cfg = *cfg;
    timer_init(&l->tick, cfg->loop, on_tick);
    timer_init(&l->rescan, cfg->loop, on_rescan);
    timer_init(&l->report, cfg->loop, on_report);
    l->watch.fd = lan_watch_open();
    if (l->watch.fd >= 0 && io_start(&l->watch, cfg->loop, l->watch.fd, on_watch) < 0)
        io_close(&l->watch);
    return l;
}

void lan_free(struct lan *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < l->n_ports; i++) {
        speak(l, l->ports[i], 0);
        lan_port_close(l->ports[i]);
    }
    timer_stop(&l->tick);
    timer_stop(&l->rescan);
    timer_stop(&l->report);
    io_close(&l->watch);
    lan_peers_done(&l->peers);
    explicit_bzero(&l->keys, sizeof(l->keys));
    mem_free(l);
}
