/* Enrolment with a bootstrap token, as `warren-agent enroll` does it (RFC 7030). */
#include "swarm.h"

#include "base/buf.h"
#include "base/diag.h"
#include "base/file.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "http/client.h"
#include "pki/cert.h"
#include "pki/csr.h"
#include "pki/pkey.h"

#include <stdio.h>
#include <string.h>

#define PARALLEL  32 /* under way at a time */
#define CERTS_MAX 4
#define TOKEN_MAX 4096

struct enrolment {
    struct swarm *swarm;
    int number;
    EVP_PKEY *key;
};

static void enrol_next(struct swarm *s);

static void keep(const struct enrolment *e, X509 *cert)
{
    if (identity_der_make(e->key, cert, &e->swarm->enrolled_as[e->number]) < 0)
        swarm_fail("the certificate is too large", NULL);
}

static void on_enrolled(void *arg, struct http_reply *reply, const struct diag *why)
{
    CLEANUP(mem_free) struct enrolment *e = arg;
    struct swarm *s = e->swarm;
    struct diag d = {0};
    X509 *certs[CERTS_MAX];
    size_t n = 0;
    if (!reply)
        swarm_fail("enrolment", why);
    if (reply->status != 200) {
        http_reply_diag(reply, &d);
        swarm_fail("enrolment", &d);
    }
    if (cert_from_pkcs7(buf_text(&reply->body), reply->body.len, certs, CERTS_MAX, &n) < 0 || !n)
        swarm_fail("the certificate cannot be read", NULL);
    keep(e, certs[0]);
    for (size_t i = 0; i < n; i++)
        cert_free(certs[i]);
    pkey_free(e->key);
    if (++s->enrolled < s->size) {
        enrol_next(s);
        return;
    }
    swarm_report("enrolled", s->enrolled);
    swarm_connect(s);
}

static void enrol_next(struct swarm *s)
{
    char name[32];
    struct buf csr = {0};
    if (s->started == s->size)
        return;
    struct enrolment *e = NEW(struct enrolment);
    e->swarm = s;
    e->number = s->started++;
    snprintf(name, sizeof(name), "swarm-%d", s->first + e->number);
    if (pkey_new(&e->key) < 0 || csr_make(e->key, name, &csr) < 0)
        swarm_fail("key", NULL);
    struct http_header headers[] = {{"Authorization", s->authorization}, {NULL, NULL}};
    struct http_ask ask = {.method = "POST",
                           .path = "/.well-known/est/simpleenroll",
                           .content_type = "application/pkcs10",
                           .body = csr.data,
                           .body_len = csr.len,
                           .headers = headers};
    static const struct http_exchange_ops ops = {.done = on_enrolled};
    http_client_start(s->http, &ask, &ops, e);
    buf_done(&csr);
}

/* RFC 7617; the user name is not looked at. */
static char *basic_authorization(const char *token_file)
{
    struct buf token = {0}, header = {0};
    struct diag d = {0};
    if (file_read(token_file, TOKEN_MAX, false, &token, &d) < 0)
        swarm_fail(token_file, &d);
    char plain[TOKEN_MAX + 8], encoded[BASE64_SIZE(sizeof(plain))];
    int len = snprintf(plain, sizeof(plain), "agent:%.*s", (int)strcspn(buf_text(&token), "\r\n"),
                       buf_text(&token));
    text_base64(plain, (size_t)len, encoded, sizeof(encoded));
    buf_printf(&header, "Basic %s", encoded);
    buf_done(&token);
    return buf_take(&header);
}

void swarm_enrol(struct swarm *s, const char *hub_url, const char *token_file)
{
    struct diag d = {0};
    struct http_client_config http = {.base_url = hub_url, .ca_pem = s->ca_pem};
    if (http_client_new(s->loop, &http, &s->http, &d) < 0)
        swarm_fail("start", &d);
    s->authorization = basic_authorization(token_file);
    s->enrolled_as = mem_new((size_t)s->size * sizeof(*s->enrolled_as));
    for (int i = 0; i < s->size; i++)
        s->members[i].identity = &s->enrolled_as[i];
    for (int i = 0; i < PARALLEL; i++)
        enrol_next(s);
}
