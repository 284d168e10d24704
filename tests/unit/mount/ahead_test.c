/* Both halves of reading ahead, with a distance between them, a program that walks and a device: in
 * virtual time. What the program sees is compared with what it sees at the device itself. */
#include "mount/ahead.h"

#include "base/macro.h"
#include "base/mem.h"
#include "fake_device.h"
#include "wire/walker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <utlist.h>

#include <cmocka.h>

#define RETRY_MS 1000
#define TRIES    6
#define TTL_MS   2000
#define SEEN_MAX 20000
#define FIRST_ID 100

enum where {
    AT_PROGRAM,
    AT_MOUNT_PLAIN,
    AT_MOUNT_AHEAD,
    AT_AGENT_NOTE,
    AT_AGENT,
    AT_DEVICE,
    AT_DEVICE_AHEAD,
    AT_AGENT_ANSWER,
    AT_AGENT_AHEAD,
    WHEN_PROGRAM_RETRIES,
    WHEN_PROGRAM_ASKS
};

struct event {
    uint64_t at_ms, order;
    enum where where;
    size_t len;
    struct event *prev, *next;
    uint8_t data[];
};

struct sim {
    struct event *events;
    uint64_t now_ms, orders, busy_ms; /* until which the device has work */
    uint64_t distance_ms;             /* one way */
    uint64_t device_ms;               /* for one answer */
    uint64_t think_ms;                /* of the program */
    uint64_t dead_from, dead_to;      /* the device hears nothing */
    int late_every;                   /* each n-th answer comes 700 ms late */
    int answers;
    bool is_parallel; /* the device answers many at a time */
    bool is_direct;   /* the program stands beside the device */

    struct ahead_stats stats;
    struct ahead *ahead;
    struct walker *walker;
    struct fake_device device;

    int version;
    enum fake_ask ask;
    int object, tries, stop_at;
    int32_t id;
    bool is_over, gave_up;
    int seen[SEEN_MAX], values[SEEN_MAX];
    int n_seen;
    uint64_t oldest_ms; /* the greatest age of an answer */
    uint64_t over_ms;
};

static int compare(const struct event *a, const struct event *b)
{
    return a->at_ms != b->at_ms ? (a->at_ms < b->at_ms ? -1 : 1) : a->order < b->order ? -1 : 1;
}

static void later(struct sim *s, uint64_t delay_ms, enum where where, const void *data, size_t len)
{
    struct event *e = mem_new(sizeof(*e) + len);
    e->at_ms = s->now_ms + delay_ms;
    e->order = ++s->orders;
    e->where = where;
    e->len = len;
    if (len)
        memcpy(e->data, data, len);
    DL_INSERT_INORDER(s->events, e, compare);
}

/* ---- the program ---- */

static void mount_sends(struct sim *s, const uint8_t *data, size_t len);

static void program_asks(struct sim *s)
{
    uint8_t out[512];
    int32_t retry = s->id;
    size_t n = fake_request(out, s->version, s->ask, s->id, s->object);
    later(s, RETRY_MS, WHEN_PROGRAM_RETRIES, &retry, sizeof(retry));
    if (s->is_direct)
        later(s, 0, AT_DEVICE, out, n);
    else
        mount_sends(s, out, n);
}

static void program_gets(struct sim *s, const uint8_t *data, size_t len)
{
    struct fake_reading r;
    fake_read(data, len, &r);
    if (s->is_over || r.id != s->id)
        return;
    s->is_over = r.error != 0;
    assert_true(s->n_seen < SEEN_MAX - 128);
    s->seen[s->n_seen++] = -r.error;
    for (int i = 0; i < r.n && !s->is_over; i++) {
        s->is_over = r.object[i] <= s->object || (s->stop_at && r.object[i] >= s->stop_at);
        s->object = r.object[i];
        s->values[s->n_seen] = r.value[i];
        s->seen[s->n_seen++] = r.object[i];
    }
    s->over_ms = s->now_ms;
    s->tries = 0;
    s->id++;
    if (!s->is_over)
        later(s, s->think_ms, WHEN_PROGRAM_ASKS, NULL, 0);
}

static void program_retries(struct sim *s, int32_t id)
{
    if (s->is_over || id != s->id)
        return;
    if (++s->tries >= TRIES)
        s->is_over = s->gave_up = true;
    else
        program_asks(s);
}

/* ---- the mount ---- */

static void tell(struct sim *s)
{
    uint8_t value[READ_AHEAD_NOTE_SIZE];
    struct read_ahead_note n;
    if (!ahead_has_news(s->ahead))
        return;
    ahead_note(s->ahead, s->now_ms, &n);
    later(s, s->distance_ms, AT_AGENT_NOTE, value, read_ahead_note_write(&n, value));
}

