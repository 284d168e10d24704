#include "wire/h2.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Two sessions joined by memory. */
struct end {
    struct h2 *h;
    struct h2_stream *stream;
    char trace[512];
    size_t received, to_send, sent;
    bool hold, eof_with_trailers, is_eof;
    uint32_t close_error;
    uint64_t now_us;
};

struct pair {
    struct end client, server;
};

static void note(struct end *e, const char *s)
{
    size_t at = strlen(e->trace);
    snprintf(e->trace + at, sizeof(e->trace) - at, "%s ", s);
}

static void on_wants_output(void *arg)
{
    (void)arg;
}

static void stream_headers(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    char text[64];
    int status = h2_headers_status(h);
    const char *trailer = h2_headers_get(h, "grpc-status");
    snprintf(text, sizeof(text), "status=%d", status);
    if (!status)
        snprintf(text, sizeof(text), "trailers=%s", trailer ? trailer : "?");
    note(arg, text);
}

static void stream_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct end *e = arg;
    for (size_t i = 0; i < len; i++)
        assert_int_equal(data[i], (uint8_t)((e->received + i) * 7));
    e->received += len;
    if (!e->hold)
        h2_consume(s, len);
}

static void stream_end(void *arg, struct h2_stream *s)
{
    note(arg, "end");
}

static int stream_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct end *e = arg;
    size_t n = MIN(cap, e->to_send - e->sent);
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)((e->sent + i) * 7);
    e->sent += n;
    *eof = e->is_eof && e->sent == e->to_send;
    if (*eof && e->eof_with_trailers)
        h2_trailers(s, H2_HEADERS({"grpc-status", "5"}), 1);
    return (int)n;
}

static void stream_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct end *e = arg;
    e->close_error = error;
    e->stream = NULL;
    note(e, error ? "closed!" : "closed");
}

static const struct h2_stream_ops stream_ops = {stream_headers, stream_data, stream_end,
                                                stream_produce, stream_close};

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct end *e = arg;
    note(e, h2_headers_get(h, ":method"));
    e->stream = s;
    h2_stream_set(s, &stream_ops, e);
}

static void on_settings(void *arg)
{
    note(arg, "settings");
}

static uint64_t now_us(void *arg)
{
    return ((struct end *)arg)->now_us;
}

static const struct h2_ops ops = {.on_wants_output = on_wants_output,
                                  .on_request = on_request,
                                  .on_settings = on_settings,
                                  .now_us = now_us};

static uint8_t wire[128 << 10];

static bool move(struct end *from, struct end *to)
{
    size_t n = h2_output(from->h, wire, sizeof(wire));
    if (n)
        h2_input(to->h, wire, n);
    return n > 0;
}

static void exchange(struct pair *p)
{
    bool more = true;
    while (more) {
        more = move(&p->client, &p->server);
        more |= move(&p->server, &p->client);
    }
}

static void pair_new(struct pair *p, const struct h2_config *server)
{
    struct h2_config c = {.is_server = false};
    struct h2_config s = server ? *server : (struct h2_config){0};
    s.is_server = true;
    memset(p, 0, sizeof(*p));
    p->client.now_us = p->server.now_us = 10000000;
    assert_int_equal(h2_new(&c, &ops, &p->client, &p->client.h), 0);
    assert_int_equal(h2_new(&s, &ops, &p->server, &p->server.h), 0);
}

static void pair_free(struct pair *p)
{
    h2_free(p->client.h);
    h2_free(p->server.h);
}

static const struct h2_header get_request[] = {
    {":method", "GET"}, {":scheme", "https"}, {":authority", "h"}, {":path", "/x"}};
static const struct h2_header connect_request[] = {{":method", "CONNECT"},
                                                   {":authority", "10.0.0.17:80"}};

static void get(struct pair *p, bool has_body)
{
    assert_int_equal(h2_request(p->client.h, get_request, 4, has_body, &stream_ops, &p->client,
                                &p->client.stream),
                     0);
}

