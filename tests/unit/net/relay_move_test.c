/* A relay that changes connections while bytes and ends are on their way. */
#include "net/relay.h"

#include "base/error.h"
#include "base/macro.h"
#include "fixture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define LINKS 3

/* A hub and an agent on one loop, joined by several TCP connections, numbered from 0. */
struct rig {
    struct loop *loop;
    struct h2conn *hub[LINKS], *agent[LINKS]; /* NULL: gone */
    struct end {
        struct rig *rig;
        struct h2conn **slot;
    } ends[2 * LINKS];
    struct relay_set hub_set, agent_set;
    struct relay_result hub_result, agent_result;
    int listening; /* the target */
    struct addr target;
    int hub_ends, agent_ends, opens, closed, moves_refused, bulk;
    bool refuses;
};

static void on_open(void *arg, struct relay *r)
{
    ((struct rig *)arg)->opens++;
}

static void on_bulk(void *arg, struct relay *r)
{
    ((struct rig *)arg)->bulk++;
}

static void on_hub_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct rig *rig = arg;
    rig->hub_result = *res;
    rig->hub_ends++;
}

static void on_agent_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct rig *rig = arg;
    rig->agent_result = *res;
    rig->agent_ends++;
}

static const struct relay_ops hub_ops = {
    .on_open = on_open, .on_bulk = on_bulk, .on_end = on_hub_end};
static const struct relay_ops agent_ops = {.on_end = on_agent_end};

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct rig *rig = ((struct end *)arg)->rig;
    uint32_t from, stream;
    if (relay_is_move(h, &from, &stream)) {
        if (!rig->refuses && from < LINKS && rig->agent[from] &&
            relay_accept_move(s, rig->agent[from], stream) == 0)
            return;
        rig->moves_refused++;
        relay_refuse(s, ERR_CONFLICT);
        return;
    }
    struct relay_accept_params p = {.set = &rig->agent_set, .ops = &agent_ops, .arg = rig};
    assert_int_equal(host_port_parse(h2_headers_get(h, ":authority"), false, &p.target, NULL), 0);
    relay_accept(s, &p);
}

static void on_link_close(void *arg, int err)
{
    struct end *end = arg;
    *end->slot = NULL;
    end->rig->closed++;
}

static const struct h2conn_ops hub_conn_ops = {.on_close = on_link_close};
static const struct h2conn_ops agent_conn_ops = {.on_request = on_request,
                                                 .on_close = on_link_close};
static const struct h2conn_config hub_config = {.h2 = {.is_server = false}};
static const struct h2conn_config agent_config = {
    .h2 = {.is_server = true, .max_streams = 20000, .enable_connect = true}};

static void rig_new(struct rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    assert_int_equal(loop_new(&rig->loop), 0);
    rig->listening = test_listen(&rig->target);
    for (size_t i = 0; i < LINKS; i++) {
        int fds[2];
        struct conn *hub, *agent;
        test_tcp_pair(fds);
        assert_int_equal(conn_new_plain(rig->loop, fds[0], NULL, &hub), 0);
        assert_int_equal(conn_new_plain(rig->loop, fds[1], NULL, &agent), 0);
        rig->ends[i] = (struct end){rig, &rig->hub[i]};
        rig->ends[LINKS + i] = (struct end){rig, &rig->agent[i]};
        rig->hub[i] = h2conn_new(hub, &hub_config, &hub_conn_ops, &rig->ends[i]);
        rig->agent[i] = h2conn_new(agent, &agent_config, &agent_conn_ops, &rig->ends[LINKS + i]);
    }
    test_turn(rig->loop);
}

static void cut_link(struct rig *rig, size_t i)
{
    int before = rig->closed;
    h2conn_abort(rig->hub[i], ERR_CANCELED);
    wait_for(rig->loop, rig->closed == before + 2);
}

static void rig_done(struct rig *rig)
{
    for (size_t i = 0; i < LINKS; i++) {
        if (rig->hub[i])
            cut_link(rig, i);
    }
    assert_null(rig->hub_set.head);
    assert_null(rig->agent_set.head);
    close(rig->listening);
    loop_free(rig->loop);
}

/* A client's socket and the target's, joined by a relay that begins on connection 0. */
static struct relay *open_pair(struct rig *rig, int *client, int *target)
{
    int before = rig->opens, fds[2];
    char authority[ADDR_TEXT_SIZE];
    struct relay *r;
    addr_format(&rig->target, authority, sizeof(authority));
    test_tcp_pair(fds);
    struct relay_open_params p = {
        .authority = authority, .set = &rig->hub_set, .ops = &hub_ops, .arg = rig};
    assert_int_equal(relay_open(rig->hub[0], fds[1], &p, &r), 0);
    *client = fds[0];
    wait_for(rig->loop, rig->opens > before);
    wait_for(rig->loop, (*target = accept4(rig->listening, NULL, NULL, SOCK_NONBLOCK)) >= 0);
    return r;
}

