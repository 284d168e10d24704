/* What an enrolled agent keeps on disk. */
#include "identity/agent.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "pki/cert.h"
#include "pki/pkey.h"
#include "pki/spiffe.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_MAX ((size_t)64 << 10)

void agent_identity_done(struct agent_identity *a)
{
    for (size_t n = 0; n < a->n_hubs; n++)
        mem_free(a->hubs[n]);
    for (size_t n = 0; n < a->n_allow; n++)
        mem_free(a->allow[n]);
    mem_free(a->ca_pem);
    mem_free(a->cert_pem);
    secret_done(&a->key_pem);
    *a = (struct agent_identity){0};
}

bool agent_identity_is_expired(const struct agent_identity *a, int64_t now_ms)
{
    return a->not_after_ms <= now_ms;
}

int agent_hub_url(const char *text, char **ret, struct diag *d)
{
    static const char scheme[] = "https://";
    struct host_port hp;
    char where[HOST_SIZE + 16];
    const char *s = text;
    if (strncmp(s, scheme, strlen(scheme)) == 0)
        s += strlen(scheme);
    size_t len = strlen(s);
    if (len && s[len - 1] == '/')
        len--;
    CLEANUP(mem_free) char *host = mem_strndup(s, len);
    /* A colon after the brackets of an IPv6 literal, if it has any. */
    const char *bracket = strrchr(host, ']');
    bool has_port = strchr(bracket ? bracket : host, ':') != NULL;
    CLEANUP(mem_free) char *full = has_port ? mem_strdup(host) : mem_printf("%s:443", host);
    if (strstr(host, "://") || strchr(host, '/') || host_port_parse(full, false, &hp, NULL))
        return diag_set_field(d, ERR_INVALID, "hub",
                              "'%.100s' is not the URL of a hub, such as https://hub.example:8443",
                              text);
    host_port_format(&hp, where, sizeof(where));
    *ret = mem_printf("%s%s", scheme, where);
    return 0;
}

/* ---- agent.json ---- */

static json_t *texts_json(char *const *texts, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, json_string(texts[i]));
    return array;
}

int agent_identity_save(const char *dir, const struct agent_identity *a, struct diag *d)
{
    CLEANUP(mem_free) char *path = mem_printf("%s/agent.json", dir);
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:o, s:o}", "id", a->id, "tenant", a->tenant, "trust_domain",
                  a->trust_domain, "hubs", texts_json(a->hubs, a->n_hubs), "allow",
                  texts_json(a->allow, a->n_allow));
    char *text = json_dumps(object, JSON_INDENT(2));
    json_decref(object);
    if (!text)
        return diag_set(d, ERR_INVALID, "the agent's settings are not UTF-8 text");
    CLEANUP(mem_free) char *line = mem_printf("%s\n", text);
    free(text);
    return file_write_atomic(path, line, strlen(line), 0600, d);
}

static int take_text(const json_t *object, const char *member, char *out, size_t size)
{
    const char *text = json_string_value(json_object_get(object, member));
    if (!text || strlen(text) >= size)
        return ERR_INVALID;
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

static int take_texts(const json_t *object, const char *member, char **out, size_t max,
                      size_t *ret_n)
{
    const json_t *array = json_object_get(object, member);
    size_t n = json_array_size(array);
    if (!json_is_array(array) || n > max)
        return ERR_INVALID;
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(array, i));
        if (!text)
            return ERR_INVALID;
        out[(*ret_n)++] = mem_strdup(text);
    }
    return 0;
}

static int take_object(const json_t *object, struct agent_identity *a)
{
    TRY(take_text(object, "id", a->id, sizeof(a->id)));
    TRY(take_text(object, "tenant", a->tenant, sizeof(a->tenant)));
    TRY(take_text(object, "trust_domain", a->trust_domain, sizeof(a->trust_domain)));
    TRY(take_texts(object, "hubs", a->hubs, AGENT_HUBS_MAX, &a->n_hubs));
    TRY(take_texts(object, "allow", a->allow, AGENT_ALLOW_MAX, &a->n_allow));
    return a->n_hubs && id_is(a->id, "agt") ? 0 : ERR_INVALID;
}

