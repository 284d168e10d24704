"""Hubs that are drained and restarted: agents move before their session ends, and clients do not feel it."""

import contextlib
import json
import signal
import threading
import time

import pytest

from lib import network
from lib.cluster import Cluster, echo_at
from lib.process import wait_until
from lib.service import connect, exchange, serves

PORT = 9000


class Clients:
    """One after the other, at each address in turn; each asks and must be answered."""

    def __init__(self, namespace, *addresses):
        self.namespace, self.addresses = namespace, addresses
        self.ok, self.failed, self.slowest = 0, [], 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.stopping.is_set():
            for address in self.addresses:
                began = time.monotonic()
                try:
                    with connect(address, 20, self.namespace) as sock:
                        sock.settimeout(20)
                        assert exchange(sock, b"ping") == b"ping"
                    self.ok += 1
                except (OSError, AssertionError) as e:
                    self.failed.append((address, repr(e)))
                self.slowest = max(self.slowest, time.monotonic() - began)
            self.stopping.wait(0.01)

    def stop(self):
        self.stopping.set()
        self.thread.join(60)


def hub(cluster, of, at):
    return next(h for h in at.admin.items("/api/v1/hubs") if h["id"] == cluster.id_of(of))


@pytest.mark.parametrize("spread", ["agent", "connection"])
def test_agents_of_a_drained_hub_move_and_nobody_feels_it(bench, cluster, spread):
    agent = cluster.agent("a1")
    home = cluster.hub_of(agent)
    others = [h for h in cluster.hubs if h is not home]
    echo = echo_at(bench, agent)
    cluster.tunnel(others[0], echo.address, spread=spread, endpoint={"listen": f"0.0.0.0:{PORT}"})
    agent.process.wait_log("connected", 10)
    clients = Clients(cluster.client, *(f"{h.host}:{PORT}" for h in cluster.hubs))
    with connect(f"{others[1].host}:{PORT}", namespace=cluster.client) as through, \
            connect(f"{home.host}:{PORT}", namespace=cluster.client) as at_home:
        assert exchange(through, b"before") == exchange(at_home, b"before") == b"before"
        began = time.monotonic()
        drained = others[0].cli("hub", "drain", cluster.id_of(home), "--grace", "30s", "-o", "json")
        assert drained["phase"] == "draining"
        wait_until(lambda: cluster.hub_of(agent) not in (None, home), "the agent to move", 20)
        moved = time.monotonic() - began
        assert home.anonymous().raw("GET", "/readyz")[0] == 503
        # what is open goes on
        assert exchange(through, b"after") == exchange(at_home, b"after") == b"after"
        assert hub(cluster, home, others[1])["phase"] == "draining"
    wait_until(lambda: hub(cluster, home, others[1])["phase"] == "drained", "the hub to be drained", 20)
    wait_until(lambda: clients.ok > 30, "more clients to be served", 30)
    clients.stop()
    print(f"\nmoved after {moved:.2f} s; {clients.ok} clients, slowest {clients.slowest:.3f} s")
    assert clients.failed == []
    shown = others[1].cli("hub", "undrain", cluster.id_of(home), "-o", "json")
    assert shown["phase"] == "ready"
    wait_until(lambda: home.anonymous().raw("GET", "/readyz")[0] == 200, "the hub to be ready", 10)


def test_streams_that_outlast_the_grace_are_cut(bench, cluster):
    agent = cluster.agent("a1")
    home = cluster.hub_of(agent)
    other = next(h for h in cluster.hubs if h is not home)
    echo = echo_at(bench, agent)
    cluster.tunnel(other, echo.address, endpoint={"listen": f"0.0.0.0:{PORT}"})
    with connect(f"{other.host}:{PORT}", namespace=cluster.client) as sock:
        assert exchange(sock, b"before") == b"before"
        began = time.monotonic()
        done = other.cli("hub", "drain", cluster.id_of(home), "--grace", "2s", "--wait", "-o", "json")
        assert done["phase"] == "drained" and done["agents"] == 0
        assert time.monotonic() - began >= 2
        sock.settimeout(20)
        with pytest.raises((OSError, AssertionError)):
            assert exchange(sock, b"after") == b"after"
    assert serves(f"{other.host}:{PORT}", cluster.client)


def test_the_last_hub_is_not_drained(bench, cluster):
    home, *others = cluster.hubs
    for other in others:
        home.cli("hub", "drain", cluster.id_of(other), "--grace", "0s")
    refused = home.cli("hub", "drain", cluster.id_of(home), check=False)
    assert refused.returncode != 0 and "no other hub" in refused.stderr
    assert {h["phase"] for h in home.admin.items("/api/v1/hubs")} <= {"ready", "draining", "drained"}
    # a hub that starts anew is not drained any more
    others[0].process.stop()
    others[0].start()
    wait_until(lambda: hub(cluster, others[0], home)["phase"] == "ready", "the hub to be back", 20)


