"""Strangers at every listener: service for others goes on and memory stays bounded."""

import os
import random
import socket
import ssl
import threading
import time

import pytest

from lib.process import SANITIZE, SLOW, amount, wait_until
from lib.service import connect, exchange, read_all, reset, serves
from lib.warren import endpoint, tls_socket

BOUND_KIB = 96 * 1024


@pytest.fixture
def served(hub, echo_server):
    """A hub that serves a tunnel; after the test it still does, and has not grown."""
    agent = hub.agent("a1")
    address = endpoint(hub.tunnel(echo_server.address))
    assert serves(address)
    before = hub.process.rss_kib()
    hub.address = address
    hub.an_agent = agent
    yield hub
    assert hub.process.alive()
    assert serves(address, timeout=5 * SLOW)
    assert hub.admin.raw("GET", "/readyz")[0] == 200
    if not SANITIZE:
        assert hub.process.rss_kib() - before < BOUND_KIB
    wait_until(lambda: hub.process.open_files() < 200, "the strangers' sockets to be closed", 30)


def hub_connect(hub):
    return connect((hub.host, hub.port))


def test_random_bytes_end_the_connection_only(served):
    rng = random.Random(1)
    for size in (1, 5, 100, 3000, 100000):
        for prefix in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
            sock = hub_connect(served)
            try:
                sock.sendall(prefix + rng.randbytes(size))
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(15 * SLOW)
                assert read_all(sock)[1] in ("eof", "reset")
            except OSError:
                pass
            finally:
                sock.close()


