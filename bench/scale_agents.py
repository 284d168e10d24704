"""Many idle agents: what one costs, and how they come back when a hub has died."""

import json
import os
import subprocess
import threading
import time

from procs import cpu_seconds, memory_kib
from scale_cluster import NETWORK, Cluster
from run import say

SWARM_MAX = 14_000  # agents in one process
CONNECT_S = 1800


class Swarm:
    """A process of bench-swarm. Its lines are read by a thread; `back` is its last word about a return."""

    def __init__(self, argv):
        self.popen = subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.state, self.connected, self.back, self.alive = {}, None, None, None
        self.told = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for text in self.popen.stdout:
            line = json.loads(text)
            with self.told:
                if "ms" in line:
                    self.state = line
                for name in "connected", "back", "alive":
                    if name in line:
                        setattr(self, name, line)
                self.told.notify_all()
        with self.told:
            self.told.notify_all()

    def wait(self, name, seconds):
        with self.told:
            if not self.told.wait_for(lambda: getattr(self, name) or self.popen.poll() is not None, seconds):
                raise RuntimeError(f"swarm: not '{name}' after {seconds} s: {self.state}")
        if not getattr(self, name):
            raise RuntimeError("a swarm has ended")
        return getattr(self, name)

    def ask(self):
        with self.told:
            self.state = {}
            self.popen.stdin.write("\n")
            self.popen.stdin.flush()
            self.told.wait_for(lambda: self.state, 30)
        return self.state

    def end(self):
        self.popen.stdin.close()
        self.wait("alive", 60)
        self.popen.wait(60)

    def kill(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()


class Watch:
    """What hubs, swarms and database use between two moments."""

    def __init__(self, cluster, swarms):
        self.cluster, self.swarms = cluster, swarms
        self.pids = cluster.alive()
        self.began = time.monotonic()
        self.before = self._now()

    def _now(self):
        swarm = cpu_seconds([s.popen.pid for s in self.swarms])
        return (*self.cluster.database.counters(), cpu_seconds(self.pids), swarm)

    def end(self):
        """seconds, and of the time between: transactions, rows, bytes, CPU of the database, hubs, swarm"""
        seconds = time.monotonic() - self.began
        return (seconds, *(b - a for a, b in zip(self.before, self._now())))


def kernel_kib():
    """Memory of the kernel that sockets and descriptors are made of."""
    with open("/proc/meminfo") as f:
        info = {line.split(":")[0]: int(line.split()[1]) for line in f}
    return info["Slab"] + info["Percpu"]


def prepare(cluster, o):
    """A CA, networks, and agents that are admitted, as rows; then all hubs. Returns what an identity cost (ms),
    the file, and the memory of a hub without agents (MiB)."""
    cluster.start_hub(0)  # alone: its CA is in its folder, and goes to the database with the next start
    tenant = cluster.tenant()
    empty = cluster.pss_mib()
    cluster.stop_hub(0)
    cluster.make_networks(o.networks)
    rows, identities = (os.path.join(cluster.directory, name) for name in ("agents.copy", "identities"))
    done = subprocess.run([cluster.program("bench/bench-swarm"), "--issue", cluster.data(0), "--tenant", tenant,
                           "--rows", rows, "--identities", identities, "--agents", str(o.agents),
                           "--networks", str(o.networks)], check=True, capture_output=True, text=True)
    cluster.database.script("-c", "\\copy agent (id, tenant, network, token, name, version, serial, key_hash, "
                            f"not_after, created) from '{rows}'")
    cluster.database.sql("analyze")
    os.remove(rows)
    return json.loads(done.stdout)["ms_each"], identities, empty


def enrol(cluster, o):
    """CPU of the hub for one enrolment by EST (TLS, CSR, signature, transaction), ms; and of the database."""
    token = cluster.rest().post("/api/v1/tokens", {"network": NETWORK % 0, "uses": None})["token"]
    path = os.path.join(cluster.directory, "token")
    with open(path, "w", opener=lambda p, f: os.open(p, f, 0o600)) as f:
        f.write(token)
    argv = [cluster.program("bench/bench-swarm"), "--hub", cluster.url(0), "--ca", cluster.ca, "--token-file", path,
            "--agents", str(o.enrol)]
    swarm = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        hub, database, began = cpu_seconds([cluster.hubs[0]]), cluster.database.cpu(), time.monotonic()
        assert json.loads(swarm.stdout.readline()) == {"enrolled": o.enrol}
        took = time.monotonic() - began
        hub, database = cpu_seconds([cluster.hubs[0]]) - hub, cluster.database.cpu() - database
        assert json.loads(swarm.stdout.readline()) == {"connected": o.enrol}
        swarm.communicate("", timeout=60)
    finally:
        if swarm.poll() is None:
            swarm.kill()
    return hub / o.enrol * 1000, database / o.enrol * 1000, o.enrol / took


def start_swarms(cluster, o, identities):
    count = -(-o.agents // SWARM_MAX)
    share = -(-o.agents // count)
    swarms = []
    for first in range(0, o.agents, share):
        hubs = [word for i in range(cluster.count) for word in ("--hub", cluster.url(i))]
        swarms.append(Swarm([cluster.program("bench/bench-swarm"), *hubs, "--ca", cluster.ca, "--identities",
                             identities, "--first", first, "--agents", min(share, o.agents - first), "--parallel",
                             max(1, o.parallel // count), "--stay"]))
    return swarms


def wait_connected(swarms, agents):
    """Says each 15 seconds how far they are, which take longer than that."""
    began, said = time.monotonic(), 0
    for s in swarms:
        while not s.connected:
            if s.popen.poll() is not None or time.monotonic() - began > CONNECT_S:
                raise RuntimeError(f"a swarm has not connected: {s.state}")
            if time.monotonic() - began > said + 15:
                said = time.monotonic() - began
                up = sum(other.state.get("up", 0) for other in swarms)
                say(f"{up} of {agents} after {said:.0f} s, {sum(o.state.get('failed', 0) for o in swarms)} dials in vain")
            with s.told:
                s.told.wait_for(lambda: s.connected, 1)


def storm_rows(name, agents, watch, unit="s"):
    seconds, _, written, wal, database, hubs, swarm = watch
    return [(f"{name}: all logged in after", seconds, unit),
            (f"{name}: logins a second", agents / seconds, "/s"),
            (f"{name}: CPU of a login: hubs", hubs / agents * 1000, "ms"),
            (f"{name}: CPU of a login: database", database / agents * 1000, "ms"),
            (f"{name}: CPU of a login: swarm", swarm / agents * 1000, "ms"),
            (f"{name}: rows written a login", written / agents, ""),
            (f"{name}: rows written a second", written / seconds, "/s"),
            (f"{name}: log written a login", wal / agents / 1024, "KiB")]


def dial_rows(backs, survivors):
    """What arrived at each hub that is left, from what swarms say of each tenth of a second."""
    began = min(b["began_ms"] for b in backs)
    tenths = [0] * max((b["began_ms"] - began) // 100 + len(b["dials"]) for b in backs)
    for b in backs:
        for i, n in enumerate(b["dials"]):
            tenths[(b["began_ms"] - began) // 100 + i] += n
    second = max(sum(tenths[i:i + 10]) for i in range(len(tenths)))
    return [("a hub killed: dials for each agent", sum(tenths) / sum(b["back"] for b in backs), ""),
            ("a hub killed: dials that arrive at one of the others, most in 0.1 s", max(tenths) / survivors, ""),
            ("a hub killed: ... most in 1 s", second / survivors, "")]


def return_rows(cluster, swarms):
    """Kills the first hub."""
    before = [s.ask() for s in swarms]
    victims = sum(s["hubs"][0] for s in before)
    lost = [sum(s["lost"][i] for s in before) for i in range(cluster.count)]
    failed, refused = (sum(s[name] for s in before) for name in ("failed", "refused"))
    for s in swarms:
        s.back = None
    watch = Watch(cluster, swarms)
    cluster.stop_hub(0, 9)
    watch.pids = cluster.alive()
    watch.before = watch._now()
    backs = [s.wait("back", 900) for s in swarms]
    storm = watch.end()
    after = [s.ask() for s in swarms]
    others = sum(s["lost"][i] for s in after for i in range(1, cluster.count)) - sum(lost[1:])
    return [("a hub killed: its agents", victims, ""),
            *storm_rows("a hub killed", victims, storm),
            ("a hub killed: an agent's absence, p50", max(b["p50_ms"] for b in backs) / 1000, "s"),
            ("a hub killed: an agent's absence, p99", max(b["p99_ms"] for b in backs) / 1000, "s"),
            *dial_rows(backs, cluster.count - 1),
            ("a hub killed: dials that failed", sum(s["failed"] for s in after) - failed, ""),
            ("a hub killed: ... because a hub was overloaded", sum(s["refused"] for s in after) - refused, ""),
            ("a hub killed: sessions lost at the others", others, "")]


def measure(o, directory, build):
    rows, swarms = [], []
    cluster = Cluster(os.path.join(directory, "agents"), build, o.hubs, {"WARREN_LIMIT_LOGINS": str(o.slots)})
    try:
        say(f"{o.agents} identities")
        ms, identities, empty = prepare(cluster, o)
        rows += [("a key and a certificate from the CA", ms, "ms"), ("agents", o.agents, ""), ("hubs", o.hubs, "")]
        began = time.monotonic()
        cluster.start_all()
        rows.append(("a hub started, that many agents known", (time.monotonic() - began) / o.hubs, "s"))
        known = cluster.pss_mib()
        rows.append(("an agent that a hub only knows", (known / o.hubs - empty) * 1024 / o.agents, "KiB PSS"))
        if o.enrol:
            say("enrolment")
            hub, database, rate = enrol(cluster, o)
            rows += [("enrolment by EST: CPU of the hub", hub, "ms"), ("... of the database", database, "ms"),
                     ("... one after the other, 32 at a time", rate, "/s")]
        kernel, known = kernel_kib(), cluster.pss_mib()
        say("connecting")
        swarms = start_swarms(cluster, o, identities)
        watch = Watch(cluster, swarms)
        wait_connected(swarms, o.agents)
        rows += storm_rows("connecting", o.agents, watch.end())
        time.sleep(3)
        say("at rest")
        watch = Watch(cluster, swarms)
        time.sleep(o.rest)
        seconds, commits, written, wal, database, hubs, swarm = watch.end()
        rows += [("at rest: hubs' memory an agent", (cluster.pss_mib() - known) * 1024 / o.agents, "KiB PSS"),
                 ("at rest: all hubs", cluster.pss_mib(), "MiB PSS"),
                 ("at rest: kernel's memory an agent, both ends", (kernel_kib() - kernel) / o.agents, "KiB"),
                 ("at rest: swarm's memory an agent", memory_kib([s.popen.pid for s in swarms])[1] / o.agents,
                  "KiB PSS"),
                 ("at rest: CPU of the hubs", hubs / seconds * 100, "% of a core"),
                 ("at rest: CPU of the database", database / seconds * 100, "% of a core"),
                 ("at rest: rows written", written / seconds, "/s"),
                 ("at rest: transactions", commits / seconds, "/s"),
                 ("at rest: log written", wal / seconds / 1024, "KiB/s")]
        say("a hub dies")
        rows += return_rows(cluster, swarms)
        for s in swarms:
            s.end()
        rows.append(("sessions that were missing at the end", o.agents - sum(s.alive["alive"] for s in swarms), ""))
    finally:
        for s in swarms:
            s.kill()
        cluster.close()
    return rows
