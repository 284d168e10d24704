/*
 * The rotation of the CA as the fleet goes through it: agents are told of its roots and say which
 * they trust; an operator sees who does not yet, and takes the next step.
 *
 *   login, change of roots ─► TrustedRoots ─► the agent keeps them ─► ReportRoots ─► agent.knows
 *
 * Many agents are told a few at a time, so that the hub does other things in between.
 */
#include "fleet/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/time.h"
#include "http/rest.h"
#include "identity/identity.h"
#include "pki/token.h"
#include "rpc/server.h"
#include "warren/v1/agent.pb-c.h"

#include <stdio.h>
#include <string.h>

#define TELL_MANY     200
#define TELL_PAUSE_MS 20
#define RENEW_EACH_MS 1000              /* as enrolments of one address are paced, */
#define RENEW_MAX_MS  (4 * 3600 * 1000) /* in any case before most renew by themselves */
#define ROOTS_SHOWN   16
#define NAMES_SHOWN   20
#define UNAWARE_MAX   200000

/* ---- telling agents ---- */

static void tell(struct fleet_agent *a)
{
    struct fleet *f = a->fleet;
    const struct roots *roots = identity_roots(f->identity);
    ProtobufCBinaryData list[ROOTS_MAX] = {0};
    Warren__V1__TrustedRoots t = WARREN__V1__TRUSTED_ROOTS__INIT;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    struct buf der[ROOTS_MAX] = {0};
    int64_t hurry = MIN((int64_t)f->online * RENEW_EACH_MS, (int64_t)RENEW_MAX_MS);
    for (size_t i = 0; i < roots->n; i++) {
        cert_to_der(roots->certs[i], &der[i]);
        list[i] = (ProtobufCBinaryData){.len = der[i].len, .data = (uint8_t *)der[i].data};
    }
    t.n_certificates = roots->n;
    t.certificates = list;
    t.renew_ms = identity_is_moving(f->identity) ? (uint32_t)hurry : 0;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_TRUSTED_ROOTS;
    event.trusted_roots = &t;
    fleet_send(a, &event);
    a->roots_told = identity_roots_digest(f->identity);
    for (size_t i = 0; i < roots->n; i++)
        buf_done(&der[i]);
}

static void on_roots_timer(struct timer *t)
{
    struct fleet *f = container_of(t, struct fleet, roots_timer);
    uint64_t digest = identity_roots_digest(f->identity);
    size_t n = 0;
    for (struct fleet_agent *a = f->agents; a && n <= TELL_MANY; a = a->hh.next) {
        if (!a->call || !a->roots || a->roots == digest || a->roots_told == digest)
            continue;
        if (++n <= TELL_MANY)
            tell(a);
    }
    if (n > TELL_MANY)
        timer_start(t, TELL_PAUSE_MS);
}

void fleet_roots_changed(struct fleet *f)
{
    if (f->identity && !f->is_stopping)
        timer_start(&f->roots_timer, 0);
}

/* ---- what agents say ---- */

struct knowing {
    char agent[ID_SIZE];
    int64_t root;
};

static int write_knowing(struct tx *tx, void *arg)
{
    const struct knowing *k = arg;
    return identity_agent_knows(tx, k->agent, k->root);
}

static void knowing_written(void *arg, int err)
{
    CLEANUP(mem_free) struct knowing *k = arg;
    if (err < 0)
        LOG_WARN("cannot record which roots an agent trusts", LOG_STR("agent", k->agent),
                 LOG_ERR(err));
}

/* `digest` is of the list that it trusts. */
static void take_report(struct fleet *f, struct fleet_agent *a, uint64_t digest)
{
    int64_t newest = identity_newest_root(f->identity);
    a->roots = digest;
    if (digest != identity_roots_digest(f->identity) || a->knows == newest)
        return;
    struct knowing *k = NEW(struct knowing);
    snprintf(k->agent, sizeof(k->agent), "%s", a->id);
    k->root = a->knows = newest;
    store_run(f->cfg.store, STORE_WRITE, write_knowing, knowing_written, k);
}

