/*
 * The hub's identity over real TLS: a hub on its own thread (store, REST, both lanes), agents and
 * users as blocking clients.
 */
#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/time.h"
#include "http/client.h"
#include "http/rest.h"
#include "identity/agent.h"
#include "identity/identity.h"
#include "net/listener.h"
#include "net/server.h"
#include "pki/csr.h"
#include "pki/token.h"

#include <ftw.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define HOUR INT64_C(3600000)

enum { LANE_HTTP, LANE_RENEW, LANE_AGENT };

struct hub {
    char dir[64];
    char agent_dir[80];
    struct loop *loop;
    struct store *store;
    struct identity *identity;
    struct http_server *rest, *renew;
    struct tls_server *tls;
    struct server *server;
    int fd;
    pthread_t thread;
    char url[64];
    char admin[128]; /* the administrator's token */
    _Atomic int revoked;
    struct http_reply reply; /* of the last call */
    json_t *json;            /* its body */
};

static void on_conn(void *arg, struct conn *c, size_t lane)
{
    struct hub *h = arg;
    http_server_take(lane == LANE_RENEW ? h->renew : h->rest, c);
}

static void on_agent_revoked(void *arg, const char *agent)
{
    struct hub *h = arg;
    h->revoked++;
}

static void *run(void *arg)
{
    struct hub *h = arg;
    loop_run(h->loop);
    return NULL;
}

/* Does something on the hub's thread and waits for it. */
struct errand {
    struct hub *h;
    void (*fn)(struct hub *h, const void *arg);
    const void *arg;
    sem_t ready;
};

static void run_errand(void *arg)
{
    struct errand *e = arg;
    e->fn(e->h, e->arg);
    sem_post(&e->ready);
}

static void on_hub(struct hub *h, void (*fn)(struct hub *h, const void *arg), const void *arg)
{
    struct errand e = {.h = h, .fn = fn, .arg = arg};
    sem_init(&e.ready, 0, 0);
    loop_post(h->loop, run_errand, &e);
    sem_wait(&e.ready);
    sem_destroy(&e.ready);
}

static void start_identity(struct hub *h)
{
    static const struct store_schema *const schemas[] = {&identity_schema};
    static const char *const names[] = {"hub.test"};
    CLEANUP(mem_free) char *path = mem_printf("%s/warren.db", h->dir);
    const struct store_options options = {.path = path, .schemas = schemas, .n_schemas = 1};
    struct diag d = {0};
    if (store_open(h->loop, &options, &h->store, &d))
        fail_msg("%s", d.text);
    const struct identity_config cfg = {
        .loop = h->loop,
        .store = h->store,
        .data_dir = h->dir,
        .trust_domain = "warren.test",
        .public_names = names,
        .n_public_names = 1,
        .policy = {.cert_life_ms = HOUR,
                   .late_renewal = IDENTITY_LATE_GRACE,
                   .late_grace_ms = HOUR,
                   .enroll_per_minute = 1000},
        .on_agent_revoked = on_agent_revoked,
        .arg = h,
    };
    if (identity_open(&cfg, &h->identity, &d))
        fail_msg("%s", d.text);
}

static void start_servers(struct hub *h)
{
    const struct tls_server_config tls = {
        .chain_pem = identity_server_chain(h->identity),
        .key_pem = identity_server_key(h->identity),
        .client_ca_pem = identity_ca_pem(h->identity),
        .lanes = {[LANE_HTTP] = {"http/1.1", false, false},
                  [LANE_RENEW] = {"warren-renew/1", true, true},
                  [LANE_AGENT] = {"warren-agent/1", true, false}},
        .n_lanes = 3,
        .verify = identity_verify_leaf,
        .verify_arg = h->identity,
    };
    const struct http_server_config rest = {.loop = h->loop,
                                            .hooks = identity_http_hooks(h->identity)};
    const struct http_server_config renew = {.loop = h->loop};
    const struct server_config server = {.on_conn = on_conn, .arg = h};
    struct server_config cfg = server;
    struct addr a, bound;
    assert_int_equal(tls_server_new(&tls, &h->tls, NULL), 0);
    assert_int_equal(http_server_new(&rest, &h->rest), 0);
    assert_int_equal(http_server_new(&renew, &h->renew), 0);
    identity_add_routes(h->identity, h->rest);
    identity_add_renew_routes(h->identity, h->renew);
    assert_int_equal(addr_parse("127.0.0.1", 0, &a), 0);
    assert_int_equal(listener_bind(&a, false, &h->fd, &bound, NULL), 0);
    cfg.tls = h->tls;
    assert_int_equal(server_start(h->loop, h->fd, &cfg, &h->server), 0);
    snprintf(h->url, sizeof(h->url), "https://127.0.0.1:%u", addr_port(&bound));
}

static void read_admin_token(struct hub *h)
{
    CLEANUP(mem_free) char *path = mem_printf("%s/admin.token", h->dir);
    struct buf text = {0};
    assert_int_equal(file_read(path, 1000, true, &text, NULL), 0);
    snprintf(h->admin, sizeof(h->admin), "%.*s", (int)text.len - 1, text.data);
    buf_done(&text);
}

