#include "identity/ca_store.h"

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define KEY_FILE_MAX 4096

struct row {
    int64_t id, created, signs;
    char *cert, *crossed, *seal; /* the last two may be NULL */
    struct buf key;              /* sealed; empty: in a file */
};

struct row_list {
    struct row rows[CA_ROOTS_MAX];
    size_t n;
};

static void row_list_done_cleanup(struct row_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        mem_free(l->rows[i].cert);
        mem_free(l->rows[i].crossed);
        mem_free(l->rows[i].seal);
        buf_done(&l->rows[i].key);
    }
}

/* ---- roots ---- */

void ca_roots_done(struct ca_roots *r)
{
    for (size_t i = 0; i < r->n; i++) {
        ca_free(r->list[i].ca);
        mem_free(r->list[i].crossed);
    }
    *r = (struct ca_roots){0};
}

const struct ca_root *ca_roots_signing(const struct ca_roots *r)
{
    const struct ca_root *signing = &r->list[0];
    for (size_t i = 1; i < r->n; i++) {
        if (r->list[i].signs)
            signing = &r->list[i];
    }
    return signing;
}

int ca_roots_to_pem(const struct ca_roots *r, struct buf *out)
{
    const struct ca_root *signing = ca_roots_signing(r);
    TRY(cert_to_pem(ca_cert(signing->ca), out));
    for (size_t i = r->n; i-- > 0;) {
        if (&r->list[i] != signing)
            TRY(cert_to_pem(ca_cert(r->list[i].ca), out));
    }
    return 0;
}

/* ---- what keys are sealed under ---- */

bool ca_source_is_given(const struct ca_source *s)
{
    return s->key_file || s->passphrase_file || s->passphrase;
}

static int read_private(const char *path, struct secret *ret, struct diag *d)
{
    CLEANUP(buf_done) struct buf text = {0};
    TRY(file_read(path, KEY_FILE_MAX, true, &text, d));
    secret_set(ret, buf_text(&text), text.len);
    if (text.len)
        explicit_bzero(text.data, text.len);
    return 0;
}

static int open_key_file(const struct ca_source *s, const struct secret *bytes,
                         struct seal_key *ret, struct diag *d)
{
    if (seal_key_of_file(bytes->data, bytes->len, ret) == 0)
        return 0;
    return diag_set_field(d, ERR_INVALID, "ca_key_file",
                          "%s has less than %d bytes; make one with: openssl rand -base64 48",
                          s->key_file, SEAL_FILE_MIN);
}

static int open_passphrase(const struct secret *phrase, const char *text, struct seal_key *ret,
                           struct diag *d)
{
    size_t len = phrase->len;
    while (len && strchr("\r\n", phrase->data[len - 1]))
        len--;
    int rc = seal_key_of_passphrase(phrase->data, len, text, ret);
    if (rc == ERR_INVALID)
        return diag_set_field(d, rc, "ca_passphrase_file",
                              "a passphrase has at least %d characters", SEAL_PHRASE_MIN);
    return rc < 0 ? diag_set_field(d, rc, "ca_passphrase_file",
                                   "no memory to make a key of the passphrase")
                  : 0;
}

/* `text`: of the seal as it is stored; NULL: a new one. */
static int open_source(const struct ca_source *s, const char *text, struct seal_key *ret,
                       struct diag *d)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret bytes = {0};
    bool is_phrase = !s->key_file;
    const char *field = is_phrase ? "ca_passphrase_file" : "ca_key_file";
    if (!!s->key_file + !!s->passphrase_file + !!s->passphrase > 1)
        return diag_set_field(d, ERR_INVALID, field,
                              "a CA is sealed under a key file or a passphrase, not several");
    if (text && seal_text_is_passphrase(text) != is_phrase)
        return diag_set_field(d, ERR_DENIED, field, "the database's CA is sealed under %s",
                              is_phrase ? "a key file: --ca-key-file"
                                        : "a passphrase: --ca-passphrase-file");
    if (!s->passphrase)
        TRY(read_private(is_phrase ? s->passphrase_file : s->key_file, &bytes, d));
    if (is_phrase)
        TRY(open_passphrase(s->passphrase ? s->passphrase : &bytes, text, ret, d));
    else
        TRY(open_key_file(s, &bytes, ret, d));
    if (!text || strcmp(text, ret->text) == 0)
        return 0;
    if (is_phrase)
        return diag_set_field(d, ERR_DENIED, field,
                              "this is not the passphrase under which the database's CA is sealed");
    return diag_set_field(d, ERR_DENIED, field,
                          "%s is not the key file under which the database's CA is sealed",
                          s->key_file);
}

