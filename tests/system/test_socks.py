"""`warren proxy`: SOCKS 4a and 5 and HTTP on one port, with real programs."""

import hashlib
import http.server
import os
import socket
import struct
import subprocess
import threading

import pytest

from lib.local import proxy
from lib.process import SLOW, run, wait_until
from lib.service import connect, hash_until_eof, read_all


@pytest.fixture
def door(bench, site):
    hub, agent = site
    return proxy(bench, hub)


def curl(*words, input=None):
    done = subprocess.run(["curl", "-sS", "--max-time", str(40 * SLOW), *words], input=input,
                          capture_output=True, timeout=60 * SLOW)
    return done.returncode, done.stdout, done.stderr.decode()


SCHEMES = ["socks5h", "socks5", "socks4a", "socks4", "http"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_curl_fetches_and_uploads(bench, site, door, directory, scheme):
    hub, agent = site
    nginx = bench.nginx()
    content = os.urandom(3_000_000)
    nginx.put_file("file", content)
    code, got, errors = curl("-x", f"{scheme}://{door.address}", f"http://{nginx.address}/file")
    assert (code, got == content) == (0, True), errors
    path = os.path.join(directory, "upload")
    with open(path, "wb") as f:
        f.write(content)
    code, _, errors = curl("-x", f"{scheme}://{door.address}", "-T", path,
                           f"http://{nginx.address}/up-{scheme}")
    assert code == 0, errors
    with open(os.path.join(nginx.root, f"up-{scheme}"), "rb") as f:
        assert f.read() == content


@pytest.mark.parametrize("words", [["--socks5-hostname"], ["-x"], ["-p", "-x"]])
def test_names_are_resolved_in_the_network_and_ipv6_works(bench, site, door, words):
    hub, agent = site
    for ip, host in (("::1", "[::1]"), ("127.0.0.1", "localhost")):
        nginx = bench.nginx(host=ip)
        nginx.put_file("file", ip.encode())
        code, got, errors = curl(*words, door.address, f"http://{host}:{nginx.port}/file")
        assert (code, got) == (0, ip.encode()), (host, errors)


def test_requests_over_kept_connections_and_with_chunked_bodies(bench, site, door):
    """curl's own: several URLs of one run, a body of unknown length, HEAD, 204, 304."""
    hub, agent = site
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            elif self.headers.get("Content-Length"):
                body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.command, self.path, dict(self.headers.items()), body))
            self.send_response(204 if self.path == "/none" else 200)
            if self.path == "/none":
                self.end_headers()
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(b"5\r\nhello\r\n0\r\n\r\n")
        do_GET = do_POST = do_HEAD = answer

        def log_message(self, *args):
            pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    code, got, errors = curl("-x", f"http://{door.address}", f"{url}/a?b=c", f"{url}/none", f"{url}/d")
    assert (code, got) == (0, b"hellohello"), errors
    code, got, errors = curl("-x", f"http://{door.address}", "-I", f"{url}/head")
    assert code == 0 and got.startswith(b"HTTP/1.1 200"), errors
    code, got, errors = curl("-x", f"http://{door.address}", "-H", "Transfer-Encoding: chunked",
                             "--data-binary", "@-", f"{url}/post", input=b"z" * 200_000)
    assert (code, got) == (0, b"hello"), errors
    assert [(method, path) for method, path, _, _ in seen] == [
        ("GET", "/a?b=c"), ("GET", "/none"), ("GET", "/d"), ("HEAD", "/head"), ("POST", "/post")]
    assert seen[-1][3] == b"z" * 200_000
    for _, _, headers, _ in seen:
        assert headers["Host"] == url[7:] and headers["Via"] == "1.1 warren"
        assert not {"Proxy-Connection", "Proxy-Authorization"} & set(headers)
    server.shutdown()


def test_one_connection_has_requests_to_several_targets(bench, site, door):
    hub, agent = site
    targets = [bench.nginx(), bench.nginx(host="::1")]
    for i, nginx in enumerate(targets):
        nginx.put_file("file", f"of {i}".encode())
    sock = connect(door.address, 20 * SLOW)
    for i in (0, 1, 0, 1):
        sock.sendall(f"GET http://{targets[i].address}/file HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        got = b""
        while b"\r\n\r\nof " not in got or len(got.split(b"\r\n\r\n")[1]) < 4:
            piece = sock.recv(4096)
            assert piece, got
            got += piece
        assert got.startswith(b"HTTP/1.1 200") and got.endswith(f"of {i}".encode())


def test_git_clones_and_pushes_by_its_proxy_setting(bench, site, door, directory):
    hub, agent = site
    nginx = bench.nginx()
    work, bare = os.path.join(directory, "work"), os.path.join(nginx.root, "repo.git")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c",
           "init.defaultBranch=main", "-c", "safe.directory=*"]
    run([*git, "init", "-q", work])
    with open(os.path.join(work, "big"), "wb") as f:
        f.write(os.urandom(2_000_000))
    run([*git, "-C", work, "add", "."])
    run([*git, "-C", work, "commit", "-q", "-m", "one"])
    run([*git, "clone", "-q", "--bare", work, bare])
    run([*git, "-C", bare, "update-server-info"])
    run(["chmod", "-R", "a+rX", bare])
    for i, scheme in enumerate(("http", "socks5h")):
        clone = os.path.join(directory, f"clone{i}")
        run([*git, "-c", f"http.proxy={scheme}://{door.address}", "clone", "-q",
             f"http://{nginx.address}/repo.git", clone])
        with open(os.path.join(work, "big"), "rb") as a, open(os.path.join(clone, "big"), "rb") as b:
            assert a.read() == b.read()


