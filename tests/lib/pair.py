"""One hub as two, so that a test of one hub runs with its agents and its clients at different ones:

    clients, tests ── hub (near) ══ wire ══ hub (home) ── agents
                            └── PostgreSQL ──┘

With WARREN_TEST_HUBS=2 `hub_of_test` makes such a pair wherever a test asks for a hub. The near one is
what the test sees; the home one, to which its agents come, has a network namespace of its own, so that
every tunnel's port is open on both.
"""

import itertools
import os
import shutil

from lib import postgres
from lib.network import Host, interfaces, ip, ip_in, sysctl_in
from lib.process import wait_until
from lib.warren import Hub

HUBS = int(os.environ.get("WARREN_TEST_HUBS", "1"))
_serial = itertools.count(1)


def is_paired():
    return HUBS == 2


def hub_of_test(directory, db=None, **kwargs):
    """A Hub, not started. `db`: a URL; None: WARREN_TEST_DB=postgres makes a new database, else it is
    SQLite. Pairs have a new database always, or, with "", none: that one is a hub alone."""
    if is_paired() and db is None:
        return PairedHub(directory, **kwargs)
    if db is None and os.environ.get("WARREN_TEST_DB") == "postgres":
        db = postgres.shared().new_database()
    options = kwargs.pop("options", ())
    return Hub(directory, options=(*options, "--db", db) if db else options, **kwargs)


class Place:
    """A namespace with a wire to another one. `near`, `far`: addresses of the two ends. Where `host` is
    an address of a LAN, `far` is another one of it, for which the near end answers."""

    def __init__(self, namespace, host):
        self.home = Host("home")
        self.is_v6 = ":" in host
        n = next(_serial) % 120
        device = f"home{n}"
        where = ["netns", namespace] if namespace else []
        ip("link", "add", device, *where, "type", "veth", "peer", "name", "eth0", "netns", self.home.name)
        ip_in(namespace, "link", "set", device, "up")
        if host in ("127.0.0.1", "::1"):
            self._alone(namespace, device, n)
        else:
            self._beside(namespace, device, host)

    def _alone(self, namespace, device, n):
        self.near, self.far = f"192.0.2.{2 * n}", f"192.0.2.{2 * n + 1}"
        length, nodad = 31, []
        if self.is_v6:
            self.near, self.far = f"2001:db8:77:{n:x}::1", f"2001:db8:77:{n:x}::2"
            length, nodad = 64, ["nodad"]
        ip_in(namespace, "addr", "add", f"{self.near}/{length}", "dev", device, *nodad)
        self.home.plug("eth0", [f"{self.far}/{length}"])

    def _beside(self, namespace, device, host):
        self.near = host
        self.far = f"{host.rsplit(':', 1)[0]}:77" if self.is_v6 else f"{host.rsplit('.', 1)[0]}.77"
        length, every = (128, "::/0") if self.is_v6 else (32, "0.0.0.0/0")
        self.home.plug("eth0", [f"{self.far}/{length}"])
        self.home.ip("route", "add", f"{self.near}/{length}", "dev", "eth0")
        self.home.ip("route", "add", every, "via", self.near, "dev", "eth0")
        ip_in(namespace, "route", "add", f"{self.far}/{length}", "dev", device)
        sysctl_in(namespace, "net.ipv6.conf.all.forwarding" if self.is_v6 else "net.ipv4.ip_forward", 1)
        for name in interfaces(namespace):
            if self.is_v6:
                sysctl_in(namespace, f"net.ipv6.conf.{name}.proxy_ndp", 1)
                ip_in(namespace, "-6", "neigh", "add", "proxy", self.far, "dev", name)
            else:
                sysctl_in(namespace, f"net.ipv4.conf.{name}.proxy_arp", 1)


class PairedHub(Hub):
    """The near one; `home` is the other. Options are those of both."""

    agent_options = ("--fixed-hubs",)  # a new login comes home, too

    def __init__(self, directory, host="127.0.0.1", namespace=None, options=(), env=None):
        self.place = Place(namespace, host)
        self.place.home.sysctl("net.ipv4.ip_nonlocal_bind", 1)  # the near one's addresses
        self.place.home.sysctl("net.ipv6.ip_nonlocal_bind", 1)
        os.makedirs(directory, exist_ok=True)
        key_file = os.path.join(directory, "ca.keyfile")
        with open(os.open(key_file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as f:
            f.write(os.urandom(32).hex().encode())
        options = (*options, "--db", postgres.shared().new_database(), "--ca-key-file", key_file)
        super().__init__(directory, host, namespace, options, env)
        if host in ("127.0.0.1", "::1"):
            anywhere, near = ("[::]", f"[{self.place.near}]") if self.place.is_v6 else ("0.0.0.0", self.place.near)
            self.process.argv += ["--listen", f"{anywhere}:{self.port}", "--peer-address", f"{near}:{self.port}"]
        self.home = Hub(os.path.join(directory, "home"), self.place.far, self.place.home.name, options, env)
        self.agents = self.home.agents

    def start(self, wait=True):
        super().start(wait)
        if self.home.process.alive():
            return self
        if not os.path.exists(self.home.data):
            wait_until(lambda: os.path.exists(self.token_path), "the first hub's token")
            os.makedirs(self.home.data, mode=0o700)
            shutil.copy(self.token_path, self.home.token_path)
        self.home.start()
        for hub in (self, self.home):
            wait_until(lambda h=hub: h.metric("warren_hub_links") > 0, "the hubs to be linked")
        return self

    def bootstrap_token(self, network="lan", **options):
        made = self.admin.post("/api/v1/tokens", {"network": network, "uses": None, **options})
        wait_until(lambda: made["id"] in {t["id"] for t in self.home.admin.items("/api/v1/tokens")},
                   "the other hub to know the token")
        return made["token"]

    def processes(self):
        yield self.home.process

    def close(self):
        try:
            super().close()
            self.home.process.stop()
        finally:
            self.place.home.close()
