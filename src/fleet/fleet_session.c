/*
 * Logins. The epoch of an agent's session is raised in the database with each Connect; when that
 * has committed, whatever the agent had open under a lower epoch is ended, and only then is the new
 * session up. So there is at most one live session of an agent, and it is the newest.
 *
 *   Connect -> database: epoch + 1 -> old session: ABORTED, its links cut -> Welcome -> observers
 */
#include "fleet/lan_hub.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "loop/io.h"
#include "net/conn.h"
#include "rpc/server.h"
#include "warren/v1/agent.pb-c.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define LINKS_MAX         32u
#define LINKS_QUIET_MS    60000
#define LOGINS_PER_SECOND 1000u
#define LOGINS_BURST      60u   /* of one agent; each is a transaction, */
#define LOGIN_MS          1000u /* and after these one in so long */
#define BACKLOG           (8u << 20) /* bytes an agent is behind: a snapshot of the largest network fits */

struct fleet_agent *fleet_caller(struct fleet *f, struct rpc_call *call, uint64_t session_epoch)
{
    const struct spiffe *id = fleet_peer_of(call);
    struct fleet_agent *a = id ? fleet_agent_find(f, id->agent) : NULL;
    if (!a || strcmp(a->tenant, id->tenant) != 0) {
        rpc_finish(call, RPC_UNAUTHENTICATED, "this certificate names no agent of this hub");
        return NULL;
    }
    if (!a->call || a->epoch != session_epoch) {
        rpc_finish(call, RPC_ABORTED, "this is not the agent's newest session");
        return NULL;
    }
    return a;
}

/* ---- going down ---- */

struct departure {
    struct store *store;
    char agent[ID_SIZE], tenant[ID_SIZE];
    uint64_t epoch;
    int64_t at;
};

static int write_departure(struct tx *tx, void *arg)
{
    const struct departure *d = arg;
    TRY(tx_exec(tx, "UPDATE agent_session SET disconnected = $1 WHERE agent = $2 AND epoch = $3",
                STORE_INT(d->at), STORE_TEXT(d->agent), STORE_INT(d->epoch)));
    return store_publish(tx, d->tenant, "agent", d->agent, STORE_STATE);
}

static void departure_written(void *arg, int err)
{
    if (err < 0)
        LOG_WARN("cannot record that an agent left", LOG_ERR(err));
    mem_free(arg);
}

bool fleet_agent_is_reachable(const struct fleet_agent *a)
{
    return a->pool && a->pool->is_up;
}

void fleet_cut_links(struct fleet_agent *a)
{
    if (a->pool)
        fleet_pool_cut(a->pool);
}

static void save_departure(struct fleet *f, const char *agent, const char *tenant, uint64_t epoch,
                           int64_t at)
{
    struct departure *d = NEW(struct departure);
    snprintf(d->agent, sizeof(d->agent), "%s", agent);
    snprintf(d->tenant, sizeof(d->tenant), "%s", tenant);
    d->epoch = epoch;
    d->at = at;
    store_run_patient(f->cfg.store, write_departure, departure_written, d);
}

/* The session that the view shows is over. */
static void record_departure(struct fleet *f, const struct fleet_agent *a)
{
    save_departure(f, a->id, a->tenant, a->epoch, a->disconnected);
}

void fleet_session_end_again(struct fleet *f, struct fleet_row *row)
{
    row->disconnected = time_wall_ms();
    save_departure(f, row->id, row->tenant, (uint64_t)row->epoch, row->disconnected);
}

struct rpc_call *fleet_session_take(struct fleet_agent *a)
{
    a->fleet->online--;
    a->network->online--;
    return TAKE(a->call);
}

