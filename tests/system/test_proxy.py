"""The hub as a proxy into a network: CONNECT with real curl and ssh, and `warren connect`."""

import base64
import hashlib
import os
import re
import signal
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib.process import SLOW, run, wait_until
from lib.service import exchange, hash_until_eof, read_all, reset, silent
from lib.warren import program, tls_socket


def curl(hub, url, *more, user=None, namespace=None, seconds=40):
    """(exit code, status of the CONNECT, headers of proxy and server, body)"""
    user = user or f"lan:{hub.token}"
    done = subprocess.run(
        [*(["ip", "netns", "exec", namespace] if namespace else []),
         "curl", "-sS", "-i", "--max-time", str(seconds * SLOW), "-x", hub.url, "--proxy-cacert",
         hub.ca_path, "--proxy-user", user, "--proxytunnel", "-w", "\n%{http_connect}", *more, url],
        capture_output=True, timeout=2 * seconds * SLOW)
    body, _, status = done.stdout.rpartition(b"\n")
    return done.returncode, int(status), body, done.stderr.decode()


def open_tunnel(hub, target, user=None, early=b""):
    """A TLS connection to the hub, CONNECT answered: (socket, status, head, what came after it)."""
    sock = tls_socket(hub, ["http/1.1"])
    sock.suppress_ragged_eofs = False  # so that an end without close_notify is none
    credentials = base64.b64encode((user or f"lan:{hub.token}").encode()).decode()
    sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
                 f"Proxy-Authorization: Basic {credentials}\r\n\r\n".encode() + early)
    sock.settimeout(20 * SLOW)
    head = b""
    while b"\r\n\r\n" not in head:
        piece = sock.recv(4096)
        assert piece, f"closed after {head!r}"
        head += piece
    head, _, rest = head.partition(b"\r\n\r\n")
    return sock, int(head.split()[1]), head.decode(), rest


def end_of(sock):
    """How a tunnel ended: "eof" with close_notify, else "reset". """
    try:
        return read_all(sock)[1]
    except ssl.SSLEOFError:
        return "reset"


def test_curl_fetches_through_the_proxy_by_a_tunnel_made_on_demand(bench, site):
    hub, agent = site
    nginx = bench.nginx()
    content = os.urandom(3_000_000)
    nginx.put_file("file", content)
    code, status, got, errors = curl(hub, f"http://{nginx.address}/file")
    assert (code, status) == (0, 200), errors
    assert got.endswith(content)
    made, = hub.tunnels()
    assert re.fullmatch("on-demand-[0-9a-z]{16}", made["name"])
    assert made["spec"]["access"] == {"endpoint": None, "internal": True, "auth": "public", "users": [],
                                      "sources": []}
    assert made["spec"]["target"]["address"] == nginx.address
    assert made["status"]["on_demand"] and made["status"]["phase"] == "active"
    assert made["status"]["lease"]["agent"]["id"] == agent.id
    row, = wait_until(lambda: hub.closed_connections(made["id"]), "the row of the access log")
    assert row["client"].startswith("127.0.0.1:") and row["end"] == "closed"
    assert row["bytes"]["out"] > len(content) > row["bytes"]["in"] > 0
    audit = [row for row in hub.admin.items("/api/v1/audit") if row["object"] == made["id"]]
    assert [row["action"] for row in audit] == ["tunnel.create"]
    assert audit[0]["actor"]["id"].startswith("tok_")
    # by the network's id, and with the same object again
    network, = [n["id"] for n in hub.admin.items("/api/v1/networks") if n["name"] == "lan"]
    code, status, got, errors = curl(hub, f"http://{nginx.address}/file",
                                     user=f"{network}:{hub.token}")
    assert (code, status) == (0, 200), errors
    assert [t["id"] for t in hub.tunnels()] == [made["id"]]


def test_an_upload_is_carried_too(bench, site, directory):
    hub, agent = site
    nginx = bench.nginx()
    content = os.urandom(5_000_000)
    path = os.path.join(directory, "upload")
    with open(path, "wb") as f:
        f.write(content)
    code, status, got, errors = curl(hub, f"http://{nginx.address}/up", "-T", path)
    assert (code, status) == (0, 200), errors
    with open(os.path.join(nginx.root, "up"), "rb") as f:
        assert f.read() == content


