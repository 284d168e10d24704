/* The server and the client against each other, on a loopback connection. */
#include "../net/fixture.h"
#include "agent.pb-c.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/h2conn.h"
#include "rpc/client.h"
#include "rpc/server.h"
#include "wire/grpc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

static struct {
    struct loop *loop;
    struct rpc_server *server;
    struct rpc_client *client;
    struct rpc_call *held;
    int n_opened, n_closed, n_cancelled, client_closed;
    bool finish_in_cancel;
} b;

static void handle_release(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__ReleaseLeaseRequest *req = (const void *)msg;
    Warren__V1__Lease lease = WARREN__V1__LEASE__INIT;
    if (strcmp(req->tunnel, "taken") == 0) {
        rpc_fail(call, ERR_CONFLICT, "another agent (\xc3\xa9) holds %s: 100%%", req->tunnel);
    } else if (strcmp(req->tunnel, "hold") == 0) {
        b.held = call;
    } else {
        lease.tunnel = req->tunnel;
        lease.epoch = req->session_epoch + 1;
        rpc_reply(call, &lease.base);
    }
}

static void on_cancel(struct rpc_call *call, void *arg)
{
    b.n_cancelled++;
    if (!b.finish_in_cancel)
        return;
    b.held = NULL;
    rpc_finish(call, RPC_CANCELLED, "");
}

static void handle_connect(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    b.held = call;
    rpc_on_cancel(call, on_cancel, NULL);
}

static const struct rpc_method methods[] = {
    {"/warren.v1.AgentService/ReleaseLease", RPC_UNARY,
     &warren__v1__release_lease_request__descriptor, handle_release},
    {"/warren.v1.AgentService/Connect", RPC_SERVER_STREAM, &warren__v1__connect_request__descriptor,
     handle_connect},
};

static void *on_open(struct rpc_session *s, void *arg)
{
    b.n_opened++;
    assert_non_null(conn_peer_addr(rpc_session_conn(s)));
    return &b;
}

static void on_close(struct rpc_session *s, void *user, int err, void *arg)
{
    assert_ptr_equal(user, &b);
    b.n_closed++;
}

static void on_client_close(void *arg, int err)
{
    b.client_closed++;
    b.client = NULL;
}

static int set_up(void **state)
{
    int fds[2];
    struct conn *server_end, *client_end;
    memset(&b, 0, sizeof(b));
    assert_int_equal(loop_new(&b.loop), 0);
    const struct rpc_server_config cfg = {
        .loop = b.loop, .on_open = on_open, .on_close = on_close, .stream_backlog = 300 * 1024};
    assert_int_equal(rpc_server_new(&cfg, &b.server), 0);
    rpc_server_add(b.server, methods, ARRAY_SIZE(methods), NULL);
    test_tcp_pair(fds);
    assert_int_equal(conn_new_plain(b.loop, fds[0], NULL, &client_end), 0);
    assert_int_equal(conn_new_plain(b.loop, fds[1], NULL, &server_end), 0);
    rpc_server_take(b.server, server_end);
    assert_int_equal(rpc_client_new(client_end, "hub", on_client_close, NULL, &b.client), 0);
    return 0;
}

static int tear_down(void **state)
{
    rpc_client_free(b.client);
    wait_for(b.loop, b.n_closed == b.n_opened);
    rpc_server_free(b.server);
    for (int i = 0; i < 5; i++)
        test_turn(b.loop);
    loop_free(b.loop);
    return 0;
}

/* --- the caller's side ------------------------------------------------------------------------ */

struct heard {
    bool is_done;
    struct rpc_result result;
    uint64_t epoch;
    size_t n_events, bytes;
    char last[64];
};

static void on_lease(void *arg, const struct rpc_result *r, const ProtobufCMessage *reply)
{
    struct heard *h = arg;
    assert_false(h->is_done);
    h->is_done = true;
    h->result = *r;
    h->epoch = reply ? ((const Warren__V1__Lease *)reply)->epoch : 0;
}

