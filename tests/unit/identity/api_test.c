/* The REST rows of tokens, tenants and audit, over real TLS. */
#include "../net/fixture.h"
#include "hub_bench.h"

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "identity/identity_store.h"
#include "net/dialer.h"
#include "pki/token.h"

#include <semaphore.h>
#include <stdio.h>
#include <string.h>

static void without_a_token_nothing_is_shown(void **state)
{
    struct bench *h = *state;
    assert_int_equal(bench_call_as(h, NULL, "GET", "/api/v1/tokens", NULL, NULL), 401);
    assert_int_equal(bench_call_as(h, "wat_nonsense", "GET", "/api/v1/tokens", NULL, NULL), 401);
    CLEANUP(mem_free) char *bootstrap = bench_token(h, "{}");
    assert_int_equal(bench_call_as(h, bootstrap, "GET", "/api/v1/tokens", NULL, NULL), 401);
    CLEANUP(mem_free) char *api = bench_token(h, "{\"kind\": \"api\", \"name\": \"ci\"}");
    assert_int_equal(bench_call_as(h, api, "GET", "/api/v1/tokens", NULL, NULL), 200);
    assert_int_equal(bench_call(h, "POST", "/api/v1/tokens/ci:revoke", NULL), 200);
    assert_int_equal(bench_call_as(h, api, "GET", "/api/v1/tokens", NULL, NULL), 401);
}

static void the_secret_is_shown_once_and_never_stored(void **state)
{
    struct bench *h = *state;
    static const struct http_header key[] = {{"Idempotency-Key", "k1"}, {NULL, NULL}};
    assert_int_equal(bench_call_as(h, h->admin, "POST", "/api/v1/tokens", "{\"name\": \"x\"}", key),
                     201);
    CLEANUP(mem_free) char *token = mem_strdup(bench_text(h, "token"));
    assert_int_equal(bench_call(h, "GET", "/api/v1/tokens/x", NULL), 200);
    assert_null(bench_text(h, "token"));
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
    struct bench *h = *state;
    static const struct http_header key[] = {{"Idempotency-Key", "k1"}, {NULL, NULL}};
    static const struct http_header bad[] = {{"Idempotency-Key", "a b"}, {NULL, NULL}};
    const char *body = "{\"name\": \"once\"}";
    assert_int_equal(bench_call_as(h, h->admin, "POST", "/api/v1/tokens", body, key), 201);
    CLEANUP(mem_free) char *first = mem_strdup(buf_text(&h->reply.body));
    assert_int_equal(bench_call_as(h, h->admin, "POST", "/api/v1/tokens", body, key), 201);
    assert_string_equal(buf_text(&h->reply.body), first);
    assert_int_equal(bench_call_as(h, h->admin, "POST", "/api/v1/tokens", "{}", key), 422);
    assert_int_equal(bench_call_as(h, h->admin, "POST", "/api/v1/tokens", "{}", bad), 400);
    assert_int_equal(bench_call(h, "POST", "/api/v1/tokens", body), 409);
    assert_int_equal(bench_call(h, "GET", "/api/v1/tokens?kind=bootstrap", NULL), 200);
    assert_int_equal(bench_items(h), 1);
}

/* Leaves the number of a token's answers, and of another's, in `arg`. */
static int trim_answers(struct tx *tx, void *arg)
{
    static const uint8_t hash[32];
    int64_t *left = arg;
    struct stored_answer none = {0};
    TRY(idempotency_reserve(tx, "tok_b", "k", hash, 1, &none));
    for (int n = 1; n <= 20; n++) {
        char key[8];
        snprintf(key, sizeof(key), "k%d", n);
        TRY(idempotency_reserve(tx, "tok_a", key, hash, n, &none));
    }
    TRY(idempotency_trim(tx, "tok_a", 15));
    TRY(idempotency_trim(tx, "tok_b", 15));
    TRY(tx_query_int(tx, &left[0], "SELECT COUNT(*) FROM idempotency WHERE token = 'tok_a'"));
    TRY(tx_query_int(tx, &left[1], "SELECT MIN(created) FROM idempotency WHERE token = 'tok_a'"));
    return tx_query_int(tx, &left[2], "SELECT COUNT(*) FROM idempotency WHERE token = 'tok_b'");
}

