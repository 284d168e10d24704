/* Enrolment, renewal, revocation: agents against a hub, over real TLS. */
#include "hub_bench.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/time.h"
#include "pki/csr.h"
#include "pki/token.h"

#include <string.h>
#include <sys/stat.h>

/* Posts to the renew lane with the files of the agent's folder. */
static int renew(struct bench *h, struct diag *d)
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
static int shake_hands(struct bench *h)
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

static void change_policy(struct bench *h, const void *arg)
{
    const struct policy_change *p = arg;
    const struct identity_policy policy = {.cert_life_ms = HOUR,
                                           .late_renewal = p->late,
                                           .late_grace_ms = HOUR,
                                           .enroll_per_minute = p->per_minute};
    identity_set_policy(h->identity, &policy);
}

static void set_policy(struct bench *h, enum identity_late late)
{
    bench_on_hub(h, change_policy, &(struct policy_change){late, 1000});
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

static void age_certificate(struct bench *h, const struct agent_identity *a, bool is_newest)
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

/* ---- enrolment ---- */

static void an_agent_enrols_with_nothing_but_a_token(void **state)
{
    struct bench *h = *state;
    struct agent_identity a = {0}, again = {0};
    bench_enroll(h, "{\"network\": \"lab\"}", &a);
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
    struct bench *h = *state;
    struct agent_identity a = {0}, b = {0};
    struct diag d = {0};
    CLEANUP(mem_free) char *token = bench_token(h, "{\"uses\": null}");
    assert_int_equal(bench_enroll_as(h, token, NULL, false, &a, &d), 0);
    assert_int_equal(bench_enroll_as(h, token, NULL, false, &b, &d), ERR_EXISTS);
    assert_non_null(strstr(d.text, "--force"));
    assert_int_equal(bench_enroll_as(h, token, NULL, true, &b, &d), 0);
    assert_string_not_equal(a.id, b.id);
    agent_identity_done(&a);
    agent_identity_done(&b);
}

static void a_token_admits_as_many_as_it_says(void **state)
{
    struct bench *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    CLEANUP(mem_free) char *token = bench_token(h, "{\"uses\": 2, \"name\": \"two\"}");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(bench_enroll_as(h, token, "same-name", true, &a, &d), 0);
        agent_identity_done(&a);
    }
    assert_int_equal(bench_enroll_as(h, token, "same-name", true, &a, &d), ERR_DENIED);
    assert_non_null(strstr(d.text, "used up"));
    assert_int_equal(bench_call(h, "GET", "/api/v1/tokens/two", NULL), 200);
    json_t *uses = json_object_get(h->json, "uses");
    assert_int_equal(json_integer_value(json_object_get(uses, "count")), 2);
}

static void a_revoked_an_unknown_and_a_foreign_token_are_told_apart(void **state)
{
    struct bench *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    CLEANUP(mem_free) char *token = bench_token(h, "{\"name\": \"gone\"}");
    assert_int_equal(bench_call(h, "POST", "/api/v1/tokens/gone:revoke", NULL), 200);
    assert_int_equal(bench_enroll_as(h, token, NULL, true, &a, &d), ERR_REVOKED);

    struct token t;
    struct secret other = {0};
    token_new(TOKEN_BOOTSTRAP, ca_fingerprint(identity_ca(h->identity)), &t);
    token_format(&t, &other);
    assert_int_equal(bench_enroll_as(h, other.data, NULL, true, &a, &d), ERR_UNAUTHENTICATED);

    t.fingerprint[0] ^= 1; /* another hub's, or someone is in between */
    token_format(&t, &other);
    assert_int_equal(bench_enroll_as(h, other.data, NULL, true, &a, &d), ERR_TLS);
    assert_non_null(strstr(d.text, "in between"));
    assert_null(strstr(d.text, "wbt_"));
    assert_int_equal(bench_enroll_as(h, h->admin, NULL, true, &a, &d), ERR_INVALID);
    assert_int_equal(bench_enroll_as(h, "rubbish", NULL, true, &a, &d), ERR_INVALID);
    secret_done(&other);
}

static void a_hub_that_is_not_there_is_named(void **state)
{
    struct bench *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    CLEANUP(mem_free) char *token = bench_token(h, "{}");
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
    struct bench *h = *state;
    static const struct http_header headers[] = {{"Content-Type", "application/pkcs10"},
                                                 {NULL, NULL}};
    bench_on_hub(h, change_policy, &(struct policy_change){IDENTITY_LATE_DENY, 2});
    int status = 0;
    for (int i = 0; i < 3; i++)
        status = bench_call_as(h, NULL, "POST", "/.well-known/est/simpleenroll", NULL, headers);
    assert_int_equal(status, 429);
    assert_non_null(http_reply_header(&h->reply, "retry-after"));
}

/* ---- EST with other clients ---- */