static void connect_tunnel(struct pair *p)
{
    assert_int_equal(h2_request(p->client.h, connect_request, 2, true, &stream_ops, &p->client,
                                &p->client.stream),
                     0);
    exchange(p);
    assert_int_equal(h2_respond(p->server.stream, H2_HEADERS({":status", "200"}), 1, true), 0);
    exchange(p);
}

static void a_request_and_its_answer_with_body_and_trailers_arrive(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    get(&p, false);
    exchange(&p);
    assert_string_equal(p.server.trace, "settings GET end ");
    p.server.to_send = 3000000;
    p.server.is_eof = p.server.eof_with_trailers = true;
    h2_respond(p.server.stream, H2_HEADERS({":status", "200"}), 1, true);
    exchange(&p);
    assert_string_equal(p.client.trace, "settings status=200 trailers=5 end closed ");
    assert_string_equal(p.server.trace, "settings GET end closed ");
    assert_int_equal(p.client.received, 3000000);
    pair_free(&p);
}

static void an_answer_before_the_end_of_the_request_ends_the_stream(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    get(&p, true);
    p.client.to_send = 1000;
    exchange(&p);
    h2_respond(p.server.stream, H2_HEADERS({":status", "413"}), 1, false);
    exchange(&p);
    assert_string_equal(p.client.trace, "settings status=413 end closed ");
    assert_string_equal(p.server.trace, "settings GET closed ");
    pair_free(&p);
}

static void a_tunnel_half_closes_in_either_direction(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    connect_tunnel(&p);
    p.server.to_send = 10;
    p.server.is_eof = true;
    h2_resume(p.server.stream);
    exchange(&p);
    assert_string_equal(p.client.trace, "settings status=200 end ");
    p.client.to_send = 100000;
    p.client.is_eof = true;
    h2_resume(p.client.stream);
    exchange(&p);
    assert_int_equal(p.server.received, 100000);
    assert_string_equal(p.server.trace, "settings CONNECT end closed ");
    assert_string_equal(p.client.trace, "settings status=200 end closed ");
    pair_free(&p);
}

static void a_reader_that_stops_gets_at_most_its_window(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    connect_tunnel(&p);
    p.server.hold = true;
    p.client.to_send = 50000000;
    h2_resume(p.client.stream);
    exchange(&p);
    assert_int_equal(p.server.received, 256 << 10);
    p.server.hold = false;
    h2_consume(p.server.stream, 256 << 10);
    exchange(&p);
    assert_int_equal(p.server.received, 50000000);
    pair_free(&p);
}

static void readers_that_stopped_are_reset_when_all_have_too_much(void **state)
{
    enum { N = 10 };
    struct pair p;
    struct end ends[N] = {0};
    pair_new(&p, &(struct h2_config){.buffer_budget = 1 << 20});
    connect_tunnel(&p);
    p.server.hold = true;
    for (int i = 0; i < N; i++) {
        ends[i].to_send = 50000000;
        h2_request(p.client.h, connect_request, 2, true, &stream_ops, &ends[i], &ends[i].stream);
        p.server.received = 0;
        exchange(&p);
    }
    size_t alive = 0;
    for (int i = 0; i < N; i++)
        alive += ends[i].stream != NULL;
    assert_in_range(alive, 3, 5); /* of 256 KiB each */
    assert_non_null(p.client.stream);
    pair_free(&p);
}

static void the_window_shrinks_back_when_another_stream_is_busy(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    connect_tunnel(&p);
    struct h2_stream *first = p.server.stream;
    p.client.to_send = 20000000;
    h2_resume(p.client.stream);
    exchange(&p);
    p.server.hold = true;
    p.client.to_send = 40000000;
    h2_resume(p.client.stream);
    exchange(&p);
    size_t stalled = p.server.received - 20000000; /* alone: up to four times the window */
    assert_in_range(stalled, 512 << 10, 1 << 20);

    struct end other = {.now_us = 0, .to_send = 1000, .is_eof = true};
    struct h2_stream *second;
    h2_request(p.client.h, connect_request, 2, true, &stream_ops, &other, &second);
    size_t received = p.server.received;
    p.server.received = 0;
    exchange(&p);
    assert_int_equal(p.server.received, 1000);
    p.server.received = received;
    h2_consume(first, stalled);
    exchange(&p);
    assert_int_equal(p.server.received - received, 64 << 10); /* its messages are small */
    pair_free(&p);
}

