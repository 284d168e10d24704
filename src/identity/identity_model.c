#include "identity/identity_model.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/text.h"
#include "http/rest.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char *const kind_names[] = {[TOKEN_BOOTSTRAP] = "bootstrap", [TOKEN_API] = "api"};
static const char *const role_names[] = {
    [IDENTITY_OPERATOR] = "operator", [IDENTITY_ADMIN] = "admin"};
static_assert(ARRAY_SIZE(role_names) == IDENTITY_ROLE_COUNT, "a name for each role");
static const char *const outcome_names[] = {
    [AUDIT_OK] = "ok", [AUDIT_DENIED] = "denied", [AUDIT_FAILED] = "failed"};
static_assert(ARRAY_SIZE(outcome_names) == AUDIT_OUTCOME_COUNT, "a name for each outcome");

const char *audit_outcome_name(enum audit_outcome outcome)
{
    return outcome_names[outcome];
}

/* ---- asking for a token ---- */

static int parse_choice(json_t *body, const char *member, const char *const *names, int n, int *ret,
                        struct diag *d)
{
    const char *text = NULL;
    TRY(rest_text(body, member, false, &text, d));
    if (!text)
        return 0;
    for (int i = 0; i < n; i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret = i;
            return 0;
        }
    }
    return diag_set_field(d, ERR_INVALID, member, "\"%.40s\" is not one of %s, %s", text, names[0],
                          names[1]);
}

/* An id or a name. */
static int parse_ref(json_t *body, const char *member, const char *prefix,
                     char ret[IDENTITY_NAME_SIZE], struct diag *d)
{
    const char *text = NULL;
    TRY(rest_text(body, member, false, &text, d));
    if (!text)
        return 0;
    if (!text_is_name(text) && !id_is(text, prefix))
        return diag_set_field(d, ERR_INVALID, member,
                              "\"%.70s\" is neither a name (a-z, 0-9, '-') nor an id", text);
    snprintf(ret, IDENTITY_NAME_SIZE, "%s", text);
    return 0;
}

static int check_members(json_t *body, enum token_kind kind, struct diag *d)
{
    static const char *const all[] = {"kind", "name", "tenant", "network",
                                      "role", "uses", "ttl",    NULL};
    static const char *const not_for_api[] = {"network", "uses"};
    TRY(rest_only(body, "", all, d));
    if (kind == TOKEN_BOOTSTRAP && json_is_string(json_object_get(body, "role")))
        return diag_set_field(d, ERR_INVALID, "role", "a bootstrap token has no role");
    for (size_t i = 0; kind == TOKEN_API && i < ARRAY_SIZE(not_for_api); i++) {
        json_t *member = json_object_get(body, not_for_api[i]);
        if (member && !json_is_null(member))
            return diag_set_field(d, ERR_INVALID, not_for_api[i], "an API token has no %s",
                                  not_for_api[i]);
    }
    return 0;
}

int token_request_parse(json_t *body, struct token_request *ret, struct diag *d)
{
    struct token_request r = {.uses_limit = 1};
    int kind = TOKEN_BOOTSTRAP, role = IDENTITY_OPERATOR;
    const char *name = NULL;
    TRY(parse_choice(body, "kind", kind_names, ARRAY_SIZE(kind_names), &kind, d));
    TRY(parse_choice(body, "role", role_names, ARRAY_SIZE(role_names), &role, d));
    r.kind = (enum token_kind)kind;
    r.role = (enum identity_role)role;
    TRY(check_members(body, r.kind, d));
    TRY(rest_name(body, "name", false, &name, d));
    snprintf(r.name, sizeof(r.name), "%s", name ? name : "");
    TRY(parse_ref(body, "tenant", "ten", r.tenant, d));
    TRY(parse_ref(body, "network", "net", r.network, d));

    r.uses_limit = kind == TOKEN_API || rest_is_null(body, "uses") ? 0 : 1;
    TRY(rest_int(body, "uses", 1, TOKEN_USES_MAX, false, &r.uses_limit, d));
    r.ttl_ms = kind == TOKEN_API || rest_is_null(body, "ttl") ? 0 : TOKEN_TTL_DEFAULT_MS;
    TRY(rest_duration_ms(body, "ttl", false, &r.ttl_ms, d));
    json_t *ttl = json_object_get(body, "ttl");
    if (json_is_string(ttl) && (r.ttl_ms < 1000 || r.ttl_ms > TOKEN_TTL_MAX_MS))
        return diag_set_field(d, ERR_INVALID, "ttl", "a token lives from 1s to 3660d");
    *ret = r;
    return 0;
}

int token_request_check(const struct token_request *r, const struct identity_caller *by,
                        const char *tenant, struct diag *d)
{
    bool is_own = strcmp(tenant, by->tenant) == 0;
    if (!is_own && by->role != IDENTITY_ADMIN)
        return diag_set_field(d, ERR_DENIED, "tenant",
                              "only an administrator makes tokens of other tenants");
    if (r->kind == TOKEN_API && r->role == IDENTITY_ADMIN &&
        (by->role != IDENTITY_ADMIN || !is_own))
        return diag_set_field(d, ERR_DENIED, "role",
                              "only an administrator makes tokens with role admin, and in its own "
                              "tenant");
    return 0;
}

/* ---- verdicts ---- */

