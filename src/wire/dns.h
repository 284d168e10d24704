/*
 * Questions for host addresses in the form of RFC 1035, and their answers: what a name server of a
 * few names needs. No I/O.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DNS_NAME_SIZE  256
#define DNS_ANSWER_MAX 512 /* bytes of what dns_answer writes: fits every resolver's UDP */

enum dns_type { DNS_A = 1, DNS_AAAA = 28, DNS_ANY = 255 };

enum dns_code { DNS_OK = 0, DNS_SERVER_FAILED = 2, DNS_NO_SUCH_NAME = 3, DNS_REFUSED = 5 };

struct dns_question {
    char name[DNS_NAME_SIZE]; /* in small letters, without the dot at the end; "": the root */
    uint16_t type;
    size_t len; /* bytes of the message up to its end */
};

/* Reads a query with one question of class IN. ERR_PROTO for anything else, also for names with
 * bytes that no host name has (they are not ours, whoever asks for them). */
int dns_question_parse(const uint8_t *data, size_t len, struct dns_question *ret);

/* The answer to the query `q` was read from: those of the `n` addresses (16 bytes, IPv4 as
 * ::ffff:a.b.c.d) that fit the question's type and the message. Its length. */
size_t dns_answer(uint8_t out[DNS_ANSWER_MAX], const uint8_t *query, const struct dns_question *q,
                  enum dns_code code, const uint8_t (*addresses)[16], size_t n, uint32_t ttl_s);