static void trim_on_hub(struct bench *h, const void *arg)
{
    assert_int_equal(store_run_wait(h->store, STORE_WRITE, trim_answers, (void *)(uintptr_t)arg),
                     0);
}

static void of_a_tokens_answers_the_newest_are_kept(void **state)
{
    struct bench *h = *state;
    int64_t left[3] = {0};
    bench_on_hub(h, trim_on_hub, left);
    assert_int_equal(left[0], 15);
    assert_int_equal(left[1], 6);
    assert_int_equal(left[2], 1);
}

/* A client that sends a request and resets the connection before it is answered. */
struct leaver {
    struct loop *loop;
    struct conn *conn;
    char *request;
    bool has_sent, is_closed;
};

static size_t leaver_data(void *arg, const uint8_t *data, size_t len)
{
    return len;
}

static size_t leaver_fill(void *arg, uint8_t *out, size_t cap)
{
    struct leaver *l = arg;
    if (l->has_sent)
        return 0;
    l->has_sent = true;
    memcpy(out, l->request, strlen(l->request));
    return strlen(l->request);
}

static void leaver_close(void *arg, int err)
{
    ((struct leaver *)arg)->is_closed = true;
}

static const struct conn_ops leaver_ops = {
    .on_data = leaver_data, .on_fill = leaver_fill, .on_close = leaver_close};

static void leaver_dialled(void *arg, const struct dial_result *r)
{
    struct leaver *l = arg;
    assert_int_equal(r->err, 0);
    l->conn = r->conn;
    conn_start(l->conn, &leaver_ops, l);
}

static void read_stats(struct bench *h, const void *arg)
{
    http_server_stats(h->rest, (struct http_stats *)(uintptr_t)arg);
}

/* Until the hub works on `requests` for `conns` connections. */
static void await_hub(struct bench *h, struct loop *l, uint32_t conns, uint32_t requests)
{
    struct http_stats stats;
    uint64_t end = test_deadline();
    do {
        test_turn(l);
        bench_on_hub(h, read_stats, &stats);
        test_check_deadline(end, "the hub notices");
    } while (stats.conns != conns || stats.in_flight != requests);
}

static int wait_for_test(struct tx *tx, void *arg)
{
    sem_wait(arg);
    return 0;
}

static void a_key_whose_client_left_before_anything_was_done_can_be_used_again(void **state)
{
    struct bench *h = *state;
    static const struct http_header key[] = {{"Idempotency-Key", "k1"}, {NULL, NULL}};
    const char *body = "{\"name\": \"later\"}";
    struct leaver l = {0};
    struct dial_params p = {.on_done = leaver_dialled, .arg = &l};
    sem_t go_on;
    sem_init(&go_on, 0, 0);
    store_run(h->store, STORE_READ, wait_for_test, NULL, &go_on);
    l.request = mem_printf("POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
                           "Idempotency-Key: k1\r\nContent-Type: application/json\r\n"
                           "Content-Length: %zu\r\n\r\n%s",
                           h->admin, strlen(body), body);
    const struct tls_client_config tls = {
        .ca_pem = identity_ca_pem(h->identity), .server_name = "127.0.0.1", .alpn = {"http/1.1"}};
    assert_int_equal(loop_new(&l.loop), 0);
    assert_int_equal(tls_client_new(&tls, &p.tls, NULL), 0);
    assert_int_equal(host_port_parse(h->url + strlen("https://"), false, &p.target, NULL), 0);
    dial_start(l.loop, &p);
    await_hub(h, l.loop, 1, 1);
    conn_abort(l.conn, ERR_RESET);
    await_hub(h, l.loop, 0, 1);
    sem_post(&go_on);
    await_hub(h, l.loop, 0, 0);
    assert_int_equal(bench_call_as(h, h->admin, "POST", "/api/v1/tokens", body, key), 201);
    assert_true(l.is_closed);
    tls_client_unref(p.tls);
    loop_free(l.loop);
    mem_free(l.request);
    sem_destroy(&go_on);
}