static void on_event(void *arg, const ProtobufCMessage *msg)
{
    struct heard *h = arg;
    const Warren__V1__HubEvent *e = (const void *)msg;
    h->n_events++;
    if (e->event_case == WARREN__V1__HUB_EVENT__EVENT_TUNNEL_REMOVED) {
        snprintf(h->last, sizeof(h->last), "%s", e->tunnel_removed->id);
        h->bytes += strlen(e->tunnel_removed->id);
    }
}

static void on_end(void *arg, const struct rpc_result *r)
{
    struct heard *h = arg;
    assert_false(h->is_done);
    h->is_done = true;
    h->result = *r;
}

static struct rpc_client_call *acquire(const char *tunnel, uint32_t timeout_ms, struct heard *h)
{
    Warren__V1__ReleaseLeaseRequest req = WARREN__V1__RELEASE_LEASE_REQUEST__INIT;
    char copy[64];
    snprintf(copy, sizeof(copy), "%s", tunnel);
    req.tunnel = copy;
    req.session_epoch = 41;
    return rpc_call_unary(b.client, methods[0].path, &req.base, &warren__v1__lease__descriptor,
                          timeout_ms, on_lease, h);
}

static struct rpc_client_call *log_in(struct heard *h)
{
    Warren__V1__ConnectRequest req = WARREN__V1__CONNECT_REQUEST__INIT;
    return rpc_call_stream(b.client, methods[1].path, &req.base, &warren__v1__hub_event__descriptor,
                           0, on_event, on_end, h);
}

static int send_event(size_t len)
{
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    Warren__V1__TunnelRemoved removed = WARREN__V1__TUNNEL_REMOVED__INIT;
    char *id = mem_new(len + 1);
    memset(id, 'x', len);
    removed.id = id;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_TUNNEL_REMOVED;
    event.tunnel_removed = &removed;
    int rc = rpc_send(b.held, &event.base);
    mem_free(id);
    return rc;
}

/* --- tests ------------------------------------------------------------------------------------ */

static void a_unary_call_is_answered(void **state)
{
    struct heard h = {0};
    acquire("tun_1", 5000, &h);
    assert_false(h.is_done);
    wait_for(b.loop, h.is_done);
    assert_int_equal(h.result.status, RPC_OK);
    assert_int_equal(h.epoch, 42);
    struct rpc_stats st;
    rpc_server_stats(b.server, &st);
    assert_int_equal(st.calls, 1);
    assert_int_equal(st.failed, 0);
}

static void many_calls_share_a_connection(void **state)
{
    static struct heard h[200];
    memset(h, 0, sizeof(h));
    size_t refused = 0;
    for (size_t i = 0; i < ARRAY_SIZE(h); i++) {
        acquire("tun_1", 0, &h[i]);
        if (i % 20 == 19)
            wait_for(b.loop, h[i].is_done);
    }
    for (size_t i = 0; i < ARRAY_SIZE(h); i++) {
        wait_for(b.loop, h[i].is_done);
        refused += h[i].result.status != RPC_OK;
    }
    assert_int_equal(refused, 0);
}

static void a_failure_comes_with_its_status_and_text(void **state)
{
    struct heard h = {0};
    acquire("taken", 0, &h);
    wait_for(b.loop, h.is_done);
    assert_int_equal(h.result.status, RPC_FAILED_PRECONDITION);
    assert_int_equal(h.result.diag.code, ERR_CONFLICT);
    assert_string_equal(h.result.diag.text, "another agent (\xc3\xa9) holds taken: 100%");
}

static void an_unknown_method_is_unimplemented(void **state)
{
    struct heard h = {0};
    Warren__V1__SnapshotEnd empty = WARREN__V1__SNAPSHOT_END__INIT;
    rpc_call_unary(b.client, "/warren.v1.AgentService/Nothing", &empty.base,
                   &warren__v1__lease__descriptor, 0, on_lease, &h);
    wait_for(b.loop, h.is_done);
    assert_int_equal(h.result.status, RPC_UNIMPLEMENTED);
    assert_int_equal(h.result.diag.code, ERR_UNSUPPORTED);
}

static void a_deadline_ends_both_sides(void **state)
{
    struct heard h = {0};
    acquire("hold", 60, &h);
    wait_for(b.loop, h.is_done && b.held && rpc_call_is_cancelled(b.held));
    assert_int_equal(h.result.status, RPC_DEADLINE_EXCEEDED);
    assert_int_equal(h.result.diag.code, ERR_TIMEOUT);
    Warren__V1__Lease lease = WARREN__V1__LEASE__INIT;
    rpc_reply(TAKE(b.held), &lease.base); /* goes nowhere */
}

