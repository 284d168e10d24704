/*
 * The client: calls are streams of one connection. A call ends once, when its stream is closed (or
 * when it could not be opened), and that is where its result is made.
 */
#include "rpc/client.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/text.h"
#include "net/h2conn.h"
#include "rpc/message.h"
#include "rpc/server.h"
#include "wire/grpc.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define GOAWAY_GRACE_MS 30000

struct rpc_client {
    struct h2conn *hc;
    char *authority;
    void (*on_close)(void *arg, int err);
    void *arg;
    struct rpc_client_call *calls;
    bool is_freed, is_closing;
    bool is_over; /* on_close runs: whatever is started now fails by itself */
};

struct rpc_client_call {
    struct rpc_client *client; /* NULL: started when the client was over */
    struct h2_stream *stream;  /* NULL: was never opened */
    const ProtobufCMessageDescriptor *descriptor;
    rpc_unary_fn *on_reply; /* one of these two; both NULL once cancelled */
    rpc_end_fn *on_end;
    rpc_message_fn *on_message;
    void *arg;

    struct rpc_outbox out;
    struct grpc_reader reader;
    ProtobufCMessage *reply; /* unary */
    struct rpc_result result;
    bool has_status; /* the result is decided */
    int http_status;
    struct timer deadline;
    struct defer failed; /* tells of a call that could not be opened */
    struct rpc_client_call *prev, *next;
};

static void decide(struct rpc_client_call *call, enum rpc_status status, int code, const char *text)
{
    if (call->has_status)
        return;
    call->has_status = true;
    call->result.status = status;
    if (status != RPC_OK)
        diag_set(&call->result.diag, code, "%s", text[0] ? text : rpc_status_name(status));
}

static void call_free(struct rpc_client_call *call)
{
    timer_stop(&call->deadline);
    loop_defer_cancel(&call->failed);
    if (call->reply)
        protobuf_c_message_free_unpacked(call->reply, NULL);
    grpc_reader_done(&call->reader);
    rpc_outbox_done(&call->out);
    mem_free(call);
}

static void finish(struct rpc_client_call *call)
{
    if (call->result.status == RPC_OK && call->on_reply && !call->reply) {
        call->has_status = false;
        decide(call, RPC_INTERNAL, ERR_PROTO, "the server sent no message");
    }
    if (call->client)
        DL_DELETE(call->client->calls, call);
    timer_stop(&call->deadline);
    if (call->on_reply)
        call->on_reply(call->arg, &call->result,
                       call->result.status == RPC_OK ? call->reply : NULL);
    else if (call->on_end)
        call->on_end(call->arg, &call->result);
    call_free(call);
}

static void tell_failed(struct defer *d)
{
    finish(container_of(d, struct rpc_client_call, failed));
}

/* --- the stream ------------------------------------------------------------------------------- */

static bool is_cancelled(const struct rpc_client_call *call)
{
    return !call->on_reply && !call->on_end;
}

static int on_message(void *arg, const uint8_t *data, size_t len)
{
    struct rpc_client_call *call = arg;
    if (is_cancelled(call))
        return ERR_CANCELED;
    if (call->on_reply && call->reply) {
        decide(call, RPC_INTERNAL, ERR_PROTO, "the server sent more than one message");
        return ERR_PROTO;
    }
    ProtobufCMessage *msg = protobuf_c_message_unpack(call->descriptor, NULL, len, data);
    if (!msg) {
        decide(call, RPC_INTERNAL, ERR_PROTO, "a message from the server cannot be decoded");
        return ERR_PROTO;
    }
    if (call->on_reply) {
        call->reply = msg;
        return 0;
    }
    call->on_message(call->arg, msg);
    protobuf_c_message_free_unpacked(msg, NULL);
    return 0;
}

static void on_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct rpc_client_call *call = arg;
    if (call->has_status || is_cancelled(call))
        return;
    int rc = grpc_read(&call->reader, data, len, on_message, call);
    if (rc == 0) {
        h2_consume(s, len);
        return;
    }
    decide(call, rc == ERR_TOO_LARGE ? RPC_RESOURCE_EXHAUSTED : RPC_INTERNAL, rc,
           "a message from the server is too large, compressed or broken");
    h2_reset(s, H2_CANCEL);
}

