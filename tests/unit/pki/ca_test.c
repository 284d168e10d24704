/* The CA, what it issues, and how that is read: against real OpenSSL objects. */
#include "pki/ca.h"

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/time.h"
#include "pki/csr.h"
#include "pki/seal.h"
#include "pki/token.h"

#include <ftw.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define TENANT "ten_0123456789abcdef"
#define AGENT  "agt_0123456789abcdef"
#define HUB    "hub_0123456789abcdef"
#define HOUR   INT64_C(3600000)

static const struct spiffe agent_id = {"warren", TENANT, AGENT};

struct fixture {
    char dir[64];
    struct ca *ca;
    EVP_PKEY *key;
    int64_t now;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static int setup(void **state)
{
    struct fixture *f = NEW(struct fixture);
    snprintf(f->dir, sizeof(f->dir), "/tmp/warren-ca-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->now = time_wall_ms();
    assert_int_equal(ca_open(f->dir, "warren", f->now, &f->ca, NULL), 0);
    assert_int_equal(pkey_new(&f->key), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    ca_free(f->ca);
    pkey_free(f->key);
    nftw(f->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    mem_free(f);
    return 0;
}

static void path_in(const struct fixture *f, const char *name, char out[128])
{
    snprintf(out, 128, "%s/%s", f->dir, name);
}

static X509 *issue_agent(struct fixture *f, int64_t from, int64_t to)
{
    X509 *cert = NULL;
    struct cert_times times = {f->now + from, f->now + to};
    assert_int_equal(ca_issue_agent(f->ca, f->key, &agent_id, times, &cert), 0);
    return cert;
}

static int verify(struct fixture *f, X509 *cert, int purpose)
{
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    X509_STORE_add_cert(store, ca_cert(f->ca));
    X509_STORE_CTX_init(ctx, store, cert, NULL);
    X509_STORE_CTX_set_purpose(ctx, purpose);
    int ok = X509_verify_cert(ctx);
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    return ok;
}

static void the_ca_is_the_same_when_opened_again(void **state)
{
    struct fixture *f = *state;
    struct ca *again = NULL;
    assert_int_equal(ca_open(f->dir, "warren", f->now, &again, NULL), 0);
    assert_memory_equal(ca_fingerprint(again), ca_fingerprint(f->ca), CERT_FINGERPRINT_SIZE);
    assert_string_equal(ca_trust_domain(again), "warren");
    ca_free(again);
}

static void the_ca_key_is_readable_by_its_owner_only(void **state)
{
    struct fixture *f = *state;
    char path[128];
    struct stat st;
    struct ca *again = NULL;
    struct diag d = {0};
    path_in(f, "ca.key", path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    chmod(path, 0644);
    assert_int_equal(ca_open(f->dir, "warren", f->now, &again, &d), ERR_DENIED);
    assert_non_null(strstr(d.text, "chmod 600"));
}

static void a_ca_of_another_trust_domain_is_refused(void **state)
{
    struct fixture *f = *state;
    struct ca *again = NULL;
    struct diag d = {0};
    assert_int_equal(ca_open(f->dir, "other", f->now, &again, &d), ERR_CONFLICT);
    assert_string_equal(d.field, "trust_domain");
}

static void a_ca_without_its_key_is_not_replaced_by_a_new_one(void **state)
{
    struct fixture *f = *state;
    char path[128];
    struct ca *again = NULL;
    path_in(f, "ca.key", path);
    unlink(path);
    assert_int_equal(ca_open(f->dir, "warren", f->now, &again, NULL), ERR_NOT_FOUND);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void a_lost_root_certificate_is_made_again_for_the_same_key(void **state)
{
    struct fixture *f = *state;
    char path[128];
    struct ca *again = NULL;
    CLEANUP(cert_free) X509 *leaf = issue_agent(f, -HOUR, HOUR);
    path_in(f, "ca.pem", path);
    unlink(path);
    assert_int_equal(ca_open(f->dir, "warren", f->now, &again, NULL), 0);
    assert_true(cert_is_issued_by(leaf, ca_cert(again)));
    ca_free(again);
}

static void a_key_of_another_ca_is_noticed(void **state)
{
    struct fixture *f = *state;
    char path[128];
    struct ca *again = NULL;
    path_in(f, "ca.key", path);
    assert_int_equal(pkey_save(f->key, path, NULL), 0);
    assert_int_equal(ca_open(f->dir, "warren", f->now, &again, NULL), ERR_CONFLICT);
}

static void the_root_is_a_ca_of_ten_years_and_nothing_below_it_is(void **state)
{
    struct fixture *f = *state;
    struct cert_times t;
    X509 *root = ca_cert(f->ca);
    assert_int_equal(cert_times(root, &t), 0);
    assert_true(t.not_after_ms - f->now > INT64_C(3650) * 24 * HOUR);
    assert_int_equal(X509_check_ca(root), 1);
    assert_int_equal(X509_get_pathlen(root), 0);
    assert_int_equal(X509_self_signed(root, 1), 1);
    char domain[TRUST_DOMAIN_SIZE];
    assert_int_equal(cert_trust_domain(root, domain), 0);
    assert_string_equal(domain, "warren");
    struct spiffe id;
    assert_int_equal(cert_identity(root, "warren", &id), ERR_INVALID);
}

static void an_agents_leaf_carries_its_identity_and_verifies_as_a_client(void **state)
{
    struct fixture *f = *state;
    struct spiffe id;
    struct cert_times t;
    char serial[CERT_SERIAL_SIZE];
    CLEANUP(cert_free) X509 *leaf = issue_agent(f, -HOUR, 24 * HOUR);
    assert_int_equal(cert_identity(leaf, "warren", &id), 0);
    assert_string_equal(id.tenant, TENANT);
    assert_string_equal(id.agent, AGENT);
    assert_int_equal(cert_times(leaf, &t), 0);
    assert_int_equal(t.not_after_ms / 1000, (f->now + 24 * HOUR) / 1000);
    cert_serial(leaf, serial);
    assert_int_equal(strlen(serial), 32);
    assert_int_equal(verify(f, leaf, X509_PURPOSE_SSL_CLIENT), 1);
    assert_int_not_equal(verify(f, leaf, X509_PURPOSE_SSL_SERVER), 1);
    assert_true(cert_is_issued_by(leaf, ca_cert(f->ca)));
    assert_true(cert_matches_key(leaf, f->key));
}

static void an_identity_of_another_trust_domain_is_not_read(void **state)
{
    struct fixture *f = *state;
    struct spiffe id;
    CLEANUP(cert_free) X509 *leaf = issue_agent(f, -HOUR, HOUR);
    assert_int_equal(cert_identity(leaf, "elsewhere", &id), ERR_INVALID);
}

static void a_leaf_of_another_ca_is_not_ours(void **state)
{
    struct fixture *f = *state;
    char dir[] = "/tmp/warren-ca2-XXXXXX";
    struct ca *other = NULL;
    X509 *leaf = NULL;
    struct cert_times times = {f->now - HOUR, f->now + HOUR};
    assert_non_null(mkdtemp(dir));
    assert_int_equal(ca_open(dir, "warren", f->now, &other, NULL), 0);
    assert_int_equal(ca_issue_agent(other, f->key, &agent_id, times, &leaf), 0);
    assert_false(cert_is_issued_by(leaf, ca_cert(f->ca)));
    assert_int_not_equal(verify(f, leaf, X509_PURPOSE_SSL_CLIENT), 1);
    cert_free(leaf);
    ca_free(other);
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Makes a leaf as ca_issue_agent does but with the URIs (and usage) given. */
static X509 *leaf_with(struct fixture *f, const char *san, const char *usage)
{
    X509 *cert = X509_new();
    X509V3_CTX ctx;
    X509_set_version(cert, X509_VERSION_3);
    X509_set_pubkey(cert, f->key);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 60);
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    const struct {
        int nid;
        const char *value;
    } rows[] = {{NID_subject_alt_name, san}, {NID_ext_key_usage, usage}};
    for (size_t i = 0; i < 2; i++) {
        if (!rows[i].value)
            continue;
        X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, rows[i].nid, rows[i].value);
        assert_non_null(e);
        X509_add_ext(cert, e, -1);
        X509_EXTENSION_free(e);
    }
    X509_sign(cert, f->key, EVP_sha256());
    unsigned char *der = NULL;
    int len = i2d_X509(cert, &der);
    const unsigned char *p = der;
    X509 *parsed = d2i_X509(NULL, &p, len);
    OPENSSL_free(der);
    X509_free(cert);
    assert_non_null(parsed);
    return parsed;
}

#define GOOD_URI "URI:spiffe://warren/tenant/" TENANT "/agent/" AGENT

static void a_leaf_with_several_uris_or_none_has_no_identity(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *san, *usage;
        int want;
    } rows[] = {
        {GOOD_URI, "clientAuth", 0},
        {"DNS:x.example," GOOD_URI, "clientAuth", 0},
        {GOOD_URI ",URI:spiffe://warren/tenant/" TENANT "/agent/agt_ffffffffffffffff", "clientAuth",
         ERR_INVALID},
        {GOOD_URI, "serverAuth", ERR_INVALID},
        {GOOD_URI, NULL, ERR_INVALID},
        {"DNS:x.example", "clientAuth", ERR_INVALID},
        {NULL, "clientAuth", ERR_INVALID},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct spiffe id;
        CLEANUP(cert_free) X509 *cert = leaf_with(f, rows[i].san, rows[i].usage);
        if (cert_identity(cert, "warren", &id) != rows[i].want)
            fail_msg("row %zu", i);
    }
}

static void the_servers_leaf_bears_names_and_addresses(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"hub.example", "*.hub.example", "127.0.0.1", "::1"};
    struct cert_times times = {f->now - HOUR, f->now + HOUR};
    X509 *cert = NULL;
    struct spiffe id;
    assert_int_equal(ca_issue_hub(f->ca, f->key, HUB, names, ARRAY_SIZE(names), times, &cert), 0);
    assert_int_equal(X509_check_host(cert, "hub.example", 0, 0, NULL), 1);
    assert_int_equal(X509_check_host(cert, "a.hub.example", 0, 0, NULL), 1);
    assert_int_equal(X509_check_host(cert, "other.example", 0, 0, NULL), 0);
    assert_int_equal(X509_check_ip_asc(cert, "127.0.0.1", 0), 1);
    assert_int_equal(X509_check_ip_asc(cert, "::1", 0), 1);
    assert_int_equal(verify(f, cert, X509_PURPOSE_SSL_SERVER), 1);
    assert_int_equal(cert_identity(cert, "warren", &id), ERR_INVALID);
    cert_free(cert);
}

static void a_hubs_leaf_serves_both_ends_of_a_link(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"hub.example"};
    struct cert_times times = {f->now - HOUR, f->now + HOUR};
    X509 *cert = NULL, *agent = NULL;
    char hub[ID_SIZE];
    assert_int_equal(ca_issue_hub(f->ca, f->key, HUB, names, 1, times, &cert), 0);
    assert_int_equal(verify(f, cert, X509_PURPOSE_SSL_SERVER), 1);
    assert_int_equal(verify(f, cert, X509_PURPOSE_SSL_CLIENT), 1);
    assert_int_equal(X509_check_host(cert, HUB, 0, 0, NULL), 1);
    assert_int_equal(cert_hub_identity(cert, "warren", hub), 0);
    assert_string_equal(hub, HUB);
    assert_int_equal(cert_hub_identity(cert, "other", hub), ERR_INVALID);
    assert_int_equal(ca_issue_agent(f->ca, f->key, &agent_id, times, &agent), 0);
    assert_int_equal(cert_hub_identity(agent, "warren", hub), ERR_INVALID);
    cert_free(cert);
    cert_free(agent);
}

static void derived_keys_differ_by_label_and_stay_the_same(void **state)
{
    struct fixture *f = *state;
    uint8_t a[CA_DERIVED_SIZE], b[CA_DERIVED_SIZE];
    assert_int_equal(ca_derive_key(f->ca, "one", a), 0);
    assert_int_equal(ca_derive_key(f->ca, "one", b), 0);
    assert_memory_equal(a, b, sizeof(a));
    assert_int_equal(ca_derive_key(f->ca, "two", b), 0);
    assert_memory_not_equal(a, b, sizeof(a));
}

static void a_name_that_is_none_is_refused(void **state)
{
    struct fixture *f = *state;
    static const char *const bad[] = {"", "a b", "x/y", "-x", "*", "a,URI:spiffe://warren"};
    struct cert_times times = {f->now - HOUR, f->now + HOUR};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        X509 *cert = NULL;
        if (ca_issue_hub(f->ca, f->key, HUB, &bad[i], 1, times, &cert) != ERR_INVALID)
            fail_msg("accepted: %s", bad[i]);
    }
}

/* ---- requests ---- */

static void only_the_key_comes_out_of_a_request(void **state)
{
    struct fixture *f = *state;
    CLEANUP(pkey_free) EVP_PKEY *key = NULL;
    struct buf csr = {0};
    uint8_t a[PKEY_HASH_SIZE], b[PKEY_HASH_SIZE];
    assert_int_equal(csr_make(f->key, "agt_ffffffffffffffff", &csr), 0);
    assert_int_equal(csr_parse(csr.data, csr.len, &key), 0);
    assert_int_equal(pkey_hash(key, a), 0);
    assert_int_equal(pkey_hash(f->key, b), 0);
    assert_memory_equal(a, b, sizeof(a));
    buf_done(&csr);
}

static void a_request_with_pem_armour_is_understood(void **state)
{
    struct fixture *f = *state;
    CLEANUP(pkey_free) EVP_PKEY *key = NULL;
    struct buf csr = {0}, pem = {0};
    assert_int_equal(csr_make(f->key, "x", &csr), 0);
    buf_printf(&pem, "-----BEGIN CERTIFICATE REQUEST-----\r\n%s-----END CERTIFICATE REQUEST-----\n",
               csr.data);
    assert_int_equal(csr_parse(pem.data, pem.len, &key), 0);
    buf_done(&csr);
    buf_done(&pem);
}

static void request_for(EVP_PKEY *key, struct buf *out)
{
    assert_non_null(key);
    assert_int_equal(csr_make(key, "x", out), 0);
}

static void keys_of_other_kinds_are_judged(void **state)
{
    const struct {
        EVP_PKEY *key;
        int want;
    } rows[] = {
        {EVP_EC_gen("P-256"), 0},
        {EVP_EC_gen("P-384"), 0},
        {EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), 0},
        {EVP_RSA_gen(2048), 0},
        {EVP_RSA_gen(1024), ERR_USAGE},
        {EVP_EC_gen("P-224"), ERR_USAGE},
        {EVP_EC_gen("secp256k1"), ERR_USAGE},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct buf csr = {0};
        EVP_PKEY *key = NULL;
        request_for(rows[i].key, &csr);
        int err = csr_parse(csr.data, csr.len, &key);
        if (err != rows[i].want)
            fail_msg("row %zu: %s", i, error_name(err));
        pkey_free(key);
        pkey_free(rows[i].key);
        buf_done(&csr);
    }
}

