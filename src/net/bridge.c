/*
 * See the header. An end-of-file of the local socket is passed on as a half-close unless the other
 * end is gone altogether (hup): then it may just as well be a reset, and bridge_finish will say.
 */
#include "net/bridge.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/io.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct bridge {
    struct io io;
    struct conn *conn;
    const struct bridge_ops *ops;
    void *arg;
    struct buf said;
    bool local_ended; /* the local socket was read to its end */
    bool is_finished; /* bridge_finish came */
    bool is_held;
    bool is_closing;
};

static void close_if_done(struct bridge *b)
{
    if (b->is_closing || !b->local_ended || !b->is_finished)
        return;
    b->is_closing = true;
    conn_close(b->conn);
}

static size_t on_data(void *arg, const uint8_t *data, size_t len)
{
    struct bridge *b = arg;
    if (b->is_finished)
        return len; /* nobody is there to read it */
    ssize_t n = b->io.writable ? send(b->io.fd, data, len, MSG_NOSIGNAL) : 0;
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return len; /* the other end is gone: bridge_finish follows */
    n = n < 0 ? 0 : n;
    if ((size_t)n < len) {
        b->io.writable = false;
        conn_pause(b->conn);
    }
    return (size_t)n;
}

static void on_peer_end(void *arg)
{
    struct bridge *b = arg;
    shutdown(b->io.fd, SHUT_WR);
}

static bool other_is_gone(const struct bridge *b)
{
    struct pollfd p = {.fd = b->io.fd};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLHUP);
}

static size_t read_local(struct bridge *b, uint8_t *out, size_t cap)
{
    ssize_t n = recv(b->io.fd, out, cap, 0);
    if (n > 0) {
        if ((size_t)n < cap && !b->io.hup)
            b->io.readable = false;
        return (size_t)n;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        b->io.readable = errno == EINTR;
        return 0;
    }
    b->io.readable = false;
    if (other_is_gone(b) && !b->is_finished)
        return 0;
    b->local_ended = true;
    if (b->is_finished)
        close_if_done(b);
    else
        conn_shut(b->conn);
    return 0;
}

static size_t on_fill(void *arg, uint8_t *out, size_t cap)
{
    struct bridge *b = arg;
    if (b->said.len) {
        size_t n = MIN(cap, b->said.len);
        memcpy(out, b->said.data, n);
        buf_consume(&b->said, n);
        return n;
    }
    return b->io.readable && !b->is_held && !b->local_ended ? read_local(b, out, cap) : 0;
}

static void on_close(void *arg, int err)
{
    struct bridge *b = arg;
    b->ops->on_end(b->arg, err);
    io_close(&b->io);
    buf_done(&b->said);
    mem_free(b);
}

static const struct conn_ops conn_ops = {
    .on_data = on_data, .on_end = on_peer_end, .on_fill = on_fill, .on_close = on_close};

static void on_local_event(struct io *io)
{
    struct bridge *b = container_of(io, struct bridge, io);
    if (io->writable)
        conn_resume(b->conn);
    if (io->readable)
        conn_wake(b->conn);
}

int bridge_new(struct conn *c, int fd, const struct bridge_ops *ops, void *arg, struct bridge **ret)
{
    struct bridge *b = NEW(struct bridge);
    b->conn = c;
    b->ops = ops;
    b->arg = arg;
    int rc = io_start(&b->io, conn_loop(c), fd, on_local_event);
    if (rc < 0) {
        close(fd);
        conn_abort(c, rc);
        mem_free(b);
        return rc;
    }
    conn_start(c, &conn_ops, b);
    *ret = b;
    return 0;
}

void bridge_say(struct bridge *b, const void *data, size_t len)
{
    buf_append(&b->said, data, len);
    conn_wake(b->conn);
}

void bridge_hold(struct bridge *b)
{
    b->is_held = true;
}

void bridge_go_on(struct bridge *b)
{
    b->is_held = false;
    b->io.readable = true;
    conn_wake(b->conn);
}

void bridge_finish(struct bridge *b, int err)
{
    if (err < 0)
        conn_abort(b->conn, ERR_RESET);
    if (err < 0 || b->is_finished)
        return;
    b->is_finished = true;
    b->is_held = false;
    if (!b->local_ended)
        b->io.readable = true; /* the end, if it was put off */
    conn_resume(b->conn);
    conn_wake(b->conn);
    close_if_done(b);
}
