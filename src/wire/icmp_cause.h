/*
 * The ICMP error behind a failure to reach a target (RFC 792, RFC 4443): what was said, and by
 * whom. In text, as a parameter of Proxy-Status: "3.13 10.0.0.1", type, code and sender.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct icmp_cause {
    uint8_t version; /* of IP, 4 or 6; 0: there was none */
    uint8_t type, code;
    uint8_t from[16]; /* IPv4 as ::ffff:a.b.c.d; all zero: who tried said it, by its own routes */
};

#define ICMP_CAUSE_SIZE 64

/* Whether such an error ends or marks an attempt: destination unreachable (but not "too big", of
 * which a kernel takes care), time exceeded, parameter problem. */
bool icmp_cause_is_error(const struct icmp_cause *c);
bool icmp_cause_has_sender(const struct icmp_cause *c);

void icmp_cause_format(const struct icmp_cause *c, char out[ICMP_CAUSE_SIZE]);
/* The whole text, of an error that counts; ERR_INVALID otherwise, `ret` is untouched. */
int icmp_cause_parse(const char *s, size_t len, struct icmp_cause *ret);

/* What a router would say for an errno value with which this machine's own routes refuse a target;
 * false: nothing, or they did not. */
bool icmp_cause_of_errno(int errnum, bool is_v6, struct icmp_cause *ret);
