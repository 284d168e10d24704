#include "net/conn.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "fixture.h"
#include "net/dialer.h"
#include "net/server.h"

#include <openssl/x509.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* One end of a connection: sends `to_send` counted bytes, checks what it gets, and echoes if told
 * to. */
struct peer {
    struct conn *conn;
    size_t to_send, sent, got, echo_pending, take_at_most;
    size_t unit, head, n_crossed; /* after `head` bytes come units, which belong together */
    bool echoes, is_open, is_ended, is_closed;
    int err;
    char diag[448];
    size_t lane;
    char alpn[32];
    bool has_cert, cert_expired;
};

static void on_open(void *arg)
{
    ((struct peer *)arg)->is_open = true;
}

static size_t on_data(void *arg, const uint8_t *data, size_t len)
{
    struct peer *p = arg;
    if (p->take_at_most && len > p->take_at_most) {
        len = p->take_at_most;
        conn_pause(p->conn);
    }
    for (size_t i = 0; i < len; i++) {
        if (data[i] != (uint8_t)((p->got + i) * 13))
            fail_msg("byte %zu differs", p->got + i);
    }
    if (p->unit && p->got >= p->head)
        p->n_crossed += (p->got - p->head) % p->unit + len > p->unit;
    p->got += len;
    if (p->unit && p->got >= p->head)
        conn_expect(p->conn, (p->unit - (p->got - p->head) % p->unit) % p->unit);
    if (p->echoes) {
        p->to_send += len;
        conn_wake(p->conn);
    }
    return len;
}

static void on_end(void *arg)
{
    struct peer *p = arg;
    p->is_ended = true;
    conn_close(p->conn);
}

static size_t on_fill(void *arg, uint8_t *out, size_t cap)
{
    struct peer *p = arg;
    size_t n = MIN(cap, p->to_send - p->sent);
    if (p->unit && p->sent >= p->head)
        n = MIN(n, p->unit - (p->sent - p->head) % p->unit);
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)((p->sent + i) * 13);
    p->sent += n;
    return n;
}

static void on_close(void *arg, int err)
{
    struct peer *p = arg;
    p->is_closed = true;
    p->err = err;
    if (p->conn)
        snprintf(p->diag, sizeof(p->diag), "%s", conn_diag(p->conn)->text);
    p->conn = NULL;
}

static const struct conn_ops ops = {on_open, on_data, on_end, on_fill, on_close};

struct rig {
    struct test_certs certs;
    struct loop *loop;
    struct tls_server *tls;
    struct server *server;
    int fd;
    struct addr addr;
    struct peer at_server, at_client;
    int revoked; /* what the hook answers */
    bool hand_over;
    struct conn *handed;
    struct dial_result dialled;
    bool is_dialled;
};

static int verify(void *arg, struct x509_st *leaf)
{
    assert_non_null(leaf);
    return ((struct rig *)arg)->revoked;
}

static void on_conn(void *arg, struct conn *c, size_t lane)
{
    struct rig *rig = arg;
    struct peer *p = &rig->at_server;
    p->lane = lane;
    snprintf(p->alpn, sizeof(p->alpn), "%s", conn_alpn(c));
    p->has_cert = conn_peer_cert(c) != NULL;
    p->cert_expired = conn_peer_cert_expired(c);
    if (rig->hand_over) {
        conn_detach(c);
        rig->handed = c;
        return;
    }
    p->conn = c;
    conn_start(c, &ops, p);
}

static void on_dialled(void *arg, const struct dial_result *r)
{
    struct rig *rig = arg;
    rig->dialled = *r;
    rig->is_dialled = true;
    rig->at_client.conn = r->conn;
    if (r->conn)
        conn_start(r->conn, &ops, &rig->at_client);
}

static void rig_new(struct rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    test_certs_new(&rig->certs);
    assert_int_equal(loop_new(&rig->loop), 0);
    rig->fd = test_listen(&rig->addr);
    rig->tls = test_tls_server(&rig->certs, verify, rig);
    struct server_config cfg = {.tls = rig->tls, .on_conn = on_conn, .arg = rig};
    assert_int_equal(server_start(rig->loop, rig->fd, &cfg, &rig->server), 0);
}