static void a_cancelled_call_is_told_to_its_holder(void **state)
{
    struct heard h = {0};
    struct rpc_client_call *call = log_in(&h);
    wait_for(b.loop, b.held);
    rpc_call_cancel(call);
    wait_for(b.loop, b.n_cancelled == 1);
    assert_true(rpc_call_is_cancelled(b.held));
    assert_int_equal(send_event(1), ERR_CLOSED);
    rpc_finish(TAKE(b.held), RPC_OK, "");
    assert_false(h.is_done);
}

static void a_stream_carries_messages_until_its_status(void **state)
{
    struct heard h = {0};
    log_in(&h);
    wait_for(b.loop, b.held);
    assert_int_equal(send_event(3), 0);
    wait_for(b.loop, h.n_events == 1);
    assert_string_equal(h.last, "xxx");
    for (int i = 0; i < 50; i++)
        assert_int_equal(send_event(1000), 0);
    rpc_finish(TAKE(b.held), RPC_ABORTED, "superseded");
    wait_for(b.loop, h.is_done);
    assert_int_equal(h.n_events, 51);
    assert_int_equal(h.bytes, 50003);
    assert_int_equal(h.result.status, RPC_ABORTED);
    assert_int_equal(h.result.diag.code, ERR_STALE);
    assert_string_equal(h.result.diag.text, "superseded");
}

static void a_stream_may_end_without_a_message(void **state)
{
    struct heard h = {0};
    log_in(&h);
    wait_for(b.loop, b.held);
    rpc_finish(TAKE(b.held), RPC_OK, "");
    wait_for(b.loop, h.is_done);
    assert_int_equal(h.result.status, RPC_OK);
    assert_int_equal(h.n_events, 0);
}

static void a_reader_that_is_too_slow_is_cut_off(void **state)
{
    struct heard h = {0};
    log_in(&h);
    wait_for(b.loop, b.held);
    assert_int_equal(send_event(200 * 1024), 0);
    assert_int_equal(send_event(200 * 1024), ERR_LIMIT); /* no turn in between: all waits */
    assert_int_equal(send_event(1), ERR_CLOSED);
    wait_for(b.loop, h.is_done && b.n_cancelled == 1);
    assert_int_equal(h.result.status, RPC_RESOURCE_EXHAUSTED);
    rpc_finish(TAKE(b.held), RPC_OK, "");
}

static void messages_above_the_limit_are_refused(void **state)
{
    struct heard h = {0};
    log_in(&h);
    wait_for(b.loop, b.held);
    assert_int_equal(send_event(RPC_MESSAGE_MAX + 1), ERR_TOO_LARGE);
    rpc_finish(TAKE(b.held), RPC_OK, "");
    wait_for(b.loop, h.is_done);

    struct heard big = {0};
    Warren__V1__ReleaseLeaseRequest req = WARREN__V1__RELEASE_LEASE_REQUEST__INIT;
    char *tunnel = mem_new(RPC_MESSAGE_MAX + 1);
    memset(tunnel, 'x', RPC_MESSAGE_MAX);
    req.tunnel = tunnel;
    rpc_call_unary(b.client, methods[0].path, &req.base, &warren__v1__lease__descriptor, 0,
                   on_lease, &big);
    assert_false(big.is_done);
    wait_for(b.loop, big.is_done);
    assert_int_equal(big.result.status, RPC_RESOURCE_EXHAUSTED);
    mem_free(tunnel);
}

static void a_lost_connection_ends_every_call_on_both_sides(void **state)
{
    struct heard h = {0}, unary = {0};
    log_in(&h);
    wait_for(b.loop, b.held);
    struct rpc_call *stream = b.held;
    acquire("hold", 0, &unary);
    wait_for(b.loop, b.held != stream);
    conn_abort(rpc_client_conn(b.client), ERR_RESET);
    wait_for(b.loop, h.is_done && unary.is_done && b.client_closed && b.n_closed);
    assert_int_equal(h.result.status, RPC_UNAVAILABLE);
    assert_int_equal(unary.result.diag.code, ERR_CLOSED);
    assert_int_equal(b.n_cancelled, 1);
    assert_null(rpc_call_session(stream));
    rpc_finish(stream, RPC_OK, "");
    rpc_finish(TAKE(b.held), RPC_OK, "");
}