static size_t at_of(const struct rig *rig, const struct relay *r)
{
    size_t i = 0;
    while (rig->hub[i] != relay_conn(r))
        i++;
    return i;
}

static int move_to(struct rig *rig, struct relay *r, size_t to)
{
    return relay_move(r, rig->hub[to], (uint32_t)at_of(rig, r));
}

/* One direction of a connection: sends `size` bytes and then FIN, checks what comes out. */
struct way {
    int from, to;
    size_t size, sent, got;
    bool has_ended;
};

static char byte_at(size_t i)
{
    return (char)(i * 31 + (i >> 9));
}

static void push(struct way *w)
{
    static char out[50000], in[200000];
    size_t len = MIN(sizeof(out), w->size - w->sent);
    for (size_t i = 0; i < len; i++)
        out[i] = byte_at(w->sent + i);
    ssize_t n = len ? send(w->from, out, len, MSG_NOSIGNAL) : 0;
    w->sent += n > 0 ? (size_t)n : 0;
    if (len && w->sent == w->size)
        shutdown(w->from, SHUT_WR);
    n = recv(w->to, in, sizeof(in), 0);
    for (ssize_t i = 0; i < n; i++) {
        if (in[i] != byte_at(w->got + (size_t)i))
            fail_msg("byte %zu differs", w->got + (size_t)i);
    }
    w->got += n > 0 ? (size_t)n : 0;
    w->has_ended = w->has_ended || n == 0;
    assert_true(n >= 0 || errno == EAGAIN);
}

static void a_stream_goes_on_over_another_connection(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    struct relay *r = open_pair(&rig, &client, &target);
    struct way up = {client, target, 4000000}, down = {target, client, 4000000};
    while (down.got < 1000000) {
        push(&up);
        push(&down);
        test_turn(rig.loop);
    }
    assert_int_equal(move_to(&rig, r, 1), 0);
    assert_ptr_equal(relay_conn(r), rig.hub[1]);
    assert_int_equal(move_to(&rig, r, 2), ERR_UNAVAILABLE); /* one at a time */
    wait_for(rig.loop, h2_stream_count(h2conn_session(rig.hub[0])) == 0);
    cut_link(&rig, 0); /* nothing of it is left there */
    while (!up.has_ended || !down.has_ended) {
        push(&up);
        push(&down);
        test_turn(rig.loop);
    }
    assert_int_equal(up.got, up.size);
    assert_int_equal(down.got, down.size);
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_FINISHED);
    assert_int_equal(rig.agent_result.end, RELAY_END_FINISHED);
    assert_int_equal(rig.hub_result.bytes_read, up.size);
    assert_int_equal(rig.agent_result.bytes_read, down.size);
    assert_true(rig.bulk >= 6);
    close(client);
    close(target);
    rig_done(&rig);
}

/* Connections that deliver at random, so that the two streams overtake each other in every way. */
static void hold_some(struct rig *rig, unsigned *seed)
{
    for (size_t i = 0; i < LINKS; i++) {
        struct conn *c = h2conn_conn(rand_r(seed) % 2 ? rig->hub[i] : rig->agent[i]);
        if (rand_r(seed) % 3)
            conn_resume(c);
        else
            conn_pause(c);
    }
}

static void random_life(struct rig *rig, unsigned seed)
{
    int client, target, ends = rig->hub_ends;
    struct relay *r = open_pair(rig, &client, &target);
    size_t most = seed % 3 ? 3000 : 2000000;
    struct way up = {client, target, 1 + (size_t)rand_r(&seed) % most};
    struct way down = {target, client, 1 + (size_t)rand_r(&seed) % most};
    uint64_t end = test_deadline();
    while (!up.has_ended || !down.has_ended) {
        if (rig->hub_ends == ends && rand_r(&seed) % 4 == 0)
            move_to(rig, r, (size_t)rand_r(&seed) % LINKS);
        hold_some(rig, &seed);
        if (rand_r(&seed) % 3)
            push(&up);
        if (rand_r(&seed) % 3)
            push(&down);
        test_turn(rig->loop);
        test_check_deadline(end, "the end of both directions");
    }
    for (size_t i = 0; i < LINKS; i++) {
        conn_resume(h2conn_conn(rig->hub[i]));
        conn_resume(h2conn_conn(rig->agent[i]));
    }
    wait_for(rig->loop, rig->hub_ends == ends + 1 && rig->agent_ends == ends + 1);
    assert_int_equal(up.got, up.size);
    assert_int_equal(down.got, down.size);
    assert_int_equal(rig->hub_result.end, RELAY_END_FINISHED);
    assert_int_equal(rig->agent_result.end, RELAY_END_FINISHED);
    close(client);
    close(target);
}

