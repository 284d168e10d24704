/* The client against the server, over TLS: HTTP/1.1 by http_client, HTTP/2 by h2conn. */
#include "http/client.h"

#include "../net/fixture.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "http/server.h"
#include "net/dialer.h"
#include "net/h2conn.h"
#include "net/server.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static struct {
    struct test_certs certs;
    struct loop *loop;
    struct tls_server *tls;
    struct server *front;
    struct http_server *http;
    int fd;
    char url[64];
    struct addr addr;
    struct http_request *held;
} b;

static void handle_hello(struct http_request *req, void *ctx)
{
    const char *token = http_header(req, "Authorization");
    char text[128];
    snprintf(text, sizeof(text), "hello %s", token ? token : "stranger");
    http_add_header(req, "X-Who", "server");
    http_respond_text(req, 200, text);
}

static void handle_echo(struct http_request *req, void *ctx)
{
    size_t len;
    const void *body = http_body(req, &len);
    http_respond(req, 200, http_header(req, "Content-Type"), body, len);
}

static void handle_fail(struct http_request *req, void *ctx)
{
    struct diag d;
    diag_set_field(&d, ERR_EXISTS, "name", "there is a tunnel named \"web\" already");
    http_respond_diag(req, &d);
}

static void handle_hold(struct http_request *req, void *ctx)
{
    b.held = req;
}

static void handle_big(struct http_request *req, void *ctx)
{
    size_t len = 4 * 1024 * 1024;
    char *big = mem_new(len);
    memset(big, 'x', len);
    http_respond(req, 200, "text/plain", big, len);
    mem_free(big);
}

static void handle_events(struct http_request *req, void *ctx)
{
    struct http_sse *sse = http_sse_start(req, NULL, NULL);
    http_sse_send(sse, "1", "put", "{\"a\":1}");
    http_sse_send(sse, "2", NULL, "two\nlines");
    http_sse_end(sse);
}

static const struct http_route routes[] = {
    {"GET", "/api/hello", HTTP_PUBLIC, 0, handle_hello, ""},
    {"POST", "/api/echo", HTTP_PUBLIC, 1 << 20, handle_echo, ""},
    {"GET", "/api/fail", HTTP_PUBLIC, 0, handle_fail, ""},
    {"GET", "/api/hold", HTTP_PUBLIC, 0, handle_hold, ""},
    {"GET", "/api/big", HTTP_PUBLIC, 0, handle_big, ""},
    {"GET", "/api/events", HTTP_PUBLIC, 0, handle_events, ""},
};

static void on_conn(void *arg, struct conn *c, size_t lane)
{
    http_server_take(b.http, c);
}

static int set_up(void **state)
{
    memset(&b, 0, sizeof(b));
    test_certs_new(&b.certs);
    assert_int_equal(loop_new(&b.loop), 0);
    b.tls = test_tls_server(&b.certs, NULL, NULL);
    b.fd = test_listen(&b.addr);
    snprintf(b.url, sizeof(b.url), "https://127.0.0.1:%u/api/", addr_port(&b.addr));
    const struct server_config front = {.tls = b.tls, .on_conn = on_conn};
    const struct http_server_config http = {.loop = b.loop};
    assert_int_equal(server_start(b.loop, b.fd, &front, &b.front), 0);
    assert_int_equal(http_server_new(&http, &b.http), 0);
    http_server_add(b.http, routes, ARRAY_SIZE(routes), NULL);
    return 0;
}

static int tear_down(void **state)
{
    struct http_stats st;
    server_free(b.front);
    http_server_stats(b.http, &st);
    wait_for(b.loop, (http_server_stats(b.http, &st), st.conns == 0));
    http_server_free(b.http);
    for (int i = 0; i < 5; i++)
        test_turn(b.loop);
    close(b.fd);
    tls_server_unref(b.tls);
    loop_free(b.loop);
    test_certs_done(&b.certs);
    return 0;
}

