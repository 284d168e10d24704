#include "net/conn_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/buffers.h"
#include "wire/h2.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define FILL_MIN H2_OUTPUT_MIN
/* The connection of this thread whose on_data may be running. */
static _Thread_local const struct conn *reading;

#define UNSENT_MAX (1u << 20) /* beyond a batch only if a peer makes TLS itself talk */

void conn_die(struct conn *c, int err)
{
    if (c->state == CONN_DEAD)
        return;
    c->state = CONN_DEAD;
    c->err = err;
    conn_wake(c);
}

/* Sending */

static void send_failed(struct conn *c)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        c->io.writable = false;
    else
        conn_die(c, error_from_errno(errno));
}

static size_t send_some(struct conn *c, const void *data, size_t len)
{
    if (!c->io.writable)
        return 0;
    ssize_t n = send(c->io.fd, data, len, MSG_NOSIGNAL);
    if (n < 0) {
        send_failed(c);
        return 0;
    }
    if ((size_t)n < len)
        c->io.writable = false;
    c->bytes_out += (uint64_t)n;
    return (size_t)n;
}

/* One send() for what the pump made. */
void conn_flush(struct conn *c)
{
    size_t sent = 0;
    if (c->unsent.len) {
        buf_consume(&c->unsent, send_some(c, c->unsent.data, c->unsent.len));
        if (!c->unsent.len)
            buf_done(&c->unsent);
    }
    if (c->out_len && !c->unsent.len && c->state != CONN_DEAD)
        sent = send_some(c, c->out, c->out_len);
    if (sent < c->out_len && c->state != CONN_DEAD) {
        c->unsent.limit = UNSENT_MAX;
        if (buf_append(&c->unsent, c->out + sent, c->out_len - sent) < 0)
            conn_die(c, ERR_LIMIT);
    }
    c->out_len = 0;
}

static void deliver(struct conn *c, const uint8_t *data, size_t len)
{
    bool is_kept = c->kept_plain.len > 0;
    size_t taken = c->state == CONN_OPEN ? c->ops->on_data(c->arg, data, len) : len;
    assert(taken == len || c->is_paused || c->state != CONN_OPEN);
    if (is_kept)
        buf_consume(&c->kept_plain, taken);
    else if (taken < len)
        (void)buf_append(&c->kept_plain, data + taken, len - taken);
    if (!c->kept_plain.len)
        buf_done(&c->kept_plain);
}

/* To the other one of a pair. */
static void give(struct conn *to, const uint8_t *data, size_t len)
{
    to->bytes_in += len;
    to->last_input_ms = loop_now_ms(to->loop);
    if (to->state == CONN_OPEN && to->ops && !to->is_paused && !to->kept_plain.len) {
        deliver(to, data, len);
    } else if (to->state != CONN_DEAD) {
        (void)buf_append(&to->kept_plain, data, len); /* HTTP/2's windows bound it */
        conn_wake(to);
    }
}

static bool write_side(struct conn *c)
{
    struct buffers *b = buffers_of_thread();
    size_t len = 0;
    if (c->unsent.len || !c->io.writable || c->is_ending)
        return false;
    while (len < c->batch) {
        size_t n = c->ops->on_fill(c->arg, b->plain_out + len, c->batch - len + FILL_MIN - 1);
        if (!n)
            break;
        len += n;
    }
    int err = 0;
    if (len && c->twin)
        give(c->twin, b->plain_out, len);
    else if (len && c->state != CONN_DEAD)
        err = conn_encrypt(c, b->plain_out, len);
    if (err < 0)
        conn_die(c, err);
    return len >= c->batch;
}

/* Receiving */

void conn_keep_rest(struct conn *c)
{
    if (c->in_is_kept)
        buf_consume(&c->kept_in, c->kept_in.len - c->in_len);
    else if (c->in_len)
        (void)buf_append(&c->kept_in, c->in, c->in_len); /* at most a batch: no limit to meet */
    if (!c->kept_in.len)
        buf_done(&c->kept_in);
    c->in = NULL;
    c->in_len = 0;
    c->in_is_kept = false;
}

/* How much makes a batch, or what is left of what belongs together. */
static size_t read_size(const struct conn *c)
{
    if (!c->ssl)
        return c->batch;
    size_t plain = c->expected && c->expected < c->batch ? c->expected : c->batch;
    size_t records = (plain + CONN_RECORD - 1) / CONN_RECORD;
    size_t cipher = plain + records * CONN_RECORD_OVERHEAD;
    return cipher > c->partial ? cipher - c->partial : c->batch;
}