static void no_order_of_events_loses_or_repeats_a_byte(void **state)
{
    struct rig rig;
    rig_new(&rig);
    for (unsigned seed = 1; seed <= 150; seed++)
        random_life(&rig, seed);
    for (size_t i = 0; i < LINKS; i++)
        wait_for(rig.loop, h2_stream_count(h2conn_session(rig.hub[i])) == 0 &&
                               h2_stream_count(h2conn_session(rig.agent[i])) == 0);
    rig_done(&rig);
}

static void a_refused_move_changes_nothing(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    rig.refuses = true;
    struct relay *r = open_pair(&rig, &client, &target);
    struct way up = {client, target, 300000}, down = {target, client, 300000};
    assert_int_equal(move_to(&rig, r, 1), 0);
    while (!up.has_ended || !down.has_ended) { /* the ends meet the open question */
        push(&up);
        push(&down);
        test_turn(rig.loop);
    }
    assert_int_equal(rig.moves_refused, 1);
    assert_int_equal(up.got, up.size);
    assert_int_equal(down.got, down.size);
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    assert_int_equal(rig.hub_result.end, RELAY_END_FINISHED);
    close(client);
    close(target);
    rig_done(&rig);
}

static void a_move_to_nowhere_is_refused(void **state)
{
    struct rig rig;
    int client, target;
    rig_new(&rig);
    struct relay *r = open_pair(&rig, &client, &target);
    assert_int_equal(relay_move(r, rig.hub[1], 2), 0); /* no such stream there */
    wait_for(rig.loop, rig.moves_refused == 1);
    wait_for(rig.loop, relay_conn(r) == rig.hub[0]);
    assert_int_equal(relay_move(r, rig.hub[0], 0), ERR_UNAVAILABLE);
    struct way up = {client, target, 1000}, down = {target, client, 1000};
    while (!up.has_ended || !down.has_ended) {
        push(&up);
        push(&down);
        test_turn(rig.loop);
    }
    wait_for(rig.loop, rig.hub_ends && rig.agent_ends);
    close(client);
    close(target);
    rig_done(&rig);
}

static void a_connection_lost_amid_a_move_ends_the_relay_once(void **state)
{
    for (size_t lost = 0; lost < 2; lost++) {
        for (int turns = 0; turns < 8; turns++) {
            struct rig rig;
            int client, target;
            rig_new(&rig);
            struct relay *r = open_pair(&rig, &client, &target);
            struct way up = {client, target, 3000000}, down = {target, client, 3000000};
            push(&up);
            push(&down);
            assert_int_equal(move_to(&rig, r, 1), 0);
            for (int i = 0; i < turns; i++)
                test_turn(rig.loop);
            cut_link(&rig, lost);
            if (lost == 0 && !rig.hub_ends) /* all of it had moved, or half */
                relay_abort(r, ERR_CANCELED);
            wait_for(rig.loop, rig.hub_ends == 1 && rig.agent_ends == 1);
            assert_int_not_equal(rig.hub_result.end, RELAY_END_FINISHED);
            close(client);
            close(target);
            rig_done(&rig);
        }
    }
}

static void a_reset_amid_a_move_is_carried(void **state)
{
    for (int turns = 0; turns < 8; turns++) {
        struct rig rig;
        int client, target;
        char c;
        rig_new(&rig);
        struct relay *r = open_pair(&rig, &client, &target);
        assert_int_equal(move_to(&rig, r, 1), 0);
        for (int i = 0; i < turns; i++)
            test_turn(rig.loop);
        struct linger zero = {1, 0};
        int fd = turns % 2 ? client : target, other = turns % 2 ? target : client;
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &zero, sizeof(zero));
        close(fd);
        wait_for(rig.loop, recv(other, &c, 1, 0) < 0 && errno == ECONNRESET);
        wait_for(rig.loop, rig.hub_ends == 1 && rig.agent_ends == 1);
        close(other);
        wait_for(rig.loop, h2_stream_count(h2conn_session(rig.hub[1])) == 0);
        rig_done(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_goes_on_over_another_connection),
        cmocka_unit_test(no_order_of_events_loses_or_repeats_a_byte),
        cmocka_unit_test(a_refused_move_changes_nothing),
        cmocka_unit_test(a_move_to_nowhere_is_refused),
        cmocka_unit_test(a_connection_lost_amid_a_move_ends_the_relay_once),
        cmocka_unit_test(a_reset_amid_a_move_is_carried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
