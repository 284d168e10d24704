"""Several reverse connections of one agent: they come with load, go with it, and fail one by one."""

import os
import signal

import pytest

from lib.flow import Flow
from lib.process import Process, run, wait_until
from lib.service import connect, exchange
from lib.warren import endpoint


def connections(hub):
    return int(hub.home.metric("warren_reverse_connections"))


@pytest.fixture
def short_quiet(bench):
    return bench.hub(env={"WARREN_REVERSE_QUIET": "2s"})


def test_connections_come_with_load_and_go_after_a_quiet_time(short_quiet, echo_server):
    hub = short_quiet
    agent = hub.agent("a1")
    address = endpoint(hub.tunnel(echo_server.address))
    wait_until(lambda: connections(hub) == 1, "one connection for a lease")
    quiet = connect(address)
    assert exchange(quiet, b"before") == b"before"

    flows = [Flow(address) for _ in range(3)]
    wait_until(lambda: connections(hub) == 4, "one for each bulk stream, one for the rest", 30)
    wait_until(lambda: hub.home.metric("warren_stream_moves_total") >= 3, "the bulk streams to move", 30)
    assert exchange(quiet, b"beside") == b"beside"
    assert all(f.stop() for f in flows), [f.error for f in flows]
    assert min(f.bytes for f in flows) > 0

    wait_until(lambda: connections(hub) == 1, "the surplus to be closed", 30)
    assert exchange(quiet, b"after") == b"after"
    assert agent.process.alive()
    assert "reverse connection lost" not in agent.process.log()


def test_the_limit_of_connections_is_kept(bench, echo_server):
    hub = bench.hub(env={"WARREN_LIMIT_REVERSE_CONNECTIONS": "2"})
    hub.agent("a1")
    address = endpoint(hub.tunnel(echo_server.address))
    flows = [Flow(address) for _ in range(4)]
    wait_until(lambda: all(f.bytes > 8 << 20 for f in flows), "every stream to get its share", 60)
    assert connections(hub) == 2
    assert all(f.stop() for f in flows), [f.error for f in flows]


def established(hub):
    """The other side's ports of the connections to the hub."""
    out = run(["ss", "-Htn", "state", "established", f"( sport = :{hub.home.port} )"],
              namespace=hub.home.namespace).stdout
    return {line.split()[3].rsplit(":", 1)[1] for line in out.splitlines()}


def kill_connection(port, hub):
    run(["ss", "-K", "dport", "=", f":{port}", "sport", "=", f":{hub.home.port}"], namespace=hub.home.namespace)


def test_a_killed_connection_cuts_only_its_own_streams(short_quiet, echo_server):
    hub = short_quiet
    agent = hub.agent("a1")
    before = established(hub)
    address = endpoint(hub.tunnel(echo_server.address))
    wait_until(lambda: len(established(hub) - before) == 1, "the first reverse connection")
    flows = [Flow(address) for _ in range(3)]
    wait_until(lambda: hub.home.metric("warren_stream_moves_total") >= 2, "two of them to move", 30)
    wait_until(lambda: len(established(hub) - before) == 4, "four connections", 30)
    victim = sorted(established(hub) - before)[-1]
    kill_connection(victim, hub)
    wait_until(lambda: "reverse connection lost" in agent.process.log(), "the agent to notice")
    wait_until(lambda: connections(hub) == 4, "the lost one to be dialled again", 30)
    marks = [f.bytes for f in flows]
    wait_until(lambda: all(f.bytes > m + (1 << 20) for f, m in zip(flows, marks) if f.alive()), "the others to go on")
    alive = [f for f in flows if f.alive()]
    assert len(alive) >= 2
    assert all(f.stop() for f in alive)
    for f in flows:
        f.stop()
    assert agent.process.alive()


def test_a_new_login_ends_every_connection_of_the_old_one(short_quiet, echo_server):
    """The agent's process stands still while a copy of it logs in."""
    hub = short_quiet
    agent = hub.agent("a1")
    address = endpoint(hub.tunnel(echo_server.address))
    flows = [Flow(address) for _ in range(2)]
    wait_until(lambda: connections(hub) == 3, "three connections", 30)
    agent.process.signal(signal.SIGSTOP)
    copy = Process(agent.process.argv, os.path.join(agent.directory, "copy.log"))
    try:
        copy.start()
        wait_until(lambda: not any(f.alive() for f in flows), "the old session's streams to end", 30)
        wait_until(lambda: connections(hub) == 1, "the copy's one connection", 30)
        hub.wait_active("web")
        client = connect(address)
        assert exchange(client, b"copy") == b"copy"
    finally:
        copy.stop()
        agent.process.signal(signal.SIGCONT)