void fleet_ca_on_login(struct fleet *f, struct fleet_agent *a, uint64_t roots)
{
    a->roots = roots;
    a->roots_told = 0;
    if (!f->identity || !roots)
        return;
    take_report(f, a, roots);
    /* One that missed the change of the signing root is told too: its certificate may wait. */
    if (roots != identity_roots_digest(f->identity))
        tell(a);
}

static void handle_report(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__ReportRootsRequest *req = (const Warren__V1__ReportRootsRequest *)msg;
    struct fleet *f = ctx;
    struct fleet_agent *a = fleet_caller(f, call, req->session_epoch);
    if (!a)
        return;
    take_report(f, a, req->roots);
    Warren__V1__ReportRootsResponse answer = WARREN__V1__REPORT_ROOTS_RESPONSE__INIT;
    rpc_reply(call, &answer.base);
}

/* ---- what the database says ---- */

struct root_facts {
    int64_t id, created, signs, retired, until, agents;
    char fingerprint[2 * CERT_FINGERPRINT_SIZE + 1];
};

struct unaware {
    char id[ID_SIZE], name[FLEET_NAME_SIZE];
};

struct facts {
    struct fleet *fleet;
    struct http_request *req;
    struct identity_caller by;
    enum identity_ca_step step; /* IDENTITY_CA_STEP_COUNT: only shown */
    bool is_forced;
    struct root_facts roots[ROOTS_SHOWN]; /* newest first */
    size_t n_roots;
    char seal[SEAL_TEXT_SIZE];
    int64_t agents, aware, old; /* that are not revoked: all; that trust the newest root; whose
                                   certificate is by an older one than that which signs */
    int64_t tokens;             /* for enrolment that end with the older root */
    int64_t old_ends;           /* when the last of those certificates does */
    struct unaware *unaware;
    size_t n_unaware, n_waiting; /* the latter: those of them that are logged in */
};

static void facts_free(struct facts *s)
{
    mem_free(s->unaware);
    mem_free(s);
}

static int read_roots(struct tx *tx, struct facts *s)
{
    int rc;
    struct rows rows = tx_query(tx,
                                "SELECT id, created, signs, retired, cert, seal FROM ca "
                                "ORDER BY id DESC LIMIT $1",
                                STORE_INT(ROOTS_SHOWN));
    while ((rc = row_next(&rows)) > 0) {
        CLEANUP(cert_free) X509 *cert = NULL;
        uint8_t fingerprint[CERT_FINGERPRINT_SIZE];
        struct cert_times times = {0};
        const char *pem = row_text(&rows, 4), *seal = row_text(&rows, 5);
        struct root_facts *r = &s->roots[s->n_roots++];
        TRY(cert_from_pem(pem, strlen(pem), &cert));
        TRY(cert_fingerprint(cert, fingerprint));
        TRY(cert_times(cert, &times));
        *r = (struct root_facts){.id = row_int(&rows, 0),
                                 .created = row_int(&rows, 1),
                                 .signs = row_int(&rows, 2),
                                 .retired = row_int(&rows, 3),
                                 .until = times.not_after_ms};
        text_hex(fingerprint, sizeof(fingerprint), r->fingerprint);
        if (!s->seal[0])
            snprintf(s->seal, sizeof(s->seal), "%s", seal ? seal : "");
    }
    return rc;
}

/* A hub that keeps the CA in its folder has no row before its first rotation. */
static int take_only_root(struct facts *s)
{
    X509 *cert = identity_roots(s->fleet->identity)->certs[0];
    uint8_t fingerprint[CERT_FINGERPRINT_SIZE];
    struct cert_times times;
    struct root_facts *r = &s->roots[s->n_roots++];
    TRY(cert_fingerprint(cert, fingerprint));
    TRY(cert_times(cert, &times));
    *r = (struct root_facts){.id = 1,
                             .created = times.not_before_ms,
                             .signs = times.not_before_ms,
                             .until = times.not_after_ms};
    text_hex(fingerprint, sizeof(fingerprint), r->fingerprint);
    return 0;
}

