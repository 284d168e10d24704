"""Faults of a cluster: hubs that freeze, that are cut from the database or from each other, a database that
restarts. Each with a witness of who serves, never two agents in turns, and a ledger of what was acknowledged, of
which nothing is ever lost; how long there was no service is printed."""

import base64
import itertools
import os
import signal
import time

import pytest

from lib import network
from lib.cluster import Cluster
from lib.process import SLOW, amount, wait_until
from lib.service import connect, exchange, read_all, serves
from lib.warren import tls_socket
from lib.witness import Ledger, Witness, try_write, who

PORT = 9000


@pytest.fixture
def site(bench):
    if not network.available():
        pytest.skip("network namespaces need root")
    postgres = bench.postgres()
    return Cluster(bench, postgres), postgres


def two_agents(bench, cluster, before_second=lambda: None):
    """Agents of one network at two hubs, which both reach a server on a third host, and a tunnel to it."""
    first = cluster.agent("a1", at=cluster.hubs[0])
    host, address = cluster.host()
    target = bench.server(who, host=address, namespace=host)
    cluster.tunnel(cluster.hubs[2], target.address, endpoint={"listen": f"0.0.0.0:{PORT}"})
    before_second()
    second = cluster.agent("a2", at=cluster.hubs[1])
    return first, second


def at(hub):
    return f"{hub.host}:{PORT}"


def answers(cluster, hub):
    with connect(at(hub), 2.0, cluster.client) as sock:
        sock.settimeout(2.0)
        return read_all(sock)[0].decode()


def report(fault, witness, ledger):
    """Ends both; nothing that was acknowledged is lost."""
    seen = witness.stop()
    writes = ledger.check()
    print(f"\n{fault}: clients were without an answer for {witness.longest:.2f} s at most ({witness.failed} refused or "
          f"late); {writes} writes acknowledged, and all there")
    return seen


def test_a_killed_hubs_tunnels_move_once(bench, site):
    """To another agent, as its own may go nowhere else: when its lease is over."""
    cluster, _ = site
    first, second = two_agents(bench, cluster)
    staying = cluster.agent("staying", at=cluster.hubs[1], network="elsewhere")
    echo = bench.server(host=staying.address, namespace=staying.namespace)
    cluster.tunnel(cluster.hubs[1], echo.address, name="other", network="elsewhere",
                   endpoint={"listen": f"0.0.0.0:{PORT + 1}"})
    ledger = Ledger(cluster)
    witness = Witness(cluster, at(cluster.hubs[1]), at(cluster.hubs[2]))
    wait_until(lambda: witness.seen == [first.address], "the first agent to serve")
    with connect(f"{cluster.hubs[2].host}:{PORT + 1}", namespace=cluster.client) as stream:
        assert exchange(stream, b"before") == b"before"
        cluster.hubs[0].process.kill()
        wait_until(lambda: answers(cluster, cluster.hubs[2]) == second.address, "the other agent to serve", 40)
        assert exchange(stream, b"after") == b"after", "a stream that did not pass through it"
    cluster.hubs[0].start()
    wait_until(lambda: cluster.hub_of(first) is cluster.hubs[0], "the first one to be back", 40)
    assert answers(cluster, cluster.hubs[0]) == second.address
    assert report("hub killed", witness, ledger) == [first.address, second.address]


def test_a_frozen_hubs_tunnels_move_once_and_it_finds_its_place_again(bench, site):
    cluster, _ = site
    first, second = two_agents(bench, cluster)
    assert answers(cluster, cluster.hubs[2]) == first.address
    ledger = Ledger(cluster)
    witness = Witness(cluster, at(cluster.hubs[2]))
    wait_until(lambda: witness.seen, "the witness to see the first agent")
    frozen = cluster.hubs[0]
    frozen.process.signal(signal.SIGSTOP)
    wait_until(lambda: answers(cluster, cluster.hubs[2]) == second.address, "the other agent to serve", 40)
    frozen.process.signal(signal.SIGCONT)
    # woken, it forwards like any other, and its agent is its agent again
    wait_until(lambda: answers(cluster, frozen) == second.address, "the woken hub to forward", 30)
    wait_until(lambda: cluster.hub_of(first) is frozen, "the agent to be back", 40)
    assert answers(cluster, frozen) == second.address
    assert report("hub frozen, then woken", witness, ledger) == [first.address, second.address]


def test_a_hub_without_its_database_serves_what_it_has(bench):
    if not network.available():
        pytest.skip("network namespaces need root")
    postgres = bench.postgres()
    cluster = Cluster(bench, postgres, cut=(0,))
    first, _ = two_agents(bench, cluster)
    home, wire = cluster.hubs[0], cluster.wires[0]
    ledger = Ledger(cluster)
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
    ledger = Ledger(cluster)
    witness = Witness(cluster, *(at(h) for h in cluster.hubs))
    cluster.part(home, other)
    wait_until(lambda: "hub not linked" in other.process.log(), "the link to be found dead", 20)
    assert answers(cluster, home) == answers(cluster, cluster.hubs[1]) == first.address
    cluster.join(home, other)
    began = time.monotonic()
    wait_until(lambda: answers(cluster, other) == first.address, "the link to be back", 30)
    print(f"\nlinked again {time.monotonic() - began:.1f} s after the wire was whole")
    assert report("hubs cut from each other", witness, ledger) == [first.address]


