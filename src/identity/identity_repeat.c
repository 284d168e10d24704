/*
 * Idempotency-Key: a POST that is repeated gets the first answer again and acts once.
 *
 *   before: reserve (token, key) in the database ---- fresh ----> handler ----> after: keep the
 * answer
 *                        |
 *                        +-- known: answer from storage; 422 when it was another request; 409 when
 *                            the first one has not been answered (yet, or the hub died in between)
 *
 * Answers may hold secrets (the text of a new token), so they are stored sealed with a key that is
 * derived from the caller's own token, of which the database has only the hash.
 */
#include "identity/internal.h"

#include "base/mem.h"
#include "pki/seal.h"

#include <string.h>

#define KEY_MAX    64
#define ANSWER_MAX ((size_t)256 << 10)

struct repeat {
    struct identity *i;
    struct http_request *req;
    char token[ID_SIZE];
    char key[KEY_MAX + 1];
    uint8_t hash[32];
    uint8_t seal_key[SEAL_KEY_SIZE];
    int64_t now_ms;
    bool trims;
    int found; /* 1: used before */
    struct stored_answer answer;
};

static void repeat_free(struct repeat *r)
{
    buf_done(&r->answer.body);
    explicit_bzero(r->seal_key, sizeof(r->seal_key));
    mem_free(r);
}

static bool key_is_valid(const char *key)
{
    size_t len = strlen(key);
    for (size_t n = 0; n < len; n++) {
        if (key[n] <= ' ' || key[n] > '~')
            return false;
    }
    return len >= 1 && len <= KEY_MAX;
}

static void hash_request(struct http_request *req, uint8_t out[32])
{
    struct buf text = {0};
    size_t len;
    const void *body = http_body(req, &len);
    buf_printf(&text, "%s %s?%s\n", http_method(req), http_path(req), http_query_text(req));
    buf_append(&text, body, len);
    sha256(text.data, text.len, out);
    buf_done(&text);
}

static int reserve_work(struct tx *tx, void *arg)
{
    struct repeat *r = arg;
    if (r->trims)
        TRY(idempotency_trim(tx, r->token, REPEATS_MAX));
    r->found = TRY(idempotency_reserve(tx, r->token, r->key, r->hash, r->now_ms, &r->answer));
    return 0;
}

static void answer_again(struct repeat *r)
{
    struct buf body = {0};
    struct diag d = {0};
    if (memcmp(r->answer.hash, r->hash, sizeof(r->hash)) != 0) {
        diag_set_field(&d, ERR_CONFLICT, "Idempotency-Key",
                       "the key was used for another request; take a new one");
        http_respond_problem(r->req, 422, &d);
    } else if (!r->answer.status) {
        diag_set_field(&d, ERR_CONFLICT, "Idempotency-Key",
                       "the first request with this key has not been answered; if that was long "
                       "ago the hub was interrupted: look whether it took effect, then use a new "
                       "key");
        http_respond_diag(r->req, &d);
    } else if (unseal(r->seal_key, r->answer.body.data, r->answer.body.len, &body)) {
        http_respond_error(r->req, ERR_BUG, "the stored answer cannot be read");
    } else {
        http_add_header(r->req, "Idempotency-Replayed", "true");
        http_respond(r->req, (int)r->answer.status, body.len ? "application/json" : NULL, body.data,
                     body.len);
    }
    if (body.data)
        explicit_bzero(body.data, body.cap);
    buf_done(&body);
}

static int keep_work(struct tx *tx, void *arg)
{
    struct repeat *r = arg;
    if (!r->answer.status)
        return idempotency_forget(tx, r->token, r->key);
    return idempotency_store(tx, r->token, r->key, (int)r->answer.status, r->answer.body.data,
                             r->answer.body.len);
}

/* The answer goes out only now: what a client has seen survives a crash. */
static void keep_done(void *arg, int err)
{
    struct repeat *r = arg;
    if (err)
        LOG_WARN("cannot keep the answer of a repeatable request", LOG_ERR(err));
    if (r->req)
        http_request_release(r->req);
    repeat_free(r);
}

/* Keeps the answer, or forgets the key where there is none. */
static void keep(struct repeat *r)
{
    store_run(r->i->cfg.store, STORE_WRITE, keep_work, keep_done, r);
}

static void reserve_done(void *arg, int err)
{
    struct repeat *r = arg;
    struct diag d = {0};
    if (!err && !r->found && http_request_is_gone(r->req)) {
        /* Nothing is done for a client that left; when it comes back it may use the key again. */
        http_set_hook_data(r->req, NULL);
        http_request_continue(TAKE(r->req), &d);
        keep(r);
        return;
    }
    if (err || !r->found) {
        if (err) {
            diag_set(&d, err, "the request cannot be recorded: %s", error_text(err));
            http_set_hook_data(r->req, NULL);
        }
        http_request_continue(r->req, &d);
        if (err)
            repeat_free(r);
        return;
    }
    http_set_hook_data(r->req, NULL);
    answer_again(r);
    repeat_free(r);
}

int repeat_before(struct http_request *req, struct diag *d, void *identity)
{
    const char *key = http_header(req, "idempotency-key");
    const struct identity_caller *by = identity_caller(req);
    if (!key || !by || strcmp(http_method(req), "POST") != 0)
        return 0;
    if (!key_is_valid(key))
        return diag_set_field(d, ERR_INVALID, "Idempotency-Key",
                              "the key has 1 to %d printable characters", KEY_MAX);
    struct repeat *r = NEW(struct repeat);
    r->i = identity;
    r->req = req;
    memcpy(r->token, by->token, sizeof(r->token));
    memcpy(r->seal_key, by->seal_key, sizeof(r->seal_key));
    memcpy(r->key, key, strlen(key));
    r->now_ms = identity_now(r->i);
    r->trims = view_count_repeat(r->i, r->token);
    hash_request(req, r->hash);
    http_set_hook_data(req, r);
    store_run(r->i->cfg.store, STORE_WRITE, reserve_work, reserve_done, r);
    return HTTP_LATER;
}

/* A refusal for the moment (too busy, no space) is not an answer: the client should try again. */
static bool is_final(int status)
{
    return status < 500 && status != 429;
}

/* Whether nobody knows if it took effect. */
static bool is_in_doubt(int status, const void *body, size_t len)
{
    json_t *problem = status == 503 ? json_loadb(body, len, 0, NULL) : NULL;
    const char *type = json_string_value(json_object_get(problem, "type"));
    bool is = type && strcmp(type, "urn:warren:error:in_doubt") == 0;
    json_decref(problem);
    return is;
}

int repeat_after(struct http_request *req, int status, const void *body, size_t len, void *identity)
{
    struct repeat *r = http_hook_data(req);
    if (!r)
        return 0;
    http_set_hook_data(req, NULL);
    if (is_in_doubt(status, body, len)) { /* the key stays taken: 409 tells to look */
        repeat_free(r);
        return 0;
    }
    if (is_final(status) && len <= ANSWER_MAX && seal(r->seal_key, body, len, &r->answer.body) == 0)
        r->answer.status = status;
    keep(r);
    return HTTP_LATER;
}
