"""Many agents, one network: tunnels spread evenly, move when an agent comes, goes or is drained, and no
stream is cut by a move."""

import collections
import signal
import ssl
import time

import pytest

from lib.process import amount, run, wait_until
from lib.service import connect, exchange, read_all, serves
from lib.warren import Problem, endpoint

TUNNELS = amount(500, 60)


def make_tunnels(hub, target, n, listen=10, **spec):
    """n tunnels, the first `listen` of them with a listener; their endpoints."""
    for i in range(n):
        hub.admin.post("/api/v1/tunnels", {"name": f"t{i}", "spec": {
            "target": {"network": "lan", "address": target},
            "access": {"endpoint": {"listen": "127.0.0.1:0"} if i < listen else None}, **spec}})
    return wait_until(lambda: all_active(hub, n) and addresses(hub, listen), "all tunnels to serve", 20)


def addresses(hub, n):
    return [endpoint(hub.admin.get(f"/api/v1/tunnels/t{i}")) for i in range(n)]


def all_active(hub, n):
    return sum(t["status"]["phase"] == "active" for t in hub.tunnels()) == n


def held_by(hub):
    """How many tunnels each agent serves."""
    count = collections.Counter()
    for t in hub.tunnels():
        holder = t["status"]["lease"]["agent"]
        if holder and t["status"]["phase"] == "active":
            count[holder["id"]] += 1
    return count


def is_even(hub, agents, n):
    count = held_by(hub)
    return sum(count.values()) == n and len(count) == len(agents) and \
        max(count.values()) - min(count.values()) <= 1 and set(count) == {a.id for a in agents}


def is_settled(hub, agents, n):
    return is_even(hub, agents, n) and \
        all(len(t["status"]["leases"]) == 1 or any(x["phase"] == "lingering" for x in t["status"]["leases"])
            for t in hub.home.tunnels())


class Streams:
    """Connections that stay open; `alive` proves each in both directions."""

    def __init__(self, at, each=2):
        self.socks = [connect(a) for a in at for _ in range(each)]
        self.alive()

    def alive(self):
        for i, sock in enumerate(self.socks):
            word = f"stream {i}".encode()
            assert exchange(sock, word) == word, f"stream {i} was cut"

    def close(self):
        for sock in self.socks:
            sock.close()


def test_500_tunnels_stay_even_while_agents_join_leave_and_drain(hub, echo_server):
    agents = [hub.agent(f"a{i}") for i in range(4)]
    at = make_tunnels(hub, echo_server.address, TUNNELS)
    wait_until(lambda: is_even(hub, agents, TUNNELS), "an even spread over 4 agents")
    streams = Streams(at)

    agents.append(hub.agent("a4"))
    joined = time.monotonic()
    wait_until(lambda: is_settled(hub, agents, TUNNELS), "an even spread over 5 agents", 3)
    print(f"\n{TUNNELS} tunnels: even over 5 agents {time.monotonic() - joined:.2f} s after the fifth came")
    streams.alive()
    moved = hub.home.metric("warren_lease_moves_total")
    assert hub.home.metric('warren_lease_moves_total{reason="balance"}') >= TUNNELS // 5

    agents[0].process.kill()
    killed = time.monotonic()
    left = agents[1:]
    wait_until(lambda: is_even(hub, left, TUNNELS), "the others to take over", 3)
    print(f"{TUNNELS} tunnels: even over the other 4 {time.monotonic() - killed:.2f} s after one was killed")
    agents[0].start()
    agents[0].wait_online()
    wait_until(lambda: is_settled(hub, agents, TUNNELS), "an even spread over 5 agents again", 5)
    streams.close()

    streams = Streams(at)
    started = time.monotonic()
    hub.cli("agent", "drain", "a1")
    left = [a for a in agents if a.name != "a1"]
    wait_until(lambda: is_even(hub, left, TUNNELS), "the drained agent's tunnels to move", 3)
    print(f"{TUNNELS} tunnels: even over the other 4 {time.monotonic() - started:.2f} s after a drain")
    streams.alive()
    assert all(serves(a) for a in at)
    streams.alive()
    assert hub.home.metric("warren_lease_moves_total") > moved
    streams.close()


