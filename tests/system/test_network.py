"""Agents of one LAN find each other and end up with one network."""

import pytest

from lib import network
from lib.network import inside
from lib.process import wait_until

pytestmark = pytest.mark.skipif(not network.available(), reason="network namespaces need root")


@pytest.fixture
def lans(bench):
    return bench.keep(network.Lans())


@pytest.fixture
def hub(bench, lans):
    return bench.hub(host=lans.HUB, namespace=lans.hub.name)


def token(hub, **more):
    """A bootstrap token that names no network."""
    return hub.admin.post("/api/v1/tokens", {"uses": None, **more})["token"]


def networks_of(hub, agents):
    return {a.identity()["network"] for a in agents}


def wait_one_network(hub, agents, seconds=20):
    def one():
        ids = networks_of(hub, agents)
        return ids.pop() if len(ids) == 1 else None
    return wait_until(one, "one network for all", seconds, every=0.1)


def test_two_agents_of_one_lan_get_one_network_and_the_hub_says_why(lans, hub):
    lan, secret = lans.lan(7), token(hub)
    agents = [hub.agent(f"a{i}", token=secret, namespace=lan.host().name) for i in range(2)]
    first = wait_one_network(hub, agents)
    shown = hub.admin.get(f"/api/v1/networks/{first}")
    assert shown["automatic"] and shown["status"]["agents"]["total"] == 2
    alias, = shown["aliases"]
    assert "10.7.0.0/24" in alias["reason"] and "a0" in alias["reason"] and "a1" in alias["reason"]
    for ref in (alias["id"], alias["name"]):
        assert hub.admin.get(f"/api/v1/networks/{ref}")["id"] == first

    def seen():
        pair = hub.admin.get(f"/api/v1/networks/{first}")["sightings"]
        return pair and pair[0]
    pair = wait_until(seen, "a sighting")
    assert pair["prefix"] == "10.7.0.0/24"
    assert {a["address"] for a in pair["agents"]} == {"10.7.0.10", "10.7.0.11"}
    assert "network.merge" in [row["action"] for row in hub.admin.items("/api/v1/audit")]
    assert hub.metric("warren_network_merges_total") == 1
