/* The helpers, asked through real requests: each test posts to one handler and reads its answer. */
#include "http/rest.h"

#include "../net/fixture.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/conn.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static struct {
    struct loop *loop;
    struct http_server *server;
    int fd;
    struct buf got;
} b;

static int read_tunnel(struct http_request *req, json_t *ret, struct diag *d)
{
    static const char *const top[] = {"name", "spec", "on", NULL};
    static const char *const target[] = {"address", "port", NULL};
    json_t *body = NULL, *tags = NULL;
    const char *name = NULL, *address = "none";
    int64_t port = 80, ttl = -1;
    bool on = false;
    TRY(rest_body(req, &body, d));
    TRY(rest_only(body, "", top, d));
    TRY(rest_only(body, "spec.target", target, d));
    TRY(rest_name(body, "name", true, &name, d));
    TRY(rest_text(body, "spec.target.address", false, &address, d));
    TRY(rest_int(body, "spec.target.port", 1, 65535, false, &port, d));
    TRY(rest_duration_ms(body, "spec.ttl", false, &ttl, d));
    TRY(rest_bool(body, "on", false, &on, d));
    TRY(rest_array(body, "spec.tags", 2, false, &tags, d));
    json_object_set_new(ret, "name", json_string(name));
    json_object_set_new(ret, "address", json_string(address));
    json_object_set_new(ret, "port", json_integer(port));
    json_object_set_new(ret, "ttl", json_integer(ttl));
    json_object_set_new(ret, "on", json_boolean(on));
    json_object_set_new(ret, "null", json_boolean(rest_is_null(body, "spec.access")));
    return 0;
}

static void handle_tunnel(struct http_request *req, void *ctx)
{
    struct diag d = {0};
    json_t *answer = json_object();
    if (read_tunnel(req, answer, &d) == 0) {
        http_respond_json(req, 200, answer, 0);
        return;
    }
    json_decref(answer);
    http_respond_diag(req, &d);
}

static void handle_list(struct http_request *req, void *ctx)
{
    struct rest_page page;
    struct diag d = {0};
    if (rest_page(req, &page, &d) < 0) {
        http_respond_diag(req, &d);
        return;
    }
    json_t *items = json_array();
    json_array_append_new(items, json_sprintf("after=%s size=%u", page.after, page.size));
    rest_respond_page(req, items, strcmp(page.after, "tun_9") == 0 ? NULL : "tun_9");
}

#define SHUFFLED 311 /* a prime: its multiples by 100 come in no order */

static json_t *render_number(void *ctx, void *object)
{
    return json_integer((int *)object - (int *)ctx);
}

/* Two of each time of creation. */
static void handle_shuffled(struct http_request *req, void *ctx)
{
    static int objects[SHUFFLED];
    static char ids[SHUFFLED][8];
    struct rest_entry *list = mem_new(SHUFFLED * sizeof(*list));
    for (int i = 0; i < SHUFFLED; i++) {
        int n = i * 100 % SHUFFLED;
        snprintf(ids[n], sizeof(ids[n]), "id%03d", n);
        list[i] = (struct rest_entry){n / 2, ids[n], &objects[n]};
    }
    rest_respond_list(req, list, SHUFFLED, render_number, objects);
}

static void handle_match(struct http_request *req, void *ctx)
{
    struct diag d = {0};
    uint64_t version = 0;
    char text[32];
    if (rest_if_match(req, true, &version, &d) < 0) {
        http_respond_diag(req, &d);
        return;
    }
    snprintf(text, sizeof(text), "version %" PRIu64, version);
    http_respond_text(req, 200, text);
}

static void handle_watch(struct http_request *req, void *ctx)
{
    struct diag d = {0};
    bool watch;
    int64_t after;
    char text[64];
    if (rest_watch(req, &watch, &after, &d) < 0) {
        http_respond_diag(req, &d);
        return;
    }
    snprintf(text, sizeof(text), "watch %d after %" PRId64, watch, after);
    http_respond_text(req, 200, text);
}

static const struct http_route routes[] = {
    {"POST", "/tunnels", HTTP_PUBLIC, REST_BODY_MAX, handle_tunnel, ""},
    {"GET", "/list", HTTP_PUBLIC, 0, handle_list, ""},
    {"GET", "/shuffled", HTTP_PUBLIC, 0, handle_shuffled, ""},
    {"DELETE", "/match", HTTP_PUBLIC, 0, handle_match, ""},
    {"GET", "/watch", HTTP_PUBLIC, 0, handle_watch, ""},
};

