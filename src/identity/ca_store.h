/*
 * Where the roots of the CA are kept: rows of the table `ca`. Their keys are in the rows, sealed
 * under a key file or a passphrase that every hub is given; or, for one hub without either, in
 * files of its data folder: ca.key, and ca-N.key of a root N that is to follow it. Such a hub has
 * no rows before its first rotation.
 *
 * Roots that are trusted have a life of three: they are there (trusted, so that agents and hubs
 * learn of them), they sign, they are retired. The newest that signs is the one that does.
 *
 * Inside transactions, on the store's thread; all block.
 */
#pragma once

#include "base/diag.h"
#include "pki/ca.h"
#include "pki/seal_key.h"
#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CA_ROOTS_MAX 4 /* trusted at the same time */

/* What the keys are sealed under. At most one is given. */
struct ca_source {
    const char *key_file, *passphrase_file;
    const struct secret *passphrase; /* of the environment */
};
bool ca_source_is_given(const struct ca_source *s);

/* One hub's access. `seal` is filled in by ca_store_open. */
struct ca_keeper {
    const char *data_dir; /* NULL: nothing of it is read or written */
    const char *trust_domain;
    struct ca_source source;
    struct seal_key seal;
    struct diag d; /* why a function has failed */
};

struct ca_root {
    int64_t id;
    int64_t created, signs; /* wall ms; 0: not yet */
    struct ca *ca;
    char
        *crossed; /* PEM of its key signed by the root before it, retired or not; NULL: the first */
};

/* Those that are trusted, oldest first. */
struct ca_roots {
    struct ca_root list[CA_ROOTS_MAX];
    size_t n;
};
void ca_roots_done(struct ca_roots *r);
const struct ca_root *ca_roots_signing(const struct ca_roots *r);
/* PEM of them, the one that signs first, then the newest first. Appends. */
int ca_roots_to_pem(const struct ca_roots *r, struct buf *out);

/* At a hub's start: makes the CA, or puts that of the data folder into the table, if this is for
 * the first hub to do. Errors are told in k->d. */
int ca_store_open(struct tx *tx, struct ca_keeper *k, int64_t now_ms, struct ca_roots *ret);
/* As they are now; writes the data folder's ca.pem if that is another one. */
int ca_store_read(struct tx *tx, struct ca_keeper *k, struct ca_roots *ret);

/* The steps of a rotation. ERR_CONFLICT: this is not the time for it. */
int ca_store_start(struct tx *tx, struct ca_keeper *k, int64_t now_ms);  /* a new root, trusted */
int ca_store_sign(struct tx *tx, struct ca_keeper *k, int64_t now_ms);   /* that one signs */
int ca_store_finish(struct tx *tx, struct ca_keeper *k, int64_t now_ms); /* older ones retire */
int ca_store_cancel(struct tx *tx, struct ca_keeper *k, int64_t now_ms); /* one that never signed */

/* Seals what `k` opens under `to` instead; *ret_n: how many keys. */
int ca_store_reseal(struct tx *tx, struct ca_keeper *k, const struct ca_source *to, size_t *ret_n);
