#include "net/flow.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "fixture.h"
#include "net/flow_port.h"
#include "net/flow_target.h"
#include "net/udp.h"
#include "wire/connect_udp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* A hub with a UDP port and an agent on one loop, joined by a TCP connection; a target. */
struct rig {
    struct loop *loop;
    struct h2conn *hub, *agent;
    struct flow_set hub_set, agent_set;
    struct flow_port *port;
    int port_fd, target;
    struct addr port_addr, target_addr;
    struct host_port to;
    int (*check)(void *arg, const struct addr *a);
    int opens, errors, hub_ends, agent_ends, closed, last_error, open_result;
    struct flow_result hub_result, agent_result;
};

static int open_flow(void *arg, const struct addr *client, const struct flow_ops *ops,
                     void *flow_arg, struct flow **ret)
{
    struct rig *rig = arg;
    const struct flow_open_params p = {.target = &rig->to,
                                       .authority = "hub",
                                       .headers = H2_HEADERS({"warren-tunnel", "tun_1"}),
                                       .n_headers = 1,
                                       .set = &rig->hub_set,
                                       .ops = ops,
                                       .arg = flow_arg};
    return rig->open_result ? rig->open_result : flow_open(rig->hub, &p, ret);
}

static void on_open(void *arg, const struct addr *client)
{
    ((struct rig *)arg)->opens++;
}

static void on_error(void *arg, const struct addr *client, int err)
{
    struct rig *rig = arg;
    rig->errors++;
    rig->last_error = err;
}

static void on_flow_end(void *arg, const struct addr *client, const struct flow *f,
                        const struct flow_result *res)
{
    struct rig *rig = arg;
    rig->hub_result = *res;
    rig->hub_ends++;
}

static const struct flow_port_ops port_ops = {
    .open = open_flow, .on_open = on_open, .on_error = on_error, .on_end = on_flow_end};

static void on_target_end(void *arg, const struct flow_result *res)
{
    struct rig *rig = arg;
    rig->agent_result = *res;
    rig->agent_ends++;
}

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct rig *rig = arg;
    struct flow_target_params p = {.check = rig->check,
                                   .check_arg = rig,
                                   .set = &rig->agent_set,
                                   .on_end = on_target_end,
                                   .arg = rig};
    assert_string_equal(h2_headers_get(h, ":protocol"), "connect-udp");
    assert_string_equal(h2_headers_get(h, "capsule-protocol"), "?1");
    assert_int_equal(connect_udp_parse(h2_headers_get(h, ":path"), &p.target, NULL), 0);
    flow_target_accept(s, &p);
}

static void on_link_close(void *arg, int err)
{
    ((struct rig *)arg)->closed++;
}

static const struct h2conn_ops hub_conn_ops = {.on_close = on_link_close};
static const struct h2conn_ops agent_conn_ops = {.on_request = on_request,
                                                 .on_close = on_link_close};

static int udp_socket(const char *host, struct addr *ret)
{
    struct addr any;
    int fd;
    assert_int_equal(addr_parse(host, 0, &any), 0);
    assert_int_equal(udp_bind(&any, &fd, ret, NULL), 0);
    return fd;
}

static void rig_port(struct rig *rig, uint32_t idle_ms, uint32_t flows_max)
{
    assert_int_equal(flow_port_new(&(struct flow_port_config){.loop = rig->loop,
                                                              .fd = rig->port_fd,
                                                              .idle_ms = idle_ms,
                                                              .flows_max = flows_max,
                                                              .set = &rig->hub_set,
                                                              .ops = &port_ops,
                                                              .arg = rig},
                                   &rig->port),
                     0);
}

static void rig_new(struct rig *rig, const char *listen, const char *target)
{
    const struct h2conn_config hub_config = {0};
    const struct h2conn_config agent_config = {
        .h2 = {.is_server = true, .max_streams = 20000, .enable_connect = true}};
    struct conn *hub, *agent;
    int fds[2];
    uint32_t knows;
    memset(rig, 0, sizeof(*rig));
    assert_int_equal(loop_new(&rig->loop), 0);
    test_tcp_pair(fds);
    assert_int_equal(conn_new_plain(rig->loop, fds[0], NULL, &hub), 0);
    assert_int_equal(conn_new_plain(rig->loop, fds[1], NULL, &agent), 0);
    rig->hub = h2conn_new(hub, &hub_config, &hub_conn_ops, rig);
    rig->agent = h2conn_new(agent, &agent_config, &agent_conn_ops, rig);
    rig->target = udp_socket(target, &rig->target_addr);
    addr_format_ip(&rig->target_addr, rig->to.host, sizeof(rig->to.host));
    rig->to.port = addr_port(&rig->target_addr);
    rig->port_fd = udp_socket(listen, &rig->port_addr);
    wait_for(rig->loop, h2_peer_setting(h2conn_session(rig->hub), 8, &knows));
}