/* ---- rows ---- */

static int read_rows(struct tx *tx, struct row_list *ret, struct diag *d)
{
    int rc;
    struct rows rows = tx_query(tx, "SELECT id, created, signs, cert, crossed, seal, key FROM ca "
                                    "WHERE retired IS NULL ORDER BY id");
    while ((rc = row_next(&rows)) > 0) {
        size_t len;
        if (ret->n == CA_ROOTS_MAX)
            return diag_set(d, ERR_LIMIT, "the database has too many CAs");
        struct row *r = &ret->rows[ret->n++];
        *r = (struct row){.id = row_int(&rows, 0),
                          .created = row_int(&rows, 1),
                          .signs = row_int(&rows, 2),
                          .cert = mem_strdup(row_text(&rows, 3)),
                          .crossed = mem_strdup(row_text(&rows, 4)),
                          .seal = mem_strdup(row_text(&rows, 5))};
        const void *key = row_blob(&rows, 6, &len);
        if (len)
            TRY(buf_append(&r->key, key, len));
    }
    return rc < 0 ? diag_set(d, rc, "cannot read the CA: %s", error_text(rc)) : 0;
}

static int insert(struct tx *tx, const struct ca_keeper *k, const struct ca_root *r,
                  const struct buf *sealed)
{
    CLEANUP(buf_done) struct buf pem = {0};
    bool is_sealed = sealed->len != 0;
    TRY(cert_to_pem(ca_cert(r->ca), &pem));
    return tx_exec(tx,
                   "INSERT INTO ca (id, cert, key, created, crossed, signs, seal) "
                   "VALUES ($1, $2, $3, $4, $5, $6, $7)",
                   STORE_INT(r->id), STORE_TEXT(buf_text(&pem)),
                   STORE_BLOB(is_sealed ? sealed->data : "", sealed->len), STORE_INT(r->created),
                   STORE_TEXT(r->crossed), r->signs ? STORE_INT(r->signs) : STORE_NULL,
                   STORE_TEXT(is_sealed ? k->seal.text : NULL));
}

static int seal_ca(const struct ca_keeper *k, const struct ca *ca, struct buf *out)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret pem = {0};
    TRY(ca_export(ca, &pem));
    return seal(k->seal.key, pem.data, pem.len, out);
}

/* ---- keys in files ---- */

static char *key_path(const struct ca_keeper *k, int64_t id)
{
    if (id == 0)
        return mem_printf("%s/ca.key", k->data_dir);
    return mem_printf("%s/ca-%lld.key", k->data_dir, (long long)id);
}

/* In its own file, or, once it is alone, in ca.key. */
static int import_from_file(struct ca_keeper *k, const struct row *r, struct ca **ret)
{
    const int64_t places[] = {r->id, 0};
    struct diag d = {0};
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        __attribute__((cleanup(secret_done_cleanup))) struct secret pem = {0};
        CLEANUP(mem_free) char *path = key_path(k, places[i]);
        if (read_private(path, &pem, &d) == 0 &&
            ca_import(r->cert, &pem, k->trust_domain, ret, &d) == 0)
            return 0;
    }
    return diag_set(&k->d, d.code ? d.code : ERR_NOT_FOUND,
                    "the key of root %lld of the CA is not in %s: %.200s", (long long)r->id,
                    k->data_dir, diag_text(&d));
}

/* When only one is left, its key's file is ca.key, in place of the one that has retired. */
static void tidy_files(struct ca_keeper *k, const struct row_list *l)
{
    if (!k->data_dir || l->n != 1 || l->rows[0].key.len)
        return;
    CLEANUP(mem_free) char *from = key_path(k, l->rows[0].id);
    CLEANUP(mem_free) char *to = key_path(k, 0);
    if (access(from, F_OK) == 0 && rename(from, to) < 0)
        LOG_WARN("cannot rename the CA's key", LOG_STR("file", from));
}

