"""Tunnels by name: requests and answers pass through the hub as they are."""

import hashlib
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time

import pytest

from lib.process import SLOW, amount, wait_until
from lib.web import HOST, App, asked, certificate, curl, nginx_tls, web_tunnel



@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_fetches_from_nginx_by_name(bench, lan_hub, version):
    nginx = bench.nginx()
    content = os.urandom(3_000_000)
    nginx.put_file("file", content)
    tunnel = web_tunnel(lan_hub, nginx.address)
    assert tunnel["status"]["endpoint"]["address"] == HOST
    status, head, got = curl(lan_hub, f"https://{HOST}/file", version)
    assert status == 200 and got == content
    assert ("http/2" in head) == (version == "--http2")
    assert "server: nginx" in head and f"content-length: {len(content)}" in head
    status, head, got = curl(lan_hub, f"https://{HOST}/file", version, "-I")
    assert status == 200 and got == b"" and f"content-length: {len(content)}" in head
    status, head, got = curl(lan_hub, f"https://{HOST}/file", version, "-r", "10-19")
    assert status == 206 and got == content[10:20]
    assert curl(lan_hub, f"https://{HOST}/none", version)[0] == 404
    status, head, _ = curl(lan_hub, f"https://{HOST.upper()}/file", version, "-H", "If-None-Match: x",
                           "-H", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT")
    assert status in (200, 304)


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_bodies_pass_both_ways_with_and_without_a_length(lan_hub, app, directory, version):
    web_tunnel(lan_hub, app.address)
    content = os.urandom(2_000_000)
    path = os.path.join(directory, "body")
    with open(path, "wb") as f:
        f.write(content)
    for flags in (["-H", "Content-Type: x/y", "--data-binary", f"@{path}"],
                  ["-T", path],
                  ["-T", path, "-H", "Transfer-Encoding: chunked"] if version == "--http1.1" else
                  ["-T", "-"]):
        at = f"https://{HOST}/up"
        if flags[-1] == "-":
            done = subprocess.run(
                ["curl", "-sS", "-k", version, "--connect-to", f"::{lan_hub.host}:{lan_hub.port}", "-T",
                 "-", at], input=content, capture_output=True, timeout=60 * SLOW)
            body = done.stdout
        else:
            status, _, body = curl(lan_hub, at, version, *flags)
            assert status == 200, body
        assert json.loads(body)["body"] == hashlib.sha256(content).hexdigest()
    status, head, body = curl(lan_hub, f"https://{HOST}/empty", version, "-X", "POST", "-d", "")
    assert status == 200 and asked(body)[0]["content-length"] == ["0"]
    status, head, body = curl(lan_hub, f"https://{HOST}/unlimited", version)
    assert status == 200 and body == b"x" * 100000


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_fields_of_proxies_are_ours_and_those_of_the_hop_are_dropped(lan_hub, app, version):
    web_tunnel(lan_hub, app.address)
    status, head, body = curl(
        lan_hub, f"https://{HOST}/a?b=c%20d", version, "-H", "X-Forwarded-For: 1.2.3.4", "-H",
        "Forwarded: for=6.6.6.6", "-H", "X_Forwarded_Host: evil", "-H", "X-Real-IP: 6.6.6.6", "-H",
        "X-Forwarded-Proto: http", "-H", "Proxy-Authorization: Basic eDp5", "-H", "Cookie: a=b; c=d",
        "-H", "X-Mine: kept")
    fields, told = asked(body)
    assert status == 200 and told["path"] == "/a?b=c%20d"
    assert fields["x-forwarded-for"] == ["127.0.0.1"]
    assert fields["x-forwarded-host"] == [HOST] and fields["x-forwarded-proto"] == ["https"]
    assert fields["forwarded"] == [f'for=127.0.0.1;host="{HOST}";proto=https']
    assert fields["host"] == [HOST] and fields["x-mine"] == ["kept"]
    assert fields["cookie"] == ["a=b; c=d"] and fields["via"] == ["1.1 warren"]
    for name in ("x_forwarded_host", "x-real-ip", "proxy-authorization", "connection", "te"):
        assert name not in fields
    assert "x-hop" not in head
    assert "keep-alive" not in head


def test_events_pass_as_they_come(lan_hub, app):
    web_tunnel(lan_hub, app.address)
    for version in ("--http1.1", "--http2"):
        process = subprocess.Popen(
            ["curl", "-sSN", "-k", version, "--connect-to", f"::{lan_hub.host}:{lan_hub.port}",
             f"https://{HOST}/events"], stdout=subprocess.PIPE)
        for i in range(3):
            assert process.stdout.readline() == b"data: %d\n" % i
            assert process.stdout.readline() == b"\n"
            app.step.set()  # only now the next one is made
        assert process.stdout.read() == b"" and process.wait(20 * SLOW) == 0


@pytest.mark.seconds(400)
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_gigabyte_up_and_down(bench, lan_hub, directory, version):
    size = amount(1 << 30, 64 << 20) if version == "--http1.1" else amount(256 << 20, 16 << 20)
    nginx = bench.nginx()
    path = os.path.join(nginx.root, "large")
    digest = hashlib.sha256()
    with open(path, "wb") as f:
        for i in range(size >> 20):
            block = hashlib.sha256(b"%d" % i).digest() * (1 << 15)
            digest.update(block)
            f.write(block)
    web_tunnel(lan_hub, nginx.address)
    begun = time.monotonic()
    curl_down = subprocess.Popen(
        ["curl", "-sS", "-k", version, "--connect-to", f"::{lan_hub.host}:{lan_hub.port}",
         f"https://{HOST}/large"], stdout=subprocess.PIPE)
    got = hashlib.sha256()
    while block := curl_down.stdout.read(1 << 20):
        got.update(block)
    assert curl_down.wait() == 0 and got.hexdigest() == digest.hexdigest()
    down = time.monotonic() - begun
    begun = time.monotonic()
    status, _, _ = curl(lan_hub, f"https://{HOST}/up", version, "-T", path)
    assert status in (201, 204)
    up = time.monotonic() - begun
    print(f"{version}: {size / down / 1e6:.0f} MB/s down, {size / up / 1e6:.0f} MB/s up")
    got = hashlib.sha256()
    with open(os.path.join(nginx.root, "up"), "rb") as f:
        while block := f.read(1 << 20):
            got.update(block)
    assert got.hexdigest() == digest.hexdigest()
    assert memory_of(lan_hub.process.pid) < 200 << 20


def memory_of(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmHWM:\s+(\d+)", f.read())[1]) << 10 if not os.environ.get("SANITIZE") else 0


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_slow_reader_holds_its_target_back(bench, lan_hub, version):
    sent, held_back = [], threading.Event()

    def endless(server, sock):
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
        block = bytes(65536)
        sock.settimeout(SLOW)  # for a whole block, which the reader takes six seconds for
        try:
            while True:
                sock.sendall(block)
                sent.append(len(block))
        except TimeoutError:
            held_back.set()
    server = bench.server(endless)
    web_tunnel(lan_hub, server.address)
    process = subprocess.Popen(
        ["curl", "-sS", "-k", version, "--limit-rate", "10k", "--connect-to",
         f"::{lan_hub.host}:{lan_hub.port}", f"https://{HOST}/"], stdout=subprocess.PIPE)
    assert held_back.wait(30 * SLOW)
    assert sum(sent) < 64 << 20  # what kernels and windows hold, not the body
    process.kill()
    process.wait()
    process.stdout.close()


def test_web_sockets_pass_over_http1(bench, lan_hub):
    import asyncio
    import websockets
    address, stop = [], threading.Event()

    async def serve():
        async def echo(ws, path="/"):
            try:
                async for message in ws:
                    await ws.send(message)
            except websockets.ConnectionClosed:
                pass
        server = await websockets.serve(echo, "127.0.0.1", 0, max_size=1 << 24,
                                        subprotocols=["mine"])
        address.append("127.0.0.1:%d" % server.sockets[0].getsockname()[1])
        await asyncio.to_thread(stop.wait)
        server.close()
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    wait_until(lambda: address, "the server")
    web_tunnel(lan_hub, address[0])

    async def talk():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with websockets.connect(
                f"wss://{HOST}/chat", host=lan_hub.host, port=lan_hub.port, ssl=context,
                server_hostname=HOST, max_size=1 << 24, subprotocols=["mine"]) as ws:
            assert ws.subprotocol == "mine"
            for size in (0, 1, 125, 70000, 3_000_000):
                data = os.urandom(size)
                await ws.send(data)
                assert await asyncio.wait_for(ws.recv(), 20 * SLOW) == data
            await (await ws.ping())
        assert ws.close_code == 1000
    asyncio.run(talk())
    stop.set()
    thread.join(10)


def test_web_sockets_pass_over_http2(bench, lan_hub):
    """RFC 8441, by hand: an extended CONNECT, then bytes both ways."""
    h2 = pytest.importorskip("h2.connection")
    import h2.config
    import h2.events
    seen = []

    def target(server, sock):
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        seen.append(head.decode())
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: "
                     b"Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello")
        while data := sock.recv(4096):
            sock.sendall(data.upper())
    server = bench.server(target)
    web_tunnel(lan_hub, server.address)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    sock = context.wrap_socket(socket.create_connection((lan_hub.host, lan_hub.port), 20 * SLOW),
                               server_hostname=HOST)
    c = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    c.initiate_connection()
    c.send_headers(1, [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"),
                       (":path", "/chat"), (":authority", HOST), ("sec-websocket-version", "13")])
    sock.sendall(c.data_to_send())
    got, status = b"", None
    sent = False
    while got != b"helloABC":
        for event in c.receive_data(sock.recv(65536)):
            if isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                got += event.data
                c.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                raise AssertionError(event)
        if status and not sent:
            c.send_data(1, b"abc")
            sent = True
        sock.sendall(c.data_to_send())
    assert status[":status"] == "200" and "sec-websocket-accept" not in status
    assert seen[0].startswith("GET /chat HTTP/1.1\r\n") and "Sec-WebSocket-Key: " in seen[0]
    assert "Upgrade: websocket" in seen[0]
    sock.close()


def test_streams_to_the_target_are_used_again(bench):
    lan_hub = bench.hub(options=["--workers", "1"])  # each worker has its own
    lan_hub.agent("a1")
    accepted = []

    def count(server, sock):
        accepted.append(sock)
        data = b""
        while piece := sock.recv(65536):
            data += piece
            while b"\r\n\r\n" in data:
                data = data.split(b"\r\n\r\n", 1)[1]
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    server = bench.server(count)
    web_tunnel(lan_hub, server.address)
    for _ in range(10):
        assert curl(lan_hub, f"https://{HOST}/")[2] == b"ok"
    assert len(accepted) == 1
    accepted[0].shutdown(socket.SHUT_RDWR)  # the target gives up its idle connection
    assert curl(lan_hub, f"https://{HOST}/")[2] == b"ok"
    assert len(accepted) == 2


def test_an_https_target_is_reached(bench, lan_hub, directory):
    certificate(directory, "target", ["whatever.example"])
    nginx = nginx_tls(bench, directory, "target")
    web_tunnel(lan_hub, nginx, protocol="https")
    status, head, body = curl(lan_hub, f"https://{HOST}/")
    assert status == 200 and body.startswith(b"hello of ") and b"https" in body


def test_ipv6(bench):
    hub = bench.hub(host="::1")
    hub.agent("a1")
    app = bench.keep(App("::1"))
    web_tunnel(hub, app.address)
    for version in ("--http1.1", "--http2"):
        status, _, body = curl(hub, f"https://{HOST}/", version)
        fields, _ = asked(body)
        assert status == 200 and fields["x-forwarded-for"] == ["::1"]
        assert fields["forwarded"] == [f'for="[::1]";host="{HOST}";proto=https']



def test_each_failure_has_a_page_and_a_reason(bench, lan_hub, app):
    tunnel = web_tunnel(lan_hub, app.address)
    url = f"https://{HOST}/"
    for version in ("--http1.1", "--http2"):
        lan_hub.admin.patch("/api/v1/tunnels/web", {"spec": {"target": {"address": "127.0.0.1:1"}}})
        status, head, body = wait_until(  # the agent's hub hears of it some milliseconds later
            lambda: (a := curl(lan_hub, url, version, "-H", "Accept: text/html"))[0] in (502, 503) and a,
            "the target to be another one")
        assert "proxy-status: warren; error=" in head, (head, body)
        assert b"<h1>50" in body and HOST.encode() in body
        status, head, body = curl(lan_hub, url, version)
        assert "content-type: application/problem+json" in head
        assert json.loads(body)["status"] == status and json.loads(body)["detail"]
        lan_hub.admin.patch("/api/v1/tunnels/web", {"spec": {"target": {"address": app.address}}})
        wait_until(lambda: curl(lan_hub, url, version)[0] == 200, "the target again")

    def rubbish(server, sock):
        sock.recv(65536)
        sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    def mute(server, sock):
        sock.recv(65536)

    def half(server, sock):
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")

    def twice(server, sock):
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")

    for handler, text in ((rubbish, "no proper HTTP"), (mute, "without an answer"),
                          (twice, "no proper HTTP")):
        server = bench.server(handler)
        lan_hub.admin.patch("/api/v1/tunnels/web", {"spec": {"target": {"address": server.address}}})
        for version in ("--http1.1", "--http2"):
            status, head, body = wait_until(
                lambda: (a := curl(lan_hub, url, version)) and text.encode() in a[2] and a, text)
            assert status == 502 and "proxy-status" in head
    server = bench.server(half)  # cut short: the client must see it
    lan_hub.admin.patch("/api/v1/tunnels/web", {"spec": {"target": {"address": server.address}}})
    for version in ("--http1.1", "--http2"):
        done = wait_until(lambda: (d := subprocess.run(
            ["curl", "-sS", "-k", version, "--connect-to", f"::{lan_hub.host}:{lan_hub.port}", url],
            capture_output=True, timeout=60 * SLOW)) and d.stdout == b"only this" and d, "half")
        assert done.returncode in (18, 56, 92)
    # the agent away: at once, with the reason
    lan_hub.agents[0].process.stop()
    wait_until(lambda: lan_hub.admin.get(f"/api/v1/tunnels/{tunnel['id']}")["status"]["phase"] == "pending",
               "the agent to be gone")
    status, head, body = curl(lan_hub, url)
    assert status == 503 and json.loads(body)["detail"] == "no agent of its network is connected"
    assert "retry-after: 1" in head and "proxy-status: warren; error=destination_unavailable" in head
    # no such tunnel: the hub's API is not there under another name, nor a tunnel under the hub's
    lan_hub.admin.delete(f"/api/v1/tunnels/{tunnel['id']}")


def test_a_request_waits_while_agents_change(lan_hub, app):
    web_tunnel(lan_hub, app.address)
    lan_hub.agents[0].process.kill() if hasattr(lan_hub.agents[0].process, "kill") else lan_hub.agents[0].process.stop()
    lan_hub.agents[0].start()
    status, _, _ = wait_until(lambda: (a := curl(lan_hub, f"https://{HOST}/")) and a[0] == 200 and a,
                              "to be served again", 40)
    assert status == 200


def test_requests_go_on_while_a_tunnel_moves_and_the_hub_ends_at_once(bench, app):
    hub = bench.hub()
    agents = {a.id: a for a in (hub.agent("a1"), hub.agent("a2"))}
    web_tunnel(hub, app.address)
    stop, statuses = threading.Event(), []

    def ask():
        while not stop.is_set():
            statuses.append(curl(hub, f"https://{HOST}/", check=False)[0])
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    holder = hub.admin.get("/api/v1/tunnels/web")["status"]["lease"]["agent"]["id"]
    wait_until(lambda: len(statuses) > 20, "requests")
    hub.cli("agent", "drain", agents[holder].name)
    wait_until(lambda: hub.admin.get("/api/v1/tunnels/web")["status"]["lease"]["agent"]["id"] != holder, "the move", 20)
    before = len(statuses)
    wait_until(lambda: len(statuses) > before + 20, "more requests")
    stop.set()
    for thread in threads:
        thread.join(60 * SLOW)
    assert set(statuses) == {200}, [s for s in statuses if s != 200]
    assert hub.metric("warren_web_requests_total") >= len(statuses)
    assert curl(hub, f"https://{HOST}/")[0] == 200  # its stream is idle now
    holder = hub.admin.get("/api/v1/tunnels/web")["status"]["lease"]["agent"]["id"]
    begun = time.monotonic()
    agents[holder].process.stop()
    assert time.monotonic() - begun < 4 * SLOW  # it need not wait for idle streams
    assert curl(hub, f"https://{HOST}/")[0] in (200, 503)
    begun = time.monotonic()
    hub.process.stop()
    assert time.monotonic() - begun < 8 * SLOW
