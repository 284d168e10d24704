"""The PROXY protocol: told to real nginx and haproxy as targets, and believed of a real haproxy before the hub."""

import os
import re
import socket
import struct
import tempfile

import pytest

from lib.process import Process, run, wait_until
from lib.service import connect, exchange, free_port, read_all
from lib.warren import Problem, endpoint

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
HOSTS = [pytest.param("127.0.0.1", id="ipv4"), pytest.param("::1", id="ipv6")]


def at(host, port):
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def v2(source, destination, command=0x21, tlvs=b""):
    if ":" in source[0]:
        family, form = 0x21, socket.AF_INET6
    else:
        family, form = 0x11, socket.AF_INET
    body = (socket.inet_pton(form, source[0]) + socket.inet_pton(form, destination[0])
            + struct.pack(">HH", source[1], destination[1]) + tlvs)
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(body)) + body


class Program:
    """For Bench.keep."""

    def __init__(self, argv, log):
        self.process = Process(argv, log).start()

    def close(self):
        self.process.stop()


@pytest.fixture
def proxy_nginx(bench, directory):
    """A real nginx that answers with the address that the PROXY header told it."""
    def start(host):
        path = tempfile.mkdtemp(prefix="nginx", dir=directory)
        port = free_port(host)
        conf = os.path.join(path, "nginx.conf")
        user = "user root;" if os.geteuid() == 0 else ""
        with open(conf, "w") as f:
            f.write(f"""
                {user} daemon off; worker_processes 1; pid {path}/nginx.pid; error_log stderr warn;
                events {{ }}
                http {{ access_log off;
                    client_body_temp_path {path}/b; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f;
                    uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
                    server {{ listen {at(host, port)} proxy_protocol;
                        location / {{ return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port"; }} }} }}""")
        bench.keep(Program(["/usr/sbin/nginx", "-e", "stderr", "-c", conf], os.path.join(path, "log")))
        wait_until(lambda: connect((host, port), 1).close() or True, "nginx")
        return at(host, port)
    return start


@pytest.fixture
def haproxy(bench, directory):
    """A real haproxy in TCP mode; `sections` are its frontends and backends."""
    def start(sections, ports):
        path = tempfile.mkdtemp(prefix="haproxy", dir=directory)
        conf = os.path.join(path, "haproxy.cfg")
        with open(conf, "w") as f:
            f.write("global\n maxconn 200\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n"
                    " timeout server 60s\n" + sections)
        bench.keep(Program(["/usr/sbin/haproxy", "-db", "-f", conf], os.path.join(path, "log")))
        for host, port in ports:
            wait_until(lambda: connect((host, port), 1).close() or True, "haproxy")
    return start


def spec(target, listen, **more):
    return {"target": {"network": "lan", "address": target, **more}, "access": {"endpoint": {"listen": listen}}}


# --- told to targets --------------------------------------------------------------------------------

@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nginx_learns_the_clients_real_address(bench, hub, proxy_nginx, host, version):
    target = proxy_nginx(host)
    hub.agent("a1")
    hub.admin.post("/api/v1/tunnels", {"name": "web", "spec": spec(target, at(host, 0), proxy_protocol=version)})
    public = endpoint(hub.wait_active("web"))
    for _ in range(3):
        out = run(["curl", "-sS", "-w", " %{local_ip} %{local_port} %{remote_port}", f"http://{public}/"]).stdout.split()
        assert out[:3] == out[3:], out


def test_haproxy_accepts_what_the_hub_says(bench, hub, haproxy, echo_server):
    port = free_port()
    sections = f"""
frontend in
 bind 127.0.0.1:{port} accept-proxy
 default_backend out
backend out
 server echo {echo_server.address} send-proxy
"""
    haproxy(sections, [("127.0.0.1", port)])
    hub.agent("a1")
    hub.admin.post("/api/v1/tunnels", {
        "name": "web", "spec": spec(f"127.0.0.1:{port}", "127.0.0.1:0", proxy_protocol="v2")})
    with connect(endpoint(hub.wait_active("web"))) as sock:
        mine = sock.getsockname()[1]
        sock.sendall(b"hello\n")
        got = b""
        while not got.endswith(b"hello\n"):
            got += sock.recv(4096)
    assert re.match(rb"PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 %d \d+\r\nhello\n$" % mine, got), got


def test_a_target_that_speaks_first_gets_the_header_at_once(bench, hub):
    def greet(server, sock):
        head = b""
        while not head.endswith(b"\r\n"):
            head += sock.recv(1)
        sock.sendall(b"you are " + head)
    server = bench.server(greet)
    hub.agent("a1")
    hub.admin.post("/api/v1/tunnels", {"name": "web", "spec": spec(server.address, "127.0.0.1:0", proxy_protocol="v1")})
    with connect(endpoint(hub.wait_active("web"))) as sock:
        port = sock.getsockname()[1]
        data, how = read_all(sock)
    assert data.startswith(b"you are PROXY TCP4 127.0.0.1 127.0.0.1 %d " % port) and how == "eof"
    record = wait_until(lambda: hub.admin.items("/api/v1/tunnels/web/connections")[0]["closed"] and
                        hub.admin.items("/api/v1/tunnels/web/connections")[0], "the record")
    assert record["bytes"]["in"] == 0, "the header is not the client's"