static int count_agents(struct tx *tx, struct facts *s)
{
    int rc;
    struct rows rows =
        tx_query(tx, "SELECT root, COUNT(*) FROM agent WHERE revoked IS NULL GROUP BY root");
    while ((rc = row_next(&rows)) > 0) {
        s->agents += row_int(&rows, 1);
        for (size_t i = 0; i < s->n_roots; i++) {
            if (s->roots[i].id == row_int(&rows, 0))
                s->roots[i].agents = row_int(&rows, 1);
        }
    }
    return rc;
}

static int read_unaware(struct tx *tx, struct facts *s, int64_t newest)
{
    size_t room = 0;
    int rc;
    struct rows rows = tx_query(tx,
                                "SELECT id, name FROM agent WHERE revoked IS NULL AND knows < $1 "
                                "ORDER BY name LIMIT $2",
                                STORE_INT(newest), STORE_INT(UNAWARE_MAX));
    while ((rc = row_next(&rows)) > 0) {
        if (s->n_unaware == room) {
            room = room ? 2 * room : 64;
            s->unaware = mem_grow(s->unaware, room * sizeof(*s->unaware));
        }
        struct unaware *u = &s->unaware[s->n_unaware++];
        snprintf(u->id, sizeof(u->id), "%s", row_text(&rows, 0));
        snprintf(u->name, sizeof(u->name), "%s", row_text(&rows, 1));
    }
    return rc;
}

static int64_t newest_of(const struct facts *s, bool signs)
{
    for (size_t i = 0; i < s->n_roots; i++) {
        if (!s->roots[i].retired && (s->roots[i].signs || !signs))
            return s->roots[i].id;
    }
    return 1;
}

static int read_facts(struct tx *tx, void *arg)
{
    struct facts *s = arg;
    int64_t newest, signing, unaware;
    s->n_roots = s->n_unaware = 0;
    s->agents = 0;
    TRY(read_roots(tx, s));
    newest = newest_of(s, false);
    signing = newest_of(s, true);
    TRY(count_agents(tx, s));
    TRY(read_unaware(tx, s, newest));
    TRY(tx_query_int(tx, &unaware,
                     "SELECT COUNT(*) FROM agent WHERE revoked IS NULL AND knows < $1",
                     STORE_INT(newest)));
    s->aware = s->agents - unaware;
    TRY(tx_query_int(tx, &s->old, "SELECT COUNT(*) FROM agent WHERE revoked IS NULL AND root < $1",
                     STORE_INT(signing)));
    TRY(tx_query_int(tx, &s->tokens,
                     "SELECT COUNT(*) FROM token WHERE kind = $3 AND revoked IS NULL AND "
                     "(expires IS NULL OR expires > $1) AND root < $2 AND "
                     "(uses_limit IS NULL OR uses < uses_limit)",
                     STORE_INT(time_wall_ms()), STORE_INT(signing), STORE_INT(TOKEN_BOOTSTRAP)));
    return tx_query_int(tx, &s->old_ends,
                        "SELECT COALESCE(MAX(not_after), 0) FROM agent WHERE revoked IS NULL "
                        "AND root < $1",
                        STORE_INT(signing));
}

/* ---- as JSON ---- */

static json_t *root_json(const struct facts *s, const struct root_facts *r)
{
    const char *state = r->retired                    ? "retired"
                        : r->id == newest_of(s, true) ? "signing"
                        : r->id > newest_of(s, true)  ? "next"
                                                      : "old";
    return json_pack("{s:I, s:s, s:s, s:o, s:o, s:o, s:o, s:I}", "id", (json_int_t)r->id,
                     "fingerprint", r->fingerprint, "state", state, "created",
                     rest_time(r->created), "since", rest_time(r->signs), "until",
                     rest_time(r->until), "retired", rest_time(r->retired), "agents",
                     (json_int_t)r->agents);
}