int token_check(const struct token_record *t, int64_t now_ms, struct diag *d)
{
    if (t->revoked)
        return diag_set(d, ERR_REVOKED, "the token was revoked");
    if (t->expires && t->expires <= now_ms)
        return diag_set(d, ERR_EXPIRED, "the token has expired; ask for a new one");
    if (t->uses_limit && t->uses >= t->uses_limit)
        return diag_set(d, ERR_DENIED,
                        "the token is used up (%lld of %lld uses); ask for a new one",
                        (long long)t->uses, (long long)t->uses_limit);
    return 0;
}

int renewal_judge(const struct renewal *r, const struct identity_policy *policy, int64_t now_ms,
                  struct diag *d)
{
    if (r->agent_is_revoked)
        return diag_set(d, ERR_REVOKED, "the agent was revoked");
    if (r->token_is_revoked)
        return diag_set(d, ERR_REVOKED, "the token that admitted the agent was revoked");
    if (r->not_after > now_ms)
        return 0;
    if (!r->is_newest)
        return diag_set(d, ERR_STALE,
                        "the certificate has expired and is not the newest one of the agent; "
                        "enrol it again");
    switch (policy->late_renewal) {
    case IDENTITY_LATE_GRACE:
        if (now_ms - r->not_after <= policy->late_grace_ms)
            return 0;
        return diag_set(d, ERR_EXPIRED,
                        "the certificate expired longer ago than late renewal allows; enrol the "
                        "agent again");
    case IDENTITY_LATE_APPROVE:
        return r->is_approved ? 0 : RENEWAL_PENDING;
    default:
        return diag_set(d, ERR_EXPIRED,
                        "the certificate has expired and late renewal is not allowed; enrol the "
                        "agent again");
    }
}

/* ---- names ---- */

void agent_pick_name(const char *wanted, const char *id, char ret[IDENTITY_NAME_SIZE])
{
    if (wanted && text_is_name(wanted))
        snprintf(ret, IDENTITY_NAME_SIZE, "%s", wanted);
    else
        snprintf(ret, IDENTITY_NAME_SIZE, "agent-%.8s", id + strlen("agt_"));
}

void agent_pick_other_name(const char *id, char name[IDENTITY_NAME_SIZE])
{
    char base[IDENTITY_NAME_SIZE];
    snprintf(base, sizeof(base), "%s", name);
    snprintf(name, IDENTITY_NAME_SIZE, "%.50s-%.8s", base, id + strlen("agt_"));
}

/* ---- JSON ---- */

static json_t *text_or_null(const char *s)
{
    return *s ? json_string(s) : json_null();
}

json_t *tenant_json(const struct tenant_record *t)
{
    return json_pack("{s:s, s:s, s:I, s:o, s:o}", "id", t->id, "name", t->name, "version",
                     (json_int_t)t->version, "limits", limits_json(&t->limits), "created",
                     rest_time(t->created));
}

json_t *token_json(const struct token_record *t)
{
    return json_pack("{s:s, s:o, s:I, s:s, s:s, s:o, s:o, s:{s:o, s:I}, s:o, s:o, s:o}", "id",
                     t->id, "name", text_or_null(t->name), "version", (json_int_t)t->version,
                     "kind", kind_names[t->kind], "tenant", t->tenant, "network",
                     text_or_null(t->network), "role",
                     t->kind == TOKEN_API ? json_string(role_names[t->role]) : json_null(), "uses",
                     "limit", t->uses_limit ? json_integer(t->uses_limit) : json_null(), "count",
                     (json_int_t)t->uses, "created", rest_time(t->created), "expires",
                     rest_time(t->expires), "revoked", rest_time(t->revoked));
}

/* ---- credentials ---- */

static const char *after_scheme(const char *authorization, const char *scheme)
{
    size_t n = strlen(scheme);
    if (!authorization || strncasecmp(authorization, scheme, n) != 0 || authorization[n] != ' ')
        return NULL;
    authorization += n;
    while (*authorization == ' ')
        authorization++;
    return authorization;
}

int basic_parse(const char *authorization, char user[IDENTITY_NAME_SIZE], struct secret *password)
{
    const char *text = after_scheme(authorization, "Basic");
    size_t len = BASIC_MAX;
    char plain[BASIC_MAX + 1];
    if (!text || strlen(text) >= BASE64_SIZE(BASIC_MAX) ||
        text_unbase64(text, strlen(text), plain, &len))
        return ERR_INVALID;
    plain[len] = '\0';
    char *colon = strchr(plain, ':');
    if (colon) {
        /* Too long for a name: as good as none. */
        size_t n = (size_t)(colon - plain);
        snprintf(user, IDENTITY_NAME_SIZE, "%s", "");
        if (n < IDENTITY_NAME_SIZE) {
            memcpy(user, plain, n);
            user[n] = '\0';
        }
        secret_set(password, colon + 1, len - n - 1);
    }
    explicit_bzero(plain, sizeof(plain));
    return colon ? 0 : ERR_INVALID;
}

int bearer_parse(const char *authorization, struct token *ret)
{
    const char *text = after_scheme(authorization, "Bearer");
    struct token t;
    if (!text || token_parse(text, strlen(text), &t))
        return ERR_INVALID;
    if (t.kind == TOKEN_API)
        *ret = t;
    int err = t.kind == TOKEN_API ? 0 : ERR_INVALID;
    token_done(&t);
    return err;
}
