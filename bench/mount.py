"""The measurements of a mount: a program that lives in a network of its own, and the ways out of it.

Two namespaces with a plain wire between them: operator and hub on the near side, agent and target on the
far one. `mount leg` (bench/mount_leg.c) is a mount without the distance, beside `pasta` and `slirp4netns`,
which do the same work; `mount` is the whole path with hub and agent, beside VPNs and `ssh -R`. All of them
in turn for each measurement, with run.Bench's own methods; their rows begin with "mount_".
"""

import os
import re
import resource
import shutil
import subprocess

import peers as peer_list
from place import Loopback, Veth
from procs import Group, children, free_port, memory_kib, wait_for

from lib import network  # after place, which knows where it is

IDLE_FLOWS = 10_000
SCAN_PARALLEL = 1_000
ROUNDS = 3  # where other things are measured as well
WALK_OBJECTS, WALK_RTT_MS, WALK_FAR_RTT_MS = 300, 50, 100
HUGE_MTU = 65520  # what pasta has by itself, and slirp4netns allows at most

NATIVE, LEG, PASTA, SLIRP = "native", "mount leg", "pasta", "slirp4netns"
WHOLE, WIREGUARD, NEBULA = "mount", "wireguard-go", "nebula"
SSH = peer_list.Ssh.name

_BULK = [(n, d) for n in (1, 8) for d in ("to", "from")]
ROWS = [
    *[(f"mount_bulk{n}_{d}", f"{n} stream{'s' * (n > 1)}, {d} the target", "Gbit/s") for n, d in _BULK],
    *[(f"mount_cpu{n}_{d}", f"CPU of what is between, {n} stream{'s' * (n > 1)}, {d} the target", "s/GiB")
      for n, d in _BULK],
    ("mount_rr1_p50", "1-byte round trip, 1 at a time, p50", "us"),
    ("mount_rr1_p99", "p99", "us"),
    ("mount_rr64_rate", "64 at a time, rate", "1/s"),
    ("mount_rr64_p50", "p50", "us"),
    ("mount_conn16_rate", "new connections, 16 at a time", "1/s"),
    ("mount_conn16_p99", "p99", "us"),
    ("mount_conn1_rate", "new connections, 1 at a time", "1/s"),
    ("mount_scan_rate", f"scan of 65,535 ports, {SCAN_PARALLEL:,} at a time", "probes/s"),
    ("mount_udp_p50", "datagram round trip, 1 at a time, p50", "us"),
    ("mount_udp64_rate", "64 flows, round trips", "1/s"),
    ("mount_udp_flood", "datagrams of 1,200 bytes that arrive, 16 flows", "1/s"),
    ("mount_idle", f"{IDLE_FLOWS:,} idle flows, memory of the mount", "MiB PSS"),
    ("mount_walk", f"SNMP walk of all of mib-2, {WALK_RTT_MS} ms away", "s"),
    ("mount_walk_far", f"... {WALK_FAR_RTT_MS} ms away", "s"),
    ("mount_walk_few", f"of {WALK_OBJECTS} objects", "s"),
    ("mount_walk_plain", "the same, nothing read ahead", "s"),
    ("mount_errors", "failed streams and exchanges, all rounds", ""),
]
PEERS = [NATIVE, LEG, PASTA, SLIRP, WHOLE, WIREGUARD, NEBULA, SSH]


class Inside(Loopback):
    """Where the programs of a peer run: in the network namespace of a process or of a name."""

    def __init__(self, namespace, target_host):
        self.namespace, self.target_host = namespace, target_host

    def near(self, argv):
        return ["nsenter", f"--net={self.namespace}", *argv]


class MountPeer(peer_list.Peer):
    """`host` and `port` are the target's, as programs of this peer name it."""

    def __init__(self, directory, target_port, place):
        self.outside = place
        super().__init__(directory, target_port, place)
        self.host = self.host_seen()
        self.port = self.udp_port = target_port
        self.place = Inside(self.namespace, self.host)

    def host_seen(self):
        return self.outside.target_host

    def sleep_inside(self, name, argv, **kwargs):
        """Starts a mount around a program that does nothing; the namespace is that program's."""
        pid = self.near(name, [*argv, "sleep", "infinity"], **kwargs)

        def started():
            asleep = [p for p in children(pid)
                      if open(f"/proc/{p}/comm").read().strip() == "sleep"]
            self.namespace = f"/proc/{asleep[0]}/ns/net" if asleep else None
            return asleep
        wait_for(f"the program in {self.name}", started)
        return pid

    def own_namespace(self):
        """A namespace whose way out the peer makes, with the congestion control that a mount chooses."""
        self.program_host = network.Host(self.name[:8])
        self.program_host.sysctl("net.ipv4.tcp_congestion_control", "reno")
        self.program_host.sysctl("net.ipv4.ip_local_port_range", "10000 65535")
        self.namespace = f"/run/netns/{self.program_host.name}"

    def wait_for_way(self):
        def reached():
            where = Inside(self.namespace, None)
            return subprocess.run(where.near(["nc", "-z", "-w1", self.host_seen(), str(self.target)]),
                                  capture_output=True).returncode == 0
        wait_for(f"{self.name}'s way to the target", reached)

    def stop(self):
        super().stop()
        if hasattr(self, "program_host"):
            self.program_host.close()


