/*
 * warren connect: standard input and output joined with a target in a network, through the hub's
 * proxy (CONNECT, RFC 9110 section 9.3.6).
 *
 *     stdin  ── thread ──►            ┌─────────┐
 *                          socketpair │ bridge  │ TLS ══ hub
 *     stdout ◄── thread ──            └─────────┘
 *
 * Input and output may be files, pipes or a terminal, so two threads copy them with blocking calls;
 * each direction ends for itself. The main thread runs the loop.
 */
#include "cli/commands.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "cli/remote.h"
#include "cli/uplink.h"
#include "loop/loop.h"
#include "net/bridge.h"
#include "wire/proxy_status.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define COPY_SIZE (64 * 1024)

struct connection {
    struct loop *loop;
    struct bridge *bridge; /* NULL: not yet, or no more */
    int local;             /* the threads' end; -1: there was no tunnel */
    pthread_t input, output;
    bool input_ended, output_ended, has_threads, is_over;
    struct diag diag;
    const char *hint; /* NULL: the usual */
};

/* ---- threads ---- */

static bool write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        len -= (size_t)n;
    }
    return true;
}

/* Until the end of `from` (0), or until `to` takes no more (ERR_IO). */
static int copy(int from, int to)
{
    char part[COPY_SIZE];
    for (;;) {
        ssize_t n = read(from, part, sizeof(part));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return 0;
        if (!write_all(to, part, (size_t)n))
            return ERR_IO;
    }
}

/* Both directions are through, or nobody is left to type. */
static void finish_if_done(struct connection *k)
{
    if (k->bridge && k->output_ended && (k->input_ended || isatty(STDIN_FILENO)))
        bridge_finish(k->bridge, 0);
}

static void input_ended(void *arg)
{
    struct connection *k = arg;
    k->input_ended = true;
    finish_if_done(k);
}

static void output_ended(void *arg)
{
    struct connection *k = arg;
    k->output_ended = true;
    finish_if_done(k);
}

static void output_failed(void *arg)
{
    struct connection *k = arg;
    diag_set(&k->diag, ERR_IO, "the output cannot be written");
    if (k->bridge)
        bridge_finish(k->bridge, ERR_IO);
}

static void *run_input(void *arg)
{
    struct connection *k = arg;
    copy(STDIN_FILENO, k->local);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    shutdown(k->local, SHUT_WR);
    loop_post(k->loop, input_ended, k);
    return NULL;
}

/* Whoever reads the output must see its end, even while input goes on. */
static void end_stdout(void)
{
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDOUT_FILENO);
        close(null);
    }
}

static void *run_output(void *arg)
{
    struct connection *k = arg;
    int rc = copy(k->local, STDOUT_FILENO);
    end_stdout();
    loop_post(k->loop, rc < 0 ? output_failed : output_ended, k);
    return NULL;
}

/* ---- the loop ---- */

static void on_bridge_end(void *arg, int err)
{
    struct connection *k = arg;
    k->bridge = NULL;
    k->is_over = true;
    if (err < 0 && !k->diag.code)
        diag_set(&k->diag, err, "the connection was lost: %s", error_text(err));
}

static const struct bridge_ops bridge_ops = {.on_end = on_bridge_end};

static int start_threads(struct connection *k)
{
    if (pthread_create(&k->output, NULL, run_output, k))
        return ERR_LIMIT;
    if (pthread_create(&k->input, NULL, run_input, k)) {
        shutdown(k->local, SHUT_RDWR);
        pthread_join(k->output, NULL);
        return ERR_LIMIT;
    }
    k->has_threads = true;
    return 0;
}

/* After the bridge: the output gets its last bytes, the input is not waited for. */
static void end_threads(struct connection *k)
{
    if (k->has_threads) {
        pthread_join(k->output, NULL);
        pthread_cancel(k->input);
        pthread_join(k->input, NULL);
    }
    if (k->local >= 0)
        close(k->local);
}

