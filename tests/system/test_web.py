"""Tunnels by name: HTTP that the hub takes apart, TLS that passes, certificates from files."""

import base64
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
from lib.service import read_all, silent
from lib.warren import Problem

HOST = "device1.tunnels.example.org"


def token_of(hub):
    with open(hub.token_path) as f:
        return f.read().strip()


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
