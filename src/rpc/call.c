/*
 * A call of the server, from its stream's headers to its trailers:
 *
 *      headers ──► one message, end of stream ──► handler holds it ──► reply / send… / finish
 *                                                     │
 *                                 reset, deadline, disconnect: cancelled, still held
 */
#include "base/error.h"
#include "base/mem.h"
#include "rpc/internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define MESSAGE_TEXT_MAX 1024

static void call_free_if_over(struct rpc_call *call)
{
    if (call->stream || call->is_held)
        return;
    timer_stop(&call->deadline);
    if (call->request)
        protobuf_c_message_free_unpacked(call->request, NULL);
    grpc_reader_done(&call->reader);
    rpc_outbox_done(&call->out);
    mem_free(call);
}

/* --- answering -------------------------------------------------------------------------------- */

static void begin(struct rpc_call *call)
{
    if (call->has_begun)
        return;
    call->has_begun = true;
    h2_respond(call->stream,
               H2_HEADERS({":status", "200"}, {"content-type", "application/grpc"},
                          {"grpc-accept-encoding", "identity"}),
               3, true);
}

static void count(struct rpc_call *call, enum rpc_status status)
{
    struct rpc_server *server = call->session ? call->session->server : NULL;
    if (server && status != RPC_OK)
        server->stats.failed++;
}

/* Decides the status on the wire, once; the holder may not know of it yet (deadline). */
static void end_stream(struct rpc_call *call, enum rpc_status status, const char *message)
{
    if (!call->stream || call->is_ended)
        return;
    call->is_ended = true;
    count(call, status);
    char code[12], text[MESSAGE_TEXT_MAX];
    snprintf(code, sizeof(code), "%d", (int)status);
    grpc_message_escape(message, text, sizeof(text));
    struct h2_header headers[] = {{":status", "200"},
                                  {"content-type", "application/grpc"},
                                  {"grpc-accept-encoding", "identity"},
                                  {"grpc-status", code},
                                  {"grpc-message", text}};
    size_t last = text[0] ? 1 : 0;
    if (call->has_begun) {
        h2_trailers(call->stream, headers + 3, 1 + last);
        h2_resume(call->stream);
    } else {
        call->has_begun = true;
        h2_respond(call->stream, headers, 4 + last, false);
    }
    timer_start(&call->deadline, RPC_CLOSE_MS);
}

/* The holder's last act. */
static void release(struct rpc_call *call, enum rpc_status status, const char *message)
{
    assert(call->is_held);
    call->is_held = false;
    call->on_cancel = NULL;
    if (call->is_cancelled && call->stream && !call->is_ended)
        h2_reset(call->stream, H2_CANCEL);
    else
        end_stream(call, status, message);
    call_free_if_over(call);
}

void rpc_finish(struct rpc_call *call, enum rpc_status status, const char *message)
{
    release(call, status, message);
}

void rpc_fail(struct rpc_call *call, int code, const char *format, ...)
{
    char text[MESSAGE_TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    release(call, rpc_status_of(code), text);
}

void rpc_reply(struct rpc_call *call, const ProtobufCMessage *msg)
{
    if (!call->is_cancelled && rpc_outbox_put(&call->out, msg) < 0) {
        release(call, RPC_INTERNAL, "the reply is too large");
        return;
    }
    if (!call->is_cancelled)
        begin(call);
    release(call, RPC_OK, "");
}

static void cancel(struct rpc_call *call)
{
    call->is_cancelled = true;
    void (*fn)(struct rpc_call *, void *) = TAKE(call->on_cancel);
    if (fn)
        fn(call, call->on_cancel_arg);
}

int rpc_send(struct rpc_call *call, const ProtobufCMessage *msg)
{
    if (call->is_cancelled || !call->session || !call->session->server)
        return ERR_CLOSED;
    TRY(rpc_outbox_put(&call->out, msg));
    if (rpc_outbox_waiting(&call->out) > call->session->server->cfg.stream_backlog) {
        count(call, RPC_RESOURCE_EXHAUSTED);
        call->is_cancelled = true;
        call->is_ended = true;
        h2_reset(call->stream, H2_ENHANCE_YOUR_CALM); /* on_stream_close tells the holder */
        return ERR_LIMIT;
    }
    begin(call);
    h2_resume(call->stream);
    return 0;
}

/* --- the stream ------------------------------------------------------------------------------- */

static int on_message(void *arg, const uint8_t *data, size_t len)
{
    struct rpc_call *call = arg;
    if (call->request) {
        end_stream(call, RPC_UNIMPLEMENTED, "one request message is expected");
        return ERR_PROTO;
    }
    call->request = protobuf_c_message_unpack(call->method->request, NULL, len, data);
    if (!call->request) {
        end_stream(call, RPC_INVALID_ARGUMENT, "the request message cannot be decoded");
        return ERR_PROTO;
    }
    return 0;
}

static void on_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct rpc_call *call = arg;
    if (call->is_ended || call->is_held)
        return; /* what comes now stops at the stream's window */
    int rc = grpc_read(&call->reader, data, len, on_message, call);
    if (rc == ERR_TOO_LARGE)
        end_stream(call, RPC_RESOURCE_EXHAUSTED, "the request message is too large");
    else if (rc == ERR_UNSUPPORTED)
        end_stream(call, RPC_UNIMPLEMENTED, "compressed messages are not supported");
    else if (rc < 0)
        end_stream(call, RPC_INTERNAL, "the message framing is broken");
    else
        h2_consume(s, len);
}

