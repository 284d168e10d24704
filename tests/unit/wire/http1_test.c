#include "wire/http1.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define LIMITS ((struct http1_limits){.head_bytes = 512, .field_count = 8})

/* What a parser said, as text: "GET /a [Host=x] body=abc END". */
struct heard {
    struct http1 parser;
    struct buf text;
    int refuse_head;
};

static int on_head(struct http1 *p, const struct http1_head *h)
{
    struct heard *t = container_of(p, struct heard, parser);
    if (h->method)
        buf_printf(&t->text, "%s %s", h->method, h->target);
    else
        buf_printf(&t->text, "%d", h->status);
    for (size_t i = 0; i < h->n_fields; i++)
        buf_printf(&t->text, " [%s=%s]", h->fields[i].name, h->fields[i].value);
    buf_puts(&t->text, h->keep_alive ? " keep " : " close ");
    if (h->expect_continue)
        buf_puts(&t->text, "expect ");
    return t->refuse_head;
}

static int on_body(struct http1 *p, const void *data, size_t len)
{
    struct heard *t = container_of(p, struct heard, parser);
    return buf_append(&t->text, data, len);
}

static int on_end(struct http1 *p)
{
    struct heard *t = container_of(p, struct heard, parser);
    return buf_puts(&t->text, ".");
}

static const struct http1_ops ops = {on_head, on_body, on_end};

/* Feeds everything in pieces of `step` bytes, message after message. */
static int feed(struct heard *t, const char *data, size_t len, size_t step)
{
    size_t at = 0;
    while (at < len) {
        int64_t used = http1_feed(&t->parser, data + at, MIN(step, len - at));
        if (used < 0)
            return (int)used;
        at += (size_t)used;
        if (t->parser.ended)
            http1_next(&t->parser);
    }
    return 0;
}

static void expect_text(bool server, const char *input, size_t len, int code, const char *text)
{
    for (size_t step = 1; step <= len; step = step < 8 ? step + 1 : step * 2) {
        struct heard t = {0};
        if (server)
            http1_init_server(&t.parser, &ops, LIMITS);
        else
            http1_init_client(&t.parser, &ops, LIMITS);
        assert_int_equal(feed(&t, input, len, step), code);
        if (code == 0 && !server)
            assert_int_equal(http1_finish(&t.parser), 0);
        if (text)
            assert_string_equal(buf_text(&t.text), text);
        http1_done(&t.parser);
        buf_done(&t.text);
    }
}

#define REQUEST(input, text)        expect_text(true, input, sizeof(input) - 1, 0, text)
#define REFUSED(input, code)        expect_text(true, input, sizeof(input) - 1, code, NULL)
#define RESPONSE(input, text)       expect_text(false, input, sizeof(input) - 1, 0, text)
#define RESPONSE_REFUSED(input, rc) expect_text(false, input, sizeof(input) - 1, rc, NULL)

