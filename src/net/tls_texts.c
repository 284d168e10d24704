/*
 * OpenSSL's own texts for errors: 200 KiB of tables, which a process that never meets an error need
 * not touch. What is loaded here are those that a handshake and its certificates can need.
 */
#define OPENSSL_SUPPRESS_DEPRECATED /* ERR_load_*_strings */
#include "net/tls_internal.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdbool.h>

static bool is_late;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void)
{
    ERR_load_ERR_strings();
    ERR_load_EVP_strings();
    ERR_load_PEM_strings();
    ERR_load_X509_strings();
    ERR_load_SSL_strings();
}

void tls_load_texts_late(void)
{
    is_late = true;
    OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS, NULL);
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_SSL_STRINGS, NULL);
}

const char *tls_error_text(unsigned long e)
{
    if (is_late)
        pthread_once(&once, load);
    return ERR_reason_error_string(e);
}
