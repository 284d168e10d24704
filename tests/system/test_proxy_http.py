"""The hub as a proxy for plain requests: "GET http://host/path" over HTTP/1.1, with real curl and byte
by byte."""

import base64
import http.server
import os
import subprocess
import threading

import pytest

from lib.h2proxy import H2Proxy
from lib.process import SLOW, run, wait_until
from lib.warren import tls_socket


def curl(hub, *words, user=None, input=None):
    done = subprocess.run(
        ["curl", "-sS", "--max-time", str(40 * SLOW), "-x", hub.url, "--proxy-cacert", hub.ca_path,
         "--proxy-user", user or f"lan:{hub.token}", *words],
        input=input, capture_output=True, timeout=60 * SLOW)
    return done.returncode, done.stdout, done.stderr.decode()


class Target:
    """An HTTP server that notes what it is asked; answers chunked, by length, or until the end."""

    def __init__(self, host="127.0.0.1"):
        target = self
        self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = b""
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                target.seen.append((self.command, self.path, dict(self.headers.items()), body,
                                    self.client_address))
                self.send_response(200)
                text = f"{self.command} {len(body)} at {target.port}".encode()
                if self.path == "/chunked":
                    self.send_header("Transfer-Encoding", "chunked")
                    text = b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text)
                elif self.path == "/until-the-end":
                    self.close_connection = True
                else:
                    self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)
            do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = answer

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            address_family = __import__("socket").AF_INET6 if ":" in host else 2
        self.server = Server((host, 0), Handler)
        self.port = self.server.server_port
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def target(bench):
    return bench.keep(Target())


def test_curl_fetches_and_uploads_over_ipv4_ipv6_and_by_name(bench, site, directory):
    hub, agent = site
    content = os.urandom(5_000_000)
    path = os.path.join(directory, "upload")
    with open(path, "wb") as f:
        f.write(content)
    for nginx in (bench.nginx(), bench.nginx(host="::1")):
        nginx.put_file("file", content)
        by_name = [f"localhost:{nginx.port}"] * nginx.address.startswith("127")
        for host in (nginx.address, *by_name):
            code, got, errors = curl(hub, f"http://{host}/file")
            assert (code, len(got), got == content) == (0, len(content), True), (errors, host, got[:300])
        code, got, errors = curl(hub, "-T", path, f"http://{nginx.address}/up")
        assert code == 0, errors
        with open(os.path.join(nginx.root, "up"), "rb") as f:
            assert f.read() == content


def test_requests_of_each_kind_share_connections(site, target):
    hub, agent = site
    url = f"http://{target.address}"
    code, got, errors = curl(hub, f"{url}/chunked", f"{url}/length?a=b", f"{url}/until-the-end",
                             f"{url}")
    assert code == 0, errors
    assert got == f"GET 0 at {target.port}".encode() * 4
    assert [seen[1] for seen in target.seen] == ["/chunked", "/length?a=b", "/until-the-end", "/"]
    assert target.seen[0][4] == target.seen[1][4], "a stream to the target is used again"
    code, got, errors = curl(hub, "-H", "Transfer-Encoding: chunked", "--data-binary", "@-",
                             f"{url}/chunked", input=b"z" * 500_000)
    assert (code, got) == (0, f"POST 500000 at {target.port}".encode()), errors
    code, got, errors = curl(hub, "-I", f"{url}/length")
    assert code == 0 and got.startswith(b"HTTP/1.1 200"), errors
    tunnel, = hub.admin.items("/api/v1/tunnels")
    assert tunnel["status"]["on_demand"]


def test_fields_of_the_hop_stay_here_and_nobody_is_told_who_asks(site, target):
    hub, agent = site
    code, got, errors = curl(
        hub, f"http://{target.address}/x", "-H", "Connection: keep-alive, X-Secret", "-H",
        "X-Secret: 1", "-H", "Proxy-Connection: keep-alive", "-H", "TE: trailers", "-H",
        "Host: other.example", "-H", "X-Forwarded-For: 9.9.9.9", "-H", "Authorization: Basic eDp5")
    assert code == 0, errors
    _, _, fields, _, _ = target.seen[0]
    assert fields["Host"] == target.address and fields["Via"] == "1.1 warren"
    assert fields["X-Forwarded-For"] == "9.9.9.9", "it is the client's own affair"
    assert fields["Authorization"] == "Basic eDp5"
    names = {name.lower() for name in fields}
    assert not names & {"x-secret", "proxy-authorization", "proxy-connection", "te", "forwarded",
                        "x-forwarded-host"}


