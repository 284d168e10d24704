"""Fail-over, measured: whatever happens to the agent that serves, how long until another one does.

    hub ══ up ══ a1 ══ lan ══ target's host       each agent has an uplink and a LAN of its own, so that
     ╚════ up ══ a2 ══ lan ═══════╝               either can be cut alone
"""

import signal
import threading
import time

import pytest

from lib import network
from lib.clock import Clock
from lib.clock import available as clock_available
from lib.network import Host, wire
from lib.process import SLOW, wait_until
from lib.service import connect, exchange, read_all, serves
from lib.warren import endpoint

HUB, TARGET = "198.51.100.1", "10.0.0.17"
HUBS = "198.51.100.0/24"  # where a second one is, too


class Site:
    def __init__(self, n):
        self.hosts = []
        self.hub, self.target = self._host("hub"), self._host("target")
        self.hub.ip("addr", "add", f"{HUB}/32", "dev", "lo")
        self.target.ip("addr", "add", f"{TARGET}/32", "dev", "lo")
        self.places = [self._place(i) for i in range(1, n + 1)]  # where the agents are

    def _host(self, role):
        self.hosts.append(Host(role))
        return self.hosts[-1]

    def _place(self, i):
        host = self._host(f"a{i}")
        wire(self.hub, f"up{i}", [f"192.0.2.{4 * i + 1}/30"], host, "wan", [f"192.0.2.{4 * i + 2}/30"])
        wire(self.target, f"lan{i}", [f"10.0.{i}.1/24"], host, "lan", [f"10.0.{i}.2/24"])
        host.ip("route", "add", HUBS, "via", f"192.0.2.{4 * i + 1}")
        host.ip("route", "add", TARGET, "via", f"10.0.{i}.1")
        return host

    def cut(self, i, device):
        """Nothing comes or goes by this device; nobody is told."""
        self.places[i].nft(f"""
            table inet cut {{
                chain in {{ type filter hook input priority -300; iifname "{device}" drop; }}
                chain out {{ type filter hook output priority -300; oifname "{device}" drop; }}
            }}""")

    def restore(self, i):
        self.places[i].nft("delete table inet cut")

    def close(self):
        for host in self.hosts:
            host.close()


@pytest.fixture
def site(bench):
    if not network.available():
        pytest.skip("network namespaces need root")
    return bench.keep(Site(2))


class Pair:
    """A hub, two agents, a tunnel; `holder` serves, `spare` does not; indexes of the site's agents."""

    def __init__(self, bench, site, env=None):
        self.site = site
        self.hub = bench.hub(host=HUB, namespace=site.hub.name)
        self.server = bench.server(host=TARGET, namespace=site.target.name)
        self.agents = [self.hub.agent(f"a{i + 1}", namespace=host.name, env=env)
                       for i, host in enumerate(site.places)]
        self.at = endpoint(self.hub.tunnel(self.server.address, listen=f"{HUB}:0"))
        ids = [a.id for a in self.agents]
        self.holder = ids.index(self.status()["lease"]["agent"]["id"])
        self.spare = 1 - self.holder

    def status(self):
        return self.hub.admin.get("/api/v1/tunnels/web")["status"]

    def held(self):
        """The leases that are held."""
        leases = self.hub.home.admin.get("/api/v1/tunnels/web")["status"]["leases"]
        return [x for x in leases if x["phase"] == "held"]

    def serves(self):
        return serves(self.at, self.site.hub.name, timeout=0.3 * SLOW)

    def seconds_until_served(self, limit, fault):
        """From just before the fault; clients in a row, each with little patience."""
        started = time.monotonic()
        fault()
        wait_until(self.serves, "the tunnel to serve again", limit, every=0.01)
        return time.monotonic() - started

    def lease_of(self, i):
        lease = self.status()["lease"]["agent"]
        return lease and lease["id"] == self.agents[i].id


def report(what, seconds, target):
    print(f"\nfail-over: {what}: served again after {seconds:.2f} s (target {target} s)")
    assert seconds < target * SLOW


@pytest.fixture
def pair(bench, site):
    return Pair(bench, site)


def test_killed(pair):
    sock = connect(pair.at, namespace=pair.site.hub.name)
    exchange(sock, b"x")
    report("agent killed", pair.seconds_until_served(2, pair.agents[pair.holder].process.kill), 2)
    assert pair.lease_of(pair.spare)
    assert read_all(sock)[1] == "reset"
    assert "lost it" in pair.held()[0]["reason"]


def test_frozen(pair):
    process = pair.agents[pair.holder].process
    try:
        report("agent frozen", pair.seconds_until_served(15, lambda: process.signal(signal.SIGSTOP)), 15)
        assert pair.lease_of(pair.spare)
    finally:
        process.signal(signal.SIGCONT)