static void forward_waiting(struct sim *s)
{
    const struct buf *request;
    while ((request = ahead_take_waiting(s->ahead))) {
        tell(s);
        later(s, s->distance_ms, AT_AGENT, request->data, request->len);
    }
}

static void mount_sends(struct sim *s, const uint8_t *data, size_t len)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf answer = {0};
    enum ahead_verdict v = ahead_request(s->ahead, data, len, s->now_ms, &answer);
    if (v == AHEAD_VOID)
        ahead_reset(s->ahead);
    tell(s);
    forward_waiting(s);
    if (v == AHEAD_GIVE)
        later(s, 0, AT_PROGRAM, answer.data, answer.len);
    else
        later(s, s->distance_ms, AT_AGENT, data, len);
}

static void mount_gets_ahead(struct sim *s, const uint8_t *data, size_t len)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf answer = {0};
    struct read_ahead_answer a;
    assert_int_equal(read_ahead_answer_next(&data, &len, &a), 1);
    if (ahead_push(s->ahead, &a, s->now_ms, &answer) == AHEAD_GIVE)
        later(s, 0, AT_PROGRAM, answer.data, answer.len);
    forward_waiting(s);
}

/* ---- the agent ---- */

static void agent_asks(struct sim *s)
{
    uint8_t out[WALKER_REQUEST_MAX];
    size_t len;
    const uint8_t *orphan = walker_orphan(s->walker, &len);
    if (orphan)
        later(s, 0, AT_DEVICE, orphan, len);
    len = walker_next(s->walker, s->now_ms, out);
    if (len)
        later(s, 0, AT_DEVICE_AHEAD, out, len);
}

static void agent_note(struct sim *s, const uint8_t *data, size_t len)
{
    struct read_ahead_note n;
    assert_int_equal(read_ahead_note_read(data, len, &n), 0);
    walker_note(s->walker, &n, s->now_ms);
}

static void device_gets(struct sim *s, const struct event *e)
{
    uint8_t out[FAKE_ANSWER_MAX];
    bool is_dead = s->now_ms >= s->dead_from && s->now_ms < s->dead_to;
    size_t n = is_dead ? 0 : fake_device_answer(&s->device, e->data, e->len, out);
    if (n == 0)
        return;
    s->busy_ms = MAX(s->busy_ms, s->now_ms) + s->device_ms;
    uint64_t delay = s->is_parallel ? s->device_ms : s->busy_ms - s->now_ms;
    if (s->late_every && ++s->answers % s->late_every == 0)
        delay += 700;
    later(s, delay,
          e->where == AT_DEVICE_AHEAD ? AT_AGENT_AHEAD
          : s->is_direct              ? AT_PROGRAM
                                      : AT_AGENT_ANSWER,
          out, n);
}

static void agent_gets_ahead(struct sim *s, const struct event *e)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf value = {0};
    if (walker_answer(s->walker, e->data, e->len, s->now_ms, &value))
        later(s, s->distance_ms, AT_MOUNT_AHEAD, value.data, value.len);
}

/* ---- time ---- */

static void handle(struct sim *s, const struct event *e)
{
    int32_t id;
    switch (e->where) {
    case AT_PROGRAM:
        program_gets(s, e->data, e->len);
        return;
    case WHEN_PROGRAM_ASKS:
        program_asks(s);
        return;
    case WHEN_PROGRAM_RETRIES:
        memcpy(&id, e->data, sizeof(id));
        program_retries(s, id);
        return;
    case AT_MOUNT_PLAIN:
        if (ahead_response(s->ahead, e->data, e->len))
            ahead_reset(s->ahead);
        program_gets(s, e->data, e->len);
        return;
    case AT_MOUNT_AHEAD:
        mount_gets_ahead(s, e->data, e->len);
        return;
    case AT_DEVICE:
    case AT_DEVICE_AHEAD:
        device_gets(s, e);
        return;
    case AT_AGENT_NOTE:
        agent_note(s, e->data, e->len);
        break;
    case AT_AGENT:
        if (!walker_request(s->walker, e->data, e->len, s->now_ms))
            later(s, 0, AT_DEVICE, e->data, e->len);
        break;
    case AT_AGENT_ANSWER:
        later(s, s->distance_ms, AT_MOUNT_PLAIN, e->data, e->len);
        walker_response(s->walker, e->data, e->len, s->now_ms);
        break;
    case AT_AGENT_AHEAD:
        agent_gets_ahead(s, e);
        break;
    }
    agent_asks(s);
}