static void on_tunnel(void *arg, struct conn *c)
{
    struct connection *k = arg;
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        diag_set(&k->diag, ERR_LIMIT, "no socket can be made");
        k->is_over = true;
        conn_abort(c, ERR_LIMIT);
        return;
    }
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    k->local = fds[1];
    if (bridge_new(c, fds[0], &bridge_ops, k, &k->bridge) < 0) {
        diag_set(&k->diag, ERR_LIMIT, "the connection cannot be watched");
        k->is_over = true;
    } else if (start_threads(k) < 0) {
        diag_set(&k->diag, ERR_LIMIT, "no thread can be started");
        bridge_finish(k->bridge, ERR_LIMIT);
    }
}

/* The proxy's answer was no tunnel. */
static void refused(struct connection *k, const struct http_reply *reply)
{
    int err = proxy_status_parse(reply->status, http_reply_header(reply, "proxy-status"));
    struct diag d = {0};
    http_reply_diag(reply, &d);
    if (reply->status == 407)
        diag_set(&k->diag, ERR_UNAUTHENTICATED, "%s", diag_text(&d));
    else if (http_reply_header(reply, "proxy-status")) {
        k->hint = "the hub answered; it is the target that was not reached";
        diag_set(&k->diag, err, "%s (%d %s)", error_text(err), reply->status,
                 proxy_status_token(err));
    } else {
        k->diag = d;
    }
}

static void on_done(void *arg, struct http_reply *reply, const struct diag *d)
{
    struct connection *k = arg;
    k->is_over = true;
    if (reply)
        refused(k, reply);
    else
        k->diag = *d;
}

static const struct http_exchange_ops exchange_ops = {.done = on_done, .on_tunnel = on_tunnel};

/* Blocks until the connection is over; `k->diag` says why it failed. */
static void run(struct connection *k, const struct http_client_config *cfg,
                const struct http_ask *ask)
{
    struct http_client *client;
    if (loop_new(&k->loop) < 0) {
        diag_set(&k->diag, ERR_LIMIT, "no event loop can be made");
        return;
    }
    if (http_client_new(k->loop, cfg, &client, &k->diag) == 0) {
        http_client_start(client, ask, &exchange_ops, k);
        while (!k->is_over || !http_client_is_idle(client))
            loop_turn(k->loop, true);
        end_threads(k);
        http_client_free(client);
    }
    loop_settle(k->loop);
    loop_free(k->loop);
}

static int run_connect(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    struct connection k = {.local = -1};
    struct host_port target;
    char text[HOST_SIZE + 16];
    struct diag d = {0};
    if (host_port_parse(c->args[1], false, &target, &d) < 0)
        return call_fail(c, ERR_USAGE, NULL, "%s", diag_text(&d));
    TRY(remote_open(c, &r));
    host_port_format(&target, text, sizeof(text));
    struct http_client_config cfg = *remote_http(r);
    char *authorization = uplink_authorization(c->args[0], cfg.bearer);
    const struct http_header headers[] = {{"Proxy-Authorization", authorization}, {0}};
    cfg.bearer = NULL;
    run(&k, &cfg, &(struct http_ask){.method = "CONNECT", .path = text, .headers = headers});
    explicit_bzero(authorization, strlen(authorization));
    mem_free(authorization);
    return k.diag.code ? call_fail(c, k.diag.code, k.hint, "%s in network %s: %s", text, c->args[0],
                                   diag_text(&k.diag))
                       : 0;
}

static const struct command rows[] = {
    {.words = "connect",
     .summary = "Joins standard input and output with a service in a network.",
     .run = run_connect,
     .args = "NETWORK HOST:PORT",
     .min_args = 2,
     .max_args = 2,
     .arg_candidates = CANDIDATES_NETWORK,
     .flags = {&remote_flags},
     .details = "The hub takes the stream as a proxy: a tunnel with internal access to this target "
                "is used if there is one, else one is made for the life of the use.\n\n"
                "The end of the input is passed on while output still comes; the command ends "
                "when both directions have ended, or, at a terminal, when the service has. Other "
                "programs can use the hub directly as an HTTPS proxy, with the network as user "
                "and an API token as password.",
     .examples = "warren connect plant 10.0.0.17:80\n"
                 "ssh -o ProxyCommand='warren connect plant %h:%p' admin@10.0.0.17"},
};
const struct command_set connect_commands = {rows, ARRAY_SIZE(rows)};
