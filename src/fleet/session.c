#include "fleet/session.h"

#include "base/addr.h"
#include "base/backoff.h"
#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "fleet/link.h"
#include "fleet/reverse.h"
#include "net/conn.h"
#include "net/dialer.h"
#include "net/interface.h"
#include "warren/v1/agent.pb-c.h"

#include <stdio.h>
#include <string.h>

#define FIRST_DELAY_MS      100
#define MAX_DELAY_MS        30000
#define UNANSWERED_DELAY_MS 500 /* between dials that nobody answered; the dial itself repeats */
#define SUPERSEDED_DELAY_MS 30000
#define WELCOME_MS          15000 /* for the hub to answer Connect */
#define REPORT_MS           10000
#define ADDRESSES_MAX       8 /* of this machine that the hub is told */

struct hub {
    struct host_port at;
    struct tls_client *control, *reverse;
    struct addr known; /* where the last dial succeeded */
};

struct session {
    struct session_config cfg;
    struct hub *hubs;
    size_t current;
    struct backoff backoff;
    struct timer retry, welcome;
    struct dial *dial;
    struct rpc_client *rpc;
    bool is_up;
    uint64_t epoch;
    struct reverse_pool *pool;
    bool wants_reverse;
    bool is_told_revoked; /* in the log */
    uint32_t n_reverse;   /* if any; as the hub says */
    char **allow;
    size_t n_allow;
    char status[256];
};

static void dial_hub(struct session *s);

/* ---- ends ---- */

static void leave(struct session *s)
{
    bool was_up = s->is_up;
    timer_stop(&s->welcome);
    s->is_up = false;
    s->epoch = 0;
    if (s->pool)
        reverse_pool_free(TAKE(s->pool));
    if (was_up)
        s->cfg.on_down(s->cfg.arg);
}

static void retry_in(struct session *s, uint32_t delay_ms)
{
    timer_start(&s->retry, delay_ms);
}

static void on_retry(struct timer *t)
{
    struct session *s = container_of(t, struct session, retry);
    if (s->rpc)
        rpc_client_free(TAKE(s->rpc));
    s->current = (s->current + 1) % s->cfg.n_hubs;
    dial_hub(s);
}

static void look_at_certificate(struct session *s, int err)
{
    if (err == ERR_TLS || err == ERR_REVOKED || err == ERR_EXPIRED)
        s->cfg.on_certificate(s->cfg.arg);
}

/* From callbacks of the rpc client, which is freed by the retry. */
static void fail(struct session *s, const struct diag *why, uint32_t delay_ms)
{
    if (timer_is_running(&s->retry))
        return;
    if (why->code == ERR_REVOKED && !s->is_told_revoked)
        LOG_ERROR("the hub has revoked this agent; to come back, this machine must enrol again");
    s->is_told_revoked = why->code == ERR_REVOKED;
    snprintf(s->status, sizeof(s->status), "%.240s", diag_text(why));
    LOG_WARN("not connected to the hub", LOG_STR("hub", s->cfg.hubs[s->current]),
             LOG_STR("why", diag_text(why)), LOG_INT("retry_ms", delay_ms));
    leave(s);
    retry_in(s, delay_ms);
}

/* ---- the control stream ---- */

static void want_reverse(struct session *s)
{
    if (s->pool)
        reverse_pool_want(s->pool, s->wants_reverse ? s->n_reverse : 0);
}

static void on_welcome(struct session *s, const Warren__V1__Welcome *w)
{
    struct hub *hub = &s->hubs[s->current];
    timer_stop(&s->welcome);
    s->is_up = true;
    s->epoch = w->epoch;
    backoff_reset(&s->backoff);
    snprintf(s->status, sizeof(s->status), "connected to %.200s", s->cfg.hubs[s->current]);
    LOG_INFO("connected", LOG_STR("hub", s->cfg.hubs[s->current]), LOG_STR("agent", w->agent),
             LOG_STR("network", w->network), LOG_INT("epoch", w->epoch));
    const struct reverse_config cfg = {.loop = s->cfg.loop,
                                       .target = hub->at,
                                       .known = hub->known,
                                       .tls = hub->reverse,
                                       .epoch = (uint32_t)w->epoch,
                                       .on_request = s->cfg.on_request,
                                       .arg = s->cfg.arg};
    s->pool = reverse_pool_new(&cfg);
    s->n_reverse = 1;
    want_reverse(s);
    s->cfg.on_up(s->cfg.arg, w);
}

static void on_reverse_connections(struct session *s, const Warren__V1__ReverseConnections *r)
{
    s->n_reverse = MAX(r->count, 1u);
    want_reverse(s);
}

