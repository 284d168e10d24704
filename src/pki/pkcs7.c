/* PKCS#7 certs-only messages and the base64 they travel in (RFC 7030 §4.1.3). */
#include "base/mem.h"
#include "base/text.h"
#include "pki/internal.h"

#include <openssl/pkcs7.h>
#include <string.h>

#define LINE_BYTES 48 /* 64 characters */

static void pkcs7_free_cleanup(PKCS7 **p7)
{
    PKCS7_free(*p7);
}

int pki_base64_lines(const void *data, size_t len, struct buf *out)
{
    const uint8_t *p = data;
    char line[BASE64_SIZE(LINE_BYTES)];
    for (size_t at = 0; at < len; at += LINE_BYTES) {
        text_base64(p + at, MIN(len - at, (size_t)LINE_BYTES), line, sizeof(line));
        TRY(buf_printf(out, "%s\n", line));
    }
    return 0;
}

int cert_to_pkcs7(X509 *const *certs, size_t n, struct buf *out)
{
    CLEANUP(pkcs7_free) PKCS7 *p7 = PKCS7_new();
    if (!p7 || !PKCS7_set_type(p7, NID_pkcs7_signed) || !PKCS7_content_new(p7, NID_pkcs7_data))
        return pki_fail(ERR_BUG);
    /* RFC 5652 §5.2: certs-only has no content at all, not an empty one. */
    PKCS7_set_detached(p7, 1);
    for (size_t i = 0; i < n; i++) {
        if (!PKCS7_add_certificate(p7, certs[i]))
            return pki_fail(ERR_BUG);
    }
    unsigned char *der = NULL;
    int len = i2d_PKCS7(p7, &der);
    if (len <= 0)
        return pki_fail(ERR_BUG);
    int err = pki_base64_lines(der, (size_t)len, out);
    OPENSSL_free(der);
    return err;
}

static PKCS7 *decode(const char *base64, size_t len)
{
    CLEANUP(mem_free) char *clean = mem_new(len + 1);
    CLEANUP(mem_free) uint8_t *der = mem_new(len + 4);
    size_t n = 0, der_len = len + 4;
    for (size_t i = 0; i < len; i++) {
        if (!strchr(" \t\r\n", base64[i]))
            clean[n++] = base64[i];
    }
    if (text_unbase64(clean, n, der, &der_len))
        return NULL;
    const unsigned char *p = der;
    return d2i_PKCS7(NULL, &p, (long)der_len);
}

int cert_from_pkcs7(const char *base64, size_t len, X509 **ret, size_t max, size_t *ret_n)
{
    if (len > CERT_PEM_MAX)
        return ERR_TOO_LARGE;
    CLEANUP(pkcs7_free) PKCS7 *p7 = decode(base64, len);
    if (!p7 || !PKCS7_type_is_signed(p7) || !p7->d.sign || !p7->d.sign->cert)
        return pki_fail(ERR_INVALID);
    int n = sk_X509_num(p7->d.sign->cert);
    if (n < 1)
        return pki_fail(ERR_INVALID);
    if ((size_t)n > max)
        return pki_fail(ERR_TOO_LARGE);
    for (int i = 0; i < n; i++) {
        ret[i] = sk_X509_value(p7->d.sign->cert, i);
        X509_up_ref(ret[i]);
    }
    *ret_n = (size_t)n;
    return pki_fail(0);
}
