/*
 * A socket for ICMP echo (net/ping.h) on a loop. Many targets are asked through it; an error that
 * came back for one echo is not taken for one of the next, and each is told once.
 */
#pragma once

#include "loop/io.h"
#include "net/ping.h"

struct pinger {
    struct io io; /* fd -1: not open */
    struct ping ping;
    struct loop *loop;
    struct defer again;
    /* From the loop, and from within pinger_send. */
    void (*on_answer)(struct pinger *p, const struct ping_answer *a);
};

/* `on_answer` is set. ERR_DENIED: not permitted; ERR_LIMIT. It is not open then, which stopping
 * does not mind. */
int pinger_start(struct pinger *p, struct loop *l, bool is_v6);
void pinger_stop(struct pinger *p);
/* 0, or a positive errno value. */
int pinger_send(struct pinger *p, const struct ping_request *r);
