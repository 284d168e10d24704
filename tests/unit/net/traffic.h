/* Bytes through whatever joins two sockets, and how such a socket ends. */
#pragma once

#include "loop/loop.h"

#include <stdbool.h>
#include <stddef.h>

/* One way: what was sent and what has arrived, which is checked byte by byte. */
struct way {
    int from, to;
    size_t bytes, sent, got;
};

/* As much as the sockets take and give now. */
void way_send(struct way *w);
void way_receive(struct way *w);
void way_move(struct way *w);

/* Until all has arrived. */
void test_transfer(struct loop *loop, int from, int to, size_t bytes);
/* Until nothing more is taken; how much that was. */
size_t test_fill(struct loop *loop, int fd);

bool test_is_end(int fd);
bool test_is_reset(int fd);
void test_reset(int fd); /* closes it so */
