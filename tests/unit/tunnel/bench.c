#include "bench.h"

#include "base/buf.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "fleet/link.h"
#include "identity/identity.h"
#include "net/conn.h"
#include "net/listener.h"
#include "rpc/server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { CONTROL, REVERSE };

/* ---- the database ---- */

void bench_write(struct bench *b, int (*work)(struct tx *tx, void *arg), void *arg)
{
    assert_int_equal(store_run_wait(b->store, STORE_WRITE, work, arg), 0);
    loop_settle(b->loop); /* subscribers */
}

struct query {
    const char *sql;
    int64_t value;
};

static int run_query(struct tx *tx, void *arg)
{
    struct query *q = arg;
    return tx_query_int(tx, &q->value, q->sql);
}

int64_t bench_query(struct bench *b, const char *sql)
{
    struct query q = {sql, 0};
    assert_int_equal(store_run_wait(b->store, STORE_READ, run_query, &q), 0);
    return q.value;
}

static int write_tenant(struct tx *tx, void *arg)
{
    TRY(tx_exec(tx, "INSERT INTO tenant (id, name, version, created) VALUES "
                    "('ten_0000000000000001', 'a', 1, 1)"));
    return tx_exec(tx, "INSERT INTO network (id, tenant, name, version, created) VALUES ('net_lan',"
                       " 'ten_0000000000000001', 'lan', 1, 1)");
}

static int write_agent(struct tx *tx, void *arg)
{
    TRY(tx_exec(tx,
                "INSERT INTO agent (id, tenant, network, token, name, version, serial, key_hash, "
                "not_after, created) VALUES ($1, 'ten_0000000000000001', 'net_lan', 'tok_1', $1, "
                "1, '1', '', 1, "
                "1) ON CONFLICT (id) DO NOTHING",
                STORE_TEXT(arg)));
    return store_publish(tx, "ten_0000000000000001", "agent", arg, STORE_PUT);
}

/* ---- the hub ---- */

static char *pem_of(X509 *cert)
{
    struct buf pem = {0};
    assert_int_equal(cert_to_pem(cert, &pem), 0);
    char *text = mem_strdup(buf_text(&pem));
    buf_done(&pem);
    return text;
}

static void nothing(void *arg, int err)
{
}

static void on_conn(void *arg, struct conn *c, size_t lane)
{
    static const struct conn_ops ops = {.on_close = nothing};
    struct bench *b = arg;
    conn_attach(c, b->loop, &ops, NULL);
    if (lane == REVERSE)
        fleet_link_accept(b->fleet, c);
    else
        rpc_server_take(fleet_rpc(b->fleet), c);
}

static void open_tls(struct bench *b)
{
    static const char *const names[] = {"127.0.0.1"};
    struct cert_times times = {time_wall_ms() - 1000, time_wall_ms() + 3600000};
    EVP_PKEY *key;
    X509 *cert;
    struct secret key_pem = {0};
    assert_int_equal(ca_open(b->dir, "test", time_wall_ms(), &b->ca, NULL), 0);
    b->ca_pem = pem_of(ca_cert(b->ca));
    assert_int_equal(pkey_new(&key), 0);
    assert_int_equal(ca_issue_hub(b->ca, key, "hub_0123456789abcdef", names, 1, times, &cert), 0);
    CLEANUP(mem_free) char *leaf = pem_of(cert);
    assert_int_equal(pkey_to_pem(key, &key_pem), 0);
    CLEANUP(mem_free) char *chain = mem_printf("%s%s", leaf, b->ca_pem);
    const struct tls_server_config cfg = {
        .chain_pem = chain,
        .key_pem = &key_pem,
        .client_ca_pem = b->ca_pem,
        .lanes = {[CONTROL] = {"warren-agent/1", true}, [REVERSE] = {"warren-reverse/1", true}},
        .n_lanes = 2};
    assert_int_equal(tls_server_new(&cfg, &b->tls, NULL), 0);
    secret_done(&key_pem);
    cert_free(cert);
    pkey_free(key);
}

static void on_target_accept(void *arg, int fd, const struct addr *peer)
{
    struct bench *b = arg;
    assert_true(b->n_served < BENCH_CLIENTS_MAX);
    b->served[b->n_served++] = fd;
}