static void hub_start(struct hub *h)
{
    assert_int_equal(loop_new(&h->loop), 0);
    start_identity(h);
    start_servers(h);
    read_admin_token(h);
    assert_int_equal(pthread_create(&h->thread, NULL, run, h), 0);
}

static void stop_on_hub(struct hub *h, const void *arg)
{
    server_free(h->server);
    http_server_free(h->rest);
    http_server_free(h->renew);
}

static void hub_stop(struct hub *h)
{
    on_hub(h, stop_on_hub, NULL);
    loop_stop(h->loop);
    pthread_join(h->thread, NULL);
    store_close(h->store);
    identity_close(h->identity);
    for (int i = 0; i < 20; i++)
        loop_turn(h->loop, false);
    close(h->fd);
    tls_server_unref(h->tls);
    loop_free(h->loop);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static int setup(void **state)
{
    struct hub *h = NEW(struct hub);
    snprintf(h->dir, sizeof(h->dir), "/tmp/warren-identity-XXXXXX");
    assert_non_null(mkdtemp(h->dir));
    snprintf(h->agent_dir, sizeof(h->agent_dir), "%s/agent", h->dir);
    hub_start(h);
    *state = h;
    return 0;
}

static int teardown(void **state)
{
    struct hub *h = *state;
    hub_stop(h);
    json_decref(h->json);
    http_reply_done(&h->reply);
    nftw(h->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    mem_free(h);
    return 0;
}

/* ---- users ---- */

static int call_with(struct hub *h, const char *token, const char *method, const char *path,
                     const char *body, const struct http_header *headers)
{
    const struct http_client_config cfg = {
        .base_url = h->url, .ca_pem = identity_ca_pem(h->identity), .bearer = token};
    const struct http_ask ask = {.method = method,
                                 .path = path,
                                 .content_type = body ? "application/json" : NULL,
                                 .body = body,
                                 .body_len = body ? strlen(body) : 0,
                                 .headers = headers};
    struct diag d = {0};
    http_reply_done(&h->reply);
    h->reply = (struct http_reply){0};
    json_decref(h->json);
    h->json = NULL;
    if (http_fetch(&cfg, &ask, &h->reply, &d))
        fail_msg("%s %s: %s", method, path, diag_text(&d));
    h->json = json_loadb(buf_text(&h->reply.body), h->reply.body.len, 0, NULL);
    return h->reply.status;
}

static int call(struct hub *h, const char *method, const char *path, const char *body)
{
    return call_with(h, h->admin, method, path, body, NULL);
}

static const char *text(struct hub *h, const char *member)
{
    return json_string_value(json_object_get(h->json, member));
}

static size_t n_items(struct hub *h)
{
    return json_array_size(json_object_get(h->json, "items"));
}

static const char *item_text(struct hub *h, size_t n, const char *member)
{
    json_t *item = json_array_get(json_object_get(h->json, "items"), n);
    return json_string_value(json_object_get(item, member));
}

static char *token_new_text(struct hub *h, const char *body)
{
    if (call(h, "POST", "/api/v1/tokens", body) != 201)
        fail_msg("%s", buf_text(&h->reply.body));
    return mem_strdup(text(h, "token"));
}

/* ---- agents ---- */

static int enroll_as(struct hub *h, const char *token, const char *name, bool force,
                     struct agent_identity *ret, struct diag *d)
{
    struct secret secret = {0};
    secret_set(&secret, token, strlen(token));
    const struct agent_enroll_options options = {
        .hub = h->url, .dir = h->agent_dir, .token = &secret, .name = name, .force = force};
    int err = agent_enroll(&options, ret, d);
    secret_done(&secret);
    return err;
}

static void enroll_well(struct hub *h, const char *token_body, struct agent_identity *ret)
{
    struct diag d = {0};
    CLEANUP(mem_free) char *token = token_new_text(h, token_body);
    if (enroll_as(h, token, "plc", true, ret, &d))
        fail_msg("%s", diag_text(&d));
}

/* Posts to the renew lane with the files of the agent's folder. */
static int renew(struct hub *h, struct diag *d)
{
    CLEANUP(mem_free) char *cert = mem_printf("%s/cert.pem", h->agent_dir);
    CLEANUP(mem_free) char *key = mem_printf("%s/key.pem", h->agent_dir);
    CLEANUP(pkey_free) EVP_PKEY *pkey = NULL;
    struct buf csr = {0};
    assert_int_equal(pkey_load(key, &pkey, NULL), 0);
    assert_int_equal(csr_make(pkey, "x", &csr), 0);
    const struct http_client_config cfg = {.base_url = h->url,
                                           .ca_pem = identity_ca_pem(h->identity),
                                           .cert_file = cert,
                                           .key_file = key,
                                           .alpn = "warren-renew/1"};
    const struct http_ask ask = {.path = "/.well-known/est/simplereenroll",
                                 .content_type = "application/pkcs10",
                                 .body = csr.data,
                                 .body_len = csr.len};
    http_reply_done(&h->reply);
    h->reply = (struct http_reply){0};
    int err = http_fetch(&cfg, &ask, &h->reply, d);
    buf_done(&csr);
    return err ? err : h->reply.status;
}

/* Whether the agent's certificate passes a handshake on the agents' lane. */
static int shake_hands(struct hub *h)
{
    CLEANUP(mem_free) char *cert = mem_printf("%s/cert.pem", h->agent_dir);
    CLEANUP(mem_free) char *key = mem_printf("%s/key.pem", h->agent_dir);
    const struct http_client_config cfg = {.base_url = h->url,
                                           .ca_pem = identity_ca_pem(h->identity),
                                           .cert_file = cert,
                                           .key_file = key,
                                           .alpn = "warren-agent/1"};
    const struct http_ask ask = {.path = "/"};
    struct http_reply reply = {0};
    struct diag d = {0};
    int err = http_fetch(&cfg, &ask, &reply, &d);
    http_reply_done(&reply);
    return err;
}

struct policy_change {
    enum identity_late late;
    uint32_t per_minute;
};

static void change_policy(struct hub *h, const void *arg)
{
    const struct policy_change *p = arg;
    const struct identity_policy policy = {.cert_life_ms = HOUR,
                                           .late_renewal = p->late,
                                           .late_grace_ms = HOUR,
                                           .enroll_per_minute = p->per_minute};
    identity_set_policy(h->identity, &policy);
}

static void set_policy(struct hub *h, enum identity_late late)
{
    on_hub(h, change_policy, &(struct policy_change){late, 1000});
}

/* Replaces the agent's newest certificate by one that ended ten minutes ago. */
struct aging {
    const struct agent_identity *a;
    char serial[CERT_SERIAL_SIZE];
    bool is_newest;
};

static int age_work(struct tx *tx, void *arg)
{
    const struct aging *g = arg;
    return tx_exec(tx, "UPDATE agent SET serial = $2 WHERE id = $1", STORE_TEXT(g->a->id),
                   STORE_TEXT(g->serial));
}

static void age_certificate(struct hub *h, const struct agent_identity *a, bool is_newest)
{
    CLEANUP(mem_free) char *path = mem_printf("%s/cert.pem", h->agent_dir);
    CLEANUP(mem_free) char *key_path = mem_printf("%s/key.pem", h->agent_dir);
    CLEANUP(pkey_free) EVP_PKEY *key = NULL;
    CLEANUP(cert_free) X509 *cert = NULL;
    struct spiffe id = {.trust_domain = "warren.test"};
    int64_t now = time_wall_ms();
    struct aging g = {.a = a};
    memcpy(id.tenant, a->tenant, sizeof(id.tenant));
    memcpy(id.agent, a->id, sizeof(id.agent));
    assert_int_equal(pkey_load(key_path, &key, NULL), 0);
    assert_int_equal(ca_issue_agent(identity_ca(h->identity), key, &id,
                                    (struct cert_times){now - HOUR, now - HOUR / 6}, &cert),
                     0);
    assert_int_equal(cert_save(cert, path, NULL), 0);
    cert_serial(cert, g.serial);
    if (is_newest)
        assert_int_equal(store_run_wait(h->store, STORE_WRITE, age_work, &g), 0);
}

struct act {
    struct hub *h;
    const char *agent;
    bool is_revocation;
    struct identity_caller by;
    int result;
    sem_t ready;
};

static void acted(void *arg, const struct diag *result)
{
    struct act *a = arg;
    a->result = result->code;
    sem_post(&a->ready);
}

static void start_act(void *arg)
{
    struct act *a = arg;
    CLEANUP(mem_free) char *bearer = mem_printf("Bearer %s", a->h->admin);
    struct addr peer;
    addr_parse("192.0.2.9", 1, &peer);
    assert_int_equal(identity_authenticate(a->h->identity, bearer, &peer, &a->by, NULL), 0);
    if (a->is_revocation)
        identity_agent_revoke(a->h->identity, &a->by, a->agent, 0, acted, a);
    else
        identity_agent_approve(a->h->identity, &a->by, a->agent, 0, acted, a);
}

static int act_on(struct hub *h, const char *agent, bool is_revocation)
{
    struct act a = {.h = h, .agent = agent, .is_revocation = is_revocation};
    sem_init(&a.ready, 0, 0);
    loop_post(h->loop, start_act, &a);
    sem_wait(&a.ready);
    sem_destroy(&a.ready);
    return a.result;
}

/* ---- enrolment ---- */

static void an_agent_enrols_with_nothing_but_a_token(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0}, again = {0};
    enroll_well(h, "{\"network\": \"lab\"}", &a);
    assert_true(id_is(a.id, "agt"));
    assert_string_equal(a.trust_domain, "warren.test");
    assert_string_equal(a.hubs[0], h->url);
    assert_int_equal(identity_agent_status(h->identity, a.tenant, a.id), 0);
    assert_int_equal(shake_hands(h), 0);

    struct stat st;
    CLEANUP(mem_free) char *key = mem_printf("%s/key.pem", h->agent_dir);
    assert_int_equal(stat(key, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(agent_identity_load(h->agent_dir, &again, NULL), 0);
    assert_string_equal(again.id, a.id);
    agent_identity_done(&again);
    agent_identity_done(&a);
}

static void an_enrolment_is_not_overwritten_unless_forced(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0}, b = {0};
    struct diag d = {0};
    CLEANUP(mem_free) char *token = token_new_text(h, "{\"uses\": null}");
    assert_int_equal(enroll_as(h, token, NULL, false, &a, &d), 0);
    assert_int_equal(enroll_as(h, token, NULL, false, &b, &d), ERR_EXISTS);
    assert_non_null(strstr(d.text, "--force"));
    assert_int_equal(enroll_as(h, token, NULL, true, &b, &d), 0);
    assert_string_not_equal(a.id, b.id);
    agent_identity_done(&a);
    agent_identity_done(&b);
}

static void a_token_admits_as_many_as_it_says(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    CLEANUP(mem_free) char *token = token_new_text(h, "{\"uses\": 2, \"name\": \"two\"}");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(enroll_as(h, token, "same-name", true, &a, &d), 0);
        agent_identity_done(&a);
    }
    assert_int_equal(enroll_as(h, token, "same-name", true, &a, &d), ERR_DENIED);
    assert_non_null(strstr(d.text, "used up"));
    assert_int_equal(call(h, "GET", "/api/v1/tokens/two", NULL), 200);
    json_t *uses = json_object_get(h->json, "uses");
    assert_int_equal(json_integer_value(json_object_get(uses, "count")), 2);
}

static void a_revoked_an_unknown_and_a_foreign_token_are_told_apart(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    CLEANUP(mem_free) char *token = token_new_text(h, "{\"name\": \"gone\"}");
    assert_int_equal(call(h, "POST", "/api/v1/tokens/gone:revoke", NULL), 200);
    assert_int_equal(enroll_as(h, token, NULL, true, &a, &d), ERR_REVOKED);

    struct token t;
    struct secret other = {0};
    token_new(TOKEN_BOOTSTRAP, ca_fingerprint(identity_ca(h->identity)), &t);
    token_format(&t, &other);
    assert_int_equal(enroll_as(h, other.data, NULL, true, &a, &d), ERR_UNAUTHENTICATED);

    t.fingerprint[0] ^= 1; /* another hub's, or someone is in between */
    token_format(&t, &other);
    assert_int_equal(enroll_as(h, other.data, NULL, true, &a, &d), ERR_TLS);
    assert_non_null(strstr(d.text, "in between"));
    assert_null(strstr(d.text, "wbt_"));
    assert_int_equal(enroll_as(h, h->admin, NULL, true, &a, &d), ERR_INVALID);
    assert_int_equal(enroll_as(h, "rubbish", NULL, true, &a, &d), ERR_INVALID);
    secret_done(&other);
}

static void a_hub_that_is_not_there_is_named(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    CLEANUP(mem_free) char *token = token_new_text(h, "{}");
    struct secret secret = {0};
    secret_set(&secret, token, strlen(token));
    const struct agent_enroll_options options = {
        .hub = "https://127.0.0.1:1", .dir = h->agent_dir, .token = &secret};
    assert_int_equal(agent_enroll(&options, &a, &d), ERR_REFUSED);
    assert_non_null(strstr(d.text, "127.0.0.1:1"));
    secret_done(&secret);
}

static void an_address_that_tries_too_often_is_told_when_to_come_back(void **state)
{
    struct hub *h = *state;
    static const struct http_header headers[] = {{"Content-Type", "application/pkcs10"},
                                                 {NULL, NULL}};
    on_hub(h, change_policy, &(struct policy_change){IDENTITY_LATE_DENY, 2});
    int status = 0;
    for (int i = 0; i < 3; i++)
        status = call_with(h, NULL, "POST", "/.well-known/est/simpleenroll", NULL, headers);
    assert_int_equal(status, 429);
    assert_non_null(http_reply_header(&h->reply, "retry-after"));
}

/* ---- EST with other clients ---- */

static int est(struct hub *h, const char *token, const void *body, size_t len, const char *type)
{
    CLEANUP(mem_free) char *plain = mem_printf("any user:%s", token);
    char base64[BASE64_SIZE(400)];
    text_base64(plain, strlen(plain), base64, sizeof(base64));
    CLEANUP(mem_free) char *basic = mem_printf("Basic %s", base64);
    const struct http_header headers[] = {{"Authorization", basic}, {NULL, NULL}};
    const struct http_client_config cfg = {.base_url = h->url,
                                           .ca_pem = identity_ca_pem(h->identity)};
    const struct http_ask ask = {.path = "/.well-known/est/simpleenroll",
                                 .content_type = type,
                                 .body = body,
                                 .body_len = len,
                                 .headers = headers};
    http_reply_done(&h->reply);
    h->reply = (struct http_reply){0};
    assert_int_equal(http_fetch(&cfg, &ask, &h->reply, NULL), 0);
    return h->reply.status;
}

static void requests_that_are_none_are_refused_without_using_the_token(void **state)
{
    struct hub *h = *state;
    CLEANUP(mem_free) char *token = token_new_text(h, "{\"name\": \"t\"}");
    CLEANUP(mem_free) char *big = mem_new(CSR_BODY_MAX + 1);
    memset(big, 'A', CSR_BODY_MAX + 1);
    assert_int_equal(est(h, token, "AAAA", 4, "application/pkcs10"), 400);
    assert_int_equal(est(h, token, "AAAA", 4, "text/plain"), 415);
    assert_int_equal(est(h, token, big, CSR_BODY_MAX + 1, "application/pkcs10"), 413);
    assert_int_equal(est(h, "nonsense", "AAAA", 4, "application/pkcs10"), 401);
    assert_int_equal(call(h, "GET", "/api/v1/tokens/t", NULL), 200);
    json_t *uses = json_object_get(h->json, "uses");
    assert_int_equal(json_integer_value(json_object_get(uses, "count")), 0);
}

static void the_subject_of_a_request_decides_nothing(void **state)
{
    struct hub *h = *state;
    CLEANUP(mem_free) char *token = token_new_text(h, "{}");
    CLEANUP(pkey_free) EVP_PKEY *key = NULL;
    CLEANUP(cert_free) X509 *cert = NULL;
    struct buf csr = {0};
    struct spiffe id;
    size_t n;
    assert_int_equal(pkey_new(&key), 0);
    assert_int_equal(csr_make(key, "agt_ffffffffffffffff", &csr), 0);
    assert_int_equal(est(h, token, csr.data, csr.len, "application/pkcs10; charset=x"), 200);
    assert_int_equal(cert_from_pkcs7(buf_text(&h->reply.body), h->reply.body.len, &cert, 1, &n), 0);
    assert_int_equal(cert_identity(cert, "warren.test", &id), 0);
    assert_string_not_equal(id.agent, "agt_ffffffffffffffff");
    buf_done(&csr);
}

/* ---- renewal and revocation ---- */

static void an_agent_renews_under_the_same_identity(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    char before[CERT_SERIAL_SIZE];
    enroll_well(h, "{}", &a);
    memcpy(before, a.serial, sizeof(before));
    assert_int_equal(renew(h, &d), 200);
    assert_int_equal(agent_identity_renewed(h->agent_dir, &a, buf_text(&h->reply.body),
                                            h->reply.body.len, time_wall_ms(), &d),
                     0);
    assert_string_not_equal(a.serial, before);
    assert_int_equal(shake_hands(h), 0);
    agent_identity_done(&a);
}

static void a_revoked_token_ends_the_renewals_of_those_it_admitted(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    enroll_well(h, "{\"name\": \"door\"}", &a);
    assert_int_equal(call(h, "POST", "/api/v1/tokens/door:revoke", NULL), 200);
    assert_int_equal(renew(h, &d), 403);
    assert_int_equal(shake_hands(h), 0); /* its certificate is good until it ends */
    agent_identity_done(&a);
}

static void a_revoked_agent_is_refused_at_the_next_handshake(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    enroll_well(h, "{}", &a);
    assert_int_equal(act_on(h, a.id, true), 0);
    assert_int_equal(h->revoked, 1);
    assert_int_equal(identity_agent_status(h->identity, a.tenant, a.id), ERR_REVOKED);
    assert_true(shake_hands(h) < 0);
    assert_true(renew(h, &d) < 0);
    assert_int_equal(act_on(h, a.id, true), 0);
    assert_int_equal(act_on(h, "agt_0000000000000000", true), ERR_NOT_FOUND);
    agent_identity_done(&a);
}

static void revocations_survive_a_restart(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0};
    char admin[sizeof(h->admin)];
    memcpy(admin, h->admin, sizeof(admin));
    enroll_well(h, "{}", &a);
    assert_int_equal(act_on(h, a.id, true), 0);
    hub_stop(h);
    hub_start(h);
    assert_string_equal(h->admin, admin);
    assert_int_equal(identity_agent_status(h->identity, a.tenant, a.id), ERR_REVOKED);
    assert_int_equal(call(h, "GET", "/api/v1/tokens/self", NULL), 200);
    agent_identity_done(&a);
}

