#include "cli/context_ca.h"

#include "base/error.h"
#include "base/mem.h"
#include "cli/contexts.h"
#include "identity/identity.h"

#include <string.h>

int context_ca_read(const struct http_reply *reply, struct roots *ret, struct diag *d)
{
    X509 *certs[2 * ROOTS_MAX];
    char domain[TRUST_DOMAIN_SIZE];
    size_t n = 0;
    int rc = reply->status == 200 ? cert_from_pkcs7(buf_text(&reply->body), reply->body.len, certs,
                                                    ARRAY_SIZE(certs), &n)
                                  : ERR_PROTO;
    if (rc == 0)
        rc = cert_trust_domain(certs[0], domain);
    for (size_t i = 0; i < n; i++) {
        if (rc == 0 && roots_is_root(certs[i], domain))
            rc = roots_add(ret, cert_ref(certs[i]));
        cert_free(certs[i]);
    }
    if (rc == 0 && ret->n)
        return 0;
    roots_done(ret);
    return diag_set(d, ERR_PROTO, "it does not answer as a Warren hub does");
}

/* Whether all of them are of hubs whose roots are these. */
static bool are_a_hubs(const struct roots *old, const struct roots *now)
{
    char domain[TRUST_DOMAIN_SIZE];
    if (cert_trust_domain(now->certs[0], domain) < 0)
        return false;
    for (size_t i = 0; i < old->n; i++) {
        if (!roots_is_root(old->certs[i], domain))
            return false;
    }
    return true;
}

static int fetch(const struct http_client_config *http, struct roots *ret)
{
    struct http_reply reply = {0};
    struct diag d = {0};
    int rc = http_fetch(http, &(struct http_ask){.path = "/.well-known/est/cacerts"}, &reply, &d);
    if (rc == 0)
        rc = context_ca_read(&reply, ret, &d);
    http_reply_done(&reply);
    return rc;
}

/* Unless somebody logged in anew meanwhile. */
static int keep(const char *name, const char *before, const char *pem)
{
    struct contexts all = {0};
    struct context context;
    struct diag d = {0};
    TRY(contexts_load(&all, &d));
    int rc = contexts_get(&all, name, &context, &d);
    if (rc == 0 && context.ca && strcmp(context.ca, before) == 0) {
        contexts_put(&all, &(struct context){name, context.hub, context.token, pem});
        rc = contexts_save(&all, &d);
    }
    contexts_done(&all);
    return rc;
}

char *context_ca_renew(const char *context, const struct http_client_config *http,
                       const struct http_reply *reply)
{
    const char *told = http_reply_header(reply, IDENTITY_ROOTS_HEADER), *pem = http->ca_pem;
    CLEANUP(roots_done) struct roots old = {0}, now = {0};
    CLEANUP(buf_done) struct buf text = {0};
    char digest[ROOTS_TEXT_SIZE];
    if (!told || roots_from_pem(pem, strlen(pem), &old) < 0)
        return NULL;
    roots_digest_text(roots_digest(&old), digest);
    if (strcmp(told, digest) == 0 || fetch(http, &now) < 0 || !are_a_hubs(&old, &now) ||
        roots_to_pem(&now, &text) < 0 || keep(context, pem, buf_text(&text)) < 0)
        return NULL;
    return buf_take(&text);
}