static int load_json(const char *dir, struct agent_identity *a, struct diag *d)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf text = {0};
    CLEANUP(mem_free) char *path = mem_printf("%s/agent.json", dir);
    int err = file_read(path, FILE_MAX, false, &text, d);
    if (err == ERR_NOT_FOUND)
        return diag_set(d, err, "%s holds no enrolment; run: warren-agent enroll", dir);
    if (err)
        return err;
    json_t *object = json_loadb(buf_text(&text), text.len, 0, NULL);
    err = object ? take_object(object, a) : ERR_INVALID;
    json_decref(object);
    return err ? diag_set(d, err, "%s is damaged; enrol again with --force", path) : 0;
}

/* ---- key and certificates ---- */

static int load_text(const char *dir, const char *name, bool is_private, struct buf *ret,
                     struct diag *d)
{
    CLEANUP(mem_free) char *path = mem_printf("%s/%s", dir, name);
    return file_read(path, FILE_MAX, is_private, ret, d);
}

static int load_texts(const char *dir, struct agent_identity *a, struct diag *d)
{
    struct buf key = {0}, cert = {0}, ca = {0};
    int err = load_text(dir, "key.pem", true, &key, d);
    if (!err)
        err = load_text(dir, "cert.pem", false, &cert, d);
    if (!err)
        err = load_text(dir, "ca.pem", false, &ca, d);
    if (!err)
        secret_set(&a->key_pem, buf_text(&key), key.len);
    a->cert_pem = buf_take(&cert);
    a->ca_pem = buf_take(&ca);
    if (key.data)
        explicit_bzero(key.data, key.cap);
    buf_done(&key);
    return err;
}

static int read_roots(const struct agent_identity *a, struct roots *ret)
{
    return roots_from_pem(a->ca_pem, strlen(a->ca_pem), ret);
}

/* The leaf must be for our key, of our CA, and name the agent that `a` is. */
static int check_leaf(X509 *leaf, const struct agent_identity *a, struct diag *d)
{
    CLEANUP(roots_done) struct roots roots = {0};
    CLEANUP(pkey_free) EVP_PKEY *key = NULL;
    struct spiffe id;
    if (read_roots(a, &roots))
        return diag_set(d, ERR_INVALID, "ca.pem is damaged");
    if (pkey_from_pem(a->key_pem.data, a->key_pem.len, &key))
        return diag_set(d, ERR_INVALID, "key.pem is damaged");
    if (!cert_matches_key(leaf, key))
        return diag_set(d, ERR_CONFLICT, "the certificate is not for our key");
    if (!roots_issuer(&roots, leaf))
        return diag_set(d, ERR_CONFLICT, "the certificate was not issued by the CA we trust");
    if (cert_identity(leaf, a->trust_domain, &id) || strcmp(id.agent, a->id) != 0 ||
        strcmp(id.tenant, a->tenant) != 0)
        return diag_set(d, ERR_CONFLICT, "the certificate is for another agent");
    return 0;
}

static int adopt_leaf(X509 *leaf, struct agent_identity *a, int64_t obtained_ms, struct diag *d)
{
    struct cert_times times;
    if (cert_times(leaf, &times))
        return diag_set(d, ERR_INVALID, "the certificate's times cannot be read");
    a->not_before_ms = times.not_before_ms;
    a->not_after_ms = times.not_after_ms;
    /* The file's time may be wrong (copied, clock was off): then only the certificate counts. */
    a->obtained_ms = obtained_ms >= times.not_before_ms && obtained_ms <= times.not_after_ms
                         ? obtained_ms
                         : times.not_before_ms;
    cert_serial(leaf, a->serial);
    return 0;
}

static int64_t modified_ms(const char *dir, const char *name)
{
    CLEANUP(mem_free) char *path = mem_printf("%s/%s", dir, name);
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_mtim.tv_sec * 1000 : 0;
}

