/*
 * Who may come in by a tunnel's public name. A password is checked on another thread, few at a
 * time; what fitted is remembered for a while (as a keyed digest), because a browser sends it with
 * each request.
 */
#include "tunnel/web_internal.h"

#include "base/log.h"
#include "base/mem.h"
#include "identity/identity.h"
#include "identity/identity_model.h"
#include "loop/work.h"

#include <stdio.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#define RUNNING_MAX    2 /* password checks at once: each takes a thread and 19 MiB */
#define WAITING_MAX    32
#define PER_SOURCE_MAX 4
#define MEMORY_MS      (10 * 60 * 1000)
#define MEMORY_MAX     4096

struct web_memory {
    uint8_t mac[MAC_SIZE];
    uint64_t until_ms;
    UT_hash_handle hh;
};

/* ---- refusals ---- */

static bool refuse(struct web_ask *a, const struct tunnel_object *o, int status, const char *text)
{
    char client[ADDR_TEXT_SIZE];
    addr_format_ip(&a->q.peer, client, sizeof(client));
    LOG_DEBUG("request refused", LOG_STR("tunnel", o->t.id), LOG_STR("client", client),
              LOG_INT("status", status));
    web_answer(a, status, NULL, text);
    web_decided(a);
    return false;
}

static bool ask_for_password(struct web_ask *a, const struct tunnel_object *o, const char *text)
{
    web_header(a, "www-authenticate", "Basic realm=\"tunnel\", charset=\"UTF-8\"");
    return refuse(a, o, 401, text);
}

/* ---- what fitted of late ---- */

static bool is_remembered(struct tunnel_web *w, const uint8_t mac[MAC_SIZE])
{
    struct web_memory *m;
    HASH_FIND(hh, w->memory, mac, MAC_SIZE, m);
    if (!m)
        return false;
    if (m->until_ms > loop_now_ms(w->tunnels->loop))
        return true;
    HASH_DEL(w->memory, m);
    w->n_memory--;
    mem_free(m);
    return false;
}

static void remember(struct tunnel_web *w, const uint8_t mac[MAC_SIZE])
{
    if (is_remembered(w, mac))
        return;
    if (w->n_memory >= MEMORY_MAX) {
        struct web_memory *oldest = w->memory;
        HASH_DEL(w->memory, oldest);
        w->n_memory--;
        mem_free(oldest);
    }
    struct web_memory *m = NEW(struct web_memory);
    memcpy(m->mac, mac, MAC_SIZE);
    m->until_ms = loop_now_ms(w->tunnels->loop) + MEMORY_MS;
    HASH_ADD(hh, w->memory, mac, MAC_SIZE, m);
    w->n_memory++;
}

/* ---- auth basic ---- */

static void run_next(struct tunnel_web *w);

static void check_on_pool(void *arg)
{
    struct web_ask *a = arg;
    a->check.fits = password_fits(a->check.hash, a->check.password) && a->check.may_fit;
}

/* The tunnel is looked up again: it may have changed meanwhile. */
static void checked(void *arg)
{
    struct web_ask *a = arg;
    struct tunnels *ts = a->tunnels;
    struct tunnel_web *w = ts->web;
    struct tunnel_object *o = tunnel_find(ts, a->check.tunnel);
    DL_DELETE2(w->checks, a, check.prev, check.next);
    w->n_checks--;
    w->n_running--;
    if (!o || o->t.version != a->check.version) {
        web_answer(a, 503, NULL, "the tunnel has just been changed; try again");
        web_decided(a);
    } else if (a->check.fits) {
        remember(w, a->check.mac);
        web_let_in(a, o);
        web_decided(a);
    } else {
        char client[ADDR_TEXT_SIZE];
        addr_format_ip(&a->q.peer, client, sizeof(client));
        LOG_INFO("wrong user or password", LOG_STR("tunnel", o->t.id), LOG_STR("client", client));
        ask_for_password(a, o, "user and password do not fit");
    }
    run_next(w);
}

static void run_next(struct tunnel_web *w)
{
    struct web_ask *a = w->checks;
    for (size_t i = 0; a && i < w->n_running; i++)
        a = a->check.next;
    if (!a || w->n_running >= RUNNING_MAX)
        return;
    w->n_running++;
    loop_work(w->tunnels->loop, check_on_pool, checked, a);
}

