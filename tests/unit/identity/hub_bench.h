/*
 * A hub's identity over real TLS: store, REST, both lanes, on a thread of its own. Agents and users
 * are blocking clients on the test's thread; one call at a time.
 */
#pragma once

#include "http/client.h"
#include "http/rest.h"
#include "identity/agent.h"
#include "identity/identity.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define HOUR INT64_C(3600000)

struct server;
struct tls_server;

struct bench {
    char dir[64];
    char agent_dir[80];
    struct loop *loop;
    struct store *store;
    struct identity *identity;
    struct http_server *rest, *renew;
    struct tls_server *tls;
    struct server *server;
    int fd;
    pthread_t thread;
    char url[64];
    char admin[128]; /* the administrator's token */
    _Atomic int revoked;
    struct http_reply reply; /* of the last call */
    json_t *json;            /* its body */
};

int bench_setup(void **state);
int bench_teardown(void **state);
void bench_start(struct bench *h);
void bench_stop(struct bench *h);

/* Does something on the hub's thread and waits for it. */
void bench_on_hub(struct bench *h, void (*fn)(struct bench *h, const void *arg), const void *arg);

/* A REST call; the status. The answer stays in `reply` and `json` until the next one. */
int bench_call_as(struct bench *h, const char *token, const char *method, const char *path,
                  const char *body, const struct http_header *headers);
int bench_call(struct bench *h, const char *method, const char *path, const char *body);
const char *bench_text(struct bench *h, const char *member);
size_t bench_items(struct bench *h);
const char *bench_item_text(struct bench *h, size_t n, const char *member);

/* Makes a token; its text, to be freed. */
char *bench_token(struct bench *h, const char *body);

int bench_enroll_as(struct bench *h, const char *token, const char *name, bool force,
                    struct agent_identity *ret, struct diag *d);
void bench_enroll(struct bench *h, const char *token_body, struct agent_identity *ret);

/* Revokes or approves as the administrator. */
int bench_act_on(struct bench *h, const char *agent, bool is_revocation);
