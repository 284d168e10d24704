/*
 * A session is a *leg*: a login at one hub, its control stream, its reverse connections.
 *
 *   leg: dialled ─ Connect ─► asked ─ Welcome ─► the session ─ ends ─► retry: another leg
 *                                                    │ Drain
 *   next: dialled ─► asked ─ Welcome ─► the session  ▼
 *                                            left: streams go on until its hub ends it
 *
 * So there are at most three: the session, the one that is being made instead of it, and the one
 * before it. A leg that fails is freed at the end of the turn.
 */
#include "fleet/session_internal.h"

#include "base/error.h"
#include "base/id.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "fleet/reverse.h"
#include "fleet/shortcut.h"
#include "net/dialer.h"
#include "net/tls.h"
#include "warren/v1/agent.pb-c.h"

#include <stdio.h>
#include <string.h>

#define FIRST_DELAY_MS      100 /* of a move */
#define MAX_DELAY_MS        30000
#define SUPERSEDED_DELAY_MS 30000
#define REPORT_MS           10000
#define LEFT_SPARE_MS       5000  /* that what was left may stay after its hub's own time is over */
#define MEASURE_MS          60000 /* over which agents measure a new hub, at most */
#define MEASURE_SLOTS       4     /* ... and in return_ms of each hub: all of them ask that one */

/* ---- legs ---- */

/* Callbacks of its connection may be what ends it: it is freed a little later. */
static void leg_end(struct session *s, struct leg *l)
{
    if (!l)
        return;
    timer_stop(&l->timer);
    shortcuts_free(TAKE(l->shortcuts));
    reverse_pool_free(TAKE(l->pool));
    l->session = NULL;
    l->next_over = s->over;
    s->over = l;
    loop_defer(s->cfg.loop, &s->bury);
}

static void bury_all(struct session *s)
{
    while (s->over) {
        struct leg *l = s->over;
        s->over = l->next_over;
        session_leg_free(l);
    }
}

static void on_bury(struct defer *d)
{
    bury_all(container_of(d, struct session, bury));
}

/* ---- ends ---- */

static void end_left(struct session *s)
{
    if (!s->left)
        return;
    leg_end(s, TAKE(s->left));
    if (s->cfg.on_left_over)
        s->cfg.on_left_over(s->cfg.arg);
}

/* Others come first, when a session has ended. */
static void pass_over(struct session *s, const struct leg *l)
{
    for (size_t i = 0; i < s->hubs.n; i++) {
        struct hub_entry *e = &s->hubs.entries[i];
        if (e->id[0] && strcmp(e->id, l->hub_id) == 0)
            e->was_tried = true;
    }
    struct hub_entry *e = hub_list_find(&s->hubs, l->hub.id, &l->hub.at);
    if (e)
        e->was_tried = true;
}

static void leave(struct session *s)
{
    bool was_up = s->is_up;
    if (was_up)
        pass_over(s, s->leg);
    s->is_up = false;
    s->epoch = 0;
    leg_end(s, TAKE(s->leg));
    timer_stop(&s->move);
    if (was_up) {
        end_left(s);
        s->cfg.on_down(s->cfg.arg);
    }
}

void session_look_at_certificate(struct session *s, int err)
{
    if (err == ERR_TLS || err == ERR_REVOKED || err == ERR_EXPIRED)
        s->cfg.on_certificate(s->cfg.arg);
}

/* The attempt to move has failed: another one follows, while the session goes on. */
static void fail_move(struct session *s, const struct diag *why)
{
    uint32_t delay_ms = backoff_next(&s->move_backoff);
    LOG_INFO("cannot move to a hub", LOG_STR("hub", s->next->name), LOG_STR("why", diag_text(why)),
             LOG_INT("retry_ms", delay_ms));
    leg_end(s, TAKE(s->next));
    timer_start(&s->move, delay_ms);
}