/* --- one exchange ----------------------------------------------------------------------------- */

struct heard {
    int status, err;
    char body[256], who[32];
    size_t len;
    struct diag diag;
    bool is_done;
};

static void on_done(void *arg, struct http_reply *reply, const struct diag *d)
{
    struct heard *h = arg;
    h->is_done = true;
    h->err = d->code;
    h->diag = *d;
    if (!reply)
        return;
    const char *who = http_reply_header(reply, "x-who");
    h->status = reply->status;
    h->len = reply->body.len;
    snprintf(h->body, sizeof(h->body), "%s", buf_text(&reply->body));
    snprintf(h->who, sizeof(h->who), "%s", who ? who : "");
    if (h->status >= 400)
        http_reply_diag(reply, &h->diag);
}

static const struct http_exchange_ops ops = {.done = on_done};

static struct heard ask(const struct http_client_config *cfg, const struct http_ask *question)
{
    struct http_client *c;
    struct heard h = {0};
    struct diag d = {0};
    struct http_client_config full = *cfg;
    full.base_url = cfg->base_url ? cfg->base_url : b.url;
    if (!full.ca_pem && !full.ca_sha256)
        full.ca_pem = b.certs.ca_pem;
    assert_int_equal(http_client_new(b.loop, &full, &c, &d), 0);
    http_client_start(c, question, &ops, &h);
    wait_for(b.loop, h.is_done && http_client_is_idle(c));
    http_client_free(c);
    return h;
}

static void a_question_gets_its_answer(void **state)
{
    struct heard h =
        ask(&(struct http_client_config){.bearer = "wat_x"}, &(struct http_ask){.path = "/hello"});
    assert_int_equal(h.status, 200);
    assert_string_equal(h.body, "hello Bearer wat_x");
    assert_string_equal(h.who, "server");
    h = ask(&(struct http_client_config){0},
            &(struct http_ask){
                .path = "/echo", .content_type = "text/x", .body = "a\0b", .body_len = 3});
    assert_int_equal(h.status, 200);
    assert_int_equal(h.len, 3);
    h = ask(&(struct http_client_config){0}, &(struct http_ask){.path = "/big"});
    assert_int_equal(h.len, 4 * 1024 * 1024);
    h = ask(&(struct http_client_config){0},
            &(struct http_ask){.path = "/hello", .method = "HEAD"});
    assert_int_equal(h.status, 200);
    assert_int_equal(h.len, 0);
}

static void problems_come_back_as_what_they_were(void **state)
{
    struct heard h = ask(&(struct http_client_config){0}, &(struct http_ask){.path = "/fail"});
    assert_int_equal(h.status, 409);
    assert_int_equal(h.diag.code, ERR_EXISTS);
    assert_string_equal(h.diag.field, "name");
    assert_string_equal(h.diag.text, "there is a tunnel named \"web\" already");
}

static void the_server_is_known_by_its_ca_or_a_pin(void **state)
{
    uint8_t pin[TLS_PIN_SIZE];
    memcpy(pin, b.certs.ca_pin, sizeof(pin));
    struct heard h =
        ask(&(struct http_client_config){.ca_sha256 = pin}, &(struct http_ask){.path = "/hello"});
    assert_int_equal(h.status, 200);
    pin[0] ^= 1;
    h = ask(&(struct http_client_config){.ca_sha256 = pin}, &(struct http_ask){.path = "/hello"});
    assert_int_equal(h.err, ERR_TLS);
    assert_true(h.diag.text[0]);

    struct test_certs other;
    test_certs_new(&other);
    h = ask(&(struct http_client_config){.ca_pem = other.ca_pem},
            &(struct http_ask){.path = "/hello"});
    assert_int_equal(h.err, ERR_TLS);
    test_certs_done(&other);

    char url[64];
    snprintf(url, sizeof(url), "https://127.0.0.2:%u", addr_port(&b.addr));
    h = ask(&(struct http_client_config){.base_url = url}, &(struct http_ask){.path = "/"});
    assert_true(h.err < 0); /* nobody listens there, or the certificate is for another address */
}

