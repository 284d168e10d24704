#include "agent/agent.h"

#include "agent/agent_view.h"
#include "agent/settings.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/time.h"
#include "fleet/lan.h"
#include "fleet/session.h"
#include "loop/io.h"
#include "loop/notify.h"
#include "net/ping.h"
#include "net/tls.h"
#include "tunnel/tunnel_agent.h"
#include "warren/v1/agent.pb-c.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HUBS_FILE      "hubs.json" /* in the data folder: hub_list_json */
#define HUBS_FILE_MAX  65536
#define DRAIN_CHECK_MS 20
#define HAND_OVER_MS   2000 /* without streams, for the hub to move what we hold */

struct agent {
    const struct conf_sources *sources;
    struct conf *conf;
    const struct agent_settings *settings;
    struct loop *loop;
    struct notify notify;
    struct agent_identity identity;
    struct agent_renewal *renewal;
    struct session *session;
    struct tunnel_agent *tunnels;
    struct agent_view *view; /* NULL: no socket could be made */
    struct lan *lan;         /* NULL: no discovery */
    uint64_t instance;
    char instance_text[2 * sizeof(uint64_t) + 1];
    char hostname[256];
    bool is_stopping;
    struct timer drain_timer;
    uint64_t drain_began, drain_ends; /* loop time */
};

/* ---- the session's callbacks ---- */

static void on_up(void *arg, const Warren__V1__Welcome *w)
{
    struct agent *a = arg;
    notify_status(&a->notify, "%s", session_status(a->session));
    tunnel_agent_on_up(a->tunnels, w);
    if (a->lan)
        lan_on_up(a->lan, w);
}

static void use_identity(struct agent *a)
{
    struct diag d = {0};
    if (session_reload(a->session, &d) < 0)
        LOG_ERROR("the agent's certificates cannot be used", LOG_STR("why", diag_text(&d)));
}

/* The hubs' CA is being rotated, or was: they are on disk before the hub is told that they are
 * known. */
static void on_roots(struct agent *a, const Warren__V1__TrustedRoots *t)
{
    struct agent_root told[ROOTS_MAX];
    struct diag d = {0};
    size_t n = MIN(t->n_certificates, ARRAY_SIZE(told));
    for (size_t i = 0; i < n; i++)
        told[i] = (struct agent_root){t->certificates[i].data, t->certificates[i].len};
    int rc = agent_identity_take_roots(a->settings->data, &a->identity, told, n, &d);
    if (rc < 0) {
        LOG_ERROR("the hub's roots are not taken", LOG_STR("why", diag_text(&d)));
        return;
    }
    if (rc > 0) {
        LOG_INFO("the hubs' roots have changed", LOG_INT("trusted", n));
        use_identity(a);
    }
    session_report_roots(a->session);
    if (t->renew_ms && agent_identity_is_by_old_root(&a->identity))
        agent_renewal_within(a->renewal, t->renew_ms);
}

static void on_event(void *arg, const Warren__V1__HubEvent *e)
{
    struct agent *a = arg;
    if (e->event_case == WARREN__V1__HUB_EVENT__EVENT_TRUSTED_ROOTS)
        on_roots(a, e->trusted_roots);
    tunnel_agent_on_event(a->tunnels, e);
    if (a->lan)
        lan_on_event(a->lan, e);
}

static void on_down(void *arg)
{
    struct agent *a = arg;
    notify_status(&a->notify, "not connected: %s", session_status(a->session));
    tunnel_agent_on_down(a->tunnels);
    if (a->lan)
        lan_on_down(a->lan);
}

static void on_moved(void *arg, const Warren__V1__Welcome *w)
{
    struct agent *a = arg;
    notify_status(&a->notify, "%s", session_status(a->session));
    tunnel_agent_on_moved(a->tunnels, w);
    if (!a->lan)
        return;
    lan_on_down(a->lan);
    lan_on_up(a->lan, w);
}