static void rig_done(struct rig *rig)
{
    if (rig->at_client.conn)
        conn_abort(rig->at_client.conn, ERR_CANCELED);
    if (rig->at_server.conn)
        conn_abort(rig->at_server.conn, ERR_CANCELED);
    wait_for(rig->loop, !rig->at_client.conn && !rig->at_server.conn);
    server_free(rig->server);
    tls_server_unref(rig->tls);
    loop_turn(rig->loop, false);
    loop_free(rig->loop);
    close(rig->fd);
    test_certs_done(&rig->certs);
}

static void dial_with(struct rig *rig, struct tls_client *t)
{
    struct dial_params p = {.target = {.host = "127.0.0.1", .port = addr_port(&rig->addr)},
                            .tls = t,
                            .on_done = on_dialled,
                            .arg = rig};
    rig->is_dialled = false;
    dial_start(rig->loop, &p);
    wait_for(rig->loop, rig->is_dialled);
    tls_client_unref(t);
}

static void join(struct rig *rig, const struct test_identity *id, const char *alpn)
{
    dial_with(rig, test_tls_client(&rig->certs, id, alpn));
    assert_int_equal(rig->dialled.err, 0);
}

static void bytes_are_echoed_over_tls_1_3(void **state)
{
    struct rig rig;
    rig_new(&rig);
    rig.at_server.echoes = true;
    rig.at_client.to_send = 10000000;
    join(&rig, NULL, "http/1.1");
    wait_for(rig.loop, rig.at_client.got == 10000000);
    assert_string_equal(rig.at_server.alpn, "http/1.1");
    assert_string_equal(conn_alpn(rig.at_client.conn), "http/1.1");
    rig_done(&rig);
}

static void what_belongs_together_is_not_read_with_the_beginning_of_what_follows(void **state)
{
    enum { UNIT = 15 * 16384, N = 100 };
    struct rig rig;
    rig_new(&rig);
    rig.at_server.unit = rig.at_client.unit = UNIT;
    rig.at_server.head = rig.at_client.head = rig.at_client.to_send = 100;
    join(&rig, NULL, NULL);
    wait_for(rig.loop, rig.at_server.conn);
    conn_set_batch(rig.at_server.conn, UNIT);
    conn_set_batch(rig.at_client.conn, UNIT);
    wait_for(rig.loop, rig.at_client.sent == 100);
    rig.at_client.to_send += (size_t)UNIT * N;
    conn_wake(rig.at_client.conn);
    wait_for(rig.loop, rig.at_server.got == 100 + (size_t)UNIT * N);
    assert_int_equal(rig.at_server.n_crossed, 0);
    rig_done(&rig);
}

static void closing_sends_everything_first(void **state)
{
    struct rig rig;
    rig_new(&rig);
    join(&rig, NULL, NULL);
    wait_for(rig.loop, rig.at_server.conn);
    rig.at_server.to_send = 3000000;
    conn_close(rig.at_server.conn);
    wait_for(rig.loop, rig.at_client.is_closed && rig.at_server.is_closed);
    assert_int_equal(rig.at_client.got, 3000000);
    assert_true(rig.at_client.is_ended);
    assert_int_equal(rig.at_client.err, 0);
    assert_int_equal(rig.at_server.err, 0);
    rig_done(&rig);
}

static void a_paused_reader_gets_the_rest_later_and_in_order(void **state)
{
    struct rig rig;
    rig_new(&rig);
    rig.at_client.to_send = 2000000;
    rig.at_server.take_at_most = 1000;
    join(&rig, NULL, NULL);
    uint64_t end = test_deadline();
    while (rig.at_server.got < 2000000) {
        test_turn(rig.loop);
        if (rig.at_server.conn)
            conn_resume(rig.at_server.conn);
        if (rig.at_server.got > 500000)
            rig.at_server.take_at_most = 0;
        test_check_deadline(end, "all bytes");
    }
    rig_done(&rig);
}

struct other {
    struct loop *loop;
    struct conn *conn;
    struct peer peer;
};

static void attach(void *arg)
{
    struct other *o = arg;
    o->peer.conn = o->conn;
    conn_attach(o->conn, o->loop, &ops, &o->peer);
}

static void *run(void *arg)
{
    loop_run(((struct other *)arg)->loop);
    return NULL;
}