static int load_all(const char *dir, struct agent_identity *a, struct diag *d)
{
    CLEANUP(cert_free) X509 *leaf = NULL;
    TRY(load_json(dir, a, d));
    TRY(load_texts(dir, a, d));
    if (cert_from_pem(a->cert_pem, strlen(a->cert_pem), &leaf))
        return diag_set(d, ERR_INVALID, "%s/cert.pem is damaged; enrol again with --force", dir);
    TRY(check_leaf(leaf, a, d));
    CLEANUP(roots_done) struct roots roots = {0};
    TRY(read_roots(a, &roots));
    a->roots_digest = roots_digest(&roots);
    return adopt_leaf(leaf, a, modified_ms(dir, "cert.pem"), d);
}

int agent_identity_load(const char *dir, struct agent_identity *ret, struct diag *d)
{
    struct agent_identity a = {0};
    int err = load_all(dir, &a, d);
    if (err) {
        agent_identity_done(&a);
        return err;
    }
    *ret = a;
    return 0;
}

int agent_identity_renewed(const char *dir, struct agent_identity *a, const char *pkcs7, size_t len,
                           int64_t now_ms, struct diag *d)
{
    CLEANUP(cert_free) X509 *leaf = NULL;
    CLEANUP(mem_free) char *path = mem_printf("%s/cert.pem", dir);
    struct buf pem = {0};
    size_t n;
    if (cert_from_pkcs7(pkcs7, len, &leaf, 1, &n))
        return diag_set(d, ERR_PROTO, "the hub's answer is not one certificate in PKCS#7");
    TRY(check_leaf(leaf, a, d));
    TRY(cert_save(leaf, path, d));
    TRY(cert_to_pem(leaf, &pem));
    mem_free(a->cert_pem);
    a->cert_pem = buf_take(&pem);
    return adopt_leaf(leaf, a, now_ms, d);
}

/* ---- the hubs' roots ---- */

bool agent_identity_is_by_old_root(const struct agent_identity *a)
{
    CLEANUP(cert_free) X509 *leaf = NULL;
    CLEANUP(roots_done) struct roots roots = {0};
    return read_roots(a, &roots) == 0 &&
           cert_from_pem(a->cert_pem, strlen(a->cert_pem), &leaf) == 0 &&
           roots_issuer(&roots, leaf) != roots.certs[0];
}

/* Adds the root that our certificate is by, unless it was told. */
static int keep_own(const struct agent_identity *a, struct roots *roots)
{
    CLEANUP(cert_free) X509 *leaf = NULL;
    CLEANUP(roots_done) struct roots before = {0};
    TRY(read_roots(a, &before));
    TRY(cert_from_pem(a->cert_pem, strlen(a->cert_pem), &leaf));
    X509 *own = roots_issuer(&before, leaf);
    if (!own || roots_issuer(roots, leaf))
        return 0;
    return roots_add(roots, cert_ref(own));
}

int agent_identity_take_roots(const char *dir, struct agent_identity *a,
                              const struct agent_root *told, size_t n, struct diag *d)
{
    CLEANUP(roots_done) struct roots roots = {0};
    CLEANUP(buf_done) struct buf pem = {0};
    CLEANUP(mem_free) char *path = mem_printf("%s/ca.pem", dir);
    for (size_t i = 0; i < n; i++) {
        if (roots_add_der(&roots, told[i].der, told[i].len, a->trust_domain))
            return diag_set(d, ERR_PROTO, "the hub told what is no root certificate of \"%s\"",
                            a->trust_domain);
    }
    if (!roots.n)
        return diag_set(d, ERR_PROTO, "the hub told no root certificate");
    uint64_t digest = roots_digest(&roots);
    if (keep_own(a, &roots) || roots_to_pem(&roots, &pem))
        return diag_set(d, ERR_PROTO, "the hub told too many root certificates");
    bool is_new = strcmp(buf_text(&pem), a->ca_pem) != 0;
    if (is_new)
        TRY(file_write_atomic(path, pem.data, pem.len, 0644, d));
    a->roots_digest = digest;
    mem_free(a->ca_pem);
    a->ca_pem = buf_take(&pem);
    return is_new;
}
