/*
 * Keeps the agent's certificate fresh.
 *
 *   WAITING --- due, or hurried ---> ASKING --- certificate ---> WAITING (for the next one)
 *      ^                               |
 *      +---- back-off <--- failure ----+
 *
 * The lane "warren-renew/1" tolerates that our certificate has ended, so there is one way to renew,
 * late or not. The key stays the same. The wait is cut in pieces, because the wall clock that the
 * certificate is about may jump (suspend, NTP) while the loop's does not.
 */
#include "identity/agent.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/time.h"
#include "http/client.h"
#include "pki/csr.h"

#include <string.h>

#define RENEW_ALPN      "warren-renew/1"
#define PIECE_MS        (10 * 60 * 1000)
#define BACKOFF_MIN_MS  1000
#define BACKOFF_MAX_MS  (5 * 60 * 1000)
#define RETRY_AFTER_MAX 3600
#define REPLY_MAX       ((size_t)64 << 10)

struct agent_renewal {
    struct agent_renewal_config cfg;
    struct timer timer;
    struct http_client *client; /* of the last attempt */
    bool is_asking;
    unsigned failures; /* in a row */
    int64_t due_ms;    /* wall clock */
    char *key_path, *cert_path;
};

static double random_fraction(void)
{
    uint32_t n;
    random_bytes(&n, sizeof(n));
    return (double)n / (double)UINT32_MAX;
}

int64_t agent_renewal_due(const struct agent_identity *a, double jitter)
{
    int64_t life = a->not_after_ms - a->obtained_ms;
    return a->obtained_ms + life / 3 * 2 - (int64_t)((double)life * 0.05 * jitter);
}

static int64_t clamp(int64_t n, int64_t least, int64_t most)
{
    return n < least ? least : n > most ? most : n;
}

static void schedule(struct agent_renewal *r)
{
    int64_t wait = r->due_ms - r->cfg.now_ms();
    timer_start(&r->timer, (uint64_t)clamp(wait, 0, PIECE_MS));
}

/* Never more than a tenth of the certificate's life, so that short-lived ones are renewed in time.
 */
static int64_t backoff_ms(const struct agent_renewal *r)
{
    int64_t life = r->cfg.agent->not_after_ms - r->cfg.agent->obtained_ms;
    int64_t most = clamp(life / 10, BACKOFF_MIN_MS, BACKOFF_MAX_MS);
    int64_t wait = clamp((int64_t)BACKOFF_MIN_MS << (r->failures < 12 ? r->failures : 12), 0, most);
    return wait / 2 + (int64_t)((double)wait * 0.5 * random_fraction());
}

static void fail(struct agent_renewal *r, const struct diag *why, int64_t wait_ms)
{
    r->failures++;
    r->due_ms = r->cfg.now_ms() + MAX(wait_ms, backoff_ms(r));
    schedule(r);
    if (r->cfg.on_failed)
        r->cfg.on_failed(r->cfg.arg, why);
}

static int64_t retry_after_ms(const struct http_reply *reply)
{
    const char *text = http_reply_header(reply, "retry-after");
    uint64_t seconds = 0;
    if (text)
        text_to_u64(text, RETRY_AFTER_MAX, &seconds);
    return (int64_t)seconds * 1000;
}

static void succeed(struct agent_renewal *r)
{
    r->failures = 0;
    r->due_ms = agent_renewal_due(r->cfg.agent, random_fraction());
    schedule(r);
    r->cfg.on_renewed(r->cfg.arg);
}