/* What is there, else what was kept, else one recv(). */
static void fetch(struct conn *c)
{
    if (c->in_len)
        return; /* came together with the end of the handshake */
    if (c->kept_in.len) {
        c->in = (const uint8_t *)c->kept_in.data;
        c->in_len = c->kept_in.len;
        c->in_is_kept = true;
        return;
    }
    if (!c->io.readable || c->got_end)
        return;
    struct buffers *b = buffers_of_thread();
    size_t cap = MIN(read_size(c), BUFFERS_CIPHER);
    ssize_t n = recv(c->io.fd, b->cipher_in, cap, 0);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
            c->io.readable = errno == EINTR;
        else
            conn_die(c, error_from_errno(errno));
        return;
    }
    if (n == 0) {
        c->got_end = true;
        return;
    }
    if ((size_t)n < cap && !c->io.hup)
        c->io.readable = false;
    c->bytes_in += (uint64_t)n;
    c->last_input_ms = loop_now_ms(c->loop);
    c->in = b->cipher_in;
    c->in_len = (size_t)n;
}

static bool read_some(struct conn *c)
{
    const uint8_t *plain;
    size_t len;
    if (c->kept_plain.len)
        deliver(c, (const uint8_t *)c->kept_plain.data, c->kept_plain.len);
    if (c->is_paused || c->state != CONN_OPEN)
        return false;
    fetch(c);
    if (c->state != CONN_OPEN)
        return false;
    int err = conn_decrypt(c, &plain, &len);
    if (len)
        deliver(c, plain, len);
    if (err < 0)
        conn_die(c, err);
    return c->in_len || (c->io.readable && !c->got_end);
}

/* Returns whether there is more to read at once. */
static bool read_side(struct conn *c)
{
    reading = c;
    bool more = read_some(c);
    reading = NULL;
    return more;
}

static void tell_end(struct conn *c)
{
    if (!c->got_end || c->end_told || c->is_paused || c->kept_plain.len || c->in_len ||
        c->state != CONN_OPEN)
        return;
    c->end_told = true;
    if (c->ops->on_end)
        c->ops->on_end(c->arg);
    else
        conn_close(c);
}

/* Closing */

/* The other one of a pair will hear no more. */
static void end_twin(struct conn *c)
{
    if (!c->twin)
        return;
    c->twin->got_end = true;
    conn_wake(c->twin);
}

/* close_notify and FIN, when all before them is sent. */
static void send_end(struct conn *c)
{
    if (c->has_ended || c->unsent.len || !c->io.writable)
        return;
    conn_tls_goodbye(c);
    conn_flush(c);
    if (c->unsent.len)
        return; /* it is not said twice */
    if (c->state == CONN_DEAD)
        return;
    shutdown(c->io.fd, SHUT_WR);
    end_twin(c);
    c->has_ended = true;
}

static void say_goodbye(struct conn *c)
{
    send_end(c);
    if (c->has_ended && c->state != CONN_DEAD)
        c->state = CONN_LINGER;
}

static void linger(struct conn *c)
{
    struct buffers *b = buffers_of_thread();
    while (!c->got_end && c->io.readable) {
        ssize_t n = recv(c->io.fd, b->cipher_in, BUFFERS_CIPHER, 0);
        if (n > 0) {
            conn_wake(c); /* one batch a turn here too */
            return;
        }
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            c->io.readable = errno == EINTR;
        else
            c->got_end = true;
    }
    if (c->got_end)
        conn_die(c, 0);
}

void conn_on_timer(struct timer *t)
{
    struct conn *c = container_of(t, struct conn, timer);
    conn_die(c, c->state == CONN_HANDSHAKE ? ERR_TIMEOUT : c->err);
}

void conn_free(struct conn *c)
{
    if (c->loop) {
        loop_defer_cancel(&c->pump);
        timer_stop(&c->timer);
        io_close(&c->io);
    } else {
        close(c->io.fd);
    }
    SSL_free(c->ssl);
    tls_session_done(&c->session);
    buf_done(&c->kept_in);
    buf_done(&c->kept_plain);
    buf_done(&c->unsent);
    mem_free(c->diag);
    mem_free(c);
}

