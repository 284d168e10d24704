#include "swarm_identity.h"

#include "base/diag.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "pki/ca.h"

#include <assert.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIFE_MS     (INT64_C(366) * 86400000)
#define BACKDATE_MS 300000

static_assert(sizeof(struct identity_der) == IDENTITY_BYTES, "a record of the file");

int identity_der_make(EVP_PKEY *key, X509 *cert, struct identity_der *ret)
{
    int key_len = i2d_PrivateKey(key, NULL), cert_len = i2d_X509(cert, NULL);
    uint8_t *at = ret->data;
    if (key_len <= 0 || cert_len <= 0 || (size_t)key_len + (size_t)cert_len > sizeof(ret->data))
        return ERR_TOO_LARGE;
    ret->key_len = (uint16_t)i2d_PrivateKey(key, &at);
    ret->cert_len = (uint16_t)i2d_X509(cert, &at);
    return 0;
}

int identity_der_use(const struct identity_der *id, SSL *ssl)
{
    const uint8_t *cert = id->data + id->key_len;
    bool ok = SSL_use_certificate_ASN1(ssl, cert, id->cert_len) == 1 &&
              SSL_use_PrivateKey_ASN1(EVP_PKEY_EC, ssl, id->data, id->key_len) == 1;
    return ok ? 0 : ERR_TLS;
}

const struct identity_der *identity_file_read(const char *path, size_t first, size_t n)
{
    FILE *f = fopen(path, "re");
    struct identity_der *ids = mem_new(n * sizeof(*ids));
    if (!f || fseek(f, (long)(first * IDENTITY_BYTES), SEEK_SET) < 0 ||
        fread(ids, sizeof(*ids), n, f) != n) {
        fprintf(stderr, "swarm: %s does not hold so many identities\n", path);
        exit(1);
    }
    fclose(f);
    return ids;
}

/* ---- issuing ---- */

static void check(int rc, const char *what, const struct diag *d)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "swarm: %s: %s\n", what, d && d->code ? diag_text(d) : error_text(rc));
    exit(1);
}

static FILE *create(const char *path)
{
    FILE *f = fopen(path, "we");
    if (!f) {
        perror(path);
        exit(1);
    }
    return f;
}

/* As enrolment writes it (identity.sql), in the order of its columns that are not NULL. */
static void put_row(FILE *f, const struct identity_issue *i, size_t number, const char *agent,
                    X509 *cert, int64_t now)
{
    char serial[CERT_SERIAL_SIZE];
    uint8_t hash[PKEY_HASH_SIZE];
    cert_serial(cert, serial);
    check(cert_key_hash(cert, hash), "key", NULL);
    fprintf(f, "%s\t%s\tnet_%016zu\ttok_swarm\tswarm-%zu\t1\t%s\t\\\\x", agent, i->tenant,
            number % i->networks, number, serial);
    for (size_t k = 0; k < sizeof(hash); k++)
        fprintf(f, "%02x", hash[k]);
    fprintf(f, "\t%lld\t%lld\n", (long long)now + LIFE_MS, (long long)now);
}

void identity_issue(const struct identity_issue *i)
{
    struct diag d = {0};
    struct ca *ca;
    int64_t now = time_wall_ms();
    const struct cert_times times = {now - BACKDATE_MS, now + LIFE_MS};
    struct spiffe id = {0};
    snprintf(id.trust_domain, sizeof(id.trust_domain), "%s", i->trust_domain);
    snprintf(id.tenant, sizeof(id.tenant), "%s", i->tenant);
    check(ca_open(i->ca_dir, i->trust_domain, now, &ca, &d), "CA", &d);
    FILE *rows = create(i->rows), *identities = create(i->identities);
    uint64_t began = time_mono_ms();
    for (size_t n = 0; n < i->agents; n++) {
        CLEANUP(pkey_free) EVP_PKEY *key = NULL;
        CLEANUP(cert_free) X509 *cert = NULL;
        struct identity_der der = {0};
        id_new(id.agent, "agt");
        check(pkey_new(&key), "key", NULL);
        check(ca_issue_agent(ca, key, &id, times, &cert), "certificate", NULL);
        check(identity_der_make(key, cert, &der), "certificate", NULL);
        fwrite(&der, sizeof(der), 1, identities);
        put_row(rows, i, n, id.agent, cert, now);
    }
    uint64_t took = time_mono_ms() - began;
    if (fclose(rows) || fclose(identities)) {
        perror("swarm");
        exit(1);
    }
    ca_free(ca);
    printf("{\"issued\": %zu, \"ms_each\": %.4f}\n", i->agents,
           (double)took / (double)(i->agents ? i->agents : 1));
}
