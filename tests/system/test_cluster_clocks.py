"""Hubs and agents whose clocks are a minute off, each another way, and one that jumps while it serves."""

from datetime import datetime

import pytest
from test_cluster_faults import answers, at

from lib import clock, network
from lib.cluster import Cluster
from lib.process import wait_until
from lib.service import connect, exchange
from lib.witness import Witness, who

PORT = 9000


@pytest.fixture
def site(bench, directory):
    """(cluster, clocks): the first hub is a minute ahead, the second one behind, the third right; their agents are
    off the other way."""
    if not network.available():
        pytest.skip("network namespaces need root")
    if not clock.available():
        pytest.skip("a preloaded library and a sanitizer's do not go together")
    clocks = {i: clock.Clock(directory, seconds) for i, seconds in enumerate((60, -60, 0))}
    return Cluster(bench, bench.postgres(), clocks=clocks), clocks


def two_agents(bench, cluster, clocks):
    """One at the first hub and one at the second; both reach a server that says who asks, and an echo."""
    first = cluster.agent("a1", at=cluster.hubs[0], env=clocks[1].env)
    host, address = cluster.host()
    target, echo = (bench.server(host=address, namespace=host, **k) for k in ({"handler": who}, {}))
    cluster.tunnel(cluster.hubs[2], target.address, endpoint={"listen": f"0.0.0.0:{PORT}"})
    cluster.tunnel(cluster.hubs[1], echo.address, name="echo", endpoint={"listen": f"0.0.0.0:{PORT + 1}"})
    return first, cluster.agent("a2", at=cluster.hubs[1], env=clocks[0].env)


def test_clocks_a_minute_off_cost_nothing(bench, site):
    cluster, clocks = site
    first, second = two_agents(bench, cluster, clocks)
    for hub in cluster.hubs:
        assert answers(cluster, hub) == first.address, "by the database's clock every ticket is good"
    stamps = [datetime.fromisoformat(hub.admin.post("/api/v1/networks", {"name": f"at{i}"})["created"])
              for i, hub in enumerate(cluster.hubs)]
    assert (stamps[0] - stamps[1]).total_seconds() > 100, "their clocks are wrong indeed"
    witness = Witness(cluster, *(at(h) for h in cluster.hubs))
    with connect(f"{cluster.hubs[2].host}:{PORT + 1}", namespace=cluster.client) as sock:
        assert exchange(sock, b"before") == b"before"
        made = [hub.admin.post("/api/v1/networks", {"name": f"n{i}"})["id"]
                for i, hub in enumerate(cluster.hubs)]
        # one jumps: longer than a lease and than a ticket
        clocks[2].turn(120)
        cluster.hubs[0].cli("ca", "rotate", seconds=150)
        clocks[2].turn(-120)
        lease = "/api/v1/tunnels/web"
        before = cluster.hubs[2].admin.get(lease)["status"]["lease"]
        wait_until(lambda: all(made_at in {n["id"] for n in hub.admin.items("/api/v1/networks")}
                               for hub in cluster.hubs for made_at in made), "all that was made, everywhere")
        assert exchange(sock, b"after") == b"after"
        assert cluster.hubs[2].admin.get(lease)["status"]["lease"] == before
    assert witness.stop() == [first.address]
    assert witness.failed == 0


def test_a_hub_that_dies_is_replaced_once_whatever_the_clocks_say(bench, site):
    cluster, clocks = site
    first, second = two_agents(bench, cluster, clocks)
    witness = Witness(cluster, at(cluster.hubs[2]))
    wait_until(lambda: witness.seen == [first.address], "the first agent to serve")
    cluster.hubs[0].process.kill()
    wait_until(lambda: answers(cluster, cluster.hubs[2]) == second.address, "the other one to serve", 30)
    cluster.hubs[0].start()
    wait_until(lambda: cluster.hub_of(first) is cluster.hubs[0], "the first one to be back", 40)
    assert answers(cluster, cluster.hubs[0]) == second.address
    assert witness.stop() == [first.address, second.address]