/* Ends what belongs to the live session, if there is one; `call` gets `status`. */
static void session_down(struct fleet *f, struct fleet_agent *a, enum rpc_status status,
                         const char *why)
{
    if (!a->call)
        return;
    struct rpc_call *call = fleet_session_take(a);
    a->is_told_to_move = false;
    a->disconnected = time_wall_ms();
    LOG_INFO("agent disconnected", LOG_STR("agent", a->id), LOG_INT("epoch", a->epoch),
             LOG_STR("why", why));
    struct fleet_observer *o;
    LL_FOREACH (f->observers, o)
        o->on_down(o, a);
    if (a->pool)
        fleet_pool_end(TAKE(a->pool));
    fleet_lan_session_over(a);
    rpc_on_cancel(call, NULL, NULL);
    rpc_finish(call, status, why);
    record_departure(f, a);
}

void fleet_cut(struct fleet *f, struct fleet_agent *a, const char *why)
{
    session_down(f, a, RPC_PERMISSION_DENIED, why);
    fleet_left_cut(f, a->id);
    fleet_shortcuts_cut(f, a->id);
    fleet_peer_close_sessions(f, a->id);
}

void fleet_cut_revoked(struct fleet *f, const char *agent)
{
    struct fleet_agent *a = fleet_agent_find(f, agent);
    if (!a)
        return;
    if (!a->revoked)
        a->revoked = time_wall_ms();
    fleet_lan_change_keys(f, a->tenant, true); /* it knows the present ones */
    fleet_cut(f, a, "revoked");
}

void fleet_session_superseded(struct fleet *f, struct fleet_agent *a)
{
    session_down(f, a, RPC_ABORTED, "superseded by a login of this agent at another hub");
}

void fleet_session_end(struct fleet *f, struct fleet_agent *a, const char *why)
{
    session_down(f, a, RPC_UNAVAILABLE, why);
}

/* ---- coming up ---- */

struct login {
    struct fleet *f;
    struct rpc_call *call;
    struct fleet_row row;
    char instance[20];
    bool discovery;
    uint64_t roots;
    struct store_hub hub;
    struct lan_keys keys;
};

/* `stored`, but of the session all that `r` has. */
static void take_session(struct fleet_row *stored, const struct fleet_row *r,
                         const struct store_hub *hub, int64_t epoch)
{
    stored->epoch = epoch;
    stored->connected = r->connected;
    stored->disconnected = 0;
    stored->hub_epoch = hub->epoch;
    memcpy(stored->hub, hub->id, sizeof(stored->hub));
    memcpy(stored->address, r->address, sizeof(stored->address));
    memcpy(stored->hostname, r->hostname, sizeof(stored->hostname));
    memcpy(stored->software, r->software, sizeof(stored->software));
    memcpy(stored->allow, r->allow, sizeof(stored->allow));
    memcpy(stored->addresses, r->addresses, sizeof(stored->addresses));
}

static int write_login(struct tx *tx, void *arg)
{
    struct login *in = arg;
    struct fleet_row *r = &in->row, stored = {0};
    int64_t epoch;
    TRY(fleet_row_read(tx, r->id, &stored));
    if (strcmp(stored.tenant, r->tenant) != 0)
        return ERR_NOT_FOUND;
    if (stored.revoked)
        return ERR_REVOKED;
    TRY(tx_query_int(tx, &epoch,
                     "INSERT INTO agent_session (agent, epoch, connected, disconnected, address, "
                     "hostname, version, allow, addresses, hub, hub_epoch) "
                     "VALUES ($1, next_epoch(0), $2, NULL, $3, $4, $5, $6, $7, $8, $9) "
                     "ON CONFLICT (agent) DO UPDATE SET epoch = next_epoch(agent_session.epoch), "
                     "connected = excluded.connected, disconnected = NULL, "
                     "address = excluded.address, hostname = excluded.hostname, "
                     "version = excluded.version, allow = excluded.allow, "
                     "addresses = excluded.addresses, hub = excluded.hub, "
                     "hub_epoch = excluded.hub_epoch RETURNING epoch",
                     STORE_TEXT(r->id), STORE_INT(r->connected), STORE_TEXT(r->address),
                     STORE_TEXT(r->hostname), STORE_TEXT(r->software), STORE_TEXT(r->allow),
                     STORE_TEXT(r->addresses), STORE_TEXT(in->hub.id), STORE_INT(in->hub.epoch)));
    take_session(&stored, r, &in->hub, epoch);
    *r = stored;
    if (in->discovery)
        TRY(network_keys_write(tx, r->tenant, r->connected, LAN_KEY_LIFE_MS, false, &in->keys));
    return store_publish(tx, r->tenant, "agent", r->id, STORE_STATE);
}

