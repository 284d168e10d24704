"""Limits of tunnels and tenants: held, counted, and answered with a reason."""

import base64
import contextlib
import os
import socket
import sqlite3
import ssl
import threading
import time

import pytest

from lib.process import amount, run, wait_until
from lib.service import connect, exchange, read_all, serves
from lib.warren import Problem, endpoint

MIB = 1 << 20


def spec(target, host="127.0.0.1:0", **limits):
    return {"target": {"network": "lan", "address": target}, "access": {"endpoint": {"listen": host}},
            "limits": limits or None}


def tunnel(hub, target, name="web", **limits):
    hub.admin.post("/api/v1/tunnels", {"name": name, "spec": spec(target, **limits)})
    return hub.wait_active(name)


def seconds_of(argv):
    began = time.monotonic()
    out = run(argv).stdout
    return time.monotonic() - began, out


def is_reset(public):
    """Whether a client is cut off at once."""
    try:
        with connect(public) as sock:
            return read_all(sock)[1] == "reset"
    except ConnectionResetError:
        return True


def records(hub, name="web"):
    return hub.admin.items(f"/api/v1/tunnels/{name}/connections")


# --- bandwidth --------------------------------------------------------------------------------------

def test_curl_gets_the_bandwidth_and_no_more_both_ways(bench, hub, directory):
    nginx = bench.nginx()
    rate, size = 4 * MIB, 20 * MIB
    nginx.put_file("big", os.urandom(size))
    hub.agent("a1")
    public = endpoint(tunnel(hub, nginx.address, bandwidth=rate))
    took, speed = seconds_of(["curl", "-sS", "-o", "/dev/null", "-w", "%{speed_download} %{size_download}",
                              f"http://{public}/big"])
    speed, got = map(float, speed.split())
    print(f"down {speed / rate:.3f} of the limit")
    assert got == size and 0.6 * rate < speed < 1.1 * rate
    path = os.path.join(directory, "up")
    with open(path, "wb") as f:
        f.write(os.urandom(size))
    took, speed = seconds_of(["curl", "-sS", "-T", path, "-o", "/dev/null", "-w", "%{speed_upload}",
                              f"http://{public}/up"])
    print(f"up {float(speed) / rate:.3f} of the limit")
    assert 0.6 * rate < float(speed) < 1.15 * rate  # the last window is taken before it has passed
    status = hub.admin.get("/api/v1/tunnels/web")["status"]
    assert status["bytes"]["delayed"] > 0 and hub.metric("warren_stream_bytes_delayed_total") > 0
    with open(os.path.join(nginx.root, "up"), "rb") as f, open(path, "rb") as g:
        assert f.read() == g.read()


