#include "wire/read_ahead.h"

#include "base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void a_note_is_read_as_it_was_written(void **state)
{
    const struct read_ahead_note n = {1, 2, 300, 1u << 20, 5, 0, 70000, 2000, 1ull << 40};
    uint8_t data[READ_AHEAD_NOTE_SIZE + 8];
    struct read_ahead_note back;
    size_t len = read_ahead_note_write(&n, data);
    assert_int_equal(read_ahead_note_read(data, len, &back), 0);
    assert_memory_equal(&n, &back, sizeof(n));
    assert_int_equal(read_ahead_note_read(data, len + 8, &back), 0); /* of a later version */
    for (size_t i = 0; i < len; i++)
        assert_int_equal(read_ahead_note_read(data, i, &back), ERR_PROTO);
}

#define ANSWERS 40

/* Answers of a walk. */
static size_t write_answers(uint8_t *out, int n)
{
    size_t at = 0;
    for (int i = 1; i <= n; i++) {
        char text[64];
        int len = snprintf(text, sizeof(text), "what is behind %dvalue %d behind", i, i + 1);
        size_t request = strcspn(text, "v");
        const struct read_ahead_answer a = {.generation = 3,
                                            .number = (uint64_t)i,
                                            .read_ms = 9,
                                            .request_len = request,
                                            .answer_len = (size_t)len - request};
        at += read_ahead_head_write(&a, out + at);
        memcpy(out + at, text, (size_t)len);
        at += (size_t)len;
    }
    return at;
}

static void answers_are_read_as_they_were_written(void **state)
{
    uint8_t data[ANSWERS * 100];
    const uint8_t *at = data;
    size_t len = write_answers(data, ANSWERS), left = len;
    struct read_ahead_answer back;
    for (int i = 1; i <= ANSWERS; i++) {
        assert_int_equal(read_ahead_answer_next(&at, &left, &back), 1);
        assert_int_equal(back.generation, 3);
        assert_int_equal(back.number, i);
        assert_int_equal(back.read_ms, 9);
        assert_memory_equal(back.request, "what is behind", 14);
        assert_memory_equal(back.answer, "value", 5);
    }
    assert_int_equal(read_ahead_answer_next(&at, &left, &back), 0);
    assert_true(at == data + len);
}

static void an_answer_that_is_cut_off_is_refused(void **state)
{
    uint8_t data[100];
    struct read_ahead_answer back;
    size_t len = write_answers(data, 1);
    for (size_t left = len - 1; left > 0; left--) {
        const uint8_t *at = data;
        size_t rest = left;
        assert_int_equal(read_ahead_answer_next(&at, &rest, &back), ERR_PROTO);
    }
    for (size_t i = 3; i < 5; i++) { /* no request; no answer */
        const uint8_t *at = data;
        size_t rest = len;
        write_answers(data, 1);
        data[i] = 0;
        assert_int_equal(read_ahead_answer_next(&at, &rest, &back), ERR_PROTO);
    }
}

static void what_is_packed_is_unpacked(void **state)
{
    uint8_t data[ANSWERS * 100];
    for (int n = 0; n <= ANSWERS; n++) {
        struct buf packed = {0}, back = {0};
        size_t len = write_answers(data, n);
        read_ahead_pack(data, len, &packed);
        assert_int_equal(read_ahead_unpack((uint8_t *)packed.data, packed.len, &back), 0);
        assert_int_equal(back.len, len);
        assert_memory_equal(buf_text(&back), data, len);
        assert_true(packed.len <= len + 1);
        if (n == ANSWERS)
            assert_true(packed.len < len / 4);
        buf_done(&packed);
        buf_done(&back);
    }
}

static void what_does_not_get_smaller_is_packed_as_it_is(void **state)
{
    static uint8_t data[READ_AHEAD_BATCH_MAX];
    struct buf packed = {0}, back = {0};
    uint32_t noise = 1;
    for (size_t i = 0; i < sizeof(data); i++) {
        noise = noise * 1664525 + 1013904223;
        data[i] = (uint8_t)(noise >> 24);
    }
    read_ahead_pack(data, sizeof(data), &packed);
    assert_int_equal(packed.len, 1 + sizeof(data));
    assert_int_equal(read_ahead_unpack((uint8_t *)packed.data, packed.len, &back), 0);
    assert_memory_equal(back.data, data, sizeof(data));
    buf_done(&packed);
    buf_done(&back);
}

static void what_is_malformed_or_grows_too_large_is_not_unpacked(void **state)
{
    /* 64 KiB of zeros, deflated */
    static const uint8_t bomb[79] = {1,    0xed, 0xc1, 1,    1,    0, 0,  0,
                                     0x80, 0x90, 0xfe, 0xaf, 0xee, 8, 10, [78] = 0x6a};
    uint8_t data[ANSWERS * 100];
    struct buf packed = {0}, back = {0};
    assert_int_equal(read_ahead_unpack(bomb, sizeof(bomb), &back), ERR_PROTO);
    assert_int_equal(read_ahead_unpack(bomb, 0, &back), ERR_PROTO);
    assert_int_equal(read_ahead_unpack((const uint8_t *)"\2abc", 4, &back), ERR_PROTO);
    read_ahead_pack(data, write_answers(data, ANSWERS), &packed);
    assert_int_equal(packed.data[0], 1);
    for (size_t len = 1; len < packed.len; len++)
        assert_int_equal(read_ahead_unpack((uint8_t *)packed.data, len, &back), ERR_PROTO);
    (void)buf_append(&packed, "x", 1); /* behind its end */
    assert_int_equal(read_ahead_unpack((uint8_t *)packed.data, packed.len, &back), ERR_PROTO);
    assert_int_equal(back.len, 0);
    buf_done(&packed);
    buf_done(&back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_note_is_read_as_it_was_written),
        cmocka_unit_test(answers_are_read_as_they_were_written),
        cmocka_unit_test(an_answer_that_is_cut_off_is_refused),
        cmocka_unit_test(what_is_packed_is_unpacked),
        cmocka_unit_test(what_does_not_get_smaller_is_packed_as_it_is),
        cmocka_unit_test(what_is_malformed_or_grows_too_large_is_not_unpacked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
