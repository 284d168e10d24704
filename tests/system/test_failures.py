"""A target that cannot be reached: each way has its own error, at the client, in the logs, in the object."""

import time

import pytest

from lib.process import SLOW, wait_until
from lib.service import connect, exchange, read_all, serves, silent
from lib.warren import endpoint


@pytest.fixture
def site(bench, lan):
    """(hub, agent, lan): an agent behind NAT that may reach 10.0.0.0/24 and two test networks."""
    hub = bench.hub(host=lan.HUB, namespace=lan.hub.name)
    agent = hub.agent("a1", namespace=lan.lan.name, options=[
        "--allow", "10.0.0.0/24", "--allow", "203.0.113.0/24:80,443", "--allow", "127.0.0.0/8:1-65535"])
    return hub, agent, lan


def try_target(hub, lan, target):
    """Opens a tunnel to `target` and connects once: (how the client's end came, after how many seconds,
    connection row, status.reason)."""
    hub.tunnel(target, name="t")
    address = endpoint(hub.admin.get("/api/v1/tunnels/t"))
    started = time.monotonic()
    try:
        data, how = read_all(connect(address, timeout=20 * SLOW, namespace=lan.hub.name))
    except ConnectionResetError:  # as soon as it was accepted
        data, how = b"", "reset"
    took = time.monotonic() - started
    assert data == b""

    def ended():
        rows = hub.admin.items("/api/v1/tunnels/t/connections")
        return rows and rows[0]["closed"] and rows[0]
    row = wait_until(ended, "the connection's row")
    reason = wait_until(lambda: reason_at(hub), "a reason")
    assert row["end"] == "failed"
    wait_until(lambda: reason_at(hub.home) == reason_at(hub), "one reason at the agent's hub and the client's")
    return how, took, row, reason


def reason_at(hub, name="t"):
    return hub.admin.get(f"/api/v1/tunnels/{name}")["status"]["reason"]


@pytest.mark.parametrize("target,error,least,most", [
    ("10.0.0.17:9", "connection_refused", 0, 2),
    ("10.0.0.99:80", "connection_timeout", 3, 15),
    ("203.0.113.5:80", "destination_ip_unroutable", 0, 3),
    ("203.0.113.5:22", "destination_ip_prohibited", 0, 2),
    ("192.0.2.1:80", "destination_ip_prohibited", 0, 2),
    ("no-such-host.invalid:80", "dns_error", 0, 12),
])
def test_each_failure_has_its_own_error(site, target, error, least, most):
    hub, agent, lan = site
    lan.black_hole("10.0.0.99")
    how, took, row, reason = try_target(hub, lan, target)
    assert how == "reset"
    assert least <= took < most * SLOW
    assert row["error"] == error
    assert error in reason and target.rsplit(":", 1)[0] in reason
    assert agent.process.wait_log(error), "the agent's log names it"
    assert hub.process.wait_log(error), "the hub's log names it"
    errors = [line for line in hub.admin.raw("GET", "/metrics")[2].decode().splitlines()
              if line.startswith("warren_dial_errors_total") and error in line]
    assert errors and float(errors[0].rsplit(" ", 1)[1]) >= 1


def test_a_target_that_comes_up_later_is_served_and_the_reason_goes_away(bench, site):
    hub, agent, lan = site
    how, _, _, reason = try_target(hub, lan, "10.0.0.17:8080")
    assert how == "reset" and reason
    bench.server(host=lan.AGENT, namespace=lan.lan.name, port=8080)
    assert serves(endpoint(hub.admin.get("/api/v1/tunnels/t")), lan.hub.name)
    for at in (hub, hub.home):
        wait_until(lambda h=at: reason_at(h) is None, "no reason any more")


def test_the_ceiling_is_checked_for_what_a_name_resolves_to(bench, hub):
    hub.agent("a1", options=["--allow", "10.0.0.0/8"])
    server = bench.server(silent)
    sock = connect(endpoint(hub.tunnel(f"localhost:{server.port}")))
    assert read_all(sock)[1] == "reset"
    assert server.accepted == 0


def test_a_narrower_ceiling_cuts_open_streams_on_reload(bench, hub, echo_server, directory):
    import signal
    config = directory + "/agent.toml"
    with open(config, "w") as f:
        f.write('allow = ["127.0.0.0/8"]\n')
    agent = hub.agent("a1", options=["--config", config])
    sock = connect(endpoint(hub.tunnel(echo_server.address)))
    assert exchange(sock, b"x") == b"x"
    with open(config, "w") as f:
        f.write('allow = ["10.0.0.0/8"]\n')
    agent.process.signal(signal.SIGHUP)
    sock.settimeout(5 * SLOW)
    assert read_all(sock)[1] == "reset"


def test_a_tunnel_without_an_agent_says_so(hub):
    hub.admin.post("/api/v1/networks", {"name": "empty"})
    made = hub.tunnel("127.0.0.1:1", network="empty", wait=False)
    assert made["status"]["phase"] == "pending"
    reason = wait_until(lambda: reason_at(hub, "web"), "a reason")
    assert "agent" in reason


def test_a_port_that_is_taken_fails_the_tunnel_with_the_reason(bench, hub, echo_server):
    hub.agent("a1")
    taken = bench.server()
    hub.tunnel(echo_server.address, listen=taken.address, wait=False)

    def told():
        status = hub.admin.get("/api/v1/tunnels/web")["status"]
        return status["phase"] == "failed" and status["reason"]
    assert "in use" in wait_until(told, "the tunnel to fail").lower()
