#include "relay_rig.h"

#include "base/error.h"
#include "base/macro.h"
#include "fixture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static void on_open(void *arg, struct relay *r)
{
    ((struct relay_rig *)arg)->opens++;
}

static void on_hub_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct relay_rig *rig = arg;
    rig->hub_result = *res;
    rig->hub_ends++;
}

static void on_agent_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct relay_rig *rig = arg;
    rig->agent_result = *res;
    rig->agent_ends++;
}

const struct relay_ops relay_rig_hub_ops = {.on_open = on_open, .on_end = on_hub_end};
static const struct relay_ops agent_ops = {.on_end = on_agent_end};

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct relay_rig *rig = arg;
    struct relay_accept_params p = {.deadline_ms = rig->deadline_ms,
                                    .check = rig->check,
                                    .check_arg = rig,
                                    .set = &rig->agent_set,
                                    .ops = &agent_ops,
                                    .arg = rig};
    assert_string_equal(h2_headers_get(h, "warren-tunnel"), "tun_1");
    assert_int_equal(host_port_parse(h2_headers_get(h, ":authority"), false, &p.target, NULL), 0);
    relay_accept(s, &p);
}

static void on_link_close(void *arg, int err)
{
    ((struct relay_rig *)arg)->closed++;
}

const struct h2conn_ops relay_rig_hub_conn = {.on_close = on_link_close};
const struct h2conn_ops relay_rig_agent_conn = {.on_request = on_request,
                                                .on_close = on_link_close};
const struct h2conn_config relay_rig_hub_config = {.h2 = {.stream_window_max = RELAY_RIG_WINDOW}};
const struct h2conn_config relay_rig_agent_config = {.h2 = {.is_server = true,
                                                            .max_streams = 20000,
                                                            .stream_window_max = RELAY_RIG_WINDOW,
                                                            .peer_is_trusted = true}};

void relay_rig_base(struct relay_rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    assert_int_equal(loop_new(&rig->loop), 0);
    rig->listening = test_listen(&rig->target);
}

void relay_rig_new(struct relay_rig *rig)
{
    int fds[2];
    struct conn *hub, *agent;
    relay_rig_base(rig);
    test_tcp_pair(fds);
    assert_int_equal(conn_new_plain(rig->loop, fds[0], NULL, &hub), 0);
    assert_int_equal(conn_new_plain(rig->loop, fds[1], NULL, &agent), 0);
    rig->hub = h2conn_new(hub, &relay_rig_hub_config, &relay_rig_hub_conn, rig);
    rig->agent = h2conn_new(agent, &relay_rig_agent_config, &relay_rig_agent_conn, rig);
}

void relay_rig_done(struct relay_rig *rig)
{
    if (!rig->closed)
        h2conn_abort(rig->hub, ERR_CANCELED);
    wait_for(rig->loop, rig->closed == 2);
    assert_null(rig->hub_set.head);
    assert_null(rig->agent_set.head);
    assert_int_equal(rig->hub_set.open, 0);
    close(rig->listening);
    loop_free(rig->loop);
}

int relay_rig_open_to(struct relay_rig *rig, const struct addr *target, struct relay **ret)
{
    char authority[ADDR_TEXT_SIZE];
    int fds[2];
    struct relay *r;
    addr_format(target, authority, sizeof(authority));
    test_tcp_pair(fds);
    struct relay_open_params p = {.authority = authority,
                                  .headers = H2_HEADERS({"warren-tunnel", "tun_1"}),
                                  .n_headers = 1,
                                  .set = &rig->hub_set,
                                  .ops = &relay_rig_hub_ops,
                                  .arg = rig};
    assert_int_equal(relay_open(rig->hub, fds[1], &p, ret ? ret : &r), 0);
    return fds[0];
}

/* A client's socket and the target's, joined by a relay. */
void relay_rig_open(struct relay_rig *rig, int *client, int *target)
{
    int before = rig->opens;
    *client = relay_rig_open_to(rig, &rig->target, NULL);
    wait_for(rig->loop, rig->opens > before);
    wait_for(rig->loop, (*target = accept4(rig->listening, NULL, NULL, SOCK_NONBLOCK)) >= 0);
}
