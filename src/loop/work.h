/*
 * Work that takes long, on a thread of the process's pool.
 */
#pragma once

#include "loop/loop.h"

/* run(arg) on another thread, then done(arg) on the loop's, always later, exactly once: the loop is
 * to be turned until then. How many of them may wait is the caller's affair. */
void loop_work(struct loop *l, void (*run)(void *arg), void (*done)(void *arg), void *arg);
