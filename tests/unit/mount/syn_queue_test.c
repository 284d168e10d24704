#include "mount/syn_queue.h"

#include "base/macro.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct packet syn(uint16_t far_port, uint32_t seq)
{
    static uint8_t ip[100] = {0x45, [99] = 7};
    return (struct packet){.ip = ip,
                           .ip_len = sizeof(ip),
                           .ends = {.far = {[10] = 0xff, 0xff, 10, 0, 0, 1}, .far_port = far_port},
                           .tcp = {.seq = seq, .flags = PACKET_SYN},
                           .payload = ip,
                           .payload_len = 5};
}

static void put(struct syn_queue *q, uint16_t far_port, uint32_t seq)
{
    struct packet p = syn(far_port, seq);
    syn_queue_put(q, &p);
}

/* Takes the next; its target. */
static uint16_t take(struct syn_queue *q, uint32_t *ret_seq)
{
    struct syn_waiting *w = syn_queue_take(q);
    assert_non_null(w);
    uint16_t port = w->packet.ends.far_port;
    *ret_seq = w->packet.tcp.seq;
    assert_ptr_equal(w->packet.ip, w->quote);
    assert_int_equal(w->packet.ip_len, SYN_QUOTE);
    assert_int_equal(w->quote[0], 0x45);
    assert_int_equal(w->packet.payload_len, 0);
    mem_free(w);
    return port;
}

static void syns_of_one_target_keep_their_order(void **state)
{
    struct syn_queue q = {0};
    uint32_t seq;
    assert_null(syn_queue_take(&q));
    for (uint32_t i = 0; i < 5; i++)
        put(&q, 80, i);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(take(&q, &seq), 80);
        assert_int_equal(seq, i);
    }
    assert_null(syn_queue_take(&q));
}

static void a_target_that_is_flooded_keeps_no_other_one_waiting(void **state)
{
    struct syn_queue q = {0};
    uint32_t seq = 0;
    int before = 0;
    for (uint32_t i = 0; i < 2 * SYN_QUEUE_MAX; i++)
        put(&q, 80, i);
    assert_int_equal(q.n, SYN_QUEUE_MAX);
    put(&q, 81, 12345);
    assert_int_equal(q.n, SYN_QUEUE_MAX);
    while (take(&q, &seq) != 81)
        before++;
    assert_int_equal(seq, 12345);
    assert_in_range(before, 0, 1);
    syn_queue_done(&q);
    assert_int_equal(q.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(syns_of_one_target_keep_their_order),
        cmocka_unit_test(a_target_that_is_flooded_keeps_no_other_one_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