static void on_end(void *arg, struct h2_stream *s)
{
    struct rpc_call *call = arg;
    if (call->is_ended || call->is_held)
        return;
    if (!call->request || !grpc_reader_is_between(&call->reader)) {
        end_stream(call, RPC_INVALID_ARGUMENT, "the request message is missing");
        return;
    }
    ProtobufCMessage *request = TAKE(call->request);
    call->is_held = true;
    call->method->handler(call, request, call->ctx);
    protobuf_c_message_free_unpacked(request, NULL);
}

static int on_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct rpc_call *call = arg;
    size_t n = rpc_outbox_take(&call->out, out, cap);
    *eof = call->is_ended && rpc_outbox_waiting(&call->out) == 0;
    return (int)n;
}

static void on_stream_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct rpc_call *call = arg;
    if (call->session->server)
        call->session->server->stats.open_calls--;
    DL_DELETE(call->session->calls, call);
    call->session = NULL;
    call->stream = NULL;
    timer_stop(&call->deadline);
    if (call->is_held)
        cancel(call);
    else
        call_free_if_over(call);
}

static const struct h2_stream_ops stream_ops = {
    .on_data = on_data, .on_end = on_end, .on_produce = on_produce, .on_close = on_stream_close};

static void on_deadline(struct timer *t)
{
    struct rpc_call *call = container_of(t, struct rpc_call, deadline);
    if (call->is_ended) {
        h2_reset(call->stream, H2_CANCEL);
        return;
    }
    end_stream(call, RPC_DEADLINE_EXCEEDED, "the deadline has passed");
    if (call->is_held)
        cancel(call);
}

/* --- its beginning ---------------------------------------------------------------------------- */

static const struct rpc_method *find_method(const struct rpc_server *s, const char *path,
                                            void **ret_ctx)
{
    for (const struct rpc_table *t = s->tables; t; t = t->next) {
        for (size_t i = 0; i < t->n; i++) {
            if (strcmp(t->rows[i].path, path) == 0) {
                *ret_ctx = t->ctx;
                return &t->rows[i];
            }
        }
    }
    return NULL;
}

static bool is_grpc(const struct h2_headers *h)
{
    static const char type[] = "application/grpc";
    const char *value = h2_headers_get(h, "content-type");
    size_t len = sizeof(type) - 1;
    return value && strncmp(value, type, len) == 0 &&
           (value[len] == '\0' || strchr("+;", value[len]));
}

/* NULL, or the HTTP status for what isn't gRPC at all. */
static const char *check_http(const struct h2_headers *h)
{
    const char *method = h2_headers_get(h, ":method");
    if (!method || strcmp(method, "POST") != 0)
        return "405";
    return is_grpc(h) ? NULL : "415";
}

static void check_call(struct rpc_call *call, const struct h2_headers *h)
{
    const char *encoding = h2_headers_get(h, "grpc-encoding");
    const char *timeout = h2_headers_get(h, "grpc-timeout");
    uint64_t timeout_ms = 0;
    if (!call->method)
        end_stream(call, RPC_UNIMPLEMENTED, "no such method");
    else if (encoding && strcmp(encoding, "identity") != 0)
        end_stream(call, RPC_UNIMPLEMENTED, "compressed messages are not supported");
    else if (timeout && grpc_timeout_parse(timeout, &timeout_ms) < 0)
        end_stream(call, RPC_INVALID_ARGUMENT, "grpc-timeout is malformed");
    else if (timeout)
        timer_start(&call->deadline, timeout_ms);
}

void rpc_call_accept(struct rpc_session *s, struct h2_stream *stream, const struct h2_headers *h)
{
    const char *path = h2_headers_get(h, ":path");
    const char *refusal = check_http(h);
    if (!s->server || !path || refusal) {
        h2_respond(stream, H2_HEADERS({":status", refusal ? refusal : "400"}), 1, false);
        return;
    }
    struct rpc_call *call = NEW(struct rpc_call);
    call->session = s;
    call->stream = stream;
    call->loop = s->server->cfg.loop;
    call->reader.max = RPC_MESSAGE_MAX;
    call->method = find_method(s->server, path, &call->ctx);
    timer_init(&call->deadline, call->loop, on_deadline);
    DL_APPEND(s->calls, call);
    s->server->stats.calls++;
    s->server->stats.open_calls++;
    h2_stream_set(stream, &stream_ops, call);
    check_call(call, h);
}

/* --- what a handler may ask ------------------------------------------------------------------- */

struct rpc_session *rpc_call_session(const struct rpc_call *call)
{
    return call->session;
}

bool rpc_call_is_cancelled(const struct rpc_call *call)
{
    return call->is_cancelled;
}

void rpc_on_cancel(struct rpc_call *call, void (*fn)(struct rpc_call *call, void *arg), void *arg)
{
    call->on_cancel = fn;
    call->on_cancel_arg = arg;
}