static void an_operator_does_not_end_an_administrators_token(void **state)
{
    struct bench *h = *state;
    CLEANUP(mem_free) char *op = bench_token(h, "{\"kind\": \"api\", \"name\": \"op\"}");
    assert_int_equal(bench_call_as(h, op, "POST", "/api/v1/tokens/admin:revoke", NULL, NULL), 403);
    assert_int_equal(bench_call(h, "GET", "/api/v1/tokens/admin", NULL), 200);
    assert_int_equal(bench_call_as(h, op, "POST", "/api/v1/tokens/op:revoke", NULL, NULL), 200);
}

static void tokens_are_listed_by_pages_in_order(void **state)
{
    struct bench *h = *state;
    static const char *const names[] = {"a", "b", "c"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        CLEANUP(mem_free) char *body = mem_printf("{\"name\": \"%s\"}", names[i]);
        mem_free(bench_token(h, body));
    }
    assert_int_equal(bench_call(h, "GET", "/api/v1/tokens?kind=bootstrap&page_size=2", NULL), 200);
    assert_int_equal(bench_items(h), 2);
    CLEANUP(mem_free)
    char *path = mem_printf("/api/v1/tokens?kind=bootstrap&page_size=2&page_token=%s",
                            bench_text(h, "next_page_token"));
    assert_int_equal(bench_call(h, "GET", path, NULL), 200);
    assert_int_equal(bench_items(h), 1);
    assert_null(bench_text(h, "next_page_token"));
    assert_int_equal(bench_call(h, "GET", "/api/v1/tokens?kind=other", NULL), 400);
}

static void tenants_see_nothing_of_each_other(void **state)
{
    struct bench *h = *state;
    assert_int_equal(bench_call(h, "POST", "/api/v1/tenants", "{\"name\": \"other\"}"), 201);
    assert_int_equal(bench_call(h, "POST", "/api/v1/tenants", "{\"name\": \"other\"}"), 409);
    CLEANUP(mem_free)
    char *foreign = bench_token(h, "{\"kind\": \"api\", \"tenant\": \"other\"}");
    mem_free(bench_token(h, "{\"name\": \"mine\"}"));

    assert_int_equal(bench_call_as(h, foreign, "GET", "/api/v1/tokens", NULL, NULL), 200);
    assert_int_equal(bench_items(h), 1);
    assert_int_equal(bench_call_as(h, foreign, "GET", "/api/v1/tokens/mine", NULL, NULL), 404);
    assert_int_equal(bench_call_as(h, foreign, "GET", "/api/v1/tokens/admin", NULL, NULL), 404);
    assert_int_equal(bench_call_as(h, foreign, "GET", "/api/v1/tokens?tenant=default", NULL, NULL),
                     403);
    assert_int_equal(bench_call_as(h, foreign, "GET", "/api/v1/tenants", NULL, NULL), 200);
    assert_int_equal(bench_items(h), 1);
    assert_string_equal(bench_item_text(h, 0, "name"), "other");
    assert_int_equal(bench_call_as(h, foreign, "GET", "/api/v1/tenants/default", NULL, NULL), 404);
    assert_int_equal(bench_call_as(h, foreign, "GET", "/api/v1/audit", NULL, NULL), 200);
    assert_int_equal(bench_items(h), 0);
    assert_int_equal(
        bench_call_as(h, foreign, "POST", "/api/v1/tenants", "{\"name\": \"third\"}", NULL), 403);
    assert_int_equal(
        bench_call_as(h, foreign, "POST", "/api/v1/tokens", "{\"tenant\": \"default\"}", NULL),
        403);
    assert_int_equal(bench_call_as(h, foreign, "POST", "/api/v1/tokens",
                                   "{\"kind\": \"api\", \"role\": \"admin\"}", NULL),
                     403);
}

