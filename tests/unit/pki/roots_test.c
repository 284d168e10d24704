/* The roots one trusts while the CA is rotated, and a key's seal: against real OpenSSL objects. */
#include "pki/roots.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/time.h"
#include "pki/ca.h"
#include "pki/seal_key.h"

#include <openssl/x509_vfy.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct spiffe agent_id = {"warren", "ten_0123456789abcdef", "agt_0123456789abcdef"};

struct fixture {
    struct ca *old, *new;
    X509 *crossed, *leaf; /* the leaf is by `new` */
    EVP_PKEY *key;
};

static int setup(void **state)
{
    struct fixture *f = NEW(struct fixture);
    int64_t now = time_wall_ms();
    struct cert_times times = {now - 1000, now + 3600000};
    assert_int_equal(ca_make("warren", now, &f->old, NULL), 0);
    assert_int_equal(ca_make("warren", now, &f->new, NULL), 0);
    assert_int_equal(ca_cross_sign(f->old, f->new, &f->crossed), 0);
    assert_int_equal(pkey_new(&f->key), 0);
    assert_int_equal(ca_issue_agent(f->new, f->key, &agent_id, times, &f->leaf), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    ca_free(f->old);
    ca_free(f->new);
    cert_free(f->crossed);
    cert_free(f->leaf);
    pkey_free(f->key);
    mem_free(f);
    return 0;
}

/* What OpenSSL says of `leaf` when `root` alone is trusted. */
static int verify(X509 *leaf, X509 *root, X509 *sent)
{
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    STACK_OF(X509) *others = sk_X509_new_null();
    if (sent)
        sk_X509_push(others, sent);
    X509_STORE_add_cert(store, root);
    assert_int_equal(X509_STORE_CTX_init(ctx, store, leaf, others), 1);
    X509_verify_cert(ctx);
    int result = X509_STORE_CTX_get_error(ctx);
    sk_X509_free(others);
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    return result;
}

static void who_trusts_the_old_root_trusts_the_new_ones_leaf_by_the_crossed_certificate(
    void **state)
{
    struct fixture *f = *state;
    assert_int_equal(verify(f->leaf, ca_cert(f->new), NULL), X509_V_OK);
    assert_int_equal(verify(f->leaf, ca_cert(f->old), f->crossed), X509_V_OK);
    assert_int_not_equal(verify(f->leaf, ca_cert(f->old), NULL), X509_V_OK);
    assert_int_not_equal(verify(f->leaf, ca_cert(f->old), ca_cert(f->new)), X509_V_OK);
}

static void a_crossed_certificate_is_no_root(void **state)
{
    struct fixture *f = *state;
    assert_true(roots_is_root(ca_cert(f->new), "warren"));
    assert_false(roots_is_root(ca_cert(f->new), "other"));
    assert_false(roots_is_root(f->crossed, "warren"));
    assert_false(roots_is_root(f->leaf, "warren"));
}

static void a_list_is_read_as_it_was_written_each_root_once(void **state)
{
    struct fixture *f = *state;
    CLEANUP(roots_done) struct roots list = {0}, back = {0};
    CLEANUP(buf_done) struct buf pem = {0}, der = {0};
    assert_int_equal(roots_add(&list, cert_ref(ca_cert(f->new))), 0);
    assert_int_equal(roots_add(&list, cert_ref(ca_cert(f->old))), 0);
    assert_int_equal(roots_add(&list, cert_ref(ca_cert(f->new))), 0);
    assert_int_equal(list.n, 2);
    assert_int_equal(roots_to_pem(&list, &pem), 0);
    assert_int_equal(roots_from_pem(buf_text(&pem), pem.len, &back), 0);
    assert_int_equal(back.n, 2);
    assert_true(roots_digest(&back) == roots_digest(&list));
    assert_ptr_equal(roots_issuer(&list, f->leaf), ca_cert(f->new));
    assert_int_equal(cert_to_der(ca_cert(f->old), &der), 0);
    assert_int_equal(roots_add_der(&back, der.data, der.len, "warren"), 0);
    assert_int_equal(back.n, 2);
    assert_int_equal(roots_add_der(&back, der.data, der.len - 1, "warren"), ERR_INVALID);
    assert_int_equal(roots_from_pem("nothing", 7, &back), ERR_INVALID);
}

static void the_order_tells_lists_apart(void **state)
{
    struct fixture *f = *state;
    CLEANUP(roots_done) struct roots a = {0}, b = {0};
    roots_add(&a, cert_ref(ca_cert(f->new)));
    roots_add(&a, cert_ref(ca_cert(f->old)));
    roots_add(&b, cert_ref(ca_cert(f->old)));
    roots_add(&b, cert_ref(ca_cert(f->new)));
    assert_true(roots_digest(&a) != roots_digest(&b));
}

static void a_list_has_an_end(void **state)
{
    CLEANUP(roots_done) struct roots list = {0};
    for (size_t i = 0; i <= ROOTS_MAX; i++) {
        CLEANUP(ca_free) struct ca *ca = NULL;
        assert_int_equal(ca_make("warren", time_wall_ms(), &ca, NULL), 0);
        assert_int_equal(roots_add(&list, cert_ref(ca_cert(ca))), i < ROOTS_MAX ? 0 : ERR_LIMIT);
    }
}

static void a_passphrase_makes_the_same_key_again_by_its_text(void **state)
{
    struct seal_key made, again, other;
    assert_int_equal(seal_key_of_passphrase("too short", 9, NULL, &made), ERR_INVALID);
    assert_int_equal(seal_key_of_passphrase("correct horse", 13, NULL, &made), 0);
    assert_true(seal_text_is_passphrase(made.text));
    assert_int_equal(seal_key_of_passphrase("correct horse", 13, made.text, &again), 0);
    assert_memory_equal(made.key, again.key, SEAL_KEY_SIZE);
    assert_string_equal(made.text, again.text);
    assert_int_equal(seal_key_of_passphrase("correct house", 13, made.text, &other), 0);
    assert_string_not_equal(made.text, other.text);
    assert_int_equal(seal_key_of_passphrase("correct horse", 13, NULL, &other), 0);
    assert_memory_not_equal(made.key, other.key, SEAL_KEY_SIZE);
}

static void texts_that_ask_for_too_much_are_refused(void **state)
{
    static const char *const bad[] = {"", "key-file:00000000", "argon2id:65536:3:00:11",
                                      "argon2id:4194304:3:"
                                      "00112233445566778899aabbccddeeff:11",
                                      "argon2id:65536:99:"
                                      "00112233445566778899aabbccddeeff:11"};
    struct seal_key k;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(seal_key_of_passphrase("correct horse", 13, bad[i], &k), ERR_INVALID);
}

static void a_key_file_is_long_enough(void **state)
{
    static const char bytes[SEAL_FILE_MIN] = "0123456789abcdef0123456789abcde";
    struct seal_key k;
    assert_int_equal(seal_key_of_file(bytes, sizeof(bytes) - 1, &k), ERR_INVALID);
    assert_int_equal(seal_key_of_file(bytes, sizeof(bytes), &k), 0);
    assert_false(seal_text_is_passphrase(k.text));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(who_trusts_the_old_root_trusts_the_new_ones_leaf_by_the_crossed_certificate),
        TEST(a_crossed_certificate_is_no_root),
        TEST(a_list_is_read_as_it_was_written_each_root_once),
        TEST(the_order_tells_lists_apart),
        cmocka_unit_test(a_list_has_an_end),
        cmocka_unit_test(a_passphrase_makes_the_same_key_again_by_its_text),
        cmocka_unit_test(texts_that_ask_for_too_much_are_refused),
        cmocka_unit_test(a_key_file_is_long_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