def client_hello():
    """The bytes of a real ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_half_a_handshake_a_thousand_times_keeps_nobody_out(served):
    hello = client_hello()
    socks = []
    for i in range(amount(1000, 200)):
        sock = hub_connect(served)
        sock.sendall(hello[:len(hello) // 2] if i % 2 else hello)
        socks.append(sock)
    assert served.admin.raw("GET", "/readyz")[0] == 200
    assert serves(served.address)
    for sock in socks:
        sock.close()


def test_ten_thousand_silent_connections_keep_nobody_out(served):
    """From one address; the oldest unfinished ones give way to new ones."""
    count = amount(10000, 2000)
    socks = []
    try:
        for _ in range(count):
            socks.append(socket.create_connection((served.host, served.port), 10))
        assert served.admin.raw("GET", "/readyz")[0] == 200
        assert serves(served.address)
        assert served.process.open_files() < 9000
        if not SANITIZE:
            assert served.process.rss_kib() < 160 * 1024
    finally:
        for sock in socks:
            sock.close()


def test_silent_connections_are_dropped_after_a_while(served):
    sock = hub_connect(served)
    sock.settimeout(25 * SLOW)
    assert read_all(sock)[1] in ("eof", "reset")


def test_slow_loris_is_cut_off_while_others_are_served(served):
    """Requests that arrive a byte at a time, over finished TLS connections."""
    socks = [tls_socket(served, ["http/1.1"]) for _ in range(amount(200, 50))]
    text = b"GET /readyz HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"y" * 1000
    cut = set()
    deadline = time.monotonic() + 75 * SLOW
    position = 0
    while len(cut) < len(socks):
        assert time.monotonic() < deadline, f"{len(socks) - len(cut)} slow requests still go on"
        for sock in socks:
            if sock in cut:
                continue
            try:
                sock.settimeout(0.001)
                sock.sendall(text[position:position + 1])
                if sock.recv(1) == b"":
                    cut.add(sock)
            except TimeoutError:
                pass
            except OSError:
                cut.add(sock)
        position = min(position + 1, len(text) - 1)
        if position % 20 == 0:
            assert serves(served.address)
        threading.Event().wait(0.2)
    for sock in socks:
        sock.close()


def h2_connection(hub, alpn="h2", **tls):
    import h2.connection
    import h2.config
    sock = tls_socket(hub, [alpn], **tls)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    sock.sendall(connection.data_to_send())
    return sock, connection


REQUEST = [(":method", "GET"), (":path", "/api/v1/tunnels"), (":scheme", "https"), (":authority", "x")]


def test_http2_rapid_reset_ends_that_connection_only(served):
    """CVE-2023-44487: streams opened and reset at once, for as long as the hub lets us."""
    import h2.errors
    sock, connection = h2_connection(served)
    try:
        for _ in range(amount(1000, 200)):
            for _ in range(50):
                stream = connection.get_next_available_stream_id()
                connection.send_headers(stream, REQUEST, end_stream=True)
                connection.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
            sock.sendall(connection.data_to_send())
    except OSError:
        pass
    assert_ended(sock)


def assert_ended(sock):
    """The hub has ended the connection, or does so now, and well before 50,000 answers."""
    try:
        data, how = read_all(sock)
    except OSError:
        data, how = b"", "reset"
    assert how in ("eof", "reset") and len(data) < 2_000_000
    sock.close()


def test_http2_settings_and_ping_floods_end_that_connection_only(served):
    ping = b"\0\0\x08\x06\0\0\0\0\0" + b"12345678"
    settings = b"\0\0\0\x04\0\0\0\0\0"
    for frame in (ping, settings):
        sock, _ = h2_connection(served)
        try:
            for _ in range(4000):
                sock.sendall(frame * 1000)  # nobody reads the answers meanwhile
        except OSError:
            pass
        assert_ended(sock)


def test_http2_garbage_frames_end_that_connection_only(served):
    rng = random.Random(2)
    for _ in range(30):
        sock, _ = h2_connection(served)
        try:
            for _ in range(10):
                body = rng.randbytes(rng.randrange(0, 200))
                sock.sendall(len(body).to_bytes(3, "big") + rng.randbytes(6) + body)
        except OSError:
            pass
        sock.close()


def test_oversized_headers_are_refused(served):
    for size in (20_000, 200_000, 5_000_000):
        try:
            status, _, _ = served.admin.raw("GET", "/api/v1/tunnels", headers={"X-Long": "y" * size})
            assert status in (400, 413, 414, 431)
        except (OSError, ssl.SSLError) as error:
            assert not isinstance(error, TimeoutError)
        except Exception as error:
            assert "RemoteDisconnected" in repr(error)
    many = {f"X-{i}": "1" for i in range(2000)}
    try:
        assert served.admin.raw("GET", "/api/v1/tunnels", headers=many)[0] in (400, 413, 431)
    except (OSError, ssl.SSLError):
        pass


def test_oversized_bodies_and_csrs_are_refused_before_they_are_read(served):
    import base64
    token = served.bootstrap_token()
    basic = base64.b64encode(f"x:{token}".encode()).decode()
    for path, headers in (("/.well-known/est/simpleenroll", {"Authorization": f"Basic {basic}"}),
                          ("/api/v1/tunnels", {"Content-Type": "application/json"})):
        for size in (100_000, 50_000_000):
            try:
                status = served.admin.raw("POST", path, body=b"A" * size, headers=headers)[0]
                assert status == 413
            except (OSError, ssl.SSLError) as error:
                assert not isinstance(error, TimeoutError)
        # A length that is only announced.
        sock = tls_socket(served, ["http/1.1"])
        sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {basic}\r\n"
                     "Content-Length: 99999999999\r\n\r\n".encode())
        assert b" 413 " in sock.recv(4096).split(b"\r\n")[0] + b" "
        sock.close()


def test_csrs_that_are_none_are_refused(served):
    import base64
    token = served.bootstrap_token()
    basic = {"Authorization": "Basic " + base64.b64encode(f"x:{token}".encode()).decode(),
             "Content-Type": "application/pkcs10"}
    rng = random.Random(3)
    for body in (b"", b"hello", b"====", base64.b64encode(rng.randbytes(500)), rng.randbytes(500),
                 base64.b64encode(b"\x30\x82\xff\xff" + bytes(400))):
        status, headers, _ = served.anonymous().raw("POST", "/.well-known/est/simpleenroll", body=body,
                                                    headers=basic)
        assert status == 400 and "problem+json" in headers["Content-Type"]


def test_json_that_is_none_is_refused_with_a_problem(served):
    admin = served.admin
    for body in (b"", b"{", b"[]", b"null", b'{"name": 1}', b"[" * 5000, b"\xff\xfe{}", b'{"a":1,"a":2}',
                 b'{"name":"' + b"x" * 5000 + b'"}', b'{"name":"a","spec":{"target":{"network":{}}}}'):
        status, headers, _ = admin.raw("POST", "/api/v1/tunnels", body=body,
                                       headers={"Content-Type": "application/json"})
        assert status in (400, 413, 404), body[:40]
        assert "problem+json" in headers["Content-Type"]


def test_request_smuggling_shapes_are_refused(served):
    for head in ("Content-Length: 4\r\nContent-Length: 5", "Content-Length: 4\r\nTransfer-Encoding: chunked",
                 "Transfer-Encoding: chunked, identity", "Content-Length: -1", "Content-Length: 4a",
                 "Bad Header: 1", "X: a\x00b"):
        sock = tls_socket(served, ["http/1.1"])
        sock.sendall(f"POST /api/v1/tunnels HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\nabcd".encode())
        first = read_all(sock, 12)[0]
        assert first == b"" or first.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), (head, first)
        sock.close()


@pytest.mark.parametrize("lane", ["warren-agent/1", "warren-reverse/1", "warren-renew/1"])
def test_an_agent_that_talks_garbage_is_cut_and_others_are_served(served, lane):
    """An enrolled agent is a stranger too as far as its bytes go."""
    rogue = served.agent("rogue", network="other")
    rogue.process.kill()
    rng = random.Random(4)
    for i in range(40):
        sock = tls_socket(served, [lane], certificate=rogue.certificate_path, key=rogue.key_path)
        try:
            if i % 2:
                sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
            sock.sendall(rng.randbytes(rng.randrange(1, 5000)))
            if i % 3 == 0:
                sock.unwrap()
        except (OSError, ValueError):
            pass
        sock.close()


def test_garbage_at_the_tunnels_own_listener_is_just_bytes(served):
    data = os.urandom(100000)
    with connect(served.address) as sock:
        threading.Thread(target=sock.sendall, args=(data,), daemon=True).start()
        assert read_all(sock, len(data))[0][:len(data)] == data
    for _ in range(300):
        reset(connect(served.address))


def test_a_flood_of_connections_to_a_tunnel_is_bounded_by_descriptors_not_by_crashes(served):
    """More open streams than is sensible: each is served or refused, never lost silently."""
    count = amount(4000, 500)
    socks = []
    answered = refused = 0
    try:
        for _ in range(count):
            socks.append(connect(served.address, timeout=10 * SLOW))
        for sock in socks:
            try:
                if exchange(sock, b"?") == b"?":
                    answered += 1
                else:
                    refused += 1
            except OSError:
                refused += 1
    finally:
        for sock in socks:
            sock.close()
    assert answered + refused == count and answered >= min(count, 1000)