static void rig_done(struct rig *rig)
{
    if (rig->port)
        flow_port_stop(rig->port);
    if (!rig->closed)
        h2conn_abort(rig->hub, ERR_CANCELED);
    wait_for(rig->loop, rig->closed == 2);
    assert_null(rig->hub_set.head);
    assert_null(rig->agent_set.head);
    assert_int_equal(rig->hub_set.queued, 0);
    assert_int_equal(rig->agent_set.queued, 0);
    flow_port_free(rig->port);
    close(rig->port_fd);
    if (rig->target >= 0)
        close(rig->target);
    loop_free(rig->loop);
}

static uint8_t out[65536], in[65536];

static size_t wait_datagram(struct rig *rig, int fd, struct addr *from)
{
    ssize_t n = -1;
    from->len = sizeof(from->in6);
    wait_for(rig->loop, (n = recvfrom(fd, in, sizeof(in), 0, &from->sa, &from->len)) >= 0);
    return (size_t)n;
}

static void send_to(int fd, const struct addr *to, size_t len)
{
    assert_int_equal(sendto(fd, out, len, 0, &to->sa, to->len), len);
}

/* There and back. */
static void exchange(struct rig *rig, int client, size_t len)
{
    struct addr from;
    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)(i * 13 + (i >> 7) + len);
    send_to(client, &rig->port_addr, len);
    assert_int_equal(wait_datagram(rig, rig->target, &from), len);
    assert_memory_equal(in, out, len);
    send_to(rig->target, &from, len);
    assert_int_equal(wait_datagram(rig, client, &from), len);
    assert_memory_equal(in, out, len);
    assert_int_equal(addr_port(&from), addr_port(&rig->port_addr));
    assert_true(addr_equal_ip(&from, &rig->port_addr));
}

static void datagrams_of_every_size_go_both_ways(void **state)
{
    static const size_t sizes[] = {0, 1, 63, 64, 1400, 16383, 16384, 40000, 65507};
    static const char *const hosts[] = {"127.0.0.1", "::1"};
    for (size_t h = 0; h < ARRAY_SIZE(hosts); h++) {
        struct rig rig;
        struct addr a;
        rig_new(&rig, hosts[h], hosts[h]);
        rig_port(&rig, 0, 0);
        int client = udp_socket(hosts[h], &a);
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
            exchange(&rig, client, sizes[i]);
        if (h == 1)
            exchange(&rig, client, 65527);
        assert_int_equal(rig.opens, 1);
        assert_int_equal(rig.hub_set.datagrams_read, ARRAY_SIZE(sizes) + h);
        assert_int_equal(rig.hub_set.datagrams_written, ARRAY_SIZE(sizes) + h);
        assert_int_equal(rig.agent_set.bytes_written, rig.hub_set.bytes_read);
        assert_int_equal(rig.hub_set.dropped, 0);
        close(client);
        rig_done(&rig);
    }
}

static void each_client_has_a_flow_of_its_own(void **state)
{
    struct rig rig;
    int clients[50];
    struct addr a;
    rig_new(&rig, "127.0.0.1", "127.0.0.1");
    rig_port(&rig, 0, 0);
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
        clients[i] = udp_socket("127.0.0.1", &a);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
            exchange(&rig, clients[i], i + 1);
    }
    assert_int_equal(rig.hub_set.open, ARRAY_SIZE(clients));
    assert_int_equal(rig.hub_set.total, ARRAY_SIZE(clients));
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
    rig_done(&rig);
}

static void an_answer_leaves_from_the_address_that_was_asked(void **state)
{
    static const struct {
        const char *listen, *asked, *client;
    } rows[] = {{"0.0.0.0", "127.0.0.2", "127.0.0.1"}, {"::", "127.0.0.3", "127.0.0.1"}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct rig rig;
        struct addr a, asked;
        rig_new(&rig, rows[i].listen, "127.0.0.1");
        rig_port(&rig, 0, 0);
        assert_int_equal(addr_parse(rows[i].asked, addr_port(&rig.port_addr), &asked), 0);
        rig.port_addr = asked;
        int client = udp_socket(rows[i].client, &a);
        exchange(&rig, client, 100);
        close(client);
        rig_done(&rig);
    }
}

