/* What simpleenroll is sent, and the PKCS#7 that an agent is answered. */
#include "pki/cert.h"
#include "pki/csr.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    EVP_PKEY *key = NULL;
    X509 *certs[4];
    size_t n = 0;
    if (csr_parse((const char *)data, size, &key) == 0)
        pkey_free(key);
    if (cert_from_pkcs7((const char *)data, size, certs, 4, &n) == 0) {
        for (size_t i = 0; i < n; i++) {
            struct spiffe id;
            char serial[CERT_SERIAL_SIZE];
            cert_identity(certs[i], "warren", &id);
            cert_serial(certs[i], serial);
            cert_free(certs[i]);
        }
    }
    return 0;
}