def test_ssh_goes_through_it_by_netcat(bench, site, door):
    hub, agent = site
    sshd = bench.sshd()
    done = subprocess.run(
        ["ssh", "-i", sshd.client_key, "-o", f"ProxyCommand=nc -X 5 -x {door.address} %h %p", "-o",
         "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
         "-p", str(sshd.port), f"{os.environ.get('USER', 'root')}@127.0.0.1", "echo hello"],
        capture_output=True, text=True, timeout=60 * SLOW)
    assert done.stdout == "hello\n", done.stderr


NODE = """
const http = require('http'), [proxy, target] = process.argv.slice(1);
const [host, port] = proxy.split(':');
const connect = http.request({host, port, method: 'CONNECT', path: target});
connect.on('connect', (res, socket) => {
  http.get({createConnection: () => socket, path: '/file', headers: {Host: target}}, (answer) => {
    let text = '';
    answer.on('data', (d) => text += d);
    answer.on('end', () => { console.log(res.statusCode, answer.statusCode, text);
      http.get({host, port, path: 'http://' + target + '/file'}, (plain) => {
        let body = '';
        plain.on('data', (d) => body += d);
        plain.on('end', () => { console.log(plain.statusCode, body); process.exit(0); });
      });
    });
  });
});
connect.end();
"""


def test_a_node_program_uses_it(bench, site, door):
    hub, agent = site
    nginx = bench.nginx()
    nginx.put_file("file", b"for node")
    done = run(["node", "-e", NODE, door.address, nginx.address])
    assert done.stdout == "200 200 for node\n200 for node\n"


PAGE = b"""<!doctype html><title>t</title><body>loading<script>
fetch('/data').then(r => r.text()).then(t => { document.body.textContent = 'got ' + t; });
</script>"""


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_a_browser_shows_a_page_by_name(bench, site, door, directory, scheme):
    hub, agent = site
    browser = [p for p in ("/usr/bin/chromium-headless-shell", "/usr/bin/chromium")
               if os.path.exists(p)]
    if not browser:
        pytest.skip("no Chromium")
    nginx = bench.nginx()
    nginx.put_file("page.html", PAGE)
    nginx.put_file("data", b"it all")
    done = subprocess.run(
        [browser[0], "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={directory}/chrome",
         f"--proxy-server={scheme}://{door.address}", "--proxy-bypass-list=<-loopback>",
         "--virtual-time-budget=10000", "--dump-dom", f"http://localhost:{nginx.port}/page.html"],
        capture_output=True, text=True, timeout=100 * SLOW, env={**os.environ, "HOME": directory})
    assert "got it all" in done.stdout, done.stdout + done.stderr[-2000:]


# ---- the protocol, byte by byte ----

def socks5(door, request, methods=b"\5\1\0"):
    sock = connect(door.address, 20 * SLOW)
    sock.sendall(methods)
    assert sock.recv(2) == b"\5\0"
    sock.sendall(request)
    return sock


def request(command, host, port):
    try:
        return b"\5%c\0\1" % command + socket.inet_aton(host) + struct.pack(">H", port)
    except OSError:
        return b"\5%c\0\3%c" % (command, len(host)) + host.encode() + struct.pack(">H", port)


def test_all_in_one_packet_and_byte_by_byte(site, door, echo_server):
    hub, agent = site
    hello = b"\5\1\0" + request(1, "127.0.0.1", echo_server.port) + b"early bytes"
    sock = connect(door.address, 20 * SLOW)
    sock.sendall(hello)
    got = b""
    while len(got) < 2 + 10 + 11:
        got += sock.recv(100)
    assert got == b"\5\0" + b"\5\0\0\1\0\0\0\0\0\0" + b"early bytes"
    slow = connect(door.address, 20 * SLOW)
    for i in range(len(hello)):
        slow.sendall(hello[i:i + 1])
    got = b""
    while len(got) < 2 + 10 + 11:
        got += slow.recv(100)
    assert got.endswith(b"early bytes")


@pytest.mark.parametrize("host,port,code", [
    ("127.0.0.1", 9, 5), ("no-such-host.invalid", 80, 4), ("a/b", 80, 8), ("127.0.0.1", 0, 8)])
def test_failures_have_their_reply(site, door, host, port, code):
    hub, agent = site
    sock = socks5(door, request(1, host, port))
    assert read_all(sock) == (b"\5%c\0\1\0\0\0\0\0\0" % code, "eof")