class Native(MountPeer):
    """The program on the near side itself: what the wire, the target and the load generator can do."""

    name = NATIVE

    def start(self):
        self.namespace = f"/run/netns/{self.place.near_namespace}"


class Leg(MountPeer):
    name = LEG

    def start(self):
        program = os.path.join(peer_list.Warren.build, "bench/mount-leg")
        self.ends = {"mount": [self.sleep_inside("leg", [program, "--"])]}


class Pasta(MountPeer):
    name = PASTA

    def start(self):
        self.own_namespace()
        self.ends = {"pasta": [self.near("pasta", [
            "pasta", "-f", "-q", "--config-net", "--no-map-gw", "--runas", "0:0", "-t", "none", "-u", "none",
            "-T", "none", "-U", "none", "--netns-only", "--netns", self.namespace])]}
        self.wait_for_way()


class Slirp(MountPeer):
    name = SLIRP

    def start(self):
        self.own_namespace()
        self.ends = {"slirp": [self.near("slirp", [
            "slirp4netns", "--configure", f"--mtu={HUGE_MTU}", "--disable-host-loopback",
            "--netns-type=path", self.namespace, "tap0"])]}
        self.wait_for_way()


class Whole(MountPeer):
    """A hub, an agent and `warren mount`, with the settings they come with."""

    name = WHOLE

    def start(self):
        self.warren = peer_list.Warren(self.directory, self.target, self.outside)
        program = self.warren.program("warren")
        mount = self.sleep_inside("mount", [program, "mount", "bench", "--"], env=self.warren.environment)
        self.ends = {**self.warren.ends, "mount": [mount]}
        self.wait_for_way()

    def stop(self):
        super().stop()
        if hasattr(self, "warren"):
            self.warren.stop()


class Vpn(MountPeer):
    """One process each side, and an interface in its namespace: the program runs on the near side."""

    PREFIX = ""

    def host_seen(self):
        return f"{self.PREFIX}.2"

    def start(self):
        self.namespace = f"/run/netns/{self.place.near_namespace}"
        self.ends = {"near": [self.end("near")], "far": [self.end("far")]}
        self.wait_for_way()


class Wireguard(Vpn):
    name, PREFIX = WIREGUARD, "10.98.0"

    def key(self, side):
        path = self.path(side + ".key")
        if not os.path.exists(path):
            self.write(side + ".key", subprocess.check_output(["wg", "genkey"], text=True))
        return path

    def end(self, side):
        number, other = (1, "far") if side == "near" else (2, "near")
        start = getattr(self, side)
        where = getattr(self.outside, side)
        device, namespace = f"wgo{os.getpid() % 100000}{side[0]}", getattr(self.outside, f"{side}_namespace")
        pid = start(side, ["wireguard-go", "-f", device])
        public = subprocess.check_output(["wg", "pubkey"], text=True, stdin=open(self.key(other))).strip()
        reached = self.outside.agent_host if other == "far" else self.outside.hub_host
        wait_for("wireguard-go", lambda: os.path.exists(f"/var/run/wireguard/{device}.sock"))
        subprocess.run(where(["wg", "set", device, "private-key", self.key(side), "listen-port", "51820",
                              "peer", public, "allowed-ips", "0.0.0.0/0", "endpoint", f"{reached}:51820"]),
                       check=True)
        network.ip("-n", namespace, "addr", "add", f"{self.PREFIX}.{number}/24", "dev", device)
        network.ip("-n", namespace, "link", "set", device, "up")
        return pid


class Nebula(Vpn):
    name, PREFIX = NEBULA, "10.97.0"

    def end(self, side):
        number = 1 if side == "near" else 2
        if not os.path.exists(self.path("ca.crt")):
            self.cert("ca", "-name", "bench")
        self.cert("sign", "-name", side, "-ip", f"{self.PREFIX}.{number}/24", "-out-crt", f"{side}.crt", "-out-key",
                  f"{side}.key")
        is_far = side == "far"
        config = self.write(side + ".yml", f"""
pki: {{ca: {self.path("ca.crt")}, cert: {self.path(side + ".crt")}, key: {self.path(side + ".key")}}}
static_host_map: {{"{self.PREFIX}.2": ["{self.outside.agent_host}:4242"]}}
lighthouse: {{am_lighthouse: {str(is_far).lower()}, hosts: [{"" if is_far else f'"{self.PREFIX}.2"'}]}}
listen: {{host: 0.0.0.0, port: 4242}}
tun: {{dev: neb{os.getpid() % 100000}{side[0]}, mtu: 1300}}
logging: {{level: error}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
""")
        return getattr(self, side)(side, ["nebula", "-config", config])

    def cert(self, *argv):
        subprocess.run(["nebula-cert", *argv], check=True, cwd=self.directory, capture_output=True)


