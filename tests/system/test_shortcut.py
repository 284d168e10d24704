"""Busy streams whose client and agent are at different hubs: the agent dials the client's hub, and they go past
its own."""

import contextlib

import pytest

from lib import network
from lib.cluster import Cluster, echo_at
from lib.flow import Flow
from lib.process import run, wait_until
from lib.service import connect, exchange, serves

PORT = 9000
MIB = 1 << 20


class Place:
    """An agent, its hub, the hub where clients come in, and a tunnel to an echo service."""

    def __init__(self, bench, cluster):
        self.cluster = cluster
        self.agent = cluster.agent("a1")
        self.home = cluster.hub_of(self.agent)
        self.entry, self.third = [h for h in cluster.hubs if h is not self.home]
        self.echo = echo_at(bench, self.agent)
        self.tunnel = cluster.tunnel(self.entry, self.echo.address, endpoint={"listen": f"0.0.0.0:{PORT}"})
        self.address = f"{self.entry.host}:{PORT}"

    def flow(self):
        return Flow(self.address, self.cluster.client)

    def connect(self):
        return connect(self.address, namespace=self.cluster.client)

    def taken(self):
        return int(self.entry.metric("warren_shortcuts_total"))

    def open_shortcuts(self):
        return int(self.entry.metric("warren_shortcut_connections"))


@pytest.fixture
def place(bench, cluster):
    return Place(bench, cluster)


def received(hub):
    """Bytes that have come to the hub's host."""
    with network.inside(hub.namespace), open("/proc/thread-self/net/dev", encoding="ascii") as f:
        return sum(int(line.split(":")[1].split()[0]) for line in f if "eth" in line.split(":")[0])


def more(flows, mib):
    marks = [f.bytes for f in flows]
    wait_until(lambda: all(f.bytes - m > mib * MIB for f, m in zip(flows, marks)), f"{mib} MiB of each", 60)
    return sum(f.bytes - m for f, m in zip(flows, marks))


def test_busy_streams_go_past_the_agents_hub(place):
    with place.connect() as quiet:
        assert exchange(quiet, b"before") == b"before"
        flows = [place.flow() for _ in range(3)]

        def are_past():
            before = received(place.home)
            moved = more(flows, 4)
            return received(place.home) - before < moved / 8
        wait_until(are_past, "the three to take a shortcut", 60)
        assert place.taken() >= 3
        assert 1 <= place.open_shortcuts() <= 8
        assert exchange(quiet, b"beside") == b"beside"
        assert int(place.home.metric("warren_streams_open")) == 4  # they are still its agent's
        assert all(f.stop() for f in flows), [f.error for f in flows]
    wait_until(lambda: int(place.home.metric("warren_streams_open")) == 0, "them to end there too", 20)


def test_so_do_streams_of_many_small_messages(place):
    with place.connect() as sock:
        def is_past():
            for i in range(300):
                text = f"message {i}".encode()
                assert exchange(sock, text) == text
            return place.taken()
        wait_until(is_past, "the shortcut", 60)
        is_past()
        is_past()


def test_where_the_agent_cannot_reach_the_clients_hub_they_stay(bench, place):
    rules = f"""
        table ip alone {{
            chain in {{ type filter hook input priority 0; ip saddr {place.agent.address} drop; }}
        }}"""
    run(["ip", "netns", "exec", place.entry.namespace, "nft", "-f", "-"], input=rules)
    flow = place.flow()
    more([flow], 16)
    assert flow.stop(), flow.error
    assert (place.taken(), place.open_shortcuts()) == (0, 0)
    assert serves(place.address, place.cluster.client, 20)


def test_hubs_and_agents_may_be_told_not_to(bench):
    if not network.available():
        pytest.skip("network namespaces need root")
    place = Place(bench, Cluster(bench, bench.postgres(), env={"WARREN_NO_SHORTCUTS": "true"}))
    flow = place.flow()
    more([flow], 16)
    assert flow.stop(), flow.error
    assert (place.taken(), place.open_shortcuts()) == (0, 0)


def test_the_death_of_the_agents_hub_cuts_them(place):
    flow = place.flow()
    wait_until(place.taken, "the shortcut", 60)
    place.home.process.kill()
    wait_until(lambda: not flow.alive(), "the stream to be cut", 30)
    flow.stop()

    def is_served():
        with contextlib.suppress(OSError):
            return serves(place.address, place.cluster.client, 5)
        return False
    wait_until(is_served, "the tunnel by another hub", 60)
    wait_until(lambda: place.open_shortcuts() == 0, "the agent to close what was of that session", 60)


def test_the_death_of_the_clients_hub_leaves_the_agent_alone(place):
    flow = place.flow()
    wait_until(place.taken, "the shortcut", 60)
    place.entry.process.kill()
    flow.stop()
    assert serves(f"{place.third.host}:{PORT}", place.cluster.client, 20)
    assert place.cluster.hub_of(place.agent) is place.home
    second = Flow(f"{place.third.host}:{PORT}", place.cluster.client)
    wait_until(lambda: place.third.metric("warren_shortcuts_total"), "a shortcut there", 60)
    assert second.stop(), second.error


def test_a_drain_of_the_agents_hub_waits_for_them(place):
    flow = place.flow()
    wait_until(place.taken, "the shortcut", 60)
    place.entry.cli("hub", "drain", place.cluster.id_of(place.home), "--grace", "120s")
    wait_until(lambda: place.cluster.hub_of(place.agent) not in (None, place.home), "the agent to move", 60)
    more([flow], 4)
    assert flow.stop(), flow.error

    def phase():
        return next(h["phase"] for h in place.entry.admin.items("/api/v1/hubs")
                    if h["id"] == place.cluster.id_of(place.home))
    wait_until(lambda: phase() == "drained", "the hub to be drained", 60)
    assert serves(place.address, place.cluster.client, 20)


def test_a_revoked_agents_are_cut(place):
    flow = place.flow()
    wait_until(place.taken, "the shortcut", 60)
    place.entry.cli("agent", "revoke", place.agent.id)
    wait_until(lambda: not flow.alive(), "the stream to be cut", 30)
    flow.stop()
    wait_until(lambda: place.open_shortcuts() == 0, "its connections to be closed", 30)