static void an_agent_the_hub_does_not_know_is_refused_though_its_certificate_is_good(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0}, stranger = {0};
    enroll_well(h, "{}", &a);
    stranger = a;
    id_new(stranger.id, "agt");
    CLEANUP(mem_free) char *path = mem_printf("%s/cert.pem", h->agent_dir);
    CLEANUP(cert_free) X509 *cert = NULL;
    CLEANUP(pkey_free) EVP_PKEY *key = NULL;
    struct spiffe id = {.trust_domain = "warren.test"};
    int64_t now = time_wall_ms();
    memcpy(id.tenant, a.tenant, sizeof(id.tenant));
    memcpy(id.agent, stranger.id, sizeof(id.agent));
    assert_int_equal(pkey_from_pem(a.key_pem.data, a.key_pem.len, &key), 0);
    assert_int_equal(ca_issue_agent(identity_ca(h->identity), key, &id,
                                    (struct cert_times){now - HOUR, now + HOUR}, &cert),
                     0);
    assert_int_equal(cert_save(cert, path, NULL), 0);
    assert_true(shake_hands(h) < 0);
    agent_identity_done(&a);
}

static void late_renewal_follows_the_policy(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    enroll_well(h, "{}", &a);
    age_certificate(h, &a, true);
    assert_true(shake_hands(h) < 0); /* only the renewal lane lets it in */
    set_policy(h, IDENTITY_LATE_DENY);
    assert_int_equal(renew(h, &d), 403);
    set_policy(h, IDENTITY_LATE_GRACE);
    assert_int_equal(renew(h, &d), 200);
    agent_identity_done(&a);
}

