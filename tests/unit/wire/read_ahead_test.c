#include "wire/read_ahead.h"

#include "base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
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

static void an_answer_is_read_as_it_was_written(void **state)
{
    struct read_ahead_answer a = {.generation = 3, .number = 70, .read_ms = 9, .request_len = 4};
    uint8_t data[READ_AHEAD_HEAD_SIZE + 16];
    struct read_ahead_answer back;
    size_t len = read_ahead_head_write(&a, data);
    memcpy(data + len, "askedanswer", 11);
    assert_int_equal(read_ahead_answer_read(data, len + 4, &back), ERR_PROTO); /* no answer */
    assert_int_equal(read_ahead_answer_read(data, len + 11, &back), 0);
    assert_int_equal(back.generation, 3);
    assert_int_equal(back.number, 70);
    assert_int_equal(back.read_ms, 9);
    assert_int_equal(back.request_len, 4);
    assert_memory_equal(back.answer, "danswer", back.answer_len);
    data[len - 1] = 0; /* no request */
    assert_int_equal(read_ahead_answer_read(data, len + 11, &back), ERR_PROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_note_is_read_as_it_was_written),
        cmocka_unit_test(an_answer_is_read_as_it_was_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