static void a_request_whose_signature_is_wrong_is_refused(void **state)
{
    struct fixture *f = *state;
    EVP_PKEY *key = NULL;
    X509_REQ *req = X509_REQ_new();
    CLEANUP(pkey_free) EVP_PKEY *other = EVP_EC_gen("P-256");
    unsigned char *der = NULL;
    X509_REQ_set_pubkey(req, f->key);
    X509_REQ_sign(req, other, EVP_sha256());
    int len = i2d_X509_REQ(req, &der);
    assert_int_equal(csr_parse((char *)der, (size_t)len, &key), ERR_DENIED);
    OPENSSL_free(der);
    X509_REQ_free(req);
}

static void malformed_requests_are_refused(void **state)
{
    struct fixture *f = *state;
    struct buf csr = {0};
    EVP_PKEY *key = NULL;
    assert_int_equal(csr_parse("", 0, &key), ERR_INVALID);
    assert_int_equal(csr_parse("AAAA", 4, &key), ERR_INVALID);
    assert_int_equal(csr_parse("\x30\x80", 2, &key), ERR_INVALID);
    assert_int_equal(csr_parse("not base64 ~", 12, &key), ERR_INVALID);
    CLEANUP(mem_free) char *big = mem_new(CSR_BODY_MAX + 1);
    memset(big, 'A', CSR_BODY_MAX + 1);
    assert_int_equal(csr_parse(big, CSR_BODY_MAX + 1, &key), ERR_TOO_LARGE);
    assert_int_equal(csr_make(f->key, "x", &csr), 0);
    for (size_t n = 0; n + 4 < csr.len; n += 7)
        assert_int_not_equal(csr_parse(csr.data, n, &key), 0);
    buf_puts(&csr, "AAAA"); /* more after the request */
    assert_int_not_equal(csr_parse(csr.data, csr.len, &key), 0);
    assert_null(key);
    buf_done(&csr);
}