static const char *stage_of(const struct facts *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_roots; i++)
        n += !s->roots[i].retired;
    return n < 2 ? "stable" : newest_of(s, false) == newest_of(s, true) ? "moving" : "learning";
}

static const char *kept_in(const struct facts *s)
{
    return !s->seal[0] ? "files" : seal_text_is_passphrase(s->seal) ? "passphrase" : "key file";
}

/* Hubs that live and do not trust the newest root yet: {"id", "name"}. */
static json_t *hubs_waiting(const struct facts *s, size_t *ret_total)
{
    json_t *list = json_array();
    int64_t newest = newest_of(s, false);
    size_t total = 1;
    for (const struct fleet_hub *h = fleet_hubs(s->fleet); h; h = h->hh.next) {
        if (!fleet_hub_is_live(s->fleet, h->id, h->epoch))
            continue;
        total++;
        if (h->roots < newest)
            json_array_append_new(list, json_pack("{s:s, s:s}", "id", h->id, "name", h->name));
    }
    *ret_total = total;
    return list;
}

static bool is_online(const struct facts *s, const struct unaware *u)
{
    const struct fleet_agent *a = fleet_agent_find(s->fleet, u->id);
    return a && fleet_agent_is_online(a);
}

/* Agents that are logged in and have not learned of it: some of them. */
static json_t *agents_waiting(struct facts *s)
{
    json_t *list = json_array();
    s->n_waiting = 0;
    for (size_t i = 0; i < s->n_unaware; i++) {
        if (!is_online(s, &s->unaware[i]))
            continue;
        if (s->n_waiting++ < NAMES_SHOWN)
            json_array_append_new(
                list, json_pack("{s:s, s:s}", "id", s->unaware[i].id, "name", s->unaware[i].name));
    }
    return list;
}

static json_t *facts_json(struct facts *s)
{
    size_t hubs;
    json_t *roots = json_array(), *behind = hubs_waiting(s, &hubs), *waiting = agents_waiting(s);
    for (size_t i = 0; i < s->n_roots; i++)
        json_array_append_new(roots, root_json(s, &s->roots[i]));
    size_t n_behind = json_array_size(behind);
    json_t *agents = json_pack("{s:I, s:I, s:I, s:I, s:o, s:o}", "total", (json_int_t)s->agents,
                               "aware", (json_int_t)s->aware, "old", (json_int_t)s->old, "waiting",
                               (json_int_t)s->n_waiting, "waiting_for", waiting, "old_ends",
                               rest_time(s->old ? s->old_ends : 0));
    return json_pack("{s:s, s:s, s:o, s:o, s:I, s:{s:I, s:I, s:o}}", "stage", stage_of(s),
                     "kept_in", kept_in(s), "roots", roots, "agents", agents, "old_tokens",
                     (json_int_t)s->tokens, "hubs", "total", (json_int_t)hubs, "aware",
                     (json_int_t)(hubs - n_behind), "waiting_for", behind);
}

/* ---- rows ---- */

static void facts_read(void *arg, int err)
{
    struct facts *s = arg;
    if (err == 0 && !s->n_roots)
        err = take_only_root(s);
    if (err < 0)
        http_respond_error(s->req, err, "cannot read the CA's state: %s", error_text(err));
    else
        http_respond_json(s->req, 200, facts_json(s), 0);
    facts_free(s);
}

static struct facts *facts_new(struct fleet *f, struct http_request *req)
{
    struct facts *s = NEW(struct facts);
    s->fleet = f;
    s->req = req;
    s->by = *identity_caller(req);
    s->step = IDENTITY_CA_STEP_COUNT;
    return s;
}

static void get_ca(struct http_request *req, void *ctx)
{
    struct fleet *f = ctx;
    store_run(f->cfg.store, STORE_READ, read_facts, facts_read, facts_new(f, req));
}

static void step_taken(void *arg, const struct diag *result)
{
    struct facts *s = arg;
    if (result->code == 0) {
        store_run(s->fleet->cfg.store, STORE_READ, read_facts, facts_read, s);
        return;
    }
    http_respond_diag(s->req, result);
    facts_free(s);
}

