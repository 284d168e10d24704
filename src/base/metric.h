/*
 * Counters, gauges and histograms, shown in Prometheus' text format 0.0.4.
 *
 * An owner describes its metrics in a constant table and addresses them by row, so label values
 * are a fixed list too and cannot grow with traffic. Updates are relaxed atomics: any thread may
 * make them. For hot paths give each loop its own `struct metrics` of the same table; rendering
 * takes all of them and shows the sums.
 *
 *     enum { NET_HANDSHAKES, NET_METRIC_COUNT };
 *     static const struct metric_row rows[NET_METRIC_COUNT] = {
 *         [NET_HANDSHAKES] = {"warren_handshakes_total", METRIC_COUNTER, "TLS handshakes ended",
 *                             .labels = {{"result", results, RESULT_COUNT}}},
 *     };
 *     metric_add(m, NET_HANDSHAKES, RESULT_TIMEOUT, 1);
 */
#pragma once

#include "base/buf.h"

#include <stddef.h>
#include <stdint.h>

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM, METRIC_TYPE_COUNT };

#define METRIC_LABELS 2

struct metric_label {
    const char *key;
    const char *const *values;
    size_t n; /* how many values */
};

struct metric_row {
    const char *name;
    enum metric_type type;
    const char *help;
    struct metric_label labels[METRIC_LABELS]; /* key NULL: unused */
    double scale;          /* the shown number is value / scale; 0: 1. 1e6 shows µs as seconds */
    const int64_t *bounds; /* HISTOGRAM: upper bounds, rising, unscaled */
    size_t n_bounds;
};

struct metrics;

/* `rows` must outlive it; all values start at 0. */
struct metrics *metrics_new(const struct metric_row *rows, size_t n_rows);
void metrics_free(struct metrics *m);

/* `cell` is the index of the label value; 0 without labels; METRIC_CELL2 for two labels. */
#define METRIC_CELL2(first, second, n_second) ((size_t)(first) * (n_second) + (size_t)(second))

void metric_add(struct metrics *m, size_t row, size_t cell, int64_t n);         /* counter, gauge */
void metric_set(struct metrics *m, size_t row, size_t cell, int64_t value);     /* gauge */
void metric_observe(struct metrics *m, size_t row, size_t cell, int64_t value); /* histogram */
int64_t metric_get(const struct metrics *m, size_t row, size_t cell); /* histogram: the count */

/* Appends `n` sets made from the same table as one. A gauge is summed like the rest. */
int metrics_render(struct metrics *const *sets, size_t n, struct buf *out);

/* Bounds for durations in µs: 100 µs to 10 s, and their number. */
#define METRIC_BOUNDS_US 11
extern const int64_t metric_bounds_us[METRIC_BOUNDS_US];
