/* Messages on their way out; shared by the server and the client. */
#pragma once

#include "base/buf.h"

#include <protobuf-c/protobuf-c.h>

/* What a call has not handed to HTTP/2 yet. Zero-initialised is empty. */
struct rpc_outbox {
    struct buf buf;
    size_t at;
};

/* Appends prefix and message. ERR_TOO_LARGE above RPC_MESSAGE_MAX. */
int rpc_outbox_put(struct rpc_outbox *o, const ProtobufCMessage *msg);
size_t rpc_outbox_waiting(const struct rpc_outbox *o);
/* Takes up to `cap` bytes out; the memory is returned once it is empty. */
size_t rpc_outbox_take(struct rpc_outbox *o, void *out, size_t cap);
void rpc_outbox_done(struct rpc_outbox *o);