static void on_cancel(struct rpc_call *call, void *arg)
{
    struct fleet_agent *a = arg;
    if (a->call == call)
        session_down(a->fleet, a, RPC_CANCELLED, "the connection was lost");
}

static void welcome(struct fleet *f, struct fleet_agent *a, const struct lan_keys *keys)
{
    struct fleet_lan_keys_text text;
    fleet_lan_fill_keys(keys, &text);
    Warren__V1__Welcome w = WARREN__V1__WELCOME__INIT;
    w.epoch = a->epoch;
    w.hub = f->cfg.hub.id;
    w.agent = a->id;
    w.network = a->network->id;
    w.lease_ms = f->cfg.lease_ms;
    w.renew_ms = f->cfg.renew_ms;
    w.now_ms = time_wall_ms();
    w.lan_keys = &text.message;
    w.network_name = a->network->name;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_WELCOME;
    event.welcome = &w;
    fleet_send(a, &event);
}

static void login_written(void *arg, int err)
{
    CLEANUP(mem_free) struct login *in = arg;
    struct fleet *f = in->f;
    if (err < 0) {
        rpc_fail(in->call, err, "login: %s", error_text(err));
        return;
    }
    struct fleet_agent *a = fleet_agent_find(f, in->row.id);
    bool is_taking = a && a->call;
    if (a)
        session_down(f, a, RPC_ABORTED, "superseded by a newer login of this agent");
    a = fleet_view_put_agent(f, &in->row);
    if (rpc_call_is_cancelled(in->call)) { /* it gave up while this was being written */
        a->disconnected = time_wall_ms();
        record_departure(f, a);
        rpc_finish(in->call, RPC_CANCELLED, "");
        return;
    }
    a->call = in->call;
    f->online++;
    a->network->online++;
    rpc_on_cancel(in->call, on_cancel, a);
    LOG_INFO("agent connected", LOG_STR("agent", a->id), LOG_STR("name", a->name),
             LOG_STR("network", a->network->name), LOG_STR("address", a->address),
             LOG_INT("epoch", a->epoch), LOG_STR("software", a->software));
    if (in->discovery)
        fleet_lan_put_keys(f, a->tenant, &in->keys);
    fleet_lan_of(a)->is_enabled = in->discovery;
    fleet_clone_login(f, a, in->instance, a->address, is_taking);
    welcome(f, a, &in->keys);
    a->knows = in->row.knows;
    fleet_ca_on_login(f, a, in->roots);
    fleet_tell_hubs(a);
    struct fleet_observer *o;
    LL_FOREACH (f->observers, o) {
        if (a->call == in->call)
            o->on_up(o, a);
    }
}

/* Text from an agent, cut to what is stored and shown. */
static void copy_text(char *out, size_t size, const char *in)
{
    size_t n = 0;
    for (; in && *in && n + 1 < size; in++) {
        if ((unsigned char)*in >= 0x20 && (unsigned char)*in < 0x7f)
            out[n++] = *in;
    }
    out[n] = '\0';
}

/* As text; "[]" if it does not fit. The list is stolen. */
static void put_list(json_t *list, char *out, size_t size)
{
    size_t n = json_dumpb(list, out, size - 1, JSON_COMPACT);
    json_decref(list);
    if (n >= size)
        n = (size_t)snprintf(out, size, "[]");
    out[n] = '\0';
}

