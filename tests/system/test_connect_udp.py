"""The hub as a proxy for UDP (RFC 9298): connect-udp over HTTP/2 on both lanes and over HTTP/1.1, and
peers whose capsules are garbage."""

import base64
import tempfile

import pytest

from lib.datagram import (DATAGRAM, ERROR, LARGEST4, Dnsmasq, UdpServer, capsule, closed_port, datagram,
                          masque_path, take_capsule, varint)
from lib.h2proxy import H2Proxy
from lib.process import SLOW, wait_until
from lib.warren import tls_socket

LANES = ["h2", "warren-client/1"]


def proxy_of(hub, alpn="h2", user=None):
    return H2Proxy(hub, user or f"lan:{hub.token}", alpn)


class Flow:
    """A connect-udp stream."""

    def __init__(self, proxy, target=None, path=None, protocol="connect-udp"):
        self.stream = proxy.request(
            (":method", "CONNECT"), (":protocol", protocol), (":scheme", "https"),
            (":path", path or masque_path(target)), (":authority", "hub"),
            ("capsule-protocol", "?1"), end=False)

    def opened(self):
        self.stream.opened()
        assert self.stream.status == 200, self.stream.headers
        return self

    def refused(self):
        self.stream.opened()
        return self.stream.status, self.stream.headers.get("proxy-status", "")

    def send(self, payload):
        self.stream.send(datagram(payload))
        return self

    def capsule(self):
        """The next (type, value)."""
        found = []

        def complete():
            got, rest = take_capsule(self.stream.data)
            if got:
                found.append(got)
                self.stream.data = rest
            return found or self.stream.end
        self.stream.proxy.pump(complete)
        assert found, f"no capsule: {self.stream.end}"
        return found[0]

    def receive(self):
        kind, value = self.capsule()
        assert kind == DATAGRAM and value[0] == 0
        return value[1:]


@pytest.mark.parametrize("alpn", LANES)
def test_datagrams_go_through_the_proxy(bench, site, alpn):
    hub, _ = site
    server = bench.keep(UdpServer(lambda data: data[::-1]))
    proxy = proxy_of(hub, alpn)
    flow = Flow(proxy, server.address).send(b"early").opened()
    assert flow.stream.headers["capsule-protocol"] == "?1"
    assert flow.receive() == b"ylrae"
    for size in (0, 1, 1400, 20000, LARGEST4):
        data = bytes(i % 251 for i in range(size))
        assert flow.send(data).receive() == data[::-1]
    tunnel, = hub.admin.items("/api/v1/tunnels")
    assert tunnel["spec"]["target"]["protocol"] == "udp" and tunnel["status"]["on_demand"]
    flow.stream.send(b"", end=True)
    assert flow.stream.read_all()[1] == "eof"
    row = wait_until(lambda: [r for r in hub.admin.items(f"/api/v1/tunnels/{tunnel['id']}/connections")
                              if r["closed"]], "the record")[0]
    assert row["end"] == "closed"


@pytest.mark.parametrize("alpn", LANES)
def test_a_dns_question_by_name_of_the_target(bench, site, alpn):
    hub, _ = site
    dns = bench.keep(Dnsmasq(tempfile.mkdtemp(prefix="dns", dir=bench.directory)))
    flow = Flow(proxy_of(hub, alpn), f"localhost:{dns.port}").opened()
    question = (b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07device1\x07example\x00"
                b"\x00\x01\x00\x01")
    answer = flow.send(question).receive()
    assert answer[:2] == b"\x12\x34" and answer.endswith(bytes([192, 0, 2, 17]))


def test_a_closed_port_is_told_in_the_stream(bench, site):
    hub, _ = site
    port = closed_port()
    flow = Flow(proxy_of(hub), f"127.0.0.1:{port}").opened()
    assert flow.send(b"anybody?").capsule() == (ERROR, b'warren; error=connection_refused; icmp="3.3 127.0.0.1"')
    server = bench.keep(UdpServer(port=port))
    assert flow.send(b"and now?").receive() == b"and now?"
    assert server.received == 1


def test_refusals_say_why(bench, site):
    hub, agent = site
    server = bench.keep(UdpServer())
    proxy = proxy_of(hub)
    path = masque_path(server.address)
    assert Flow(proxy, path="/.well-known/masque/udp/only-a-host/").refused()[0] == 400
    assert Flow(proxy, path="/.well-known/masque/udp/h%00st/53/").refused()[0] == 400
    assert Flow(proxy, path="/api/v1/tunnels").refused()[0] == 400
    assert Flow(proxy, path=path, protocol="websocket").refused()[0] == 501
    assert Flow(proxy_of(hub, user="lan:wrong"), path=path).refused()[0] == 407
    status, why = Flow(proxy_of(hub, user=f"nowhere:{hub.token}"), path=path).refused()
    assert status == 404 and "destination_not_found" in why
    status, why = Flow(proxy, f"no-such-name.invalid:{server.port}").refused()
    assert status == 502 and "dns_error" in why
    status, why = Flow(proxy, f"127.0.0.1:{hub.port}").refused()
    assert status == 403
    agent.process.stop()
    wait_until(lambda: not agent.identity()["status"]["phase"] == "online", "the agent to be gone", 20)
    status, why = Flow(proxy, f"127.0.0.1:{server.port + 1}").refused()
    assert status == 503 and "destination_unavailable" in why
    assert server.received == 0


