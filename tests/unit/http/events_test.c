#include "http/events.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static int note(void *arg, const struct http_event *e)
{
    struct buf *b = arg;
    buf_printf(b, "[%s|%s|%s]", e->id, e->event, e->data);
    return strcmp(e->data, "stop") == 0 ? 5 : 0;
}

static void expect(const char *input, const char *output)
{
    size_t len = strlen(input);
    for (size_t step = 1; step <= len; step++) {
        struct http_event_reader r = {0};
        struct buf b = {0};
        for (size_t at = 0; at < len; at += step)
            assert_int_equal(http_events_read(&r, input + at, MIN(step, len - at), note, &b), 0);
        assert_string_equal(buf_text(&b), output);
        http_events_done(&r);
        buf_done(&b);
    }
}

static void events_are_the_same_in_any_cut_and_with_any_line_end(void **state)
{
    expect("id: 1\nevent: put\ndata: a\ndata: b\n\n", "[1|put|a\nb]");
    expect("id: 1\r\nevent: put\r\ndata: a\r\n\r\ndata:b\r\n\r\n", "[1|put|a][1|message|b]");
    expect("data: x\r\rdata: y\r\r", "[|message|x][|message|y]");
    expect("\xef\xbb\xbf"
           "data: x\n\n",
           "[|message|x]");
}

static void what_is_not_an_event_is_read_over(void **state)
{
    expect(":\n\n: comment\n\nretry: 10\nunknownfield: 1\n\n", "");
    expect("event: lonely\n\ndata: x\n\n", "[|message|x]");
    expect("data\n\n", "[|message|]");
    expect("data: unfinished\n", "");
}

static void a_reader_may_stop(void **state)
{
    struct http_event_reader r = {0};
    struct buf b = {0};
    static const char text[] = "data: stop\n\ndata: more\n\n";
    assert_int_equal(http_events_read(&r, text, sizeof(text) - 1, note, &b), 5);
    assert_string_equal(buf_text(&b), "[|message|stop]");
    http_events_done(&r);
    buf_done(&b);
}

static void an_endless_line_or_event_is_refused(void **state)
{
    static char big[HTTP_EVENT_MAX / 2];
    struct http_event_reader r = {0};
    struct buf b = {0};
    memset(big, 'x', sizeof(big));
    assert_int_equal(http_events_read(&r, big, sizeof(big), note, &b), 0);
    assert_int_equal(http_events_read(&r, big, sizeof(big), note, &b), 0);
    assert_int_equal(http_events_read(&r, big, sizeof(big), note, &b), ERR_TOO_LARGE);
    http_events_done(&r);
    r = (struct http_event_reader){0};
    int rc = 0;
    for (int i = 0; i < 4 && rc == 0; i++) {
        rc = http_events_read(&r, "data: ", 6, note, &b);
        rc = rc ? rc : http_events_read(&r, big, sizeof(big), note, &b);
        rc = rc ? rc : http_events_read(&r, "\n", 1, note, &b);
    }
    assert_int_equal(rc, ERR_TOO_LARGE);
    http_events_done(&r);
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_are_the_same_in_any_cut_and_with_any_line_end),
        cmocka_unit_test(what_is_not_an_event_is_read_over),
        cmocka_unit_test(a_reader_may_stop),
        cmocka_unit_test(an_endless_line_or_event_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