def test_it_can_be_changed_and_is_refused_when_wrong(bench, hub, echo_server):
    hub.agent("a1")
    hub.cli("tunnel", "create", "--name", "web", "--network", "lan", "--target", echo_server.address,
            "--proxy-protocol", "v1", "--wait")
    public = endpoint(hub.admin.get("/api/v1/tunnels/web"))

    def first():
        with connect(public) as sock:
            sock.sendall(b"x")
            return sock.recv(1)
    assert first() == b"P"
    hub.cli("tunnel", "update", "web", "--proxy-protocol", "v2")
    wait_until(lambda: first() == b"\r", "version 2")
    hub.cli("tunnel", "update", "web", "--proxy-protocol", "none")
    wait_until(lambda: first() == b"x", "no header")
    assert hub.admin.get("/api/v1/tunnels/web")["spec"]["target"]["proxy_protocol"] is None
    for wrong in ("v3", 2, ["v1"]):
        with pytest.raises(Problem) as e:
            hub.admin.post("/api/v1/tunnels", {"name": "x", "spec": spec("a:1", "127.0.0.1:0", proxy_protocol=wrong)})
        assert e.value.body["field"] == "spec.target.proxy_protocol"


# --- believed of load balancers ---------------------------------------------------------------------

@pytest.fixture
def behind(bench, echo_server):
    """A hub that trusts 127.0.0.2 and ::1, with an agent, and a tunnel to an echo service on both families."""
    hub = bench.hub(options=["--proxy-protocol-from", "127.0.0.2/32", "--proxy-protocol-from", "::1"])
    hub.agent("a1")
    for name, host in (("web4", "127.0.0.1"), ("web6", "[::1]")):
        hub.tunnel(echo_server.address, name=name, listen=f"{host}:0")
    return hub


def dial(address, source=None):
    host, port = address.rsplit(":", 1)
    sock = socket.create_connection((host.strip("[]"), int(port)), 10, (source, 0) if source else None)
    return sock


def clients(hub, name="web4"):
    return [c["client"] for c in hub.admin.items(f"/api/v1/tunnels/{name}/connections")]


def test_haproxy_before_the_hub_names_the_clients(behind, haproxy):
    """Both versions, TLS port and tunnels: audit, access log and what the target sees have the real address."""
    hub = behind
    ports = [free_port() for _ in range(2)]
    tunnel_port = endpoint(hub.admin.get("/api/v1/tunnels/web4")).rsplit(":", 1)[1]
    haproxy(f"""
frontend tls
 bind 127.0.0.1:{ports[0]}
 default_backend hub
backend hub
 server hub 127.0.0.1:{hub.port} send-proxy-v2 source 127.0.0.2
frontend tunnel
 bind 127.0.0.1:{ports[1]}
 default_backend tunnel
backend tunnel
 server tunnel 127.0.0.1:{tunnel_port} send-proxy source 127.0.0.2
""", [("127.0.0.1", p) for p in ports])
    run(["curl", "-sS", "--interface", "127.0.0.77", "--cacert", hub.ca_path, "-H", f"Authorization: Bearer {hub.admin.token}",
         "-H", "Content-Type: application/json", "-d", '{"name": "by-curl"}', "--connect-to", f"::127.0.0.1:{ports[0]}",
         hub.url + "/api/v1/networks"])
    row = hub.admin.items("/api/v1/audit?action=network.create")[0]
    assert row["actor"]["address"] == "127.0.0.77", row
    with socket.create_connection(("127.0.0.1", ports[1]), 10, ("127.0.0.78", 0)) as sock:
        mine = sock.getsockname()[1]
        assert exchange(sock, b"through haproxy") == b"through haproxy"
        assert f"127.0.0.78:{mine}" in clients(hub), "open ones too"
    wait_until(lambda: f"127.0.0.78:{mine}" in clients(hub), "the access log")
    assert hub.metric("warren_proxy_headers_total") >= 2


@pytest.mark.parametrize("name, trusted, source", [("web4", "127.0.0.2", ("203.0.113.9", 4444)),
                                                   ("web6", "::1", ("2001:db8::9", 4445))])