static bool has_room(const struct tunnel_web *w, const struct web_ask *asked)
{
    const struct web_ask *a;
    size_t same = 0;
    DL_FOREACH2 (w->checks, a, check.next)
        same += addr_same_origin(&a->q.peer, &asked->q.peer);
    return w->n_checks < WAITING_MAX && same < PER_SOURCE_MAX;
}

static bool check_password(struct web_ask *a, struct tunnel_object *o, const char *user,
                           const char *password)
{
    struct tunnel_web *w = o->owner->web;
    const struct tunnel_access *who = &o->t.spec.who;
    const struct tunnel_user *u = tunnel_access_user(who, user);
    const char *hash = u ? u->secret : who->users[0].secret; /* so that both take as long */
    mac_make(w->keys[0], arena_printf(&a->arena, "password|%s|%s|%s", o->t.id, hash, password),
             a->check.mac);
    if (u && is_remembered(w, a->check.mac))
        return true;
    if (!has_room(w, a)) {
        web_header(a, "retry-after", "1");
        return refuse(a, o, 503, "too many passwords are being checked; try again");
    }
    a->check.may_fit = u != NULL;
    a->check.password = arena_strdup(&a->arena, password);
    a->check.version = o->t.version;
    snprintf(a->check.tunnel, sizeof(a->check.tunnel), "%s", o->t.id);
    snprintf(a->check.hash, sizeof(a->check.hash), "%s", hash);
    DL_APPEND2(w->checks, a, check.prev, check.next);
    w->n_checks++;
    run_next(w);
    return false;
}

static bool gate_basic(struct web_ask *a, struct tunnel_object *o)
{
    char user[IDENTITY_NAME_SIZE];
    CLEANUP(secret_done) struct secret password = {0};
    if (basic_parse(a->q.authorization, user, &password) < 0)
        return ask_for_password(a, o, "a user and a password are needed");
    return check_password(a, o, user, password.data);
}

/* ---- auth api-token ---- */

/* The token may also come as the password of Basic, for programs that know nothing else. */
static bool is_token_of_tenant(struct web_ask *a, const struct tunnel_object *o)
{
    char user[IDENTITY_NAME_SIZE];
    CLEANUP(secret_done) struct secret token = {0};
    const char *bearer = a->q.authorization;
    struct identity_caller by;
    struct diag d = {0};
    if (basic_parse(a->q.authorization, user, &token) == 0)
        bearer = arena_printf(&a->arena, "Bearer %s", token.data);
    return identity_authenticate(o->owner->web->identity, bearer, &a->q.peer, &by, &d) == 0 &&
           strcmp(by.tenant, o->t.tenant) == 0;
}

static bool gate_api_token(struct web_ask *a, struct tunnel_object *o)
{
    if (is_token_of_tenant(a, o))
        return true;
    web_header(a, "www-authenticate", "Bearer realm=\"tunnel\"");
    web_header(a, "www-authenticate", "Basic realm=\"tunnel\", charset=\"UTF-8\"");
    return refuse(a, o, 401, "an API token of the tenant is needed");
}

/* ---- all ---- */

bool web_gate(struct web_ask *a, struct tunnel_object *o)
{
    const struct tunnel_access *who = &o->t.spec.who;
    if (!tunnel_access_admits(who, &a->q.peer))
        return refuse(a, o, 403, "the tunnel is not open to this address");
    if (who->auth == TUNNEL_AUTH_TENANT_LOGIN)
        return web_login_gate(a, o);
    if (who->auth != TUNNEL_AUTH_PUBLIC)
        a->d.drop_authorization = true;
    if (who->auth == TUNNEL_AUTH_BASIC)
        return gate_basic(a, o);
    return who->auth == TUNNEL_AUTH_PUBLIC || gate_api_token(a, o);
}

void web_gate_free(struct tunnel_web *w)
{
    struct web_memory *m, *next;
    HASH_ITER (hh, w->memory, m, next) {
        HASH_DEL(w->memory, m);
        mem_free(m);
    }
}