def test_a_tunnel_with_internal_access_is_used_and_one_without_is_not(hub, echo_server):
    hub.agent("a1")
    hub.tunnel(echo_server.address, name="inside", access={"internal": True})
    sock, status, _, _ = open_tunnel(hub, echo_server.address)
    assert status == 200 and exchange(sock, b"hello") == b"hello"
    assert [t["name"] for t in hub.tunnels()] == ["inside"]
    hub.admin.patch("/api/v1/tunnels/inside", {"spec": {"access": {
        "internal": False, "endpoint": {"listen": "127.0.0.1:0"}}}})
    second, status, _, _ = open_tunnel(hub, echo_server.address)
    assert status == 200 and exchange(second, b"hello") == b"hello"
    assert sorted(t["status"]["on_demand"] for t in hub.tunnels()) == [False, True]


def test_bytes_sent_with_the_request_arrive_and_many_streams_share_one_object(site, echo_server):
    hub, agent = site
    good = []

    def one(i):
        data = f"early {i} ".encode() * 2000
        sock, status, _, got = open_tunnel(hub, echo_server.address, early=data)
        while len(got) < len(data):
            got += sock.recv(1 << 16)
        good.append(status == 200 and got == data)
        sock.close()
    threads = [threading.Thread(target=one, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40 * SLOW)
    assert good == [True] * 24
    assert len(hub.tunnels()) == 1
    rows = wait_until(lambda: len(hub.closed_connections(hub.tunnels()[0]["id"]) or ()) == 24, "24 rows")
    assert rows


def test_back_pressure_holds_a_sender_whose_receiver_does_not_read(bench, site):
    hub, agent = site
    stop = threading.Event()
    server = bench.server(lambda server, sock: stop.wait(30 * SLOW))
    sock, status, _, _ = open_tunnel(hub, server.address)
    sock.settimeout(2)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 200_000_000:
            sent += sock.send(bytes(1 << 16))
    stop.set()
    assert sent < 64_000_000


def test_the_client_may_end_first_and_still_reads_the_answer(bench, site):
    hub, agent = site
    server = bench.server(hash_until_eof)
    data = os.urandom(2_000_000)
    done = subprocess.run([program("warren"), "connect", "lan", server.address], input=data,
                          capture_output=True, timeout=60 * SLOW,
                          env={**os.environ, **hub.environment()})
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == f"{len(data)} {hashlib.sha256(data).hexdigest()}\n"


def test_the_target_may_end_first_and_still_reads(bench, site):
    hub, agent = site
    got = []

    def end_first(server, sock):
        sock.sendall(b"that is all I say")
        sock.shutdown(1)
        got.append(read_all(sock))
    server = bench.server(end_first)
    process = subprocess.Popen([program("warren"), "connect", "lan", server.address],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               env={**os.environ, **hub.environment()})
    assert process.stdout.read() == b"that is all I say", "the output ends while input goes on"
    process.stdin.write(b"I go on " * 1000)
    process.stdin.close()
    assert process.wait(20 * SLOW) == 0
    wait_until(lambda: got, "the server to have read all")
    assert got == [(b"I go on " * 1000, "eof")]


def test_resets_are_carried_both_ways(bench, site):
    hub, agent = site

    def reset_when_asked(server, sock):
        sock.recv(1)
        reset(sock)
    server = bench.server(reset_when_asked)
    sock, status, _, _ = open_tunnel(hub, server.address)
    sock.sendall(b"x")
    assert end_of(sock) == "reset"
    tunnel, = hub.tunnels()
    row, = wait_until(lambda: hub.closed_connections(tunnel["id"]), "the row")
    assert row["end"] == "target_reset"

    listening = bench.server(silent)
    sock, status, _, _ = open_tunnel(hub, listening.address)
    reset(sock)
    wait_until(lambda: listening.ends, "the server to hear of it")
    assert listening.ends == ["ConnectionResetError"]
    tunnel, = [t for t in hub.tunnels() if t["id"] != tunnel["id"]]
    row, = wait_until(lambda: hub.closed_connections(tunnel["id"]), "the row")
    assert row["end"] == "client_reset"
    done = hub.cli("connect", "lan", server.address, input="x", check=False)
    assert done.returncode == 7 and "reset" in done.stderr


def test_ssh_runs_through_warren_connect(bench, site):
    hub, agent = site
    sshd = bench.sshd()
    command = f"{program('warren')} connect lan %h:%p"
    ssh = ["ssh", "-i", sshd.client_key, "-o", f"ProxyCommand={command}", "-o", "BatchMode=yes",
           "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-p",
           str(sshd.port), f"{os.environ.get('USER', 'root')}@127.0.0.1"]
    done = subprocess.run([*ssh, "sha256sum; echo done"], input=b"x" * 5_000_000,
                          capture_output=True, timeout=60 * SLOW,
                          env={**os.environ, **hub.environment()})
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == hashlib.sha256(b"x" * 5_000_000).hexdigest() + "  -\ndone\n"
    done = subprocess.run([*ssh, "exit 42"], capture_output=True, timeout=60 * SLOW,
                          env={**os.environ, **hub.environment()})
    assert done.returncode == 42


@pytest.fixture
def far_site(bench, lan):
    hub = bench.hub(host=lan.HUB, namespace=lan.hub.name)
    agent = hub.agent("a1", namespace=lan.lan.name, options=[
        "--allow", "10.0.0.0/24", "--allow", "203.0.113.0/24:80,443", "--allow", "127.0.0.0/8:1-65535"])
    return hub, agent, lan


@pytest.mark.parametrize("target,status,error,exit_code", [
    ("10.0.0.17:9", 502, "connection_refused", 7),
    ("10.0.0.99:80", 504, "connection_timeout", 6),
    ("203.0.113.5:80", 502, "destination_ip_unroutable", 7),
    ("192.0.2.1:80", 403, "destination_ip_prohibited", 4),
    ("no-such-host.invalid:80", 502, "dns_error", 7),
])
def test_each_failure_has_its_own_error_at_the_client(far_site, target, status, error, exit_code):
    hub, agent, lan = far_site
    lan.black_hole("10.0.0.99")
    code, got, head, errors = curl(hub, f"http://{target}/", namespace=lan.hub.name)
    assert (code, got) == (56, status), errors
    assert f"proxy-status: warren; error={error}".encode() in head.lower()
    assert str(status) in errors
    done = hub.cli("connect", "lan", target, check=False, input="")
    assert done.returncode == exit_code and error in done.stderr, done.stderr
    tunnel, = hub.tunnels()
    rows = wait_until(lambda: hub.closed_connections(tunnel["id"]), "rows")
    assert {(row["end"], row["error"]) for row in rows} == {("failed", error)}


def test_who_is_not_known_is_asked_for_credentials(site, echo_server):
    hub, agent = site
    url = f"http://{echo_server.address}/"
    for user in ("lan:wat_wrong", "lan:", "lan:" + hub.token[::-1], "nobody"):
        code, status, head, errors = curl(hub, url, user=user)
        assert (code, status) == (56, 407), (user, errors)
        assert b'proxy-authenticate: basic realm="warren"' in head.lower()
    sock = tls_socket(hub, ["http/1.1"])
    for header in ("", "Proxy-Authorization: Basic !!!\r\n", "Proxy-Authorization: Bearer x\r\n",
                   "Authorization: Bearer " + hub.token + "\r\n"):
        sock.sendall(f"CONNECT {echo_server.address} HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
        assert sock.recv(65536).startswith(b"HTTP/1.1 407 ")
    assert hub.tunnels() == [] and echo_server.accepted == 0
    done = hub.cli("connect", "lan", echo_server.address, check=False, input="",
                   env={"WARREN_TOKEN_FILE": "", "WARREN_TOKEN": "wat_wrong"})
    assert done.returncode == 4, done.stderr


def test_a_network_of_another_tenant_is_not_there(site, echo_server):
    hub, agent = site
    hub.admin.post("/api/v1/tenants", {"name": "other"})
    token = hub.admin.post("/api/v1/tokens", {"kind": "api", "name": "o", "tenant": "other"})["token"]
    network, = [n["id"] for n in hub.admin.items("/api/v1/networks") if n["name"] == "lan"]
    for name in ("lan", network, "nowhere"):
        code, status, head, errors = curl(hub, f"http://{echo_server.address}/", user=f"{name}:{token}")
        assert (code, status) == (56, 404), errors
        assert b"error=destination_not_found" in head
    assert hub.tunnels() == [] and echo_server.accepted == 0


def test_without_an_agent_the_answer_is_503_and_nothing_is_made(site, echo_server):
    hub, agent = site
    sock, status, _, _ = open_tunnel(hub, echo_server.address)
    assert exchange(sock, b"hello") == b"hello"
    agent.process.kill()
    assert end_of(sock) == "reset", "a stream ends with the lease"
    wait_until(lambda: agent.identity()["status"]["phase"] == "offline", "the agent to be gone")
    for target in (echo_server.address, "127.0.0.1:9"):
        code, status, head, errors = curl(hub, f"http://{target}/")
        assert (code, status) == (56, 503), errors
        assert b"error=destination_unavailable" in head
    assert len(hub.tunnels()) == 1
    agent.start()
    agent.wait_online()
    sock, status, _, _ = open_tunnel(hub, echo_server.address)
    assert status == 200 and exchange(sock, b"again") == b"again"


def test_a_stream_is_cut_when_its_tunnel_is_deleted(site, echo_server):
    hub, agent = site
    sock, status, _, _ = open_tunnel(hub, echo_server.address)
    assert exchange(sock, b"hello") == b"hello"
    tunnel, = hub.tunnels()
    assert hub.admin.get(f"/api/v1/tunnels/{tunnel['id']}")["status"]["streams"]["open"] == 1
    hub.admin.delete(f"/api/v1/tunnels/{tunnel['id']}")
    assert end_of(sock) == "reset"


def test_the_hub_itself_and_malformed_targets_are_refused(site):
    hub, agent = site
    head = open_tunnel(hub, f"127.0.0.1:{hub.port}")[1:3]
    assert head[0] == 403 and "error=destination_ip_prohibited" in head[1]
    for target in ("127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", ":80", "a/b:80"):
        assert open_tunnel(hub, target)[1] == 400, target
    assert hub.tunnels() == []


def test_tunnels_on_demand_are_limited_for_a_tenant(site):
    hub, agent = site

    def answer(i):
        sock, status, head, _ = open_tunnel(hub, f"127.0.0.1:{20000 + i}")
        sock.close()
        return status, head
    with ThreadPoolExecutor(8) as pool:
        statuses = [status for status, _ in pool.map(answer, range(256))]
    assert set(statuses) <= {200, 502} and len(hub.tunnels()) == 256
    status, head = answer(256)
    assert status == 503 and "error=connection_limit_reached" in head
    assert answer(0)[0] == statuses[0], "what is there goes on"
    hub.admin.delete(f"/api/v1/tunnels/{hub.tunnels()[0]['id']}")
    assert answer(256)[0] in (200, 502)


def test_other_requests_over_either_protocol_are_as_before(site):
    hub, agent = site
    assert hub.admin.raw("GET", "/readyz")[0] == 200
    done = run(["curl", "-sS", "--http2", "--cacert", hub.ca_path, "-o", "/dev/null", "-w",
                "%{http_code}", hub.url + "/readyz"])
    assert done.stdout == "200"


def test_a_tunnel_made_on_demand_ends_when_it_is_not_used_also_after_a_restart(site, echo_server):
    hub, agent = site
    sock, status, _, _ = open_tunnel(hub, echo_server.address)
    tunnel, = hub.tunnels()
    sock.close()
    hub.process.stop()
    hub.start()
    agent.wait_online()
    assert [t["id"] for t in hub.tunnels()] == [tunnel["id"]]
    assert hub.tunnels()[0]["status"]["on_demand"]
    started = time.monotonic()
    wait_until(lambda: hub.tunnels() == [], "the tunnel to be deleted", 75)
    assert time.monotonic() - started > 50
    row, = [row for row in hub.admin.items("/api/v1/audit")
            if row["object"] == tunnel["id"] and row["action"] == "tunnel.delete"]
    assert row["actor"]["id"] == "hub" and row["outcome"] == "ok"


def test_a_stopping_hub_lets_streams_go_on_and_takes_no_new_ones(site, echo_server):
    hub, agent = site
    sock, status, _, _ = open_tunnel(hub, echo_server.address)
    idle = tls_socket(hub, ["http/1.1"])
    hub.process.signal(signal.SIGTERM)
    hub.process.wait_log("draining")
    assert exchange(sock, b"still here") == b"still here"
    sock.close()
    idle.close()
    hub.process.stop()


def test_a_revoked_token_s_connection_is_cut(site, echo_server):
    hub, _ = site
    made = hub.admin.post("/api/v1/tokens", {"kind": "api", "name": "ci"})
    sock, status, _, _ = open_tunnel(hub, echo_server.address, user=f"lan:{made['token']}")
    assert status == 200
    assert exchange(sock, b"ping") == b"ping"
    hub.admin.post("/api/v1/tokens/ci:revoke")
    assert end_of(sock) == "reset"