GARBAGE = {
    "a datagram without a context": capsule(DATAGRAM, b""),
    "a context that is cut off": capsule(DATAGRAM, b"\x40"),
    "a datagram longer than UDP can carry": varint(DATAGRAM) + varint(65529) + bytes(1000),
    "an error without a text": capsule(ERROR, b""),
    "an error of a megabyte": varint(ERROR) + varint(1 << 20) + bytes(1000),
}


@pytest.mark.parametrize("alpn", LANES)
def test_garbage_in_capsules_ends_its_own_stream_only(bench, site, alpn):
    hub, agent = site
    server = bench.keep(UdpServer())
    proxy = proxy_of(hub, alpn)
    good = Flow(proxy, server.address).opened()
    assert good.send(b"before").receive() == b"before"
    for what, garbage in GARBAGE.items():
        bad = Flow(proxy, server.address).opened()
        assert bad.send(b"sound").receive() == b"sound"
        bad.stream.send(garbage)
        assert bad.stream.read_all()[1] == "reset", what
    assert good.send(b"after").receive() == b"after"
    assert agent.process.log().count("datagram stream refused") == len(GARBAGE)
    cut = Flow(proxy, server.address).opened()
    cut.stream.send(datagram(b"half of it")[:5], end=True)
    assert cut.stream.read_all()[1] == "reset"
    assert good.send(b"still").receive() == b"still"


def test_what_is_unknown_is_skipped(bench, site):
    hub, _ = site
    server = bench.keep(UdpServer())
    flow = Flow(proxy_of(hub), server.address).opened()
    flow.stream.send(capsule(0x1f * 41 + 23, bytes(5000)) + datagram(b"other", context=2)
                     + capsule(0x3fffffff, b"x"))
    assert flow.send(b"known").receive() == b"known"
    assert server.received == 1


def upgrade(hub, target, user=None, more=""):
    """A TLS connection after the answer: (socket, status, head)."""
    sock = tls_socket(hub, ["http/1.1"])
    credentials = base64.b64encode((user or f"lan:{hub.token}").encode()).decode()
    sock.sendall(f"GET {masque_path(target)} HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\n"
                 f"Upgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n{more}"
                 f"Proxy-Authorization: Basic {credentials}\r\n\r\n".encode())
    sock.settimeout(20 * SLOW)
    head = b""
    while b"\r\n\r\n" not in head:
        piece = sock.recv(1)
        assert piece, f"closed after {head!r}"
        head += piece
    return sock, int(head.split()[1]), head.decode().lower()


def receive(sock, rest=b""):
    while True:
        got, rest = take_capsule(rest)
        if got:
            return got[1][1:], rest
        piece = sock.recv(1 << 16)
        assert piece, "closed"
        rest += piece


def test_http_1_upgrades_to_connect_udp(bench, site):
    hub, _ = site
    server = bench.keep(UdpServer(lambda data: data + b"!"))
    sock, status, head = upgrade(hub, server.address)
    assert status == 101 and "upgrade: connect-udp" in head and "capsule-protocol: ?1" in head
    rest = b""
    for data in (b"one", b"", b"x" * 30000):
        sock.sendall(datagram(data))
        got, rest = receive(sock, rest)
        assert got == data + b"!"
    sock.close()
    _, status, head = upgrade(hub, server.address, user="lan:wrong")
    assert status == 407 and "proxy-authenticate" in head
    _, status, head = upgrade(hub, "no-such-name.invalid:53")
    assert status == 502 and "dns_error" in head


def test_http_1_upgrades_while_a_mount_has_a_tunnel_to_the_whole_network(bench, site, echo_server):
    hub, _ = site
    server = bench.keep(UdpServer(lambda data: data + b"!"))
    mount = proxy_of(hub, "warren-client/1").connect_as_a_mount(echo_server.address).opened()
    assert mount.status == 200
    sock, status, head = upgrade(hub, server.address)
    assert status == 101 and "upgrade: connect-udp" in head
    sock.sendall(datagram(b"one"))
    assert receive(sock)[0] == b"one!"
    sock.close()
    assert len(hub.tunnels()) == 1
