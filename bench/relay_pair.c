/*
 * The data path alone: a hub end and an agent end without a control plane, for measuring net/ and
 * wire/ while they are worked on.
 *
 *     relay-pair hub   CA CHAIN KEY TLS-PORT CLIENT-PORT
 *     relay-pair agent CA CHAIN KEY TLS-PORT TARGET-PORT
 */
#include "base/addr.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/dialer.h"
#include "net/listener.h"
#include "net/relay.h"
#include "net/server.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pair {
    struct loop *loop;
    struct h2conn *link;
    struct relay_set set;
    struct host_port target;
    struct server *server;
    struct listener *clients;
};

__attribute__((noreturn)) static void die(const char *what, int err)
{
    fprintf(stderr, "relay-pair: %s: %s\n", what, err ? error_text(err) : "failed");
    exit(1);
}

static char *read_file(const char *path)
{
    static char text[65536];
    FILE *f = fopen(path, "r");
    if (!f)
        die(path, 0);
    text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
    fclose(f);
    return mem_strdup(text);
}

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct pair *p = arg;
    (void)h;
    relay_accept(s, &(struct relay_accept_params){.target = p->target, .set = &p->set});
}

static void on_close(void *arg, int err)
{
    struct pair *p = arg;
    fprintf(stderr, "relay-pair: the link ended: %s\n", error_name(err));
    loop_stop(p->loop);
}

static const struct h2conn_ops ops = {.on_request = on_request, .on_close = on_close};

static void on_client(void *arg, int fd, const struct addr *peer)
{
    struct pair *p = arg;
    struct relay *r;
    (void)peer;
    relay_open(p->link, fd,
               &(struct relay_open_params){.authority = "127.0.0.1:80", .set = &p->set}, &r);
}

static void on_conn(void *arg, struct conn *c, size_t lane)
{
    struct pair *p = arg;
    (void)lane;
    p->link = h2conn_new(c, &(struct h2conn_config){.h2 = {.is_server = false}}, &ops, p);
    listener_resume(p->clients);
}

static void run_hub(struct pair *p, char **argv)
{
    struct diag d = {0};
    struct tls_server *tls;
    struct addr a;
    struct secret key = {0};
    char *key_pem = read_file(argv[4]);
    int tls_fd, client_fd;
    secret_set(&key, key_pem, strlen(key_pem));
    struct tls_server_config cfg = {.chain_pem = read_file(argv[3]),
                                    .key_pem = &key,
                                    .client_ca_pem = read_file(argv[2]),
                                    .lanes = {{"warren-reverse/1", true, false}},
                                    .n_lanes = 1};
    if (tls_server_new(&cfg, &tls, &d) < 0)
        die(d.text, 0);
    addr_parse("127.0.0.1", (uint16_t)atoi(argv[5]), &a);
    if (listener_bind(&a, false, &tls_fd, NULL, &d) < 0)
        die(d.text, 0);
    addr_set_port(&a, (uint16_t)atoi(argv[6]));
    if (listener_bind(&a, false, &client_fd, NULL, &d) < 0)
        die(d.text, 0);
    struct server_config server = {.tls = tls, .on_conn = on_conn, .arg = p};
    server_start(p->loop, tls_fd, &server, &p->server);
    listener_start(p->loop, client_fd, on_client, p, &p->clients);
    listener_pause(p->clients);
}

static void on_dialled(void *arg, const struct dial_result *r)
{
    struct pair *p = arg;
    struct h2conn_config cfg = {
        .h2 = {.is_server = true, .max_streams = 20000, .peer_is_trusted = true}};
    if (r->err)
        die(r->diag.text, r->err);
    p->link = h2conn_new(r->conn, &cfg, &ops, p);
}

static void run_agent(struct pair *p, char **argv)
{
    struct diag d = {0};
    struct tls_client *tls;
    struct secret key = {0};
    char *key_pem = read_file(argv[4]);
    secret_set(&key, key_pem, strlen(key_pem));
    struct tls_client_config cfg = {.ca_pem = read_file(argv[2]),
                                    .chain_pem = read_file(argv[3]),
                                    .key_pem = &key,
                                    .server_name = "agent",
                                    .alpn = {"warren-reverse/1"}};
    if (tls_client_new(&cfg, &tls, &d) < 0)
        die(d.text, 0);
    struct dial_params params = {.target = {"127.0.0.1", (uint16_t)atoi(argv[5])},
                                 .tls = tls,
                                 .on_done = on_dialled,
                                 .arg = p};
    p->target = (struct host_port){"127.0.0.1", (uint16_t)atoi(argv[6])};
    dial_start(p->loop, &params);
}

int main(int argc, char **argv)
{
    static struct pair p;
    if (argc != 7)
        die("usage: relay-pair hub|agent CA CHAIN KEY TLS-PORT PORT", 0);
    signal(SIGPIPE, SIG_IGN);
    if (loop_new(&p.loop) < 0)
        die("loop", 0);
    if (strcmp(argv[1], "hub") == 0)
        run_hub(&p, argv);
    else
        run_agent(&p, argv);
    loop_run(p.loop);
    return 0;
}
