"""The measurements over a wire with delay, loss and rate (place.Wire): every peer in turn for each.

All peers live on the one wire and have the same kernel settings, the congestion control among them. A
measurement sets the wire and waits until it is empty; nothing else uses it meanwhile.
"""

import os
import time

from lib.link import DEFAULTS

import peers as peer_list
from place import Wire
from procs import Group

# The wire of the project's targets: 50 ms to and fro, 200 Mbit/s.
TARGET = {"delay_ms": 25, "rate_mbit": 200, "queue_ms": 100}
LONG = {"delay_ms": 50, "loss": 0.01}  # and no limit of rate
GRID = [(ms, loss, streams) for ms in (20, 100) for loss in (0, 0.001, 0.01) for streams in (1, 32)]
ESSENTIAL = (peer_list.Direct, peer_list.Ssh, peer_list.WarrenTunnel)  # where time is short
KINDS = (*ESSENTIAL, peer_list.Haproxy)
BBR_MEMORY_S = 10.5  # for so long BBR believes in the shortest round trip it saw
INTERACTIVE = 8  # streams that ask for one byte at a time, so that a p99 has samples


def grid_row(ms, loss, streams):
    return f"wan{ms}_{loss * 100:g}_{streams}"


class Wan:
    """`bench`: run.Bench, which runs the load generator and keeps the samples."""

    def __init__(self, bench, kinds, congestion=None):
        self.bench = bench
        self.scale = 0.6 if bench.o.quick else 1.0
        self.warmup, self.seconds = 2 * self.scale, 4 * self.scale
        self.congestion = congestion
        self.delay_ms = TARGET["delay_ms"]  # so that no tunnel was ever on a shorter wire
        self.group, self.peers, self.place = None, [], Wire(bench.build, congestion)
        self.directory = os.path.join(bench.directory, f"wan-{congestion or 'default'}")
        self.place.wire.set(**{**DEFAULTS, **TARGET})
        try:
            self.start(kinds)
        except BaseException:
            self.close()
            raise

    def start(self, kinds):
        os.makedirs(self.directory)
        self.group = Group(self.directory)
        port = self.bench.serve(self.group, self.place)
        for kind in kinds:
            self.peers.append(kind(self.directory, port, self.place))

    def close(self):
        for peer in self.peers:
            peer.stop()
        if self.group:
            self.group.stop()
        self.place.close()

    def set(self, settings):
        """The wire as it shall be, once nothing is on its way any more."""
        link, quiet = self.place.wire, 0
        while quiet < 3:
            before = link.stats()
            time.sleep(0.1)
            after = link.stats()
            moved = sum(after[way]["bytes"] - before[way]["bytes"] for way in ("ab", "ba"))
            quiet = quiet + 1 if moved < 20_000 else 0
        link.set(**{**DEFAULTS, **settings})
        delay_ms = settings.get("delay_ms", 0)
        if delay_ms > self.delay_ms:  # a tunnel's connection is old, a direct one is always new
            time.sleep(BBR_MEMORY_S)
        self.delay_ms = delay_ms

    # -- measurements

    def bulk_client(self, peer, streams, direction, seconds):
        extra = ["--abandon", "--warmup", str(self.warmup)]
        extra += ["--from-target"] if direction == "from" else []
        return self.bench.client("bulk", peer, streams=streams, seconds=seconds, extra=extra)

    def bulk(self, peer, row, wire, streams=1, direction="from", seconds=None):
        self.set(wire)
        client = self.bulk_client(peer, streams, direction, seconds or self.seconds)
        self.bench.record(row, peer, self.bench.finish(client, peer)["gbit"] * 1000)

    def beside(self, peer, row, wire, mode="rr", streams=1):
        """Single bytes to and fro while `streams` carry all that they can."""
        self.set(wire)
        bulk = self.bulk_client(peer, streams, "from", self.seconds + 1)
        time.sleep(self.warmup)
        asked = self.bench.run(mode, peer, streams=INTERACTIVE, seconds=self.seconds)
        self.bench.record(row + "_bulk", peer, self.bench.finish(bulk, peer)["gbit"] * 1000)
        self.bench.record(row + "_p50", peer, asked["p50_us"] / 1000)
        self.bench.record(row + "_p99", peer, asked["p99_us"] / 1000)

    def datagrams(self, peer):
        """To and fro on a quiet wire, then beside a bulk stream of TCP through the same tunnel."""
        if not peer.udp_port:
            return
        self.set(TARGET)
        asked = self.bench.run("udp-rr", peer, streams=INTERACTIVE, seconds=self.seconds / 2)
        self.bench.record("wan50_udp_p50", peer, asked["p50_us"] / 1000)
        self.beside(peer, "wan50_udp_beside", TARGET, "udp-rr")

    def first_byte(self, peer):
        """A new connection's answer, in round trips of the wire."""
        self.set({"delay_ms": 25})
        asked = self.bench.run("conn", peer, seconds=self.seconds / 2)
        self.bench.record("wan50_first", peer, asked["p50_us"] / 1000 / 50)

    # -- which of them, in which order

    def of(self, kinds):
        return [peer for peer in self.peers if isinstance(peer, kinds)]

    def targets(self, kinds):
        lossy = {**TARGET, "loss": 0.005}
        for peer in self.of(kinds):
            for direction in "to", "from":
                self.bulk(peer, f"wan50_bulk_{direction}", TARGET, 1, direction)
                self.bulk(peer, f"wan50_loss_{direction}", lossy, 1, direction)
            self.beside(peer, "wan50_beside", TARGET)
            self.datagrams(peer)
            self.first_byte(peer)
            self.beside(peer, "wan100_lossy", LONG, streams=32)

    def grid(self):
        for ms, loss, streams in GRID:
            for peer in self.of(ESSENTIAL):
                self.bulk(peer, grid_row(ms, loss, streams),
                          {**TARGET, "delay_ms": ms / 2, "loss": loss}, streams,
                          seconds=self.seconds * 0.6)

    def windows(self):
        """What one stream can have on its way."""
        for peer in self.of(ESSENTIAL):
            self.bulk(peer, "wan100_gbit", {"delay_ms": 50, "rate_mbit": 1000})

    def loss_based(self):
        for peer in self.peers:
            for streams in 1, 32:
                self.bulk(peer, f"loss_based_{streams}", {**TARGET, "loss": 0.005}, streams)


