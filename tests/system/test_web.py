"""Tunnels by name: HTTP that the hub takes apart, TLS that passes, certificates from files."""

import hashlib
import http.server
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time

import pytest

from lib.process import SLOW, amount, run, wait_until
from lib.service import read_all
from lib.warren import Problem

HOST = "device1.tunnels.example.org"


def web_tunnel(hub, target, host=HOST, name="web", protocol="http", wait=True, **access):
    body = {"name": name, "spec": {
        "target": {"network": "lan", "address": target, "protocol": protocol},
        "access": {"endpoint": {"host": host}, **access}}}
    made = hub.admin.post("/api/v1/tunnels", body)
    return hub.wait_active(made["id"]) if wait else made


def curl(hub, url, *more, seconds=60, cafile=None, check=True):
    """curl to the hub's port, whatever the host of the URL is: (status, head, body)."""
    trust = ["--cacert", cafile] if cafile else ["-k"]
    at = f"[{hub.host}]" if ":" in hub.host else hub.host
    done = subprocess.run(
        ["curl", "-sS", "-i", "--max-time", str(seconds * SLOW), *trust, "--connect-to",
         f"::{at}:{hub.port}", *more, url], capture_output=True, timeout=2 * seconds * SLOW)
    if check:
        assert done.returncode == 0, (done.returncode, done.stderr.decode())
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100") or b" 103 " in head.split(b"\r\n", 1)[0]:
        head, _, body = body.partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head else 0
    return status, head.decode(errors="replace").lower(), body


