#include "hub_bench.h"

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "net/listener.h"
#include "net/server.h"

#include <ftw.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LANE_HTTP, LANE_RENEW, LANE_AGENT };

static void on_conn(void *arg, struct conn *c, size_t lane)
{
    struct bench *h = arg;
    http_server_take(lane == LANE_RENEW ? h->renew : h->rest, c);
}

static void on_agent_revoked(void *arg, const char *agent)
{
    struct bench *h = arg;
    h->revoked++;
}

static void *run(void *arg)
{
    struct bench *h = arg;
    loop_run(h->loop);
    return NULL;
}

/* Does something on the hub's thread and waits for it. */
struct errand {
    struct bench *h;
    void (*fn)(struct bench *h, const void *arg);
    const void *arg;
    sem_t ready;
};

static void run_errand(void *arg)
{
    struct errand *e = arg;
    e->fn(e->h, e->arg);
    sem_post(&e->ready);
}

void bench_on_hub(struct bench *h, void (*fn)(struct bench *h, const void *arg), const void *arg)
{
    struct errand e = {.h = h, .fn = fn, .arg = arg};
    sem_init(&e.ready, 0, 0);
    loop_post(h->loop, run_errand, &e);
    sem_wait(&e.ready);
    sem_destroy(&e.ready);
}

static void start_identity(struct bench *h)
{
    static const struct store_schema *const schemas[] = {&identity_schema};
    static const char *const names[] = {"hub.test"};
    CLEANUP(mem_free) char *path = mem_printf("%s/warren.db", h->dir);
    const struct store_options options = {.db = path, .schemas = schemas, .n_schemas = 1};
    struct diag d = {0};
    if (store_open(h->loop, &options, &h->store, &d))
        fail_msg("%s", d.text);
    const struct identity_config cfg = {
        .loop = h->loop,
        .store = h->store,
        .data_dir = h->dir,
        .hub = "hub_0123456789abcdef",
        .trust_domain = "warren.test",
        .public_names = names,
        .n_public_names = 1,
        .policy = {.cert_life_ms = HOUR,
                   .late_renewal = IDENTITY_LATE_GRACE,
                   .late_grace_ms = HOUR,
                   .enroll_per_minute = 1000},
        .on_agent_revoked = on_agent_revoked,
        .arg = h,
    };
    if (identity_open(&cfg, &h->identity, &d))
        fail_msg("%s", d.text);
}

static void start_servers(struct bench *h)
{
    const struct tls_server_config tls = {
        .chain_pem = identity_server_chain(h->identity),
        .key_pem = identity_server_key(h->identity),
        .client_ca_pem = identity_ca_pem(h->identity),
        .lanes = {[LANE_HTTP] = {"http/1.1", false, false},
                  [LANE_RENEW] = {"warren-renew/1", true, true},
                  [LANE_AGENT] = {"warren-agent/1", true, false}},
        .n_lanes = 3,
        .verify = identity_verify_leaf,
        .verify_arg = h->identity,
    };
    const struct http_server_config rest = {.loop = h->loop,
                                            .hooks = identity_http_hooks(h->identity)};
    const struct http_server_config renew = {.loop = h->loop};
    const struct server_config server = {.on_conn = on_conn, .arg = h};
    struct server_config cfg = server;
    struct addr a, bound;
    assert_int_equal(tls_server_new(&tls, &h->tls, NULL), 0);
    assert_int_equal(http_server_new(&rest, &h->rest), 0);
    assert_int_equal(http_server_new(&renew, &h->renew), 0);
    identity_add_routes(h->identity, h->rest);
    identity_add_renew_routes(h->identity, h->renew);
    assert_int_equal(addr_parse("127.0.0.1", 0, &a), 0);
    assert_int_equal(listener_bind(&a, false, &h->fd, &bound, NULL), 0);
    cfg.tls = h->tls;
    assert_int_equal(server_start(h->loop, h->fd, &cfg, &h->server), 0);
    snprintf(h->url, sizeof(h->url), "https://127.0.0.1:%u", addr_port(&bound));
}

static void read_admin_token(struct bench *h)
{
    CLEANUP(mem_free) char *path = mem_printf("%s/admin.token", h->dir);
    struct buf text = {0};
    assert_int_equal(file_read(path, 1000, true, &text, NULL), 0);
    snprintf(h->admin, sizeof(h->admin), "%.*s", (int)text.len - 1, text.data);
    buf_done(&text);
}

void bench_start(struct bench *h)
{
    assert_int_equal(loop_new(&h->loop), 0);
    start_identity(h);
    start_servers(h);
    read_admin_token(h);
    assert_int_equal(pthread_create(&h->thread, NULL, run, h), 0);
}

static void stop_on_hub(struct bench *h, const void *arg)
{
    server_free(h->server);
    http_server_free(h->rest);
    http_server_free(h->renew);
}

