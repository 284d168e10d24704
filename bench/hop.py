"""The cost of one hop: client and agent at different hubs, beside both at one.

Two hubs on one PostgreSQL. Clients are on the near side of a plain wire, agents and target on the far one:

    same hub    client - hub a - wire - agent - target
    other hub   client - hub a - wire - hub b - agent - target; what is busy goes from hub a to the agent itself
    one hop     the same, of an agent that does not dial hub a: all goes by hub b
    copies      in place of hubs and agents, processes that only copy bytes, two and three: plain, or with TLS
                between them

So a hop is one more process and one more connection on loopback, and three copies beside two tell what such
a process costs by itself here. Each in turn for each measurement, with run.Bench's own methods; the rows
begin with "hop_".
"""

import os
import shutil
import tempfile

import peers as peer_list
from place import Veth
from procs import Group, free_port, wait_for

from lib import network, postgres  # after place, which knows where it is
from lib.warren import Rest

SAME, OTHER, HOP = "same hub", "other hub", "one hop"
TWO, THREE, TWO_TLS, THREE_TLS = "2 plain copies", "3 plain copies", "2 TLS copies", "3 TLS copies"
PEERS = ["direct", TWO, THREE, TWO_TLS, THREE_TLS, SAME, OTHER, HOP]
BULK = [(n, d) for n in (1, 8) for d in ("to", "from")]
ROWS = [
    *[(f"hop_bulk{n}_{d}", f"{n} stream{'s' * (n > 1)}, {d} agent", "Gbit/s") for n, d in BULK],
    *[(f"hop_cpu{n}_{d}", f"CPU of hubs and agent, {n} stream{'s' * (n > 1)}, {d} agent", "s/GiB")
      for n, d in BULK],
    ("hop_rr1_p50", "1-byte round trip, 1 at a time, p50", "us"),
    ("hop_rr1_p99", "p99", "us"),
    ("hop_rr1_cpu", "CPU of hubs and agent for one", "us"),
    ("hop_rr1_awake_p50", "the same while no core sleeps, p50", "us"),
    ("hop_rr64_rate", "64 at a time, rate", "1/s"),
    ("hop_rr64_cpu", "CPU of hubs and agent for one", "us"),
    ("hop_conn16_rate", "new connections, 16 at a time", "1/s"),
    ("hop_conn1_rate", "new connections, 1 at a time", "1/s"),
    ("hop_conn_cpu", "CPU of hubs and agent for a new connection", "us"),
    ("hop_errors", "failed streams and exchanges, all rounds", ""),
]
ROUNDS = 3  # where other things are measured as well


class Copies(peer_list.Peer):
    """Processes that copy bytes and do nothing else: the first on the near side, the others behind the wire."""

    max_streams = 0
    program, between = "bench/plain-copy", ""

    def start(self):
        to, far = f"127.0.0.1:{self.target}", self.place.agent_host
        for i in range(self.COUNT - 1):
            at = f"{self.between}{far if i == self.COUNT - 2 else '127.0.0.1'}:{free_port()}"
            self.copy(self.far, f"far{i}", at, to)
            to = at
        self.copy(self.near, "near", f"127.0.0.1:{self.port}", to)
        wait_for(self.name, lambda: self.place.port_open(self.port))

    def takes(self, measure, args):
        return measure != "connections"  # of which such a program makes two for each, and threads

    def copy(self, start, name, at, to):
        program = os.path.join(peer_list.Warren.build, self.program)
        self.ends[name] = [start(name, [program, at, to])]


class TwoCopies(Copies):
    name, COUNT = TWO, 2


class ThreeCopies(Copies):
    name, COUNT = THREE, 3


class TwoTlsCopies(TwoCopies):
    name, program, between = TWO_TLS, "bench/tls-copy", "tls:"


class ThreeTlsCopies(ThreeCopies):
    name, program, between = THREE_TLS, "bench/tls-copy", "tls:"


class InCluster(peer_list.Warren):
    """`cluster`: (URL of the database, key file)."""

    agents = 1  # at its hub

    def __init__(self, directory, target_port, place, cluster):
        self.cluster = cluster
        super().__init__(directory, target_port, place)

    def options(self):
        db, key_file = self.cluster
        return "--db", db, "--ca-key-file", key_file

    def check_home(self):
        """Each of the two hubs has its own agents, and no other."""
        with open(self.environment["WARREN_TOKEN_FILE"]) as f:
            rest = Rest(self.hub_host, self.hub_port, self.environment["WARREN_CA"], f.read().strip(),
                        self.place.near_namespace)
        with open(os.path.join(self.data, "hub.id")) as f:
            home = f.read().strip()
        sessions = [a["status"]["session"] for a in rest.items("/api/v1/agents")]
        if [s and s["hub"] for s in sessions].count(home) != self.agents:
            raise RuntimeError(f"{self.name}: not {self.agents} at {home}: {sessions}")