int bench_set_up(void **state)
{
    static const struct store_schema *const schemas[] = {&identity_schema, &fleet_schema,
                                                         &tunnel_schema};
    struct bench *b = NEW(struct bench);
    struct diag d = {0};
    snprintf(b->dir, sizeof(b->dir), "/tmp/warren-core-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    CLEANUP(mem_free) char *path = mem_printf("%s/warren.db", b->dir);
    const struct store_options options = {
        .db = path, .schemas = schemas, .n_schemas = ARRAY_SIZE(schemas)};
    assert_int_equal(loop_new(&b->loop), 0);
    assert_int_equal(store_open(b->loop, &options, &b->store, &d), 0);
    bench_write(b, write_tenant, NULL);
    open_tls(b);
    const struct fleet_config fleet = {.loop = b->loop,
                                       .store = b->store,
                                       .hub = {.id = "hub_1", .epoch = 1},
                                       .trust_domain = "test",
                                       .lease_ms = LEASE_LIFE_MS,
                                       .renew_ms = LEASE_RENEW_MS};
    assert_int_equal(fleet_new(&fleet, &b->fleet, &d), 0);
    assert_int_equal(tunnels_new(b->fleet, &b->tunnels, &d), 0);
    const struct worker_config worker = {.main = b->loop,
                                         .tls = b->tls,
                                         .max_waiting = 100,
                                         .max_per_address = 100,
                                         .on_conn = on_conn,
                                         .arg = b};
    int fd = test_listen(&b->address);
    for (size_t i = 0; i < BENCH_WORKERS; i++) {
        assert_int_equal(worker_start(&worker, i ? dup(fd) : fd, &b->workers[i]), 0);
        fleet_add_worker(b->fleet, worker_loop(b->workers[i]));
    }
    snprintf(b->url, sizeof(b->url), "https://127.0.0.1:%u", addr_port(&b->address));
    b->target_fd = test_listen(&b->target_address);
    assert_int_equal(listener_start(b->loop, b->target_fd, on_target_accept, b, &b->target), 0);
    *state = b;
    return 0;
}

static void set_stopped(void *arg)
{
    ((struct bench *)arg)->is_stopped = true;
}

static void stop_hub(struct bench *b)
{
    b->is_stopped = false;
    tunnels_stop(b->tunnels, set_stopped, b);
    wait_for(b->loop, b->is_stopped);
    b->is_stopped = false;
    for (size_t i = 0; i < BENCH_WORKERS; i++) {
        b->is_stopped = false;
        worker_close_server(b->workers[i], set_stopped, b);
        wait_for(b->loop, b->is_stopped);
    }
    b->is_stopped = false;
    fleet_stop(b->fleet, set_stopped, b);
    wait_for(b->loop, b->is_stopped);
    for (size_t i = 0; i < BENCH_WORKERS; i++)
        worker_end(b->workers[i]);
    loop_settle(b->loop);
    store_close(b->store);
    tunnels_free(b->tunnels);
    fleet_free(b->fleet);
}

int bench_tear_down(void **state)
{
    struct bench *b = *state;
    stop_hub(b);
    listener_stop(b->target);
    close(b->target_fd);
    for (size_t i = 0; i < b->n_served; i++)
        close(b->served[i]);
    tls_server_unref(b->tls);
    loop_settle(b->loop);
    loop_free(b->loop);
    ca_free(b->ca);
    mem_free(b->ca_pem);
    CLEANUP(mem_free) char *command = mem_printf("rm -r %s", b->dir);
    assert_int_equal(system(command), 0);
    mem_free(b);
    return 0;
}

/* ---- agents ---- */

static void on_up(void *arg, const Warren__V1__Welcome *w)
{
    struct bench_agent *a = arg;
    a->ups++;
    tunnel_agent_on_up(a->tunnels, w);
}

static void on_event(void *arg, const Warren__V1__HubEvent *e)
{
    tunnel_agent_on_event(((struct bench_agent *)arg)->tunnels, e);
}

static void on_down(void *arg)
{
    struct bench_agent *a = arg;
    a->downs++;
    tunnel_agent_on_down(a->tunnels);
}

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    tunnel_agent_on_request(((struct bench_agent *)arg)->tunnels, s, h);
}

static void on_certificate(void *arg)
{
}

static void make_identity(struct bench *b, struct agent_identity *id, const char *name)
{
    struct cert_times times = {time_wall_ms() - 1000, time_wall_ms() + 3600000};
    struct spiffe who = {.trust_domain = "test", .tenant = "ten_0000000000000001"};
    EVP_PKEY *key;
    X509 *cert;
    snprintf(who.agent, sizeof(who.agent), "%s", name);
    assert_int_equal(pkey_new(&key), 0);
    assert_int_equal(ca_issue_agent(b->ca, key, &who, times, &cert), 0);
    snprintf(id->id, sizeof(id->id), "%s", name);
    snprintf(id->tenant, sizeof(id->tenant), "ten_0000000000000001");
    id->ca_pem = mem_strdup(b->ca_pem);
    id->cert_pem = pem_of(cert);
    assert_int_equal(pkey_to_pem(key, &id->key_pem), 0);
    id->hubs[0] = mem_strdup(b->url);
    id->n_hubs = 1;
    id->not_before_ms = times.not_before_ms;
    id->not_after_ms = times.not_after_ms;
    cert_free(cert);
    pkey_free(key);
}