/* ---- encodings ---- */

static void certificates_travel_in_pkcs7(void **state)
{
    struct fixture *f = *state;
    X509 *certs[2] = {issue_agent(f, -HOUR, HOUR), ca_cert(f->ca)}, *back[2] = {0};
    struct buf p7 = {0};
    size_t n = 0;
    assert_int_equal(cert_to_pkcs7(certs, 2, &p7), 0);
    assert_null(strstr(p7.data, "-----"));
    assert_int_equal(cert_from_pkcs7(p7.data, p7.len, back, 1, &n), ERR_TOO_LARGE);
    assert_int_equal(cert_from_pkcs7(p7.data, p7.len, back, 2, &n), 0);
    assert_int_equal(n, 2);
    uint8_t a[32], b[32];
    cert_fingerprint(back[0], a);
    cert_fingerprint(certs[0], b);
    assert_memory_equal(a, b, 32);
    assert_int_equal(cert_from_pkcs7("AAAA", 4, back, 2, &n), ERR_INVALID);
    assert_int_equal(cert_from_pkcs7("", 0, back, 2, &n), ERR_INVALID);
    cert_free(back[0]);
    cert_free(back[1]);
    cert_free(certs[0]);
    buf_done(&p7);
}

static void keys_and_certificates_survive_their_files(void **state)
{
    struct fixture *f = *state;
    char key_path[128], cert_path[128];
    CLEANUP(cert_free) X509 *leaf = issue_agent(f, -HOUR, HOUR), *cert = NULL;
    CLEANUP(pkey_free) EVP_PKEY *key = NULL;
    path_in(f, "key.pem", key_path);
    path_in(f, "cert.pem", cert_path);
    assert_int_equal(pkey_save(f->key, key_path, NULL), 0);
    assert_int_equal(cert_save(leaf, cert_path, NULL), 0);
    assert_int_equal(pkey_load(key_path, &key, NULL), 0);
    assert_int_equal(cert_load(cert_path, &cert, NULL), 0);
    assert_true(cert_matches_key(cert, key));
    cert_free(cert);
    cert = NULL;
    assert_int_equal(cert_load(key_path, &cert, NULL), ERR_INVALID);
    path_in(f, "none.pem", cert_path);
    assert_int_equal(cert_load(cert_path, &cert, NULL), ERR_NOT_FOUND);
}