static void on_message(void *arg, const ProtobufCMessage *msg)
{
    struct session *s = arg;
    const Warren__V1__HubEvent *e = (const Warren__V1__HubEvent *)msg;
    if (timer_is_running(&s->retry))
        return;
    if (e->event_case == WARREN__V1__HUB_EVENT__EVENT_WELCOME && !s->is_up)
        on_welcome(s, e->welcome);
    else if (s->is_up && e->event_case == WARREN__V1__HUB_EVENT__EVENT_REVERSE_CONNECTIONS)
        on_reverse_connections(s, e->reverse_connections);
    else if (s->is_up)
        s->cfg.on_event(s->cfg.arg, e);
}

static void on_stream_end(void *arg, const struct rpc_result *r)
{
    struct session *s = arg;
    uint32_t delay = backoff_next(&s->backoff);
    if (r->status == RPC_ABORTED) {
        LOG_ERROR("another process has logged in as this agent; if that is a copy of its data "
                  "folder, enrol one of the two anew");
        delay = SUPERSEDED_DELAY_MS + delay;
    }
    struct diag d = r->diag;
    if (!d.code)
        diag_set(&d, ERR_CLOSED, "the hub has ended the session");
    look_at_certificate(s, d.code);
    fail(s, &d, delay);
}

static void on_rpc_close(void *arg, int err)
{
    struct session *s = arg;
    struct diag d = {0};
    diag_set(&d, err, "the connection to the hub was lost: %s", error_text(err));
    s->rpc = NULL; /* a lost client is freed by itself */
    fail(s, &d, backoff_next(&s->backoff));
}

static void on_no_welcome(struct timer *t)
{
    struct session *s = container_of(t, struct session, welcome);
    struct diag d = {0};
    diag_set(&d, ERR_TIMEOUT, "the hub does not answer the login");
    fail(s, &d, backoff_next(&s->backoff));
}

/* Fills `list`, whose texts are in `room`. */
static size_t own_addresses(struct conn *c, char (*room)[ADDR_TEXT_SIZE], char **list)
{
    struct addr own = {.len = sizeof(own.in6)};
    if (getsockname(conn_fd(c), &own.sa, &own.len) < 0)
        return 0;
    size_t n = interface_addresses(&own, room, ADDRESSES_MAX);
    for (size_t i = 0; i < n; i++)
        list[i] = room[i];
    return n;
}

static int open_stream(struct session *s, struct conn *c)
{
    char addresses[ADDRESSES_MAX][ADDR_TEXT_SIZE], *list[ADDRESSES_MAX];
    char authority[HOST_SIZE + 8];
    host_port_format(&s->hubs[s->current].at, authority, sizeof(authority));
    size_t n_addresses = own_addresses(c, addresses, list);
    int rc = rpc_client_new(c, authority, on_rpc_close, s, &s->rpc);
    if (rc < 0)
        return rc;
    static char version[] = WARREN_VERSION;
    Warren__V1__ConnectRequest req = WARREN__V1__CONNECT_REQUEST__INIT;
    req.version = version;
    req.hostname = (char *)s->cfg.hostname;
    req.instance = (char *)s->cfg.instance;
    req.discovery = s->cfg.discovery;
    req.n_allow = s->n_allow;
    req.allow = s->allow;
    req.n_addresses = n_addresses;
    req.addresses = list;
    req.roots = s->cfg.identity->roots_digest;
    timer_start(&s->welcome, WELCOME_MS);
    rpc_call_stream(s->rpc, "/warren.v1.AgentService/Connect", &req.base,
                    &warren__v1__hub_event__descriptor, 0, on_message, on_stream_end, s);
    return 0;
}

static void on_dialled(void *arg, const struct dial_result *r)
{
    struct session *s = arg;
    struct diag d = r->diag;
    s->dial = NULL;
    if (r->err == 0) {
        s->hubs[s->current].known = r->peer;
        int rc = open_stream(s, r->conn);
        if (rc == 0)
            return;
        diag_set(&d, rc, "cannot open a session: %s", error_text(rc));
    }
    if (!d.code)
        diag_set(&d, r->err, "%s", error_text(r->err));
    look_at_certificate(s, r->err);
    fail(s, &d, r->is_answered ? backoff_next(&s->backoff) : UNANSWERED_DELAY_MS);
}

static void dial_hub(struct session *s)
{
    struct hub *hub = &s->hubs[s->current];
    if (agent_identity_is_expired(s->cfg.identity, time_wall_ms())) {
        struct diag d = {0};
        diag_set(&d, ERR_EXPIRED, "the certificate has ended; renewing it first");
        s->cfg.on_certificate(s->cfg.arg);
        fail(s, &d, backoff_next(&s->backoff));
        return;
    }
    const struct dial_params p = {.target = hub->at,
                                  .is_persistent = true,
                                  .known = hub->known,
                                  .tls = hub->control,
                                  .on_done = on_dialled,
                                  .arg = s};
    s->dial = dial_start(s->cfg.loop, &p);
}

/* ---- set-up ---- */