static void answered(void *arg, struct http_reply *reply, const struct diag *d)
{
    struct agent_renewal *r = arg;
    struct diag why = d ? *d : (struct diag){0};
    r->is_asking = false;
    if (!reply) {
        fail(r, &why, 0);
        return;
    }
    if (reply->status == 202) {
        diag_set(&why, ERR_UNAVAILABLE,
                 "the certificate had expired; the hub waits for an operator's approval");
    } else if (reply->status != 200) {
        if (!http_reply_diag(reply, &why))
            diag_set(&why, ERR_PROTO, "the hub answered with status %d", reply->status);
    } else if (!agent_identity_renewed(r->cfg.dir, r->cfg.agent, buf_text(&reply->body),
                                       reply->body.len, r->cfg.now_ms(), &why)) {
        succeed(r);
        return;
    }
    fail(r, &why, retry_after_ms(reply));
}

static int make_client(struct agent_renewal *r, struct diag *d)
{
    const struct agent_identity *a = r->cfg.agent;
    const struct http_client_config cfg = {.base_url = a->hubs[r->failures % a->n_hubs],
                                           .ca_pem = a->ca_pem,
                                           .cert_file = r->cert_path,
                                           .key_file = r->key_path,
                                           .alpn = RENEW_ALPN,
                                           .reply_max = REPLY_MAX};
    http_client_free(r->client);
    r->client = NULL;
    return http_client_new(r->cfg.loop, &cfg, &r->client, d);
}

static int ask(struct agent_renewal *r, struct diag *d)
{
    static const struct http_exchange_ops ops = {.done = answered};
    CLEANUP(pkey_free) EVP_PKEY *key = NULL;
    __attribute__((cleanup(buf_done_cleanup))) struct buf csr = {0};
    const struct secret *pem = &r->cfg.agent->key_pem;
    if (pkey_from_pem(pem->data, pem->len, &key) || csr_make(key, r->cfg.agent->id, &csr))
        return diag_set(d, ERR_INVALID, "the agent's key cannot be used");
    TRY(make_client(r, d));
    char roots[ROOTS_TEXT_SIZE];
    roots_digest_text(r->cfg.agent->roots_digest, roots);
    const struct http_header headers[] = {{AGENT_ROOTS_HEADER, roots}, {NULL, NULL}};
    const struct http_ask what = {.method = "POST",
                                  .path = "/.well-known/est/simplereenroll",
                                  .content_type = "application/pkcs10",
                                  .body = csr.data,
                                  .body_len = csr.len,
                                  .headers = headers};
    r->is_asking = true;
    http_client_start(r->client, &what, &ops, r);
    return 0;
}

static void on_timer(struct timer *t)
{
    struct agent_renewal *r = container_of(t, struct agent_renewal, timer);
    struct diag d = {0};
    if (r->is_asking)
        return;
    if (r->cfg.now_ms() < r->due_ms)
        schedule(r);
    else if (ask(r, &d))
        fail(r, &d, 0);
}

struct agent_renewal *agent_renewal_start(const struct agent_renewal_config *cfg)
{
    struct agent_renewal *r = NEW(struct agent_renewal);
    r->cfg = *cfg;
    if (!r->cfg.now_ms)
        r->cfg.now_ms = time_wall_ms;
    r->key_path = mem_printf("%s/key.pem", cfg->dir);
    r->cert_path = mem_printf("%s/cert.pem", cfg->dir);
    timer_init(&r->timer, cfg->loop, on_timer);
    r->due_ms = agent_renewal_due(cfg->agent, random_fraction());
    schedule(r);
    return r;
}

void agent_renewal_hurry(struct agent_renewal *r)
{
    if (r->is_asking || r->failures)
        return;
    r->due_ms = r->cfg.now_ms();
    schedule(r);
}

void agent_renewal_within(struct agent_renewal *r, uint32_t within_ms)
{
    int64_t at = r->cfg.now_ms() + (int64_t)((double)within_ms * random_fraction());
    if (r->is_asking || at >= r->due_ms)
        return;
    r->due_ms = at;
    schedule(r);
}

void agent_renewal_free(struct agent_renewal *r)
{
    if (!r)
        return;
    timer_stop(&r->timer);
    http_client_free(r->client);
    mem_free(r->key_path);
    mem_free(r->cert_path);
    mem_free(r);
}