static void fail(struct session *s, const struct diag *why, uint32_t delay_ms)
{
    if (why->code == ERR_REVOKED && !s->is_told_revoked)
        LOG_ERROR("the hub has revoked this agent; to come back, this machine must enrol again");
    s->is_told_revoked = why->code == ERR_REVOKED;
    snprintf(s->status, sizeof(s->status), "%.240s", diag_text(why));
    LOG_WARN("not connected to the hub", LOG_STR("hub", s->leg->name),
             LOG_STR("why", diag_text(why)), LOG_INT("retry_ms", delay_ms));
    leave(s);
    if (s->next) /* it is under way already */
        s->leg = TAKE(s->next);
    else
        timer_start(&s->retry, delay_ms);
}

static uint32_t back_in(struct session *s)
{
    return s->is_up ? comeback_after_session(&s->comeback) : comeback_after_login(&s->comeback);
}

void session_leg_fail(struct leg *l, const struct diag *why, uint32_t delay_ms)
{
    struct session *s = l->session;
    if (l == s->left)
        end_left(s);
    else if (l == s->next)
        fail_move(s, why);
    else
        fail(s, why, delay_ms);
}

/* ---- the control stream ---- */

static void want_reverse(struct session *s)
{
    if (s->leg && s->leg->pool)
        reverse_pool_want(s->leg->pool, s->wants_reverse ? s->n_reverse : 0);
}

static void on_left_timer(struct timer *t)
{
    end_left(container_of(t, struct leg, timer)->session);
}

/* The session that was is left: its streams go on for a while. */
static void move_to(struct session *s, struct leg *l)
{
    uint64_t now = loop_now_ms(s->cfg.loop);
    uint64_t left_ms = s->left_ends_ms > now ? s->left_ends_ms - now : 0;
    end_left(s);
    s->left = s->leg;
    s->leg = l;
    s->next = NULL;
    if (s->left->pool)
        reverse_pool_leave(s->left->pool);
    if (s->left->shortcuts)
        shortcuts_leave(s->left->shortcuts);
    timer_stop(&s->left->timer);
    timer_init(&s->left->timer, s->cfg.loop, on_left_timer);
    timer_start(&s->left->timer, left_ms + LEFT_SPARE_MS);
    backoff_reset(&s->move_backoff);
}

static int make_shortcut_tls(void *arg, const char *hub, struct tls_client **ret)
{
    struct diag d = {0};
    return session_make_tls(arg, hub, "warren-reverse/1", ret, &d);
}

static void on_shortcut(void *arg, struct h2_stream *stream, const struct h2_headers *h)
{
    const struct session *s = arg;
    s->cfg.on_shortcut(s->cfg.arg, stream, h);
}

static struct shortcuts *make_shortcuts(struct session *s)
{
    const struct shortcuts_config cfg = {.loop = s->cfg.loop,
                                         .epoch = (uint32_t)s->epoch,
                                         .hubs = &s->hubs,
                                         .make_tls = make_shortcut_tls,
                                         .on_request = on_shortcut,
                                         .arg = s};
    return shortcuts_new(&cfg);
}

static void begin(struct session *s, struct leg *l, const Warren__V1__Welcome *w)
{
    timer_stop(&l->timer);
    snprintf(l->hub_id, sizeof(l->hub_id), "%s", w->hub);
    s->is_up = true;
    s->epoch = w->epoch;
    comeback_reset(&s->comeback);
    hub_list_reset(&s->hubs);
    snprintf(s->status, sizeof(s->status), "connected to %.200s", l->name);
    LOG_INFO("connected", LOG_STR("hub", l->name), LOG_STR("hub_id", w->hub),
             LOG_STR("agent", w->agent), LOG_STR("network", w->network),
             LOG_INT("epoch", w->epoch));
    const struct reverse_config cfg = {.loop = s->cfg.loop,
                                       .target = l->hub.at,
                                       .known = l->hub.known,
                                       .tls = l->reverse,
                                       .epoch = (uint32_t)w->epoch,
                                       .on_request = s->cfg.on_request,
                                       .arg = s->cfg.arg};
    l->pool = reverse_pool_new(&cfg);
    l->shortcuts = make_shortcuts(s);
    s->n_reverse = 1;
}