struct bulk {
    size_t left, got;
    bool hold;
};

static void bulk_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct bulk *b = arg;
    b->got += len;
    if (!b->hold)
        h2_consume(s, len);
}

static int bulk_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct bulk *b = arg;
    size_t n = MIN(cap, b->left);
    memset(out, 0, n);
    b->left -= n;
    return (int)n;
}

static const struct h2_stream_ops bulk_ops = {.on_data = bulk_data, .on_produce = bulk_produce};

static void streams_of_bulk_beside_others_get_a_deep_window_while_there_is_room(void **state)
{
    struct pair p;
    struct bulk from[2] = {0}, to[2] = {0};
    struct h2_stream *streams[2];
    pair_new(&p, &(struct h2_config){.bulk_window = 1 << 20, .window_budget = 1 << 20});
    for (int i = 0; i < 2; i++) {
        h2_request(p.client.h, connect_request, 2, true, &bulk_ops, &from[i], &streams[i]);
        exchange(&p);
        h2_respond(p.server.stream, H2_HEADERS({":status", "200"}), 1, true);
        h2_stream_set(p.server.stream, &bulk_ops, &to[i]);
        exchange(&p);
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 2; i++) {
            to[i].hold = round > 0;
            from[i].left = 20000000;
            h2_resume(streams[i]);
        }
        exchange(&p);
    }
    size_t stalled[] = {to[0].got - 20000000, to[1].got - 20000000};
    assert_in_range(MAX(stalled[0], stalled[1]), 512 << 10, 1 << 20);
    assert_true(MIN(stalled[0], stalled[1]) <= 256 << 10); /* the budget has room for one */
    pair_free(&p);
}

static void it_is_known_how_much_of_a_frame_has_not_come(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    connect_tunnel(&p);
    p.client.to_send = 10000;
    h2_resume(p.client.stream);
    assert_int_equal(h2_output(p.client.h, wire, sizeof(wire)), 10009);
    assert_int_equal(h2_input(p.server.h, wire, 1009), 0);
    assert_int_equal(h2_frame_left(p.server.h), 9000);
    assert_int_equal(h2_input(p.server.h, wire + 1009, 9000), 0);
    assert_int_equal(h2_frame_left(p.server.h), 0);
    pair_free(&p);
}

static void a_window_grows_only_while_the_round_trip_limits_it(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    connect_tunnel(&p);
    h2_set_rtt(p.server.h, 50000);
    p.client.to_send = 1000000000;
    h2_resume(p.client.stream);
    for (int i = 0; i < 400; i++) { /* fast reader, slow path */
        move(&p.client, &p.server);
        p.server.now_us += 1000;
        move(&p.server, &p.client);
    }
    p.server.hold = true;
    size_t before = p.server.received;
    exchange(&p);
    assert_true(p.server.received - before > 3 << 20);
    assert_true(p.server.received - before <= 4 << 20);
    pair_free(&p);
}

static void a_ping_finds_the_long_path_that_the_transport_does_not_see(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    connect_tunnel(&p);
    h2_set_rtt(p.server.h, 20); /* to a proxy near by */
    h2_ping(p.server.h);
    move(&p.server, &p.client);
    p.server.now_us += 40000;
    move(&p.client, &p.server);
    p.client.to_send = 1000000000;
    h2_resume(p.client.stream);
    for (int i = 0; i < 400; i++) {
        move(&p.client, &p.server);
        p.server.now_us += 1000;
        move(&p.server, &p.client);
    }
    p.server.hold = true;
    size_t before = p.server.received;
    exchange(&p);
    assert_in_range(p.server.received - before, 3 << 20, 4 << 20);
    pair_free(&p);
}