static bool has_own(const struct ca_keeper *k)
{
    CLEANUP(mem_free) char *path = k->data_dir ? key_path(k, 0) : NULL;
    return path && access(path, F_OK) == 0;
}

/* ---- reading ---- */

static int unseal_row(struct ca_keeper *k, const struct row *r, struct secret *ret)
{
    CLEANUP(buf_done) struct buf plain = {0};
    if (!k->seal.text[0])
        return diag_set_field(&k->d, ERR_INVALID, "ca_key_file",
                              "this database holds the CA of its hubs: each needs the %s",
                              r->seal && seal_text_is_passphrase(r->seal) ? "passphrase"
                                                                          : "key file");
    int rc = r->seal && strcmp(r->seal, k->seal.text) != 0 ? ERR_DENIED : 0;
    if (rc == 0)
        rc = unseal(k->seal.key, r->key.data, r->key.len, &plain);
    if (rc < 0)
        return diag_set_field(&k->d, ERR_DENIED, "ca_key_file",
                              "%s is not the key file under which the database's CA is sealed",
                              k->source.key_file ? k->source.key_file : "this passphrase");
    secret_set(ret, plain.data, plain.len);
    explicit_bzero(plain.data, plain.len);
    return 0;
}

static int import_sealed(struct ca_keeper *k, const struct row *r, struct ca **ret)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret pem = {0};
    TRY(unseal_row(k, r, &pem));
    return ca_import(r->cert, &pem, k->trust_domain, ret, &k->d);
}

static int take_rows(struct ca_keeper *k, const struct row_list *l, struct ca_roots *ret)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct row *r = &l->rows[i];
        struct ca *ca;
        TRY(r->key.len ? import_sealed(k, r, &ca) : import_from_file(k, r, &ca));
        ret->list[ret->n++] = (struct ca_root){.id = r->id,
                                               .created = r->created,
                                               .signs = r->signs,
                                               .ca = ca,
                                               .crossed = mem_strdup(r->crossed)};
    }
    return 0;
}

/* For those on this machine who trust it. */
static int write_bundle(struct ca_keeper *k, const struct ca_roots *roots)
{
    CLEANUP(buf_done) struct buf pem = {0}, there = {0};
    if (!k->data_dir || !roots->n)
        return 0;
    CLEANUP(mem_free) char *path = mem_printf("%s/ca.pem", k->data_dir);
    TRY(ca_roots_to_pem(roots, &pem));
    if (file_read(path, CERT_PEM_MAX, false, &there, NULL) == 0 &&
        strcmp(buf_text(&there), buf_text(&pem)) == 0)
        return 0;
    return file_write_atomic(path, pem.data, pem.len, 0644, &k->d);
}

int ca_store_read(struct tx *tx, struct ca_keeper *k, struct ca_roots *ret)
{
    __attribute__((cleanup(row_list_done_cleanup))) struct row_list l = {0};
    struct ca_roots roots = {0};
    TRY(read_rows(tx, &l, &k->d));
    int rc = take_rows(k, &l, &roots);
    if (rc == 0)
        rc = write_bundle(k, &roots);
    if (rc < 0) {
        ca_roots_done(&roots);
        return rc;
    }
    tidy_files(k, &l);
    *ret = roots;
    return 0;
}

/* ---- a hub's start ---- */

/* The CA of the data folder, or a new one, becomes the first root. */
static int offer(struct tx *tx, struct ca_keeper *k, int64_t now_ms)
{
    CLEANUP(ca_free) struct ca *ca = NULL;
    CLEANUP(buf_done) struct buf sealed = {0};
    if (has_own(k))
        TRY(ca_open(k->data_dir, k->trust_domain, now_ms, &ca, &k->d));
    else
        TRY(ca_make(k->trust_domain, now_ms, &ca, &k->d));
    TRY(seal_ca(k, ca, &sealed));
    const struct ca_root first = {.id = 1, .created = now_ms, .signs = now_ms, .ca = ca};
    return insert(tx, k, &first, &sealed);
}