def test_what_is_no_request_is_ended(site, door):
    hub, agent = site
    sock = socks5(door, request(2, "127.0.0.1", 80))  # BIND
    assert read_all(sock)[0][1] == 7
    for bytes_ in (b"\5\1\2", b"\4\2\0\x50\x7f\0\0\1\0", b"\4" + b"x" * 600):
        with connect(door.address, 20 * SLOW) as sock:
            sock.sendall(bytes_)
            got, end = read_all(sock)
            assert got in (b"\5\xff", b"\0\x5b" + bytes(6), b"") and end in ("eof", "reset")
    for text, status in ((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
                         (b"GET https://x/ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
                         (b"CONNECT x HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
                         (b"POST http://x/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
                          b"Transfer-Encoding: chunked\r\n\r\n", b"400"),
                         (b"A" * 20000, b"4")):
        with connect(door.address, 20 * SLOW) as sock:
            sock.sendall(text)
            got, _ = read_all(sock)
            assert got.startswith(b"HTTP/1.1 " + status), (text[:30], got)
    idle = connect(door.address, 30 * SLOW)
    idle.sendall(b"\5")
    assert read_all(idle) in ((b"", "eof"), (b"", "reset")), "a hello has a deadline"


def test_http_failures_carry_a_reason(site, door):
    hub, agent = site
    code, got, errors = curl("-i", "-x", f"http://{door.address}", "http://127.0.0.1:9/")
    assert got.startswith(b"HTTP/1.1 502") and b"error=connection_refused" in got
    code, got, errors = curl("-i", "-p", "-x", f"http://{door.address}", "http://127.0.0.1:9/")
    assert code == 56 and "502" in errors


def test_passwords(bench, site, directory, echo_server):
    hub, agent = site
    nginx = bench.nginx()
    nginx.put_file("file", b"inside")
    users = os.path.join(directory, "users")
    with open(users, "w") as f:
        f.write("# who may\nann:secret\nbob:other:secret\n")
    done = hub.cli("proxy", "lan", "--users", users, check=False)
    assert done.returncode == 4 and "others may read" in done.stderr
    os.chmod(users, 0o600)
    door = proxy(bench, hub, "--users", users)
    url = f"http://{nginx.address}/file"
    for user in ("ann:secret", "bob:other:secret"):
        for scheme in ("socks5h", "http"):
            code, got, errors = curl("-U", user, "-x", f"{scheme}://{door.address}", url)
            assert (code, got) == (0, b"inside"), errors
    for user in ("ann:wrong", "carl:secret", "ann:"):
        code, got, errors = curl("-U", user, "-x", f"socks5h://{door.address}", url)
        assert code == 97 and not got, errors
        code, got, errors = curl("-i", "-U", user, "-x", f"http://{door.address}", url)
        assert got.startswith(b"HTTP/1.1 407") and b"proxy-authenticate: basic" in got.lower()
    for words in (["-x", f"socks5h://{door.address}"], ["-x", f"socks4a://{door.address}"]):
        assert curl(*words, url)[0] == 97


def test_associations_carry_datagrams_of_ipv4_ipv6_and_names(site, door):
    hub, agent = site
    servers = []
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind((host, 0))
        servers.append(server)

        def answer(server=server):
            while True:
                try:
                    data, peer = server.recvfrom(65536)
                    server.sendto(data[::-1], peer)
                except OSError:
                    return
        threading.Thread(target=answer, daemon=True).start()
    control = socks5(door, request(3, "0.0.0.0", 0))
    reply = control.recv(22)
    assert reply[:2] == b"\5\0"
    bound = (socket.inet_ntoa(reply[4:8]), struct.unpack(">H", reply[8:10])[0])
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(1)
    heads = [b"\0\0\0\1" + socket.inet_aton("127.0.0.1"),
             b"\0\0\0\4" + socket.inet_pton(socket.AF_INET6, "::1"), b"\0\0\0\3\x09localhost"]
    ports = [s.getsockname()[1] for s in servers] + [servers[0].getsockname()[1]]
    for head, port in zip(heads, ports):
        head += struct.pack(">H", port)

        def asked():
            client.sendto(head + b"question", bound)
            return client.recv(65536)
        assert wait_until(asked, "an answer", 20) == head + b"noitseuq"
    client.sendto(b"\0\0\1" + heads[0][3:] + b"\0\1fragment", bound)
    client.sendto(b"garbage", bound)
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger.bind(("127.0.0.1", 0))
    control.close()

    def is_over():
        client.sendto(heads[0] + struct.pack(">H", ports[0]) + b"x", bound)
        try:
            client.recv(100)
            return False
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return True
    wait_until(is_over, "the association to end with its connection", 20)
    for server in servers:
        server.close()


def test_what_a_client_sends_and_resets_is_carried(bench, site, door):
    hub, agent = site
    data = os.urandom(2_000_000)
    server = bench.server(hash_until_eof)
    sock = socks5(door, request(1, "127.0.0.1", server.port))
    assert sock.recv(10)[1] == 0
    sock.sendall(data)
    sock.shutdown(1)
    assert read_all(sock)[0].decode() == f"{len(data)} {hashlib.sha256(data).hexdigest()}\n"
