#!/usr/bin/python3
"""How far one cluster goes: many idle agents, many tunnels, much history, on PostgreSQL and real hubs.

    scale.py agents [--agents 100000] [--hubs N]    connect, rest, one hub killed, all come back
    scale.py tunnels [--tunnels 10000]              made, listed, a hub started with them, an agent that holds them
    scale.py history [--rows 1000000]               pages of it, new rows, on PostgreSQL and SQLite

Prints a table and, with -o json, everything. What it says is in docs/performance.md.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import signal
import sys
import tempfile
import threading
import time

from run import build_directory, say  # first: it knows where lib is
from procs import Group, machine_busy_seconds, own_seconds
import scale_agents
import scale_rows

from lib import network  # after run, too

SPARE_DESCRIPTORS = 300  # of a hub: what it reserves (src/hub/hub.c), and what it has open itself
SLOTS = 200              # of which two cores can do some, with agents and database on them as well


def hubs_needed(agents):
    """At least three; with one dead each of the others still has descriptors enough."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_DESCRIPTORS
    return max(3, -(-agents // limit) + 1)


def parse_options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("what", choices=["agents", "tunnels", "history"], nargs="+")
    p.add_argument("--agents", type=int, default=10_000)
    p.add_argument("--hubs", type=int, help="default: 3, or as many as the limit of descriptors asks for")
    p.add_argument("--networks", type=int, help="that the agents are in; default: one for 100 of them")
    p.add_argument("--enrol", type=int, default=1000, help="agents that enrol by EST, to weigh that")
    p.add_argument("--parallel", type=int, default=256,
                   help="agents that dial at a time until all are there; those that come back dial when they want to")
    p.add_argument("--slots", type=int, default=SLOTS,
                   help="logins a second at each hub that is left, over which agents of a dead one spread themselves "
                        "(limits.logins_per_second); a great number: none")
    p.add_argument("--here", action="store_true", help="not in a network namespace of its own")
    p.add_argument("--rest", type=float, default=30, help="seconds of watching them idle")
    p.add_argument("--tunnels", type=int, default=10_000)
    p.add_argument("--rows", type=int, default=1_000_000)
    p.add_argument("-o", "--output", choices=["table", "json"], default="table")
    o = p.parse_args()
    o.hubs = o.hubs or hubs_needed(o.agents)
    o.networks = o.networks or max(1, o.agents // 100)
    return o


def main():
    o = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` ends what runs
    build = build_directory()
    if os.geteuid() == 0 and not o.here:
        network.leave()
    began, busy, own = time.time(), machine_busy_seconds(), own_seconds()
    rows = []
    with contextlib.ExitStack() as closing:
        directory = closing.enter_context(tempfile.TemporaryDirectory(prefix="warren-scale-"))
        os.chmod(directory, 0o755)  # the database's user passes
        if "agents" in o.what:
            rows += scale_agents.measure(o, directory, build)
        if "tunnels" in o.what:
            rows += scale_rows.tunnels(o, directory, build)
        if "history" in o.what:
            rows += scale_rows.history(o, directory, build)
    took = time.time() - began
    others = (machine_busy_seconds() - busy - (own_seconds() - own)) / took / os.cpu_count()
    note = (f"{platform.platform()}, {os.cpu_count()} cores; {took:.0f} s; "
            f"other programs used {max(others, 0):.0%} of the machine")
    if o.output == "json":
        print(json.dumps({"rows": rows, "note": note}, indent=1))
        return
    width = max(len(text) for text, _, _ in rows)
    for text, value, unit in rows:
        shown = f"{value:,.2f}" if isinstance(value, float) and abs(value) < 100 else (
            f"{value:,.0f}" if isinstance(value, (int, float)) else str(value))
        print(f"{text:<{width}}  {shown:>12} {unit}")
    print("\n" + note)


if __name__ == "__main__":
    main()
