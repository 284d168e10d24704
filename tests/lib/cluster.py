"""Several hubs on one PostgreSQL behind haproxy, everything in namespaces of one switch:

    client ─┐
    agents ─┼─ switch ─┬─ haproxy (TLS passes, first hub that lives)
            │          ├─ hub 1
            │          ├─ hub 2  ── PostgreSQL, by its unix socket
            └──────────┴─ hub 3
"""

import contextlib
import os
import shutil
import socket
import tempfile
import threading

from lib.link import Link
from lib.network import Lans
from lib.process import Process, run, wait_until
from lib.warren import Agent, Hub, Rest


class Balancer:
    """haproxy in TCP mode. To those who enrol it is the hub."""

    def __init__(self, directory, address, namespace, hubs):
        self.address, self.namespace, self.hubs = address, namespace, hubs
        self.home = self
        self.url = f"https://{address}:8443"
        self.agents = []
        servers = "\n".join(
            f"    server hub{i} {hub.host}:{hub.port} check inter 200 fall 2 rise 1 "
            "on-marked-down shutdown-sessions" for i, hub in enumerate(hubs, 1))
        self.config = os.path.join(directory, "haproxy.cfg")
        with open(self.config, "w") as f:
            f.write(f"""
global
    maxconn 2000
defaults
    mode tcp
    timeout connect 1s
    timeout client 1h
    timeout server 1h
    option redispatch
    retries 3
frontend in
    bind {address}:8443
    default_backend hubs
backend hubs
    balance first
{servers}
""")
        self.process = Process(["haproxy", "-db", "-f", self.config],
                               os.path.join(directory, "haproxy.log"), namespace=namespace)

    @property
    def admin(self):
        """By whichever hub lives."""
        hub = next(h for h in self.hubs if h.process.alive())
        return hub.admin

    def start(self):
        self.process.start()
        through = Rest(self.address, 8443, self.hubs[0].ca_path, None, self.namespace)
        wait_until(lambda: through.raw("GET", "/readyz")[0] == 200, "haproxy")
        return self

    def close(self):
        for agent in self.agents:
            agent.process.stop()
        self.process.stop()


class Wire:
    """A unix socket before PostgreSQL's own, that can be cut."""

    def __init__(self, directory, target):
        self.path = os.path.join(directory, os.path.basename(target))
        self.target = target
        self.sockets, self.is_cut = [], False
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.is_cut:
                near.close()
                continue
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.target)
            self.sockets += [near, far]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(a, b), daemon=True).start()

    @staticmethod
    def _copy(a, b):
        try:
            while data := a.recv(1 << 16):
                b.sendall(data)
        except OSError:
            pass
        for sock in (a, b):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self):
        self.is_cut = True
        while self.sockets:
            with contextlib.suppress(OSError):
                self.sockets.pop().shutdown(socket.SHUT_RDWR)

    def restore(self):
        self.is_cut = False

    def close(self):
        self.listener.close()
        self.cut()