static void run(struct sim *s)
{
    while (s->events) {
        struct event *e = s->events;
        uint64_t due = s->is_direct ? WALKER_NEVER : walker_due_ms(s->walker);
        if (due < e->at_ms) {
            s->now_ms = MAX(s->now_ms, due);
            walker_timeout(s->walker, s->now_ms);
            agent_asks(s);
            continue;
        }
        DL_DELETE(s->events, e);
        s->now_ms = e->at_ms;
        handle(s, e);
        mem_free(e);
    }
}

static struct sim *sim_new(enum fake_ask ask, int n_objects)
{
    struct sim *s = NEW(struct sim);
    s->distance_ms = 50;
    s->device_ms = 1;
    s->version = 1;
    s->ask = ask;
    s->device.n_objects = n_objects;
    s->id = FIRST_ID;
    s->ahead = ahead_new(TTL_MS, &s->stats);
    s->walker = walker_new(7);
    return s;
}

static void sim_free(struct sim *s)
{
    struct event *e, *next;
    DL_FOREACH_SAFE (s->events, e, next)
        mem_free(e);
    ahead_free(s->ahead);
    walker_free(s->walker);
    assert_int_equal(s->stats.bytes, 0);
    mem_free(s);
}

static void walk(struct sim *s)
{
    program_asks(s);
    run(s);
    assert_true(s->is_over);
}

/* Runs the same walk beside the device: what the program sees must be the same. */
static struct sim *walk_and_compare(struct sim *s)
{
    struct sim *direct = sim_new(s->ask, s->device.n_objects);
    direct->is_direct = true;
    direct->version = s->version;
    direct->stop_at = s->stop_at;
    direct->device = s->device;
    direct->device_ms = s->device_ms;
    direct->is_parallel = s->is_parallel;
    direct->think_ms = s->think_ms;
    direct->late_every = s->late_every;
    direct->dead_from = s->dead_from;
    direct->dead_to = s->dead_to;
    walk(direct);
    walk(s);
    assert_false(direct->gave_up);
    assert_false(s->gave_up);
    assert_int_equal(s->n_seen, direct->n_seen);
    assert_memory_equal(s->seen, direct->seen, sizeof(int) * (size_t)s->n_seen);
    if (!s->device.counts)
        assert_memory_equal(s->values, direct->values, sizeof(int) * (size_t)s->n_seen);
    return direct;
}

/* ---- what it is for ---- */

static void a_walk_over_a_distance_takes_little_more_than_beside_the_device(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 2000), *direct = walk_and_compare(s);
    assert_true(direct->over_ms >= 2000);
    assert_true(s->over_ms <= direct->over_ms + 600); /* 100 ms for each of 2,000 otherwise */
    assert_true(s->device.asked <= direct->device.asked + 4); /* nothing is asked twice */
    assert_true(s->stats.hits >= 1990);
    sim_free(direct);
    sim_free(s);
}

static void so_does_one_by_bulk(void **state)
{
    struct sim *s = sim_new(FAKE_BULK, 4000);
    struct sim *direct = walk_and_compare(s);
    assert_true(s->over_ms <= direct->over_ms + 600);
    assert_true(s->stats.wasted <= 2);
    sim_free(direct);
    sim_free(s);
}

static void a_slow_device_is_not_asked_more_than_one_thing(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 100);
    s->device_ms = 80;
    struct sim *direct = walk_and_compare(s);
    assert_true(s->over_ms <= direct->over_ms * 5 / 4);
    assert_true(s->device.asked <= direct->device.asked + 4);
    sim_free(direct);
    sim_free(s);
}

static void a_device_slower_than_the_programs_patience_is_waited_for_as_ever(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 5);
    s->device_ms = 1500;
    s->is_parallel = true;
    sim_free(walk_and_compare(s));
    sim_free(s);
}

/* ---- ends ---- */

static void version_1_ends_with_no_such_name(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 300);
    s->version = 0;
    struct sim *direct = walk_and_compare(s);
    assert_int_equal(s->seen[s->n_seen - 1], -2);
    assert_int_equal(s->device.asked, direct->device.asked);
    sim_free(direct);
    sim_free(s);
}

static void a_device_that_loops_is_not_walked_for_ever(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 1000);
    s->device.loops_at = 200;
    struct sim *direct = walk_and_compare(s);
    assert_int_equal(s->device.asked, direct->device.asked);
    sim_free(direct);
    sim_free(s);
}