def test_a_drain_is_stored_shown_audited_and_ends_with_the_last_stream(hub, echo_server):
    one, two = hub.agent("a1"), hub.agent("a2")
    at = make_tunnels(hub, echo_server.address, 4, listen=4)
    wait_until(lambda: is_even(hub, [one, two], 4), "an even spread")
    streams = Streams(at, each=1)
    drained = hub.cli("agent", "drain", "a1", "-o", "json")
    assert drained["status"]["phase"] == "draining" and drained["status"]["draining"]
    wait_until(lambda: is_even(hub, [two], 4), "a2 to hold them all", 3)
    shown = hub.admin.get("/api/v1/agents/a1")["status"]
    assert (shown["tunnels"], shown["lingering"], shown["streams"]) == (0, 2, 2)
    assert "2 streams to end" in shown["reason"]
    lingering = [x for t in hub.home.tunnels() for x in t["status"]["leases"] if x["phase"] == "lingering"]
    assert len(lingering) == 2 and {x["agent"] for x in lingering} == {one.id}
    reasons = {x["reason"] for t in hub.home.tunnels() for x in t["status"]["leases"] if x["phase"] == "held"}
    assert "a1 is being drained" in reasons
    streams.alive()
    streams.close()
    hub.cli("agent", "drain", "a1", "--wait", "--timeout", "10s")
    shown = hub.admin.get("/api/v1/agents/a1")["status"]
    assert (shown["tunnels"], shown["lingering"], shown["streams"]) == (0, 0, 0)
    assert "no tunnel" in shown["reason"]

    assert hub.process.stop() == 0
    hub.start()
    for agent in (one, two):
        wait_until(lambda a=agent: a.identity()["status"]["session"], "the agents to be back")
    wait_until(lambda: is_even(hub, [two], 4), "a2 to hold them all after the restart")
    assert one.identity()["status"]["phase"] == "draining"
    hub.cli("agent", "undrain", "a1")
    wait_until(lambda: is_even(hub, [one, two], 4), "a1 to get its share")
    assert one.identity()["status"]["phase"] == "online"
    acts = [row["action"] for row in hub.admin.items("/api/v1/audit?page_size=100")]
    assert acts.count("agent.drain") == 2 and acts.count("agent.undrain") == 1


def test_a_drain_with_a_grace_cuts_what_is_still_open_then(hub, echo_server):
    hub.agent("a1")
    at = make_tunnels(hub, echo_server.address, 1, listen=1)
    streams = Streams(at, each=1)
    hub.cli("agent", "drain", "a1", "--grace", "1s")
    streams.alive()
    shown = wait_until(lambda: (t := hub.admin.get("/api/v1/tunnels/t0")["status"])["phase"] == "pending" and t,
                       "the only agent to let go")
    assert "a1" in shown["reason"] and "drained" in shown["reason"]
    streams.socks[0].settimeout(10)
    assert read_all(streams.socks[0])[1] == "reset"
    hub.cli("agent", "undrain", "a1")
    assert wait_until(lambda: serves(at[0]), "the tunnel to serve again")


def test_a_bad_drain_is_refused_with_the_reason(hub):
    agent = hub.agent("a1")
    for body, status in (({"grace": "soon"}, 400), ({"grace": 5}, 400), ({"speed": 1}, 400)):
        with pytest.raises(Problem) as problem:
            hub.admin.post("/api/v1/agents/a1:drain", body)
        assert problem.value.status in (status, 422) and problem.value.body["field"]
    with pytest.raises(Problem) as problem:
        hub.admin.post("/api/v1/agents/nobody:drain", {})
    assert problem.value.status == 404
    hub.cli("agent", "revoke", "a1")
    with pytest.raises(Problem) as problem:
        hub.admin.post("/api/v1/agents/a1:drain", {})
    assert problem.value.status == 409
    agent.process.wait_log("the hub has revoked this agent", 10)


def test_an_agent_that_stops_hands_over_and_lets_its_streams_end(hub, echo_server):
    agents = [hub.agent("a1", options=["--drain-grace", "30s"]), hub.agent("a2")]
    at = make_tunnels(hub, echo_server.address, 6, listen=6)
    wait_until(lambda: is_even(hub, agents, 6), "an even spread")
    streams = Streams(at, each=1)
    agents[0].process.signal(signal.SIGTERM)
    wait_until(lambda: is_even(hub, agents[1:], 6), "the other one to take over", 3)
    served = echo_server.accepted
    assert all(serves(a) for a in at)
    streams.alive()
    assert agents[0].process.alive()
    assert hub.home.admin.get(f"/api/v1/agents/{agents[0].id}")["status"]["phase"] == "draining"
    assert echo_server.accepted == served + 6
    assert sum(1 for line in agents[0].process.log().splitlines() if "refused" in line) == 0
    streams.close()
    wait_until(lambda: not agents[0].process.alive(), "the agent to stop with its last stream", 5)
    assert agents[0].process.popen.wait() == 0


