/*
 * gRPC status codes (grpc/doc/statuscodes.md) and what our own error codes become as one.
 */
#pragma once

enum rpc_status {
    RPC_OK,
    RPC_CANCELLED,
    RPC_UNKNOWN,
    RPC_INVALID_ARGUMENT,
    RPC_DEADLINE_EXCEEDED,
    RPC_NOT_FOUND,
    RPC_ALREADY_EXISTS,
    RPC_PERMISSION_DENIED,
    RPC_RESOURCE_EXHAUSTED,
    RPC_FAILED_PRECONDITION,
    RPC_ABORTED,
    RPC_OUT_OF_RANGE,
    RPC_UNIMPLEMENTED,
    RPC_INTERNAL,
    RPC_UNAVAILABLE,
    RPC_DATA_LOSS,
    RPC_UNAUTHENTICATED,
    RPC_STATUS_COUNT
};

enum rpc_status rpc_status_of(int code);      /* 0 or ERR_* → status */
int rpc_error_of(enum rpc_status status);     /* status → 0 or ERR_* */
const char *rpc_status_name(unsigned status); /* "FAILED_PRECONDITION" */