static void a_reset_reaches_the_other_side_with_its_code(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    connect_tunnel(&p);
    h2_reset(p.client.stream, H2_CANCEL);
    exchange(&p);
    assert_int_equal(p.server.close_error, H2_CANCEL);
    assert_string_equal(p.client.trace, "settings status=200 closed! ");
    pair_free(&p);
}

static void a_request_reset_before_it_was_sent_is_closed(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    exchange(&p);
    get(&p, true);
    h2_reset(p.client.stream, H2_CANCEL);
    exchange(&p);
    assert_string_equal(p.client.trace, "settings closed! ");
    assert_int_equal(h2_stream_count(p.client.h), 0);
    pair_free(&p);
}

static void streams_beyond_the_peers_limit_are_refused_at_once(void **state)
{
    struct pair p;
    pair_new(&p, &(struct h2_config){.max_streams = 2});
    exchange(&p);
    get(&p, false);
    get(&p, false);
    struct h2_stream *s;
    assert_int_equal(h2_request(p.client.h, get_request, 4, false, &stream_ops, &p.client, &s),
                     ERR_LIMIT);
    pair_free(&p);
}

static void freeing_a_session_closes_its_streams(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    connect_tunnel(&p);
    pair_free(&p);
    assert_string_equal(p.client.trace, "settings status=200 closed! ");
    assert_string_equal(p.server.trace, "settings CONNECT closed! ");
}

static void an_extra_setting_is_seen_by_the_peer(void **state)
{
    struct pair p;
    uint32_t value = 0;
    pair_new(&p, &(struct h2_config){.extra = {{0xf0e0, 4711}}});
    exchange(&p);
    assert_true(h2_peer_setting(p.client.h, 0xf0e0, &value));
    assert_int_equal(value, 4711);
    assert_false(h2_peer_setting(p.server.h, 0xf0e0, &value));
    pair_free(&p);
}

static void goaway_lets_open_streams_finish_and_refuses_new_ones(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    connect_tunnel(&p);
    h2_goaway(p.server.h, H2_NO_ERROR);
    exchange(&p);
    struct h2_stream *s;
    assert_int_equal(h2_request(p.client.h, get_request, 4, false, &stream_ops, &p.client, &s),
                     ERR_UNAVAILABLE);
    p.server.to_send = p.client.to_send = 5;
    p.server.is_eof = p.client.is_eof = true;
    h2_resume(p.server.stream);
    h2_resume(p.client.stream);
    exchange(&p);
    assert_int_equal(p.client.received, 5);
    assert_true(h2_is_done(p.server.h));
    pair_free(&p);
}

static void a_header_block_that_is_too_large_costs_its_stream_only(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    exchange(&p);
    char *big = malloc(20001);
    memset(big, 'x', 20000);
    big[20000] = '\0';
    struct h2_header h[5];
    memcpy(h, get_request, sizeof(get_request));
    h[4] = (struct h2_header){"x-big", big};
    h2_request(p.client.h, h, 5, false, &stream_ops, &p.client, &p.client.stream);
    exchange(&p);
    assert_int_equal(p.client.close_error, H2_ENHANCE_YOUR_CALM);
    assert_string_equal(p.server.trace, "settings ");
    get(&p, false);
    exchange(&p);
    assert_string_equal(p.server.trace, "settings GET end ");
    free(big);
    pair_free(&p);
}

static int input_many(struct h2 *h, const void *frame, size_t len, int count)
{
    int rc = 0;
    for (int i = 0; i < count && rc == 0; i++) {
        rc = h2_input(h, frame, len);
        while (h2_output(h, wire, sizeof(wire)) > 0)
            ;
    }
    return rc;
}