def test_streams_share_the_bandwidth_evenly(bench, hub):
    from lib.service import source
    server = bench.server(source)
    rate, n = 4 * MIB, 4
    hub.agent("a1")
    public = endpoint(tunnel(hub, server.address, bandwidth=rate))
    got, stop = [0] * n, threading.Event()

    def drink(i):
        with connect(public) as sock:
            while not stop.is_set():
                got[i] += len(sock.recv(65536))
    threads = [threading.Thread(target=drink, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    wait_until(lambda: sum(got) > 2 * MIB, "a start")
    before, began = list(got), time.monotonic()
    wait_until(lambda: sum(got) - sum(before) > 5 * rate, "five seconds' worth", 60)
    took = time.monotonic() - began
    parts = [b - a for a, b in zip(before, got)]
    stop.set()
    for t in threads:
        t.join()
    print(f"{sum(parts) / took / rate:.3f} of the limit, parts {[round(p / sum(parts), 3) for p in parts]}")
    assert 0.6 * rate < sum(parts) / took < 1.1 * rate
    assert min(parts) > 0.7 * sum(parts) / n, parts


def test_a_limit_comes_changes_and_goes_while_bytes_flow(bench, hub):
    from lib.service import source
    server = bench.server(source)
    hub.agent("a1")
    public = endpoint(tunnel(hub, server.address))

    def rate_now(sock, goal):
        began, n = time.monotonic(), 0
        while n < goal:
            n += len(sock.recv(262144))
        return n / (time.monotonic() - began)
    with connect(public) as sock:
        free = rate_now(sock, amount(32 * MIB, 8 * MIB))
        hub.cli("tunnel", "update", "web", "--bandwidth", "1MiB")
        wait_until(lambda: rate_now(sock, MIB // 2) < 2 * MIB, "the end of what was on its way", 30)
        slow = rate_now(sock, 4 * MIB)
        hub.cli("tunnel", "update", "web", "--bandwidth", "none")
        fast = rate_now(sock, amount(32 * MIB, 8 * MIB))
    print(f"free {free / MIB:.0f}, limited {slow / MIB:.2f}, free again {fast / MIB:.0f} MiB/s")
    assert slow < 1.4 * MIB and fast > 4 * MIB  # where this program is slow, some of it has come before
    assert hub.admin.get("/api/v1/tunnels/web")["spec"]["limits"] is None


def test_a_limited_tunnel_ends_and_breaks_as_any_other(bench, hub):
    from lib.service import hash_until_eof
    import hashlib
    server = bench.server(hash_until_eof)
    hub.agent("a1")
    public = endpoint(tunnel(hub, server.address, bandwidth=2 * MIB))
    data = os.urandom(MIB + 12345)
    with connect(public, 60) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer, how = read_all(sock)
    assert answer.decode().split() == [str(len(data)), hashlib.sha256(data).hexdigest()] and how == "eof"
    for _ in range(20):  # gone while its bytes wait
        with connect(public) as sock:
            sock.sendall(data[:100000])
    wait_until(lambda: hub.admin.get("/api/v1/tunnels/web")["status"]["streams"]["open"] == 0, "all gone", 30)


# --- streams ----------------------------------------------------------------------------------------

def test_one_stream_too_many_is_reset_with_the_reason_on_record(bench, hub, echo_server):
    hub.agent("a1")
    public = endpoint(tunnel(hub, echo_server.address, streams=3))
    held = [connect(public) for _ in range(3)]
    for sock in held:
        assert exchange(sock, b"x") == b"x"
    assert is_reset(public)
    wait_until(lambda: any(r["error"] == "connection_limit_reached" for r in records(hub)), "the record")
    status = hub.admin.get("/api/v1/tunnels/web")["status"]["streams"]
    assert status["open"] == 3 and status["refused"] == 1
    assert hub.metric("warren_streams_refused_total") == 1
    held.pop().close()
    wait_until(lambda: serves(public), "room again")
    hub.cli("tunnel", "update", "web", "--max-streams", "none")
    assert serves(public) and serves(public)
    for sock in held:
        assert exchange(sock, b"y") == b"y"
        sock.close()


def test_a_client_of_the_proxy_is_told_by_proxy_status(bench, hub, echo_server):
    hub.agent("a1")
    public = endpoint(tunnel(hub, echo_server.address, streams=1))
    with connect(public) as sock:
        assert exchange(sock, b"x") == b"x"
        context = ssl.create_default_context(cafile=hub.ca_path)
        with context.wrap_socket(connect(f"127.0.0.1:{hub.port}"), server_hostname="127.0.0.1") as tls:
            secret = base64.b64encode(f"lan:{hub.admin.token}".encode()).decode()
            tls.sendall(f"CONNECT {echo_server.address} HTTP/1.1\r\nHost: x\r\n"
                        f"Proxy-Authorization: Basic {secret}\r\n\r\n".encode())
            answer, _ = read_all(tls)
    assert answer.startswith(b"HTTP/1.1 503") and b"error=connection_limit_reached" in answer, answer


def test_a_source_that_hurries_is_slowed_down_and_others_are_not(bench, hub, echo_server):
    hub.agent("a1")
    public = endpoint(tunnel(hub, echo_server.address, streams_per_second=5))
    host, port = public.rsplit(":", 1)

    def attempt(source):
        try:
            with socket.create_connection((host, int(port)), 10, (source, 0)) as sock:
                return exchange(sock, b"x") == b"x"
        except ConnectionError:
            return False
    began = time.monotonic()
    outcomes = [attempt("127.0.0.1") for _ in range(60)]
    took = time.monotonic() - began
    assert 5 <= sum(outcomes) <= 5 + 5 * took + 2, (sum(outcomes), took)
    assert attempt("127.0.0.9"), "another source"
    wait_until(lambda: attempt("127.0.0.1"), "patience")
    wait_until(lambda: any(r["error"] == "connection_rate_exceeded" for r in records(hub)), "the record")
    refused = outcomes.count(False)
    assert hub.admin.get("/api/v1/tunnels/web")["status"]["streams"]["refused"] >= refused
    assert sum(r["error"] == "connection_rate_exceeded" for r in records(hub)) <= 20 * (took + 3), "not all of a flood"


# --- tenants ----------------------------------------------------------------------------------------

def test_a_tenants_tunnels_and_agents_are_limited(bench, hub):
    hub.agent("a1")
    admin = hub.admin
    shown = hub.cli("tenant", "limit", "default", "--tunnels", "2", "--agents", "1", "-o", "json")
    assert shown["limits"] == {"tunnels": 2, "agents": 1, "networks": None, "tokens": None, "streams": None,
                               "bandwidth": None, "hosts": None}
    for name in ("t1", "t2"):
        admin.post("/api/v1/tunnels", {"name": name, "spec": spec("127.0.0.1:1")})
    with pytest.raises(Problem) as e:
        admin.post("/api/v1/tunnels", {"name": "t3", "spec": spec("127.0.0.1:1")})
    assert e.value.status == 409 and "tunnels" in e.value.body["detail"]
    done = hub.cli("apply", "-f", "-", check=False,
                   input="{kind: tunnel, name: t3, spec: {target: {network: lan, address: 'a:1'}}}")
    assert done.returncode == 5 and "as many tunnels" in done.stderr
    admin.delete("/api/v1/tunnels/t1")
    admin.post("/api/v1/tunnels", {"name": "t3", "spec": spec("127.0.0.1:1")})
    from lib.warren import Agent
    second = Agent(hub, os.path.join(hub.directory, "a2"), "a2")
    token = hub.bootstrap_token()
    done = second.enroll(token, check=False)
    assert done.returncode != 0 and "1 agents of 1" in done.stderr, done
    assert any(r["outcome"] == "denied" and "agents" in r["detail"] for r in admin.items("/api/v1/audit?action=agent.enroll"))
    hub.cli("tenant", "limit", "default", "--agents", "none")
    second.enroll(token)


def refusal(act, *args):
    with pytest.raises(Problem) as e:
        act(*args)
    assert e.value.status == 409
    return e.value.body["detail"]


def test_a_tenants_networks_and_tokens_are_limited(hub):
    admin = hub.admin
    admin.post("/api/v1/networks", {"name": "n1"})
    used = len(admin.items("/api/v1/tokens"))
    hub.cli("tenant", "limit", "default", "--networks", "1", "--tokens", str(used + 1))
    assert "1 networks of 1 that it may have; delete one" in refusal(admin.post, "/api/v1/networks", {"name": "n2"})
    assert "1 networks of 1" in refusal(admin.post, "/api/v1/tokens", {"network": "n2"})
    done = hub.cli("apply", "-f", "-", check=False, input="{kind: network, name: n2}")
    assert done.returncode == 5 and "1 networks of 1" in done.stderr, done
    token = admin.post("/api/v1/tokens", {"network": "n1"})["id"]
    assert "tokens" in refusal(admin.post, "/api/v1/tokens", {"network": "n1"})
    admin.post(f"/api/v1/tokens/{token}:revoke")
    admin.post("/api/v1/tokens", {"network": "n1"})
    admin.delete("/api/v1/networks/n1")
    admin.post("/api/v1/networks", {"name": "n2"})


@pytest.mark.one_hub("its rows are made in SQLite's file")
def test_a_network_holds_ten_thousand_tunnels(hub):
    body = {"spec": {"target": {"network": "lan", "address": "127.0.0.1:1"}, "access": {"internal": True}}}
    hub.admin.post("/api/v1/networks", {"name": "lan"})
    hub.admin.post("/api/v1/tunnels", {"name": "t", **body})
    hub.process.stop()
    with contextlib.closing(sqlite3.connect(os.path.join(hub.data, "warren.db"))) as db, db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(tunnel)")]
        rest = ", ".join(column for column in columns if column not in ("id", "name"))
        db.execute(f"INSERT INTO tunnel (id, name, {rest}) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 "
                   f"FROM n WHERE i < 9999) SELECT printf('tun_%016d', i), 't' || i, {rest} FROM tunnel, n")
    hub.start()
    for call in (lambda: hub.admin.post("/api/v1/tunnels", {"name": "more", **body}),
                 lambda: hub.admin.call("PUT", "/api/v1/tunnels/more", {"name": "more", **body},
                                        headers={"If-None-Match": "*"})):
        with pytest.raises(Problem) as refused:
            call()
        assert refused.value.status == 503 and refused.value.body["field"] == "spec.target.network"
    hub.admin.delete("/api/v1/tunnels/t7")
    hub.admin.post("/api/v1/tunnels", {"name": "more", **body})


def test_a_tenants_streams_and_bandwidth_are_of_all_its_tunnels(bench, hub, echo_server):
    from lib.service import source
    server = bench.server(source)
    hub.agent("a1")
    drinks = [endpoint(tunnel(hub, server.address, name=f"s{i}")) for i in range(2)]
    echoes = [endpoint(tunnel(hub, echo_server.address, name=f"e{i}")) for i in range(2)]
    hub.cli("tenant", "limit", "default", "--streams", "2", "--bandwidth", "2MiB")
    with connect(echoes[0]) as first, connect(echoes[1]) as second:
        assert exchange(first, b"x") == b"x" and exchange(second, b"y") == b"y"
        assert is_reset(echoes[0])
    wait_until(lambda: not any(t["status"]["streams"]["open"] for t in hub.admin.items("/api/v1/tunnels")), "room again")
    got = [0, 0]
    stop = threading.Event()

    def drink(i):
        with connect(drinks[i]) as sock:
            while not stop.is_set():
                got[i] += len(sock.recv(65536))
    threads = [threading.Thread(target=drink, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    wait_until(lambda: min(got) > MIB, "a start", 30)
    before, began = sum(got), time.monotonic()
    wait_until(lambda: sum(got) - before > 8 * MIB, "four seconds' worth", 60)
    speed = (sum(got) - before) / (time.monotonic() - began)
    stop.set()
    for t in threads:
        t.join()
    print(f"{speed / 2 / MIB:.3f} of the limit")
    assert 0.8 * 2 * MIB < speed < 1.1 * 2 * MIB


def test_limits_survive_a_restart_and_are_for_administrators(bench, hub, echo_server):
    hub.agent("a1")
    public = endpoint(tunnel(hub, echo_server.address, streams=1, streams_per_second=50))
    hub.cli("tenant", "limit", "default", "--streams", "1")
    hub.process.kill()
    hub.start()
    hub.wait_active("web")
    assert hub.admin.get("/api/v1/tunnels/web")["spec"]["limits"] == {
        "bandwidth": None, "streams": 1, "streams_per_second": 50}
    hub.cli("tunnel", "update", "web", "--max-streams", "none")
    with connect(public) as sock:
        assert exchange(sock, b"x") == b"x"
        assert is_reset(public), "the tenant's limit"
    operator = hub.rest(hub.admin.post("/api/v1/tokens", {"kind": "api", "role": "operator"})["token"])
    with pytest.raises(Problem) as e:
        operator.patch("/api/v1/tenants/default", {"limits": {"streams": None}})
    assert e.value.status == 403
    assert operator.get("/api/v1/tenants/default")["limits"]["streams"] == 1


def test_wrong_limits_are_refused_with_their_field(hub):
    hub.admin.post("/api/v1/networks", {"name": "lan"})
    for field, value in (("bandwidth", 5), ("bandwidth", "1MiB"), ("streams", 0), ("streams", True),
                         ("streams_per_second", 10**9), ("speed", 1)):
        with pytest.raises(Problem) as e:
            hub.admin.post("/api/v1/tunnels", {"name": "x", "spec": spec("a:1", **{field: value})})
        assert e.value.body["field"] == f"spec.limits.{field}"
    for field, value in (("bandwidth", 5), ("tunnels", -1), ("speed", 1), ("hosts", "a.example"), ("hosts", ["a b"]),
                         ("hosts", [1]), ("hosts", ["10.0.0.1"]), ("hosts", ["a" * 60 + ".example"] * 9)):
        with pytest.raises(Problem) as e:
            hub.admin.patch("/api/v1/tenants/default", {"limits": {field: value}})
        assert e.value.body["field"] == f"limits.{field}"
    assert hub.cli("tenant", "limit", "default", "--bandwidth", "much", check=False).returncode == 2


# --- UDP --------------------------------------------------------------------------------------------

def udp_echo(bench, hub, **limits):
    from lib.datagram import UdpServer
    server = bench.keep(UdpServer())
    hub.agent("a1")
    body = spec(server.address, **limits)
    body["target"]["protocol"] = "udp"
    hub.admin.post("/api/v1/tunnels", {"name": "web", "spec": body})
    host, port = endpoint(hub.wait_active("web")).rsplit(":", 1)
    return host, int(port)


def test_flows_are_limited_as_streams_are(bench, hub):
    from lib.datagram import udp_socket
    public = udp_echo(bench, hub, streams=2)

    def is_answered(sock):
        sock.sendto(b"x", public)
        try:
            return sock.recv(100) is not None
        except TimeoutError:
            return False
    first, second, third = (udp_socket("127.0.0.1", timeout=1) for _ in range(3))
    wait_until(lambda: is_answered(first) and is_answered(second), "two flows")
    assert not is_answered(third)
    status = hub.admin.get("/api/v1/tunnels/web")["status"]
    assert status["streams"]["open"] == 2 and status["streams"]["refused"] >= 1
    wait_until(lambda: any(r["error"] == "connection_limit_reached" for r in records(hub)), "the record")
    hub.cli("tunnel", "update", "web", "--max-streams", "none")
    wait_until(lambda: is_answered(third), "room")
    for sock in (first, second, third):
        sock.close()


def test_datagrams_beyond_the_bandwidth_are_dropped_and_counted(bench, hub):
    from lib.datagram import udp_socket
    rate = 200_000
    public = udp_echo(bench, hub, bandwidth=rate)
    with udp_socket("127.0.0.1", timeout=1) as sock:
        began, got = time.monotonic(), 0
        sock.settimeout(0.0005)
        while time.monotonic() - began < 4:
            sock.sendto(bytes(1000), public)
            try:
                got += len(sock.recv(2000))
            except (TimeoutError, BlockingIOError):
                pass
        took = time.monotonic() - began
    print(f"{got / took / rate:.3f} of the limit")
    assert 0.3 * rate < got / took < 1.15 * rate
    wait_until(lambda: hub.admin.get("/api/v1/tunnels/web")["status"]["datagrams"]["dropped"] > 0, "drops counted")
