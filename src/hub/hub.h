/*
 * The hub process: which parts it is made of, in which order they start, drain and end.
 *
 * Threads: the caller's thread runs the main loop, which owns all decisions; each worker owns a
 * loop that shakes hands and moves bytes; the store has its own. See docs/ARCHITECTURE.md.
 */
#pragma once

#include "conf/conf.h"
#include "store/store.h"

/* Runs a hub until SIGTERM or SIGINT and returns the process's exit code: 0, 1 (it failed; the log
 * or stderr says why) or 2 (its settings are wrong). `sources` are read again at SIGHUP. */
int hub_main(const struct conf_sources *sources);

/* The tables of everything that a hub stores. */
const struct store_schema *const *hub_schemas(size_t *ret_n);