@pytest.mark.parametrize("words,status,error", [
    (["http://127.0.0.1:9/"], b"502", b"connection_refused"),
    (["http://no-such-host.invalid/"], b"502", b"dns_error"),
])
def test_failures_carry_proxy_status(site, words, status, error):
    hub, agent = site
    code, got, errors = curl(hub, "-i", *words)
    assert code == 0 and got.startswith(b"HTTP/1.1 " + status), (got, errors)
    assert b"proxy-status: warren; error=" + error in got


def test_who_may_not_is_told_so(site, target):
    hub, agent = site
    url = f"http://{target.address}/"
    for user in ("lan:wat_wrong", "nobody:"):
        code, got, errors = curl(hub, "-i", url, user=user)
        assert got.startswith(b"HTTP/1.1 407") and b'proxy-authenticate: Basic realm="warren"' in got
    code, got, errors = curl(hub, "-i", url, user=f"elsewhere:{hub.token}")
    assert got.startswith(b"HTTP/1.1 404") and b"error=destination_not_found" in got
    code, got, errors = curl(hub, "-i", f"http://127.0.0.1:{hub.port}/")
    assert got.startswith(b"HTTP/1.1 403") and b"error=destination_ip_prohibited" in got
    assert target.seen == []
    agent.process.kill()
    wait_until(lambda: agent.identity()["status"]["phase"] == "offline", "the agent to be gone")
    code, got, errors = curl(hub, "-i", url)
    assert got.startswith(b"HTTP/1.1 503") and b"no agent of the network is connected" in got


def ask(hub, sock, head, body=b"", pieces=None):
    credentials = base64.b64encode(f"lan:{hub.token}".encode()).decode()
    text = head.replace("\n", "\r\n").encode() + \
        f"Proxy-Authorization: Basic {credentials}\r\n\r\n".encode() + body
    for at in range(0, len(text), pieces or len(text)):
        sock.sendall(text[at:at + (pieces or len(text))])


def answer(sock):
    """(status, head, body) of an answer with a length."""
    sock.settimeout(20 * SLOW)
    got = b""
    while b"\r\n\r\n" not in got:
        piece = sock.recv(4096)
        assert piece, got
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    length = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n")
              if line.startswith(b"content-length:")]
    while length and len(body) < length[0]:
        body += sock.recv(4096)
    return int(head.split()[1]), head, body


def test_one_connection_has_requests_to_several_targets_and_may_come_in_crumbs(bench, site, target):
    hub, agent = site
    other = bench.keep(Target("::1"))
    sock = tls_socket(hub, ["http/1.1"])
    for i, t in enumerate((target, other, target, other)):
        ask(hub, sock, f"GET http://{t.address}/n{i} HTTP/1.1\nHost: x\n", pieces=3 if i else 1)
        assert answer(sock)[2] == f"GET 0 at {t.port}".encode()
    both = f"GET http://{target.address}/a HTTP/1.1\nHost: x\n"
    ask(hub, sock, both)
    ask(hub, sock, both)
    assert answer(sock)[0] == 200 and answer(sock)[0] == 200, "pipelined"


