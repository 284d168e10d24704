/*
 * A swarm: thousands of agents in one process, for weighing an idle agent at the hub. Nothing is
 * imitated: each member makes its key, enrols with the bootstrap token, logs in with its own
 * certificate (ALPN warren-agent/1, Connect) and keeps its session alive; it just holds no lease.
 *
 * Reports one JSON line after each step: {"enrolled": N}, {"connected": N}; then waits for the end
 * of standard input and tells how many sessions still live: {"alive": N}. One loop, one thread.
 */
#include "base/buf.h"
#include "base/diag.h"
#include "base/error.h"
#include "base/file.h"
#include "base/macro.h"
#include "base/text.h"
#include "http/client.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "net/dialer.h"
#include "net/tls.h"
#include "pki/cert.h"
#include "pki/csr.h"
#include "pki/pkey.h"
#include "rpc/client.h"
#include "warren/v1/agent.pb-c.h"

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PARALLEL   32 /* enrolments, and then dials, under way at a time */
#define CONNECT    "/warren.v1.AgentService/Connect"
#define CERTS_MAX  4
#define FILE_BYTES 65536

struct swarm;

struct member {
    struct swarm *swarm;
    char name[32];
    struct secret key_pem;
    char *chain_pem;
    struct tls_client *tls; /* while it dials */
    struct rpc_client *rpc;
    bool is_up;
};

struct swarm {
    struct loop *loop;
    struct http_client *http;
    struct host_port hub;
    char *ca_pem, *authorization;
    struct member *members;
    int size, started, enrolled, connected, alive;
    struct io input;
};

__attribute__((noreturn)) static void fail(const char *what, const struct diag *d)
{
    fprintf(stderr, "swarm: %s: %s\n", what, d ? diag_text(d) : "failed");
    exit(1);
}

static void report(const char *step, int count)
{
    printf("{\"%s\": %d}\n", step, count);
    fflush(stdout);
}

static void connect_next(struct swarm *s);
static void enroll_next(struct swarm *s);

/* -- logging in */

static void on_event(void *arg, const ProtobufCMessage *message)
{
    struct member *m = arg;
    const Warren__V1__HubEvent *event = (const Warren__V1__HubEvent *)message;
    if (event->event_case != WARREN__V1__HUB_EVENT__EVENT_SNAPSHOT_END || m->is_up)
        return;
    m->is_up = true;
    m->swarm->alive++;
    if (++m->swarm->connected == m->swarm->size)
        report("connected", m->swarm->connected);
    else
        connect_next(m->swarm);
}

static void on_session_end(void *arg, const struct rpc_result *result)
{
    struct member *m = arg;
    if (!m->is_up)
        fail("Connect", &result->diag);
    m->is_up = false;
    m->swarm->alive--;
}

static void on_connection_lost(void *arg, int error)
{
}

static void on_dialled(void *arg, const struct dial_result *r)
{
    struct member *m = arg;
    tls_client_unref(TAKE(m->tls));
    if (r->err)
        fail("dial", &r->diag);
    if (rpc_client_new(r->conn, m->swarm->hub.host, on_connection_lost, m, &m->rpc) < 0)
        fail("session", NULL);
    Warren__V1__ConnectRequest request = WARREN__V1__CONNECT_REQUEST__INIT;
    request.version = (char *)WARREN_VERSION;
    request.hostname = m->name;
    rpc_call_stream(m->rpc, CONNECT, &request.base, &warren__v1__hub_event__descriptor, 0, on_event,
                    on_session_end, m);
}

static void connect_next(struct swarm *s)
{
    if (s->started == s->size)
        return;
    struct member *m = &s->members[s->started++];
    struct tls_client_config cfg = {.ca_pem = s->ca_pem,
                                    .chain_pem = m->chain_pem,
                                    .key_pem = &m->key_pem,
                                    .server_name = s->hub.host,
                                    .alpn = {"warren-agent/1"}};
    struct diag d = {0};
    if (tls_client_new(&cfg, &m->tls, &d) < 0)
        fail("TLS", &d);
    struct dial_params dial = {.target = s->hub, .tls = m->tls, .on_done = on_dialled, .arg = m};
    dial_start(s->loop, &dial);
}

/* -- enrolment */