static void sealed_bytes_open_only_with_their_key_and_unchanged(void **state)
{
    uint8_t key[SEAL_KEY_SIZE] = {1}, other[SEAL_KEY_SIZE] = {2};
    struct buf sealed = {0}, plain = {0};
    assert_int_equal(seal(key, "secret", 6, &sealed), 0);
    assert_int_equal(unseal(key, sealed.data, sealed.len, &plain), 0);
    assert_string_equal(plain.data, "secret");
    buf_clear(&plain);
    assert_int_equal(unseal(other, sealed.data, sealed.len, &plain), ERR_DENIED);
    sealed.data[sealed.len - 20] ^= 1;
    assert_int_equal(unseal(key, sealed.data, sealed.len, &plain), ERR_DENIED);
    assert_int_equal(unseal(key, sealed.data, 3, &plain), ERR_DENIED);
    assert_int_equal(plain.len, 0);
    buf_done(&sealed);
    buf_done(&plain);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_ca_is_the_same_when_opened_again),
        TEST(the_ca_key_is_readable_by_its_owner_only),
        TEST(a_ca_of_another_trust_domain_is_refused),
        TEST(a_ca_without_its_key_is_not_replaced_by_a_new_one),
        TEST(a_lost_root_certificate_is_made_again_for_the_same_key),
        TEST(a_key_of_another_ca_is_noticed),
        TEST(the_root_is_a_ca_of_ten_years_and_nothing_below_it_is),
        TEST(an_agents_leaf_carries_its_identity_and_verifies_as_a_client),
        TEST(an_identity_of_another_trust_domain_is_not_read),
        TEST(a_leaf_of_another_ca_is_not_ours),
        TEST(a_leaf_with_several_uris_or_none_has_no_identity),
        TEST(the_servers_leaf_bears_names_and_addresses),
        TEST(a_hubs_leaf_serves_both_ends_of_a_link),
        TEST(derived_keys_differ_by_label_and_stay_the_same),
        TEST(a_name_that_is_none_is_refused),
        TEST(only_the_key_comes_out_of_a_request),
        TEST(a_request_with_pem_armour_is_understood),
        TEST(keys_of_other_kinds_are_judged),
        TEST(a_request_whose_signature_is_wrong_is_refused),
        TEST(malformed_requests_are_refused),
        TEST(certificates_travel_in_pkcs7),
        TEST(keys_and_certificates_survive_their_files),
        TEST(sealed_bytes_open_only_with_their_key_and_unchanged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