static void a_closed_port_is_told_and_the_flow_goes_on(void **state)
{
    struct rig rig;
    struct addr a, from;
    rig_new(&rig, "127.0.0.1", "127.0.0.1");
    rig_port(&rig, 0, 0);
    int client = udp_socket("127.0.0.1", &a);
    close(rig.target);
    rig.target = -1;
    send_to(client, &rig.port_addr, 10);
    wait_for(rig.loop, rig.errors == 1);
    assert_int_equal(rig.last_error, ERR_REFUSED);
    send_to(client, &rig.port_addr, 10);
    wait_for(rig.loop, rig.errors == 2);
    rig.target = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(rig.target, &rig.target_addr.sa, rig.target_addr.len), 0);
    send_to(client, &rig.port_addr, 11);
    assert_int_equal(wait_datagram(&rig, rig.target, &from), 11);
    assert_int_equal(rig.hub_set.total, 1);
    close(client);
    rig_done(&rig);
}

static void an_idle_flow_ends_and_the_next_datagram_opens_another(void **state)
{
    struct rig rig;
    struct addr a;
    rig_new(&rig, "127.0.0.1", "127.0.0.1");
    rig_port(&rig, 50, 0);
    int client = udp_socket("127.0.0.1", &a);
    exchange(&rig, client, 10);
    wait_for(rig.loop, rig.hub_ends == 1 && rig.agent_ends == 1);
    assert_int_equal(rig.hub_result.end, FLOW_END_IDLE);
    assert_int_equal(rig.agent_result.end, FLOW_END_FINISHED);
    assert_int_equal(rig.hub_set.open, 0);
    exchange(&rig, client, 10);
    assert_int_equal(rig.hub_set.total, 2);
    close(client);
    rig_done(&rig);
}

static int deny(void *arg, const struct addr *a)
{
    return ERR_DENIED;
}

static void a_client_that_cannot_be_served_is_not_tried_again_at_once(void **state)
{
    struct rig rig;
    struct addr a;
    rig_new(&rig, "127.0.0.1", "127.0.0.1");
    rig_port(&rig, 0, 0);
    rig.check = deny;
    int client = udp_socket("127.0.0.1", &a);
    send_to(client, &rig.port_addr, 10);
    wait_for(rig.loop, rig.hub_ends == 1 && rig.agent_ends == 1);
    assert_int_equal(rig.hub_result.end, FLOW_END_NOT_OPENED);
    assert_int_equal(rig.hub_result.err, ERR_DENIED);
    for (int i = 0; i < 10; i++)
        send_to(client, &rig.port_addr, 10);
    wait_for(rig.loop, rig.hub_set.dropped == 10);
    assert_int_equal(rig.hub_set.total, 1);
    close(client);
    rig_done(&rig);
}

static void made_up_clients_make_way_for_others(void **state)
{
    struct rig rig;
    struct addr a;
    rig_new(&rig, "127.0.0.1", "127.0.0.1");
    rig_port(&rig, 0, 8);
    int clients[40]; /* open to the end: a port that was given back may be given out again */
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
        clients[i] = udp_socket("127.0.0.1", &a);
        exchange(&rig, clients[i], 5);
        assert_true(rig.hub_set.open <= 9);
    }
    wait_for(rig.loop, rig.hub_set.open == 8 && rig.agent_set.open == 8);
    assert_int_equal(rig.hub_set.total, ARRAY_SIZE(clients));
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
        close(clients[i]);
    rig_done(&rig);
}

static void what_the_connection_does_not_take_drops_the_oldest(void **state)
{
    struct rig rig;
    struct addr a, from;
    uint32_t last = 0;
    rig_new(&rig, "127.0.0.1", "127.0.0.1");
    rig_port(&rig, 0, 0);
    int client = udp_socket("127.0.0.1", &a);
    exchange(&rig, client, 10);
    for (uint32_t i = 1; i <= 4000; i++) {
        /* far more than the socket takes in one go: the flow keeps the newest */
        struct flow *f = rig.hub_set.head;
        memcpy(out, &i, sizeof(i));
        flow_send(f, out, 1400);
    }
    assert_true(rig.hub_set.dropped > 3000);
    assert_true(rig.hub_set.queued <= FLOW_QUEUE_BYTES);
    while (last < 4000) {
        assert_int_equal(wait_datagram(&rig, rig.target, &from), 1400);
        uint32_t number;
        memcpy(&number, in, sizeof(number));
        assert_true(number > last);
        last = number;
    }
    close(client);
    rig_done(&rig);
}

