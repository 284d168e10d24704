/*
 * SNMP messages of the versions 1 (RFC 1157) and 2c (RFC 1901, RFC 3416) in BER: as much of them as
 * it takes to know a walk when one is seen, to ask its next question, and to give an answer that
 * is there already to a question with another request-id. No I/O.
 *
 * A reader refuses whatever it does not know completely: other versions and operations, indefinite
 * lengths, bytes behind the end. What it accepts, it has checked to the last binding.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum snmp_pdu {
    SNMP_GET = 0xa0,
    SNMP_GET_NEXT = 0xa1,
    SNMP_RESPONSE = 0xa2,
    SNMP_SET = 0xa3,
    SNMP_GET_BULK = 0xa5,
};

/* Of values; the last three say in an answer that there is none (RFC 3416 section 3). */
enum snmp_type {
    SNMP_NULL = 0x05,
    SNMP_NO_OBJECT = 0x80,
    SNMP_NO_INSTANCE = 0x81,
    SNMP_END_OF_MIB = 0x82,
};

#define SNMP_V1 0
#define SNMP_V2 1

struct snmp_bytes {
    const uint8_t *data;
    size_t len;
};

/* A message; everything points into its bytes. */
struct snmp {
    struct snmp_bytes whole;
    uint8_t version, pdu;
    struct snmp_bytes community;
    int32_t id;
    int32_t first, second;      /* error-status and -index; non-repeaters and max-repetitions */
    struct snmp_bytes bindings; /* the list's content */
    size_t n_bindings;
    size_t version_at, pdu_at, id_at, id_end; /* offsets in `whole` */
};

struct snmp_binding {
    struct snmp_bytes name; /* the encoded object identifier's content */
    uint8_t type;
    struct snmp_bytes value;
};

/* 0, or ERR_PROTO: it is not one, or nothing that we know. */
int snmp_read(const uint8_t *data, size_t len, struct snmp *ret);
/* Takes the next of `rest`, which begins as `bindings` of a message; false after the last. */
bool snmp_next_binding(struct snmp_bytes *rest, struct snmp_binding *ret);

/* Whether it asks what comes after some names. */
bool snmp_is_step(const struct snmp *m);
/* Whether two requests ask for the same, by whoever may ask so: all is equal but the request-id.
 * Values, which mean nothing in a question, must be NULL. */
bool snmp_is_same(const struct snmp *a, const struct snmp *b);
uint64_t snmp_hash(const struct snmp *m); /* equal for requests that are the same */

/* Names in the order of a walk: <0, 0, >0. */
int snmp_compare(struct snmp_bytes a, struct snmp_bytes b);
/* At or below the root; everything is below one of a single byte, such as that of ".1". */
bool snmp_is_below(struct snmp_bytes root, struct snmp_bytes name);

/* Writing. Returned: the size, or ERR_TOO_LARGE for more than `cap`. */

/* The message with another request-id. */
int snmp_with_id(const struct snmp *m, int32_t id, uint8_t *out, size_t cap);
/* A request like this one, for other names. */
int snmp_request(const struct snmp *like, int32_t id, const struct snmp_bytes *names, size_t n,
                 uint8_t *out, size_t cap);

#define SNMP_COLUMNS_MAX 32 /* names of one request that is followed */

/* What a program that walks asks after it got this answer to that request: the last names of the
 * answer, one for each column. Its size, with the request-id 0; 0: nothing, the walk is at its end
 * (end of MIB, an error, names that do not rise) or of no kind that is known; ERR_TOO_LARGE. */
int snmp_follow(const struct snmp *request, const struct snmp *answer, uint8_t *out, size_t cap);
/* Whether a request's names are all at or below those of another with as many. */
bool snmp_is_within(const struct snmp *root, const struct snmp *request);
/* Whether a request's first name comes before another's. */
bool snmp_is_before(const struct snmp *a, const struct snmp *b);