static void a_late_renewal_waits_for_approval_once(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    set_policy(h, IDENTITY_LATE_APPROVE);
    enroll_well(h, "{}", &a);
    assert_int_equal(act_on(h, a.id, false), ERR_CONFLICT);
    age_certificate(h, &a, true);
    assert_int_equal(renew(h, &d), 202);
    assert_non_null(http_reply_header(&h->reply, "retry-after"));
    assert_int_equal(renew(h, &d), 202);
    assert_int_equal(act_on(h, a.id, false), 0);
    assert_int_equal(renew(h, &d), 200);
    age_certificate(h, &a, true);
    assert_int_equal(renew(h, &d), 202);
    agent_identity_done(&a);
}

static void an_old_expired_certificate_does_not_renew(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    enroll_well(h, "{}", &a);
    age_certificate(h, &a, false);
    int status = renew(h, &d);
    assert_true(status == 409 || status == 410 || status == 412 || status == 403);
    assert_int_equal(http_reply_diag(&h->reply, &d) < 0, 1);
    assert_non_null(strstr(d.text, "not the newest"));
    agent_identity_done(&a);
}

/* The agent's own renewal, on a loop of its own. */
struct renewing {
    struct loop *loop;
    int renewed, failed;
};

static void count_renewed(void *arg)
{
    struct renewing *r = arg;
    r->renewed++;
    loop_stop(r->loop);
}

