#include "base/metric.h"

#include "base/macro.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { OPEN, BYTES, DIALS, WAIT, ROW_COUNT };
static const char *const directions[] = {"in", "out"}, *const kinds[] = {"a\"b", "c", "d\\"};
static const int64_t bounds[] = {1000, 2500000};
static const struct metric_row rows[ROW_COUNT] = {
    [OPEN] = {"x_open", METRIC_GAUGE, "Open things, \\ and\nmore"},
    [BYTES] = {"x_bytes_total", METRIC_COUNTER, "Bytes", {{"direction", directions, 2}}},
    [DIALS] = {"x_dials_total",
               METRIC_COUNTER,
               "Dials",
               {{"direction", directions, 2}, {"kind", kinds, 3}}},
    [WAIT] = {"x_wait_seconds",
              METRIC_HISTOGRAM,
              "Waits",
              {{"direction", directions, 2}},
              1e6,
              bounds,
              2},
};

static void assert_rendered(struct metrics *const *sets, size_t n, const char *expected)
{
    struct buf out = {0};
    assert_int_equal(metrics_render(sets, n, &out), 0);
    assert_string_equal(buf_text(&out), expected);
    buf_done(&out);
}

static void sets_of_several_threads_are_shown_as_their_sums(void **state)
{
    struct metrics *sets[] = {metrics_new(rows, ROW_COUNT), metrics_new(rows, ROW_COUNT)};
    metric_set(sets[0], OPEN, 0, 7);
    metric_add(sets[1], OPEN, 0, -2);
    metric_add(sets[0], BYTES, 1, 1000);
    metric_add(sets[1], BYTES, 1, 1);
    metric_add(sets[1], DIALS, METRIC_CELL2(1, 2, 3), 4);
    metric_observe(sets[0], WAIT, 0, 1000);
    metric_observe(sets[1], WAIT, 0, 1001);
    metric_observe(sets[1], WAIT, 0, 9000000);
    assert_int_equal(metric_get(sets[1], WAIT, 0), 2);
    assert_int_equal(metric_get(sets[0], OPEN, 0), 7);
    assert_rendered(sets, 2,
                    "# HELP x_open Open things, \\\\ and\\nmore\n"
                    "# TYPE x_open gauge\n"
                    "x_open 5\n"
                    "# HELP x_bytes_total Bytes\n"
                    "# TYPE x_bytes_total counter\n"
                    "x_bytes_total{direction=\"in\"} 0\n"
                    "x_bytes_total{direction=\"out\"} 1001\n"
                    "# HELP x_dials_total Dials\n"
                    "# TYPE x_dials_total counter\n"
                    "x_dials_total{direction=\"in\",kind=\"a\\\"b\"} 0\n"
                    "x_dials_total{direction=\"in\",kind=\"c\"} 0\n"
                    "x_dials_total{direction=\"in\",kind=\"d\\\\\"} 0\n"
                    "x_dials_total{direction=\"out\",kind=\"a\\\"b\"} 0\n"
                    "x_dials_total{direction=\"out\",kind=\"c\"} 0\n"
                    "x_dials_total{direction=\"out\",kind=\"d\\\\\"} 4\n"
                    "# HELP x_wait_seconds Waits\n"
                    "# TYPE x_wait_seconds histogram\n"
                    "x_wait_seconds_bucket{direction=\"in\",le=\"0.001\"} 1\n"
                    "x_wait_seconds_bucket{direction=\"in\",le=\"2.5\"} 2\n"
                    "x_wait_seconds_bucket{direction=\"in\",le=\"+Inf\"} 3\n"
                    "x_wait_seconds_sum{direction=\"in\"} 9.002001\n"
                    "x_wait_seconds_count{direction=\"in\"} 3\n"
                    "x_wait_seconds_bucket{direction=\"out\",le=\"0.001\"} 0\n"
                    "x_wait_seconds_bucket{direction=\"out\",le=\"2.5\"} 0\n"
                    "x_wait_seconds_bucket{direction=\"out\",le=\"+Inf\"} 0\n"
                    "x_wait_seconds_sum{direction=\"out\"} 0\n"
                    "x_wait_seconds_count{direction=\"out\"} 0\n");
    metrics_free(sets[0]);
    metrics_free(sets[1]);
}

static void *add_many(void *arg)
{
    for (int i = 0; i < 10000; i++)
        metric_add(arg, BYTES, 0, 3);
    return NULL;
}

static void no_addition_of_several_threads_is_lost(void **state)
{
    struct metrics *m = metrics_new(rows, ROW_COUNT);
    pthread_t threads[4];
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add_many, m), 0);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(metric_get(m, BYTES, 0), 120000);
    metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_of_several_threads_are_shown_as_their_sums),
        cmocka_unit_test(no_addition_of_several_threads_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