static int set_up(void **state)
{
    int fds[2];
    struct conn *c;
    assert_int_equal(loop_new_virtual(&b.loop, 0), 0);
    const struct http_server_config cfg = {.loop = b.loop};
    assert_int_equal(http_server_new(&cfg, &b.server), 0);
    http_server_add(b.server, routes, ARRAY_SIZE(routes), NULL);
    test_tcp_pair(fds);
    b.fd = fds[0];
    assert_int_equal(conn_new_plain(b.loop, fds[1], NULL, &c), 0);
    http_server_take(b.server, c);
    return 0;
}

static int tear_down(void **state)
{
    close(b.fd);
    http_server_free(b.server);
    for (int i = 0; i < 5; i++)
        loop_turn(b.loop, false);
    loop_free(b.loop);
    buf_done(&b.got);
    return 0;
}

static const char *say(const char *request)
{
    char part[8192];
    buf_clear(&b.got);
    assert_int_equal(send(b.fd, request, strlen(request), 0), strlen(request));
    for (int quiet = 0; quiet < 5;) {
        loop_turn(b.loop, false);
        ssize_t n = recv(b.fd, part, sizeof(part), MSG_DONTWAIT);
        if (n > 0)
            buf_append(&b.got, part, (size_t)n);
        quiet = n > 0 ? 0 : quiet + 1;
    }
    return buf_text(&b.got);
}