class SameHub(InCluster):
    name, network = SAME, "near"

    def start(self):
        self.hub_host = self.place.hub_host
        hub = self.start_hub(self.near, self.hub_host, self.options())
        self.ends = {"hub": [hub], "agent": [self.start_agent()]}
        self.open_tunnel()


class OtherHub(InCluster):
    """`first`: the SameHub, by whose hub the clients come."""

    name, network, agents = OTHER, "far", 2

    def __init__(self, directory, target_port, place, cluster, first):
        self.first = first
        super().__init__(directory, target_port, place, cluster)

    def start(self):
        os.makedirs(self.path("hub"), mode=0o700)
        shutil.copy(os.path.join(self.first.data, "admin.token"), self.path("hub"))
        self.hub_host = self.place.agent_host
        hub = self.start_hub(self.far, self.hub_host, self.options())
        self.ends = {"ingress": self.first.ends["hub"], "hub": [hub], "agent": [self.start_agent()]}
        self.open_tunnel()
        wait_for("the tunnel at the other hub", lambda: self.place.port_open(self.port))


class OneHop(OtherHub):
    """`first`: the OtherHub, at whose hub its agent is too."""

    name, network = HOP, "farther"
    agent_options = ("--fixed-hubs",)

    def start(self):
        for shared in "hub_host", "hub_port", "data", "environment":
            setattr(self, shared, getattr(self.first, shared))
        self.ends = {**self.first.ends, "agent": [self.start_agent()]}
        self.open_tunnel()
        wait_for("the tunnel at the other hub", lambda: self.place.port_open(self.port))


class Hops:
    """`bench`: run.Bench, which runs the load generator and keeps the samples."""

    def __init__(self, bench):
        self.bench, self.peers = bench, []
        self.directory = os.path.join(bench.directory, "hops")
        os.makedirs(self.directory)
        self.place, self.group = Veth(), Group(self.directory)
        self.database = postgres.Postgres(tempfile.mkdtemp(prefix="warren-bench-pg-"))
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self):
        key_file = os.path.join(self.directory, "ca.keyfile")
        with open(os.open(key_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
            f.write(os.urandom(32).hex())
        self.database.make().start()
        cluster = self.database.new_database(), key_file
        target = self.bench.serve(self.group, self.place)
        where = self.directory, target, self.place
        self.peers += [kind(*where) for kind in (peer_list.Direct, TwoCopies, ThreeCopies, TwoTlsCopies, ThreeTlsCopies)]
        self.peers.append(SameHub(*where, cluster))
        self.peers.append(OtherHub(*where, cluster, self.peers[-1]))
        self.peers.append(OneHop(*where, cluster, self.peers[-1]))

    def close(self):
        for peer in reversed(self.peers):
            peer.stop()
        self.group.stop()
        self.database.close()
        shutil.rmtree(self.database.directory, ignore_errors=True)
        self.place.close()

    def check_homes(self):
        for peer in self.peers:
            if isinstance(peer, InCluster):
                peer.check_home()

    def measure(self, say):
        b = self.bench
        steps = [(b.bulk, n, d) for n, d in BULK]
        steps += [(b.round_trips, 1), (b.round_trips_awake,), (b.round_trips, 64)]
        steps += [(b.connections, 16), (b.connections, 1)]
        rounds = b.o.rounds if b.o.only else min(b.o.rounds, ROUNDS)
        self.check_homes()
        for n in range(rounds):
            say(f"hops: round {n + 1} of {rounds}")
            for step, *args in steps:
                if b.o.step and not step.__name__.startswith(b.o.step):
                    continue
                for peer in self.peers:
                    if peer.takes(step.__name__, args):
                        step(peer, *args)
        self.check_homes()


def measure(bench, say):
    """All rows of hops. Returns notes for the report."""
    if not network.available() or not postgres.binaries():
        return ["no hop was measured: it needs root, for namespaces, and PostgreSQL"]
    bench.prefix = "hop_"
    hops = Hops(bench)
    try:
        hops.measure(say)
    finally:
        hops.close()
        bench.prefix = ""
    return []
