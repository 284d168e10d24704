/*
 * mount-leg [-6] [--disturb SEED] -- COMMAND [ARGUMENT]...
 *
 * A mount without the distance: the command runs in a mount's namespace, the agent's end of the
 * relay is in this process and dials from where it was started, and between the two is HTTP/2, in
 * memory. What a mount costs alone, for measuring it and for trying it by hand; and, with a
 * bad wire between program and mount (mount_shim.h), for tests of the terminator.
 */
#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "loop/io.h"
#include "mount/mount.h"
#include "mount/space.h"
#include "mount_shim.h"
#include "net/flow_target.h"
#include "net/h2conn.h"
#include "net/relay.h"
#include "wire/connect_udp.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct leg {
    struct loop *loop;
    struct h2conn *hub, *agent;
    struct relay_set relays;
    struct flow_set flows;
    struct space space;
    struct io child;
    struct mount *mount;
    int closed;
};

static void on_relay_end(void *arg, struct relay *r, const struct relay_result *res)
{
}

static const struct relay_ops relay_callbacks = {.on_end = on_relay_end};

static void on_flow_end(void *arg, const struct flow_result *res)
{
}

static void accept_flow(struct leg *leg, struct h2_stream *s, const struct h2_headers *h)
{
    struct flow_target_params p = {.set = &leg->flows, .on_end = on_flow_end};
    if (connect_udp_parse(h2_headers_get(h, ":path"), &p.target, NULL) < 0)
        relay_refuse(s, ERR_PROTO);
    else
        flow_target_accept(s, &p);
}

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct leg *leg = arg;
    struct relay_accept_params p = {.set = &leg->relays, .ops = &relay_callbacks};
    if (h2_headers_get(h, ":protocol"))
        accept_flow(leg, s, h);
    else if (host_port_parse(h2_headers_get(h, ":authority"), false, &p.target, NULL) < 0)
        relay_refuse(s, ERR_PROTO);
    else
        relay_accept(s, &p);
}

static void on_close(void *arg, int err)
{
    ((struct leg *)arg)->closed++;
}

static struct h2conn *connection(void *arg)
{
    return ((struct leg *)arg)->hub;
}

static void on_child(struct io *io)
{
    if (io->readable)
        loop_stop(io->loop);
}

static void join_ends(struct leg *leg)
{
    static const struct h2conn_ops hub_ops = {.on_close = on_close};
    static const struct h2conn_ops agent_ops = {.on_request = on_request, .on_close = on_close};
    const struct h2conn_config hub = {.h2 = {.stream_window = MOUNT_STREAM_WINDOW,
                                             .stream_window_max = MOUNT_STREAM_WINDOW_MAX,
                                             .peer_is_trusted = true}};
    const struct h2conn_config agent = {.h2 = {.is_server = true,
                                               .max_streams = 65536,
                                               .peer_is_trusted = true,
                                               .enable_connect = true}};
    struct conn *c[2];
    conn_new_pair(leg->loop, c);
    leg->hub = h2conn_new(c[0], &hub, &hub_ops, leg);
    leg->agent = h2conn_new(c[1], &agent, &agent_ops, leg);
}

static void stop(struct leg *leg)
{
    mount_stop(leg->mount);
    h2conn_abort(leg->hub, ERR_CANCELED);
    h2conn_abort(leg->agent, ERR_CANCELED);
    relay_set_abort(&leg->relays, ERR_CANCELED);
    flow_set_abort(&leg->flows, ERR_CANCELED);
    while (leg->closed < 2)
        loop_turn(leg->loop, false);
    loop_settle(leg->loop);
    io_stop(&leg->child);
    loop_free(leg->loop);
}

struct options {
    struct space_config space;
    bool is_disturbed;
    unsigned seed;
};

static bool parse_options(int argc, char **argv, struct options *ret)
{
    static const struct option rows[] = {{"disturb", required_argument, NULL, 'd'}, {0}};
    int c;
    while ((c = getopt_long(argc, argv, "+6", rows, NULL)) != -1) {
        if (c == '?')
            return false;
        ret->space.has_v6 |= c == '6';
        if (c == 'd') {
            ret->is_disturbed = true;
            ret->seed = (unsigned)atoi(optarg);
        }
    }
    ret->space.argv = argv + optind;
    return optind < argc;
}

static int start(struct leg *leg, const struct options *o)
{
    const struct mount_uplink uplink = {.conn = connection, .arg = leg, .authority = "leg"};
    TRY(loop_new(&leg->loop));
    join_ends(leg);
    if (o->is_disturbed)
        TRY(shim_start(leg->space.tun, o->seed, &leg->space.tun));
    TRY(mount_start(leg->loop, leg->space.tun, &uplink, &leg->mount));
    return io_start(&leg->child, leg->loop, leg->space.pidfd, on_child);
}

int main(int argc, char **argv)
{
    struct leg leg = {.child.fd = -1};
    struct options o = {0};
    struct diag d = {0};
    if (!parse_options(argc, argv, &o)) {
        fprintf(stderr, "usage: mount-leg [-6] [--disturb SEED] -- COMMAND [ARGUMENT]...\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    io_raise_descriptor_limit();
    if (space_open(&o.space, &leg.space, &d) < 0) {
        fprintf(stderr, "mount-leg: %s\n", diag_text(&d));
        return 125;
    }
    if (start(&leg, &o) < 0) {
        fprintf(stderr, "mount-leg: cannot start\n");
        return 125;
    }
    space_go(&leg.space);
    loop_run(leg.loop);
    stop(&leg);
    return space_exit_code(space_wait(&leg.space));
}