static void count_failed(void *arg, const struct diag *why)
{
    struct renewing *r = arg;
    r->failed++;
    loop_stop(r->loop);
}

static void the_agent_renews_by_itself_when_hurried(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0}, loaded = {0};
    struct renewing r = {0};
    char before[CERT_SERIAL_SIZE];
    enroll_well(h, "{}", &a);
    memcpy(before, a.serial, sizeof(before));
    assert_int_equal(loop_new(&r.loop), 0);
    const struct agent_renewal_config cfg = {.loop = r.loop,
                                             .dir = h->agent_dir,
                                             .agent = &a,
                                             .on_renewed = count_renewed,
                                             .on_failed = count_failed,
                                             .arg = &r};
    struct agent_renewal *renewal = agent_renewal_start(&cfg);
    agent_renewal_hurry(renewal);
    loop_run(r.loop);
    assert_int_equal(r.failed, 0);
    assert_int_equal(r.renewed, 1);
    assert_string_not_equal(a.serial, before);
    assert_int_equal(agent_identity_load(h->agent_dir, &loaded, NULL), 0);
    assert_string_equal(loaded.serial, a.serial);
    agent_renewal_free(renewal);
    for (int i = 0; i < 20; i++)
        loop_turn(r.loop, false);
    loop_free(r.loop);
    agent_identity_done(&loaded);
    agent_identity_done(&a);
}