static void on_headers(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct rpc_client_call *call = arg;
    int http_status = h2_headers_status(h);
    const char *code = h2_headers_get(h, "grpc-status");
    const char *message = h2_headers_get(h, "grpc-message");
    char text[sizeof(call->result.diag.text)] = "";
    uint64_t status = RPC_UNKNOWN;
    if (http_status)
        call->http_status = http_status;
    if (!code)
        return;
    if (text_to_u64(code, UINT32_MAX, &status) < 0 || status >= RPC_STATUS_COUNT)
        status = RPC_UNKNOWN;
    if (message)
        grpc_message_unescape(message, text, sizeof(text));
    decide(call, (enum rpc_status)status, rpc_error_of((enum rpc_status)status), text);
}

static int on_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct rpc_client_call *call = arg;
    size_t n = rpc_outbox_take(&call->out, out, cap);
    *eof = rpc_outbox_waiting(&call->out) == 0;
    return (int)n;
}

/* With TLS 1.3 a server that refuses our certificate says so after the handshake, so here. */
static void decide_lost(struct rpc_client_call *call)
{
    const struct rpc_client *c = call->client;
    const struct diag *why = c && c->hc ? conn_diag(h2conn_conn(c->hc)) : NULL;
    if (why && why->code)
        decide(call, RPC_UNAVAILABLE, why->code, diag_text(why));
    else
        decide(call, RPC_UNAVAILABLE, ERR_CLOSED, "the connection was lost");
}

/* No status came: what the HTTP status or the reset says (grpc/doc/http-grpc-status-mapping.md). */
static void decide_without_status(struct rpc_client_call *call, uint32_t error)
{
    char text[64];
    if (call->http_status && call->http_status != 200) {
        snprintf(text, sizeof(text), "the server answered HTTP status %d", call->http_status);
        switch (call->http_status) {
        case 401:
            decide(call, RPC_UNAUTHENTICATED, ERR_UNAUTHENTICATED, text);
            return;
        case 403:
            decide(call, RPC_PERMISSION_DENIED, ERR_DENIED, text);
            return;
        case 404:
            decide(call, RPC_UNIMPLEMENTED, ERR_UNSUPPORTED, text);
            return;
        default:
            decide(call, RPC_UNKNOWN, ERR_PROTO, text);
            return;
        }
    }
    switch (error) {
    case H2_REFUSED_STREAM:
        decide(call, RPC_UNAVAILABLE, ERR_UNAVAILABLE, "the server refused the stream");
        return;
    case H2_CANCEL:
        decide_lost(call);
        return;
    case H2_ENHANCE_YOUR_CALM:
        decide(call, RPC_RESOURCE_EXHAUSTED, ERR_LIMIT, "the server cut the call off");
        return;
    default:
        decide(call, RPC_INTERNAL, ERR_PROTO, "the call ended without a status");
    }
}

static void on_stream_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct rpc_client_call *call = arg;
    call->stream = NULL;
    decide_without_status(call, error);
    finish(call);
}

static const struct h2_stream_ops stream_ops = {.on_headers = on_headers,
                                                .on_data = on_data,
                                                .on_produce = on_produce,
                                                .on_close = on_stream_close};

static void on_deadline(struct timer *t)
{
    struct rpc_client_call *call = container_of(t, struct rpc_client_call, deadline);
    decide(call, RPC_DEADLINE_EXCEEDED, ERR_TIMEOUT, "the deadline has passed");
    h2_reset(call->stream, H2_CANCEL);
}

/* --- calls ------------------------------------------------------------------------------------ */

static int open_stream(struct rpc_client_call *call, const char *path, uint32_t timeout_ms)
{
    char timeout[16];
    grpc_timeout_format(timeout_ms, timeout);
    const struct h2_header headers[] = {
        {":method", "POST"},
        {":scheme", "https"},
        {":path", path},
        {":authority", call->client->authority},
        {"content-type", "application/grpc"},
        {"te", "trailers"},
        {"user-agent", "warren/" WARREN_VERSION},
        {"grpc-timeout", timeout},
    };
    if (call->client->is_closing)
        return ERR_UNAVAILABLE;
    TRY(h2_request(h2conn_session(call->client->hc), headers,
                   ARRAY_SIZE(headers) - (timeout_ms ? 0 : 1), true, &stream_ops, call,
                   &call->stream));
    if (timeout_ms)
        timer_start(&call->deadline, timeout_ms);
    return 0;
}