static void on_welcome(struct leg *l, const Warren__V1__Welcome *w)
{
    struct session *s = l->session;
    bool has_moved = l == s->next;
    if (has_moved)
        move_to(s, l);
    begin(s, l, w);
    if (has_moved) {
        s->cfg.on_moved(s->cfg.arg, w);
    } else {
        want_reverse(s);
        s->cfg.on_up(s->cfg.arg, w);
    }
}

static void on_reverse_connections(struct session *s, const Warren__V1__ReverseConnections *r)
{
    s->n_reverse = MAX(r->count, 1u);
    want_reverse(s);
}

static void keep_hubs(void *arg)
{
    struct session *s = arg;
    if (s->cfg.on_hubs)
        s->cfg.on_hubs(s->cfg.arg, &s->hubs);
}

static void on_hubs(struct session *s, const Warren__V1__Hubs *m)
{
    struct hub_told told[HUB_LIST_CLUSTER] = {0};
    size_t n = 0;
    s->comeback.return_ms = m->return_ms;
    if (!s->probe)
        return;
    for (size_t i = 0; i < m->n_hubs && n < HUB_LIST_CLUSTER; i++)
        told[n++] = (struct hub_told){m->hubs[i]->id, m->hubs[i]->address, m->hubs[i]->leaving};
    hub_list_replace(&s->hubs, told, n);
    keep_hubs(s); /* they are measured later, when not all agents do so */
    uint64_t spread_ms = (uint64_t)m->return_ms * n * MEASURE_SLOTS;
    if (n)
        hub_probe_soon(s->probe, random_below((uint32_t)MIN(spread_ms, (uint64_t)MEASURE_MS)));
}

static void on_drain(struct session *s, const Warren__V1__Drain *m)
{
    if (!m->move)
        return;
    uint32_t delay_ms = random_below(m->within_ms);
    LOG_INFO("the hub is being drained: moving to another one", LOG_INT("in_ms", delay_ms),
             LOG_INT("grace_ms", m->grace_ms));
    s->left_ends_ms = loop_now_ms(s->cfg.loop) + m->grace_ms;
    if (!s->next)
        timer_start(&s->move, delay_ms);
}

void session_on_message(void *arg, const ProtobufCMessage *msg)
{
    struct leg *l = arg;
    struct session *s = l->session;
    const Warren__V1__HubEvent *e = (const Warren__V1__HubEvent *)msg;
    bool is_welcome = e->event_case == WARREN__V1__HUB_EVENT__EVENT_WELCOME;
    if (!s || l == s->left)
        return;
    if (is_welcome && (l == s->next || !s->is_up))
        on_welcome(l, e->welcome);
    else if (l != s->leg || !s->is_up)
        return;
    else if (e->event_case == WARREN__V1__HUB_EVENT__EVENT_REVERSE_CONNECTIONS)
        on_reverse_connections(s, e->reverse_connections);
    else if (e->event_case == WARREN__V1__HUB_EVENT__EVENT_HUBS)
        on_hubs(s, e->hubs);
    else if (e->event_case == WARREN__V1__HUB_EVENT__EVENT_DRAIN)
        on_drain(s, e->drain);
    else
        s->cfg.on_event(s->cfg.arg, e);
}

void session_on_stream_end(void *arg, const struct rpc_result *r)
{
    struct leg *l = arg;
    struct session *s = l->session;
    if (!s)
        return;
    uint32_t delay = l == s->leg ? back_in(s) : 0;
    if (r->status == RPC_ABORTED && l == s->leg) {
        LOG_ERROR("another process has logged in as this agent; if that is a copy of its data "
                  "folder, enrol one of the two anew");
        delay = SUPERSEDED_DELAY_MS + delay;
    }
    struct diag d = r->diag;
    if (!d.code)
        diag_set(&d, ERR_CLOSED, "the hub has ended the session");
    if (l != s->left)
        session_look_at_certificate(s, d.code);
    session_leg_fail(l, &d, delay);
}

