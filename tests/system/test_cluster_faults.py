"""Faults of a cluster: hubs that freeze, that are cut from the database or from each other, a database that
restarts. Each with a witness of who serves: never two agents in turns."""

import signal
import threading
import time

import pytest

from lib import network
from lib.cluster import Cluster
from lib.process import wait_until
from lib.service import connect, read_all

PORT = 9000


@pytest.fixture
def site(bench):
    if not network.available():
        pytest.skip("network namespaces need root")
    postgres = bench.postgres()
    return Cluster(bench, postgres), postgres


def who(server, sock):
    """Says which agent's host asks."""
    sock.sendall(sock.getpeername()[0].encode())


class Witness:
    """Asks, one after the other, who serves, and notes each change."""

    def __init__(self, cluster, *addresses):
        self.cluster, self.addresses = cluster, addresses
        self.seen, self.failed = [], 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.stopping.is_set():
            for address in self.addresses:
                try:
                    with connect(address, 1.0, self.cluster.client) as sock:
                        sock.settimeout(1.0)
                        answer = read_all(sock)[0].decode()
                except OSError:
                    self.failed += 1
                    continue
                if answer and (not self.seen or self.seen[-1] != answer):
                    self.seen.append(answer)
            self.stopping.wait(0.02)

    def stop(self):
        self.stopping.set()
        self.thread.join(20)
        return self.seen


def two_agents(bench, cluster):
    """Agents of one network at two hubs, which both reach a server on a third host, and a tunnel to it."""
    first = cluster.agent("a1", at=cluster.hubs[0])
    host, address = cluster.host()
    target = bench.server(who, host=address, namespace=host)
    cluster.tunnel(cluster.hubs[2], target.address, endpoint={"listen": f"0.0.0.0:{PORT}"})
    second = cluster.agent("a2", at=cluster.hubs[1])
    return first, second


def at(hub):
    return f"{hub.host}:{PORT}"


def answers(cluster, hub):
    with connect(at(hub), 2.0, cluster.client) as sock:
        sock.settimeout(2.0)
        return read_all(sock)[0].decode()


def test_a_frozen_hubs_tunnels_move_once_and_it_finds_its_place_again(bench, site):
    cluster, _ = site
    first, second = two_agents(bench, cluster)
    assert answers(cluster, cluster.hubs[2]) == first.address
    witness = Witness(cluster, at(cluster.hubs[2]))
    wait_until(lambda: witness.seen, "the witness to see the first agent")
    frozen = cluster.hubs[0]
    frozen.process.signal(signal.SIGSTOP)
    began = time.monotonic()
    wait_until(lambda: answers(cluster, cluster.hubs[2]) == second.address, "the other agent to serve", 40)
    print(f"\nserved again {time.monotonic() - began:.1f} s after a hub froze")
    frozen.process.signal(signal.SIGCONT)
    # woken, it forwards like any other, and its agent is its agent again
    wait_until(lambda: answers(cluster, frozen) == second.address, "the woken hub to forward", 30)
    wait_until(lambda: cluster.hub_of(first) is frozen, "the agent to be back", 40)
    assert answers(cluster, frozen) == second.address
    assert witness.stop() == [first.address, second.address]


def test_a_hub_without_its_database_serves_what_it_has(bench):
    if not network.available():
        pytest.skip("network namespaces need root")
    postgres = bench.postgres()
    cluster = Cluster(bench, postgres, cut=(0,))
    first, _ = two_agents(bench, cluster)
    home, wire = cluster.hubs[0], cluster.wires[0]
    witness = Witness(cluster, *(at(h) for h in cluster.hubs))
    wire.cut()
    home.process.wait_log("lease was not renewed in time", 20)
    # its lease has run out for all others, and its links answer: its tunnels stay
    lease = f"select expires < extract(epoch from clock_timestamp()) * 1000 from hub_lease where hub = '{cluster.id_of(home)}'"
    wait_until(lambda: postgres.sql(lease, cluster.database) == "t", "its lease to be over", 20)
    for hub in cluster.hubs:
        assert answers(cluster, hub) == first.address, hub.host
    wire.restore()
    home.process.wait_log("lease is renewed again", 20)
    for hub in cluster.hubs:
        assert answers(cluster, hub) == first.address, hub.host
    assert witness.stop() == [first.address]
    assert witness.failed == 0


def test_hubs_that_do_not_reach_each_other_serve_their_own(bench, site):
    cluster, _ = site
    first, _ = two_agents(bench, cluster)
    home, other = cluster.hubs[0], cluster.hubs[2]
    cluster.part(home, other)
    wait_until(lambda: "hub not linked" in other.process.log(), "the link to be found dead", 20)
    assert answers(cluster, home) == answers(cluster, cluster.hubs[1]) == first.address
    cluster.join(home, other)
    began = time.monotonic()
    wait_until(lambda: answers(cluster, other) == first.address, "the link to be back", 30)
    print(f"\nlinked again {time.monotonic() - began:.1f} s after the wire was whole")


def test_a_database_that_restarts_is_not_felt(bench, site):
    cluster, postgres = site
    first, _ = two_agents(bench, cluster)
    witness = Witness(cluster, *(at(h) for h in cluster.hubs))
    postgres.stop()
    postgres.start()
    wait_until(lambda: cluster.hubs[1].admin.post("/api/v1/tunnels", {"name": "after", "spec": {
        "target": {"network": "lan", "address": "127.0.0.1:1"}, "access": {"internal": True}}}),
        "a write to be taken", 20)
    assert witness.stop() == [first.address]
    assert witness.failed == 0


def test_hubs_show_each_other(bench, site):
    cluster, _ = site
    two_agents(bench, cluster)
    for hub in cluster.hubs:
        wait_until(lambda h=hub: h.metric("warren_hubs") == 3, "the hubs to know each other")
        def listed(h=hub):
            return {shown["id"]: shown for shown in h.admin.items("/api/v1/hubs")}

        def column(name, of=listed):
            return [of()[cluster.id_of(h)][name] for h in cluster.hubs]
        assert set(listed()) == {cluster.id_of(h) for h in cluster.hubs}
        wait_until(lambda c=column: c("agents") == [1, 1, 0], "the agents to be shown")
        wait_until(lambda c=column: c("tunnels") == [1, 0, 0], "the tunnels to be shown")
        assert {h["phase"] for h in listed().values()} == {"ready"}
        assert hub.metric("warren_hub_lease_held") == 1
