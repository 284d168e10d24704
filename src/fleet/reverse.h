/*
 * An agent's reverse connections of one session: dialled by the agent, then the hub is the HTTP/2
 * client and opens streams, and may move a stream from one to another. A lost one is dialled again
 * while it is wanted.
 */
#pragma once

#include "base/addr.h"
#include "loop/loop.h"

#include <stdint.h>

struct h2_headers;
struct h2_stream;
struct reverse_pool;
struct tls_client;

#define REVERSE_MAX 64

struct reverse_config {
    struct loop *loop;
    struct host_port target;
    struct addr known;
    struct tls_client *tls; /* referenced */
    const char *ask_for;    /* see dial_params; outlives the pool. NULL: its own name */
    uint32_t epoch;         /* of the session */
    /* Not NULL: one that cannot be dialled, or is lost, is given up, and the owner told. */
    void (*on_lost)(void *arg);
    void (*on_request)(void *arg, struct h2_stream *s, const struct h2_headers *h);
    void *arg;
};

struct reverse_pool *reverse_pool_new(const struct reverse_config *cfg);
/* Cuts them all: the streams' on_close comes later, from the loop. */
void reverse_pool_free(struct reverse_pool *p);
/* ... but streams that are over for us may still send what they have, for up to ten seconds. */
void reverse_pool_finish(struct reverse_pool *p);
/* How many there shall be, at most REVERSE_MAX. 0 cuts them all; with less than before those that
 * are open stay, until the hub closes them. */
void reverse_pool_want(struct reverse_pool *p, uint32_t count);
/* The session has been left: those that are open stay until the hub closes them, and no other is
 * dialled. */
void reverse_pool_leave(struct reverse_pool *p);
/* Those without streams are closed, and no other is dialled until they are wanted. */
void reverse_pool_close_idle(struct reverse_pool *p);
uint32_t reverse_pool_count(const struct reverse_pool *p); /* open ones, and dials */
size_t reverse_pool_streams(const struct reverse_pool *p);
void reverse_pool_set_tls(struct reverse_pool *p, struct tls_client *tls);
