#include "pki/spiffe.h"

#include "base/error.h"
#include "base/macro.h"

#include <stdio.h>
#include <string.h>

bool trust_domain_is_valid(const char *s)
{
    size_t len = strlen(s);
    return len >= 1 && len < TRUST_DOMAIN_SIZE &&
           strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") == len;
}

/* Takes the text up to `end` (a '/' or the end of the string) out of *s. */
static int take_segment(const char **s, char *out, size_t size)
{
    size_t len = strcspn(*s, "/");
    if (len >= size)
        return ERR_INVALID;
    memcpy(out, *s, len);
    out[len] = '\0';
    *s += len;
    return 0;
}

static int take_text(const char **s, const char *text)
{
    size_t len = strlen(text);
    if (strncmp(*s, text, len) != 0)
        return ERR_INVALID;
    *s += len;
    return 0;
}

/* A copy that ends with NUL. */
static int copy_text(const char *text, size_t len, char out[SPIFFE_SIZE])
{
    if (len >= SPIFFE_SIZE || memchr(text, '\0', len))
        return ERR_INVALID;
    memcpy(out, text, len);
    out[len] = '\0';
    return 0;
}

int spiffe_parse(const char *text, size_t len, struct spiffe *ret)
{
    char copy[SPIFFE_SIZE];
    const char *s = copy;
    struct spiffe id;
    TRY(copy_text(text, len, copy));
    if (take_text(&s, "spiffe://") || take_segment(&s, id.trust_domain, sizeof(id.trust_domain)) ||
        take_text(&s, "/tenant/") || take_segment(&s, id.tenant, sizeof(id.tenant)) ||
        take_text(&s, "/agent/") || take_segment(&s, id.agent, sizeof(id.agent)) || *s)
        return ERR_INVALID;
    if (!trust_domain_is_valid(id.trust_domain) || !id_is(id.tenant, "ten") ||
        !id_is(id.agent, "agt"))
        return ERR_INVALID;
    *ret = id;
    return 0;
}

void spiffe_format(const struct spiffe *id, char out[SPIFFE_SIZE])
{
    snprintf(out, SPIFFE_SIZE, "spiffe://%s/tenant/%s/agent/%s", id->trust_domain, id->tenant,
             id->agent);
}

int spiffe_hub_parse(const char *text, size_t len, struct spiffe_hub *ret)
{
    char copy[SPIFFE_SIZE];
    const char *s = copy;
    struct spiffe_hub id;
    TRY(copy_text(text, len, copy));
    if (take_text(&s, "spiffe://") || take_segment(&s, id.trust_domain, sizeof(id.trust_domain)) ||
        take_text(&s, "/hub/") || take_segment(&s, id.hub, sizeof(id.hub)) || *s)
        return ERR_INVALID;
    if (!trust_domain_is_valid(id.trust_domain) || !id_is(id.hub, "hub"))
        return ERR_INVALID;
    *ret = id;
    return 0;
}

void spiffe_hub_format(const struct spiffe_hub *id, char out[SPIFFE_SIZE])
{
    snprintf(out, SPIFFE_SIZE, "spiffe://%s/hub/%s", id->trust_domain, id->hub);
}
