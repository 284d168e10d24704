#include "cli/nearest.h"

#include "base/macro.h"

#include <stdio.h>
#include <string.h>

#define WORD_MAX 63

struct nearest nearest_to(const char *typed)
{
    return (struct nearest){.typed = typed};
}

/* Levenshtein's distance of words up to WORD_MAX. */
static size_t distance(const char *a, const char *b)
{
    size_t row[WORD_MAX + 1];
    size_t n = strlen(b);
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t above = row[j];
            size_t change = diagonal + (a[i - 1] != b[j - 1]);
            size_t insert = MIN(above, row[j - 1]) + 1;
            row[j] = MIN(change, insert);
            diagonal = above;
        }
    }
    return row[n];
}

void nearest_offer(struct nearest *n, const char *word)
{
    if (strlen(n->typed) > WORD_MAX || strlen(word) > WORD_MAX)
        return;
    size_t far = distance(n->typed, word);
    if (far > 1 + strlen(word) / 4 || (n->best && far >= n->distance))
        return;
    n->distance = far;
    snprintf(n->copy, sizeof(n->copy), "%s", word);
    n->best = n->copy;
}