static void on_enrolled(void *arg, struct http_reply *reply, const struct diag *why)
{
    struct member *m = arg;
    struct swarm *s = m->swarm;
    struct diag d = {0};
    X509 *certs[CERTS_MAX];
    size_t n = 0;
    struct buf pem = {0};
    if (!reply)
        fail("enrolment", why);
    if (reply->status != 200) {
        http_reply_diag(reply, &d);
        fail("enrolment", &d);
    }
    if (cert_from_pkcs7(buf_text(&reply->body), reply->body.len, certs, CERTS_MAX, &n) < 0 || !n)
        fail("the certificate cannot be read", NULL);
    for (size_t i = 0; i < n; i++) {
        if (i == 0)
            cert_to_pem(certs[i], &pem);
        cert_free(certs[i]);
    }
    m->chain_pem = buf_take(&pem);
    if (++s->enrolled < s->size) {
        enroll_next(s);
        return;
    }
    report("enrolled", s->enrolled);
    s->started = 0;
    for (int i = 0; i < PARALLEL; i++)
        connect_next(s);
}

static void enroll_next(struct swarm *s)
{
    if (s->started == s->size)
        return;
    struct member *m = &s->members[s->started];
    m->swarm = s;
    snprintf(m->name, sizeof(m->name), "swarm-%d", s->started++);
    EVP_PKEY *key;
    struct buf csr = {0};
    if (pkey_new(&key) < 0 || pkey_to_pem(key, &m->key_pem) < 0 || csr_make(key, m->name, &csr) < 0)
        fail("key", NULL);
    pkey_free(key);
    struct http_header headers[] = {{"Authorization", s->authorization}, {NULL, NULL}};
    struct http_ask ask = {.method = "POST",
                           .path = "/.well-known/est/simpleenroll",
                           .content_type = "application/pkcs10",
                           .body = csr.data,
                           .body_len = csr.len,
                           .headers = headers};
    static const struct http_exchange_ops ops = {.done = on_enrolled};
    http_client_start(s->http, &ask, &ops, m);
    buf_done(&csr);
}

/* -- the process */

static void on_input(struct io *io)
{
    struct swarm *s = container_of(io, struct swarm, input);
    char data[64];
    ssize_t n;
    while ((n = read(io->fd, data, sizeof(data))) > 0)
        ;
    if (n == 0) {
        report("alive", s->alive);
        exit(0);
    }
}

static char *read_text(const char *path)
{
    struct buf b = {0};
    struct diag d = {0};
    if (file_read(path, FILE_BYTES, false, &b, &d) < 0)
        fail(path, &d);
    return buf_take(&b);
}

/* RFC 7617; the user name is not looked at. */
static char *basic_authorization(char *token)
{
    token[strcspn(token, "\r\n")] = 0;
    char plain[256], encoded[BASE64_SIZE(sizeof(plain))];
    int len = snprintf(plain, sizeof(plain), "agent:%s", token);
    text_base64(plain, (size_t)len, encoded, sizeof(encoded));
    struct buf header = {0};
    buf_printf(&header, "Basic %s", encoded);
    return buf_take(&header);
}

static void parse_hub(const char *url, struct swarm *s)
{
    struct diag d = {0};
    const char *host = strstr(url, "://");
    if (host_port_parse(host ? host + 3 : url, false, &s->hub, &d) < 0)
        fail("--hub", &d);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"hub", required_argument, NULL, 'h'},
                                            {"ca", required_argument, NULL, 'c'},
                                            {"token-file", required_argument, NULL, 't'},
                                            {"agents", required_argument, NULL, 'n'},
                                            {NULL, 0, NULL, 0}};
    struct swarm s = {.size = 2000};
    const char *hub = NULL, *ca = NULL, *token = NULL;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'h')
            hub = optarg;
        else if (c == 'c')
            ca = optarg;
        else if (c == 't')
            token = optarg;
        else if (c == 'n')
            s.size = atoi(optarg);
        else
            return 2;
    }
    if (!hub || !ca || !token || s.size < 1) {
        fprintf(stderr, "usage: swarm --hub URL --ca FILE --token-file FILE [--agents N]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    parse_hub(hub, &s);
    s.ca_pem = read_text(ca);
    s.authorization = basic_authorization(read_text(token));
    s.members = calloc((size_t)s.size, sizeof(*s.members));
    struct diag d = {0};
    struct http_client_config http = {.base_url = hub, .ca_pem = s.ca_pem};
    if (loop_new(&s.loop) < 0 || http_client_new(s.loop, &http, &s.http, &d) < 0)
        fail("start", &d);
    fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    if (io_start(&s.input, s.loop, STDIN_FILENO, on_input) < 0)
        fail("standard input", NULL);
    for (int i = 0; i < PARALLEL; i++)
        enroll_next(&s);
    loop_run(s.loop);
}
