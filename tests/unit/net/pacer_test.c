#include "net/pacer.h"

#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#define STREAMS 3

/* A stream that always has more; it takes `appetite` of each grant and gives the rest back. */
struct eater {
    struct pacer_turn turn;
    struct pacer *pacer;
    size_t appetite;
    uint64_t eaten;
};

static void eat(struct pacer_turn *t, size_t n)
{
    struct eater *e = container_of(t, struct eater, turn);
    size_t taken = MIN(n, e->appetite);
    e->eaten += taken;
    pacer_give_back(e->pacer, n - taken);
    pacer_wait(e->pacer, t, 1);
}

struct table {
    struct loop *loop;
    struct meter meters[2];
    struct pacer pacer;
    struct eater eaters[STREAMS];
};

static void lay(struct table *t, uint64_t first, uint64_t second)
{
    assert_int_equal(loop_new_virtual(&t->loop, 1000), 0);
    for (int i = 0; i < 2; i++)
        meter_init(&t->meters[i]);
    meter_set(&t->meters[0], &(struct meter_limits){.bandwidth = first});
    meter_set(&t->meters[1], &(struct meter_limits){.bandwidth = second});
    struct meter *const both[] = {&t->meters[0], &t->meters[1]};
    pacer_init(&t->pacer, t->loop, both, true);
    for (int i = 0; i < STREAMS; i++) {
        t->eaters[i] =
            (struct eater){.turn = {.fn = eat}, .pacer = &t->pacer, .appetite = SIZE_MAX};
        pacer_wait(&t->pacer, &t->eaters[i].turn, 1);
    }
}

static uint64_t serve(struct table *t, int ms)
{
    uint64_t sum = 0;
    for (int i = 0; i < ms; i++)
        loop_advance(t->loop, 1);
    for (int i = 0; i < STREAMS; i++)
        sum += t->eaters[i].eaten;
    return sum;
}

static void clear(struct table *t)
{
    for (int i = 0; i < STREAMS; i++)
        pacer_forget(&t->pacer, &t->eaters[i].turn);
    pacer_done(&t->pacer);
    for (int i = 0; i < 2; i++)
        meter_done(&t->meters[i]);
    loop_free(t->loop);
}

static void all_get_the_same_and_together_the_rate(void **state)
{
    struct table t = {0};
    lay(&t, 3000000, 0);
    uint64_t sum = serve(&t, 5000);
    assert_in_range(sum, 14700000, 15400000);
    for (int i = 0; i < STREAMS; i++)
        assert_in_range(t.eaters[i].eaten, sum / STREAMS - 100000, sum / STREAMS + 100000);
    clear(&t);
}

static void who_takes_little_leaves_the_rest_to_others(void **state)
{
    struct table t = {0};
    lay(&t, 3000000, 0);
    t.eaters[0].appetite = 100;
    uint64_t sum = serve(&t, 5000);
    assert_in_range(sum, 14700000, 15400000);
    assert_true(t.eaters[1].eaten > 2 * sum / 5 && t.eaters[2].eaten > 2 * sum / 5);
    clear(&t);
}

static void of_two_meters_the_narrower_decides(void **state)
{
    struct table t = {0};
    lay(&t, 50000000, 1000000);
    assert_in_range(serve(&t, 5000), 4900000, 5200000);
    assert_in_range(t.meters[0].out.level, 4900000, 5000000); /* what it gave came back */
    clear(&t);
}

static void without_a_limit_nobody_waits(void **state)
{
    struct table t = {0};
    lay(&t, 0, 0);
    assert_false(pacer_is_limited(&t.pacer));
    meter_set(&t.meters[1], &(struct meter_limits){.bandwidth = 1000000});
    assert_true(pacer_is_limited(&t.pacer));
    assert_int_equal(pacer_take(&t.pacer, 1000), 0); /* others wait already */
    clear(&t);
    lay(&t, 0, 0);
    for (int i = 0; i < STREAMS; i++)
        pacer_forget(&t.pacer, &t.eaters[i].turn);
    assert_int_equal(pacer_take(&t.pacer, 1000), 1000);
    clear(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_get_the_same_and_together_the_rate),
        cmocka_unit_test(who_takes_little_leaves_the_rest_to_others),
        cmocka_unit_test(of_two_meters_the_narrower_decides),
        cmocka_unit_test(without_a_limit_nobody_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
