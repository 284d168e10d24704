/*
 * The agent's checks of targets: whether they can be reached from here. One loop.
 *
 * Tunnels that ask the same of the same target share a check. One that somebody holds runs each
 * interval, others HOLDER_FACTOR times as rarely; an outcome that contradicts what was known is
 * checked again in a moment, so `fall` failures take little longer than one. At most CHECKS_AT_ONCE
 * run at a time, and with very many targets the intervals stretch.
 *
 * The TCP check is a handshake that is broken off before it is complete (net/dialer.h, is_probe).
 */
#pragma once

#include "base/addr.h"
#include "loop/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct check;
struct checker;

#define CHECK_PATH_SIZE 256

struct check_params {
    bool is_http, is_tls; /* tls: HTTP in TLS, with any certificate */
    struct host_port target;
    char path[CHECK_PATH_SIZE]; /* HTTP */
    uint32_t interval_ms, rise, fall;
};

/* What is known of a target: a value and its rule. It counts as reached until found otherwise. */
struct check_state {
    int err;         /* 0: reached; else why not */
    uint32_t streak; /* outcomes in a row that contradict */
};
/* Takes an outcome in (0 or ERR_*). Whether `err` changed. */
bool check_state_note(struct check_state *s, uint32_t rise, uint32_t fall, int outcome);

/* 0: an HTTP answer that begins so is 2xx or 3xx; 1: more bytes are needed; ERR_PROTO;
 * ERR_UNAVAILABLE: another status. */
int check_http_answer(const char *data, size_t len);

struct checker_config {
    struct loop *loop;
    int (*allowed)(void *arg, const struct addr *a); /* the owner's ceiling: 0 or ERR_DENIED */
    void *arg;
};
struct checker *checker_new(const struct checker_config *cfg);
void checker_free(struct checker *c); /* no user may be left */

/* Who wants to know. Embedded, zeroed. check_unuse is not for its callbacks. */
struct check_user {
    /* What is known has changed. */
    void (*on_change)(struct check_user *u, int err);
    /* The answer to check_ask. */
    void (*on_answer)(struct check_user *u, int err);
    struct check *check;
    bool is_holder, is_asking;
    struct check_user *prev, *next;
};
void check_use(struct checker *c, const struct check_params *p, struct check_user *u);
void check_unuse(struct check_user *u); /* harmless when it uses none; no callback after it */
void check_hold(struct check_user *u, bool is_holder);
/* Asks for the outcome of a check now, or of the one under way; on_answer follows, later. */
void check_ask(struct check_user *u);
/* A stream has reached the target, or not. */
void check_note(struct check_user *u, int outcome);
int check_err(const struct check_user *u); /* what is known */
