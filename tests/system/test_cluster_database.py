"""Faults of a cluster's database: one hub is cut from it, it restarts, is away while an agent goes, and fails over to
a replica that has not all. Each has a lookout (lib/witness.py)."""

import os
import signal
import time

import pytest

from lib import network
from lib.cluster import Cluster
from lib.ledger import try_write
from lib.process import wait_until
from lib.witness import Lookout


def cut_off(bench):
    """A cluster whose first hub comes to the database by a wire."""
    if not network.available():
        pytest.skip("network namespaces need root")
    return Cluster(bench, bench.postgres(), cut=(0,))


def test_a_hub_that_slept_serves_nothing_before_it_knows_what_it_has_lost(bench):
    """It falls asleep when its lease is over already, as it is cut from the database, so that its tunnel is the other
    agent's as soon as its links are dead. When it wakes its own agent's lease is good for seconds."""
    cluster = cut_off(bench)
    look = Lookout(bench, cluster).begin()
    home, *others = cluster.hubs
    cluster.wires[0].cut()
    wait_lease_over(cluster, home)
    home.process.signal(signal.SIGSTOP)
    look.wait_served(look.second, others[1])
    cluster.wires[0].restore()
    home.process.signal(signal.SIGCONT)
    look.wait_served(look.second)
    wait_until(lambda: cluster.hub_of(look.first) is home, "the agent to be back", 40)
    served = look.end("hub cut from the database, frozen, then woken", [home])
    assert served == [look.first.address, look.second.address]
    assert "slept past its lease" in home.process.log()


def wait_lease_over(cluster, hub):
    wait_until(lambda: cluster.lease_left_ms(hub) < 0, "its lease to be over", 20)


def test_a_hub_without_its_database_serves_what_it_has(bench):
    cluster = cut_off(bench)
    look = Lookout(bench, cluster).begin(*cluster.hubs)
    home, wire = cluster.hubs[0], cluster.wires[0]
    wire.cut()
    home.process.wait_log("lease was not renewed in time", 20)
    # its lease has run out for all others, and its links answer: its tunnels stay
    wait_lease_over(cluster, home)
    look.wait_served(look.first)
    wire.restore()
    home.process.wait_log("lease is renewed again", 20)
    look.ledger.wait_for_all()
    look.wait_served(look.first)
    assert look.failed == 0
    assert look.end("hub cut from the database") == [look.first.address]


def test_a_database_that_restarts_is_not_felt(bench, cluster):
    look = Lookout(bench, cluster).begin(*cluster.hubs)
    cluster.postgres.stop()
    cluster.postgres.start()
    look.ledger.wait_for_all()
    assert look.failed == 0
    assert look.end("database restarted") == [look.first.address]


def server_of(hub, tunnel):
    """The hub that serves it, as this one sees it."""
    status = hub.admin.get(f"/api/v1/tunnels/{tunnel}")["status"]
    return status["phase"] == "active" and status["lease"]["server"]["id"]


def test_an_agent_that_goes_while_the_database_is_away_is_replaced(bench, cluster):
    """The database is away for longer than writes wait: that it left is written later, and that its hub gives a
    tunnel up, which no agent's session voids, as it is of all agents of that hub."""
    home, beside, third = cluster.hubs

    def make_shared(look):
        made = home.admin.post("/api/v1/tunnels", {"name": "shared", "spec": {
            "target": {"network": "lan", "address": look.target.address}, "access": {"internal": True},
            "spread": "connection"}})
        cluster.wait_active(made["id"])
    look = Lookout(bench, cluster, before_second=make_shared).begin()
    wait_until(lambda: server_of(third, "shared") == cluster.id_of(home), "the tunnel of all agents to be served")
    cluster.postgres.stop()
    look.first.process.kill()
    assert try_write(home) is None
    cluster.postgres.start()
    look.wait_served(look.second)
    for hub in cluster.hubs:
        wait_until(lambda h=hub: h.admin.get(f"/api/v1/agents/{look.first.id}")["status"]["phase"] == "offline",
                   "all hubs to know that it has gone", 20)
    wait_until(lambda: server_of(third, "shared") == cluster.id_of(beside),
               "the tunnel of all agents to be the other hub's", 20)
    served = look.end("agent killed while the database is away")
    assert served == [look.first.address, look.second.address]


def with_replica(bench):
    """(cluster, replica): its hubs know both servers."""
    if not network.available():
        pytest.skip("network namespaces need root")
    postgres = bench.postgres()
    db = postgres.new_database()
    database = db.split("?")[0].rsplit("/", 1)[1]
    replica = bench.keep(postgres.replica(os.path.join(bench.directory, "replica")))
    url = postgres.url(database, host=f"{postgres.directory},{replica.directory}")
    return Cluster(bench, postgres, db=url), replica


def epochs(cluster):
    """The highest that the database knows: (of the tunnel's leases, of agents' sessions)."""
    return tuple(int(cluster.sql(f"select max({column}) from {table}"))
                 for column, table in (("lease_epoch", "tunnel"), ("epoch", "agent_session")))


def fail_over(look, replica, behind_since):
    """The server dies, and the replica takes its place. Of what was acknowledged only that may be lost which was so
    since the replica is behind."""
    look.cluster.postgres.stop(signal.SIGQUIT)
    replica.promote()
    look.cluster.primary = replica
    look.ledger.window = (behind_since, time.monotonic())


def test_a_fail_over_that_loses_commits_moves_nothing_and_repeats_no_epoch(bench):
    cluster, replica = with_replica(bench)
    look = Lookout(bench, cluster).begin(*cluster.hubs)
    behind_since = time.monotonic()
    replica.fall_behind(cluster.postgres)
    # what follows is acknowledged, and lost: the tunnel moves to the other agent, one is made, an agent logs in anew
    look.first.process.kill()
    look.wait_served(look.second)
    lost = cluster.hubs[0].admin.post("/api/v1/tunnels", {"name": "lost", "spec": {
        "target": {"network": "lan", "address": "127.0.0.1:1"}, "access": {"internal": True}}})["id"]
    wait_until(lambda: all(lost in ids(h) for h in cluster.hubs), "all hubs to know the tunnel")
    look.first.start()
    wait_until(lambda: cluster.hub_of(look.first), "the first agent to be back", 40)
    look.ledger.wait_for_all()
    before = epochs(cluster)
    fail_over(look, replica, behind_since)
    promoted = time.monotonic()
    for hub in cluster.hubs:
        wait_until(lambda h=hub: lost not in ids(h), "what was lost to be gone", 30)
    print(f"\nall hubs know what is lost {time.monotonic() - promoted:.2f} s after the promotion")
    look.ledger.wait_for_all()
    assert look.end("database failed over, commits lost") == [look.first.address, look.second.address]
    assert look.lost, "the replica was behind"
    assert all(now >= was for now, was in zip(epochs(cluster), before)), "who is connected is written again"
    # the next lease and login have epochs that nobody ever had
    look.second.process.kill()
    look.wait_served(look.first)
    look.second.start()
    wait_until(lambda: cluster.hub_of(look.second), "the second agent to be back", 40)
    assert all(now >= max(was + 1, 1 << 20) for now, was in zip(epochs(cluster), before))


def ids(hub):
    return {t["id"] for t in hub.admin.items("/api/v1/tunnels")}