/* Other hubs must trust a root before it signs, and know of rotation before there is one. */
static int check_hubs(const struct facts *s, struct diag *d)
{
    int64_t least = s->step == IDENTITY_CA_SIGN ? newest_of(s, false) : 1;
    for (const struct fleet_hub *h = fleet_hubs(s->fleet); h; h = h->hh.next) {
        if (!fleet_hub_is_live(s->fleet, h->id, h->epoch) || h->roots >= least)
            continue;
        return diag_set_field(d, ERR_CONFLICT, "hubs",
                              h->roots ? "the hub %s (%s) has not learned the new root yet"
                                       : "the hub %s (%s) is of a version that cannot rotate the "
                                         "CA",
                              h->id, h->name);
    }
    return 0;
}

static int check_agents(struct facts *s, struct diag *d)
{
    json_t *some = agents_waiting(s);
    const char *first = json_string_value(json_object_get(json_array_get(some, 0), "name"));
    int rc = 0;
    if (s->n_waiting && !s->is_forced)
        rc = diag_set_field(d, ERR_CONFLICT, "agents",
                            "%zu agents that are connected have not learned the new root yet, such "
                            "as %.70s",
                            s->n_waiting, first);
    json_decref(some);
    return rc;
}

static void step_facts_read(void *arg, int err)
{
    struct facts *s = arg;
    struct diag d = {0};
    if (err == 0 && !s->n_roots)
        err = take_only_root(s);
    if (err < 0)
        diag_set(&d, err, "cannot read the CA's state: %s", error_text(err));
    if (!d.code && s->step <= IDENTITY_CA_SIGN)
        check_hubs(s, &d);
    if (!d.code && s->step == IDENTITY_CA_SIGN)
        check_agents(s, &d);
    if (d.code)
        step_taken(s, &d);
    else
        identity_ca_rotate(s->fleet->identity, &s->by, s->step, s->is_forced, step_taken, s);
}

static int read_step(struct http_request *req, struct facts *s, struct diag *d)
{
    static const char *const members[] = {"step", "force", NULL};
    const char *const *names = identity_ca_steps();
    const char *name = NULL;
    json_t *body;
    TRY(rest_body(req, &body, d));
    TRY(rest_only(body, "", members, d));
    TRY(rest_text(body, "step", true, &name, d));
    TRY(rest_bool(body, "force", false, &s->is_forced, d));
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], name) == 0) {
            s->step = (enum identity_ca_step)i;
            return 0;
        }
    }
    return diag_set_field(d, ERR_INVALID, "step",
                          "\"%.40s\" is not one of start, sign, finish, cancel", name);
}

static void rotate_ca(struct http_request *req, void *ctx)
{
    struct fleet *f = ctx;
    struct diag d = {0};
    struct facts *s = facts_new(f, req);
    if (read_step(req, s, &d) < 0)
        step_taken(s, &d);
    else
        store_run(f->cfg.store, STORE_READ, read_facts, step_facts_read, s);
}

static const struct http_route routes[] = {
    {"GET", "/api/v1/ca", HTTP_ADMIN, 0, get_ca, "Shows the CA's roots and who trusts them"},
    {"POST", "/api/v1/ca:rotate", HTTP_ADMIN, REST_BODY_MAX, rotate_ca,
     "Takes a step of the CA's rotation"},
};

static const struct rpc_method methods[] = {
    {"/warren.v1.AgentService/ReportRoots", RPC_UNARY,
     &warren__v1__report_roots_request__descriptor, handle_report},
};

void fleet_ca_new(struct fleet *f, struct identity *identity, struct http_server *http)
{
    f->identity = identity;
    timer_init(&f->roots_timer, f->cfg.loop, on_roots_timer);
    rpc_server_add(f->rpc, methods, ARRAY_SIZE(methods), f);
    http_server_add(http, routes, ARRAY_SIZE(routes), f);
}

void fleet_ca_done(struct fleet *f)
{
    if (f->identity)
        timer_stop(&f->roots_timer);
}