/* Roots whose keys are in files, of a hub that had no seal until now. */
static int seal_files(struct tx *tx, struct ca_keeper *k, const struct row_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        CLEANUP(ca_free) struct ca *ca = NULL;
        CLEANUP(buf_done) struct buf sealed = {0};
        if (l->rows[i].key.len)
            continue;
        TRY(import_from_file(k, &l->rows[i], &ca));
        TRY(seal_ca(k, ca, &sealed));
        TRY(tx_exec(tx, "UPDATE ca SET key = $1, seal = $2 WHERE id = $3",
                    STORE_BLOB(sealed.data, sealed.len), STORE_TEXT(k->seal.text),
                    STORE_INT(l->rows[i].id)));
    }
    return 0;
}

/* How what is there is sealed; NULL: as of old, or nothing is. */
static const char *seal_of(const struct row_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        if (l->rows[i].seal)
            return l->rows[i].seal;
    }
    return NULL;
}

static int open_sealed(struct tx *tx, struct ca_keeper *k, int64_t now_ms, const struct row_list *l)
{
    TRY(open_source(&k->source, seal_of(l), &k->seal, &k->d));
    if (l->n)
        return seal_files(tx, k, l);
    TRY(offer(tx, k, now_ms));
    return 0;
}

int ca_store_open(struct tx *tx, struct ca_keeper *k, int64_t now_ms, struct ca_roots *ret)
{
    __attribute__((cleanup(row_list_done_cleanup))) struct row_list l = {0};
    TRY(read_rows(tx, &l, &k->d));
    bool is_given = ca_source_is_given(&k->source);
    if (is_given)
        TRY(open_sealed(tx, k, now_ms, &l));
    if (is_given || l.n) {
        TRY(ca_store_read(tx, k, ret));
        if (is_given && has_own(k))
            LOG_WARN("the CA is in the database now, its key sealed; back up DIR/ca*.key and "
                     "remove it",
                     LOG_STR("dir", k->data_dir));
        return 0;
    }
    struct ca_root first = {.id = 1};
    TRY(ca_open(k->data_dir, k->trust_domain, now_ms, &first.ca, &k->d));
    ret->list[0] = first;
    ret->n = 1;
    return 0;
}

/* ---- rotation ---- */

/* Roots that wait to sign. The eldest that is trusted is none, whatever its row says. */
#define WAITING                                   \
    "signs IS NULL AND retired IS NULL AND id > " \
    "(SELECT MIN(id) FROM ca WHERE retired IS NULL)"

static int last_id(struct tx *tx, int64_t *ret)
{
    return tx_query_int(tx, ret, "SELECT COALESCE(MAX(id), 0) FROM ca");
}

/* Roots as they are, of which none is without a row. */
static int read_for_change(struct tx *tx, struct ca_keeper *k, int64_t now_ms, struct ca_roots *ret)
{
    static const struct buf none;
    TRY(ca_store_read(tx, k, ret));
    if (ret->n)
        return 0;
    struct ca_root *first = &ret->list[0];
    struct cert_times times;
    TRY(ca_open(k->data_dir, k->trust_domain, now_ms, &first->ca, &k->d));
    ret->n = 1;
    TRY(cert_times(ca_cert(first->ca), &times));
    first->id = 1;
    first->created = first->signs = times.not_before_ms;
    return insert(tx, k, first, &none);
}

/* Its key is where the others' are, before the row. */
static int insert_next(struct tx *tx, struct ca_keeper *k, const struct ca_root *next)
{
    CLEANUP(buf_done) struct buf sealed = {0};
    if (k->seal.text[0]) {
        TRY(seal_ca(k, next->ca, &sealed));
    } else {
        __attribute__((cleanup(secret_done_cleanup))) struct secret pem = {0};
        CLEANUP(mem_free) char *path = key_path(k, next->id);
        TRY(ca_export(next->ca, &pem));
        TRY(file_write_atomic(path, pem.data, pem.len, 0600, &k->d));
    }
    return insert(tx, k, next, &sealed);
}

