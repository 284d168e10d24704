#!/usr/bin/python3
"""`make bench`: Warren beside direct loopback, ssh -R and a haproxy TLS pair, in the same minutes.

In each round each measurement runs on all peers in turn. See docs/bench.md. The build directory comes
from WARREN_BUILD (default build-release, which is made when it is missing).
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

import hop
import mount
import peers as peer_list
import report
import wan
from place import Loopback, network
from procs import (AwakeCores, Group, cpu_seconds, machine_busy_seconds, memory_kib, own_seconds,
                   wait_for)

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GIB = 1 << 30
WARMUP_S = 0.3  # of the load generator, before it counts
ALL_PEERS = "direct,copy,ssh,haproxy,warren"
SETTLE_S = 0.5  # for frees and window updates to arrive before memory is read


def say(text):
    print(text, file=sys.stderr, flush=True)


class Bench:
    def __init__(self, options, directory):
        self.o = options
        self.directory = directory
        self.build = build_directory()
        peer_list.Warren.build = self.build
        self.load = os.path.join(self.build, "bench/bench-load")
        self.samples = defaultdict(lambda: defaultdict(list))
        self.prefix = ""  # of the rows that are being measured
        self.group = Group(directory)
        self.server_port = self.serve(self.group, Loopback())

    def serve(self, group, place):
        """Starts the target on the far side of `place`; its port."""
        at = ["--to", "0.0.0.0:0"] if place.far_namespace else []
        group.start("server", place.far([self.load, "serve", *at]))
        log = os.path.join(group.directory, "server.log")
        wait_for("the load server", lambda: json.load(open(log)))
        return json.load(open(log))["port"]

    def record(self, row, peer, value):
        self.samples[self.prefix + row][peer.name].append(value)

    @staticmethod
    def settle():
        time.sleep(SETTLE_S)

    # -- running the load generator

    def client(self, mode, peer, streams=1, seconds=None, extra=()):
        port = peer.udp_port if mode.startswith("udp") else peer.port
        argv = [self.load, mode, "--to", f"{peer.host}:{port}", "--counter",
                f"{peer.place.target_host}:{peer.target}", "--streams", str(streams), "--seconds",
                str(seconds or self.o.seconds), *extra]
        return subprocess.Popen(peer.place.near(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def finish(self, process, peer):
        out, _ = process.communicate(timeout=60)
        if process.returncode:
            raise RuntimeError(f"{' '.join(process.args)} failed")
        result = json.loads(out.splitlines()[-1])
        self.count_errors(peer, result.get("errors", 0))
        return result

    def run(self, mode, peer, **kwargs):
        return self.finish(self.client(mode, peer, **kwargs), peer)

    def count_errors(self, peer, errors):
        counted = self.samples[self.prefix + "errors"][peer.name]
        counted[:] = [(counted[0] if counted else 0) + errors]

    # -- measurements; each runs once a round for each peer

    def bulk(self, peer, streams, direction):
        extra = ["--from-target"] if direction == "from" else []
        before = cpu_seconds(peer.pids())
        result = self.run("bulk", peer, streams=streams, extra=extra)
        cpu = cpu_seconds(peer.pids()) - before
        self.record(f"bulk{streams}_{direction}", peer, result["gbit"])
        if peer.ends and result["bytes"]:
            self.record(f"cpu{streams}_{direction}", peer, cpu / (result["bytes"] / GIB))

    def whole(self, result):
        """How many there were with those of the warm-up, which used CPU as well."""
        return result["rate"] * (self.o.seconds + WARMUP_S)

    def round_trips(self, peer, streams):
        before = cpu_seconds(peer.pids())
        result = self.run("rr", peer, streams=streams)
        cpu = cpu_seconds(peer.pids()) - before
        if peer.ends and result["rate"]:
            self.record(f"rr{streams}_cpu", peer, cpu / self.whole(result) * 1e6)
        if streams > 1:
            self.record(f"rr{streams}_rate", peer, result["rate"])
        self.record(f"rr{streams}_p50", peer, result["p50_us"])
        self.record(f"rr{streams}_p99", peer, result["p99_us"])

    def round_trips_awake(self, peer):
        with AwakeCores():
            self.record("rr1_awake_p50", peer, self.run("rr", peer)["p50_us"])

    def beside_bulk(self, peer, direction):
        extra = ["--from-target"] if direction == "from" else []
        bulk = self.client("bulk", peer, seconds=self.o.seconds + 0.6, extra=extra)
        time.sleep(0.4)
        result = self.run("rr", peer)
        self.record(f"beside_{direction}_p50", peer, result["p50_us"])
        self.record(f"beside_{direction}_p99", peer, result["p99_us"])
        self.record(f"beside_{direction}_bulk", peer, self.finish(bulk, peer)["gbit"])

    def connections(self, peer, parallel):
        before = cpu_seconds(peer.pids())
        result = self.run("conn", peer, streams=parallel)
        cpu = cpu_seconds(peer.pids()) - before
        self.record(f"conn{parallel}_rate", peer, result["rate"])
        if parallel > 1:
            self.record(f"conn{parallel}_p99", peer, result["p99_us"])
            if peer.ends and result["rate"]:
                self.record("conn_cpu", peer, cpu / self.whole(result) * 1e6)

    def datagrams(self, peer):
        if not peer.udp_port:
            return
        one, many = self.run("udp-rr", peer), self.run("udp-rr", peer, streams=64)
        self.record("udp_p50", peer, one["p50_us"])
        self.record("udp_p99", peer, one["p99_us"])
        self.record("udp64_rate", peer, many["rate"])
        flood = self.run("udp-flood", peer, streams=16, extra=["--size", "1200"])
        self.record("udp_flood", peer, flood["rate"])

    def stalled(self, peer, direction):
        extra = ["--from-target"] if direction == "from" else []
        bulk = lambda: self.run("bulk", peer, streams=7, extra=extra)["gbit"]
        alone = bulk()
        for count in 1, 16:
            time.sleep(SETTLE_S)
            before = {end: memory_kib(pids)[1] for end, pids in peer.ends.items()}
            stalled = self.client("stall", peer, streams=count, extra=extra)
            json.loads(stalled.stdout.readline())
            beside = bulk()
            grown = [memory_kib(pids)[1] - before[end] for end, pids in peer.ends.items()]
            stalled.communicate("")
            alone_before, alone = alone, bulk()
            self.record(f"stall_{direction}_{count}", peer, 2 * beside / (alone_before + alone))
            self.record(f"stall_memory_{count}", peer, max(grown + [0]))

    # -- memory; on fresh processes, once

    def idle_streams(self, kind, count, label):
        peer = kind(self.directory, self.server_port)
        try:
            if count > peer.max_streams:
                return
            self.run("rr", peer, seconds=0.2)
            time.sleep(SETTLE_S)
            before = {end: memory_kib(pids) for end, pids in peer.ends.items()}
            if label == "idle1k":
                for end, (rss, _) in before.items():
                    self.record(f"{end}_rss", peer, rss / 1024)
            hold = self.client("hold", peer, streams=count)
            if not hold.stdout.readline():
                raise RuntimeError(f"{peer.name}: {count} streams could not be opened")
            time.sleep(SETTLE_S)
            for end, pids in peer.ends.items():
                grown = memory_kib(pids)[1] - before[end][1]
                self.record(f"{label}_{end}", peer, grown / count)
            alive = self.finish(hold, peer)["alive"]
            self.count_errors(peer, count - alive)
        finally:
            peer.stop()

    def swarm(self, agents):
        peer = peer_list.Warren(self.directory, self.server_port)
        try:
            token = peer.token(agents)
            before, cpu = memory_kib(peer.ends["hub"])[1], cpu_seconds(peer.ends["hub"])
            swarm = subprocess.Popen(
                [os.path.join(self.build, "bench/bench-swarm"), "--hub",
                 peer.environment["WARREN_HUB"], "--ca", peer.environment["WARREN_CA"],
                 "--token-file", token, "--agents", str(agents)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            steps = {}
            for step in "enrolled", "connected":
                line = json.loads(swarm.stdout.readline() or "{}")
                if line.get(step) != agents:
                    raise RuntimeError(f"swarm: {line} in place of {agents} {step}")
                steps[step] = cpu_seconds(peer.ends["hub"])
            say(f"swarm: enrolment of one costs the hub "
                f"{(steps['enrolled'] - cpu) / agents * 1000:.2f} ms")
            self.record("swarm_cpu", peer, (steps["connected"] - steps["enrolled"]) / agents * 1000)
            time.sleep(self.o.swarm_rest)
            at_rest = cpu_seconds(peer.ends["hub"]) - steps["connected"]
            self.record("swarm_idle", peer, at_rest / self.o.swarm_rest * 100)
            self.record("swarm_hub", peer,
                        (memory_kib(peer.ends["hub"])[1] - before) / agents)
            out, _ = swarm.communicate("")
            self.count_errors(peer, agents - json.loads(out.splitlines()[-1])["alive"])
        finally:
            peer.stop()

    # -- the whole

    def rounds(self, kinds):
        if self.o.only and self.o.only.startswith(("wan", "mount", "hop")):
            return
        running = []
        try:
            for kind in kinds:
                running.append(kind(self.directory, self.server_port))
            steps = [(self.bulk, n, d) for n in (1, 8) for d in ("to", "from")]
            steps += [(self.round_trips, 1), (self.round_trips_awake,), (self.round_trips, 64)]
            steps += [(self.beside_bulk, "to"), (self.beside_bulk, "from")]
            steps += [(self.connections, 16), (self.connections, 1), (self.datagrams,)]
            if not self.o.quick:
                steps += [(self.stalled, "to"), (self.stalled, "from")]
            for n in range(self.o.rounds):
                say(f"round {n + 1} of {self.o.rounds}")
                for measure, *args in steps:
                    if self.o.only and not measure.__name__.startswith(self.o.only):
                        continue
                    for peer in running:
                        if peer.takes(measure.__name__, args):
                            measure(peer, *args)
        finally:
            for peer in running:
                peer.stop()

    def wan(self, kinds):
        """Returns a note for the report."""
        if not network.available():
            return "nothing was measured over a wire: network namespaces need root"
        kinds = [k for k in kinds if k in (wan.ESSENTIAL if self.o.quick else wan.KINDS)]
        return wan.measure(self, kinds, say)

    def mounts(self):
        """Returns notes for the report."""
        names = mount.KINDS if self.o.peers == ALL_PEERS else self.o.peers.split(",")
        return mount.measure(self, [n for n in names if n in mount.KINDS], say)

    def hops(self):
        """Returns notes for the report."""
        return hop.measure(self, say)

    def memory(self, kinds):
        for kind in kinds:
            if not kind.max_streams:
                continue
            say(f"idle streams: {kind.name}")
            self.idle_streams(kind, 1000, "idle1k")
            if not self.o.quick:
                self.idle_streams(kind, 9900, "idle10k")
        if peer_list.WarrenTunnel in kinds:
            say("idle agents")
            self.swarm(self.o.agents)


def build_directory():
    build = os.path.join(TOP, os.environ.get("WARREN_BUILD", "build-release"))
    if not os.path.exists(os.path.join(build, "build.ninja")):
        subprocess.run(["meson", "setup", "--buildtype=release", build, TOP], check=True,
                       stdout=sys.stderr)
    subprocess.run(["ninja", "-C", build], check=True, stdout=sys.stderr)
    return build


def parse_options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--quick", action="store_true", help="one short round, about three minutes")
    p.add_argument("--rounds", type=int, help="default 5, quick 1")
    p.add_argument("--seconds", type=float, help="of each measurement; default 2, quick 0.8")
    p.add_argument("--peers", default=ALL_PEERS, help="of these, by commas; with --only mount, of "
                   + ",".join(mount.KINDS))
    p.add_argument("--only", help="measurements that begin so, without memory (bulk, round, wan, mount, "
                   "mount.bulk, hop, hop.round, …)")
    p.add_argument("--congestion", help="with --only mount: of hub, agent and target; default the machine's")
    p.add_argument("--agents", type=int, default=2000, help="size of the swarm")
    p.add_argument("-o", "--output", choices=["table", "json"], default="table")
    o = p.parse_args()
    o.rounds = o.rounds or (1 if o.quick else 5)
    o.seconds = o.seconds or (0.8 if o.quick else 2)
    o.only, _, o.step = (o.only or "").partition(".")
    o.swarm_rest = 2 if o.quick else 10
    return o


def main():
    o = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` ends what runs
    kinds = [peer_list.ALL[name] for name in o.peers.split(",") if name in peer_list.ALL]
    began, busy, own = time.time(), machine_busy_seconds(), own_seconds()
    with tempfile.TemporaryDirectory(prefix="warren-bench-") as directory:
        bench = Bench(o, directory)
        try:
            bench.rounds(kinds)
            place_notes = [bench.wan(kinds)] if (o.only or "wan").startswith("wan") else []
            place_notes += bench.mounts() if o.only in ("", "mount") else []
            place_notes += bench.hops() if o.only in ("", "hop") else []
            if not o.only:
                bench.memory(kinds)
        finally:
            bench.group.stop()
    samples = {row: dict(by_peer) for row, by_peer in bench.samples.items()}
    took = time.time() - began
    others = (machine_busy_seconds() - busy - (own_seconds() - own)) / took / os.cpu_count()
    notes = [f"{platform.platform()}, {os.cpu_count()} cores; {o.rounds} rounds of {o.seconds:g} s "
             f"a measurement; {took:.0f} s in all",
             f"other programs used {max(others, 0):.0%} of the machine meanwhile" +
             ("; read nothing but ratios, and those with care" if others > 0.1 else ""), *place_notes]
    if o.output == "json":
        print(json.dumps({"samples": samples, "targets": report.judge(samples), "notes": notes},
                         indent=1))
    else:
        report.print_report(samples, [k.name for k in kinds], notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
