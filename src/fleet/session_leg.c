/* Logins of an agent at one hub each: dialled, shaken hands, asked. */
#include "fleet/session_internal.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/time.h"
#include "fleet/reverse.h"
#include "fleet/shortcut.h"
#include "net/conn.h"
#include "net/dialer.h"
#include "net/interface.h"
#include "net/tls.h"
#include "warren/v1/agent.pb-c.h"

#include <stdio.h>
#include <string.h>

#define ADDRESSES_MAX 8 /* of this machine that the hub is told */

void session_leg_free(struct leg *l)
{
    timer_stop(&l->timer);
    if (l->dial)
        dial_cancel(l->dial);
    shortcuts_free(l->shortcuts);
    reverse_pool_free(l->pool);
    if (l->rpc)
        rpc_client_free(l->rpc);
    tls_client_unref(l->control);
    tls_client_unref(l->reverse);
    mem_free(l);
}

static void on_no_welcome(struct timer *t)
{
    struct leg *l = container_of(t, struct leg, timer);
    struct diag d = {0};
    diag_set(&d, ERR_TIMEOUT, "the hub does not answer the login");
    session_leg_fail(l, &d, comeback_after_login(&l->session->comeback));
}

/* ---- login ---- */

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

static int open_stream(struct leg *l, struct conn *c)
{
    struct session *s = l->session;
    char addresses[ADDRESSES_MAX][ADDR_TEXT_SIZE], *list[ADDRESSES_MAX];
    char authority[HOST_SIZE + 8];
    host_port_format(&l->hub.at, authority, sizeof(authority));
    size_t n_addresses = own_addresses(c, addresses, list);
    int rc = rpc_client_new(c, authority, session_on_rpc_close, l, &l->rpc);
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
    timer_start(&l->timer, SESSION_WELCOME_MS);
    rpc_call_stream(l->rpc, "/warren.v1.AgentService/Connect", &req.base,
                    &warren__v1__hub_event__descriptor, 0, session_on_message,
                    session_on_stream_end, l);
    return 0;
}

/* The hub has hung up before it said a word: it has more to do than it can. */
static bool is_busy(const struct dial_result *r)
{
    return r->is_answered && (r->err == ERR_RESET || r->err == ERR_CLOSED);
}

static uint32_t delay_after(struct session *s, const struct dial_result *r)
{
    enum comeback_dial how = is_busy(r)       ? COMEBACK_BUSY
                             : r->is_answered ? COMEBACK_REFUSED
                                              : COMEBACK_UNANSWERED;
    return comeback_after_dial(&s->comeback, how, hub_list_has_untried(&s->hubs, ""));
}

static void on_dialled(void *arg, const struct dial_result *r)
{
    struct leg *l = arg;
    struct session *s = l->session;
    struct diag d = r->diag;
    l->dial = NULL;
    if (r->err == 0) {
        struct hub_entry *e = hub_list_find(&s->hubs, l->hub.id, &l->hub.at);
        l->hub.known = r->peer;
        if (e)
            e->known = r->peer;
        int rc = open_stream(l, r->conn);
        if (rc == 0)
            return;
        diag_set(&d, rc, "cannot open a session: %s", error_text(rc));
    }
    if (is_busy(r))
        diag_set(&d, r->err, "the hub is overloaded: it has hung up");
    if (!d.code)
        diag_set(&d, r->err, "%s", error_text(r->err));
    session_look_at_certificate(s, r->err);
    session_leg_fail(l, &d, delay_after(s, r));
}

/* ---- dialling ---- */

int session_make_tls(const struct session *s, const char *server_name, const char *alpn,
                     struct tls_client **ret, struct diag *d)
{
    const struct agent_identity *id = s->cfg.identity;
    const struct tls_client_config cfg = {.ca_pem = id->ca_pem,
                                          .chain_pem = id->cert_pem,
                                          .key_pem = &id->key_pem,
                                          .server_name = server_name,
                                          .alpn = {alpn}};
    return tls_client_new(&cfg, ret, d);
}

int session_leg_load_tls(struct leg *l, struct diag *d)
{
    struct tls_client *control, *reverse;
    const char *name = l->hub.id[0] ? l->hub.id : l->hub.at.host;
    TRY(session_make_tls(l->session, name, "warren-agent/1", &control, d));
    int rc = session_make_tls(l->session, name, "warren-reverse/1", &reverse, d);
    if (rc < 0) {
        tls_client_unref(control);
        return rc;
    }
    tls_client_unref(l->control);
    tls_client_unref(l->reverse);
    l->control = control;
    l->reverse = reverse;
    if (l->pool)
        reverse_pool_set_tls(l->pool, l->reverse);
    return 0;
}

struct leg *session_leg_new(struct session *s, const struct hub_entry *e)
{
    struct leg *l = NEW(struct leg);
    char at[HOST_SIZE + 8];
    l->session = s;
    l->hub = *e;
    host_port_format(&e->at, at, sizeof(at));
    snprintf(l->name, sizeof(l->name), "https://%s", at);
    timer_init(&l->timer, s->cfg.loop, on_no_welcome);
    return l;
}

int session_leg_dial(struct leg *l, struct diag *d)
{
    struct session *s = l->session;
    bool has_others = s->hubs.n > 1 && l->hub.id[0];
    if (agent_identity_is_expired(s->cfg.identity, time_wall_ms())) {
        s->cfg.on_certificate(s->cfg.arg);
        return diag_set(d, ERR_EXPIRED, "the certificate has ended; renewing it first");
    }
    TRY(session_leg_load_tls(l, d));
    const struct dial_params p = {.target = l->hub.at,
                                  .deadline_ms = has_others ? comeback_dial_ms(&s->comeback) : 0,
                                  .is_persistent = true,
                                  .known = l->hub.known,
                                  .tls = l->control,
                                  .on_done = on_dialled,
                                  .arg = l};
    l->dial = dial_start(s->cfg.loop, &p);
    return 0;
}
