#include "traffic.h"

#include "base/macro.h"
#include "fixture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define IDLE_TURNS 50 /* after which nothing more is taken */

static char byte_at(size_t i)
{
    return (char)(i * 31 + (i >> 9));
}

void way_send(struct way *w)
{
    static char out[200000];
    size_t n = MIN(sizeof(out), w->bytes - w->sent);
    if (!n)
        return;
    for (size_t i = 0; i < n; i++)
        out[i] = byte_at(w->sent + i);
    ssize_t taken = send(w->from, out, n, MSG_NOSIGNAL);
    w->sent += taken > 0 ? (size_t)taken : 0;
}

void way_receive(struct way *w)
{
    static char in[200000];
    ssize_t n = recv(w->to, in, sizeof(in), 0);
    assert_true(n != 0 || w->got == w->bytes);
    for (ssize_t i = 0; i < n; i++) {
        if (in[i] != byte_at(w->got + (size_t)i))
            fail_msg("byte %zu differs", w->got + (size_t)i);
    }
    w->got += n > 0 ? (size_t)n : 0;
}

void way_move(struct way *w)
{
    way_send(w);
    way_receive(w);
}

void test_transfer(struct loop *loop, int from, int to, size_t bytes)
{
    struct way w = {from, to, bytes, 0, 0};
    uint64_t end = test_deadline();
    while (w.got < bytes) {
        way_send(&w);
        test_turn(loop);
        way_receive(&w);
        test_check_deadline(end, "transfer");
    }
}

size_t test_fill(struct loop *loop, int fd)
{
    static char data[65536];
    size_t total = 0;
    for (int idle = 0; idle < IDLE_TURNS;) {
        ssize_t n = send(fd, data, sizeof(data), MSG_NOSIGNAL);
        total += n > 0 ? (size_t)n : 0;
        idle = n > 0 ? 0 : idle + 1;
        test_turn(loop);
    }
    return total;
}

bool test_is_end(int fd)
{
    char c;
    return recv(fd, &c, 1, 0) == 0;
}

bool test_is_reset(int fd)
{
    char c;
    return recv(fd, &c, 1, 0) < 0 && errno == ECONNRESET;
}

void test_reset(int fd)
{
    struct linger zero = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &zero, sizeof(zero));
    close(fd);
}