/* ---- REST ---- */

static void without_a_token_nothing_is_shown(void **state)
{
    struct hub *h = *state;
    assert_int_equal(call_with(h, NULL, "GET", "/api/v1/tokens", NULL, NULL), 401);
    assert_int_equal(call_with(h, "wat_nonsense", "GET", "/api/v1/tokens", NULL, NULL), 401);
    CLEANUP(mem_free) char *bootstrap = token_new_text(h, "{}");
    assert_int_equal(call_with(h, bootstrap, "GET", "/api/v1/tokens", NULL, NULL), 401);
    CLEANUP(mem_free) char *api = token_new_text(h, "{\"kind\": \"api\", \"name\": \"ci\"}");
    assert_int_equal(call_with(h, api, "GET", "/api/v1/tokens", NULL, NULL), 200);
    assert_int_equal(call(h, "POST", "/api/v1/tokens/ci:revoke", NULL), 200);
    assert_int_equal(call_with(h, api, "GET", "/api/v1/tokens", NULL, NULL), 401);
}

static void the_secret_is_shown_once_and_never_stored(void **state)
{
    struct hub *h = *state;
    static const struct http_header key[] = {{"Idempotency-Key", "k1"}, {NULL, NULL}};
    assert_int_equal(call_with(h, h->admin, "POST", "/api/v1/tokens", "{\"name\": \"x\"}", key),
                     201);
    CLEANUP(mem_free) char *token = mem_strdup(text(h, "token"));
    assert_int_equal(call(h, "GET", "/api/v1/tokens/x", NULL), 200);
    assert_null(text(h, "token"));
    /* Neither the secret's text nor its bytes are in the database files. */
    struct token t;
    assert_int_equal(token_parse(token, strlen(token), &t), 0);
    CLEANUP(mem_free) char *secret = mem_strndup(token + 21, 43);
    static const char *const files[] = {"warren.db", "warren.db-wal"};
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        CLEANUP(mem_free) char *path = mem_printf("%s/%s", h->dir, files[i]);
        struct buf bytes = {0};
        if (file_read(path, (size_t)64 << 20, false, &bytes, NULL) == 0) {
            assert_null(memmem(bytes.data, bytes.len, secret, strlen(secret)));
            assert_null(memmem(bytes.data, bytes.len, t.secret, sizeof(t.secret)));
        }
        buf_done(&bytes);
    }
}