static void on_left_over(void *arg)
{
    tunnel_agent_on_left_over(((struct agent *)arg)->tunnels);
}

/* An agent that cannot keep them finds them out anew. */
static void on_hubs(void *arg, const struct hub_list *hubs)
{
    struct agent *a = arg;
    struct diag d = {0};
    CLEANUP(mem_free) char *path = mem_printf("%s/%s", a->settings->data, HUBS_FILE);
    json_t *list = hub_list_json(hubs);
    char *text = json_dumps(list, JSON_INDENT(1));
    if (file_write_atomic(path, text, strlen(text), 0600, &d) < 0)
        LOG_WARN("the list of hubs cannot be kept", LOG_STR("why", diag_text(&d)));
    free(text);
    json_decref(list);
}

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    tunnel_agent_on_request(((struct agent *)arg)->tunnels, s, h);
}

static void on_shortcut(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    tunnel_agent_on_shortcut(((struct agent *)arg)->tunnels, s, h);
}

static void on_certificate(void *arg)
{
    struct agent *a = arg;
    if (agent_identity_is_expired(&a->identity, time_wall_ms()))
        agent_renewal_hurry(a->renewal);
}

/* ---- renewal ---- */

static void on_renewed(void *arg)
{
    struct agent *a = arg;
    LOG_INFO("certificate renewed", LOG_STR("serial", a->identity.serial));
    use_identity(a);
}

static void on_renewal_failed(void *arg, const struct diag *why)
{
    LOG_WARN("certificate not renewed", LOG_STR("why", diag_text(why)));
}

/* ---- the owner's ceiling: the settings', or else what enrolment was told ---- */

struct ceiling {
    const char *const *texts;
    size_t n;
    struct addr_rule rules[AGENT_ALLOW_MAX];
};

static int read_ceiling(const struct agent *a, struct ceiling *ret, struct diag *d)
{
    const struct conf_list *set = &a->settings->allow;
    ret->texts = set->n ? (const char *const *)set->items : (const char *const *)a->identity.allow;
    ret->n = set->n ? set->n : a->identity.n_allow;
    if (ret->n > AGENT_ALLOW_MAX)
        return diag_set_field(d, ERR_LIMIT, "allow", "at most %d rules", AGENT_ALLOW_MAX);
    for (size_t i = 0; i < ret->n; i++)
        TRY(addr_rule_parse(ret->texts[i], &ret->rules[i], d));
    return 0;
}

/* ---- what others may see ---- */

static json_t *render_view(void *arg)
{
    const struct agent *a = arg;
    json_t *ping = json_pack("{s:s, s:s}", "ipv4", ping_way_text(ping_find_way(false)), "ipv6",
                             ping_way_text(ping_find_way(true)));
    return json_pack("{s:s, s:b, s:s, s:I, s:I, s:o, s:o, s:o, s:o}", "agent", a->identity.id,
                     "connected", session_is_up(a->session), "status", session_status(a->session),
                     "epoch", (json_int_t)session_epoch(a->session), "streams",
                     (json_int_t)tunnel_agent_streams(a->tunnels), "ping", ping, "leases",
                     tunnel_agent_json(a->tunnels), "read_ahead",
                     tunnel_agent_read_ahead_json(a->tunnels), "dials",
                     tunnel_agent_dials_json(a->tunnels));
}

/* Nothing else needs it, so an agent whose folder takes no socket works as well. */
static void start_view(struct agent *a)
{
    struct diag d = {0};
    const struct agent_view_config cfg = {
        .loop = a->loop, .dir = a->settings->data, .render = render_view, .arg = a};
    if (agent_view_start(&cfg, &a->view, &d) < 0)
        LOG_WARN("`warren-agent inspect` will not work", LOG_STR("why", diag_text(&d)));
}

/* ---- start and end ---- */

static void apply_log(const struct agent_settings *s)
{
    log_setup((enum log_level)s->log_level, (enum log_format)s->log_format, STDERR_FILENO);
}