def test_headers_of_both_versions_are_understood(behind, name, trusted, source):
    public = endpoint(behind.admin.get(f"/api/v1/tunnels/{name}"))
    other = ("198.51.100.1", 443) if "." in source[0] else ("2001:db8::1", 443)
    family = "TCP4" if "." in source[0] else "TCP6"
    for n in range(3):
        source = (source[0], source[1] + n)
        header = [f"PROXY {family} {source[0]} {other[0]} {source[1]} 443\r\n".encode(), v2(source, other),
                  v2(source, other, tlvs=b"\x04\0\x02zz")][n]
        with dial(public, trusted) as sock:
            for byte in header:  # in pieces as small as can be
                sock.sendall(bytes([byte]))
            assert exchange(sock, b"data") == b"data"
            assert at(*source) in clients(behind, name)
    for header in (b"PROXY UNKNOWN\r\n", v2(source, other, command=0x20)):
        with dial(public, trusted) as sock:
            sock.sendall(header + b"together")
            assert sock.recv(100) == b"together"
            assert at(*sock.getsockname()[:2]) in clients(behind, name), "it speaks for itself"


def test_a_trusted_address_without_a_proper_header_is_refused(behind):
    public = endpoint(behind.admin.get("/api/v1/tunnels/web4"))
    before = behind.metric("warren_proxy_headers_total")
    bad = [b"GET / HTTP/1.0\r\n\r\n", b"PROXY TCP4 1.2.3.4\r\n", b"PROXY TCP4 " + b"1" * 200,
           v2(("1.2.3.4", 1), ("1.2.3.4", 2))[:13] + b"\x41\0\0", SIGNATURE + b"\x21\x11\xff\xff",
           SIGNATURE + b"\x21\x12\0\x0c" + bytes(12)]
    for data in bad:
        with dial(public, "127.0.0.2") as sock:
            sock.sendall(data)
            sock.settimeout(20)
            got, how = read_all(sock)
            assert got == b"" and how in ("eof", "reset"), (data, got, how)
    with dial(public, "127.0.0.2") as sock:  # a beginning and no end
        sock.sendall(b"PROXY TCP4 ")
        sock.settimeout(40)
        assert read_all(sock)[1] in ("eof", "reset"), "within its deadline"
    assert behind.metric("warren_proxy_headers_total") == before + len(bad) + 1
    assert "no PROXY header came in time" in behind.process.log()
    with dial(public, "127.0.0.2") as sock:  # the TLS port as well
        pass
    with dial(f"127.0.0.1:{behind.port}", "127.0.0.2") as sock:
        sock.sendall(b"\x16\x03\x01\0\x05hello")
        sock.settimeout(20)
        assert read_all(sock)[0] == b""
    with dial(public) as sock:
        assert exchange(sock, b"others are served") == b"others are served"


def test_headers_of_others_are_not_believed(behind):
    public = endpoint(behind.admin.get("/api/v1/tunnels/web4"))
    line = b"PROXY TCP4 203.0.113.9 198.51.100.1 4444 443\r\n"
    with dial(public) as sock:
        assert exchange(sock, line) == line, "it is the client's data"
        assert at(*sock.getsockname()) in clients(behind)
    assert not any("203.0.113.9" in c for c in clients(behind))
    with dial(f"127.0.0.1:{behind.port}") as sock:
        sock.sendall(line)
        assert b"TLS" in read_all(sock)[0]


def test_the_setting_is_checked(bench, directory):
    from lib.warren import program
    for wrong in ("nonsense", "10.0.0.0/8:80", "10.0.0.0/33"):
        done = run([program("warren"), "hub", "--check-config", "--data", directory, "--proxy-protocol-from", wrong], check=False)
        assert done.returncode != 0 and "proxy" in done.stderr, done


# --- UDP --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("host", HOSTS)
def test_each_datagram_tells_its_client(bench, hub, host):
    """Version 2 before every datagram, as dnsdist and PowerDNS have it; answers have none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as target, socket.socket(family, socket.SOCK_DGRAM) as client:
        target.bind((host, 0))
        target.settimeout(20)
        client.bind((host, 0))
        client.settimeout(20)
        hub.agent("a1")
        hub.admin.post("/api/v1/tunnels", {"name": "dns", "spec": spec(
            at(host, target.getsockname()[1]), at(host, 0), protocol="udp", proxy_protocol="v2")})
        there, port = endpoint(hub.wait_active("dns")).rsplit(":", 1)
        expected = v2(client.getsockname()[:2], (host, int(port)))
        expected = expected[:13] + bytes([expected[13] + 1]) + expected[14:]  # DGRAM
        for data in (b"one", b"two", b"", bytes(5000)):
            client.sendto(data, (there.strip("[]"), int(port)))
            got, agent = target.recvfrom(65536)
            assert got == expected + data
            target.sendto(b"re:" + data, agent)
            assert client.recv(65536) == b"re:" + data
    with pytest.raises(Problem) as e:
        hub.admin.post("/api/v1/tunnels", {"name": "x", "spec": spec("a:1", "127.0.0.1:0", protocol="udp",
                                                                     proxy_protocol="v1")})
    assert e.value.body["field"] == "spec.target.proxy_protocol"