/* The rules as a JSON array; those beyond what is kept, or malformed, are left out: the list is for
 * people, the agent itself enforces it. */
static void allow_text(const Warren__V1__ConnectRequest *req, char *out, size_t size)
{
    json_t *list = json_array();
    for (size_t i = 0; i < req->n_allow && i < FLEET_ALLOW_MAX; i++) {
        struct addr_rule rule;
        if (addr_rule_parse(req->allow[i], &rule, NULL) == 0)
            json_array_append_new(list, json_string(req->allow[i]));
    }
    put_list(list, out, size);
}

static void addresses_text(const Warren__V1__ConnectRequest *req, char *out, size_t size)
{
    json_t *list = json_array();
    for (size_t i = 0; i < req->n_addresses && i < FLEET_ADDRESSES_MAX; i++) {
        struct addr a;
        if (addr_parse(req->addresses[i], 0, &a) == 0)
            json_array_append_new(list, json_string(req->addresses[i]));
    }
    put_list(list, out, size);
}

/* Each login is paid with LOGIN_MS, of which LOGINS_BURST times as much is lent. */
static bool may_log_in(struct fleet *f, const char *agent)
{
    struct fleet_agent *a = fleet_agent_find(f, agent);
    uint64_t now = loop_now_ms(f->cfg.loop);
    if (!a) /* its first, which comes before the feed's word of it */
        return true;
    if (a->logins_paid_ms > now + (LOGINS_BURST - 1) * LOGIN_MS) {
        f->logins_refused++;
        return false;
    }
    a->logins_paid_ms = MAX(a->logins_paid_ms, now) + LOGIN_MS;
    return true;
}

static void handle_connect(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__ConnectRequest *req = (const Warren__V1__ConnectRequest *)msg;
    const struct spiffe *id = fleet_peer_of(call);
    if (!id) {
        rpc_finish(call, RPC_UNAUTHENTICATED, "the certificate carries no agent's identity");
        return;
    }
    if (fleet_is_draining(ctx) && fleet_has_other_hub(ctx)) {
        rpc_finish(call, RPC_UNAVAILABLE, "this hub is being drained: log in at another one");
        return;
    }
    if (!may_log_in(ctx, id->agent)) {
        rpc_finish(call, RPC_RESOURCE_EXHAUSTED,
                   "this agent logs in too often; is another process using a copy of its data "
                   "folder?");
        return;
    }
    struct login *in = NEW(struct login);
    in->f = ctx;
    in->call = call;
    in->hub = in->f->cfg.hub;
    snprintf(in->row.id, sizeof(in->row.id), "%s", id->agent);
    snprintf(in->row.tenant, sizeof(in->row.tenant), "%s", id->tenant);
    in->row.connected = time_wall_ms();
    addr_format(conn_peer_addr(rpc_session_conn(rpc_call_session(call))), in->row.address,
                sizeof(in->row.address));
    copy_text(in->row.hostname, sizeof(in->row.hostname), req->hostname);
    copy_text(in->row.software, sizeof(in->row.software), req->version);
    copy_text(in->instance, sizeof(in->instance), req->instance);
    in->discovery = req->discovery;
    in->roots = req->roots;
    allow_text(req, in->row.allow, sizeof(in->row.allow));
    addresses_text(req, in->row.addresses, sizeof(in->row.addresses));
    store_run(in->f->cfg.store, STORE_WRITE, write_login, login_written, in);
}

void fleet_send(struct fleet_agent *a, const Warren__V1__HubEvent *event)
{
    if (a->call)
        rpc_send(a->call, &event->base); /* a failure ends the call: on_cancel follows */
}

/* ---- the object ---- */

static const struct rpc_method methods[] = {
    {"/warren.v1.AgentService/Connect", RPC_SERVER_STREAM, &warren__v1__connect_request__descriptor,
     handle_connect},
};