static const char *post(const char *json)
{
    char request[16384];
    snprintf(request, sizeof(request),
             "POST /tunnels HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             strlen(json), json);
    return say(request);
}

static void expect_refused(const char *json, const char *field, const char *text)
{
    char want[128];
    const char *answer = post(json);
    assert_non_null(strstr(answer, "HTTP/1.1 400 "));
    snprintf(want, sizeof(want), "\"field\":\"%s\"", field);
    if (*field)
        assert_non_null(strstr(answer, want));
    if (!strstr(answer, text))
        print_error("%s\n", answer);
    assert_non_null(strstr(answer, text));
}

static void members_are_read_by_path(void **state)
{
    const char *answer =
        post("{\"name\":\"web\",\"on\":true,\"spec\":{\"ttl\":\"30m\",\"access\":null,"
             "\"target\":{\"address\":\"::1\",\"port\":22}}}");
    assert_non_null(strstr(answer, "{\"name\":\"web\",\"address\":\"::1\",\"port\":22,"
                                   "\"ttl\":1800000,\"on\":true,\"null\":true}"));
    answer = post("{\"name\":\"web\",\"spec\":null}");
    assert_non_null(strstr(answer, "\"address\":\"none\",\"port\":80,\"ttl\":-1,\"on\":false,"
                                   "\"null\":false}"));
}

static void the_member_at_fault_is_named(void **state)
{
    expect_refused("{}", "name", "is required");
    expect_refused("{\"name\":null}", "name", "is required");
    expect_refused("{\"name\":\"-x\"}", "name", "must be 1 to 63");
    expect_refused("{\"name\":7}", "name", "must be a string");
    expect_refused("{\"name\":\"a\",\"nome\":1}", "nome", "no such member");
    expect_refused("{\"name\":\"a\",\"spec\":{\"target\":{\"prot\":1}}}", "spec.target.prot",
                   "no such member");
    expect_refused("{\"name\":\"a\",\"spec\":{\"target\":{\"port\":0}}}", "spec.target.port",
                   "from 1 to 65535");
    expect_refused("{\"name\":\"a\",\"spec\":{\"target\":{\"port\":1.5}}}", "spec.target.port",
                   "whole number");
    expect_refused("{\"name\":\"a\",\"spec\":{\"target\":5}}", "spec.target", "must be an object");
    expect_refused("{\"name\":\"a\",\"spec\":{\"ttl\":\"soon\"}}", "spec.ttl", "a duration");
    expect_refused("{\"name\":\"a\",\"on\":\"yes\"}", "on", "true or false");
    expect_refused("{\"name\":\"a\",\"spec\":{\"tags\":[1,2,3]}}", "spec.tags", "may have 2");
}

static void bodies_that_are_not_an_object_are_refused(void **state)
{
    char deep[200];
    expect_refused("", "name", "is required"); /* the same as {} */
    expect_refused("[]", "", "must be a JSON object");
    expect_refused("{\"a\":1,\"a\":2}", "", "not JSON: duplicate");
    expect_refused("{\"a\":", "", "not JSON");
    expect_refused("{} {}", "", "not JSON");
    expect_refused("{\"a\":\"\xff\"}", "", "not JSON");
    expect_refused("{\"a\":\"\\u0000\"}", "", "not JSON");
    memset(deep, '[', sizeof(deep) - 1);
    deep[sizeof(deep) - 1] = '\0';
    expect_refused(deep, "", "nested deeper");
    const char *answer = say("POST /tunnels HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
    assert_non_null(strstr(answer, "\"field\":\"Content-Type\""));
}

static void pages_follow_each_other_by_token(void **state)
{
    const char *answer = say("GET /list?page_size=2 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_non_null(strstr(answer, "after= size=2"));
    const char *token = strstr(answer, "next_page_token\":\"");
    assert_non_null(token);
    token += strlen("next_page_token\":\"");
    char next[256];
    snprintf(next, sizeof(next), "GET /list?page_token=%.*s HTTP/1.1\r\nHost: x\r\n\r\n",
             (int)strcspn(token, "\""), token);
    answer = say(next);
    assert_non_null(strstr(answer, "after=tun_9 size=100"));
    assert_non_null(strstr(answer, "\"next_page_token\":null"));
    assert_non_null(strstr(say("GET /list?page_size=0 HTTP/1.1\r\nHost: x\r\n\r\n"), "400"));
    assert_non_null(strstr(say("GET /list?page_size=1001 HTTP/1.1\r\nHost: x\r\n\r\n"), "400"));
    assert_non_null(strstr(say("GET /list?page_token=%20 HTTP/1.1\r\nHost: x\r\n\r\n"),
                           "\"field\":\"page_token\""));
}

/* Returns how many are on the page, which go on from `first`; `next` becomes the token, or empty.
 */
static int read_page(const char *answer, int first, char *next, size_t size)
{
    json_t *page = json_loads(strstr(answer, "\r\n\r\n") + 4, 0, NULL), *item;
    const char *token = json_string_value(json_object_get(page, "next_page_token"));
    size_t i;
    json_array_foreach (json_object_get(page, "items"), i, item)
        assert_int_equal(json_integer_value(item), first + (int)i);
    snprintf(next, size, "%s", token ? token : "");
    int n = (int)json_array_size(json_object_get(page, "items"));
    json_decref(page);
    return n;
}

static void a_list_is_shown_in_order_of_creation_page_by_page(void **state)
{
    for (int size = 1; size < 400; size += 33) {
        char token[200] = "", request[400];
        int seen = 0;
        do {
            snprintf(request, sizeof(request),
                     "GET /shuffled?page_size=%d&page_token=%s HTTP/1.1\r\nHost: x\r\n\r\n", size,
                     token);
            int n = read_page(say(request), seen, token, sizeof(token));
            assert_int_equal(n, MIN(size, SHUFFLED - seen));
            seen += n;
        } while (token[0]);
        assert_int_equal(seen, SHUFFLED);
    }
}

static void if_match_names_a_version(void **state)
{
    assert_non_null(
        strstr(say("DELETE /match HTTP/1.1\r\nHost: x\r\nIf-Match: \"7\"\r\n\r\n"), "version 7"));
    assert_non_null(
        strstr(say("DELETE /match HTTP/1.1\r\nHost: x\r\nIf-Match: *\r\n\r\n"), "version 0"));
    assert_non_null(strstr(say("DELETE /match HTTP/1.1\r\nHost: x\r\n\r\n"),
                           "HTTP/1.1 428 Precondition Required"));
    assert_non_null(
        strstr(say("DELETE /match HTTP/1.1\r\nHost: x\r\nIf-Match: 7\r\n\r\n"), "HTTP/1.1 400"));
    assert_non_null(strstr(say("DELETE /match HTTP/1.1\r\nHost: x\r\nIf-Match: \"0\"\r\n\r\n"),
                           "HTTP/1.1 400"));
}

static void a_watch_resumes_after_the_last_event(void **state)
{
    assert_non_null(strstr(say("GET /watch HTTP/1.1\r\nHost: x\r\n\r\n"), "watch 0 after -1"));
    assert_non_null(
        strstr(say("GET /watch?watch=1 HTTP/1.1\r\nHost: x\r\nLast-Event-ID: 12\r\n\r\n"),
               "watch 1 after 12"));
    assert_non_null(
        strstr(say("GET /watch?watch&after=3 HTTP/1.1\r\nHost: x\r\n\r\n"), "watch 1 after 3"));
    assert_non_null(
        strstr(say("GET /watch?watch=1 HTTP/1.1\r\nHost: x\r\nLast-Event-ID: x\r\n\r\n"),
               "\"field\":\"Last-Event-ID\""));
    assert_non_null(strstr(say("GET /watch?watch=maybe HTTP/1.1\r\nHost: x\r\n\r\n"), "400"));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(members_are_read_by_path),
        TEST(the_member_at_fault_is_named),
        TEST(bodies_that_are_not_an_object_are_refused),
        TEST(pages_follow_each_other_by_token),
        TEST(a_list_is_shown_in_order_of_creation_page_by_page),
        TEST(if_match_names_a_version),
        TEST(a_watch_resumes_after_the_last_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