def test_a_database_that_restarts_is_not_felt(bench, site):
    cluster, postgres = site
    first, _ = two_agents(bench, cluster)
    ledger = Ledger(cluster)
    witness = Witness(cluster, *(at(h) for h in cluster.hubs))
    postgres.stop()
    postgres.start()
    ledger.wait_for_all()
    assert report("database restarted", witness, ledger) == [first.address]
    assert witness.failed == 0


def server_of(hub, tunnel):
    """The hub that serves it, as this one sees it."""
    status = hub.admin.get(f"/api/v1/tunnels/{tunnel}")["status"]
    return status["phase"] == "active" and status["lease"]["server"]["id"]


def test_an_agent_that_goes_while_the_database_is_away_is_replaced(bench, site):
    """The database is away for longer than writes wait: that it left is written later, and that its hub gives a
    tunnel up, which no agent's session voids, as it is of all agents of that hub."""
    cluster, postgres = site

    def make_shared():
        made = cluster.hubs[0].admin.post("/api/v1/tunnels", {"name": "shared", "spec": {
            "target": {"network": "lan", "address": "127.0.0.1:9"}, "access": {"internal": True},
            "spread": "connection"}})
        cluster.wait_active(made["id"])
    first, second = two_agents(bench, cluster, before_second=make_shared)
    assert server_of(cluster.hubs[2], "shared") == cluster.id_of(cluster.hubs[0])
    witness = Witness(cluster, at(cluster.hubs[2]))
    wait_until(lambda: witness.seen == [first.address], "the first agent to serve")
    postgres.stop()
    first.process.kill()
    assert try_write(cluster.hubs[0]) is None
    postgres.start()
    wait_until(lambda: answers(cluster, cluster.hubs[2]) == second.address, "the other agent to serve", 40)
    for hub in cluster.hubs:
        wait_until(lambda h=hub: h.admin.get(f"/api/v1/agents/{first.id}")["status"]["phase"] == "offline",
                   "all hubs to know that it has gone", 20)
    assert witness.stop() == [first.address, second.address]
    wait_until(lambda: server_of(cluster.hubs[2], "shared") == cluster.id_of(cluster.hubs[1]),
               "the tunnel of all agents to be the other hub's", 20)


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


def epochs(postgres, cluster):
    """The highest that the database knows: (of the tunnel's leases, of agents' sessions)."""
    return tuple(int(postgres.sql(f"select max({column}) from {table}", cluster.database))
                 for column, table in (("lease_epoch", "tunnel"), ("epoch", "agent_session")))


def test_a_fail_over_that_loses_commits_moves_nothing_and_repeats_no_epoch(bench):
    if not network.available():
        pytest.skip("network namespaces need root")
    postgres = bench.postgres()
    db = postgres.new_database()
    database = db.split("?")[0].rsplit("/", 1)[1]
    replica = bench.keep(postgres.replica(os.path.join(bench.directory, "replica")))
    url = postgres.url(database, host=f"{postgres.directory},{replica.directory}")
    cluster = Cluster(bench, postgres, db=url)
    first, second = two_agents(bench, cluster)
    assert answers(cluster, cluster.hubs[2]) == first.address
    echo = bench.server(host=second.address, namespace=second.namespace)
    cluster.tunnel(cluster.hubs[2], echo.address, name="echo", endpoint={"listen": f"0.0.0.0:{PORT + 1}"})
    replica.fall_behind(postgres)

    # what follows is acknowledged, and lost: the tunnel moves to the other agent, one is made
    first.process.kill()
    wait_until(lambda: answers(cluster, cluster.hubs[2]) == second.address, "the other agent to serve", 40)
    lost = cluster.hubs[0].admin.post("/api/v1/tunnels", {"name": "lost", "spec": {
        "target": {"network": "lan", "address": "127.0.0.1:1"}, "access": {"internal": True}}})["id"]
    wait_until(lambda: all(lost in ids(h) for h in cluster.hubs), "all hubs to know the tunnel")
    before = epochs(postgres, cluster)
    witness = Witness(cluster, *(at(h) for h in cluster.hubs))
    wait_until(lambda: witness.seen, "the witness to see the agent")
    with connect(f"{cluster.hubs[0].host}:{PORT + 1}", namespace=cluster.client) as stream:
        assert exchange(stream, b"before") == b"before"
        postgres.stop(signal.SIGQUIT)
        replica.promote()
        began = time.monotonic()
        for hub in cluster.hubs:
            wait_until(lambda h=hub: lost not in ids(h), "what was lost to be gone", 30)
        print(f"\nall hubs agree {time.monotonic() - began:.2f} s after the promotion")
        wait_until(lambda: epochs(replica, cluster)[0] >= before[0], "the lease to be written again", 20)
        assert exchange(stream, b"after") == b"after"
        assert [answers(cluster, h) for h in cluster.hubs] == [second.address] * 3
        assert witness.stop() == [second.address]
    # the next lease and login have epochs that nobody ever had
    first.start()
    wait_until(lambda: cluster.hub_of(first), "the agent to be back", 40)
    second.process.kill()
    wait_until(lambda: answers(cluster, cluster.hubs[2]) == first.address, "the first agent to serve", 40)
    assert all(now >= max(was + 1, 1 << 20) for now, was in zip(epochs(replica, cluster), before))