static void failures_say_what_happened(void **state)
{
    struct addr unused;
    int fd = test_listen(&unused);
    close(fd);
    char url[64];
    snprintf(url, sizeof(url), "https://127.0.0.1:%u", addr_port(&unused));
    struct heard h =
        ask(&(struct http_client_config){.base_url = url}, &(struct http_ask){.path = "/hello"});
    assert_int_equal(h.err, ERR_REFUSED);

    h = ask(&(struct http_client_config){.timeout_ms = 50}, &(struct http_ask){.path = "/hold"});
    assert_int_equal(h.err, ERR_TIMEOUT);
    assert_non_null(strstr(h.diag.text, "did not answer"));
    assert_non_null(b.held);
    http_respond_text(TAKE(b.held), 200, "too late");

    h = ask(&(struct http_client_config){.reply_max = 1000}, &(struct http_ask){.path = "/big"});
    assert_int_equal(h.err, ERR_TOO_LARGE);
}

static void bad_settings_are_told_before_anything_is_dialled(void **state)
{
    static const char *const bad[] = {"http://x",    "https://", "https://a@b",
                                      "https://x:0", "x",        "https://x:99999"};
    struct http_client *c = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct diag d = {0};
        assert_int_equal(
            http_client_new(b.loop, &(struct http_client_config){.base_url = bad[i]}, &c, &d),
            ERR_INVALID);
        assert_true(d.text[0]);
    }
    struct diag d = {0};
    assert_int_equal(http_client_new(b.loop,
                                     &(struct http_client_config){.base_url = "https://x",
                                                                  .ca_file = "/nowhere"},
                                     &c, &d),
                     ERR_TLS);
    assert_non_null(strstr(d.text, "/nowhere"));
}

static void a_cancelled_exchange_says_nothing(void **state)
{
    struct http_client *c;
    struct heard h = {0};
    const struct http_client_config cfg = {.base_url = b.url, .ca_pem = b.certs.ca_pem};
    assert_int_equal(http_client_new(b.loop, &cfg, &c, NULL), 0);
    http_exchange_cancel(http_client_start(c, &(struct http_ask){.path = "/hello"}, &ops, &h));
    http_client_start(c, &(struct http_ask){.path = "/hold"}, &ops, &h);
    wait_for(b.loop, b.held);
    http_client_free(c);
    wait_for(b.loop, http_request_is_gone(b.held));
    http_respond_text(TAKE(b.held), 200, "");
    assert_false(h.is_done);
}

/* --- the blocking forms ----------------------------------------------------------------------- */

struct blocking {
    struct http_client_config cfg;
    int rc, status, n_events;
    char text[128];
    struct diag diag;
    bool stop_first;
    _Atomic bool is_done;
};

static void *fetch_thread(void *arg)
{
    struct blocking *k = arg;
    struct http_reply reply = {0};
    k->rc = http_fetch(&k->cfg, &(struct http_ask){.path = "/hello"}, &reply, &k->diag);
    k->status = reply.status;
    http_reply_done(&reply);
    k->is_done = true;
    return NULL;
}

static int on_event(void *arg, const struct http_event *e)
{
    struct blocking *k = arg;
    k->n_events++;
    size_t len = strlen(k->text);
    snprintf(k->text + len, sizeof(k->text) - len, "%s %s %s;", e->id, e->event, e->data);
    return k->stop_first ? 7 : 0;
}

static void *watch_thread(void *arg)
{
    struct blocking *k = arg;
    k->rc = http_watch(&k->cfg, &(struct http_ask){.path = "/events"}, on_event, k, &k->diag);
    k->is_done = true;
    return NULL;
}

static void *watch_fail_thread(void *arg)
{
    struct blocking *k = arg;
    k->rc = http_watch(&k->cfg, &(struct http_ask){.path = "/fail"}, on_event, k, &k->diag);
    k->is_done = true;
    return NULL;
}

