#include "pki/pkey.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/file.h"
#include "pki/internal.h"
#include "pki/token.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <string.h>

#define KEY_FILE_MAX ((size_t)16 << 10)

int pkey_new(EVP_PKEY **ret)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    if (!key)
        return pki_fail(ERR_BUG);
    *ret = key;
    return 0;
}

void pkey_free(EVP_PKEY *key)
{
    EVP_PKEY_free(key);
}

bool pkey_is_acceptable(EVP_PKEY *key)
{
    int bits = EVP_PKEY_get_bits(key);
    if (EVP_PKEY_is_a(key, "ED25519"))
        return true;
    if (EVP_PKEY_is_a(key, "RSA"))
        return bits >= 2048 && bits <= 8192;
    char group[32];
    if (!EVP_PKEY_is_a(key, "EC") ||
        !EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof(group),
                                        NULL)) {
        ERR_clear_error();
        return false;
    }
    return strcmp(group, "prime256v1") == 0 || strcmp(group, "P-256") == 0 ||
           strcmp(group, "secp384r1") == 0 || strcmp(group, "P-384") == 0;
}

int pkey_hash(EVP_PKEY *key, uint8_t out[PKEY_HASH_SIZE])
{
    unsigned char *der = NULL;
    int len = i2d_PUBKEY(key, &der);
    if (len <= 0)
        return pki_fail(ERR_INVALID);
    sha256(der, (size_t)len, out);
    OPENSSL_free(der);
    return 0;
}

int pkey_to_pem(EVP_PKEY *key, struct secret *ret)
{
    BIO *bio = BIO_new(BIO_s_secmem());
    char *data = NULL;
    int err = pki_fail(ERR_BUG);
    if (bio && PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1) {
        long len = BIO_get_mem_data(bio, &data);
        secret_set(ret, data, (size_t)len);
        err = 0;
    }
    BIO_free_all(bio);
    return err;
}

/* Without this OpenSSL would ask for a pass phrase on the terminal. */
static int no_passphrase(char *buf, int size, int rwflag, void *arg)
{
    return -1;
}

int pkey_from_pem(const char *pem, size_t len, EVP_PKEY **ret)
{
    if (len > KEY_FILE_MAX)
        return ERR_TOO_LARGE;
    CLEANUP(bio_free) BIO *bio = BIO_new_mem_buf(pem, (int)len);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
    ERR_clear_error();
    if (!key)
        return ERR_INVALID;
    *ret = key;
    return 0;
}

int pkey_save(EVP_PKEY *key, const char *path, struct diag *d)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret pem = {0};
    int err = pkey_to_pem(key, &pem);
    if (err)
        return diag_set(d, err, "cannot encode the key for %s", path);
    return file_write_atomic(path, pem.data, pem.len, 0600, d);
}

int pkey_load(const char *path, EVP_PKEY **ret, struct diag *d)
{
    struct buf pem = {0};
    int err = file_read(path, KEY_FILE_MAX, true, &pem, d);
    if (!err && (err = pkey_from_pem(buf_text(&pem), pem.len, ret)))
        diag_set(d, err, "%s does not hold an unencrypted PEM private key", path);
    if (pem.data)
        OPENSSL_cleanse(pem.data, pem.cap);
    buf_done(&pem);
    return err;
}
