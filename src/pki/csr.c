#include "pki/csr.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/text.h"
#include "pki/internal.h"

#include <string.h>

static void req_free_cleanup(X509_REQ **req)
{
    X509_REQ_free(*req);
}

int csr_make(EVP_PKEY *key, const char *common_name, struct buf *ret_base64)
{
    CLEANUP(req_free) X509_REQ *req = X509_REQ_new();
    X509_NAME *name = req ? X509_REQ_get_subject_name(req) : NULL;
    const EVP_MD *md = EVP_PKEY_is_a(key, "ED25519") ? NULL : EVP_sha256();
    unsigned char *der = NULL;
    if (!name || !X509_REQ_set_version(req, X509_REQ_VERSION_1) ||
        !X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common_name,
                                    -1, -1, 0) ||
        !X509_REQ_set_pubkey(req, key) || !X509_REQ_sign(req, key, md))
        return pki_fail(ERR_INVALID);
    int len = i2d_X509_REQ(req, &der);
    if (len <= 0)
        return pki_fail(ERR_BUG);
    int err = pki_base64_lines(der, (size_t)len, ret_base64);
    OPENSSL_free(der);
    return err;
}

/* Drops PEM armour lines and white space; what is left must be base64. */
static size_t strip(const char *body, size_t len, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        bool line_start = i == 0 || body[i - 1] == '\n';
        if (line_start && len - i >= 5 && memcmp(body + i, "-----", 5) == 0) {
            const char *eol = memchr(body + i, '\n', len - i);
            i = eol ? (size_t)(eol - body) : len;
        } else if (!strchr(" \t\r\n", body[i]) || !body[i]) {
            out[n++] = body[i];
        }
    }
    return n;
}

static int to_der(const char *body, size_t len, uint8_t *der, size_t *der_len)
{
    if (len && body[0] == 0x30) { /* a DER SEQUENCE; base64 of one starts with 'M' */
        memcpy(der, body, len);
        *der_len = len;
        return 0;
    }
    CLEANUP(mem_free) char *clean = mem_new(len + 1);
    size_t n = strip(body, len, clean);
    return text_unbase64(clean, n, der, der_len);
}

static int check(X509_REQ *req, EVP_PKEY **ret_key)
{
    EVP_PKEY *key = X509_REQ_get0_pubkey(req);
    if (!key)
        return ERR_USAGE; /* an algorithm OpenSSL does not know */
    if (!pkey_is_acceptable(key))
        return ERR_USAGE;
    if (X509_REQ_verify(req, key) != 1)
        return ERR_DENIED;
    EVP_PKEY_up_ref(key);
    *ret_key = key;
    return 0;
}

int csr_parse(const char *body, size_t len, EVP_PKEY **ret_key)
{
    if (len > CSR_BODY_MAX)
        return ERR_TOO_LARGE;
    CLEANUP(mem_free) uint8_t *der = mem_new(len + 4);
    size_t der_len = len + 4;
    TRY(to_der(body, len, der, &der_len));
    const unsigned char *p = der;
    CLEANUP(req_free) X509_REQ *req = d2i_X509_REQ(NULL, &p, (long)der_len);
    if (!req || p != der + der_len)
        return pki_fail(ERR_INVALID);
    return pki_fail(check(req, ret_key));
}