static void a_repeated_post_acts_once_and_gets_the_first_answer(void **state)
{
    struct hub *h = *state;
    static const struct http_header key[] = {{"Idempotency-Key", "k1"}, {NULL, NULL}};
    static const struct http_header bad[] = {{"Idempotency-Key", "a b"}, {NULL, NULL}};
    const char *body = "{\"name\": \"once\"}";
    assert_int_equal(call_with(h, h->admin, "POST", "/api/v1/tokens", body, key), 201);
    CLEANUP(mem_free) char *first = mem_strdup(buf_text(&h->reply.body));
    assert_int_equal(call_with(h, h->admin, "POST", "/api/v1/tokens", body, key), 201);
    assert_string_equal(buf_text(&h->reply.body), first);
    assert_int_equal(call_with(h, h->admin, "POST", "/api/v1/tokens", "{}", key), 422);
    assert_int_equal(call_with(h, h->admin, "POST", "/api/v1/tokens", "{}", bad), 400);
    assert_int_equal(call(h, "POST", "/api/v1/tokens", body), 409);
    assert_int_equal(call(h, "GET", "/api/v1/tokens?kind=bootstrap", NULL), 200);
    assert_int_equal(n_items(h), 1);
}

static void tokens_are_listed_by_pages_in_order(void **state)
{
    struct hub *h = *state;
    static const char *const names[] = {"a", "b", "c"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        CLEANUP(mem_free) char *body = mem_printf("{\"name\": \"%s\"}", names[i]);
        mem_free(token_new_text(h, body));
    }
    assert_int_equal(call(h, "GET", "/api/v1/tokens?kind=bootstrap&page_size=2", NULL), 200);
    assert_int_equal(n_items(h), 2);
    CLEANUP(mem_free)
    char *path = mem_printf("/api/v1/tokens?kind=bootstrap&page_size=2&page_token=%s",
                            text(h, "next_page_token"));
    assert_int_equal(call(h, "GET", path, NULL), 200);
    assert_int_equal(n_items(h), 1);
    assert_null(text(h, "next_page_token"));
    assert_int_equal(call(h, "GET", "/api/v1/tokens?kind=other", NULL), 400);
}

static void tenants_see_nothing_of_each_other(void **state)
{
    struct hub *h = *state;
    assert_int_equal(call(h, "POST", "/api/v1/tenants", "{\"name\": \"other\"}"), 201);
    assert_int_equal(call(h, "POST", "/api/v1/tenants", "{\"name\": \"other\"}"), 409);
    CLEANUP(mem_free)
    char *foreign = token_new_text(h, "{\"kind\": \"api\", \"tenant\": \"other\"}");
    mem_free(token_new_text(h, "{\"name\": \"mine\"}"));

    assert_int_equal(call_with(h, foreign, "GET", "/api/v1/tokens", NULL, NULL), 200);
    assert_int_equal(n_items(h), 1);
    assert_int_equal(call_with(h, foreign, "GET", "/api/v1/tokens/mine", NULL, NULL), 404);
    assert_int_equal(call_with(h, foreign, "GET", "/api/v1/tokens/admin", NULL, NULL), 404);
    assert_int_equal(call_with(h, foreign, "GET", "/api/v1/tokens?tenant=default", NULL, NULL),
                     403);
    assert_int_equal(call_with(h, foreign, "GET", "/api/v1/tenants", NULL, NULL), 200);
    assert_int_equal(n_items(h), 1);
    assert_string_equal(item_text(h, 0, "name"), "other");
    assert_int_equal(call_with(h, foreign, "GET", "/api/v1/tenants/default", NULL, NULL), 404);
    assert_int_equal(call_with(h, foreign, "GET", "/api/v1/audit", NULL, NULL), 200);
    assert_int_equal(n_items(h), 0);
    assert_int_equal(
        call_with(h, foreign, "POST", "/api/v1/tenants", "{\"name\": \"third\"}", NULL), 403);
    assert_int_equal(
        call_with(h, foreign, "POST", "/api/v1/tokens", "{\"tenant\": \"default\"}", NULL), 403);
    assert_int_equal(call_with(h, foreign, "POST", "/api/v1/tokens",
                               "{\"kind\": \"api\", \"role\": \"admin\"}", NULL),
                     403);
}

static void a_deleted_tenants_tokens_open_nothing(void **state)
{
    struct hub *h = *state;
    assert_int_equal(call(h, "POST", "/api/v1/tenants", "{\"name\": \"gone\"}"), 201);
    CLEANUP(mem_free)
    char *foreign = token_new_text(h, "{\"kind\": \"api\", \"tenant\": \"gone\"}");
    assert_int_equal(call(h, "DELETE", "/api/v1/tenants/gone", NULL), 204);
    assert_int_equal(call_with(h, foreign, "GET", "/api/v1/tokens", NULL, NULL), 401);
    assert_int_equal(call(h, "DELETE", "/api/v1/tenants/default", NULL), 409);
}

