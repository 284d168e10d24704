/* What strangers send to enrol: certificate requests, certificates, tokens, identities. */
#include "base/error.h"
#include "pki/cert.h"
#include "pki/csr.h"
#include "pki/spiffe.h"
#include "pki/token.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void certificates(const char *s, size_t len)
{
    CLEANUP(cert_free) X509 *cert = NULL;
    if (cert_from_pem(s, len, &cert) == 0) {
        struct spiffe id;
        struct cert_times times;
        char serial[CERT_SERIAL_SIZE], domain[TRUST_DOMAIN_SIZE];
        cert_identity(cert, "warren", &id);
        cert_times(cert, &times);
        cert_serial(cert, serial);
        cert_trust_domain(cert, domain);
    }
    X509 *certs[4];
    size_t n = 0;
    if (cert_from_pkcs7(s, len, certs, 4, &n) == 0)
        for (size_t i = 0; i < n; i++)
            cert_free(certs[i]);
}

static void texts(const char *s, size_t len)
{
    struct token token, again;
    if (token_parse(s, len, &token) == 0) {
        __attribute__((cleanup(secret_done_cleanup))) struct secret text = {0};
        token_format(&token, &text);
        assert(token_parse(text.data, text.len, &again) == 0);
        assert(strcmp(token.id, again.id) == 0);
        token_done(&token);
    }
    struct spiffe id;
    if (spiffe_parse(s, len, &id) == 0) {
        char text[SPIFFE_SIZE];
        spiffe_format(&id, text);
        assert(strlen(text) == len && memcmp(text, s, len) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *s = (const char *)data;
    EVP_PKEY *key = NULL;
    if (csr_parse(s, size, &key) == 0)
        pkey_free(key);
    certificates(s, size);
    texts(s, size);
    return 0;
}