static void run_blocking(struct blocking *k, void *(*fn)(void *))
{
    pthread_t t;
    k->cfg = (struct http_client_config){.base_url = b.url, .ca_pem = b.certs.ca_pem};
    pthread_create(&t, NULL, fn, k);
    wait_for(b.loop, k->is_done);
    pthread_join(t, NULL);
}

static void a_blocking_fetch_needs_no_loop(void **state)
{
    struct blocking k = {0};
    run_blocking(&k, fetch_thread);
    assert_int_equal(k.rc, 0);
    assert_int_equal(k.status, 200);
}

static void a_blocking_watch_gives_events_until_the_end(void **state)
{
    struct blocking k = {0};
    run_blocking(&k, watch_thread);
    assert_int_equal(k.rc, 0);
    assert_string_equal(k.text, "1 put {\"a\":1};2 message two\nlines;");
    struct blocking stop = {.stop_first = true};
    run_blocking(&stop, watch_thread);
    assert_int_equal(stop.rc, 7);
    assert_int_equal(stop.n_events, 1);
    struct blocking refused = {0};
    run_blocking(&refused, watch_fail_thread);
    assert_int_equal(refused.rc, ERR_EXISTS);
    assert_string_equal(refused.diag.field, "name");
}

/* --- HTTP/2 ----------------------------------------------------------------------------------- */

struct h2_ask {
    struct h2conn *hc;
    struct h2_stream *stream;
    int status, n_closed;
    char type[64];
    struct buf body;
    size_t to_send, chunk;
    bool is_closed;
    uint32_t error;
};

static void h2_on_headers(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct h2_ask *a = arg;
    const char *type = h2_headers_get(h, "content-type");
    a->status = h2_headers_status(h);
    snprintf(a->type, sizeof(a->type), "%s", type ? type : "");
}

static void h2_on_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct h2_ask *a = arg;
    buf_append(&a->body, data, len);
    h2_consume(s, len);
}

static int h2_on_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct h2_ask *a = arg;
    size_t n = MIN(cap, a->to_send);
    memset(out, 'y', n);
    a->to_send -= n;
    *eof = a->to_send == 0;
    return (int)n;
}

static void h2_on_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct h2_ask *a = arg;
    a->n_closed++;
    a->error = error;
}

static const struct h2_stream_ops h2_ops = {.on_headers = h2_on_headers,
                                            .on_data = h2_on_data,
                                            .on_produce = h2_on_produce,
                                            .on_close = h2_on_close};

static void h2_on_conn_close(void *arg, int err)
{
    struct h2_ask *a = arg;
    a->is_closed = true;
}

static void h2_on_dialled(void *arg, const struct dial_result *r)
{
    struct h2_ask *a = arg;
    static const struct h2conn_ops conn_ops = {.on_close = h2_on_conn_close};
    assert_int_equal(r->err, 0);
    a->hc = h2conn_new(r->conn, &(struct h2conn_config){0}, &conn_ops, a);
}

static void h2_connect(struct h2_ask *a)
{
    struct tls_client *tls = test_tls_client(&b.certs, NULL, "h2");
    struct dial_params p = {.tls = tls, .on_done = h2_on_dialled, .arg = a};
    snprintf(p.target.host, sizeof(p.target.host), "127.0.0.1");
    p.target.port = addr_port(&b.addr);
    dial_start(b.loop, &p);
    wait_for(b.loop, a->hc);
    tls_client_unref(tls);
}

static void h2_start(struct h2_ask *a, const char *method, const char *path, size_t body)
{
    a->status = 0;
    a->to_send = body;
    buf_clear(&a->body);
    assert_int_equal(h2_request(h2conn_session(a->hc),
                                H2_HEADERS({":method", method}, {":scheme", "https"},
                                           {":path", path}, {":authority", "x"}),
                                4, body > 0, &h2_ops, a, &a->stream),
                     0);
}