def restart(hub):
    hub.process.signal(signal.SIGTERM)
    wait_until(lambda: not hub.process.alive(), "the hub to end", 40)
    hub.start()


def test_a_rolling_restart_is_not_felt(bench, cluster):
    agents = [cluster.agent(f"a{i}") for i in range(3)]
    echo = echo_at(bench, agents[0])
    cluster.tunnel(cluster.hubs[0], echo.address, endpoint={"listen": f"0.0.0.0:{PORT}"})
    for restarted in cluster.hubs:
        others = [h for h in cluster.hubs if h is not restarted]
        clients = Clients(cluster.client, *(f"{h.host}:{PORT}" for h in others))
        wait_until(lambda c=clients: c.ok > 5, "clients", 20)
        restart(restarted)
        wait_until(lambda: all(h.metric("warren_hubs") == 3 for h in cluster.hubs), "three hubs", 30)
        wait_until(lambda c=clients, n=clients.ok: c.ok > n + 5, "more clients", 30)
        clients.stop()
        print(f"\n{clients.ok} clients, slowest {clients.slowest:.3f} s")
        assert clients.failed == []


FUTURE = """
    begin;
    alter table tunnel add column future text;
    alter table agent_session add column future bigint not null default 7;
    create table future (id text primary key);
    insert into migration select 'tunnel', max(number) + 1, 0 from migration where capability = 'tunnel';
    insert into migration select 'fleet', max(number) + 1, 0 from migration where capability = 'fleet';
    insert into migration values ('future', 1, 0);
    commit
"""


def test_hubs_run_on_tables_of_a_later_version(bench):
    """As in a rolling upgrade: the first new hub has changed the tables, and old ones start on them."""
    if not network.available():
        pytest.skip("network namespaces need root")
    postgres = bench.postgres()
    cluster = Cluster(bench, postgres)
    agent = cluster.agent("a1")
    echo = echo_at(bench, agent)
    cluster.tunnel(cluster.hubs[0], echo.address, endpoint={"listen": f"0.0.0.0:{PORT}"})
    postgres.sql(FUTURE, cluster.database)
    home = cluster.hub_of(agent)
    others = [h for h in cluster.hubs if h is not home]
    clients = Clients(cluster.client, *(f"{h.host}:{PORT}" for h in others))
    restart(home)
    wait_until(lambda: all(h.metric("warren_hubs") == 3 for h in cluster.hubs), "three hubs", 30)
    wait_until(lambda n=clients.ok: clients.ok > n + 5, "more clients", 30)
    clients.stop()
    assert clients.failed == []
    made = others[0].admin.post("/api/v1/tunnels", {"name": "new", "spec": {
        "target": {"network": "lan", "address": echo.address},
        "access": {"endpoint": {"listen": f"0.0.0.0:{PORT + 1}"}}}})
    cluster.wait_active(made["id"])
    assert serves(f"{home.host}:{PORT + 1}", cluster.client)
    # and a step that says that it breaks older programs is heeded by those that start
    postgres.sql("insert into migration_breaking values ('tunnel', 1000)", cluster.database)
    home.process.stop(60)
    home.start(wait=False)
    home.process.wait_log("newer Warren.*'tunnel' tables need step 1000", 20)
    assert serves(f"{others[0].host}:{PORT}", cluster.client)


def kept_hubs(agent):
    with contextlib.suppress(FileNotFoundError), open(f"{agent.data}/hubs.json", encoding="utf-8") as f:
        return {h["id"] for h in json.load(f)}


def test_agents_of_a_killed_hub_come_back_one_after_the_other(bench):
    """With one login a second and hub, six agents of a hub that dies have three seconds."""
    if not network.available():
        pytest.skip("network namespaces need root")
    cluster = Cluster(bench, bench.postgres(), env={"WARREN_LIMIT_LOGINS": "1"})
    agents = [cluster.agent(f"a{i}") for i in range(6)]
    home = cluster.hub_of(agents[0])
    for agent in agents:
        assert cluster.hub_of(agent) is home
        agent.process.wait_log("connected", 10)
        wait_until(lambda a=agent: kept_hubs(a) == {cluster.id_of(h) for h in cluster.hubs}, "the list to be kept", 20)
    home.process.kill()
    killed = time.monotonic()
    waits = []
    for agent in agents:
        waits.append(int(agent.process.wait_log(r"not connected .*retry_ms=(\d+)", 20)[1]))
        wait_until(lambda a=agent: cluster.hub_of(a) not in (None, home), "an agent to be back", 40)
    print(f"\nall back {time.monotonic() - killed:.1f} s after the hub was killed; they waited {sorted(waits)} ms")
    assert max(waits) <= 3100
    assert max(waits) - min(waits) > 200