static int est(struct bench *h, const char *token, const void *body, size_t len, const char *type)
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
    struct bench *h = *state;
    CLEANUP(mem_free) char *token = bench_token(h, "{\"name\": \"t\"}");
    CLEANUP(mem_free) char *big = mem_new(CSR_BODY_MAX + 1);
    memset(big, 'A', CSR_BODY_MAX + 1);
    assert_int_equal(est(h, token, "AAAA", 4, "application/pkcs10"), 400);
    assert_int_equal(est(h, token, "AAAA", 4, "text/plain"), 415);
    assert_int_equal(est(h, token, big, CSR_BODY_MAX + 1, "application/pkcs10"), 413);
    assert_int_equal(est(h, "nonsense", "AAAA", 4, "application/pkcs10"), 401);
    assert_int_equal(bench_call(h, "GET", "/api/v1/tokens/t", NULL), 200);
    json_t *uses = json_object_get(h->json, "uses");
    assert_int_equal(json_integer_value(json_object_get(uses, "count")), 0);
}

static void the_subject_of_a_request_decides_nothing(void **state)
{
    struct bench *h = *state;
    CLEANUP(mem_free) char *token = bench_token(h, "{}");
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
    struct bench *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    char before[CERT_SERIAL_SIZE];
    bench_enroll(h, "{}", &a);
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
    struct bench *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    bench_enroll(h, "{\"name\": \"door\"}", &a);
    assert_int_equal(bench_call(h, "POST", "/api/v1/tokens/door:revoke", NULL), 200);
    assert_int_equal(renew(h, &d), 403);
    assert_int_equal(shake_hands(h), 0); /* its certificate is good until it ends */
    agent_identity_done(&a);
}

static void a_revoked_agent_is_refused_at_the_next_handshake(void **state)
{
    struct bench *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    bench_enroll(h, "{}", &a);
    assert_int_equal(bench_act_on(h, a.id, true), 0);
    assert_int_equal(h->revoked, 1);
    assert_int_equal(identity_agent_status(h->identity, a.tenant, a.id), ERR_REVOKED);
    assert_true(shake_hands(h) < 0);
    assert_true(renew(h, &d) < 0);
    assert_int_equal(bench_act_on(h, a.id, true), 0);
    assert_int_equal(bench_act_on(h, "agt_0000000000000000", true), ERR_NOT_FOUND);
    agent_identity_done(&a);
}

static void revocations_survive_a_restart(void **state)
{
    struct bench *h = *state;
    struct agent_identity a = {0};
    char admin[sizeof(h->admin)];
    memcpy(admin, h->admin, sizeof(admin));
    bench_enroll(h, "{}", &a);
    assert_int_equal(bench_act_on(h, a.id, true), 0);
    bench_stop(h);
    bench_start(h);
    assert_string_equal(h->admin, admin);
    assert_int_equal(identity_agent_status(h->identity, a.tenant, a.id), ERR_REVOKED);
    assert_int_equal(bench_call(h, "GET", "/api/v1/tokens/self", NULL), 200);
    agent_identity_done(&a);
}

static void an_agent_the_hub_does_not_know_is_refused_though_its_certificate_is_good(void **state)
{
    struct bench *h = *state;
    struct agent_identity a = {0};
    char stranger[ID_SIZE];
    bench_enroll(h, "{}", &a);
    id_new(stranger, "agt");
    CLEANUP(mem_free) char *path = mem_printf("%s/cert.pem", h->agent_dir);
    CLEANUP(cert_free) X509 *cert = NULL;
    CLEANUP(pkey_free) EVP_PKEY *key = NULL;
    struct spiffe id = {.trust_domain = "warren.test"};
    int64_t now = time_wall_ms();
    memcpy(id.tenant, a.tenant, sizeof(id.tenant));
    memcpy(id.agent, stranger, sizeof(id.agent));
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
    struct bench *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    bench_enroll(h, "{}", &a);
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
    struct bench *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    set_policy(h, IDENTITY_LATE_APPROVE);
    bench_enroll(h, "{}", &a);
    assert_int_equal(bench_act_on(h, a.id, false), ERR_CONFLICT);
    age_certificate(h, &a, true);
    assert_int_equal(renew(h, &d), 202);
    assert_non_null(http_reply_header(&h->reply, "retry-after"));
    assert_int_equal(renew(h, &d), 202);
    assert_int_equal(bench_act_on(h, a.id, false), 0);
    assert_int_equal(renew(h, &d), 200);
    age_certificate(h, &a, true);
    assert_int_equal(renew(h, &d), 202);
    agent_identity_done(&a);
}

static void an_old_expired_certificate_does_not_renew(void **state)
{
    struct bench *h = *state;
    struct agent_identity a = {0};
    struct diag d = {0};
    bench_enroll(h, "{}", &a);
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
    struct bench *h = *state;
    struct agent_identity a = {0}, loaded = {0};
    struct renewing r = {0};
    char before[CERT_SERIAL_SIZE];
    bench_enroll(h, "{}", &a);
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, bench_setup, bench_teardown)

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
    };
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, 2);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