int fleet_new(const struct fleet_config *cfg, struct fleet **ret, struct diag *d)
{
    struct fleet *f = NEW(struct fleet);
    f->sure_until_ms = UINT64_MAX;
    f->cfg = *cfg;
    f->cfg.links_max = MIN(cfg->links_max ? cfg->links_max : LINKS_MAX, FLEET_LINKS_MAX);
    f->cfg.links_quiet_ms = cfg->links_quiet_ms ? cfg->links_quiet_ms : LINKS_QUIET_MS;
    f->cfg.logins_per_second = cfg->logins_per_second ? cfg->logins_per_second : LOGINS_PER_SECOND;
    fleet_hubs_init(f);
    fleet_move_init(f);
    const struct rpc_server_config rpc = {.loop = cfg->loop,
                                          .sessions = (uint32_t)io_descriptor_limit(),
                                          .stream_backlog = BACKLOG,
                                          .on_open = fleet_peer_session_open,
                                          .on_close = fleet_peer_session_close,
                                          .arg = f};
    int rc = rpc_server_new(&rpc, &f->rpc);
    if (rc < 0)
        diag_set(d, rc, "cannot serve control sessions: %s", error_text(rc));
    else
        rc = fleet_view_load(f, d);
    if (rc < 0) {
        fleet_free(f);
        return rc;
    }
    rpc_server_add(f->rpc, methods, ARRAY_SIZE(methods), f);
    fleet_lan_start(f);
    fleet_follow(f);
    *ret = f;
    return 0;
}

void fleet_stop(struct fleet *f, void (*done)(void *arg), void *arg)
{
    f->is_stopping = true;
    fleet_lan_stop(f);
    timer_stop(&f->touch_timer);
    fleet_ca_done(f);
    timer_stop(&f->drain.timer);
    timer_stop(&f->told.timer);
    for (struct fleet_agent *a = f->agents; a; a = a->hh.next)
        session_down(f, a, RPC_UNAVAILABLE, "the hub stops");
    fleet_left_cut(f, NULL);
    fleet_shortcuts_cut(f, NULL);
    fleet_peers_close(f);
    f->on_stopped = done;
    f->on_stopped_arg = arg;
    if (!f->n_pools)
        done(arg);
}

void fleet_free(struct fleet *f)
{
    if (!f)
        return;
    fleet_ca_done(f);
    rpc_server_free(f->rpc);
    fleet_peers_free(f);
    fleet_view_free(f);
    fleet_lan_done(f);
    mem_free(f->homes);
    mem_free(f);
}

void fleet_add_worker(struct fleet *f, struct loop *worker)
{
    f->homes = mem_grow(f->homes, (f->n_homes + 1) * sizeof(*f->homes));
    f->homes[f->n_homes++] = (struct fleet_home){.worker = worker};
}

void fleet_observe(struct fleet *f, struct fleet_observer *o)
{
    LL_APPEND(f->observers, o);
}

struct rpc_server *fleet_rpc(struct fleet *f)
{
    return f->rpc;
}

const struct store_hub *fleet_hub(const struct fleet *f)
{
    return &f->cfg.hub;
}

const char *fleet_hub_name(const struct fleet *f)
{
    return f->cfg.name ? f->cfg.name : "";
}

struct store *fleet_store(const struct fleet *f)
{
    return f->cfg.store;
}

struct loop *fleet_loop(const struct fleet *f)
{
    return f->cfg.loop;
}

size_t fleet_online(const struct fleet *f)
{
    return f->online;
}

void fleet_stats(const struct fleet *f, struct fleet_stats *ret)
{
    *ret = (struct fleet_stats){.moves = atomic_load_explicit(&f->moves, memory_order_relaxed),
                                .shortcuts = fleet_shortcut_links(f),
                                .shortcuts_taken =
                                    atomic_load_explicit(&f->shortcuts_taken, memory_order_relaxed),
                                .logins_refused = f->logins_refused};
    for (const struct fleet_agent *a = f->agents; a; a = a->hh.next)
        ret->links += a->pool ? a->pool->n_members : 0;
}
