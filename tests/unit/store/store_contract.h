/*
 * What every back end must do, as tests. A back end's own test file sets `store_contract_db` to
 * an empty database before each of them and runs the list with its own.
 */
#pragma once

#include "store/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

extern char store_contract_db[256];

struct store_bench {
    struct loop *loop;
    struct store *store;
};

/* Opens the database with the tables of the contract's own schema. */
extern const struct store_schema store_contract_schema;
void store_bench_open(struct store_bench *b, uint32_t queue_limit);
void store_bench_close(struct store_bench *b);
int store_bench_try(struct store_bench *b, const struct store_schema *const *schemas, size_t n,
                    struct diag *d); /* with other tables; negative: nothing was opened */

/* Runs `work` with a text and waits. */
int store_bench_write(struct store_bench *b, int (*work)(struct tx *tx, void *arg),
                      const char *text);

/* INSERT INTO item (name, size) VALUES (arg, its length). */
int store_contract_insert(struct tx *tx, void *name);
int64_t store_contract_count(struct store_bench *b);

#define STORE_CONTRACT_TESTS 18
extern const struct CMUnitTest store_contract_tests[STORE_CONTRACT_TESTS];