static void a_deleted_tenants_tokens_open_nothing(void **state)
{
    struct bench *h = *state;
    assert_int_equal(bench_call(h, "POST", "/api/v1/tenants", "{\"name\": \"gone\"}"), 201);
    CLEANUP(mem_free)
    char *foreign = bench_token(h, "{\"kind\": \"api\", \"tenant\": \"gone\"}");
    assert_int_equal(bench_call(h, "DELETE", "/api/v1/tenants/gone", NULL), 204);
    assert_int_equal(bench_call_as(h, foreign, "GET", "/api/v1/tokens", NULL, NULL), 401);
    assert_int_equal(bench_call(h, "DELETE", "/api/v1/tenants/default", NULL), 409);
}

struct watching {
    struct bench *h;
    char seen[100];
    pthread_t maker;
};

/* On a thread of its own: blocking calls do not nest. */
static void *make_token(void *arg)
{
    mem_free(bench_token(arg, "{\"name\": \"fresh\"}"));
    return NULL;
}

/* Once the present is known, makes a token; ends when that is told. */
static int on_event(void *arg, const struct http_event *e)
{
    struct watching *w = arg;
    size_t n = strlen(w->seen);
    snprintf(w->seen + n, sizeof(w->seen) - n, "%s ", e->event);
    if (strcmp(e->event, "sync") == 0)
        assert_int_equal(pthread_create(&w->maker, NULL, make_token, w->h), 0);
    return strstr(e->data, "\"fresh\"") ? 7 : 0;
}

static void a_watch_shows_what_is_there_and_then_what_changes(void **state)
{
    struct bench *h = *state;
    struct watching w = {.h = h};
    struct diag d = {0};
    mem_free(bench_token(h, "{}"));
    const struct http_client_config cfg = {
        .base_url = h->url, .ca_pem = identity_ca_pem(h->identity), .bearer = h->admin};
    const struct http_ask ask = {.path = "/api/v1/tokens?watch=1&kind=bootstrap"};
    int rc = http_watch(&cfg, &ask, on_event, &w, &d);
    if (rc != 7)
        fail_msg("%s after %s", diag_text(&d), w.seen);
    assert_string_equal(w.seen, "put sync put ");
    pthread_join(w.maker, NULL);
}

static void each_act_is_in_the_audit_newest_first(void **state)
{
    struct bench *h = *state;
    struct agent_identity a = {0};
    bench_enroll(h, "{\"name\": \"door\"}", &a);
    assert_int_equal(bench_act_on(h, a.id, true), 0);
    assert_int_equal(bench_call(h, "POST", "/api/v1/tokens/door:revoke", NULL), 200);
    assert_int_equal(bench_call(h, "GET", "/api/v1/audit", NULL), 200);
    static const char *const want[] = {"token.revoke", "agent.revoke", "agent.enroll",
                                       "token.create", "token.create"};
    assert_int_equal(bench_items(h), ARRAY_SIZE(want));
    for (size_t i = 0; i < ARRAY_SIZE(want); i++)
        assert_string_equal(bench_item_text(h, i, "action"), want[i]);
    assert_string_equal(bench_item_text(h, 1, "object"), a.id);

    assert_int_equal(bench_call(h, "GET", "/api/v1/audit?page_size=2", NULL), 200);
    assert_int_equal(bench_items(h), 2);
    CLEANUP(mem_free)
    char *path =
        mem_printf("/api/v1/audit?page_size=9&page_token=%s", bench_text(h, "next_page_token"));
    assert_int_equal(bench_call(h, "GET", path, NULL), 200);
    assert_int_equal(bench_items(h), 3);
    assert_string_equal(bench_item_text(h, 0, "action"), "agent.enroll");
    assert_int_equal(bench_call(h, "GET", "/api/v1/audit?action=agent.enroll", NULL), 200);
    assert_int_equal(bench_items(h), 1);
    assert_int_equal(bench_call(h, "GET", "/api/v1/audit?since=yesterday", NULL), 400);
    agent_identity_done(&a);
}

