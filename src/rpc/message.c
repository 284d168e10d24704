#include "rpc/message.h"

#include "base/error.h"
#include "base/macro.h"
#include "rpc/server.h"
#include "wire/grpc.h"

#include <string.h>

int rpc_outbox_put(struct rpc_outbox *o, const ProtobufCMessage *msg)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    if (len > RPC_MESSAGE_MAX)
        return ERR_TOO_LARGE;
    if (o->at > 0) {
        buf_consume(&o->buf, o->at);
        o->at = 0;
    }
    TRY(buf_reserve(&o->buf, GRPC_PREFIX_SIZE + len));
    uint8_t *out = (uint8_t *)o->buf.data + o->buf.len;
    grpc_prefix(len, out);
    protobuf_c_message_pack(msg, out + GRPC_PREFIX_SIZE);
    o->buf.len += GRPC_PREFIX_SIZE + len;
    return 0;
}

size_t rpc_outbox_waiting(const struct rpc_outbox *o)
{
    return o->buf.len - o->at;
}

size_t rpc_outbox_take(struct rpc_outbox *o, void *out, size_t cap)
{
    size_t n = MIN(cap, rpc_outbox_waiting(o));
    if (n > 0)
        memcpy(out, o->buf.data + o->at, n);
    o->at += n;
    if (rpc_outbox_waiting(o) == 0)
        rpc_outbox_done(o);
    return n;
}

void rpc_outbox_done(struct rpc_outbox *o)
{
    buf_done(&o->buf);
    o->at = 0;
}
