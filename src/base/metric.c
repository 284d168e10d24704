/*
 * Every metric owns a run of 64-bit words: one word per cell, or for a histogram `n_bounds + 2` per
 * cell (a count for each bucket, +Inf included, then the sum). All words of all rows are one array.
 */
#include "base/metric.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>

const int64_t metric_bounds_us[METRIC_BOUNDS_US] = {
    100, 250, 1000, 2500, 10000, 25000, 100000, 250000, 1000000, 2500000, 10000000};

static const char *const type_names[] = {"counter", "gauge", "histogram"};
static_assert(ARRAY_SIZE(type_names) == METRIC_TYPE_COUNT, "a name for each type");

struct metrics {
    const struct metric_row *rows;
    size_t n_rows;
    size_t *first; /* of each row, its first word; one more marks the end */
    _Atomic int64_t *words;
};

static size_t words_per_cell(const struct metric_row *row)
{
    return row->type == METRIC_HISTOGRAM ? row->n_bounds + 2 : 1;
}

static size_t n_cells(const struct metric_row *row)
{
    size_t n = 1;
    for (size_t i = 0; i < METRIC_LABELS && row->labels[i].key; i++)
        n *= row->labels[i].n;
    return n;
}

struct metrics *metrics_new(const struct metric_row *rows, size_t n_rows)
{
    struct metrics *m = NEW(struct metrics);
    m->rows = rows;
    m->n_rows = n_rows;
    m->first = mem_new((n_rows + 1) * sizeof(*m->first));
    for (size_t i = 0; i < n_rows; i++)
        m->first[i + 1] = m->first[i] + n_cells(&rows[i]) * words_per_cell(&rows[i]);
    m->words = mem_new(m->first[n_rows] * sizeof(*m->words));
    return m;
}

void metrics_free(struct metrics *m)
{
    if (!m)
        return;
    mem_free(m->first);
    mem_free((void *)m->words);
    mem_free(m);
}

static size_t word_of(const struct metrics *m, size_t row, size_t cell)
{
    assert(row < m->n_rows);
    size_t at = m->first[row] + cell * words_per_cell(&m->rows[row]);
    assert(at < m->first[row + 1]);
    return at;
}

void metric_add(struct metrics *m, size_t row, size_t cell, int64_t n)
{
    atomic_fetch_add_explicit(&m->words[word_of(m, row, cell)], n, memory_order_relaxed);
}

void metric_set(struct metrics *m, size_t row, size_t cell, int64_t value)
{
    assert(m->rows[row].type != METRIC_HISTOGRAM);
    atomic_store_explicit(&m->words[word_of(m, row, cell)], value, memory_order_relaxed);
}

void metric_observe(struct metrics *m, size_t row, size_t cell, int64_t value)
{
    const struct metric_row *r = &m->rows[row];
    size_t at = word_of(m, row, cell), bucket = 0;
    assert(r->type == METRIC_HISTOGRAM);
    while (bucket < r->n_bounds && value > r->bounds[bucket])
        bucket++;
    atomic_fetch_add_explicit(&m->words[at + bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->words[at + r->n_bounds + 1], value, memory_order_relaxed);
}

int64_t metric_get(const struct metrics *m, size_t row, size_t cell)
{
    size_t at = word_of(m, row, cell);
    size_t n = m->rows[row].type == METRIC_HISTOGRAM ? m->rows[row].n_bounds + 1 : 1;
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += atomic_load_explicit(&m->words[at + i], memory_order_relaxed);
    return sum;
}

/* ---- Prometheus text format 0.0.4 ---- */

struct render {
    struct metrics *const *sets;
    size_t n;
    struct buf *out;
};

static int64_t sum_of(const struct render *r, size_t word)
{
    int64_t sum = 0;
    for (size_t i = 0; i < r->n; i++)
        sum += atomic_load_explicit(&r->sets[i]->words[word], memory_order_relaxed);
    return sum;
}

static int put_number(struct buf *out, int64_t value, double scale)
{
    return scale == 0 ? buf_printf(out, "%" PRId64, value)
                      : buf_printf(out, "%.15g", (double)value / scale);
}

static int put_escaped(struct buf *out, const char *s, bool quotes_too)
{
    for (; *s; s++) {
        if (*s == '\n')
            TRY(buf_puts(out, "\\n"));
        else if (*s == '\\' || (*s == '"' && quotes_too))
            TRY(buf_printf(out, "\\%c", *s));
        else
            TRY(buf_append(out, s, 1));
    }
    return 0;
}

/* `{a="x",b="y",le="0.1"}`, or nothing without labels. `le` NULL: no bucket. */
static int put_labels(struct buf *out, const struct metric_row *row, size_t cell, const char *le)
{
    const char *separator = "{";
    size_t rest = n_cells(row);
    for (size_t i = 0; i < METRIC_LABELS && row->labels[i].key; i++) {
        rest /= row->labels[i].n;
        TRY(buf_printf(out, "%s%s=\"", separator, row->labels[i].key));
        TRY(put_escaped(out, row->labels[i].values[cell / rest % row->labels[i].n], true));
        TRY(buf_puts(out, "\""));
        separator = ",";
    }
    if (le) {
        TRY(buf_printf(out, "%sle=\"%s\"", separator, le));
        separator = ",";
    }
    return *separator == ',' ? buf_puts(out, "}") : 0;
}

static int put_line(const struct render *r, const struct metric_row *row, size_t cell,
                    const char *suffix, const char *le, int64_t value, double scale)
{
    TRY(buf_printf(r->out, "%s%s", row->name, suffix));
    TRY(put_labels(r->out, row, cell, le));
    TRY(buf_puts(r->out, " "));
    TRY(put_number(r->out, value, scale));
    return buf_puts(r->out, "\n");
}

static int put_histogram(const struct render *r, const struct metric_row *row, size_t cell,
                         size_t word)
{
    int64_t count = 0;
    for (size_t i = 0; i <= row->n_bounds; i++) {
        __attribute__((cleanup(buf_done_cleanup))) struct buf le = {0};
        if (i < row->n_bounds)
            put_number(&le, row->bounds[i], row->scale);
        else
            buf_puts(&le, "+Inf");
        count += sum_of(r, word + i);
        TRY(put_line(r, row, cell, "_bucket", buf_text(&le), count, 0));
    }
    TRY(put_line(r, row, cell, "_sum", NULL, sum_of(r, word + row->n_bounds + 1), row->scale));
    return put_line(r, row, cell, "_count", NULL, count, 0);
}

int metrics_render(struct metrics *const *sets, size_t n, struct buf *out)
{
    const struct render r = {sets, n, out};
    if (!n)
        return 0;
    const struct metrics *m = sets[0];
    for (size_t i = 0; i < m->n_rows; i++) {
        const struct metric_row *row = &m->rows[i];
        TRY(buf_printf(out, "# HELP %s ", row->name));
        TRY(put_escaped(out, row->help, false));
        TRY(buf_printf(out, "\n# TYPE %s %s\n", row->name, type_names[row->type]));
        for (size_t cell = 0; cell < n_cells(row); cell++) {
            size_t word = word_of(m, i, cell);
            if (row->type == METRIC_HISTOGRAM)
                TRY(put_histogram(&r, row, cell, word));
            else
                TRY(put_line(&r, row, cell, "", NULL, sum_of(&r, word), row->scale));
        }
    }
    return 0;
}