void bench_agent_start(struct bench *b, struct bench_agent *a, const char *id)
{
    struct diag d = {0};
    *a = (struct bench_agent){.bench = b};
    bench_write(b, write_agent, (void *)id);
    make_identity(b, &a->identity, id);
    const struct tunnel_agent_config tunnels = {.loop = b->loop};
    a->tunnels = tunnel_agent_new(&tunnels);
    const struct session_config cfg = {.loop = b->loop,
                                       .identity = &a->identity,
                                       .hubs = (const char *const *)a->identity.hubs,
                                       .n_hubs = 1,
                                       .hostname = "test",
                                       .on_up = on_up,
                                       .on_event = on_event,
                                       .on_down = on_down,
                                       .on_request = on_request,
                                       .on_certificate = on_certificate,
                                       .arg = a};
    assert_int_equal(session_new(&cfg, &a->session, &d), 0);
    tunnel_agent_attach(a->tunnels, a->session);
    wait_for(b->loop, session_is_up(a->session));
}

void bench_agent_stop(struct bench_agent *a)
{
    session_free(a->session);
    tunnel_agent_free(a->tunnels);
    loop_settle(a->bench->loop);
    agent_identity_done(&a->identity);
}

/* ---- tunnels ---- */

struct creation {
    struct tunnel t;
    int64_t ends;
};

static int write_creation(struct tx *tx, void *arg)
{
    struct creation *c = arg;
    return tunnel_store_insert(tx, &c->t, c->ends);
}

struct tunnel_object *bench_tunnel(struct bench *b, const char *name, const char *listen,
                                   int64_t ttl_ms)
{
    static const struct tunnel_traffic none;
    struct creation c = {.ends = ttl_ms ? time_wall_ms() + ttl_ms : 0};
    struct tunnel *t = &c.t;
    id_new(t->id, "tun");
    snprintf(t->tenant, sizeof(t->tenant), "ten_0000000000000001");
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->version = 1;
    t->created = time_wall_ms();
    snprintf(t->spec.network, sizeof(t->spec.network), "net_lan");
    snprintf(t->spec.target.host, sizeof(t->spec.target.host), "127.0.0.1");
    t->spec.target.port = addr_port(&b->target_address);
    t->spec.ttl_ms = ttl_ms;
    t->spec.has_endpoint = listen != NULL;
    if (listen)
        assert_int_equal(host_port_parse(listen, true, &t->spec.listen, NULL), 0);
    bench_write(b, write_creation, &c);
    struct tunnel_object *o = tunnel_add(b->tunnels, t, c.ends, &none);
    tunnel_begin(o);
    return o;
}

static int write_deletion(struct tx *tx, void *arg)
{
    return tunnel_store_delete(tx, arg, 0);
}

void bench_delete(struct bench *b, struct tunnel_object *o)
{
    struct tunnel t = o->t;
    bench_write(b, write_deletion, &t);
    o = tunnel_find(b->tunnels, t.id); /* a row that was read meanwhile may have told already */
    if (o)
        tunnel_remove(o);
}

/* ---- clients ---- */

int bench_connect(struct bench *b, struct tunnel_object *o)
{
    struct host_port at;
    struct addr a;
    assert_int_equal(host_port_parse(o->t.endpoint, false, &at, NULL), 0);
    assert_int_equal(addr_parse(at.host, at.port, &a), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, &a.sa, a.len), 0);
    return fd;
}

void bench_pass(struct bench *b, int from, int to, const char *text)
{
    char got[256] = "";
    size_t len = strlen(text), n = 0;
    assert_int_equal(send(from, text, len, MSG_NOSIGNAL), (ssize_t)len);
    uint64_t end = test_deadline();
    while (n < len) {
        ssize_t rc = recv(to, got + n, len - n, MSG_DONTWAIT);
        assert_true(rc > 0 || (rc < 0 && errno == EAGAIN));
        n += rc > 0 ? (size_t)rc : 0;
        test_turn(b->loop);
        test_check_deadline(end, text);
    }
    assert_string_equal(got, text);
}

bool bench_is_ended(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    return n == 0 || (n < 0 && errno != EAGAIN);
}

void bench_wait_active(struct bench *b, const struct tunnel_object *o)
{
    wait_for(b->loop, o->t.phase == TUNNEL_ACTIVE);
}

struct tunnel_object *bench_serve(struct bench *b, struct bench_agent *a, const char *listen,
                                  int64_t ttl_ms)
{
    bench_agent_start(b, a, AGENT_1);
    struct tunnel_object *o = bench_tunnel(b, "web", listen, ttl_ms);
    bench_wait_active(b, o);
    return o;
}

void bench_change_target(struct tunnel_object *o, uint16_t port)
{
    struct tunnel to = o->t;
    to.spec.target.port = port;
    tunnel_change(o, &to, 0);
}

static void count_listed(void *arg, const struct exposure_record *records, size_t n)
{
    --*(int *)arg;
}

void bench_settle_worker(struct bench *b, struct tunnel_object *o)
{
    int listings = 0;
    for (struct exposure *e = o->exposures; e; e = exposure_next(e)) {
        listings++;
        exposure_list_open(e, count_listed, &listings);
    }
    wait_for(b->loop, listings == 0);
}