static void a_refused_enrolment_is_in_the_audit(void **state)
{
    struct bench *h = *state;
    struct agent_identity a = {0};
    CLEANUP(mem_free) char *token = bench_token(h, "{\"name\": \"door\"}");
    assert_int_equal(bench_call(h, "POST", "/api/v1/tokens/door:revoke", NULL), 200);
    assert_int_equal(bench_enroll_as(h, token, NULL, true, &a, NULL), ERR_REVOKED);
    assert_int_equal(bench_call(h, "GET", "/api/v1/audit?action=agent.enroll", NULL), 200);
    assert_int_equal(bench_items(h), 1);
    assert_string_equal(bench_item_text(h, 0, "outcome"), "denied");
    assert_string_equal(bench_item_text(h, 0, "detail"), "the token was revoked");
}

static void a_stale_version_is_refused(void **state)
{
    struct bench *h = *state;
    static const struct http_header stale[] = {{"If-Match", "\"9\""}, {NULL, NULL}};
    static const struct http_header right[] = {{"If-Match", "\"1\""}, {NULL, NULL}};
    mem_free(bench_token(h, "{\"name\": \"v\"}"));
    assert_int_equal(bench_call_as(h, h->admin, "POST", "/api/v1/tokens/v:revoke", NULL, stale),
                     412);
    assert_int_equal(bench_call_as(h, h->admin, "POST", "/api/v1/tokens/v:revoke", NULL, right),
                     200);
    assert_non_null(bench_text(h, "revoked"));
    assert_int_equal(bench_call(h, "POST", "/api/v1/tokens/v:revoke", NULL), 200);
}

static void tokens_of_one_named_network_share_it(void **state)
{
    struct bench *h = *state;
    mem_free(bench_token(h, "{\"network\": \"lab\"}"));
    CLEANUP(mem_free) char *network = mem_strdup(bench_text(h, "network"));
    assert_true(id_is(network, "net"));
    mem_free(bench_token(h, "{\"network\": \"lab\"}"));
    assert_string_equal(bench_text(h, "network"), network);
    CLEANUP(mem_free) char *by_id = mem_printf("{\"network\": \"%s\"}", network);
    mem_free(bench_token(h, by_id));
    assert_string_equal(bench_text(h, "network"), network);
    mem_free(bench_token(h, "{}"));
    assert_null(bench_text(h, "network")); /* each agent's LAN decides */
    assert_int_equal(
        bench_call(h, "POST", "/api/v1/tokens", "{\"network\": \"net_0000000000000000\"}"), 404);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, bench_setup, bench_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(without_a_token_nothing_is_shown),
        TEST(the_secret_is_shown_once_and_never_stored),
        TEST(a_repeated_post_acts_once_and_gets_the_first_answer),
        TEST(of_a_tokens_answers_the_newest_are_kept),
        TEST(a_key_whose_client_left_before_anything_was_done_can_be_used_again),
        TEST(an_operator_does_not_end_an_administrators_token),
        TEST(tokens_are_listed_by_pages_in_order),
        TEST(tenants_see_nothing_of_each_other),
        TEST(a_deleted_tenants_tokens_open_nothing),
        TEST(a_watch_shows_what_is_there_and_then_what_changes),
        TEST(each_act_is_in_the_audit_newest_first),
        TEST(a_refused_enrolment_is_in_the_audit),
        TEST(a_stale_version_is_refused),
        TEST(tokens_of_one_named_network_share_it),
    };
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, 2);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