static void a_session_can_be_closed_by_the_server(void **state)
{
    struct heard h = {0};
    b.finish_in_cancel = true;
    log_in(&h);
    wait_for(b.loop, b.held);
    rpc_session_close(rpc_call_session(b.held));
    wait_for(b.loop, h.is_done && b.client_closed && b.n_closed == 1);
    assert_int_equal(b.n_cancelled, 1);
}

static void a_drained_server_lets_calls_end(void **state)
{
    struct heard h = {0}, late = {0};
    log_in(&h);
    wait_for(b.loop, b.held);
    rpc_server_drain(b.server);
    for (int i = 0; i < 5; i++)
        test_turn(b.loop);
    acquire("tun_1", 0, &late);
    wait_for(b.loop, late.is_done);
    assert_int_equal(late.result.status, RPC_UNAVAILABLE);
    assert_false(h.is_done);
    rpc_finish(TAKE(b.held), RPC_UNAVAILABLE, "draining");
    wait_for(b.loop, h.is_done && b.client_closed && b.n_closed == 1);
    assert_string_equal(h.result.diag.text, "draining");
}

static void calls_survive_their_server(void **state)
{
    struct heard h = {0};
    log_in(&h);
    wait_for(b.loop, b.held);
    rpc_server_free(TAKE(b.server));
    wait_for(b.loop, h.is_done && b.client_closed);
    assert_int_equal(b.n_cancelled, 0);
    assert_true(rpc_call_is_cancelled(b.held));
    rpc_finish(TAKE(b.held), RPC_OK, "");
    b.n_closed = b.n_opened; /* nobody is told after rpc_server_free */
}

static void statuses_and_codes_map_both_ways(void **state)
{
    for (unsigned i = 0; i < RPC_STATUS_COUNT; i++)
        assert_int_equal(rpc_error_of(i) == 0, i == RPC_OK);
    static const int codes[] = {ERR_INVALID,     ERR_TIMEOUT, ERR_NOT_FOUND,
                                ERR_EXISTS,      ERR_DENIED,  ERR_LIMIT,
                                ERR_CONFLICT,    ERR_STALE,   ERR_UNSUPPORTED,
                                ERR_UNAVAILABLE, ERR_BUG,     ERR_UNAUTHENTICATED};
    for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
        assert_int_equal(rpc_error_of(rpc_status_of(codes[i])), codes[i]);
    assert_string_equal(rpc_status_name(RPC_ABORTED), "ABORTED");
    assert_string_equal(rpc_status_name(99), "UNKNOWN");
}

/* --- what no client of ours would send -------------------------------------------------------- */

struct raw {
    struct h2conn *hc;
    struct h2_stream *stream;
    const char *body;
    size_t len;
    int status;
    char grpc_status[8], accept[32];
    bool is_closed;
};

static void raw_headers(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct raw *r = arg;
    const char *status = h2_headers_get(h, "grpc-status");
    const char *accept = h2_headers_get(h, "grpc-accept-encoding");
    if (h2_headers_status(h))
        r->status = h2_headers_status(h);
    if (status)
        snprintf(r->grpc_status, sizeof(r->grpc_status), "%s", status);
    if (accept)
        snprintf(r->accept, sizeof(r->accept), "%s", accept);
}

static int raw_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct raw *r = arg;
    memcpy(out, r->body, r->len);
    *eof = true;
    return (int)r->len;
}

static void raw_close(void *arg, struct h2_stream *s, uint32_t error)
{
    ((struct raw *)arg)->stream = NULL;
}

static void raw_conn_close(void *arg, int err)
{
    ((struct raw *)arg)->is_closed = true;
}