class SshR(peer_list.Ssh):
    """As the other benchmarks have it: no mount, but what a whole path costs elsewhere."""

    def __init__(self, directory, target_port, place):
        super().__init__(directory, target_port, place)
        self.place = Inside(f"/run/netns/{place.near_namespace}", place.target_host)


KINDS = {"native": (Native, None), "leg": (Leg, None), "pasta": (Pasta, "pasta"),
         "slirp4netns": (Slirp, "slirp4netns"), "mount": (Whole, None),
         "wireguard-go": (Wireguard, "wireguard-go"), "nebula": (Nebula, "nebula"), "ssh": (SshR, "ssh")}


class Mounts:
    """`bench`: run.Bench, which runs the load generator and keeps the samples."""

    def __init__(self, bench, names):
        self.bench = bench
        self.directory = os.path.join(bench.directory, "mounts")
        os.makedirs(self.directory)
        self.place, self.peers, self.group = Veth(), [], Group(self.directory)
        try:
            for host in self.place.hosts if bench.o.congestion else []:
                host.sysctl("net.ipv4.tcp_congestion_control", bench.o.congestion)
            self.target = bench.serve(self.group, self.place)
            for name in names:
                self.peers.append(KINDS[name][0](self.directory, self.target, self.place))
        except BaseException:
            self.close()
            raise

    def close(self):
        for peer in self.peers:
            peer.stop()
        self.group.stop()
        self.place.close()

    def scan(self, peer):
        """Every port of the target, nearly all of which refuse."""
        if peer.name == SSH:
            return
        result = self.bench.run("scan", peer, streams=SCAN_PARALLEL)
        self.bench.record("scan_rate", peer, result["rate"])

    def measure(self, say):
        b = self.bench
        steps = [(b.bulk, n, d) for n, d in _BULK]
        steps += [(b.round_trips, 1), (b.round_trips, 64), (b.connections, 16), (b.connections, 1)]
        steps += [(self.scan,), (b.datagrams,)]
        rounds = b.o.rounds if b.o.only else min(b.o.rounds, ROUNDS)
        for n in range(rounds):
            say(f"mounts: round {n + 1} of {rounds}")
            for step, *args in steps:
                if b.o.step and not step.__name__.startswith(b.o.step):
                    continue
                for peer in self.peers:
                    step(peer, *args)

    @staticmethod
    def idle_flows():
        """The hub has two descriptors for each, and may have no more than it is let."""
        return min(IDLE_FLOWS, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 500)

    def idle(self):
        """Memory of `warren mount` alone with many flows that carry nothing, made out for IDLE_FLOWS."""
        flows = self.idle_flows()
        for peer in self.peers:
            if peer.name != WHOLE:
                continue
            self.bench.run("rr", peer, seconds=0.2)
            before = memory_kib(peer.ends["mount"])[1]
            hold = self.bench.client("hold", peer, streams=flows)
            if not hold.stdout.readline():
                raise RuntimeError(f"{peer.name}: {flows} flows could not be opened")
            self.bench.settle()
            grown = (memory_kib(peer.ends["mount"])[1] - before) / 1024
            self.bench.record("idle", peer, grown * IDLE_FLOWS / flows)
            self.bench.finish(hold, peer)


def walk(bench):
    """A device on a LAN some way off, walked by a program on that LAN and by one in a mount."""
    os.environ["WARREN_BUILD"] = bench.build  # where the tests' library finds the programs
    from lib import snmp
    from lib.plant import address
    from lib.snmp_plant import DEVICE, SnmpPlant
    plant = SnmpPlant(bench.directory, WALK_RTT_MS)
    few = snmp.walk(address(DEVICE))
    walks = {"walk": snmp.walk(address(DEVICE), root=".1.3.6.1.2.1"), "walk_few": few}
    walks["walk_far"] = walks["walk"]
    try:
        plant.snmpd(WALK_OBJECTS)
        for row, argv in [*walks.items()] * min(bench.o.rounds, ROUNDS):
            plant.link.set(delay_ms=(WALK_FAR_RTT_MS if row == "walk_far" else WALK_RTT_MS) / 2)
            bench.record(row, Native, plant.timed(argv, mounted=False)[1])
            bench.record(row, Whole, plant.timed(argv)[1])
        plant.link.set(delay_ms=WALK_RTT_MS / 2)
        bench.record("walk_plain", Whole, plant.timed(few, "--no-read-ahead")[1])
    finally:
        plant.close()


def measure(bench, names, say):
    """All rows of mounts. Returns notes for the report."""
    if not network.available() or not os.path.exists("/dev/net/tun"):
        return ["no mount was measured: namespaces and /dev/net/tun need root"]
    missing = [name for name in names if KINDS[name][1] and not shutil.which(KINDS[name][1])]
    bench.prefix = "mount_"
    mounts = Mounts(bench, [name for name in names if name not in missing])
    try:
        mounts.measure(say)
        if not bench.o.step or bench.o.step == "idle":
            mounts.idle()
        if WHOLE in names and (not bench.o.step or bench.o.step == "walk"):
            say("mounts: an SNMP walk")
            walk(bench)
    finally:
        mounts.close()
        bench.prefix = ""
    return [f"mounts: {name} is not installed" for name in missing]
