/*
 * "Did you mean …?": the known word that is nearest to a mistyped one.
 */
#pragma once

#include <stddef.h>

struct nearest {
    const char *typed;
    const char *best; /* NULL: none is near; else points at `copy` */
    size_t distance;
    char copy[64];
};

struct nearest nearest_to(const char *typed);
void nearest_offer(struct nearest *n, const char *word);
