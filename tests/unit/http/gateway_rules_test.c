#include "http/gateway_rules.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void a_host_is_a_name_without_its_port(void **state)
{
    static const struct {
        const char *authority, *host;
    } cases[] = {
        {"a.example", "a.example"},
        {"A.Example.:8443", "a.example"},
        {"a.example:0", "a.example"},
        {"a.example:", NULL},
        {"a.example:99999", NULL},
        {"a.example:80:80", NULL},
        {"user@a.example", NULL},
        {"a_b.example", NULL},
        {"10.0.0.1", NULL},
        {"[::1]:80", NULL},
        {"", NULL},
        {":80", NULL},
        {"a..example", NULL},
        {"a.example, b.example", NULL},
        {"a.example\t", NULL},
        {"xn--bcher-kva.example", "xn--bcher-kva.example"},
        {"\xc3\xa4.example", NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char host[HOST_SIZE] = "";
        int rc = gateway_host(cases[i].authority, host);
        assert_int_equal(rc, cases[i].host ? 0 : ERR_INVALID);
        if (cases[i].host)
            assert_string_equal(host, cases[i].host);
    }
}

static void a_target_becomes_origin_form_or_is_refused(void **state)
{
    static const struct {
        const char *method, *target, *path;
    } cases[] = {
        {"GET", "/", "/"},
        {"GET", "/a?b#c", NULL},
        {"GET", "/a b", NULL},
        {"GET", "/a\x7f", NULL},
        {"GET", "/a%20b?x=/", "/a%20b?x=/"},
        {"GET", "//double", "//double"},
        {"OPTIONS", "*", "*"},
        {"GET", "*", NULL},
        {"GET", "", NULL},
        {"GET", "a.example", NULL},
        {"GET", "https://a.example/x", "/x"},
        {"GET", "HTTP://A.example:80/x", "/x"},
        {"GET", "https://a.example", "/"},
        {"GET", "https://a.example?x", NULL},
        {"GET", "https://b.example/x", NULL},
        {"GET", "https://a.example@b.example/x", NULL},
        {"GET", "ftp://a.example/x", NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const char *path = NULL;
        int rc = gateway_target(cases[i].method, cases[i].target, "a.example", &path);
        assert_int_equal(rc, cases[i].path ? 0 : ERR_INVALID);
        if (cases[i].path)
            assert_string_equal(path, cases[i].path);
    }
}

static void a_request_to_a_proxy_names_its_target(void **state)
{
    static const struct {
        const char *method, *target, *to, *authority, *path; /* to NULL: refused */
    } cases[] = {
        {"GET", "http://a.example/x?y", "a.example:80", "a.example", "/x?y"},
        {"GET", "HTTP://A.example:8080", "A.example:8080", "A.example:8080", "/"},
        {"GET", "http://[fd00::1]:8080/x", "[fd00::1]:8080", "[fd00::1]:8080", "/x"},
        {"GET", "http://[fd00::1]/", "[fd00::1]:80", "[fd00::1]", "/"},
        {"GET", "http://a?x=1", "a:80", "a", "/?x=1"},
        {"OPTIONS", "http://a:81", "a:81", "a:81", "*"},
        {"GET", "https://a/", NULL, NULL, NULL},
        {"GET", "/x", NULL, NULL, NULL},
        {"GET", "http:///x", NULL, NULL, NULL},
        {"GET", "http://user@a/", NULL, NULL, NULL},
        {"GET", "http://a:0/", NULL, NULL, NULL},
        {"GET", "http://a:b:1/", NULL, NULL, NULL},
        {"GET", "http://a/x#y", NULL, NULL, NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct arena arena = {0};
        struct host_port to;
        char text[HOST_SIZE + 8];
        const char *authority = NULL, *path = NULL;
        int rc = gateway_absolute(&arena, cases[i].method, cases[i].target, &to, &authority, &path);
        assert_int_equal(rc, cases[i].to ? 0 : ERR_INVALID);
        if (cases[i].to) {
            host_port_format(&to, text, sizeof(text));
            assert_string_equal(text, cases[i].to);
            assert_string_equal(authority, cases[i].authority);
            assert_string_equal(path, cases[i].path);
        }
        arena_done(&arena);
    }
}

static const char *head_of(struct buf *out, const char *ip, const struct http_header *fields,
                           size_t n, struct gateway_head more)
{
    struct addr peer;
    assert_int_equal(addr_parse(ip, 1234, &peer), 0);
    more.method = "POST";
    more.target = "/x";
    more.host = "a.example";
    more.fields = fields;
    more.n_fields = n;
    more.peer = &peer;
    buf_clear(out);
    gateway_put_head(out, &more);
    return buf_text(out);
}

#define HAS(text, part)   assert_non_null(strstr(text, part))
#define LACKS(text, part) assert_null(strstr(text, part))

static void fields_of_the_hop_and_of_other_proxies_do_not_pass(void **state)
{
    static const struct http_header fields[] = {
        {"Host", "evil.example"},
        {"Connection", "close, X-Hop , te"},
        {"X-Hop", "1"},
        {"Keep-Alive", "timeout=5"},
        {"Proxy-Connection", "keep-alive"},
        {"Proxy-Authorization", "Basic x"},
        {"TE", "trailers"},
        {"Trailer", "X"},
        {"Transfer-Encoding", "chunked"},
        {"Upgrade", "h2c"},
        {"HTTP2-Settings", "x"},
        {"Expect", "100-continue"},
        {"Content-Length", "7"},
        {"Forwarded", "for=6.6.6.6"},
        {"X-Forwarded-For", "6.6.6.6"},
        {"X_Forwarded_For", "6.6.6.6"},
        {"X-Forwarded-Anything", "6.6.6.6"},
        {"x-real_ip", "6.6.6.6"},
        {"Authorization", "Bearer kept"},
        {"X-Forwarde", "kept"},
        {"Accept", "*/*"},
    };
    CLEANUP(buf_done) struct buf out = {0};
    const char *text = head_of(&out, "192.0.2.7", fields, ARRAY_SIZE(fields),
                               (struct gateway_head){.has_body = true, .content_length = 3});
    assert_ptr_equal(strstr(text, "POST /x HTTP/1.1\r\nHost: a.example\r\n"), text);
    HAS(text, "\r\nAuthorization: Bearer kept\r\n");
    HAS(text, "\r\nX-Forwarde: kept\r\n");
    HAS(text, "\r\nAccept: */*\r\n");
    HAS(text, "\r\nContent-Length: 3\r\n");
    HAS(text, "\r\nForwarded: for=192.0.2.7;host=\"a.example\";proto=https\r\n");
    HAS(text, "\r\nX-Forwarded-For: 192.0.2.7\r\n");
    LACKS(text, "evil");
    LACKS(text, "6.6.6.6");
    LACKS(text, "X-Hop");
    LACKS(text, "onnection");
    LACKS(text, "chunked");
    LACKS(text, "Basic");
    LACKS(text, "pgrade");
    assert_string_equal(text + out.len - 4, "\r\n\r\n");
}

static void a_body_without_length_is_chunked_and_an_ipv6_client_is_quoted(void **state)
{
    CLEANUP(buf_done) struct buf out = {0};
    const char *text = head_of(&out, "2001:db8::1", NULL, 0,
                               (struct gateway_head){.has_body = true, .content_length = -1});
    HAS(text, "\r\nTransfer-Encoding: chunked\r\n");
    LACKS(text, "Content-Length");
    HAS(text, "\r\nForwarded: for=\"[2001:db8::1]\";host=");
}

static void what_was_sent_for_us_is_not_passed_on(void **state)
{
    static const struct http_header fields[] = {
        {"Authorization", "Bearer wat_secret"},
        {"cookie", "a=1; __Host-warren=secret; b=2"},
        {"cookie", "__Host-warren=secret"},
        {"cookie", "c=3;__Host-warrenX=4"},
    };
    CLEANUP(buf_done) struct buf out = {0};
    const char *text =
        head_of(&out, "192.0.2.7", fields, ARRAY_SIZE(fields),
                (struct gateway_head){.drop_authorization = true, .drop_cookie = "__Host-warren"});
    LACKS(text, "secret");
    HAS(text, "\r\nCookie: a=1; b=2; c=3; __Host-warrenX=4\r\n");
}

static void a_web_socket_of_http2_gets_a_key(void **state)
{
    static const struct http_header fields[] = {{"sec-websocket-version", "13"},
                                                {"sec-websocket-key", "theirs"}};
    CLEANUP(buf_done) struct buf out = {0};
    const char *text = head_of(&out, "192.0.2.7", fields, ARRAY_SIZE(fields),
                               (struct gateway_head){.is_websocket = true, .needs_key = true});
    HAS(text, "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: ");
    HAS(text, "sec-websocket-version: 13");
    LACKS(text, "theirs");
}

static void only_a_complete_offer_asks_for_a_web_socket(void **state)
{
    static const struct http_header good[] = {{"Connection", "keep-alive, Upgrade"},
                                              {"Upgrade", "WebSocket"}};
    static const struct http_header h2c[] = {{"Connection", "Upgrade"}, {"Upgrade", "h2c"}};
    assert_true(gateway_wants_websocket("GET", good, 2));
    assert_false(gateway_wants_websocket("POST", good, 2));
    assert_false(gateway_wants_websocket("GET", good, 1));
    assert_false(gateway_wants_websocket("GET", good + 1, 1));
    assert_false(gateway_wants_websocket("GET", h2c, 2));
}

static void answers_lose_the_fields_of_their_hop(void **state)
{
    static const struct http_header fields[] = {
        {"Content-Type", "x/y"}, {"Content-Length", "5"},          {"Connection", "X-Hop"},
        {"X-Hop", "1"},          {"Transfer-Encoding", "chunked"}, {"Set-Cookie", "a=b"},
        {"Set-Cookie", "c=d"},   {"Sec-WebSocket-Accept", "x"},
    };
    struct http_header out[ARRAY_SIZE(fields)];
    struct arena a = {0};
    size_t n = gateway_answer_fields(&a, fields, ARRAY_SIZE(fields), true, out);
    assert_int_equal(n, 3);
    assert_string_equal(out[0].name, "content-type");
    assert_string_equal(out[1].value, "a=b");
    assert_string_equal(out[2].value, "c=d");
    assert_int_equal(gateway_answer_fields(&a, fields, ARRAY_SIZE(fields), false, out), 4);
    arena_done(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_host_is_a_name_without_its_port),
        cmocka_unit_test(a_target_becomes_origin_form_or_is_refused),
        cmocka_unit_test(a_request_to_a_proxy_names_its_target),
        cmocka_unit_test(fields_of_the_hop_and_of_other_proxies_do_not_pass),
        cmocka_unit_test(a_body_without_length_is_chunked_and_an_ipv6_client_is_quoted),
        cmocka_unit_test(what_was_sent_for_us_is_not_passed_on),
        cmocka_unit_test(a_web_socket_of_http2_gets_a_key),
        cmocka_unit_test(only_a_complete_offer_asks_for_a_web_socket),
        cmocka_unit_test(answers_lose_the_fields_of_their_hop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