static struct rpc_client_call *start(struct rpc_client_call *call, const char *path,
                                     const ProtobufCMessage *request, uint32_t timeout_ms)
{
    struct loop *l = h2conn_loop(call->client->hc);
    timer_init(&call->deadline, l, on_deadline);
    call->failed.fn = tell_failed;
    call->reader.max = RPC_MESSAGE_MAX;
    int rc = rpc_outbox_put(&call->out, request);
    if (call->client->is_over) {
        call->client = NULL;
        rc = ERR_CLOSED;
    } else {
        DL_APPEND(call->client->calls, call);
    }
    if (rc == 0)
        rc = open_stream(call, path, timeout_ms);
    if (rc < 0) {
        decide(call, rpc_status_of(rc), rc, "the call could not be started");
        loop_defer(l, &call->failed);
    }
    return call;
}

struct rpc_client_call *rpc_call_unary(struct rpc_client *c, const char *path,
                                       const ProtobufCMessage *request,
                                       const ProtobufCMessageDescriptor *reply, uint32_t timeout_ms,
                                       rpc_unary_fn *done, void *arg)
{
    struct rpc_client_call *call = NEW(struct rpc_client_call);
    call->client = c;
    call->descriptor = reply;
    call->on_reply = done;
    call->arg = arg;
    return start(call, path, request, timeout_ms);
}

struct rpc_client_call *rpc_call_stream(struct rpc_client *c, const char *path,
                                        const ProtobufCMessage *request,
                                        const ProtobufCMessageDescriptor *reply,
                                        uint32_t timeout_ms, rpc_message_fn *on_msg,
                                        rpc_end_fn *done, void *arg)
{
    struct rpc_client_call *call = NEW(struct rpc_client_call);
    call->client = c;
    call->descriptor = reply;
    call->on_message = on_msg;
    call->on_end = done;
    call->arg = arg;
    return start(call, path, request, timeout_ms);
}

static void silence(struct rpc_client_call *call)
{
    call->on_reply = NULL;
    call->on_end = NULL;
    timer_stop(&call->deadline);
}

void rpc_call_cancel(struct rpc_client_call *call)
{
    silence(call);
    if (call->stream)
        h2_reset(call->stream, H2_CANCEL);
}

/* --- the connection --------------------------------------------------------------------------- */

static void on_goaway(void *arg, uint32_t error)
{
    struct rpc_client *c = arg;
    if (!c->is_closing)
        h2conn_shutdown(c->hc, GOAWAY_GRACE_MS);
    c->is_closing = true;
}

/* Calls that were never opened outlive no connection. */
static void finish_unopened(struct rpc_client *c)
{
    struct rpc_client_call *call, *next;
    DL_FOREACH_SAFE (c->calls, call, next)
        finish(call);
}

static void on_close(void *arg, int err)
{
    struct rpc_client *c = arg;
    c->is_closing = true;
    c->is_over = true;
    finish_unopened(c);
    if (!c->is_freed && c->on_close)
        c->on_close(c->arg, err);
    mem_free(c->authority);
    mem_free(c);
}

static const struct h2conn_ops h2conn_ops = {.on_goaway = on_goaway, .on_close = on_close};

int rpc_client_new(struct conn *conn, const char *authority, void (*fn)(void *arg, int err),
                   void *arg, struct rpc_client **ret)
{
    struct rpc_client *c = NEW(struct rpc_client);
    c->authority = mem_strdup(authority);
    c->on_close = fn;
    c->arg = arg;
    const struct h2conn_config cfg = {.h2 = {.stream_window = 64 * 1024,
                                             .stream_window_max = 256 * 1024,
                                             .connection_window = 1024 * 1024}};
    c->hc = h2conn_new(conn, &cfg, &h2conn_ops, c);
    *ret = c;
    return 0;
}

void rpc_client_free(struct rpc_client *c)
{
    if (!c)
        return;
    struct rpc_client_call *call;
    c->is_freed = true;
    DL_FOREACH (c->calls, call)
        silence(call);
    h2conn_abort(c->hc, ERR_CANCELED);
}

struct conn *rpc_client_conn(const struct rpc_client *c)
{
    return h2conn_conn(c->hc);
}
