"""At a quiet point everything must agree: what the hub's API says, its database, its metrics, what each
agent holds, and what a client is served."""

import json
import os
import re
import socket
import sqlite3
from collections import Counter

from lib.datagram import address_of, ask, udp_socket
from lib.process import SANITIZER_REPORT
from lib.service import connect, exchange
from world import DEAD_PORT

PROBE = b"are you there?"
SETTLE_SECONDS = 60
# What a program says when something is broken; that it was revoked is our doing.
BAD_LINE = re.compile(r"^\S+Z error (?!the hub has revoked this agent).*", re.M)


def agent_view(agent):
    """What `warren-agent inspect` shows."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(os.path.join(agent.data, "agent.sock"))
        data = b""
        while piece := sock.recv(1 << 16):
            data += piece
    return json.loads(data)


def metrics(hub):
    text = hub.admin.raw("GET", "/metrics")[2].decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*?\})?) (\S+)$", text, re.M)}


def stored(hub):
    """{id: row} of the tunnels in the database."""
    with sqlite3.connect(f"file:{hub.data}/warren.db?mode=ro", uri=True) as db:
        db.row_factory = sqlite3.Row
        return {row["id"]: dict(row) for row in db.execute("SELECT * FROM tunnel")}


def serves_by_nature(tunnel):
    """Whether it is to be active: its target is there, or nobody looks whether it is."""
    is_dead = tunnel["spec"]["target"]["address"].endswith(f":{DEAD_PORT}")
    return not is_dead or (tunnel["spec"]["check"] or {"type": "none"})["type"] == "none"


class Picture:
    """Everything that can be seen, at about the same moment."""

    def __init__(self, world):
        hub = world.hub
        self.world = world
        self.networks = {n["id"]: n["name"] for n in hub.admin.items("/api/v1/networks")}
        self.agents = {p.agent.id: p for p in world.places}
        self.views = {id: agent_view(p.agent) for id, p in self.agents.items()}
        self.tunnels = {t["id"]: t for t in world.tunnels()}
        self.stored = stored(hub)
        self.metrics = metrics(hub)
        self.differences = list(self._differences())

    def _differences(self):
        yield from self._database()
        for tunnel in self.tunnels.values():
            yield from self._tunnel(tunnel)
        yield from self._leases()
        yield from self._even()
        yield from self._hub()

    def _database(self):
        if self.tunnels.keys() != self.stored.keys():
            yield f"tunnels of the API and of the database: {self.tunnels.keys() ^ self.stored.keys()}"
        for id, tunnel in self.tunnels.items():
            row = self.stored.get(id, {})
            said = (tunnel["version"], tunnel["name"], tunnel["status"]["phase"])
            if said != (row.get("version"), row.get("name"), row.get("phase")):
                yield f"{id}: the API says {said}, the database {row}"

    def _tunnel(self, tunnel):
        id, status = tunnel["id"], tunnel["status"]
        phases = Counter(lease["phase"] for lease in status["leases"])
        network = self.networks[tunnel["spec"]["target"]["network"]]
        members = {a for a, p in self.agents.items() if p.network == network}
        if status["streams"]["open"]:
            yield f"{id}: {status['streams']['open']} streams are open"
        if status["phase"] == "expired" or not serves_by_nature(tunnel):
            if status["phase"] not in ("expired", "pending"):
                yield f"{id}: should not be served: {status}"
            return
        if status["phase"] != "active" or not status["endpoint"]:
            yield f"{id}: not active: {status['phase']}, {status['reason']}"
        if set(phases) != {"held"}:
            yield f"{id}: leases {dict(phases)}"
        want = len(members) if tunnel["spec"]["spread"] == "connection" else 1
        if phases["held"] != want or {lease["agent"] for lease in status["leases"]} - members:
            yield f"{id}: {phases['held']} holders, {want} expected, all of {sorted(members)}"

    def _leases(self):
        ours = {(lease["agent"], id, lease["epoch"]) for id, t in self.tunnels.items()
                for lease in t["status"]["leases"] if lease["phase"] == "held"}
        theirs = {(agent, lease["tunnel"], lease["epoch"]) for agent, view in self.views.items()
                  for lease in view["leases"]}
        if ours != theirs:
            yield f"leases: only the hub knows {ours - theirs}, only agents {theirs - ours}"
        for agent, view in self.views.items():
            if not view["connected"] or view["streams"]:
                yield f"agent {agent}: {view['status']}, {view['streams']} streams"

    def _even(self):
        for network in set(self.networks.values()):
            members = [a for a, p in self.agents.items() if p.network == network]
            held = Counter({a: 0 for a in members})
            held.update(lease["agent"] for t in self.tunnels.values()
                        if t["spec"]["spread"] == "agent" for lease in t["status"]["leases"]
                        if lease["agent"] in members)
            if members and max(held.values()) - min(held.values()) > 1:
                yield f"network {network}: uneven, {dict(held)}"

    def _hub(self):
        m = self.metrics
        phases = Counter(t["status"]["phase"] for t in self.tunnels.values())
        for name, want in (("warren_agents_online", len(self.agents)),
                           ("warren_control_sessions", len(self.agents)), ("warren_streams_open", 0),
                           ("warren_store_waiting", 0), ("warren_handshakes_waiting", 0),
                           *((f'warren_tunnels{{phase="{p}"}}', phases[p])
                             for p in ("pending", "active", "expired"))):
            if m[name] != want:
                yield f"{name} is {m[name]:g}, {want} expected"


def tcp_answers(address, namespace):
    with connect(address, 5, namespace) as sock:
        sock.settimeout(10)
        good = exchange(sock, PROBE) == PROBE
        sock.shutdown(socket.SHUT_WR)
        return good and sock.recv(1) == b""


def udp_answers(address, namespace):
    with udp_socket(address_of(address)[0], namespace=namespace, timeout=10) as sock:
        return ask(sock, address_of(address), PROBE) == PROBE


def probe(world, tunnel):
    """None, or what is wrong with what a client is served."""
    answers = udp_answers if tunnel["spec"]["target"]["protocol"] == "udp" else tcp_answers
    is_dead = tunnel["spec"]["target"]["address"].endswith(f":{DEAD_PORT}")
    try:
        good = answers(tunnel["status"]["endpoint"]["address"], world.host.name)
    except OSError as error:
        return None if is_dead else f"{tunnel['id']}: {error!r}"
    return None if good and not is_dead else f"{tunnel['id']}: wrong answer"


def counted(before, after):
    """What the counters of a tunnel say about one probe in between."""
    total = after["status"]["streams"]["total"] - before["status"]["streams"]["total"]
    moved = {way: after["status"]["bytes"][way] - before["status"]["bytes"][way] for way in ("in", "out")}
    dead = before["spec"]["target"]["address"].endswith(f":{DEAD_PORT}")
    if total != 1 or (not dead and moved != {"in": len(PROBE), "out": len(PROBE)}):
        return f"{before['id']}: a probe made {total} streams and {moved} bytes"
    return None


def log_complaints(process, since):
    """(complaints, new offset) of a log; `since` is where the last look ended."""
    text = process.log()
    found = [m[0] for m in BAD_LINE.finditer(text, since)]
    report = SANITIZER_REPORT.search(text, since)
    if report:
        found.append(text[report.start():report.start() + 4000])
    return found, len(text)