def ids(hub):
    return {t["id"] for t in hub.admin.items("/api/v1/tunnels")}


def test_packet_loss_between_hubs_costs_time_and_nothing_else(bench, site):
    cluster, _ = site
    first, _ = two_agents(bench, cluster)
    echo = bench.server(host=first.address, namespace=first.namespace)
    one, _, ingress = cluster.hubs
    cluster.tunnel(ingress, echo.address, name="echo", endpoint={"listen": f"0.0.0.0:{PORT + 1}"})
    wires = [cluster.link(a, b, delay_ms=1) for a, b in itertools.combinations(cluster.hubs, 2)]
    far = f"{ingress.host}:{PORT + 1}"
    wait_until(lambda: serves(far, cluster.client), "the way between the hubs")
    for wire in wires:
        wire.set(loss=0.2)
    ledger = Ledger(cluster)
    witness = Witness(cluster, at(ingress), at(one))
    times, cuts, data = [], 0, os.urandom(amount(1 << 20, 1 << 18))
    until = time.monotonic() + 12
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            with connect(far, 20 * SLOW, cluster.client) as sock:
                assert exchange(sock, b"ping") == b"ping"
            times.append(time.monotonic() - began)
        except OSError:
            cuts += 1
    began = time.monotonic()
    assert wait_until(lambda: exchange_all(cluster, far, data) == data, "a bulk transfer to pass whole", 90)
    bulk = time.monotonic() - began
    for wire in wires:
        wire.set(loss=0)
    assert report("20 % loss between hubs", witness, ledger) == [first.address]
    times.sort()
    print(f"{len(times)} connections, {cuts} cut, p50 {times[len(times) // 2] * 1000:.0f} ms, longest {times[-1]:.2f} s, "
          f"{len(data) >> 10} KiB both ways in {bulk:.1f} s")
    assert len(times) > 5 * cuts
    lost = sum(s["lost"] for wire in wires for s in wire.stats().values())
    assert lost > 50, "the wires did lose packets"


def exchange_all(cluster, address, data):
    with connect(address, 60 * SLOW, cluster.client) as sock:
        return exchange(sock, data)


def ask_proxy(hub, sock, target):
    """For a tunnel's target, over HTTP/1.1."""
    login = base64.b64encode(f"lan:{hub.token}".encode()).decode()
    sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {login}\r\n\r\n".encode())


def test_a_stale_route_is_put_right_by_not_here(bench, site):
    """The hub that forwards sleeps while the tunnel moves; what waited for it goes by the old route, is turned
    away, and gets there all the same."""
    cluster, _ = site
    agents = dict(zip(("first", "second"), two_agents(bench, cluster)))
    ingress = cluster.hubs[2]
    target = ingress.admin.get("/api/v1/tunnels/web")["spec"]["target"]["address"]
    serving, spare = "first", "second"
    for attempt in range(10):
        wait_until(lambda: answers(cluster, ingress) == agents[serving].address, "the right agent to serve", 20)
        turned = ingress.metric("warren_streams_turned_total")
        proxied = tls_socket(ingress, ["http/1.1"], timeout=30 * SLOW)
        ingress.process.signal(signal.SIGSTOP)
        agents[serving].process.kill()
        wait_until(lambda: answers(cluster, cluster.hubs[0]) == agents[spare].address, "the other one to serve", 40)
        clients = [connect(at(ingress), 20 * SLOW, cluster.client) for _ in range(8)]
        ask_proxy(ingress, proxied, target)
        ingress.process.signal(signal.SIGCONT)
        for sock in clients:
            sock.settimeout(20 * SLOW)
            assert read_all(sock)[0].decode() == agents[spare].address
            sock.close()
        answer = read_all(proxied)
        assert answer[0].endswith(b"\r\n\r\n" + agents[spare].address.encode()), answer
        turned = ingress.metric("warren_streams_turned_total") - turned
        if turned:
            print(f"\n{turned:.0f} clients were turned away and served (attempt {attempt + 1})")
            return
        agents[serving].start()
        wait_until(lambda: cluster.hub_of(agents[serving]), "the agent to be back", 40)
        serving, spare = spare, serving
    raise AssertionError("no route was ever stale")