static void too_big_is_what_the_program_hears(void **state)
{
    struct sim *s = sim_new(FAKE_BULK, 1000);
    s->device.too_big_at = 300;
    struct sim *direct = walk_and_compare(s);
    assert_int_equal(s->seen[s->n_seen - 1], -1);
    assert_int_equal(s->device.asked, direct->device.asked);
    sim_free(direct);
    sim_free(s);
}

static void a_program_that_stops_wastes_a_bounded_number_of_requests(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 10000);
    s->stop_at = 20;
    walk(s);
    assert_true(s->device.asked <= 20 + 100 + WALKER_START + WALKER_GROWTH * 20);
    sim_free(s);
    s = sim_new(FAKE_NEXT, 10000); /* a single question */
    s->stop_at = 1;
    walk(s);
    assert_true(s->device.asked <= 2 + 100); /* a millisecond each */
    assert_true(walker_lesson(s->walker, 0) < WALKER_START / 4);
    sim_free(s);
}

static void what_was_never_used_teaches_to_wait_for_the_second_request(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 10000);
    walker_set_window(s->walker, 0);
    s->stop_at = 1;
    walk(s);
    assert_int_equal(s->device.asked, 1);
    sim_free(s);
    s = sim_new(FAKE_NEXT, 1000);
    walker_set_window(s->walker, 0);
    sim_free(walk_and_compare(s));
    assert_true(s->stats.hits > 990);
    sim_free(s);
}

static void a_slow_program_is_not_left_behind(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 1000);
    s->think_ms = 20; /* 50 in the second that counts */
    struct sim *direct = walk_and_compare(s);
    assert_true(s->over_ms <= direct->over_ms + 1000);
    assert_true(s->stats.wasted <= 20);
    assert_true(s->device.asked <= direct->device.asked + 20);
    sim_free(direct);
    sim_free(s);
}

/* ---- trouble ---- */

static void lost_requests_are_asked_again(void **state)
{
    for (int every = 2; every < 40; every += 3) {
        struct sim *s = sim_new(FAKE_NEXT, 200);
        s->device.mute_every = every;
        sim_free(walk_and_compare(s));
        sim_free(s);
    }
}

static void late_answers_are_nobodys(void **state)
{
    for (int every = 3; every < 30; every += 4) {
        struct sim *s = sim_new(every & 1 ? FAKE_NEXT : FAKE_BULK, 300);
        s->late_every = every;
        sim_free(walk_and_compare(s));
        sim_free(s);
    }
}

static void a_device_that_restarts_is_found_again(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 3000);
    s->dead_from = 300;
    s->dead_to = 2300;
    sim_free(walk_and_compare(s));
    assert_true(s->over_ms > 2300);
    sim_free(s);
}

static void no_answer_is_given_twice_or_too_old(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 500);
    s->device.counts = true;
    s->think_ms = 9;
    sim_free(walk_and_compare(s));
    for (int i = 0, last = 0; i < s->n_seen; i++) {
        if (s->seen[i] <= 0)
            continue;
        assert_true(s->values[i] > last);
        last = s->values[i];
    }
    sim_free(s);
}

/* ---- what may change the device ---- */

/* Gives the mount one request and counts what it holds after all has settled. */
static void settle(struct sim *s, enum fake_ask ask, int32_t id, int object)
{
    uint8_t out[512];
    size_t n = fake_request(out, 1, ask, id, object);
    s->is_over = true;
    mount_sends(s, out, n);
    run(s);
}

static bool is_held(struct sim *s, int object, uint64_t now_ms)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf answer = {0};
    uint8_t out[512];
    size_t n = fake_request(out, 1, FAKE_NEXT, 999, object);
    return ahead_request(s->ahead, out, n, now_ms, &answer) == AHEAD_GIVE;
}

static void a_set_makes_void_what_was_read_before(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 500);
    settle(s, FAKE_NEXT, 1, 0);
    assert_true(is_held(s, 1, s->now_ms));
    assert_true(is_held(s, 2, s->now_ms));
    settle(s, FAKE_SET, 2, 7);
    assert_false(is_held(s, 3, s->now_ms));
    assert_int_equal(s->stats.bytes, 0);
    sim_free(s);
}

static void answers_on_their_way_at_a_set_are_not_given(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 500);
    uint8_t out[512];
    s->is_over = true;
    mount_sends(s, out, fake_request(out, 1, FAKE_NEXT, 1, 0));
    later(s, 80, AT_MOUNT_PLAIN, NULL, 0);
    while (s->events && s->now_ms < 80) { /* the first answers have left the agent */
        struct event *e = s->events;
        DL_DELETE(s->events, e);
        s->now_ms = e->at_ms;
        if (e->len)
            handle(s, e);
        mem_free(e);
    }
    settle(s, FAKE_SET, 2, 7);
    assert_int_equal(s->device.sets, 1);
    for (int object = 1; object < 60; object++)
        assert_false(is_held(s, object, s->now_ms));
    sim_free(s);
}