def test_its_lan_is_cut(pair):
    report("LAN cut", pair.seconds_until_served(5, lambda: pair.site.cut(pair.holder, "lan")), 5)
    assert pair.lease_of(pair.spare)
    assert f"a{pair.holder + 1} does not reach the target" in pair.held()[0]["reason"]
    assert pair.agents[pair.holder].identity()["status"]["phase"] == "online"

    # It can be everybody's: then the tunnel says who sees what.
    pair.site.cut(pair.spare, "lan")

    def told():
        status = pair.status()
        return status["phase"] == "pending" and "a1: connection_timeout" in status["reason"] and \
            "a2: connection_timeout" in status["reason"]
    wait_until(told, "the reason", 20)
    pair.site.restore(pair.spare)
    pair.site.restore(pair.holder)
    wait_until(lambda: pair.status()["phase"] == "active" and pair.serves(), "the LAN to be used again", 15)
    assert pair.status()["reason"] is None


def test_its_lan_is_cut_amid_traffic_and_back(pair):
    """With clients the failure is noticed by them, sooner than by the checks; when the LAN is back the agent
    is trusted again."""
    stop = threading.Event()

    def knock():
        while not stop.is_set():
            try:
                pair.serves()
            except OSError:
                pass
            stop.wait(0.05)
    threads = [threading.Thread(target=knock, daemon=True) for _ in range(3)]
    for t in threads:
        t.start()
    report("LAN cut amid traffic", pair.seconds_until_served(5, lambda: pair.site.cut(pair.holder, "lan")), 5)
    pair.site.restore(pair.holder)
    pair.site.cut(pair.spare, "lan")
    wait_until(lambda: pair.lease_of(pair.holder), "the first one to be used again", 30)
    stop.set()
    for t in threads:
        t.join()
    assert wait_until(pair.serves, "traffic")


def test_its_uplink_is_cut(pair):
    report("uplink cut", pair.seconds_until_served(15, lambda: pair.site.cut(pair.holder, "wan")), 15)
    assert pair.lease_of(pair.spare)


def test_an_agent_that_misses_the_target_is_not_given_it(bench, site):
    """The tunnels of a killed agent go to who reaches their target; those of others are not moved there."""
    pair = Pair(bench, site)
    pair.site.cut(pair.spare, "lan")
    reachable = bench.server(host=f"10.0.{pair.spare + 1}.2", namespace=site.places[pair.spare].name)
    for i in range(4):
        pair.hub.tunnel(pair.server.address, name=f"t{i}", listen=f"{HUB}:0")
    own = pair.hub.tunnel(reachable.address, name="own", listen=f"{HUB}:0", wait=False)

    def settled():
        holders = [t["status"]["lease"]["agent"] and t["status"]["lease"]["agent"]["id"]
                   for t in pair.hub.admin.items("/api/v1/tunnels") if t["name"] != "own"]
        return holders == [pair.agents[pair.holder].id] * 5
    wait_until(settled, "all to be where the target is reached", 30)
    wait_until(lambda: pair.hub.admin.get("/api/v1/tunnels/own")["status"]["lease"]["agent"]["id"]
               == pair.agents[pair.spare].id, "its own target to be served by the other", 30)
    assert serves(endpoint(pair.hub.wait_active(own["id"])), site.hub.name)
    assert pair.serves()


@pytest.fixture
def clock(directory):
    """(environment, set): a wall clock that can be turned."""
    if not clock_available():
        pytest.skip("a preloaded library and a sanitizer's do not go together")
    made = Clock(directory)
    return made.env, made.turn


@pytest.mark.parametrize("hours", [1, -1])
def test_its_clock_is_an_hour_off(bench, site, clock, hours):
    env, turn = clock
    pair = Pair(bench, site, env=env)
    sock = connect(pair.at, namespace=site.hub.name)
    exchange(sock, b"x")
    started = time.monotonic()
    report(f"clock {hours:+d} h", pair.seconds_until_served(5, lambda: turn(hours * 3600)), 5)
    epoch = pair.status()["lease"]["agent"]["epoch"]
    wait_until(lambda: time.monotonic() > started + 12, "more than a lease's life to pass", 14 / SLOW)
    assert pair.serves() and exchange(sock, b"y") == b"y", "the stream goes on"
    assert pair.lease_of(pair.holder) and pair.status()["lease"]["agent"]["epoch"] == epoch

    def restart():
        for agent in pair.agents:
            agent.process.kill()
        for agent in pair.agents:
            agent.start()
    report(f"clock {hours:+d} h, agents restarted", pair.seconds_until_served(5, restart), 5)