static int parse_hub(const char *url, struct host_port *ret, struct diag *d)
{
    static const char scheme[] = "https://";
    char text[HOST_SIZE + 8];
    if (strncmp(url, scheme, sizeof(scheme) - 1) != 0)
        return diag_set(d, ERR_INVALID, "'%.200s' is not a hub's URL, https://HOST:PORT", url);
    snprintf(text, sizeof(text), "%s", url + sizeof(scheme) - 1);
    text[strcspn(text, "/")] = '\0';
    const char *bracket = strrchr(text, ']');
    if (!strchr(bracket ? bracket : text, ':'))
        strncat(text, ":443", sizeof(text) - strlen(text) - 1);
    return host_port_parse(text, false, ret, d);
}

static int make_tls(const struct session *s, const struct hub *hub, const char *alpn,
                    struct tls_client **ret, struct diag *d)
{
    const struct agent_identity *id = s->cfg.identity;
    const struct tls_client_config cfg = {.ca_pem = id->ca_pem,
                                          .chain_pem = id->cert_pem,
                                          .key_pem = &id->key_pem,
                                          .server_name = hub->at.host,
                                          .alpn = {alpn}};
    return tls_client_new(&cfg, ret, d);
}

int session_reload(struct session *s, struct diag *d)
{
    for (size_t i = 0; i < s->cfg.n_hubs; i++) {
        struct hub *hub = &s->hubs[i];
        struct tls_client *control, *reverse;
        TRY(make_tls(s, hub, "warren-agent/1", &control, d));
        int rc = make_tls(s, hub, "warren-reverse/1", &reverse, d);
        if (rc < 0) {
            tls_client_unref(control);
            return rc;
        }
        tls_client_unref(hub->control);
        tls_client_unref(hub->reverse);
        hub->control = control;
        hub->reverse = reverse;
    }
    if (s->pool)
        reverse_pool_set_tls(s->pool, s->hubs[s->current].reverse);
    return 0;
}

int session_new(const struct session_config *cfg, struct session **ret, struct diag *d)
{
    struct session *s = NEW(struct session);
    s->cfg = *cfg;
    s->hubs = mem_new(cfg->n_hubs * sizeof(*s->hubs));
    s->backoff = (struct backoff){FIRST_DELAY_MS, MAX_DELAY_MS, 0};
    timer_init(&s->retry, cfg->loop, on_retry);
    timer_init(&s->welcome, cfg->loop, on_no_welcome);
    session_set_allow(s, cfg->allow, cfg->n_allow);
    int rc = 0;
    for (size_t i = 0; i < cfg->n_hubs && rc == 0; i++)
        rc = parse_hub(cfg->hubs[i], &s->hubs[i].at, d);
    if (rc == 0)
        rc = session_reload(s, d);
    if (rc < 0) {
        session_free(s);
        return rc;
    }
    s->current = cfg->n_hubs - 1;
    retry_in(s, 0);
    *ret = s;
    return 0;
}

void session_free(struct session *s)
{
    if (!s)
        return;
    leave(s);
    timer_stop(&s->retry);
    if (s->dial)
        dial_cancel(s->dial);
    if (s->rpc)
        rpc_client_free(s->rpc);
    for (size_t i = 0; i < s->cfg.n_hubs; i++) {
        tls_client_unref(s->hubs[i].control);
        tls_client_unref(s->hubs[i].reverse);
    }
    session_set_allow(s, NULL, 0);
    mem_free(s->hubs);
    mem_free(s);
}

static void on_reported(void *arg, const struct rpc_result *r, const ProtobufCMessage *msg)
{
}

void session_report_roots(struct session *s)
{
    Warren__V1__ReportRootsRequest req = WARREN__V1__REPORT_ROOTS_REQUEST__INIT;
    if (!s->is_up)
        return;
    req.session_epoch = s->epoch;
    req.roots = s->cfg.identity->roots_digest;
    rpc_call_unary(s->rpc, "/warren.v1.AgentService/ReportRoots", &req.base,
                   &warren__v1__report_roots_response__descriptor, REPORT_MS, on_reported, s);
}

void session_want_reverse(struct session *s, bool wanted)
{
    s->wants_reverse = wanted;
    want_reverse(s);
}

void session_set_allow(struct session *s, const char *const *allow, size_t n)
{
    for (size_t i = 0; i < s->n_allow; i++)
        mem_free(s->allow[i]);
    mem_free(s->allow);
    s->allow = n ? mem_new(n * sizeof(*s->allow)) : NULL;
    s->n_allow = n;
    for (size_t i = 0; i < n; i++)
        s->allow[i] = mem_strdup(allow[i]);
}

struct rpc_client *session_rpc(const struct session *s)
{
    return s->is_up ? s->rpc : NULL;
}

uint64_t session_epoch(const struct session *s)
{
    return s->epoch;
}

const char *session_status(const struct session *s)
{
    return s->status;
}

bool session_is_up(const struct session *s)
{
    return s->is_up;
}
