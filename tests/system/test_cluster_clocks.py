"""Hubs and agents whose clocks are a minute off, each another way, and one that jumps while it serves."""

from datetime import datetime

import pytest
from lib import clock, network
from lib.cluster import Cluster
from lib.witness import Lookout


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


def lookout(bench, cluster, clocks):
    return Lookout(bench, cluster, agents=(clocks[1].env, clocks[0].env))


def test_clocks_a_minute_off_cost_nothing(bench, site):
    cluster, clocks = site
    look = lookout(bench, cluster, clocks).begin(*cluster.hubs)  # by the database's clock every ticket is good
    stamps = [datetime.fromisoformat(hub.admin.post("/api/v1/networks", {"name": f"at{i}"})["created"])
              for i, hub in enumerate(cluster.hubs)]
    assert (stamps[0] - stamps[1]).total_seconds() > 100, "their clocks are wrong indeed"
    # one jumps: longer than a lease and than a ticket
    clocks[2].turn(120)
    cluster.hubs[0].cli("ca", "rotate", seconds=150)
    clocks[2].turn(-120)
    look.ledger.wait_for_all()
    look.wait_served(look.first)
    assert look.failed == 0
    assert look.end("clocks a minute off, and one that jumps by four") == [look.first.address]


def test_a_hub_that_dies_is_replaced_once_whatever_the_clocks_say(bench, site):
    cluster, clocks = site
    lookout(bench, cluster, clocks).begin().see_home_die("hub killed, clocks a minute off")
