/*
 * The agent process: composition of its session, its tunnels and its certificate's renewal, on one
 * loop and one thread.
 */
#pragma once

#include "conf/conf.h"

/* Runs an agent until SIGTERM or SIGINT and returns the process's exit code: 0, 1 (it failed), 2
 * (settings are wrong, or it is not enrolled). `sources` are read again at SIGHUP. */
int agent_main(const struct conf_sources *sources);