/* Pings of mounts (net/echo_target.h) need what a system does not give every process. */
static void say_how_it_pings(void)
{
    enum ping_way v4 = ping_find_way(false), v6 = ping_find_way(true);
    if (v4 == PING_NOT_PERMITTED || v6 == PING_NOT_PERMITTED)
        LOG_WARN("pings through mounts will not be answered: permit this process's group in "
                 "net.ipv4.ping_group_range, or give it CAP_NET_RAW",
                 LOG_STR("ipv4", ping_way_text(v4)), LOG_STR("ipv6", ping_way_text(v6)));
}

/* NULL: none are known, or not to be used. */
static json_t *read_known_hubs(const struct agent *a)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf text = {.limit = HUBS_FILE_MAX + 1};
    CLEANUP(mem_free) char *path = mem_printf("%s/%s", a->settings->data, HUBS_FILE);
    if (a->settings->fixed_hubs || file_read(path, HUBS_FILE_MAX, false, &text, NULL) < 0)
        return NULL;
    return json_loadb(text.data, text.len, 0, NULL);
}

static int start_session(struct agent *a, const struct ceiling *ceiling, struct diag *d)
{
    const struct conf_list *hubs = &a->settings->hubs;
    json_t *known = read_known_hubs(a);
    const struct session_config cfg = {.loop = a->loop,
                                       .identity = &a->identity,
                                       .hubs = hubs->n ? (const char *const *)hubs->items
                                                       : (const char *const *)a->identity.hubs,
                                       .n_hubs = hubs->n ? hubs->n : a->identity.n_hubs,
                                       .fixed_hubs = a->settings->fixed_hubs,
                                       .known_hubs = known,
                                       .allow = ceiling->texts,
                                       .n_allow = ceiling->n,
                                       .hostname = a->hostname,
                                       .instance = a->instance_text,
                                       .discovery = !a->settings->no_discovery,
                                       .on_up = on_up,
                                       .on_event = on_event,
                                       .on_down = on_down,
                                       .on_moved = on_moved,
                                       .on_left_over = on_left_over,
                                       .on_hubs = on_hubs,
                                       .on_request = on_request,
                                       .on_shortcut = on_shortcut,
                                       .on_certificate = on_certificate,
                                       .arg = a};
    int rc = session_new(&cfg, &a->session, d);
    json_decref(known);
    if (rc < 0)
        return rc;
    tunnel_agent_attach(a->tunnels, a->session);
    const struct lan_config lan = {
        .loop = a->loop, .agent = a->identity.id, .instance = a->instance, .session = a->session};
    if (!a->settings->no_discovery)
        a->lan = lan_new(&lan);
    return 0;
}

static int start(struct agent *a, struct diag *d)
{
    struct ceiling ceiling;
    io_raise_descriptor_limit();
    tls_load_texts_late();
    gethostname(a->hostname, sizeof(a->hostname) - 1);
    random_bytes(&a->instance, sizeof(a->instance));
    text_hex(&a->instance, sizeof(a->instance), a->instance_text);
    TRY(agent_identity_load(a->settings->data, &a->identity, d));
    TRY(read_ceiling(a, &ceiling, d));
    const struct tunnel_agent_config tunnels = {.loop = a->loop,
                                                .allow = ceiling.rules,
                                                .n_allow = ceiling.n,
                                                .no_read_ahead = a->settings->no_read_ahead};
    a->tunnels = tunnel_agent_new(&tunnels);
    TRY(start_session(a, &ceiling, d));
    const struct agent_renewal_config renewal = {.loop = a->loop,
                                                 .dir = a->settings->data,
                                                 .agent = &a->identity,
                                                 .on_renewed = on_renewed,
                                                 .on_failed = on_renewal_failed,
                                                 .arg = a};
    a->renewal = agent_renewal_start(&renewal);
    start_view(a);
    say_how_it_pings();
    LOG_INFO("agent started", LOG_STR("agent", a->identity.id), LOG_STR("version", WARREN_VERSION),
             LOG_INT("allow_rules", ceiling.n));
    notify_ready(&a->notify);
    return 0;
}

