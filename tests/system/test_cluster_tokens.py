"""A token that ends, by revocation at one hub or by its time: what it opened at other hubs ends as well."""

import base64
import contextlib
import time

import pytest

from lib import network
from lib.cluster import Cluster
from lib.process import SLOW, wait_until
from lib.service import exchange
from lib.warren import tls_socket

LIMIT = 2.0 * SLOW


@pytest.fixture
def cluster(bench):
    if not network.available():
        pytest.skip("network namespaces need root")
    return Cluster(bench, bench.postgres())


def tunnel_through(cluster, hub, token, target):
    """A stream of the HTTP/1.1 proxy at `hub`."""
    with network.inside(cluster.client):
        sock = tls_socket(hub, ["http/1.1"])
    user = base64.b64encode(f"lan:{token}".encode()).decode()
    sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {user}\r\n\r\n"
                 .encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(4096)
    assert b" 200 " in head.split(b"\r\n")[0], head
    return sock


def wait_end(sock):
    """When it was."""
    sock.settimeout(20 * SLOW)
    with contextlib.suppress(ConnectionError):
        while sock.recv(4096):
            pass
    return time.monotonic()


def open_streams(cluster, made, echo):
    """One at every hub, by that token; (hub, socket)."""
    streams = []
    for hub in cluster.hubs:
        # known at the other hubs some milliseconds later
        wait_until(lambda h=hub: h.rest(made["token"]).raw("GET", "/api/v1/tokens/self")[0] == 200, "the token")
        sock = tunnel_through(cluster, hub, made["token"], echo.address)
        assert exchange(sock, b"ping") == b"ping"
        streams.append(sock)
    return streams


def test_a_token_revoked_at_one_hub_cuts_its_streams_at_the_others(bench, cluster):
    agent = cluster.agent("a1")
    echo = bench.server(host=agent.address, namespace=agent.namespace)
    first = cluster.hubs[0]
    made = first.admin.post("/api/v1/tokens", {"kind": "api", "name": "ci"})
    others = first.admin.post("/api/v1/tokens", {"kind": "api", "name": "other"})
    streams, going_on = open_streams(cluster, made, echo), open_streams(cluster, others, echo)
    first.admin.post("/api/v1/tokens/ci:revoke")
    revoked = time.monotonic()
    last = max(wait_end(sock) for sock in streams) - revoked
    print(f"\ncut at all hubs {last:.3f} s after the revocation was answered")
    assert last < LIMIT
    for sock in going_on:
        assert exchange(sock, b"still here") == b"still here"


def test_what_a_token_opened_ends_when_it_expires(bench, cluster):
    agent = cluster.agent("a1")
    echo = bench.server(host=agent.address, namespace=agent.namespace)
    began = time.monotonic()
    seconds = 8 * SLOW
    made = cluster.hubs[0].admin.post("/api/v1/tokens", {"kind": "api", "ttl": f"{seconds}s"})
    streams = open_streams(cluster, made, echo)
    for sock in streams:
        wait_end(sock)
    over = time.monotonic() - began
    print(f"\nends {over - seconds:.2f} s after the token")
    assert seconds - 1 < over < seconds + LIMIT