static void a_connection_moves_to_another_loop_with_its_bytes(void **state)
{
    struct rig rig;
    struct other other = {.peer.echoes = true};
    pthread_t thread;
    rig_new(&rig);
    assert_int_equal(loop_new(&other.loop), 0);
    pthread_create(&thread, NULL, run, &other);
    rig.hand_over = true;
    rig.at_client.to_send = 5000000;
    join(&rig, NULL, "h2");
    wait_for(rig.loop, rig.handed && rig.at_client.sent > 100000);
    other.conn = rig.handed;
    loop_post(other.loop, attach, &other);
    wait_for(rig.loop, rig.at_client.got == 5000000);
    conn_close(rig.at_client.conn);
    wait_for(rig.loop, rig.at_client.is_closed);
    loop_stop(other.loop);
    pthread_join(thread, NULL);
    assert_true(other.peer.is_closed);
    loop_free(other.loop);
    rig_done(&rig);
}

static void a_client_certificate_is_asked_for_in_its_lanes_only(void **state)
{
    struct rig rig;
    rig_new(&rig);
    join(&rig, &rig.certs.client, "h2");
    wait_for(rig.loop, rig.at_server.conn);
    assert_int_equal(rig.at_server.lane, LANE_H2);
    assert_false(rig.at_server.has_cert);
    conn_close(rig.at_client.conn);
    wait_for(rig.loop, rig.at_server.is_closed && rig.at_client.is_closed);

    join(&rig, &rig.certs.client, "warren-agent/1");
    wait_for(rig.loop, rig.at_server.conn);
    assert_int_equal(rig.at_server.lane, LANE_AGENT);
    assert_true(rig.at_server.has_cert);
    rig_done(&rig);
}

static void expect_refusal(const struct test_identity *(*pick)(struct test_certs *),
                           const char *alpn, int revoked, int err)
{
    struct rig rig;
    rig_new(&rig);
    rig.revoked = revoked;
    join(&rig, pick(&rig.certs), alpn); /* TLS 1.3: the client is done first */
    wait_for(rig.loop, rig.at_client.is_closed);
    assert_int_equal(rig.at_client.err, err);
    assert_null(rig.at_server.conn);
    assert_false(rig.at_server.has_cert);
    rig_done(&rig);
}

static const struct test_identity *none(struct test_certs *c)
{
    return NULL;
}

static const struct test_identity *good(struct test_certs *c)
{
    return &c->client;
}

static const struct test_identity *expired(struct test_certs *c)
{
    return &c->expired;
}

static const struct test_identity *stranger(struct test_certs *c)
{
    return &c->stranger;
}

static void bad_client_certificates_are_refused_with_their_reason(void **state)
{
    expect_refusal(none, "warren-agent/1", 0, ERR_TLS);
    expect_refusal(stranger, "warren-agent/1", 0, ERR_TLS);
    expect_refusal(expired, "warren-agent/1", 0, ERR_EXPIRED);
    expect_refusal(good, "warren-agent/1", ERR_REVOKED, ERR_REVOKED);
    expect_refusal(stranger, "warren-renew/1", 0, ERR_TLS);
    expect_refusal(expired, "warren-renew/1", ERR_REVOKED, ERR_REVOKED);
}

static void an_expired_certificate_is_let_into_the_renew_lane_and_marked(void **state)
{
    struct rig rig;
    rig_new(&rig);
    join(&rig, &rig.certs.expired, "warren-renew/1");
    wait_for(rig.loop, rig.at_server.conn);
    assert_true(rig.at_server.has_cert);
    assert_true(rig.at_server.cert_expired);
    rig_done(&rig);
}

static struct tls_client *client_for(const struct tls_client_config *cfg)
{
    struct tls_client *t;
    assert_int_equal(tls_client_new(cfg, &t, NULL), 0);
    return t;
}

