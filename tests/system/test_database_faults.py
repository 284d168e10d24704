"""What happens to the database: a restart, a crash, a freeze, a cut, a fail-over with and without lost
commits, a transaction pooler in between. Each says how long the hub took to write again."""

import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time

import pytest

from lib import postgres
from lib.ledger import Writer, tokens_of, try_write, write_again
from lib.process import SLOW, Process, wait_until
from lib.service import TcpServer, connect, exchange, free_port, serves
from lib.warren import Hub, endpoint


@pytest.fixture
def server(bench):
    return bench.postgres()


def check_nothing_lost(writer, server, database):
    there = set(server.sql("select id from token", database).split())
    assert set(writer.acknowledged) <= there
    assert set(writer.acknowledged) <= tokens_of(writer.hub), "the hub knows less than its database"


def two_hubs(bench, url, options=()):
    """Two hubs of the database, with one CA and one administrator's token."""
    key_file = os.path.join(bench.directory, "ca.keyfile")
    with open(os.open(key_file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as f:
        f.write(os.urandom(32).hex().encode())
    options = ("--ca-key-file", key_file, *options)
    hub = bench.hub(db=url, options=options)
    other = bench.keep(Hub(os.path.join(bench.directory, "beside"), options=("--db", url, *options)))
    os.makedirs(other.data, mode=0o700)
    shutil.copy(hub.token_path, other.token_path)
    return hub, other.start()


def database_of(url):
    return re.search(r"/(\w+)\?", url)[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_a_restarted_database_costs_a_moment_no_stream_and_no_write(bench, server, echo_server, number):
    url = server.new_database()
    hub = bench.hub(db=url)
    agent = hub.agent("a1")
    tunnel = hub.tunnel(echo_server.address)
    writer = Writer(hub)
    with connect(endpoint(tunnel)) as stream:
        exchange(stream, b"before")
        writer.wait_for(5)
        server.stop(number)
        exchange(stream, b"without a database")
        assert serves(endpoint(tunnel)), "a new stream needs no database"
        server.start(wait=False)
        write_again(hub, "database started again")
        exchange(stream, b"after")
    writer.wait_for(5)
    writer.stop()
    check_nothing_lost(writer, server, database_of(url))
    assert agent.identity()["status"]["phase"] == "online"


def test_a_database_that_stays_away_is_said_within_seconds(bench, server):
    hub = bench.hub(db=server.new_database())
    server.stop(signal.SIGQUIT)
    start = time.monotonic()
    assert try_write(hub) is None
    first = time.monotonic() - start
    assert first < 12 * SLOW
    start = time.monotonic()
    assert try_write(hub) is None
    second = time.monotonic() - start
    print(f"first refusal after {first:.2f} s, the next after {second * 1000:.0f} ms")
    assert second < 2 * SLOW
    status, _, text = hub.anonymous().raw("GET", "/readyz")
    assert status == 200 and b"the database is away" in text, "else a balancer would take all hubs out"
    assert hub.metric("warren_store_available") == 0
    server.start()
    write_again(hub, "database back")
    assert hub.metric("warren_store_available") == 1 and hub.metric("warren_store_losses_total") >= 1
    assert hub.anonymous().raw("GET", "/readyz")[2] == b"ready\n"


def test_a_frozen_hub_holds_others_up_for_seconds_only(bench, server):
    url = server.new_database()
    hub = bench.hub(db=url)
    bench.keep(postgres.Holder(url, bench.directory, seconds=5))
    write_again(hub, "another session holds the lock of writers, idle")


# ---- fail-over ----

def with_replica(bench, server, is_sync):
    """(replica, database, URL with both)"""
    database = database_of(server.new_database())
    replica = bench.keep(server.replica(os.path.join(bench.directory, "replica"), is_sync))
    hosts = f"{server.directory},{replica.directory}"
    return replica, database, server.url(database, host=hosts)


def test_a_fail_over_to_a_synchronous_replica_loses_nothing_acknowledged(bench, server, echo_server):
    replica, database, url = with_replica(bench, server, is_sync=True)
    hub = bench.hub(db=url)
    agent = hub.agent("a1")
    tunnel = hub.tunnel(echo_server.address)
    writer = Writer(hub)
    writer.wait_for(10)
    with connect(endpoint(tunnel)) as stream:
        server.stop(signal.SIGQUIT)
        start = time.monotonic()
        replica.promote()
        print(f"promotion took {time.monotonic() - start:.2f} s")
        write_again(hub, "replica promoted")
        exchange(stream, b"still there")
    writer.wait_for(10)
    writer.stop()
    check_nothing_lost(writer, replica, database)
    assert agent.identity()["status"]["phase"] == "online"
    assert serves(endpoint(hub.wait_active(tunnel["id"])))


def test_lost_commits_are_undone_in_the_hub_too(bench, server, echo_server):
    replica, database, url = with_replica(bench, server, is_sync=False)
    hub, other = two_hubs(bench, url)
    kept = hub.admin.post("/api/v1/tokens", {"network": "lan", "uses": 1})["id"]
    agent = hub.agent("a1")
    epoch = epoch_of(agent)
    wait_until(lambda: replica.sql("select count(*) from agent_session", database) == "1", "the replica")
    replica.fall_behind(server)

    lost = hub.admin.post("/api/v1/tokens", {"network": "lan", "uses": 1})["id"]
    agent.process.kill()
    agent.start()
    relogged = wait_until(lambda: epoch_of(agent) > epoch and epoch_of(agent), "another login", 20)
    wait_until(lambda: lost in tokens_of(other), "the other hub to know the token")
    server.stop(signal.SIGQUIT)
    replica.promote()
    write_again(hub, "a replica that was behind was promoted")
    for h in (hub, other):
        wait_until(lambda h=h: lost not in tokens_of(h), "the lost token to be forgotten", 20)
        assert kept in tokens_of(h)
    assert epoch_of(agent) == relogged, "an agent that is there is there, whatever the database forgets"
    wait_until(lambda: int(replica.sql("select epoch from agent_session", database)) == relogged,
               "the login to be in the database again", 20)
    agent.process.kill()
    agent.start()
    wait_until(lambda: epoch_of(agent) >= max(relogged + 1, 1 << 20), "a login of the new timeline", 20)


def test_a_start_and_a_departure_that_were_lost_are_written_again(bench, server):
    replica, database, url = with_replica(bench, server, is_sync=False)
    hub, other = two_hubs(bench, url)
    agent = hub.agent("a1")
    leases = "select string_agg(epoch::text, ' ' order by epoch) from hub_lease"
    has_left = "select disconnected is not null from agent_session"
    wait_until(lambda: replica.sql(has_left, database) == "f", "the replica")
    replica.fall_behind(server)

    agent.process.kill()
    wait_until(lambda: server.sql(has_left, database) == "t", "its departure to be written", 20)
    other.process.kill()
    other.start()
    before = server.sql(leases, database)
    assert replica.sql(leases, database) != before
    server.stop(signal.SIGQUIT)
    replica.promote()
    wait_until(lambda: replica.sql(leases, database) == before, "the later start to be the newest again", 30)
    wait_until(lambda: replica.sql(has_left, database) == "t", "the departure to be written again", 30)
    for h in (hub, other):
        write_again(h, "a replica that was behind was promoted")
        wait_until(lambda h=h: h.admin.get(f"/api/v1/agents/{agent.id}")["status"]["phase"] == "offline",
                   "the agent to be offline", 20)
        assert h.metric("warren_hub_lease_held") == 1


def epoch_of(agent):
    """Of its session; 0 without one."""
    session = agent.identity()["status"]["session"]
    return session["epoch"] if session else 0


# ---- in between ----

class Door(TcpServer):
    """A TCP way to the server, which can be cut: nothing passes, nobody is told."""

    def __init__(self, server):
        self.open = threading.Event()
        self.open.set()
        self.socket_path = f"{server.directory}/.s.PGSQL.{server.port}"
        super().__init__(self.join)

    def join(self, _, near):
        with socket.socket(socket.AF_UNIX) as far:
            far.connect(self.socket_path)
            back = threading.Thread(target=self.pump, args=(far, near), daemon=True)
            back.start()
            self.pump(near, far)

    def pump(self, source, target):
        try:
            while data := source.recv(1 << 16):
                self.open.wait()
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(2)
            except OSError:
                pass


def test_a_cut_way_to_the_database_is_noticed_and_healed(bench, server, echo_server):
    database = database_of(server.new_database())
    door = bench.keep(Door(server))
    hub = bench.hub(db=f"postgres://admin@{door.address}/{database}")
    hub.agent("a1")
    tunnel = hub.tunnel(echo_server.address)
    writer = Writer(hub)
    writer.wait_for(5)
    door.open.clear()
    start = time.monotonic()
    wait_until(lambda: writer.refused, "a refusal", 90)
    print(f"cut: a write is refused after {time.monotonic() - start:.2f} s")
    assert serves(endpoint(tunnel))
    door.open.set()
    write_again(hub, "healed")
    writer.wait_for(5)
    writer.stop()
    check_nothing_lost(writer, server, database)


class Pooler(postgres.Beside):
    """A pgbouncer that gives a session away after each transaction."""

    def __init__(self, directory, server):
        self.port = free_port()
        self.ini = os.path.join(directory, "ini")
        self.lead_to(server)
        if os.geteuid() == 0:
            os.chown(directory, 65534, 65534)
        super().__init__(Process(["/usr/sbin/pgbouncer", self.ini], os.path.join(directory, "log"),
                                 user="65534" if os.geteuid() == 0 else None))
        self.process.start()
        wait_until(lambda: connect(("127.0.0.1", self.port)).close() or True, "pgbouncer")

    def lead_to(self, server):
        with open(self.ini, "w") as f:
            f.write(f"[databases]\n* = host={server.directory} port={server.port} user=admin\n"
                    f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
                    "auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\n"
                    "ignore_startup_parameters = extra_float_digits\n")

    def move(self, server):
        self.lead_to(server)
        self.process.signal(signal.SIGHUP)

    def url(self, database):
        return f"postgres://admin@127.0.0.1:{self.port}/{database}"


@pytest.fixture
def pooler(bench, server):
    return bench.keep(Pooler(tempfile.mkdtemp(prefix="pool", dir=bench.directory), server))


def test_two_hubs_work_through_a_transaction_pooler(bench, server, pooler):
    database = database_of(server.new_database())
    options = ("--db-listen", server.url(database))
    hub, other = two_hubs(bench, pooler.url(database), options)
    hub.agent("a1")
    times = []
    for _ in range(10):
        start = time.monotonic()
        token = try_write(hub)
        wait_until(lambda token=token: token in tokens_of(other), "the other hub to know the token",
                   every=0.005)
        times.append((time.monotonic() - start) * 1000)
    print(f"known at the other hub after {min(times):.0f} to {max(times):.0f} ms")
    sessions = server.sql("select count(*) from pg_stat_activity where datname = "
                          f"'{database}' and application_name = 'warren'")
    assert int(sessions) <= 3 + 2, "the pool's and one listening session of each hub"


def test_a_database_that_answers_read_only_is_waited_for(bench, server, pooler, echo_server):
    """The pooler leads to a standby for a while."""
    replica, database, listen = with_replica(bench, server, is_sync=False)
    hub = bench.hub(db=pooler.url(database), options=("--db-listen", listen))
    hub.agent("a1")
    tunnel = hub.tunnel(echo_server.address)
    writer = Writer(hub)
    writer.wait_for(5)
    with connect(endpoint(tunnel)) as stream:
        exchange(stream, b"before")
        pooler.move(replica)
        wait_until(lambda: writer.refused, "a refusal", 60)
        exchange(stream, b"read-only")
        assert serves(endpoint(tunnel)), "a new stream needs no database"
        assert tokens_of(hub) >= set(writer.acknowledged), "nor does reading"
        pooler.move(server)
        write_again(hub, "the primary answers again")
        exchange(stream, b"after")
    writer.wait_for(5)
    writer.stop()
    check_nothing_lost(writer, server, database)


# ---- answers within a bound ----

BOUND = 9  # seconds: six for a statement, and what a loaded machine adds


def asked(hub, method, path, body=None, **headers):
    """(status, the problem's type, seconds)"""
    began = time.monotonic()
    status, _, text = hub.admin.raw(method, path, body, headers=headers, timeout=60 * SLOW)
    kind = json.loads(text).get("type", "").rsplit(":", 1)[-1] if text else ""
    return status, kind, time.monotonic() - began


def test_nobody_waits_long_for_a_frozen_database(bench, server):
    hub = bench.hub(db=server.new_database())
    assert try_write(hub)
    server.freeze()
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            path, body = "/api/v1/tokens", {"network": "lan", "uses": 1}
            all_asked = [pool.submit(asked, hub, "POST", path, body) for _ in range(4)]
            answers = [a.result() for a in all_asked]
    finally:
        server.thaw()
    slowest = max(seconds for _, _, seconds in answers)
    print(f"frozen: writes are refused after {slowest:.2f} s at most")
    assert {status for status, _, _ in answers} == {503}
    assert slowest < BOUND * SLOW
    write_again(hub, "thawed")


def test_a_commit_without_an_answer_is_in_doubt_and_its_key_acts_once(bench, server):
    """The wire is cut when the COMMIT has gone through it and its answer has not come back."""
    database = database_of(server.new_database())
    door = bench.keep(CommitDoor(server))
    hub = bench.hub(db=f"postgres://admin@{door.address}/{database}")
    assert try_write(hub)
    before = tokens_of(hub)
    door.arm()
    body, key = {"network": "lan", "uses": 1}, {"Idempotency-Key": "once"}
    status, kind, seconds = asked(hub, "POST", "/api/v1/tokens", body, **key)
    print(f"in doubt: answered {status} {kind} after {seconds:.2f} s")
    assert (status, kind) == (503, "in_doubt")
    assert seconds < BOUND * SLOW
    door.heal()
    made = wait_until(lambda: tokens_of(hub) - before, "the token that was made to show itself", 30)
    assert len(made) == 1
    again = wait_until(lambda: asked(hub, "POST", "/api/v1/tokens", body, **key)[:2] != (503, "unavailable")
                       and asked(hub, "POST", "/api/v1/tokens", body, **key), "the key to be looked up", 30)
    assert again[0] == 409, again
    assert tokens_of(hub) - before == made


class CommitDoor(Door):
    """Armed, it lets the next transaction through that makes a token, up to its COMMIT, and nothing
    behind that until it is healed."""

    def __init__(self, server):
        self.is_armed = False
        super().__init__(server)

    def arm(self):
        self.is_armed = True

    def heal(self):
        self.is_armed = False
        self.open.set()

    def pump(self, source, target):
        makes_token = False
        try:
            while data := source.recv(1 << 16):
                self.open.wait()
                makes_token |= self.is_armed and b"INSERT INTO token" in data
                if makes_token and b"COMMIT" in data:
                    makes_token = False
                    self.open.clear()  # before the answer can be there
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(2)