static void raw_ask(struct raw *r, const char *method, const char *type, const char *extra,
                    const char *value, const char *body, size_t len)
{
    static const struct h2_stream_ops ops = {
        .on_headers = raw_headers, .on_produce = raw_produce, .on_close = raw_close};
    r->status = 0;
    r->grpc_status[0] = r->accept[0] = '\0';
    r->body = body;
    r->len = len;
    assert_int_equal(
        h2_request(h2conn_session(r->hc),
                   H2_HEADERS({":method", method}, {":scheme", "https"}, {":path", methods[0].path},
                              {":authority", "x"}, {"content-type", type}, {extra, value}),
                   6, true, &ops, r, &r->stream),
        0);
    wait_for(b.loop, !r->stream);
}

static void malformed_calls_get_the_status_that_grpc_prescribes(void **state)
{
    static const char good[] = "\0\0\0\0\0";
    static const char type[] = "application/grpc";
    static const struct h2conn_ops conn_ops = {.on_close = raw_conn_close};
    struct raw r = {0};
    int fds[2];
    struct conn *client_end, *server_end;
    test_tcp_pair(fds);
    assert_int_equal(conn_new_plain(b.loop, fds[0], NULL, &client_end), 0);
    assert_int_equal(conn_new_plain(b.loop, fds[1], NULL, &server_end), 0);
    rpc_server_take(b.server, server_end);
    r.hc = h2conn_new(client_end, &(struct h2conn_config){0}, &conn_ops, &r);

    raw_ask(&r, "POST", type, "x", "y", good, 5);
    assert_string_equal(r.grpc_status, "0");
    raw_ask(&r, "POST", "application/grpc+proto", "x", "y", good, 5);
    assert_string_equal(r.grpc_status, "0");
    raw_ask(&r, "POST", "text/plain", "x", "y", good, 5);
    assert_int_equal(r.status, 415);
    raw_ask(&r, "PUT", type, "x", "y", good, 5);
    assert_int_equal(r.status, 405);
    raw_ask(&r, "POST", type, "grpc-encoding", "gzip", good, 5);
    assert_string_equal(r.grpc_status, "12");
    assert_string_equal(r.accept, "identity");
    raw_ask(&r, "POST", type, "x", "y", "\1\0\0\0\1a", 6);
    assert_string_equal(r.grpc_status, "12");
    raw_ask(&r, "POST", type, "grpc-timeout", "soon", good, 5);
    assert_string_equal(r.grpc_status, "3");
    raw_ask(&r, "POST", type, "x", "y", "", 0);
    assert_string_equal(r.grpc_status, "3");
    raw_ask(&r, "POST", type, "x", "y", "\0\0\0\0\5ab", 7);
    assert_string_equal(r.grpc_status, "3");
    raw_ask(&r, "POST", type, "x", "y", "\0\0\0\0\2\xff\xff", 7);
    assert_string_equal(r.grpc_status, "3");
    raw_ask(&r, "POST", type, "x", "y", "\0\xff\xff\xff\xff", 5);
    assert_string_equal(r.grpc_status, "8");
    raw_ask(&r, "POST", type, "x", "y", "\7\0\0\0\0", 5);
    assert_string_equal(r.grpc_status, "13");
    raw_ask(&r, "POST", type, "x", "y", "\0\0\0\0\0\0\0\0\0\0", 10);
    assert_string_equal(r.grpc_status, "12");

    h2conn_abort(r.hc, ERR_CANCELED);
    wait_for(b.loop, r.is_closed);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_unary_call_is_answered),
        TEST(many_calls_share_a_connection),
        TEST(a_failure_comes_with_its_status_and_text),
        TEST(an_unknown_method_is_unimplemented),
        TEST(a_deadline_ends_both_sides),
        TEST(a_cancelled_call_is_told_to_its_holder),
        TEST(a_stream_carries_messages_until_its_status),
        TEST(a_stream_may_end_without_a_message),
        TEST(a_reader_that_is_too_slow_is_cut_off),
        TEST(messages_above_the_limit_are_refused),
        TEST(a_lost_connection_ends_every_call_on_both_sides),
        TEST(a_session_can_be_closed_by_the_server),
        TEST(a_drained_server_lets_calls_end),
        TEST(calls_survive_their_server),
        TEST(malformed_calls_get_the_status_that_grpc_prescribes),
        cmocka_unit_test(statuses_and_codes_map_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