static void a_client_checks_name_ca_and_pin(void **state)
{
    struct rig rig;
    rig_new(&rig);
    uint8_t wrong_pin[TLS_PIN_SIZE] = {1};
    const uint8_t *pin = rig.certs.ca_pin;
    const char *ca = rig.certs.ca_pem;
    dial_with(&rig,
              client_for(&(struct tls_client_config){.ca_pin = pin, .server_name = "localhost"}));
    assert_int_equal(rig.dialled.err, 0);
    conn_abort(rig.at_client.conn, ERR_CANCELED);
    dial_with(&rig,
              client_for(&(struct tls_client_config){.ca_pem = ca, .server_name = "127.0.0.1"}));
    assert_int_equal(rig.dialled.err, 0);
    conn_abort(rig.at_client.conn, ERR_CANCELED);
    wait_for(rig.loop, rig.at_server.is_closed && !rig.at_client.conn);

    struct tls_client_config bad[] = {{.ca_pin = wrong_pin, .server_name = "localhost"},
                                      {.ca_pin = pin, .server_name = "elsewhere"},
                                      {.ca_pem = ca, .server_name = "elsewhere"},
                                      {.ca_pem = ca, .server_name = "10.9.8.7"},
                                      {.server_name = "localhost"}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        dial_with(&rig, client_for(&bad[i]));
        assert_int_equal(rig.dialled.err, ERR_TLS);
        assert_true(strlen(rig.dialled.diag.text) > 10);
    }
    rig_done(&rig);
}

static void a_reloaded_certificate_is_used_and_a_bad_one_changes_nothing(void **state)
{
    struct rig rig;
    rig_new(&rig);
    struct diag d = {0};
    struct test_identity *id = &rig.certs.client; /* carries the same names */
    assert_int_equal(tls_server_reload(rig.tls, "garbage", &id->key, NULL, &d), ERR_TLS);
    assert_int_equal(tls_server_reload(rig.tls, rig.certs.server.chain_pem, &id->key, NULL, &d),
                     ERR_TLS);
    join(&rig, NULL, NULL);
    conn_abort(rig.at_client.conn, ERR_CANCELED);
    assert_int_equal(tls_server_reload(rig.tls, id->chain_pem, &id->key, NULL, &d), 0);
    wait_for(rig.loop, !rig.at_client.conn);
    join(&rig, NULL, NULL);
    rig_done(&rig);
}

static void older_versions_of_tls_are_refused(void **state)
{
    static const uint8_t hello_1_2[] = {
        22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3, /* ClientHello, TLS 1.2, no supported_versions */
        1,  2, 3, 4, 5,  6, 7, 8, 9,  0, 1, 2, 3, 4, 5, 6,    7,    8, 9, 0,
        1,  2, 3, 4, 5,  6, 7, 8, 9,  0, 1, 2, 0, 0, 2, 0xc0, 0x2f, 1, 0};
    struct rig rig;
    uint8_t answer[64];
    rig_new(&rig);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, &rig.addr.sa, rig.addr.len), 0);
    send(fd, hello_1_2, sizeof(hello_1_2), 0);
    ssize_t n;
    wait_for(rig.loop, (n = recv(fd, answer, sizeof(answer), MSG_DONTWAIT)) >= 7);
    assert_int_equal(answer[0], 21); /* alert */
    assert_int_equal(answer[6], 70); /* protocol_version */
    close(fd);
    rig_done(&rig);
}

static void a_reset_peer_is_seen_even_while_paused(void **state)
{
    struct rig rig;
    rig_new(&rig);
    join(&rig, NULL, NULL);
    wait_for(rig.loop, rig.at_server.conn);
    conn_pause(rig.at_server.conn);
    conn_abort(rig.at_client.conn, ERR_RESET);
    wait_for(rig.loop, rig.at_server.is_closed);
    assert_int_equal(rig.at_server.err, ERR_RESET);
    rig_done(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_echoed_over_tls_1_3),
        cmocka_unit_test(what_belongs_together_is_not_read_with_the_beginning_of_what_follows),
        cmocka_unit_test(closing_sends_everything_first),
        cmocka_unit_test(a_paused_reader_gets_the_rest_later_and_in_order),
        cmocka_unit_test(a_connection_moves_to_another_loop_with_its_bytes),
        cmocka_unit_test(a_client_certificate_is_asked_for_in_its_lanes_only),
        cmocka_unit_test(bad_client_certificates_are_refused_with_their_reason),
        cmocka_unit_test(an_expired_certificate_is_let_into_the_renew_lane_and_marked),
        cmocka_unit_test(a_client_checks_name_ca_and_pin),
        cmocka_unit_test(a_reloaded_certificate_is_used_and_a_bad_one_changes_nothing),
        cmocka_unit_test(older_versions_of_tls_are_refused),
        cmocka_unit_test(a_reset_peer_is_seen_even_while_paused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
