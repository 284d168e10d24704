"""The hub as a proxy by CONNECT over HTTP/2, with a stock HTTP/2 library, on both of its lanes."""

import hashlib
import os
import signal
import threading

import pytest

from lib.h2proxy import H2Proxy
from lib.process import SLOW, wait_until
from lib.service import hash_until_eof, read_all, reset, silent

LANES = ["h2", "warren-client/1"]


@pytest.fixture(params=LANES)
def proxy(request, site):
    hub, agent = site
    client = H2Proxy(hub, f"lan:{hub.token}", request.param)
    yield client
    client.close()


def test_streams_of_one_connection_reach_their_targets(bench, site, proxy, echo_server):
    hub, agent = site
    v6 = bench.server(echo_server.handler, host="::1")
    streams = [proxy.connect(server.address) for server in (echo_server, v6) for _ in range(20)]
    for i, stream in enumerate(streams):
        assert stream.opened().status == 200
        stream.send(f"hello {i}".encode())
    for i, stream in enumerate(streams):
        assert stream.receive(len(f"hello {i}")) == f"hello {i}".encode()
        stream.send(b"", end=True)
    assert {stream.read_all() for stream in streams} == {(b"", "eof")}
    assert len(hub.tunnels()) == 2
    for tunnel in hub.tunnels():
        rows = wait_until(lambda: hub.closed_connections(tunnel["id"]), "the rows")
        assert len(rows) == 20 and {row["end"] for row in rows} == {"closed"}


def test_bulk_with_a_half_close_in_either_direction(bench, site, proxy):
    hub, agent = site
    data = os.urandom(12_000_000)
    server = bench.server(hash_until_eof)
    stream = proxy.connect(server.address)
    assert stream.opened().status == 200
    assert stream.send(data, end=True, seconds=60) == b""
    got, end = stream.read_all()
    assert end == "eof"
    assert got.decode() == f"{len(data)} {hashlib.sha256(data).hexdigest()}\n"

    heard = []

    def speak_first(server, sock):
        sock.sendall(data)
        sock.shutdown(1)
        heard.append(read_all(sock))
    talker = bench.server(speak_first)
    stream = proxy.connect(talker.address).opened()
    got, end = stream.read_all(60)
    assert (len(got), got == data, end) == (len(data), True, "eof")
    stream.send(b"and now me", end=True)
    wait_until(lambda: heard, "the server to have read all")
    assert heard == [(b"and now me", "eof")]


def test_bytes_sent_before_the_answer_arrive(site, proxy, echo_server):
    hub, agent = site
    early = os.urandom(60_000)
    stream = proxy.connect(echo_server.address)
    assert stream.send(early) == b""
    assert stream.receive(len(early)) == early
    assert stream.status == 200


def test_a_stalled_reader_holds_up_neither_the_others_nor_memory(bench, site, proxy, echo_server):
    hub, agent = site
    sent = []

    def pour(server, sock):
        for _ in range(2000):
            sent.append(sock.send(bytes(1 << 16)))
    source = bench.server(pour)
    stalled = proxy.connect(source.address)
    stalled.stalled = True
    stalled.opened()
    for i in range(30):
        stream = proxy.connect(echo_server.address).opened()
        stream.send(b"x" * 1000)
        assert stream.receive(1000) == b"x" * 1000
        stream.send(b"", end=True)
    assert sum(sent) < 64_000_000


def test_a_sender_is_held_back_by_a_receiver_that_does_not_read(bench, site, proxy, echo_server):
    hub, agent = site
    stop = threading.Event()
    sink = bench.server(lambda server, sock: stop.wait(60 * SLOW))
    stuck = proxy.connect(sink.address).opened()
    left = stuck.send(bytes(96_000_000), seconds=4)
    assert len(left) > 30_000_000
    stream = proxy.connect(echo_server.address).opened()
    stream.send(b"others go on")
    assert stream.receive(12) == b"others go on"
    stop.set()


def test_resets_are_carried_both_ways(bench, site, proxy):
    hub, agent = site

    def reset_when_asked(server, sock):
        sock.recv(1)
        reset(sock)
    server = bench.server(reset_when_asked)
    stream = proxy.connect(server.address).opened()
    stream.send(b"x")
    assert stream.read_all()[1] == "reset"

    def reset_at_end(server, sock):
        read_all(sock)
        reset(sock)
    half = proxy.connect(bench.server(reset_at_end).address).opened()
    half.send(b"x", end=True)
    assert half.read_all()[1] == "reset", "also when the client had ended"
    known = {tunnel["id"] for tunnel in hub.tunnels()}
    for tunnel in known:
        row, = wait_until(lambda: hub.closed_connections(tunnel), "the row")
        assert row["end"] == "target_reset"

    listening = bench.server(silent)
    stream = proxy.connect(listening.address).opened()
    stream.reset()
    wait_until(lambda: listening.ends, "the server to hear of it")
    assert listening.ends == ["ConnectionResetError"]
    stream = proxy.connect(listening.address).opened()
    proxy.close()
    wait_until(lambda: len(listening.ends) == 2, "the server to hear of the lost connection")
    assert listening.ends[1] == "ConnectionResetError"
    tunnel, = [t for t in hub.tunnels() if t["id"] not in known]
    rows = wait_until(lambda: hub.closed_connections(tunnel["id"]), "the rows")
    assert {row["end"] for row in rows} == {"client_reset"}