def raw(hub, data, host=HOST, alpn=("http/1.1",)):
    """What the hub answers to these bytes until it closes."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    plain = socket.create_connection((hub.host, hub.port), 20 * SLOW)
    sock = context.wrap_socket(plain, server_hostname=host)
    sock.sendall(data)
    answer, end = read_all(sock)
    sock.close()
    return answer, end


class App:
    """An HTTP/1.1 server of Python's that tells what it saw."""

    def __init__(self, host="127.0.0.1"):
        app = self
        self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def body(self):
                if self.headers.get("Transfer-Encoding") == "chunked":
                    data = b""
                    while size := int(self.rfile.readline(), 16):
                        data += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                    return data
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def any(self):
                body = self.body()
                app.seen.append((self.command, self.path, self.headers.items(), body))
                if self.path == "/unlimited":  # until the end of the connection
                    self.send_response(200)
                    self.send_header("Connection", "close")
                    self.end_headers()
                    self.wfile.write(b"x" * 100000)
                    self.close_connection = True
                    return
                if self.path == "/events":
                    self.send_response(200)
                    self.send_header("Content-Type", "text/event-stream")
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    for i in range(3):
                        event = f"data: {i}\n\n".encode()
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                        app.step.wait(20 * SLOW)
                        app.step.clear()
                    self.wfile.write(b"0\r\n\r\n")
                    return
                answer = json.dumps({"method": self.command, "path": self.path,
                                     "headers": self.headers.items(),
                                     "body": hashlib.sha256(body).hexdigest()}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("X-Hop", "dropped")
                self.send_header("Connection", "keep-alive, X-Hop")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_HEAD = do_OPTIONS = do_DELETE = do_PATCH = any

        class Server(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True
            request_queue_size = 256

        self.step = threading.Event()
        self.server = Server((host, 0), Handler)
        port = self.server.server_address[1]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def asked(body):
    """What an App tells: (the fields by name in lower case, each a list; all of it)."""
    told = json.loads(body)
    fields = {}
    for name, value in told["headers"]:
        fields.setdefault(name.lower(), []).append(value)
    return fields, told


@pytest.fixture
def site(bench):
    hub = bench.hub()
    hub.agent("a1")
    return hub


@pytest.fixture
def app(bench):
    return bench.keep(App())


# --- requests and answers ---------------------------------------------------------------------


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_fetches_from_nginx_by_name(bench, site, version):
    nginx = bench.nginx()
    content = os.urandom(3_000_000)
    nginx.put_file("file", content)
    tunnel = web_tunnel(site, nginx.address)
    assert tunnel["status"]["endpoint"]["address"] == HOST
    status, head, got = curl(site, f"https://{HOST}/file", version)
    assert status == 200 and got == content
    assert ("http/2" in head) == (version == "--http2")
    assert "server: nginx" in head and f"content-length: {len(content)}" in head
    status, head, got = curl(site, f"https://{HOST}/file", version, "-I")
    assert status == 200 and got == b"" and f"content-length: {len(content)}" in head
    status, head, got = curl(site, f"https://{HOST}/file", version, "-r", "10-19")
    assert status == 206 and got == content[10:20]
    assert curl(site, f"https://{HOST}/none", version)[0] == 404
    status, head, _ = curl(site, f"https://{HOST.upper()}/file", version, "-H", "If-None-Match: x",
                           "-H", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT")
    assert status in (200, 304)


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_bodies_pass_both_ways_with_and_without_a_length(site, app, directory, version):
    web_tunnel(site, app.address)
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
                ["curl", "-sS", "-k", version, "--connect-to", f"::{site.host}:{site.port}", "-T",
                 "-", at], input=content, capture_output=True, timeout=60 * SLOW)
            body = done.stdout
        else:
            status, _, body = curl(site, at, version, *flags)
            assert status == 200, body
        assert json.loads(body)["body"] == hashlib.sha256(content).hexdigest()
    status, head, body = curl(site, f"https://{HOST}/empty", version, "-X", "POST", "-d", "")
    assert status == 200 and asked(body)[0]["content-length"] == ["0"]
    status, head, body = curl(site, f"https://{HOST}/unlimited", version)
    assert status == 200 and body == b"x" * 100000


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_fields_of_proxies_are_ours_and_those_of_the_hop_are_dropped(site, app, version):
    web_tunnel(site, app.address)
    status, head, body = curl(
        site, f"https://{HOST}/a?b=c%20d", version, "-H", "X-Forwarded-For: 1.2.3.4", "-H",
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


def test_events_pass_as_they_come(site, app):
    web_tunnel(site, app.address)
    for version in ("--http1.1", "--http2"):
        process = subprocess.Popen(
            ["curl", "-sSN", "-k", version, "--connect-to", f"::{site.host}:{site.port}",
             f"https://{HOST}/events"], stdout=subprocess.PIPE)
        for i in range(3):
            assert process.stdout.readline() == b"data: %d\n" % i
            assert process.stdout.readline() == b"\n"
            app.step.set()  # only now the next one is made
        assert process.stdout.read() == b"" and process.wait(20 * SLOW) == 0


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_gigabyte_up_and_down(bench, site, directory, version):
    size = amount(1 << 30, 64 << 20) if version == "--http1.1" else amount(256 << 20, 16 << 20)
    nginx = bench.nginx()
    path = os.path.join(nginx.root, "large")
    digest = hashlib.sha256()
    with open(path, "wb") as f:
        for i in range(size >> 20):
            block = hashlib.sha256(b"%d" % i).digest() * (1 << 15)
            digest.update(block)
            f.write(block)
    web_tunnel(site, nginx.address)
    begun = time.monotonic()
    curl_down = subprocess.Popen(
        ["curl", "-sS", "-k", version, "--connect-to", f"::{site.host}:{site.port}",
         f"https://{HOST}/large"], stdout=subprocess.PIPE)
    got = hashlib.sha256()
    while block := curl_down.stdout.read(1 << 20):
        got.update(block)
    assert curl_down.wait() == 0 and got.hexdigest() == digest.hexdigest()
    down = time.monotonic() - begun
    begun = time.monotonic()
    status, _, _ = curl(site, f"https://{HOST}/up", version, "-T", path)
    assert status in (201, 204)
    up = time.monotonic() - begun
    print(f"{version}: {size / down / 1e6:.0f} MB/s down, {size / up / 1e6:.0f} MB/s up")
    got = hashlib.sha256()
    with open(os.path.join(nginx.root, "up"), "rb") as f:
        while block := f.read(1 << 20):
            got.update(block)
    assert got.hexdigest() == digest.hexdigest()
    assert memory_of(site.process.pid) < 200 << 20


def memory_of(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmHWM:\s+(\d+)", f.read())[1]) << 10 if not os.environ.get("SANITIZE") else 0


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_slow_reader_holds_its_target_back(bench, site, version):
    sent = []

    def endless(server, sock):
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
        block = bytes(65536)
        for _ in range(16384):
            sock.sendall(block)
            sent.append(len(block))
    server = bench.server(endless)
    web_tunnel(site, server.address)
    process = subprocess.Popen(
        ["curl", "-sS", "-k", version, "--limit-rate", "10k", "--connect-to",
         f"::{site.host}:{site.port}", f"https://{HOST}/"], stdout=subprocess.PIPE)
    wait_until(lambda: sent, "the first bytes")
    last = -1

    def stands_still():
        nonlocal last
        before, last = last, len(sent)
        time.sleep(0.5)
        return before == last and before > 0
    wait_until(stands_still, "the target to be held back", 30)
    assert sum(sent) < 64 << 20  # what kernels and windows hold, not the body
    process.kill()
    process.wait()
    process.stdout.close()


def test_web_sockets_pass_over_http1(bench, site):
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
        while not stop.is_set():
            await asyncio.sleep(0.05)
        server.close()
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    wait_until(lambda: address, "the server")
    web_tunnel(site, address[0])

    async def talk():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with websockets.connect(
                f"wss://{HOST}/chat", host=site.host, port=site.port, ssl=context,
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


def test_web_sockets_pass_over_http2(bench, site):
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
    web_tunnel(site, server.address)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    sock = context.wrap_socket(socket.create_connection((site.host, site.port), 20 * SLOW),
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
    site = bench.hub(options=["--workers", "1"])  # each worker has its own
    site.agent("a1")
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
    web_tunnel(site, server.address)
    for _ in range(10):
        assert curl(site, f"https://{HOST}/")[2] == b"ok"
    assert len(accepted) == 1
    accepted[0].shutdown(socket.SHUT_RDWR)  # the target gives up its idle connection
    assert curl(site, f"https://{HOST}/")[2] == b"ok"
    assert len(accepted) == 2


def test_an_https_target_is_reached(bench, site, directory):
    certificate(directory, "target", ["whatever.example"])
    nginx = nginx_tls(bench, directory, "target")
    web_tunnel(site, nginx, protocol="https")
    status, head, body = curl(site, f"https://{HOST}/")
    assert status == 200 and body.startswith(b"hello of ") and b"https" in body


# --- who may come in --------------------------------------------------------------------------


def test_basic_lets_in_who_knows_a_password_and_never_shows_it(site, app):
    tunnel = web_tunnel(site, app.address, auth="basic",
                        users=[{"name": "ann", "password": "correct horse"}, {"name": "bob", "password": "b:c"}])
    assert tunnel["spec"]["access"]["users"] == [{"name": "ann"}, {"name": "bob"}]
    url = f"https://{HOST}/"
    status, head, body = curl(site, url)
    assert status == 401 and 'www-authenticate: basic realm="tunnel"' in head
    assert not app.seen
    for user in ("ann:wrong", "eve:correct horse", "bob:", "ann:correct horse2"):
        assert curl(site, url, "-u", user)[0] == 401
    for _ in range(3):
        status, _, body = curl(site, url, "-u", "ann:correct horse")
        assert status == 200 and "authorization" not in asked(body)[0]
    assert curl(site, url, "-u", "bob:b:c")[0] == 200
    data = subprocess.run(["grep", "-rc", "correct horse", site.data], capture_output=True, text=True).stdout
    assert all(line.endswith(":0") for line in data.split()), data
    # another user's password changes, this one's is kept, also over a restart
    site.admin.patch("/api/v1/tunnels/web", {"spec": {"access": {
        "users": [{"name": "ann"}, {"name": "bob", "password": "new"}]}}})
    assert curl(site, url, "-u", "bob:b:c")[0] == 401 and curl(site, url, "-u", "bob:new")[0] == 200
    site.process.stop()
    site.start()
    site.wait_active("web", 30)
    assert curl(site, url, "-u", "ann:correct horse")[0] == 200
    with pytest.raises(Problem) as refused:
        site.admin.patch("/api/v1/tunnels/web", {"spec": {"access": {"users": [{"name": "new"}]}}})
    assert refused.value.status == 400 and refused.value.body["field"] == "spec.access.users.password"


def test_a_crowd_of_wrong_passwords_is_bounded(site, app):
    web_tunnel(site, app.address, auth="basic", users=[{"name": "ann", "password": "right"}])
    statuses = []

    def guess(i):
        statuses.append(curl(site, f"https://{HOST}/", "-u", f"ann:wrong{i}")[0])
    threads = [threading.Thread(target=guess, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60 * SLOW)
    assert len(statuses) == 24 and set(statuses) <= {401, 503}
    assert curl(site, f"https://{HOST}/", "-u", "ann:right")[0] == 200


def test_api_token_lets_in_the_tenant_and_is_not_passed_on(site, app):
    web_tunnel(site, app.address, auth="api-token")
    url, token = f"https://{HOST}/", site.token
    status, head, _ = curl(site, url)
    assert status == 401 and "www-authenticate: bearer" in head
    assert curl(site, url, "-H", "Authorization: Bearer wat_nonsense")[0] == 401
    other = site.admin.post("/api/v1/tenants", {"name": "other"})
    stranger = site.admin.post("/api/v1/tokens", {"kind": "api", "role": "operator", "tenant": other["id"],
                                                  "name": "stranger"})["token"]
    assert curl(site, url, "-H", f"Authorization: Bearer {stranger}")[0] == 401
    assert not app.seen
    for flags in (["-H", f"Authorization: Bearer {token}"], ["-u", f"x:{token}"]):
        status, _, body = curl(site, url, *flags)
        assert status == 200 and "authorization" not in asked(body)[0]
        assert token.encode() not in body


def test_tenant_login_by_a_page(site, app):
    web_tunnel(site, app.address, auth="tenant-login")
    url, token = f"https://{HOST}", site.token
    html = ["-H", "Accept: text/html"]
    status, head, body = curl(site, f"{url}/deep/page?a=1&b=2", *html)
    assert status == 401 and b'action="/.warren/login"' in body
    assert b'value="/deep/page?a=1&amp;b=2"' in body and "content-security-policy: default-src 'none'" in head
    assert curl(site, f"{url}/")[0] == 401
    own = ["-H", f"Origin: https://{HOST}"]
    form = ["-d", f"next=/deep/page?a=1%26b=2&token={token}"]
    assert curl(site, f"{url}/.warren/login", *form)[0] == 403  # no origin, or another
    assert curl(site, f"{url}/.warren/login", *form, "-H", "Origin: https://evil.example")[0] == 403
    status, head, body = curl(site, f"{url}/.warren/login", *own, "-d", "token=wat_nonsense")
    assert status == 401 and b"no valid API token" in body and "set-cookie" not in head
    status, head, body = curl(site, f"{url}/.warren/login", *own, *form)
    assert status == 303 and "location: /deep/page?a=1&b=2" in head
    _, head_text, _ = curl_exact(site, f"{url}/.warren/login", *own, *form)
    cookie = re.search(r"set-cookie: (__Host-warren=[^;]+); ([^\r]*)", head_text, re.I)
    assert cookie[2] == "Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=28800"
    value = cookie[1]
    status, _, body = curl(site, f"{url}/x", "-H", f"Cookie: mine=1; {value}; other=2")
    assert status == 200 and asked(body)[0]["cookie"] == ["mine=1; other=2"]
    for bad in (value[:-1] + ("A" if value[-1] != "A" else "B"), value.replace("tok_", "tok_x"),
                re.sub(r"\.(\d+)\.", lambda m: f".{int(m[1]) + 1}.", value)):
        assert curl(site, f"{url}/x", "-H", f"Cookie: {bad}")[0] == 401
    # good for this name only
    web_tunnel(site, app.address, host="device2.tunnels.example.org", name="two", auth="tenant-login")
    assert curl(site, "https://device2.tunnels.example.org/", "-H", f"Cookie: {value}")[0] == 401
    # no open redirect
    for target in ("//evil.example", "https://evil.example", "/\\evil.example", "%0d%0aX: y"):
        status, head, _ = curl(site, f"{url}/.warren/login", *own, "-d", f"next={target}&token={token}")
        assert status == 303 and "\r\nlocation: /\r\n" in head + "\r\n"
    status, head, _ = curl(site, f"{url}/.warren/logout", *own, "-X", "POST", "-H", f"Cookie: {value}")
    assert status == 303 and "__host-warren=; " in head and "max-age=0" in head
    # programs use a token directly; a revoked token ends its sessions
    assert curl(site, f"{url}/x", "-H", f"Authorization: Bearer {token}")[0] == 200
    made = site.admin.post("/api/v1/tokens", {"kind": "api", "role": "operator", "name": "short"})
    _, head_text, _ = curl_exact(site, f"{url}/.warren/login", *own, "-d", f"token={made['token']}")
    value = re.search(r"set-cookie: (__Host-warren=[^;]+);", head_text, re.I)[1]
    assert curl(site, f"{url}/x", "-H", f"Cookie: {value}")[0] == 200
    site.admin.post(f"/api/v1/tokens/{made['id']}:revoke")
    assert curl(site, f"{url}/x", "-H", f"Cookie: {value}")[0] == 401


def curl_exact(hub, url, *more):
    """The same with the head as it was sent."""
    done = subprocess.run(["curl", "-sS", "-i", "-k", "--connect-to", f"::{hub.host}:{hub.port}", *more, url],
                          capture_output=True, timeout=60 * SLOW)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body


def test_source_ranges(bench, site, app, echo_server):
    web_tunnel(site, app.address, sources=["10.0.0.0/8", "127.0.0.0/8"])
    assert curl(site, f"https://{HOST}/")[0] == 200
    site.admin.patch("/api/v1/tunnels/web", {"spec": {"access": {"sources": ["10.0.0.0/8", "::/1"]}}})
    wait_until(lambda: curl(site, f"https://{HOST}/")[0] == 403, "the new list")
    tunnel = site.admin.post("/api/v1/tunnels", {"name": "tcp", "spec": {
        "target": {"network": "lan", "address": echo_server.address},
        "access": {"endpoint": {"listen": "127.0.0.1:0"}, "sources": ["192.0.2.0/24"]}}})
    at = site.wait_active(tunnel["id"])["status"]["endpoint"]["address"].rsplit(":", 1)
    with pytest.raises(ConnectionResetError), socket.create_connection((at[0], int(at[1])), 10) as sock:
        sock.settimeout(20 * SLOW)
        if not sock.recv(1):
            raise ConnectionResetError  # an end is as good
    assert echo_server.accepted == 0
    site.admin.patch("/api/v1/tunnels/tcp", {"spec": {"access": {"sources": ["127.0.0.1"]}}})

    def echoes():
        with socket.create_connection((at[0], int(at[1])), 10) as sock:
            sock.settimeout(5)
            sock.sendall(b"x")
            return sock.recv(1) == b"x"
    wait_until(echoes, "the new list")


# --- failures ---------------------------------------------------------------------------------


def test_each_failure_has_a_page_and_a_reason(bench, site, app):
    tunnel = web_tunnel(site, app.address)
    url = f"https://{HOST}/"
    for version in ("--http1.1", "--http2"):
        site.admin.patch("/api/v1/tunnels/web", {"spec": {"target": {"address": "127.0.0.1:1"}}})
        status, head, body = curl(site, url, version, "-H", "Accept: text/html")
        assert status in (502, 503) and "proxy-status: warren; error=" in head, (head, body)
        assert b"<h1>50" in body and HOST.encode() in body
        status, head, body = curl(site, url, version)
        assert "content-type: application/problem+json" in head
        assert json.loads(body)["status"] == status and json.loads(body)["detail"]
        site.admin.patch("/api/v1/tunnels/web", {"spec": {"target": {"address": app.address}}})
        wait_until(lambda: curl(site, url, version)[0] == 200, "the target again")

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
        site.admin.patch("/api/v1/tunnels/web", {"spec": {"target": {"address": server.address}}})
        for version in ("--http1.1", "--http2"):
            status, head, body = wait_until(
                lambda: (a := curl(site, url, version)) and text.encode() in a[2] and a, text)
            assert status == 502 and "proxy-status" in head
    server = bench.server(half)  # cut short: the client must see it
    site.admin.patch("/api/v1/tunnels/web", {"spec": {"target": {"address": server.address}}})
    for version in ("--http1.1", "--http2"):
        done = wait_until(lambda: (d := subprocess.run(
            ["curl", "-sS", "-k", version, "--connect-to", f"::{site.host}:{site.port}", url],
            capture_output=True, timeout=60 * SLOW)) and d.stdout == b"only this" and d, "half")
        assert done.returncode in (18, 56, 92)
    # the agent away: at once, with the reason
    site.agents[0].process.stop()
    wait_until(lambda: site.admin.get(f"/api/v1/tunnels/{tunnel['id']}")["status"]["phase"] == "pending",
               "the agent to be gone")
    status, head, body = curl(site, url)
    assert status == 503 and json.loads(body)["detail"] == "no agent of its network is connected"
    assert "retry-after: 1" in head and "proxy-status: warren; error=destination_unavailable" in head
    # no such tunnel: the hub's API is not there under another name, nor a tunnel under the hub's
    site.admin.delete(f"/api/v1/tunnels/{tunnel['id']}")


def test_a_request_waits_while_agents_change(site, app):
    web_tunnel(site, app.address)
    site.agents[0].process.kill() if hasattr(site.agents[0].process, "kill") else site.agents[0].process.stop()
    site.agents[0].start()
    status, _, _ = wait_until(lambda: (a := curl(site, f"https://{HOST}/")) and a[0] == 200 and a,
                              "to be served again", 40)
    assert status == 200


# --- names ------------------------------------------------------------------------------------


def test_names_are_checked_and_claimed_once(site, app):
    for bad in ("device", "10.0.0.1", "a_b.example", "*.example.org", "-a.example", "a..b", "x" * 64 + ".org",
                "a.example:80", "ä.example", "a b.example", ""):
        with pytest.raises(Problem) as refused:
            web_tunnel(site, app.address, host=bad, wait=False)
            raise Problem(400, {"field": "spec.access.endpoint.host"}, {}) if bad == "" else AssertionError(bad)
        assert refused.value.status == 400, bad
        if bad == "":
            site.admin.delete("/api/v1/tunnels/web")
    web_tunnel(site, app.address, host="Device1.Tunnels.Example.ORG.")
    assert site.admin.get("/api/v1/tunnels/web")["spec"]["access"]["endpoint"] == {"host": HOST}
    for endpoint in ({"host": HOST}, {"sni": HOST}):
        with pytest.raises(Problem) as refused:
            site.admin.post("/api/v1/tunnels", {"name": "second", "spec": {
                "target": {"network": "lan", "address": app.address, "protocol": "tcp" if "sni" in endpoint else "http"},
                "access": {"endpoint": endpoint}}})
        assert refused.value.status == 409
    site.admin.delete("/api/v1/tunnels/web")
    web_tunnel(site, app.address, name="second")
    site.admin.patch("/api/v1/tunnels/second", {"spec": {"access": {"endpoint": {"host": "other.example.org"}}}})
    site.wait_active("second")
    assert curl(site, "https://other.example.org/")[0] == 200
    assert curl(site, f"https://{HOST}/", check=False)[0] in (404, 421)


def test_the_api_and_the_tunnels_do_not_meet(bench, directory, app):
    hub = bench.hub(options=["--public-name", "hub.example.org"])
    hub.agent("a1")
    with pytest.raises(Problem) as refused:
        web_tunnel(hub, app.address, host="hub.example.org", wait=False)
    assert refused.value.status == 400 and "hub itself" in refused.value.body["detail"]
    web_tunnel(hub, app.address)
    status, _, body = curl(hub, f"https://{HOST}/api/v1/tunnels")
    assert status == 200 and asked(body)[1]["path"] == "/api/v1/tunnels"  # the target's own
    assert curl(hub, f"https://{HOST}/.warren/x")[0] == 404
    token = hub.token
    for version in ("--http1.1", "--http2"):
        # a connection to one, a request for the other
        assert curl(hub, f"https://{HOST}/healthz", version, "-H", "Host: hub.example.org")[0] == 421
        status, _, body = curl(hub, "https://hub.example.org/api/v1/tunnels", version, "-H", f"Host: {HOST}",
                               "-H", f"Authorization: Bearer {token}")
        assert status == 421
        assert curl(hub, "https://hub.example.org/healthz", version)[0] == 200
    # without SNI
    answer, _ = raw(hub, f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode(), host=None)
    assert answer.startswith(b"HTTP/1.1 421 ")


SMUGGLED = [
    b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: +5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 5, 5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.0\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: %s\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: %s\r\nX: y\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s\r\nHost: other.example\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s evil\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s:99999\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a@%s\r\n\r\n",
    b"GET https://other.example/ HTTP/1.1\r\nHost: %s\r\n\r\n",
    b"GET ftp://%s/ HTTP/1.1\r\nHost: x.example\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s\r\nX\x00Y: z\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s\r\nX(y): z\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s\r\n: z\r\n\r\n",
    b"GET / HTTP/1.1\nHost: %s\n\n",
    b"GET / HTTP/1.1\rHost: %s\r\r",
    b"GET /a b HTTP/1.1\r\nHost: %s\r\n\r\n",
    b"GET /\x01 HTTP/1.1\r\nHost: %s\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: %s\r\n\r\n",
    b"CONNECT %s:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


def test_smuggled_requests_are_refused_and_nothing_after_them_is_read(site, app):
    web_tunnel(site, app.address)
    second = b"GET /smuggled HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\n\r\n"
    for request in SMUGGLED:
        data = request.replace(b"%s", HOST.encode())
        answer, end = raw(site, data + second)
        assert re.match(rb"HTTP/1\.1 (400|405|421|501|505) ", answer), (data, answer)
        assert b"connection: close" in answer.lower(), (data, answer)
        assert answer.count(b"HTTP/1.1 ") == 1, (data, answer)
    for body in (b"5\r\nabcdeX\r\n0\r\n\r\n", b"-5\r\nabcde\r\n0\r\n\r\n", b"0x5\r\nabcde\r\n0\r\n\r\n",
                 b"5;\x00\r\nabcde\r\n0\r\n\r\n", b"\r\n5\r\nabcde\r\n0\r\n\r\n", b"fffffffffffffffff\r\nx",
                 b"5 \r\nabcde\r\n0\r\n\r\n" if False else b"5\nabcde\n0\n\n", b"g\r\n"):
        data = b"POST /bad HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + body
        answer, end = raw(site, data + second)
        assert answer.startswith(b"HTTP/1.1 400 "), (body, answer)
        assert answer.count(b"HTTP/1.1 ") == 1, (body, answer)
    assert not [s for s in app.seen if s[1] == "/smuggled"]
    # and those that only look odd are served
    for request, path in ((b"GET https://%s/absolute?x HTTP/1.1\r\nHost: %s\r\n", "/absolute?x"),
                          (b"GET http://%s HTTP/1.1\r\nHost: %s\r\n", "/"),
                          (b"OPTIONS * HTTP/1.1\r\nHost: %s\r\n", "*"),
                          (b"GET //x/../y HTTP/1.1\r\nHost: %s:8443\r\n", None),
                          (b"POST /e HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 2\r\n", "/e")):
        data = request.replace(b"%s", HOST.encode()) + b"Connection: close\r\n\r\nhi"
        answer, _ = raw(site, data)
        assert b"HTTP/1.1 200 OK" in answer, (data, answer)
        assert path is None or app.seen[-1][1] == path


def test_limits_of_heads_and_slow_clients(site, app):
    web_tunnel(site, app.address)
    at = HOST.encode()
    for data, status in ((b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: " + at + b"\r\n\r\n", b"414"),
                         (b"GET / HTTP/1.1\r\nHost: " + at + b"\r\nX: " + b"y" * 20000 + b"\r\n\r\n", b"431"),
                         (b"GET / HTTP/1.1\r\nHost: " + at + b"\r\n" + b"X: y\r\n" * 120 + b"\r\n", b"431")):
        answer, _ = raw(site, data)
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:100]
    begun = time.monotonic()
    answer, _ = raw(site, b"GET / HTTP/1.1\r\nHost: " + at + b"\r\nX: ")
    assert answer.startswith(b"HTTP/1.1 408 ") and time.monotonic() - begun > 5


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


# --- certificates -----------------------------------------------------------------------------


def certificate(directory, name, names, days=30, ca=None):
    """A CA (once) and a certificate of it: NAME.crt, NAME.key, and the CA's ca.crt."""
    at = lambda file: os.path.join(directory, file)  # noqa: E731
    if not os.path.exists(at("ca.crt")):
        run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", at("ca.key"), "-out", at("ca.crt"),
             "-subj", "/CN=test", "-days", "30"])
    run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", at(f"{name}.key"),
         "-out", at("csr"), "-subj", f"/CN={names[0]}"])
    with open(at("ext"), "w") as f:
        f.write("subjectAltName=" + ",".join(f"DNS:{n}" for n in names))
    run(["openssl", "x509", "-req", "-in", at("csr"), "-CA", at("ca.crt"), "-CAkey", at("ca.key"), "-out",
         at(f"{name}.crt"), "-days", days, "-extfile", at("ext")])
    return at("ca.crt")


def nginx_tls(bench, directory, name):
    """An nginx that speaks TLS itself: its address."""
    nginx = bench.nginx()
    nginx.process.stop()
    folder = os.path.dirname(nginx.root)
    conf = os.path.join(folder, "nginx.conf")
    with open(conf) as f:
        text = f.read()
    text = text.replace(f"listen {nginx.address}", f"listen {nginx.address} ssl")
    text = text.replace("location / {", f"ssl_certificate {directory}/{name}.crt; ssl_certificate_key {directory}/{name}.key;"
                        " location / { default_type text/plain; return 200 'hello of $host $scheme\\n'; ")
    with open(conf, "w") as f:
        f.write(text)
    nginx.process.start()
    wait_until(lambda: socket.create_connection(("127.0.0.1", nginx.port), 1).close() or True, "nginx")
    return nginx.address


def serial_shown(hub, host):
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"{hub.host}:{hub.port}", "-servername", host, "-alpn", "http/1.1"],
        input=b"", capture_output=True, timeout=30 * SLOW)
    out = subprocess.run(["openssl", "x509", "-noout", "-serial", "-subject"], input=done.stdout,
                         capture_output=True).stdout.decode()
    return out


def test_certificates_come_from_files_and_are_read_again(bench, directory, app):
    live = os.path.join(directory, "live", HOST)  # as certbot lays them out
    many = os.path.join(directory, "lego")
    os.makedirs(live)
    os.makedirs(many)
    ca = certificate(directory, "one", [HOST])
    os.symlink(os.path.join(directory, "one.crt"), os.path.join(live, "fullchain.pem"))
    os.symlink(os.path.join(directory, "one.key"), os.path.join(live, "privkey.pem"))
    hub = bench.hub(options=["--certificates", os.path.join(directory, "live", "*"), "--certificates", many])
    hub.agent("a1")
    web_tunnel(hub, app.address)
    web_tunnel(hub, app.address, host="x.wild.example.org", name="two")
    assert curl(hub, f"https://{HOST}/", cafile=ca)[0] == 200
    with pytest.raises(AssertionError):
        curl(hub, "https://x.wild.example.org/", cafile=ca)
    first = serial_shown(hub, HOST)
    # renewed: half of it first, as it happens
    certificate(directory, "new", [HOST])
    os.replace(os.path.join(directory, "new.crt"), os.path.join(directory, "one.crt"))
    wait_until(lambda: "a certificate cannot be used" in hub.process.log(), "the half to be seen", 20)
    assert serial_shown(hub, HOST) == first
    os.replace(os.path.join(directory, "new.key"), os.path.join(directory, "one.key"))
    wait_until(lambda: serial_shown(hub, HOST) != first, "the renewed certificate", 20)
    assert curl(hub, f"https://{HOST}/", cafile=ca)[0] == 200
    # a wildcard appears
    certificate(many, "_.wild.example.org", ["*.wild.example.org", "hub.example.org", "127.0.0.1", "localhost"])
    many_ca = os.path.join(many, "ca.crt")
    wait_until(lambda: curl(hub, "https://x.wild.example.org/", cafile=many_ca, check=False)[0] == 200, "the wildcard", 20)
    assert "wild" not in serial_shown(hub, "wild.example.org")
    assert "wild" not in serial_shown(hub, "a.b.wild.example.org")
    # one connection, two names: only where the certificate is good for both
    web_tunnel(hub, app.address, host="y.wild.example.org", name="three")
    for version in ("--http1.1", "--http2"):
        status, _, body = curl(hub, "https://x.wild.example.org/", version, "-H", "Host: y.wild.example.org", cafile=many_ca)
        assert status == 200 and asked(body)[0]["x-forwarded-host"] == ["y.wild.example.org"]
        assert curl(hub, "https://x.wild.example.org/", version, "-H", f"Host: {HOST}", cafile=many_ca)[0] == 421
    # agents and the command line still get the hub's own
    assert hub.admin.get("/api/v1/tunnels")["items"]
    hub.agent("a2")


def test_sni_passes_tls_untouched(bench, site, directory):
    name = "secret.tunnels.example.org"
    ca = certificate(directory, "inner", [name])
    target = nginx_tls(bench, directory, "inner")
    tunnel = site.admin.post("/api/v1/tunnels", {"name": "raw", "spec": {
        "target": {"network": "lan", "address": target}, "access": {"endpoint": {"sni": name}}}})
    tunnel = site.wait_active(tunnel["id"])
    assert tunnel["status"]["endpoint"]["address"] == name
    status, head, body = curl(site, f"https://{name}/", cafile=ca)  # its own certificate, end to end
    assert status == 200 and body == f"hello of {name} https\n".encode()
    shown = serial_shown(site, name)
    inner = run(["openssl", "x509", "-in", os.path.join(directory, "inner.crt"), "-noout", "-serial"]).stdout
    assert inner.strip() in shown
    assert site.admin.get("/healthz") is not None  # others are served as before
    rows = wait_until(lambda: site.admin.items("/api/v1/tunnels/raw/connections"), "the access log")
    assert rows[0]["client"].startswith("127.0.0.1:")
    # a ClientHello in pieces
    context = ssl.create_default_context(cafile=ca)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with socket.create_connection((site.host, site.port), 20 * SLOW) as sock:
        for byte in outgoing.read():
            sock.sendall(bytes([byte]))
        while True:
            incoming.write(sock.recv(65536))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
    assert tls.getpeercert()["subjectAltName"] == (("DNS", name),)


def test_the_command_line_makes_and_changes_them(site, app, directory):
    path = os.path.join(directory, "password")
    with open(path, "w") as f:
        f.write("secret\n")
    os.chmod(path, 0o600)
    made = site.cli("tunnel", "create", "--name", "web", "--network", "lan", "--target", app.address, "--host", HOST,
                    "--auth", "basic", "--user", "ann", "--password-file", path, "--source", "127.0.0.0/8", "--source",
                    "::1", "--wait", "-o", "json")
    assert made["spec"]["target"]["protocol"] == "http"
    assert made["spec"]["access"] == {"endpoint": {"host": HOST}, "internal": True, "auth": "basic",
                                      "users": [{"name": "ann"}], "sources": ["127.0.0.0/8", "::1/128"]}
    assert curl(site, f"https://{HOST}/", "-u", "ann:secret")[0] == 200
    assert HOST in site.cli("tunnel", "list").stdout
    site.cli("tunnel", "update", "web", "--host", "other.example.org", "--auth", "public", "--source", "any")
    assert wait_until(lambda: curl(site, "https://other.example.org/", check=False)[0] == 200, "the new name")
    changed = site.cli("tunnel", "update", "web", "--protocol", "tcp", "--sni", "raw.example.org", "-o", "json")
    assert changed["spec"]["access"]["endpoint"] == {"sni": "raw.example.org"}
    changed = site.cli("tunnel", "update", "web", "--listen", "127.0.0.1:0", "--wait", "-o", "json")
    assert changed["status"]["endpoint"]["address"].startswith("127.0.0.1:")
    done = site.cli("tunnel", "create", "--name", "x", "--network", "lan", "--target", app.address, "--host", HOST, "--sni",
                    HOST, check=False)
    assert done.returncode == 2 and "only one of" in done.stderr
    done = site.cli("tunnel", "update", "web", "--auth", "basic", check=False)
    assert done.returncode != 0 and "spec.access" in done.stderr


def test_apply_takes_hashes_and_says_what_is_wrong(site, app):
    tunnel = web_tunnel(site, app.address, auth="basic", users=[{"name": "ann", "password": "right"}])
    put = {"name": "web", "spec": {**tunnel["spec"], "access": {**tunnel["spec"]["access"], "users": [
        {"name": "ann"}, {"name": "bob", "hash": "$argon2id$v=19$m=4194304,t=2,p=1$c2FsdHNhbHRzYWx0$" + "A" * 43}]}}}
    with pytest.raises(Problem) as refused:  # it would cost 4 GiB to check
        site.admin.patch("/api/v1/tunnels/web", {"spec": put["spec"]})
    assert refused.value.body["field"] == "spec.access.users.hash"


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