class Cluster:
    """`postgres`: a lib.postgres.Postgres that runs; `db`: the URL of a database of its own in it. `cut`:
    the numbers of hubs that come to it by a Wire, which are in `wires`. `clocks`: lib.clock.Clock of hubs,
    by their numbers."""

    def __init__(self, bench, postgres, count=3, cut=(), clocks=None, env=None, db=None):
        self.bench = bench
        self.env = env or {}
        self.clocks = clocks or {}
        self.directory = tempfile.mkdtemp(prefix="cluster", dir=bench.directory)
        self.net = bench.keep(Lans())
        self.hosts, self.links = {}, 0
        self.lan = self.net.lan(1)
        self.db = db or postgres.new_database()
        self.database = self.db.split("?")[0].rsplit("/", 1)[1]
        self.postgres, self.wires = postgres, {i: None for i in cut}
        self.primary = postgres  # another one after a fail-over
        self.key_file = os.path.join(self.directory, "ca.keyfile")
        with open(os.open(self.key_file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as f:
            f.write(os.urandom(32).hex().encode())
        front, where = self.host()
        self.hubs = []
        for i in range(count):
            self.add_hub(where, i)
        self.front = bench.keep(Balancer(self.directory, where, front, self.hubs)).start()
        self.client, self.client_address = self.host()

    def sql(self, query):
        return self.primary.sql(query, self.database)

    def host(self):
        """(namespace, address) of a new host."""
        host = self.lan.host()
        self.hosts[host.name] = host
        return host.name, host.addresses["eth0"]

    def link(self, one, other, **settings):
        """A wire of their own between two hubs: a lib.link.Link, by which they reach each other from now
        on."""
        a, b = self.hosts[one.namespace], self.hosts[other.namespace]
        self.links += 1
        n = self.links
        wire = self.bench.keep(Link(a, [f"10.99.{n}.1/30"], b, [f"10.99.{n}.2/30"], device=f"link{n}",
                                    seed=n, **settings))
        for host, own, far in ((a, one, other), (b, other, one)):
            host.ip("route", "add", f"{far.host}/32", "dev", f"link{n}", "src", own.host)
        return wire

    def add_hub(self, front, number):
        namespace, address = self.host()
        db = self.db
        if number in self.wires:
            socket_path = os.path.join(self.postgres.directory, f".s.PGSQL.{self.postgres.port}")
            where = tempfile.mkdtemp(prefix="wire", dir=self.bench.directory)
            self.wires[number] = self.bench.keep(Wire(where, socket_path))
            db = self.postgres.url(self.database, where)
        hub = Hub(os.path.join(self.directory, f"hub{number + 1}"), host=address, namespace=namespace,
                  env={**self.env, **(self.clocks[number].env if number in self.clocks else {})} or None,
                  options=("--db", db, "--ca-key-file", self.key_file, "--public-name", front))
        if self.hubs: # all have one administrator's token, which the first hub has made
            os.makedirs(hub.data, mode=0o700)
            shutil.copy(self.hubs[0].token_path, hub.token_path)
        self.bench.keep(hub).start()
        self.hubs.append(hub)

    def agent(self, name, at=None, network="lan", env=None):
        """An agent in a namespace of its own, which comes by the balancer, or by one hub always."""
        namespace, address = self.host()
        target = at or self.front
        agent = Agent(target, os.path.join(self.directory, name), name, namespace,
                      options=("--fixed-hubs",) if at else (), env=env)
        agent.address = address
        agent.enroll((at or self.hubs[0]).bootstrap_token(network))
        agent.start()
        agent.wait_online()
        return agent

    def part(self, one, other):
        """No packet passes between two hubs."""
        for hub, far in ((one, other), (other, one)):
            rules = f"""
                table ip {self._part(far)} {{
                    chain in {{ type filter hook input priority 0; ip saddr {far.host} drop; }}
                }}"""
            run(["ip", "netns", "exec", hub.namespace, "nft", "-f", "-"], input=rules)

    def join(self, one, other):
        for hub, far in ((one, other), (other, one)):
            run(["ip", "netns", "exec", hub.namespace, "nft", "delete", "table", "ip", self._part(far)])

    @staticmethod
    def _part(far):
        return f"part-{far.host.replace('.', '-')}"

    def hub_of(self, agent):
        """Where the agent is."""
        session = self.front.admin.get(f"/api/v1/agents/{agent.id}")["status"]["session"]
        return session and next(h for h in self.hubs if self.id_of(h) == session["hub"])

    def lease_left_ms(self, hub):
        """Of a hub's life, as the database has it."""
        return float(self.sql("select expires - extract(epoch from clock_timestamp()) * 1000 from hub_lease "
                              f"where hub = '{self.id_of(hub)}'"))

    @staticmethod
    def id_of(hub):
        with open(os.path.join(hub.data, "hub.id")) as f:
            return f.read().strip()

    def tunnel(self, hub, target, name="web", protocol="tcp", network="lan", spread=None, **access):
        """Made at `hub`; served when every hub says so."""
        body = {"name": name, "spec": {"target": {"network": network, "address": target,
                                                  "protocol": protocol}, "access": access}}
        if spread:
            body["spec"]["spread"] = spread
        made = hub.admin.post("/api/v1/tunnels", body)
        self.wait_active(made["id"])
        return made

    def wait_active(self, tunnel):
        def is_active(hub):
            listed = {t["id"]: t for t in hub.admin.items("/api/v1/tunnels")}
            return tunnel in listed and listed[tunnel]["status"]["phase"] == "active"
        for hub in self.hubs:
            if hub.process.alive():
                wait_until(lambda h=hub: is_active(h), f"{tunnel} to be active at {hub.host}", 15)


def echo_at(bench, agent):
    """A server on an agent's host."""
    return bench.server(host=agent.address, namespace=agent.namespace)