static void cutting_a_set_ends_its_flows(void **state)
{
    struct rig rig;
    struct addr a;
    rig_new(&rig, "127.0.0.1", "127.0.0.1");
    rig_port(&rig, 0, 0);
    int client = udp_socket("127.0.0.1", &a);
    exchange(&rig, client, 10);
    flow_set_abort(&rig.agent_set, ERR_DENIED);
    wait_for(rig.loop, rig.hub_ends == 1 && rig.agent_ends == 1);
    assert_int_equal(rig.hub_result.end, FLOW_END_STREAM_RESET);
    exchange(&rig, client, 10);
    flow_set_abort(&rig.hub_set, ERR_REVOKED);
    wait_for(rig.loop, rig.hub_ends == 2 && rig.agent_ends == 2);
    assert_int_equal(rig.hub_result.end, FLOW_END_ABORTED);
    close(client);
    rig_done(&rig);
}

/* ---- a peer that speaks no proper capsules ---- */

struct liar {
    const uint8_t *bytes;
    size_t len;
    bool is_sent, ends;
    int status;
    uint32_t error;
    bool is_closed;
};

static int lie(void *arg, struct h2_stream *s, uint8_t *to, size_t cap, bool *eof)
{
    struct liar *l = arg;
    *eof = l->ends;
    if (l->is_sent)
        return 0;
    l->is_sent = true;
    memcpy(to, l->bytes, l->len);
    return (int)l->len;
}

static void on_lie_answered(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    ((struct liar *)arg)->status = h2_headers_status(h);
}

static void on_lie_closed(void *arg, struct h2_stream *s, uint32_t error)
{
    struct liar *l = arg;
    l->is_closed = true;
    l->error = error;
}

static const struct h2_stream_ops liar_ops = {
    .on_produce = lie, .on_headers = on_lie_answered, .on_close = on_lie_closed};

static void malformed_capsules_cut_their_own_flow_only(void **state)
{
    static const uint8_t no_context[] = {0, 0}, half[] = {0, 10, 0, 'x'};
    struct liar liars[] = {{.bytes = no_context, .len = 2},
                           {.bytes = half, .len = 4, .ends = true}};
    char path[CONNECT_UDP_PATH_SIZE];
    struct rig rig;
    struct addr a;
    rig_new(&rig, "127.0.0.1", "127.0.0.1");
    rig_port(&rig, 0, 0);
    int client = udp_socket("127.0.0.1", &a);
    exchange(&rig, client, 10);
    connect_udp_path(&rig.to, path);
    for (size_t i = 0; i < ARRAY_SIZE(liars); i++) {
        struct h2_stream *s;
        assert_int_equal(h2_request(h2conn_session(rig.hub),
                                    H2_HEADERS({":method", "CONNECT"}, {":protocol", "connect-udp"},
                                               {":scheme", "https"}, {":path", path},
                                               {":authority", "hub"}, {"capsule-protocol", "?1"}),
                                    6, true, &liar_ops, &liars[i], &s),
                         0);
        wait_for(rig.loop, liars[i].is_closed);
        assert_int_equal(liars[i].error, H2_PROTOCOL_ERROR);
    }
    assert_int_equal(rig.agent_result.err, ERR_PROTO);
    assert_int_equal(rig.agent_ends, 2);
    exchange(&rig, client, 10);
    assert_int_equal(rig.hub_set.total, 1);
    close(client);
    rig_done(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(datagrams_of_every_size_go_both_ways),
        cmocka_unit_test(each_client_has_a_flow_of_its_own),
        cmocka_unit_test(an_answer_leaves_from_the_address_that_was_asked),
        cmocka_unit_test(a_closed_port_is_told_and_the_flow_goes_on),
        cmocka_unit_test(an_idle_flow_ends_and_the_next_datagram_opens_another),
        cmocka_unit_test(a_client_that_cannot_be_served_is_not_tried_again_at_once),
        cmocka_unit_test(made_up_clients_make_way_for_others),
        cmocka_unit_test(what_the_connection_does_not_take_drops_the_oldest),
        cmocka_unit_test(cutting_a_set_ends_its_flows),
        cmocka_unit_test(malformed_capsules_cut_their_own_flow_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