static void on_drain_timer(struct timer *t)
{
    struct agent *a = container_of(t, struct agent, drain_timer);
    uint64_t now = loop_now_ms(a->loop);
    bool is_idle = tunnel_agent_streams(a->tunnels) == 0 && now >= a->drain_began + HAND_OVER_MS;
    if (tunnel_agent_leases(a->tunnels) == 0 || is_idle || now >= a->drain_ends)
        loop_stop(a->loop);
    else
        timer_start(t, DRAIN_CHECK_MS);
}

static void on_terminate(void *arg, int signum)
{
    struct agent *a = arg;
    if (a->is_stopping) {
        loop_stop(a->loop);
        return;
    }
    a->is_stopping = true;
    notify_stopping(&a->notify);
    LOG_INFO("stopping", LOG_INT("streams", tunnel_agent_streams(a->tunnels)));
    a->drain_began = loop_now_ms(a->loop);
    a->drain_ends = a->drain_began + (uint64_t)a->settings->drain_grace_ms;
    tunnel_agent_leave(a->tunnels, (uint32_t)a->settings->drain_grace_ms);
    timer_start(&a->drain_timer, 0);
}

static void on_reload(void *arg, int signum)
{
    struct agent *a = arg;
    struct diag d = {0};
    struct ceiling ceiling;
    notify_reloading(&a->notify);
    if (conf_reload(a->conf, a->sources, conf_log_change, a, &d) < 0 ||
        read_ceiling(a, &ceiling, &d) < 0) {
        LOG_ERROR("reload refused, the old settings stay", LOG_STR("why", diag_text(&d)));
    } else {
        apply_log(a->settings);
        tunnel_agent_set_allow(a->tunnels, ceiling.rules, ceiling.n);
        session_set_allow(a->session, ceiling.texts, ceiling.n);
        LOG_INFO("reloaded", LOG_INT("allow_rules", ceiling.n));
    }
    notify_ready(&a->notify);
}

static void tear_down(struct agent *a)
{
    if (a->renewal)
        agent_renewal_free(a->renewal);
    agent_view_free(a->view);
    session_free(a->session);
    lan_free(a->lan);
    tunnel_agent_free(a->tunnels);
    notify_done(&a->notify);
    loop_settle(a->loop);
    loop_free(a->loop);
    agent_identity_done(&a->identity);
    conf_free(a->conf);
}

int agent_main(const struct conf_sources *sources)
{
    struct agent a = {.sources = sources};
    struct diag d = {0};
    if (conf_load(&agent_conf_table, sources, &a.conf, &d) < 0) {
        fprintf(stderr, "warren-agent: %s%s%s\n", d.field, d.field[0] ? ": " : "", diag_text(&d));
        return 2;
    }
    a.settings = conf_settings(a.conf);
    apply_log(a.settings);
    if (loop_new(&a.loop) < 0) {
        fprintf(stderr, "warren-agent: cannot make an event loop\n");
        conf_free(a.conf);
        return 1;
    }
    notify_init(&a.notify, a.loop);
    timer_init(&a.drain_timer, a.loop, on_drain_timer);
    signal(SIGPIPE, SIG_IGN);
    int rc = start(&a, &d);
    if (rc == 0) {
        loop_on_signal(a.loop, SIGTERM, on_terminate, &a);
        loop_on_signal(a.loop, SIGINT, on_terminate, &a);
        loop_on_signal(a.loop, SIGHUP, on_reload, &a);
        loop_run(a.loop);
        LOG_INFO("agent stopped");
    } else {
        fprintf(stderr, "warren-agent: %s\n", diag_text(&d));
    }
    tear_down(&a);
    return rc == 0 ? 0 : rc == ERR_NOT_FOUND || rc == ERR_INVALID ? 2 : 1;
}