static void bury(struct conn *c)
{
    const struct conn_ops *ops = c->ops;
    io_stop(&c->io);
    if (c->err == ERR_RESET) {
        struct linger zero = {.l_onoff = 1, .l_linger = 0};
        setsockopt(c->io.fd, SOL_SOCKET, SO_LINGER, &zero, sizeof(zero));
    }
    timer_stop(&c->timer);
    loop_defer_cancel(&c->pump);
    end_twin(c);
    if (c->twin) {
        c->twin->io.writable = false;
        c->twin->twin = NULL;
    }
    if (ops->on_close)
        ops->on_close(c->arg, c->err);
    if (c->io.fd >= 0)
        close(c->io.fd);
    c->io.fd = -1;
    conn_free(c);
}

/* The pump */

static void shake_hands(struct conn *c)
{
    fetch(c);
    if (c->state == CONN_DEAD)
        return;
    int rc = conn_tls_handshake(c);
    if (rc < 0)
        conn_die(c, rc);
    if (rc != 0)
        return;
    conn_flush(c);
    if (c->state == CONN_DEAD)
        return;
    timer_stop(&c->timer);
    c->state = CONN_OPEN;
    if (c->ops->on_open)
        c->ops->on_open(c->arg);
}

/* Returns whether to go on in the next turn; for the rest an event will come. */
static bool pump_open(struct conn *c, const bool *gone)
{
    bool more_in = false, more_out = false;
    if (c->state == CONN_OPEN && c->ops) {
        more_in = read_side(c);
        if (!*gone)
            tell_end(c);
    }
    if (*gone)
        return false;
    if (c->state == CONN_OPEN || c->state == CONN_CLOSING) {
        conn_flush(c);
        if (c->state != CONN_DEAD && c->ops)
            more_out = write_side(c);
        conn_flush(c);
    }
    if (c->is_ending && c->state == CONN_OPEN)
        send_end(c);
    if (c->state == CONN_CLOSING && !c->unsent.len && !more_out)
        say_goodbye(c);
    if (c->state == CONN_LINGER)
        linger(c);
    return (more_in && !c->is_paused) || (more_out && !c->unsent.len);
}

void conn_pump(struct defer *d)
{
    struct conn *c = container_of(d, struct conn, pump);
    bool gone = false, more = false;
    c->gone = &gone;
    c->out = buffers_of_thread()->cipher_out;
    c->out_len = 0;
    if (c->state == CONN_HANDSHAKE && c->ops) {
        shake_hands(c);
        if (!gone && c->state == CONN_HANDSHAKE) {
            conn_flush(c);
            more = c->io.readable && !c->got_end;
        }
    }
    if (!gone && c->state != CONN_HANDSHAKE && c->state != CONN_DEAD)
        more = pump_open(c, &gone);
    if (gone)
        return;
    c->gone = NULL;
    conn_keep_rest(c);
    if (c->state == CONN_DEAD && c->ops) {
        bury(c);
        return;
    }
    if (more)
        conn_wake(c);
}

/* Nothing of its own is left for the pump to do. */
static bool is_at_rest(const struct conn *c)
{
    return c->state == CONN_OPEN && !c->io.readable && !c->kept_in.len && !c->kept_plain.len &&
           !c->is_ending && !c->got_end;
}

static void push(struct conn *c)
{
    c->out = buffers_of_thread()->cipher_out;
    c->out_len = 0;
    conn_flush(c);
    bool more = c->state == CONN_OPEN && write_side(c);
    conn_flush(c);
    if (!more && is_at_rest(c))
        loop_defer_cancel(&c->pump);
}

/* The buffers for output are free: `during` reads, and TLS itself has not made it say something. */
void conn_push(struct conn *c)
{
    const struct conn *during = TAKE(reading);
    if (during && during != c && !during->out_len && c->state == CONN_OPEN && c->ops && !c->gone)
        push(c);
    reading = during;
}

void conn_on_event(struct io *io)
{
    struct conn *c = container_of(io, struct conn, io);
    if (io->hup && c->is_paused) { /* nobody reads: a reset would go unseen */
        int err = 0;
        socklen_t len = sizeof(err);
        if (getsockopt(io->fd, SOL_SOCKET, SO_ERROR, &err, &len) == 0 && err)
            conn_die(c, error_from_errno(err));
    }
    conn_wake(c);
}