static void a_get_changes_nothing(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 500);
    settle(s, FAKE_NEXT, 1, 0);
    settle(s, FAKE_GET, 2, 7);
    assert_true(is_held(s, 1, s->now_ms));
    sim_free(s);
}

static void nothing_older_than_its_time_is_given(void **state)
{
    struct sim *s = sim_new(FAKE_NEXT, 500);
    settle(s, FAKE_NEXT, 1, 0); /* read within 100 ms from time 50 on, by our clock from 0 on */
    assert_true(is_held(s, 1, TTL_MS - 1));
    assert_false(is_held(s, 2, TTL_MS + 200));
    assert_true(ahead_expire(s->ahead, TTL_MS + 200));
    assert_int_equal(s->stats.bytes, 0);
    assert_true(s->stats.wasted >= WALKER_START - 1);
    sim_free(s);
}

static void garbage_is_forwarded_and_voids(void **state)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf answer = {0};
    struct sim *s = sim_new(FAKE_NEXT, 500);
    assert_int_equal(ahead_request(s->ahead, (const uint8_t *)"0123", 4, 0, &answer), AHEAD_VOID);
    const struct read_ahead_answer a = {.generation = 1,
                                        .number = 1,
                                        .request = (const uint8_t *)"x",
                                        .request_len = 1,
                                        .answer = (const uint8_t *)"y",
                                        .answer_len = 1};
    assert_int_equal(ahead_push(s->ahead, &a, 0, &answer), AHEAD_FORWARD);
    assert_true(ahead_response(s->ahead, (const uint8_t *)"y", 1));
    assert_false(ahead_response(s->ahead, (const uint8_t *)"y", 1));
    sim_free(s);
}

static void an_agent_that_sends_too_much_is_not_believed(void **state)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf answer = {0};
    struct sim *s = sim_new(FAKE_NEXT, 500);
    static const uint8_t nothing[10];
    for (int i = 1; i < 3 * READ_AHEAD_WINDOW; i++) {
        uint8_t request[256];
        const struct read_ahead_answer a = {.generation = 1,
                                            .number = (uint64_t)i,
                                            .request = request,
                                            .request_len =
                                                fake_request(request, 1, FAKE_NEXT, 0, i),
                                            .answer = nothing,
                                            .answer_len = sizeof(nothing)};
        ahead_push(s->ahead, &a, 1, &answer);
    }
    assert_true(s->stats.wasted >= READ_AHEAD_WINDOW - 2);
    assert_true(s->stats.bytes <= (2u * READ_AHEAD_BYTES));
    assert_false(is_held(s, 3 * READ_AHEAD_WINDOW - 1, 1)); /* no answer at all */
    sim_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_walk_over_a_distance_takes_little_more_than_beside_the_device),
        cmocka_unit_test(so_does_one_by_bulk),
        cmocka_unit_test(a_slow_device_is_not_asked_more_than_one_thing),
        cmocka_unit_test(a_device_slower_than_the_programs_patience_is_waited_for_as_ever),
        cmocka_unit_test(version_1_ends_with_no_such_name),
        cmocka_unit_test(a_device_that_loops_is_not_walked_for_ever),
        cmocka_unit_test(too_big_is_what_the_program_hears),
        cmocka_unit_test(a_program_that_stops_wastes_a_bounded_number_of_requests),
        cmocka_unit_test(what_was_never_used_teaches_to_wait_for_the_second_request),
        cmocka_unit_test(a_slow_program_is_not_left_behind),
        cmocka_unit_test(lost_requests_are_asked_again),
        cmocka_unit_test(late_answers_are_nobodys),
        cmocka_unit_test(a_device_that_restarts_is_found_again),
        cmocka_unit_test(no_answer_is_given_twice_or_too_old),
        cmocka_unit_test(a_set_makes_void_what_was_read_before),
        cmocka_unit_test(answers_on_their_way_at_a_set_are_not_given),
        cmocka_unit_test(a_get_changes_nothing),
        cmocka_unit_test(nothing_older_than_its_time_is_given),
        cmocka_unit_test(garbage_is_forwarded_and_voids),
        cmocka_unit_test(an_agent_that_sends_too_much_is_not_believed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