static void each_act_is_in_the_audit_newest_first(void **state)
{
    struct hub *h = *state;
    struct agent_identity a = {0};
    enroll_well(h, "{\"name\": \"door\"}", &a);
    assert_int_equal(act_on(h, a.id, true), 0);
    assert_int_equal(call(h, "POST", "/api/v1/tokens/door:revoke", NULL), 200);
    assert_int_equal(call(h, "GET", "/api/v1/audit", NULL), 200);
    static const char *const want[] = {"token.revoke", "agent.revoke", "agent.enroll",
                                       "token.create", "token.create"};
    assert_int_equal(n_items(h), ARRAY_SIZE(want));
    for (size_t i = 0; i < ARRAY_SIZE(want); i++)
        assert_string_equal(item_text(h, i, "action"), want[i]);
    assert_string_equal(item_text(h, 1, "object"), a.id);

    assert_int_equal(call(h, "GET", "/api/v1/audit?page_size=2", NULL), 200);
    assert_int_equal(n_items(h), 2);
    CLEANUP(mem_free)
    char *path = mem_printf("/api/v1/audit?page_size=9&page_token=%s", text(h, "next_page_token"));
    assert_int_equal(call(h, "GET", path, NULL), 200);
    assert_int_equal(n_items(h), 3);
    assert_string_equal(item_text(h, 0, "action"), "agent.enroll");
    assert_int_equal(call(h, "GET", "/api/v1/audit?action=agent.enroll", NULL), 200);
    assert_int_equal(n_items(h), 1);
    assert_int_equal(call(h, "GET", "/api/v1/audit?since=yesterday", NULL), 400);
    agent_identity_done(&a);
}

static void a_stale_version_is_refused(void **state)
{
    struct hub *h = *state;
    static const struct http_header stale[] = {{"If-Match", "\"9\""}, {NULL, NULL}};
    static const struct http_header right[] = {{"If-Match", "\"1\""}, {NULL, NULL}};
    mem_free(token_new_text(h, "{\"name\": \"v\"}"));
    assert_int_equal(call_with(h, h->admin, "POST", "/api/v1/tokens/v:revoke", NULL, stale), 412);
    assert_int_equal(call_with(h, h->admin, "POST", "/api/v1/tokens/v:revoke", NULL, right), 200);
    assert_non_null(text(h, "revoked"));
    assert_int_equal(call(h, "POST", "/api/v1/tokens/v:revoke", NULL), 200);
}

static void tokens_of_one_named_network_share_it(void **state)
{
    struct hub *h = *state;
    mem_free(token_new_text(h, "{\"network\": \"lab\"}"));
    CLEANUP(mem_free) char *network = mem_strdup(text(h, "network"));
    assert_true(id_is(network, "net"));
    mem_free(token_new_text(h, "{\"network\": \"lab\"}"));
    assert_string_equal(text(h, "network"), network);
    CLEANUP(mem_free) char *by_id = mem_printf("{\"network\": \"%s\"}", network);
    mem_free(token_new_text(h, by_id));
    assert_string_equal(text(h, "network"), network);
    mem_free(token_new_text(h, "{}"));
    assert_string_not_equal(text(h, "network"), network);
    assert_int_equal(call(h, "POST", "/api/v1/tokens", "{\"network\": \"net_0000000000000000\"}"),
                     404);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_agent_enrols_with_nothing_but_a_token),
        TEST(an_enrolment_is_not_overwritten_unless_forced),
        TEST(a_token_admits_as_many_as_it_says),
        TEST(a_revoked_an_unknown_and_a_foreign_token_are_told_apart),
        TEST(a_hub_that_is_not_there_is_named),
        TEST(an_address_that_tries_too_often_is_told_when_to_come_back),
        TEST(requests_that_are_none_are_refused_without_using_the_token),
        TEST(the_subject_of_a_request_decides_nothing),
        TEST(an_agent_renews_under_the_same_identity),
        TEST(a_revoked_token_ends_the_renewals_of_those_it_admitted),
        TEST(a_revoked_agent_is_refused_at_the_next_handshake),
        TEST(revocations_survive_a_restart),
        TEST(an_agent_the_hub_does_not_know_is_refused_though_its_certificate_is_good),
        TEST(late_renewal_follows_the_policy),
        TEST(a_late_renewal_waits_for_approval_once),
        TEST(an_old_expired_certificate_does_not_renew),
        TEST(the_agent_renews_by_itself_when_hurried),
        TEST(without_a_token_nothing_is_shown),
        TEST(the_secret_is_shown_once_and_never_stored),
        TEST(a_repeated_post_acts_once_and_gets_the_first_answer),
        TEST(tokens_are_listed_by_pages_in_order),
        TEST(tenants_see_nothing_of_each_other),
        TEST(a_deleted_tenants_tokens_open_nothing),
        TEST(each_act_is_in_the_audit_newest_first),
        TEST(a_stale_version_is_refused),
        TEST(tokens_of_one_named_network_share_it),
    };
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, 2);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
