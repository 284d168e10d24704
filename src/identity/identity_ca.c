/*
 * Where the CA is: in the data folder, or, for hubs that share a database, in its table `ca`, where
 * the key is sealed under a file that each of these hubs is given. The hub that finds the table
 * empty puts there the CA of its data folder, or a new one; of several at once the first counts.
 */
#include "identity/internal.h"

#include "base/file.h"
#include "base/mem.h"
#include "pki/seal.h"
#include "pki/token.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define KEY_FILE_MIN 32
#define KEY_FILE_MAX 4096

static_assert(SEAL_KEY_SIZE == 32, "a SHA-256 is a key");

struct ca_row {
    struct identity *i;
    char *cert;             /* NULL: the table is empty */
    struct buf sealed, pem; /* of the key; the certificate that is offered */
};

static int read_row(struct tx *tx, struct ca_row *r)
{
    size_t len;
    struct rows rows = tx_query(tx, "SELECT cert, key FROM ca WHERE id = 1");
    if (!TRY(row_next(&rows)))
        return 0;
    r->cert = mem_strdup(row_text(&rows, 0));
    const void *key = row_blob(&rows, 1, &len);
    buf_clear(&r->sealed);
    int rc = buf_append(&r->sealed, key, len);
    rows_done(&rows);
    return rc;
}

static int read_work(struct tx *tx, void *arg)
{
    return read_row(tx, arg);
}

static int offer_work(struct tx *tx, void *arg)
{
    struct ca_row *r = arg;
    TRY(tx_exec(tx,
                "INSERT INTO ca (id, cert, key, created) VALUES (1, $1, $2, $3) "
                "ON CONFLICT (id) DO NOTHING",
                STORE_TEXT(buf_text(&r->pem)), STORE_BLOB(r->sealed.data, r->sealed.len),
                STORE_INT(identity_now(r->i))));
    return read_row(tx, r);
}

/* ---- the key file ---- */

static int read_key_file(const char *path, uint8_t out[SEAL_KEY_SIZE], struct diag *d)
{
    CLEANUP(buf_done) struct buf text = {0};
    TRY(file_read(path, KEY_FILE_MAX, true, &text, d));
    bool is_long_enough = text.len >= KEY_FILE_MIN;
    if (is_long_enough)
        sha256(text.data, text.len, out);
    if (text.len)
        explicit_bzero(text.data, text.len);
    if (!is_long_enough)
        return diag_set_field(d, ERR_INVALID, "ca_key_file",
                              "%s has less than %d bytes; make one with: openssl rand -base64 48",
                              path, KEY_FILE_MIN);
    return 0;
}

/* ---- in the database ---- */

static bool has_own(const struct identity *i)
{
    CLEANUP(mem_free) char *path = mem_printf("%s/ca.key", i->data_dir);
    return access(path, F_OK) == 0;
}

static int offer(struct identity *i, const uint8_t key[SEAL_KEY_SIZE], struct ca_row *r,
                 struct diag *d)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret pem = {0};
    CLEANUP(ca_free) struct ca *ca = NULL;
    if (has_own(i))
        TRY(ca_open(i->data_dir, i->trust_domain, identity_now(i), &ca, d));
    else
        TRY(ca_make(i->trust_domain, identity_now(i), &ca, d));
    TRY(ca_export(ca, &pem));
    TRY(seal(key, pem.data, pem.len, &r->sealed));
    TRY(cert_to_pem(ca_cert(ca), &r->pem));
    int rc = store_run_wait(i->cfg.store, STORE_WRITE, offer_work, r);
    if (rc < 0)
        return diag_set(d, rc, "cannot put the CA into the database: %s", error_text(rc));
    if (has_own(i))
        LOG_WARN("the CA is in the database now, its key sealed; back up DIR/ca.key and remove it",
                 LOG_STR("dir", i->data_dir));
    return 0;
}

static int take(struct identity *i, const uint8_t key[SEAL_KEY_SIZE], const struct ca_row *r,
                struct diag *d)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret pem = {0};
    CLEANUP(buf_done) struct buf plain = {0};
    CLEANUP(mem_free) char *path = mem_printf("%s/ca.pem", i->data_dir);
    if (unseal(key, r->sealed.data, r->sealed.len, &plain) < 0)
        return diag_set_field(d, ERR_DENIED, "ca_key_file",
                              "%s is not the key file under which the database's CA is sealed",
                              i->cfg.ca_key_file);
    secret_set(&pem, plain.data, plain.len);
    explicit_bzero(plain.data, plain.len);
    TRY(ca_import(r->cert, &pem, i->trust_domain, &i->ca, d));
    return cert_save(ca_cert(i->ca), path, d); /* for those on this machine who trust it */
}

static void row_done(struct ca_row *r)
{
    mem_free(r->cert);
    buf_done(&r->sealed);
    buf_done(&r->pem);
}

static int open_shared(struct identity *i, struct ca_row *r, struct diag *d)
{
    uint8_t key[SEAL_KEY_SIZE];
    TRY(read_key_file(i->cfg.ca_key_file, key, d));
    int rc = r->cert ? 0 : offer(i, key, r, d);
    if (rc == 0)
        rc = take(i, key, r, d);
    explicit_bzero(key, sizeof(key));
    return rc;
}

int identity_open_ca(struct identity *i, struct diag *d)
{
    struct ca_row r = {.i = i};
    int rc = store_run_wait(i->cfg.store, STORE_READ, read_work, &r);
    if (rc < 0)
        rc = diag_set(d, rc, "cannot read the CA: %s", error_text(rc));
    else if (i->cfg.ca_key_file)
        rc = open_shared(i, &r, d);
    else if (r.cert)
        rc = diag_set_field(d, ERR_INVALID, "ca_key_file",
                            "this database holds the CA of its hubs: each needs the key file");
    else
        rc = ca_open(i->data_dir, i->trust_domain, identity_now(i), &i->ca, d);
    row_done(&r);
    return rc;
}
