/* A tiny server for grpcio_test.py: listens on a free port of 127.0.0.1, prints it, and serves
 * without TLS until its standard input ends. Tunnel names choose what happens. */
#include "agent.pb-c.h"
#include "base/addr.h"
#include "base/error.h"
#include "base/macro.h"
#include "loop/io.h"
#include "net/conn.h"
#include "net/listener.h"
#include "rpc/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct loop *loop;
static struct rpc_server *server;
static int cancelled;

static void handle_release(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__ReleaseLeaseRequest *req = (const void *)msg;
    Warren__V1__Lease lease = WARREN__V1__LEASE__INIT;
    lease.tunnel = req->tunnel;
    lease.epoch = req->session_epoch + 1;
    lease.ttl_ms = (uint32_t)cancelled;
    if (strcmp(req->tunnel, "taken") == 0)
        rpc_fail(call, ERR_CONFLICT, "held by \xc3\xa9: 100%%\nsorry");
    else
        rpc_reply(call, &lease.base);
}

static void on_cancel(struct rpc_call *call, void *arg)
{
    cancelled++;
    rpc_finish(call, RPC_CANCELLED, "");
}

/* The version asks for so many events; "wait" never ends by itself. */
static void handle_connect(struct rpc_call *call, const ProtobufCMessage *msg, void *ctx)
{
    const Warren__V1__ConnectRequest *req = (const void *)msg;
    Warren__V1__HubEvent event = WARREN__V1__HUB_EVENT__INIT;
    Warren__V1__Welcome welcome = WARREN__V1__WELCOME__INIT;
    event.event_case = WARREN__V1__HUB_EVENT__EVENT_WELCOME;
    event.welcome = &welcome;
    int n = atoi(req->version);
    for (int i = 0; i < MAX(n, 1); i++) {
        welcome.epoch = (uint64_t)i + 1;
        welcome.agent = req->hostname;
        rpc_send(call, &event.base);
    }
    if (strcmp(req->version, "wait") == 0)
        rpc_on_cancel(call, on_cancel, NULL);
    else
        rpc_finish(call, n > 100 ? RPC_ABORTED : RPC_OK, n > 100 ? "superseded" : "");
}

static const struct rpc_method methods[] = {
    {"/warren.v1.AgentService/ReleaseLease", RPC_UNARY,
     &warren__v1__release_lease_request__descriptor, handle_release},
    {"/warren.v1.AgentService/Connect", RPC_SERVER_STREAM, &warren__v1__connect_request__descriptor,
     handle_connect},
};

static void on_accept(void *arg, int fd, const struct addr *peer)
{
    struct conn *c;
    if (conn_new_plain(loop, fd, peer, &c) == 0)
        rpc_server_take(server, c);
}

static void on_input(struct io *io)
{
    char c;
    if (read(io->fd, &c, 1) == 0 || io->hup)
        loop_stop(loop);
}

int main(void)
{
    struct addr any, bound;
    struct listener *listener;
    struct io input = {.fd = -1};
    int fd;
    if (loop_new(&loop) < 0 || addr_parse("127.0.0.1", 0, &any) < 0 ||
        listener_bind(&any, false, &fd, &bound, NULL) < 0)
        return 1;
    const struct rpc_server_config cfg = {.loop = loop};
    rpc_server_new(&cfg, &server);
    rpc_server_add(server, methods, ARRAY_SIZE(methods), NULL);
    listener_start(loop, fd, on_accept, NULL, &listener);
    io_start(&input, loop, STDIN_FILENO, on_input);
    printf("%u\n", addr_port(&bound));
    fflush(stdout);
    loop_run(loop);
    io_stop(&input);
    listener_stop(listener);
    rpc_server_free(server);
    for (int i = 0; i < 10; i++)
        loop_turn(loop, false);
    loop_free(loop);
    close(fd);
    return 0;
}