static void h2_ask(struct h2_ask *a, const char *method, const char *path, size_t body)
{
    int closed = a->n_closed;
    h2_start(a, method, path, body);
    wait_for(b.loop, a->n_closed > closed);
}

static void h2_hang_up(struct h2_ask *a)
{
    h2conn_abort(a->hc, ERR_CANCELED);
    wait_for(b.loop, a->is_closed);
    buf_done(&a->body);
}

static void http2_serves_the_same_routes(void **state)
{
    struct h2_ask a = {0};
    h2_connect(&a);
    h2_ask(&a, "GET", "/api/hello", 0);
    assert_int_equal(a.status, 200);
    assert_string_equal(buf_text(&a.body), "hello stranger");
    h2_ask(&a, "POST", "/api/echo", 300 * 1024);
    assert_int_equal(a.status, 200);
    assert_int_equal(a.body.len, 300 * 1024);
    h2_ask(&a, "GET", "/api/big", 0);
    assert_int_equal(a.body.len, 4 * 1024 * 1024);
    h2_ask(&a, "HEAD", "/api/hello", 0);
    assert_int_equal(a.status, 200);
    assert_int_equal(a.body.len, 0);
    h2_ask(&a, "GET", "/api/nothing", 0);
    assert_int_equal(a.status, 404);
    assert_string_equal(a.type, "application/problem+json");
    h2_ask(&a, "GET", "/api/events", 0);
    assert_string_equal(a.type, "text/event-stream");
    assert_non_null(strstr(buf_text(&a.body), "id: 1\nevent: put\ndata: {\"a\":1}\n\n"));
    h2_hang_up(&a);
}

static void http2_bodies_are_capped_too(void **state)
{
    struct h2_ask a = {0};
    h2_connect(&a);
    h2_start(&a, "POST", "/api/echo", 3 << 20);
    wait_for(b.loop, a.n_closed == 1);
    assert_int_equal(a.status, 413);
    assert_non_null(strstr(buf_text(&a.body), "too_large")); /* whole, before the stream ends */
    h2_start(&a, "POST", "/api/fail", 10);
    wait_for(b.loop, a.status == 405);
    h2_hang_up(&a);
}

static void http2_streams_that_are_reset_leave_their_request_valid(void **state)
{
    struct h2_ask a = {0};
    h2_connect(&a);
    h2_start(&a, "GET", "/api/hold", 0);
    wait_for(b.loop, b.held);
    h2_reset(a.stream, H2_CANCEL);
    wait_for(b.loop, http_request_is_gone(b.held));
    http_respond_text(TAKE(b.held), 200, "to nobody");
    h2_ask(&a, "GET", "/api/hello", 0);
    assert_int_equal(a.status, 200);
    h2_hang_up(&a);
}

static void http2_connections_drain(void **state)
{
    struct h2_ask a = {0};
    h2_connect(&a);
    h2_start(&a, "GET", "/api/hold", 0);
    wait_for(b.loop, b.held);
    http_server_drain(b.http, NULL, NULL);
    http_respond_text(TAKE(b.held), 200, "last");
    wait_for(b.loop, a.is_closed);
    assert_int_equal(a.status, 200);
    assert_string_equal(buf_text(&a.body), "last");
    buf_done(&a.body);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_question_gets_its_answer),
        TEST(problems_come_back_as_what_they_were),
        TEST(the_server_is_known_by_its_ca_or_a_pin),
        TEST(failures_say_what_happened),
        TEST(bad_settings_are_told_before_anything_is_dialled),
        TEST(a_cancelled_exchange_says_nothing),
        TEST(a_blocking_fetch_needs_no_loop),
        TEST(a_blocking_watch_gives_events_until_the_end),
        TEST(http2_serves_the_same_routes),
        TEST(http2_bodies_are_capped_too),
        TEST(http2_streams_that_are_reset_leave_their_request_valid),
        TEST(http2_connections_drain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