def test_a_connection_may_be_used_for_the_hub_itself_before(site, target):
    hub, agent = site
    sock = tls_socket(hub, ["http/1.1"])
    sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: hub\r\n\r\n")
    assert answer(sock)[0] == 200
    ask(hub, sock, f"GET http://{target.address}/ HTTP/1.1\nHost: x\n")
    assert answer(sock)[0] == 200
    own = tls_socket(hub, ["http/1.1"])
    own.sendall(f"GET https://{hub.host}/readyz HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
    assert answer(own)[0] == 200, "https:// in absolute-form is the hub's own"


@pytest.mark.parametrize("fields,body", [
    ("Content-Length: 5\nTransfer-Encoding: chunked\n", b"0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n"),
    ("Content-Length: 5\nContent-Length: 6\n", b"hello"),
    ("Transfer-Encoding: chunked, identity\n", b"0\r\n\r\n"),
    ("Transfer-Encoding: xchunked\n", b"0\r\n\r\n"),
    ("Content-Length: +5\n", b"hello"),
    ("Content-Length : 5\n", b"hello"),
    ("X: a\n b\n", b""),
])
def test_requests_of_doubtful_length_are_refused_and_reach_no_target(site, target, fields, body):
    hub, agent = site
    sock = tls_socket(hub, ["http/1.1"])
    ask(hub, sock, f"POST http://{target.address}/ HTTP/1.1\nHost: x\n{fields}", body)
    status, head, _ = answer(sock)
    assert status in (400, 501) and b"connection: close" in head.lower()
    assert target.seen == []


@pytest.mark.parametrize("line,status", [
    ("GET http:///x HTTP/1.1", 400),
    ("GET http://user@host/ HTTP/1.1", 400),
    ("GET http://a:b:c/ HTTP/1.1", 400),
    ("GET http://host:0/ HTTP/1.1", 400),
    ("GET http://host:99999/ HTTP/1.1", 400),
    ("TRACE http://127.0.0.1/ HTTP/1.1", 405),
])
def test_malformed_targets_are_refused(site, line, status):
    hub, agent = site
    sock = tls_socket(hub, ["http/1.1"])
    ask(hub, sock, f"{line}\nHost: x\n")
    assert answer(sock)[0] == status
    assert hub.admin.items("/api/v1/tunnels") == []


def test_a_slow_reader_and_a_slow_writer_hold_up_only_themselves(bench, site, target):
    hub, agent = site
    nginx = bench.nginx()
    nginx.put_file("big", bytes(64_000_000))
    stuck = tls_socket(hub, ["http/1.1"])
    ask(hub, stuck, f"GET http://{nginx.address}/big HTTP/1.1\nHost: x\n")
    slow = tls_socket(hub, ["http/1.1"])
    ask(hub, slow, f"POST http://{target.address}/ HTTP/1.1\nHost: x\nContent-Length: 1000\n", b"abc")
    for _ in range(10):
        code, got, errors = curl(hub, f"http://{target.address}/x")
        assert code == 0, errors
    slow.sendall(b"d" * 997)
    assert answer(slow)[2] == f"POST 1000 at {target.port}".encode()
    assert hub.process.rss_kib() < 200_000


def test_names_that_resolve_to_what_the_agent_may_not_reach_are_refused(bench):
    """What counts is the address (DNS rebinding), on every form of the proxy."""
    hub = bench.hub()
    hub.agent("a1", options=["--allow", "10.0.0.0/8"])
    code, got, errors = curl(hub, "-i", "http://localhost:80/")
    assert got.startswith(b"HTTP/1.1 403") and b"error=destination_ip_prohibited" in got
    code, got, errors = curl(hub, "-p", "-i", "http://localhost:80/")
    assert code == 56 and b"error=destination_ip_prohibited" in got.lower()
    done = hub.cli("connect", "lan", "localhost:80", check=False, input="")
    assert done.returncode == 4 and "destination_ip_prohibited" in done.stderr


def test_git_and_wget_like_clients_use_it_by_environment(site, target):
    hub, agent = site
    done = run(["curl", "-sS", f"http://{target.address}/env"], env={
        "http_proxy": f"https://lan:{hub.token}@{hub.host}:{hub.port}",
        "CURL_CA_BUNDLE": hub.ca_path, "SSL_CERT_FILE": hub.ca_path}, check=False)
    assert target.seen or "SSL" in done.stderr or "certificate" in done.stderr, done.stderr


def test_each_target_gets_its_own_requests_while_a_mount_has_a_tunnel_to_the_whole_network(
        bench, site, target, echo_server):
    hub, _ = site
    other = bench.keep(Target())
    mount = H2Proxy(hub, f"lan:{hub.token}", "warren-client/1")
    assert mount.connect_as_a_mount(echo_server.address).opened().status == 200
    for at in (target, other, target):
        code, got, errors = curl(hub, f"http://{at.address}/")
        assert (code, got) == (0, f"GET 0 at {at.port}".encode()), errors
    mount.close()