void session_on_rpc_close(void *arg, int err)
{
    struct leg *l = arg;
    struct session *s = l->session;
    struct diag d = {0};
    l->rpc = NULL; /* a lost client is freed by itself */
    if (!s)
        return;
    diag_set(&d, err, "the connection to the hub was lost: %s", error_text(err));
    session_leg_fail(l, &d, l == s->leg ? back_in(s) : 0);
}

/* ---- which hub ---- */

static void on_retry(struct timer *t)
{
    struct session *s = container_of(t, struct session, retry);
    struct diag d = {0};
    s->leg = session_leg_new(s, hub_list_next(&s->hubs, "", random_below(UINT32_MAX)));
    if (session_leg_dial(s->leg, &d) < 0)
        session_leg_fail(s->leg, &d, comeback_after_login(&s->comeback));
}

static void on_move(struct timer *t)
{
    struct session *s = container_of(t, struct session, move);
    struct diag d = {0};
    struct hub_entry *e = s->is_up && !s->next
                              ? hub_list_next(&s->hubs, s->leg->hub_id, random_below(UINT32_MAX))
                              : NULL;
    if (!e)
        return;
    s->next = session_leg_new(s, e);
    if (session_leg_dial(s->next, &d) < 0)
        session_leg_fail(s->next, &d, 0);
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

int session_reload(struct session *s, struct diag *d)
{
    if (s->next)
        TRY(session_leg_load_tls(s->next, d));
    return s->leg ? session_leg_load_tls(s->leg, d) : 0;
}

static int read_hubs(struct session *s, struct diag *d)
{
    for (size_t i = 0; i < s->cfg.n_hubs; i++) {
        struct host_port at;
        TRY(parse_hub(s->cfg.hubs[i], &at, d));
        if (hub_list_configure(&s->hubs, &at) < 0)
            return diag_set(d, ERR_LIMIT, "at most %d hubs", HUB_LIST_CONFIGURED);
    }
    if (s->cfg.fixed_hubs)
        return 0;
    hub_list_load(&s->hubs, s->cfg.known_hubs);
    s->probe = hub_probe_new(s->cfg.loop, &s->hubs, keep_hubs, s);
    return 0;
}

/* Whether its files make a TLS client. */
static int check_identity(struct session *s, struct diag *d)
{
    struct leg *l = session_leg_new(s, &s->hubs.entries[0]);
    int rc = session_leg_load_tls(l, d);
    session_leg_free(l);
    return rc;
}

int session_new(const struct session_config *cfg, struct session **ret, struct diag *d)
{
    struct session *s = NEW(struct session);
    s->cfg = *cfg;
    comeback_init(&s->comeback);
    s->move_backoff = (struct backoff){FIRST_DELAY_MS, MAX_DELAY_MS, 0};
    s->bury.fn = on_bury;
    timer_init(&s->retry, cfg->loop, on_retry);
    timer_init(&s->move, cfg->loop, on_move);
    session_set_allow(s, cfg->allow, cfg->n_allow);
    int rc = read_hubs(s, d);
    if (rc == 0)
        rc = check_identity(s, d);
    if (rc < 0) {
        session_free(s);
        return rc;
    }
    timer_start(&s->retry, 0);
    *ret = s;
    return 0;
}

void session_free(struct session *s)
{
    if (!s)
        return;
    leave(s);
    leg_end(s, TAKE(s->next));
    loop_defer_cancel(&s->bury);
    bury_all(s);
    timer_stop(&s->retry);
    hub_probe_free(s->probe);
    session_set_allow(s, NULL, 0);
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
    rpc_call_unary(s->leg->rpc, "/warren.v1.AgentService/ReportRoots", &req.base,
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

void session_want_shortcut(struct session *s, const char *tag)
{
    if (s->is_up)
        shortcuts_want(s->leg->shortcuts, tag);
}

struct rpc_client *session_rpc(const struct session *s)
{
    return s->is_up ? s->leg->rpc : NULL;
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