def congestion_controls():
    """The one in force, and a loss-based one that a namespace may have (None: that is in force)."""
    def words(name):
        with open(f"/proc/sys/net/ipv4/tcp_{name}") as f:
            return f.read().split()
    default, other = words("congestion_control")[0], "reno"
    if "cubic" in words("allowed_congestion_control"):
        other = "cubic"
    return default, None if default in ("cubic", "reno") else other


def measure(bench, kinds, say):
    """All rows of the wire. Returns a note about the congestion control."""
    default, loss_based = congestion_controls()
    rounds = 1 if bench.o.quick else 2
    wan = Wan(bench, kinds)
    try:
        for n in range(rounds):
            say(f"over a wire: round {n + 1} of {rounds}")
            wan.targets(peer_list.Peer if n == 0 else ESSENTIAL)
        if not bench.o.quick:
            say("over a wire: delay and loss")
            wan.grid()
            wan.windows()
    finally:
        wan.close()
    if loss_based and not bench.o.quick:
        say(f"over a wire: {loss_based}")
        wan = Wan(bench, [k for k in kinds if k in ESSENTIAL], loss_based)
        try:
            wan.loss_based()
        finally:
            wan.close()
    return (f"over the wire, TCP's congestion control was {default} for all peers" +
            (f", {loss_based} where a loss-based one is named" if loss_based else ""))
