/*
 * One HTTP server on a virtual clock, with routes of each kind, and one client that speaks raw
 * bytes.
 */
#pragma once

#include "../net/fixture.h"
#include "base/buf.h"
#include "http/server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

struct bench {
    struct loop *loop;
    struct http_server *server;
    int fd; /* the client's end; -1: closed */
    struct buf got;
    bool got_end;
    struct http_request *held;
    struct http_sse *sse;
    int gone, sse_closed, after_status, drained;
    int auth;    /* what authenticate returns */
    bool sleeps; /* authenticate says HTTP_LATER */
    struct http_request *asleep;
};

extern struct bench b;

int set_up(void **state);
int set_up_with(struct http_limits limits);
int tear_down(void **state);

void connect_client(void);
void hang_up(void);
void pump(void); /* turns the loop until nothing more comes */
/* Sends; then `b.got` is what came since. */
void say(const char *text);
void say_bytes(const char *data, size_t len);

#define HEARD(text)     assert_non_null(strstr(buf_text(&b.got), text))
#define NOT_HEARD(text) assert_null(strstr(buf_text(&b.got), text))

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