static void requests_are_the_same_in_any_cut(void **state)
{
    REQUEST("GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n", "GET /a?b=c [Host=x] keep .");
    REQUEST("\r\nGET / HTTP/1.1\r\nHost:x  \r\n\r\n", "GET / [Host=x] keep .");
    REQUEST("GET / HTTP/1.0\r\n\r\n", "GET / close .");
    REQUEST("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "GET / [Host=x] [Connection=close] close .");
    REQUEST("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            "POST / [Host=x] [Content-Length=3] keep abc.");
    REQUEST("PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na",
            "PUT / [Host=x] [Expect=100-continue] [Content-Length=1] keep expect a.");
    REQUEST("GET / HTTP/1.1\r\nHost: x\r\nX-Empty:\r\n\r\n", "GET / [Host=x] [X-Empty=] keep .");
}

static void chunks_are_joined_and_trailers_read_over(void **state)
{
    REQUEST("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            "2\r\nab\r\n3;a=b\r\ncde\r\n0\r\nTrail: er\r\n\r\n",
            "POST / [Host=x] [Transfer-Encoding=chunked] keep abcde.");
}

static void pipelined_requests_come_one_by_one(void **state)
{
    REQUEST("GET /1 HTTP/1.1\r\nHost: x\r\n\r\n"
            "POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"
            "GET /3 HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /1 [Host=x] keep .POST /2 [Host=x] [Content-Length=2] keep ab."
            "GET /3 [Host=x] keep .");
    static const char two[] = "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\n";
    struct heard t = {0};
    http1_init_server(&t.parser, &ops, LIMITS);
    assert_int_equal(http1_feed(&t.parser, two, sizeof(two) - 1), 28);
    assert_true(t.parser.ended);
    http1_done(&t.parser);
    buf_done(&t.text);
}

static void an_upgrade_offer_is_an_ordinary_request(void **state)
{
    REQUEST("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            "GET /2 HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / [Host=x] [Connection=Upgrade] [Upgrade=websocket] keep ."
            "GET /2 [Host=x] keep .");
    REQUEST("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "CONNECT a:1 [Host=a:1] keep .");
}

static void what_smuggling_lives_on_is_refused(void **state)
{
    REFUSED("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\na", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\na",
            ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", ERR_PROTO);
    REFUSED("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost : x\r\n\r\n", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\n Host: x\r\n\r\n", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: x\0y\r\n\r\n", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\n\n", ERR_PROTO);
    REFUSED("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ERR_PROTO);
    REFUSED("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            "fffffffffffffffff\r\n",
            ERR_PROTO);
    REFUSED("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
            ERR_PROTO);
}

static void a_request_needs_one_host_and_a_known_version(void **state)
{
    REFUSED("GET / HTTP/1.1\r\n\r\n", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", ERR_PROTO);
    REFUSED("GET / HTTP/2.0\r\nHost: a\r\n\r\n", ERR_PROTO);
    REFUSED("GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n", ERR_PROTO);
    REFUSED("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", ERR_PROTO);
    REFUSED("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", ERR_PROTO);
}

static void heads_are_limited_in_bytes_and_fields(void **state)
{
    char big[2048];
    struct heard t = {0};
    http1_init_server(&t.parser, &ops, LIMITS);
    int n = snprintf(big, sizeof(big), "GET /%0600d HTTP/1.1\r\nHost: x\r\n\r\n", 0);
    assert_int_equal(feed(&t, big, (size_t)n, 100), ERR_TOO_LARGE);
    assert_int_equal(t.parser.status, 414);
    http1_done(&t.parser);

    http1_init_server(&t.parser, &ops, LIMITS);
    n = snprintf(big, sizeof(big), "GET / HTTP/1.1\r\nHost: x\r\nX: %0600d\r\n\r\n", 0);
    assert_int_equal(feed(&t, big, (size_t)n, 100), ERR_TOO_LARGE);
    assert_int_equal(t.parser.status, 431);
    http1_done(&t.parser);

    http1_init_server(&t.parser, &ops, LIMITS);
    static const char many[] = "GET / HTTP/1.1\r\nHost: x\r\n"
                               "a:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\n\r\n";
    assert_int_equal(feed(&t, many, sizeof(many) - 1, 100), ERR_TOO_LARGE);
    assert_int_equal(t.parser.status, 431);
    http1_done(&t.parser);
    buf_done(&t.text);
}

static void empty_lines_before_a_request_are_limited_too(void **state)
{
    char blank[1024];
    for (size_t i = 0; i < sizeof(blank); i += 2)
        memcpy(blank + i, "\r\n", 2);
    struct heard t = {0};
    http1_init_server(&t.parser, &ops, LIMITS);
    assert_int_equal(feed(&t, blank, sizeof(blank), 64), ERR_TOO_LARGE);
    http1_done(&t.parser);
}

static void chunk_extensions_cannot_go_on_for_ever(void **state)
{
    struct heard t = {0};
    http1_init_server(&t.parser, &ops, LIMITS);
    static const char head[] = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;";
    assert_int_equal(feed(&t, head, sizeof(head) - 1, 1000), 0);
    int rc = 0;
    for (int i = 0; i < 2000 && rc == 0; i++)
        rc = feed(&t, "aaaaaaaaaaaaaaaa", 16, 16);
    assert_int_equal(rc, ERR_TOO_LARGE);
    http1_done(&t.parser);
    buf_done(&t.text);
}

static void what_an_op_refuses_stays_refused(void **state)
{
    struct heard t = {.refuse_head = ERR_DENIED};
    http1_init_server(&t.parser, &ops, LIMITS);
    static const char get[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_int_equal(feed(&t, get, sizeof(get) - 1, 1000), ERR_DENIED);
    assert_int_equal(feed(&t, get, sizeof(get) - 1, 1000), ERR_DENIED);
    http1_done(&t.parser);
    buf_done(&t.text);
}

static void responses_end_by_length_chunks_or_the_end(void **state)
{
    RESPONSE("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", "200 [Content-Length=2] keep ab.");
    RESPONSE("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
             "200 [Transfer-Encoding=chunked] keep ab.");
    RESPONSE("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nab", "200 [Connection=close] close ab.");
    RESPONSE("HTTP/1.1 204 No Content\r\n\r\n", "204 keep .");
    RESPONSE("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 304 \r\nETag: \"1\"\r\n\r\n",
             "304 [ETag=\"1\"] keep .");
    RESPONSE_REFUSED("HTTP/1.1 101 Switching Protocols\r\n\r\n", ERR_PROTO);
    RESPONSE_REFUSED("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
                     ERR_PROTO);
    RESPONSE_REFUSED("SSH-2.0-OpenSSH_9.2p1\r\n\r\n", ERR_PROTO);
}

static void an_answer_to_head_has_no_body(void **state)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    struct heard t = {0};
    http1_init_client(&t.parser, &ops, LIMITS);
    http1_expect_no_body(&t.parser);
    assert_int_equal(http1_feed(&t.parser, head, sizeof(head) - 1), sizeof(head) - 1);
    assert_true(t.parser.ended);
    http1_done(&t.parser);
    buf_done(&t.text);
}

static void an_answer_to_head_has_no_body_after_an_interim_one_either(void **state)
{
    static const char text[] =
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    struct heard t = {0};
    http1_init_client(&t.parser, &ops, LIMITS);
    http1_expect_no_body(&t.parser);
    assert_int_equal(http1_feed(&t.parser, text, sizeof(text) - 1), sizeof(text) - 1);
    assert_true(t.parser.ended);
    http1_done(&t.parser);
    buf_done(&t.text);
}

static void a_change_of_protocol_that_was_asked_for_ends_the_head(void **state)
{
    static const char head[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    struct heard t = {0};
    char text[sizeof(head) + 8];
    snprintf(text, sizeof(text), "%sraw", head);
    http1_init_client(&t.parser, &ops, LIMITS);
    http1_expect_upgrade(&t.parser);
    assert_int_equal(http1_feed(&t.parser, text, strlen(text)), strlen(head));
    assert_true(t.parser.ended);
    assert_int_equal(t.parser.head.status, 101);
    http1_done(&t.parser);
    buf_done(&t.text);
}

static void a_cut_message_is_an_error(void **state)
{
    static const char *const cut[] = {
        "HTTP/1.1 200 OK\r\nConte", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na"};
    for (size_t i = 0; i < ARRAY_SIZE(cut); i++) {
        struct heard t = {0};
        http1_init_client(&t.parser, &ops, LIMITS);
        assert_int_equal(http1_feed(&t.parser, cut[i], strlen(cut[i])), strlen(cut[i]));
        assert_int_equal(http1_finish(&t.parser), ERR_PROTO);
        http1_done(&t.parser);
        buf_done(&t.text);
    }
}

static void values_and_tokens_are_told_apart(void **state)
{
    assert_true(http_value_has("keep-alive, Close", "close"));
    assert_true(http_value_has("gzip;q=1, br", "gzip"));
    assert_false(http_value_has("closed", "close"));
    assert_false(http_value_has("", "close"));
    assert_true(http_value_is_safe("a b\tc"));
    assert_false(http_value_is_safe("a\r\nb"));
    assert_true(http_is_token("X-Thing"));
    assert_false(http_is_token("a b"));
    assert_false(http_is_token(""));
    assert_string_equal(http_reason(404), "Not Found");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_the_same_in_any_cut),
        cmocka_unit_test(chunks_are_joined_and_trailers_read_over),
        cmocka_unit_test(pipelined_requests_come_one_by_one),
        cmocka_unit_test(an_upgrade_offer_is_an_ordinary_request),
        cmocka_unit_test(what_smuggling_lives_on_is_refused),
        cmocka_unit_test(a_request_needs_one_host_and_a_known_version),
        cmocka_unit_test(heads_are_limited_in_bytes_and_fields),
        cmocka_unit_test(empty_lines_before_a_request_are_limited_too),
        cmocka_unit_test(chunk_extensions_cannot_go_on_for_ever),
        cmocka_unit_test(what_an_op_refuses_stays_refused),
        cmocka_unit_test(responses_end_by_length_chunks_or_the_end),
        cmocka_unit_test(an_answer_to_head_has_no_body),
        cmocka_unit_test(an_answer_to_head_has_no_body_after_an_interim_one_either),
        cmocka_unit_test(a_change_of_protocol_that_was_asked_for_ends_the_head),
        cmocka_unit_test(a_cut_message_is_an_error),
        cmocka_unit_test(values_and_tokens_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
