/* Tokens, Authorization headers and SPIFFE ids: what was accepted must come out the same. */
#include "base/mem.h"
#include "identity/identity_model.h"
#include "pki/spiffe.h"
#include "pki/token.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *s = mem_strndup((const char *)data, size);
    char user[IDENTITY_NAME_SIZE], text[SPIFFE_SIZE];
    struct secret secret = {0};
    struct spiffe id;
    struct token t, again;

    if (spiffe_parse((const char *)data, size, &id) == 0) {
        spiffe_format(&id, text);
        assert(strlen(text) == size && memcmp(text, data, size) == 0);
    }
    if (token_parse((const char *)data, size, &t) == 0) {
        token_format(&t, &secret);
        assert(token_parse(secret.data, secret.len, &again) == 0);
        assert(memcmp(t.secret, again.secret, sizeof(t.secret)) == 0);
    }
    basic_parse(s, user, &secret);
    bearer_parse(s, &t);
    secret_done(&secret);
    mem_free(s);
    return 0;
}
