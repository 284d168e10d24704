#include "pki/seal.h"

#include "base/error.h"
#include "base/id.h"
#include "pki/internal.h"

#include <limits.h>

#define NONCE_SIZE 12
#define TAG_SIZE   16

static void cipher_free_cleanup(EVP_CIPHER_CTX **ctx)
{
    EVP_CIPHER_CTX_free(*ctx);
}

int seal(const uint8_t key[SEAL_KEY_SIZE], const void *data, size_t len, struct buf *out)
{
    if (len > INT_MAX / 2)
        return ERR_TOO_LARGE;
    CLEANUP(cipher_free) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    TRY(buf_reserve(out, NONCE_SIZE + len + TAG_SIZE));
    uint8_t *nonce = (uint8_t *)out->data + out->len, *text = nonce + NONCE_SIZE;
    int n = 0, rest = 0;
    random_bytes(nonce, NONCE_SIZE);
    if (!ctx || !EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce) ||
        !EVP_EncryptUpdate(ctx, text, &n, data, (int)len) ||
        !EVP_EncryptFinal_ex(ctx, text + n, &rest) ||
        !EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_SIZE, text + len))
        return pki_fail(ERR_BUG);
    out->len += NONCE_SIZE + len + TAG_SIZE;
    return 0;
}

int unseal(const uint8_t key[SEAL_KEY_SIZE], const void *data, size_t len, struct buf *out)
{
    if (len < NONCE_SIZE + TAG_SIZE || len > INT_MAX / 2)
        return ERR_DENIED;
    CLEANUP(cipher_free) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    const uint8_t *nonce = data, *text = nonce + NONCE_SIZE;
    size_t text_len = len - NONCE_SIZE - TAG_SIZE;
    TRY(buf_reserve(out, text_len + 1));
    uint8_t *plain = (uint8_t *)out->data + out->len;
    int n = 0, rest = 0;
    if (!ctx || !EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce) ||
        !EVP_DecryptUpdate(ctx, plain, &n, text, (int)text_len) ||
        !EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG_SIZE, (void *)(text + text_len)) ||
        EVP_DecryptFinal_ex(ctx, plain + n, &rest) != 1)
        return pki_fail(ERR_DENIED);
    out->len += text_len;
    out->data[out->len] = '\0';
    return 0;
}