def test_failures_carry_proxy_status(bench, site, proxy):
    hub, agent = site
    refused = proxy.connect("127.0.0.1:9").opened()
    assert refused.status == 502
    assert refused.headers["proxy-status"] == "warren; error=connection_refused"
    refused.read_all()
    unknown = proxy.connect("no-such-host.invalid:80").opened()
    assert (unknown.status, unknown.headers["proxy-status"]) == (502, "warren; error=dns_error")
    itself = proxy.connect(f"127.0.0.1:{hub.port}").opened()
    assert itself.status == 403
    assert itself.headers["proxy-status"].startswith("warren; error=destination_ip_prohibited; details=")
    for target in ("127.0.0.1", "127.0.0.1:0", ":80"):
        stream = proxy.connect(target).opened()
        assert stream.status == 400, target
        assert "error=http_request_error" in stream.headers["proxy-status"]
    agent.process.kill()
    wait_until(lambda: agent.identity()["status"]["phase"] == "offline", "the agent to be gone")
    away = proxy.connect("127.0.0.1:9").opened()
    assert away.status == 503
    assert away.headers["proxy-status"] == \
        'warren; error=destination_unavailable; details="no agent of the network is connected"'


@pytest.mark.parametrize("lane", LANES)
def test_who_is_not_known_is_asked_for_credentials(site, lane, echo_server):
    hub, agent = site
    for user in ("lan:wat_wrong", None, "nobody"):
        client = H2Proxy(hub, user, lane)
        stream = client.connect(echo_server.address).opened()
        assert stream.status == 407
        assert stream.headers["proxy-authenticate"].startswith("Basic realm=")
        assert "proxy-status" in stream.headers
        client.close()
    client = H2Proxy(hub, f"elsewhere:{hub.token}", lane)
    assert client.connect(echo_server.address).opened().status == 404
    assert hub.tunnels() == [] and echo_server.accepted == 0


def test_requests_and_streams_share_a_stock_connection(site, echo_server):
    hub, agent = site
    client = H2Proxy(hub, f"lan:{hub.token}")
    stream = client.connect(echo_server.address).opened()
    answer = client.request((":method", "GET"), (":scheme", "https"), (":path", "/readyz"),
                            (":authority", hub.host)).opened()
    assert answer.status == 200
    stream.send(b"still")
    assert stream.receive(5) == b"still"


def test_the_lane_of_warren_itself_knows_only_the_proxy_and_no_strangers(site, echo_server):
    hub, agent = site
    client = H2Proxy(hub, f"lan:{hub.token}", "warren-client/1")
    star = ((":scheme", "https"), (":path", "*"), (":authority", hub.host))
    assert client.request((":method", "OPTIONS"), *star).opened().status == 204
    assert client.request((":method", "GET"), (":scheme", "https"), (":path", "/readyz"),
                          (":authority", hub.host)).opened().status == 405
    stranger = H2Proxy(hub, "lan:wat_wrong", "warren-client/1")
    assert stranger.request((":method", "OPTIONS"), *star).opened().status == 407
    stranger.pump(lambda: stranger.is_closed, 15)
    assert stranger.is_closed, "who does not show credentials is not kept"
    assert not client.is_closed
    assert client.connect(echo_server.address).opened().status == 200


def test_a_stopping_hub_lets_streams_go_on_and_takes_no_new_ones(site, proxy, echo_server):
    hub, agent = site
    stream = proxy.connect(echo_server.address).opened()
    hub.process.signal(signal.SIGTERM)
    hub.process.wait_log("draining")
    stream.send(b"still here")
    assert stream.receive(10) == b"still here"
    stream.send(b"", end=True)
    stream.read_all()
    hub.process.stop()


def test_streams_are_cut_when_their_tunnel_is_deleted(site, proxy, echo_server):
    hub, agent = site
    stream = proxy.connect(echo_server.address).opened()
    tunnel, = hub.tunnels()
    hub.admin.delete(f"/api/v1/tunnels/{tunnel['id']}")
    assert stream.read_all()[1] == "reset"
    again = proxy.connect(echo_server.address).opened()
    assert again.status == 200, "the connection itself goes on"


def test_a_revoked_token_s_streams_are_cut_and_others_go_on(site, proxy, echo_server):
    hub, _ = site
    made = hub.admin.post("/api/v1/tokens", {"kind": "api", "name": "ci"})
    other = H2Proxy(hub, f"lan:{made['token']}")
    streams = [proxy.connect(echo_server.address).opened(), other.connect(echo_server.address).opened(),
               other.connect_as_a_mount(echo_server.address).opened()]
    for stream in streams:
        stream.send(b"ping")
        assert stream.receive(4) == b"ping"
    hub.admin.post("/api/v1/tokens/ci:revoke")
    for stream in streams[1:]:
        assert stream.read_all()[1] == "reset"
    assert other.connect(echo_server.address).opened().status == 407
    streams[0].send(b"still here")
    assert streams[0].receive(10) == b"still here"

    def ends():
        return [row["end"] for tunnel in hub.tunnels()
                for row in hub.admin.items(f"/api/v1/tunnels/{tunnel['id']}/connections") if row["closed"]]
    wait_until(lambda: ends() == ["revoked", "revoked"], "both rows")
    other.close()