def test_spread_by_connection_balances_and_a_lost_agent_cuts_its_own(bench, hub, echo_server):
    agents = [hub.agent(f"a{i}") for i in range(3)]
    tunnel = hub.tunnel(echo_server.address, spread="connection")

    def all_hold():
        leases = hub.home.admin.get("/api/v1/tunnels/web")["status"]["leases"]
        return len(leases) == 3 and all(x["phase"] == "held" for x in leases) and leases
    leases = wait_until(all_hold, "all agents to hold it")
    assert {x["agent"] for x in leases} == {a.id for a in agents} and len({x["epoch"] for x in leases}) == 3
    socks = [connect(endpoint(tunnel)) for _ in range(30)]
    for sock in socks:
        assert exchange(sock, b"x") == b"x"

    def spread():
        return sorted(x["streams"] for x in hub.home.admin.get("/api/v1/tunnels/web")["status"]["leases"])
    assert wait_until(lambda: sum(spread()) == 30 and spread(), "the streams to be counted") == [10, 10, 10]
    agents[1].process.kill()
    ends = collections.Counter()
    for sock in socks:
        sock.settimeout(3)
        try:
            ends["alive" if exchange(sock, b"y") == b"y" else "cut"] += 1
        except OSError:
            ends["cut"] += 1
    assert ends == {"alive": 20, "cut": 10}
    more = [connect(endpoint(tunnel)) for _ in range(10)]
    for sock in more:
        assert exchange(sock, b"z") == b"z"
    assert spread() == [15, 15]
    hub.admin.patch("/api/v1/tunnels/web", {"spec": {"spread": "agent"}})

    def one_holds():
        leases = hub.home.admin.get("/api/v1/tunnels/web")["status"]["leases"]
        return sorted(x["phase"] for x in leases) == ["held", "lingering"]
    wait_until(one_holds, "one agent to hold it")
    for sock in more:
        assert exchange(sock, b"z") == b"z", "a change of the spread cuts no stream"
        sock.close()
    for sock in socks:
        sock.close()


def test_what_is_said_of_spread_and_check_is_checked(hub, echo_server):
    hub.agent("a1")
    for spec, field in (({"spread": "stream"}, "spec.spread"), ({"check": {"type": "icmp"}}, "spec.check.type"),
                        ({"check": {"interval": "1ms"}}, "spec.check.interval"),
                        ({"check": {"rise": 0}}, "spec.check.rise"), ({"check": {"fall": "x"}}, "spec.check.fall"),
                        ({"check": {"path": "index"}}, "spec.check.path"),
                        ({"check": {"path": "/a b"}}, "spec.check.path"),
                        ({"check": {"every": "1s"}}, "spec.check.every")):
        with pytest.raises(Problem) as problem:
            hub.tunnel(echo_server.address, wait=False, **spec)
        assert problem.value.body["field"] == field
    made = hub.tunnel(echo_server.address, check={"type": "http", "path": "/up", "interval": "3s"})
    assert made["spec"]["check"] == {"type": "http", "interval": "3s", "rise": 2, "fall": 2, "path": "/up"}
    back = hub.admin.patch("/api/v1/tunnels/web", {"spec": {"check": None}})
    assert back["spec"]["check"] == {"type": "tcp", "interval": "2s", "rise": 2, "fall": 2}
    made = hub.cli("tunnel", "create", "--name", "cli", "--network", "lan", "--target", echo_server.address,
                   "--spread", "connection", "--check", "none", "-o", "json")
    assert made["spec"]["spread"] == "connection" and made["spec"]["check"] == {"type": "none"}
    changed = hub.cli("tunnel", "update", "cli", "--check", "tcp", "--check-fall", "5", "-o", "json")
    assert changed["spec"]["check"]["fall"] == 5


def phase(hub):
    return hub.admin.get("/api/v1/tunnels/web")["status"]["phase"]


def test_an_http_check_asks_the_target_how_it_does(bench, hub):
    nginx = bench.nginx()
    hub.agent("a1")
    hub.tunnel(nginx.address, check={"type": "http", "path": "/up", "interval": "500ms"})
    wait_until(lambda: phase(hub) == "pending", "404 to be no good answer")
    assert "a1: destination_unavailable" in hub.admin.get("/api/v1/tunnels/web")["status"]["reason"]
    nginx.put_file("up", b"yes")
    wait_until(lambda: phase(hub) == "active", "200 to be a good one")


def test_an_http_check_of_an_https_target_speaks_tls(bench, hub, directory):
    key, cert = f"{directory}/key.pem", f"{directory}/cert.pem"
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", key, "-out", cert, "-subj", "/CN=device", "-days", "1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    statuses = ["503 Busy"]

    def answer(server, sock):
        with context.wrap_socket(sock, server_side=True) as tls:
            asked = tls.recv(4096)
            assert asked.startswith(b"GET /up HTTP/1.1\r\n"), asked
            tls.sendall(f"HTTP/1.1 {statuses[0]}\r\nContent-Length: 0\r\n\r\n".encode())
    server = bench.server(answer)
    hub.agent("a1")
    hub.admin.post("/api/v1/tunnels", {"name": "web", "spec": {
        "target": {"network": "lan", "address": server.address, "protocol": "https"},
        "check": {"type": "http", "path": "/up", "interval": "500ms"}}})
    wait_until(lambda: "destination_unavailable" in (hub.admin.get("/api/v1/tunnels/web")["status"]["reason"] or ""),
               "503 to be no good answer")
    statuses[0] = "200 OK"
    wait_until(lambda: phase(hub) == "active", "200 to be a good one")