static int add_next(struct tx *tx, struct ca_keeper *k, const struct ca_roots *roots,
                    int64_t now_ms)
{
    CLEANUP(ca_free) struct ca *ca = NULL;
    CLEANUP(cert_free) X509 *crossed = NULL;
    CLEANUP(buf_done) struct buf pem = {0};
    struct ca_root next = {.created = now_ms};
    TRY(last_id(tx, &next.id));
    next.id++;
    TRY(ca_make(k->trust_domain, now_ms, &ca, &k->d));
    TRY(ca_cross_sign(ca_roots_signing(roots)->ca, ca, &crossed));
    TRY(cert_to_pem(crossed, &pem));
    next.ca = ca;
    next.crossed = pem.data;
    return insert_next(tx, k, &next);
}

int ca_store_start(struct tx *tx, struct ca_keeper *k, int64_t now_ms)
{
    struct ca_roots roots = {0};
    int rc = read_for_change(tx, k, now_ms, &roots);
    if (rc == 0 && roots.n > 1)
        rc = diag_set(&k->d, ERR_CONFLICT, "a rotation of the CA is under way already");
    if (rc == 0)
        rc = add_next(tx, k, &roots, now_ms);
    ca_roots_done(&roots);
    return rc;
}

int ca_store_sign(struct tx *tx, struct ca_keeper *k, int64_t now_ms)
{
    TRY(tx_exec(tx, "UPDATE ca SET signs = $1 WHERE " WAITING, STORE_INT(now_ms)));
    return tx_changed(tx) ? 0 : diag_set(&k->d, ERR_CONFLICT, "no new root waits to sign");
}

int ca_store_finish(struct tx *tx, struct ca_keeper *k, int64_t now_ms)
{
    TRY(tx_exec(tx,
                "UPDATE ca SET retired = $1, key = $2 WHERE retired IS NULL AND id < "
                "(SELECT MAX(id) FROM ca WHERE signs IS NOT NULL AND retired IS NULL)",
                STORE_INT(now_ms), STORE_BLOB("", 0)));
    return tx_changed(tx) ? 0 : diag_set(&k->d, ERR_CONFLICT, "there is no older root to retire");
}

int ca_store_cancel(struct tx *tx, struct ca_keeper *k, int64_t now_ms)
{
    TRY(tx_exec(tx, "UPDATE ca SET retired = $1, key = $2 WHERE " WAITING, STORE_INT(now_ms),
                STORE_BLOB("", 0)));
    return tx_changed(tx) ? 0
                          : diag_set(&k->d, ERR_CONFLICT,
                                     "no rotation can be given up: none is under way, or the new "
                                     "root signs already");
}

/* ---- another seal ---- */

static int reseal_row(struct tx *tx, struct ca_keeper *k, const struct row *r,
                      const struct seal_key *to)
{
    __attribute__((cleanup(secret_done_cleanup))) struct secret pem = {0};
    CLEANUP(buf_done) struct buf sealed = {0};
    TRY(unseal_row(k, r, &pem));
    TRY(seal(to->key, pem.data, pem.len, &sealed));
    return tx_exec(tx, "UPDATE ca SET key = $1, seal = $2 WHERE id = $3",
                   STORE_BLOB(sealed.data, sealed.len), STORE_TEXT(to->text), STORE_INT(r->id));
}

int ca_store_reseal(struct tx *tx, struct ca_keeper *k, const struct ca_source *to, size_t *ret_n)
{
    __attribute__((cleanup(row_list_done_cleanup))) struct row_list l = {0};
    struct seal_key next = {0};
    TRY(read_rows(tx, &l, &k->d));
    if (!l.n || !l.rows[0].key.len)
        return diag_set(&k->d, ERR_NOT_FOUND, "this database holds no sealed CA");
    TRY(open_source(&k->source, seal_of(&l), &k->seal, &k->d));
    int rc = open_source(to, NULL, &next, &k->d);
    for (size_t i = 0; i < l.n && rc == 0; i++)
        rc = reseal_row(tx, k, &l.rows[i], &next);
    seal_key_done(&next);
    *ret_n = l.n;
    return rc;
}