void bench_stop(struct bench *h)
{
    bench_on_hub(h, stop_on_hub, NULL);
    loop_stop(h->loop);
    pthread_join(h->thread, NULL);
    store_close(h->store);
    identity_close(h->identity);
    for (int i = 0; i < 20; i++)
        loop_turn(h->loop, false);
    close(h->fd);
    tls_server_unref(h->tls);
    loop_free(h->loop);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

int bench_setup(void **state)
{
    struct bench *h = NEW(struct bench);
    snprintf(h->dir, sizeof(h->dir), "/tmp/warren-identity-XXXXXX");
    assert_non_null(mkdtemp(h->dir));
    snprintf(h->agent_dir, sizeof(h->agent_dir), "%s/agent", h->dir);
    bench_start(h);
    *state = h;
    return 0;
}

int bench_teardown(void **state)
{
    struct bench *h = *state;
    bench_stop(h);
    json_decref(h->json);
    http_reply_done(&h->reply);
    nftw(h->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    mem_free(h);
    return 0;
}

/* ---- users ---- */

int bench_call_as(struct bench *h, const char *token, const char *method, const char *path,
                  const char *body, const struct http_header *headers)
{
    const struct http_client_config cfg = {
        .base_url = h->url, .ca_pem = identity_ca_pem(h->identity), .bearer = token};
    const struct http_ask ask = {.method = method,
                                 .path = path,
                                 .content_type = body ? "application/json" : NULL,
                                 .body = body,
                                 .body_len = body ? strlen(body) : 0,
                                 .headers = headers};
    struct diag d = {0};
    http_reply_done(&h->reply);
    h->reply = (struct http_reply){0};
    json_decref(h->json);
    h->json = NULL;
    if (http_fetch(&cfg, &ask, &h->reply, &d))
        fail_msg("%s %s: %s", method, path, diag_text(&d));
    h->json = json_loadb(buf_text(&h->reply.body), h->reply.body.len, 0, NULL);
    return h->reply.status;
}

int bench_call(struct bench *h, const char *method, const char *path, const char *body)
{
    return bench_call_as(h, h->admin, method, path, body, NULL);
}

const char *bench_text(struct bench *h, const char *member)
{
    return json_string_value(json_object_get(h->json, member));
}

size_t bench_items(struct bench *h)
{
    return json_array_size(json_object_get(h->json, "items"));
}

const char *bench_item_text(struct bench *h, size_t n, const char *member)
{
    json_t *item = json_array_get(json_object_get(h->json, "items"), n);
    return json_string_value(json_object_get(item, member));
}

char *bench_token(struct bench *h, const char *body)
{
    if (bench_call(h, "POST", "/api/v1/tokens", body) != 201)
        fail_msg("%s", buf_text(&h->reply.body));
    return mem_strdup(bench_text(h, "token"));
}

/* ---- agents ---- */

int bench_enroll_as(struct bench *h, const char *token, const char *name, bool force,
                    struct agent_identity *ret, struct diag *d)
{
    struct secret secret = {0};
    secret_set(&secret, token, strlen(token));
    const struct agent_enroll_options options = {
        .hub = h->url, .dir = h->agent_dir, .token = &secret, .name = name, .force = force};
    int err = agent_enroll(&options, ret, d);
    secret_done(&secret);
    return err;
}

void bench_enroll(struct bench *h, const char *token_body, struct agent_identity *ret)
{
    struct diag d = {0};
    CLEANUP(mem_free) char *token = bench_token(h, token_body);
    if (bench_enroll_as(h, token, "plc", true, ret, &d))
        fail_msg("%s", diag_text(&d));
}

struct act {
    struct bench *h;
    const char *agent;
    bool is_revocation;
    struct identity_caller by;
    int result;
    sem_t ready;
};

static void acted(void *arg, const struct diag *result)
{
    struct act *a = arg;
    a->result = result->code;
    sem_post(&a->ready);
}

static void start_act(void *arg)
{
    struct act *a = arg;
    CLEANUP(mem_free) char *bearer = mem_printf("Bearer %s", a->h->admin);
    struct addr peer;
    addr_parse("192.0.2.9", 1, &peer);
    assert_int_equal(identity_authenticate(a->h->identity, bearer, &peer, &a->by, NULL), 0);
    if (a->is_revocation)
        identity_agent_revoke(a->h->identity, &a->by, a->agent, 0, acted, a);
    else
        identity_agent_approve(a->h->identity, &a->by, a->agent, 0, acted, a);
}

int bench_act_on(struct bench *h, const char *agent, bool is_revocation)
{
    struct act a = {.h = h, .agent = agent, .is_revocation = is_revocation};
    sem_init(&a.ready, 0, 0);
    loop_post(h->loop, start_act, &a);
    sem_wait(&a.ready);
    sem_destroy(&a.ready);
    return a.result;
}