static void a_flood_of_control_frames_ends_the_connection(void **state)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    static const char ping[17] = "\0\0\10\6\0\0\0\0\0";
    static const char settings[9] = "\0\0\0\4\0\0\0\0\0";
    const char *frames[] = {ping, settings};
    size_t lens[] = {sizeof(ping), sizeof(settings)};
    for (int i = 0; i < 2; i++) {
        struct end e = {.now_us = 1};
        assert_int_equal(h2_new(&(struct h2_config){.is_server = true}, &ops, &e, &e.h), 0);
        assert_int_equal(h2_input(e.h, (const uint8_t *)preface, sizeof(preface) - 1), 0);
        assert_int_equal(input_many(e.h, frames[i], lens[i], 1000), 0);
        assert_int_equal(input_many(e.h, frames[i], lens[i], 5000), ERR_LIMIT);
        assert_true(h2_is_done(e.h));
        h2_free(e.h);
    }
}

static void rapid_reset_ends_the_connection(void **state)
{
    struct pair p;
    pair_new(&p, &(struct h2_config){.max_streams = 100});
    exchange(&p);
    for (int i = 0; i < 5000 && !h2_is_done(p.server.h); i++) {
        struct h2_stream *s;
        if (h2_request(p.client.h, get_request, 4, false, &stream_ops, &p.client, &s) < 0)
            break;
        move(&p.client, &p.server);
        h2_reset(s, H2_CANCEL);
        exchange(&p);
    }
    assert_true(h2_is_done(p.server.h));
    pair_free(&p);
}

static void tunnels_that_were_open_may_be_reset_as_often_as_they_are_opened(void **state)
{
    struct pair p;
    pair_new(&p, NULL);
    for (int i = 0; i < 5000; i++) {
        connect_tunnel(&p);
        h2_reset(i % 2 ? p.client.stream : p.server.stream, H2_CANCEL);
        exchange(&p);
        p.client.trace[0] = p.server.trace[0] = 0;
    }
    assert_false(h2_is_done(p.client.h) || h2_is_done(p.server.h));
    pair_free(&p);
}

static void garbage_is_a_protocol_error(void **state)
{
    struct end e = {.now_us = 1};
    assert_int_equal(h2_new(&(struct h2_config){.is_server = true}, &ops, &e, &e.h), 0);
    assert_int_equal(h2_input(e.h, (const uint8_t *)"GET / HTTP/1.1\r\n\r\n", 18), ERR_PROTO);
    assert_true(h2_is_done(e.h));
    h2_free(e.h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_and_its_answer_with_body_and_trailers_arrive),
        cmocka_unit_test(an_answer_before_the_end_of_the_request_ends_the_stream),
        cmocka_unit_test(a_tunnel_half_closes_in_either_direction),
        cmocka_unit_test(a_reader_that_stops_gets_at_most_its_window),
        cmocka_unit_test(readers_that_stopped_are_reset_when_all_have_too_much),
        cmocka_unit_test(the_window_shrinks_back_when_another_stream_is_busy),
        cmocka_unit_test(streams_of_bulk_beside_others_get_a_deep_window_while_there_is_room),
        cmocka_unit_test(it_is_known_how_much_of_a_frame_has_not_come),
        cmocka_unit_test(a_window_grows_only_while_the_round_trip_limits_it),
        cmocka_unit_test(a_ping_finds_the_long_path_that_the_transport_does_not_see),
        cmocka_unit_test(a_reset_reaches_the_other_side_with_its_code),
        cmocka_unit_test(a_request_reset_before_it_was_sent_is_closed),
        cmocka_unit_test(streams_beyond_the_peers_limit_are_refused_at_once),
        cmocka_unit_test(freeing_a_session_closes_its_streams),
        cmocka_unit_test(an_extra_setting_is_seen_by_the_peer),
        cmocka_unit_test(goaway_lets_open_streams_finish_and_refuses_new_ones),
        cmocka_unit_test(a_header_block_that_is_too_large_costs_its_stream_only),
        cmocka_unit_test(a_flood_of_control_frames_ends_the_connection),
        cmocka_unit_test(rapid_reset_ends_the_connection),
        cmocka_unit_test(tunnels_that_were_open_may_be_reset_as_often_as_they_are_opened),
        cmocka_unit_test(garbage_is_a_protocol_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
