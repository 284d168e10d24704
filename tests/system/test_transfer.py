"""Bytes: much, many, slow, half-closed, reset, stalled."""

import hashlib
import os
import re
import socket
import struct
import threading
import time

import pytest

from lib.process import SANITIZE, SLOW, amount, run, wait_until
from lib.service import CHUNK, connect, echo, exchange, hash_until_eof, read_all, reset, silent, source
from lib.warren import endpoint


def big_file(path, size):
    """Pseudo-random content (no block twice), and its digest."""
    digest = hashlib.sha256()
    seed = os.urandom(CHUNK)
    with open(path, "wb") as f:
        for i in range(size // CHUNK):
            block = struct.pack("<Q", i) + seed[8:]
            digest.update(block)
            f.write(block)
    return digest.hexdigest()


@pytest.fixture
def agent(hub):
    return hub.agent("a1")


@pytest.mark.seconds(400)
def test_one_gibibyte_from_nginx_and_back_is_the_same(bench, hub, agent):
    nginx = bench.nginx()
    size = amount(1 << 30, 64 << 20)
    want = big_file(os.path.join(nginx.root, "big"), size)
    address = endpoint(hub.tunnel(nginx.address))

    got = run(["bash", "-c", f"set -o pipefail; curl -sSf http://{address}/big | sha256sum"],
              seconds=180).stdout.split()[0]
    assert got == want

    run(["curl", "-sSf", "-T", os.path.join(nginx.root, "big"), f"http://{address}/copy"], seconds=180)
    copied = run(["sha256sum", os.path.join(nginx.root, "copy")]).stdout.split()[0]
    assert copied == want

    def counted():
        moved = hub.admin.get("/api/v1/tunnels/web")["status"]["bytes"]
        return moved["out"] >= size and moved["in"] >= size
    wait_until(counted, "the tunnel's byte counters")


def assert_all_succeed(address, requests, *more):
    out = run(["h2load", "--h1", "-n", requests, "-c", 64, "-t", 1, *more, f"http://{address}/short"],
              seconds=120).stdout
    assert re.search(rf"requests: {requests} total, \d+ started, {requests} done, {requests} succeeded, "
                     r"0 failed, 0 errored", out), out


def test_ten_thousand_short_requests_at_64_have_no_error(bench, hub, agent):
    nginx = bench.nginx()
    nginx.put_file("short", b"x" * 100)
    address = endpoint(hub.tunnel(nginx.address))
    # A connection for each request: every one is a stream of its own.
    assert_all_succeed(address, amount(10000, 1500), "-H", "Connection: close")


def test_kept_alive_requests_at_64_have_no_error(bench, hub, agent):
    nginx = bench.nginx()
    nginx.put_file("short", b"x" * 100)
    address = endpoint(hub.tunnel(nginx.address))
    assert_all_succeed(address, amount(20000, 1500))
    wait_until(lambda: hub.admin.get("/api/v1/tunnels/web")["status"]["streams"]["total"] == 64,
               "a stream for each connection, and no more")


def test_a_stream_idle_for_a_minute_still_works(bench, hub, agent, echo_server):
    sock = connect(endpoint(hub.tunnel(echo_server.address)))
    assert exchange(sock, b"before") == b"before"
    with pytest.raises(TimeoutError):  # nothing comes by itself
        sock.settimeout(60)
        sock.recv(1)
    sock.settimeout(5)
    assert exchange(sock, b"after") == b"after"


def test_half_close_reaches_the_target_and_the_answer_still_comes(bench, hub, agent):
    server = bench.server(hash_until_eof)
    address = endpoint(hub.tunnel(server.address))
    host, port = address.rsplit(":", 1)
    data = os.urandom(amount(8 << 20, 1 << 20)).hex()
    answer = run(["nc", "-N", "-w", "20", host, port], input=data).stdout
    assert answer == f"{len(data)} {hashlib.sha256(data.encode()).hexdigest()}\n"


def test_half_close_of_the_target_leaves_the_other_way_open(bench, hub, agent):
    def greet_and_listen(server, sock):
        sock.sendall(b"that is all from me")
        sock.shutdown(socket.SHUT_WR)
        server.note_end(read_all(sock))
    server = bench.server(greet_and_listen)
    sock = connect(endpoint(hub.tunnel(server.address)))
    assert read_all(sock) == (b"that is all from me", "eof")
    sock.sendall(b"I go on")
    sock.shutdown(socket.SHUT_WR)
    assert wait_until(lambda: server.ends, "the target's end") == [(b"I go on", "eof")]


def test_a_reset_by_the_client_reaches_the_target_as_a_reset(bench, hub, agent, echo_server):
    sock = connect(endpoint(hub.tunnel(echo_server.address)))
    assert exchange(sock, b"hello") == b"hello"
    reset(sock)
    assert wait_until(lambda: echo_server.ends, "the target to notice") == ["ConnectionResetError"]


def test_a_reset_by_the_target_reaches_the_client_as_a_reset(bench, hub, agent):
    def answer_and_reset(server, sock):
        sock.recv(100)
        reset(sock)
    server = bench.server(answer_and_reset)
    sock = connect(endpoint(hub.tunnel(server.address)))
    sock.sendall(b"go")
    assert read_all(sock)[1] == "reset"


def connections_of(hub, name="web"):
    return hub.admin.items(f"/api/v1/tunnels/{name}/connections")


def test_each_connection_is_listed_with_how_it_ended(bench, hub, agent, echo_server):
    address = endpoint(hub.tunnel(echo_server.address))
    with connect(address) as sock:
        assert exchange(sock, b"12345") == b"12345"
        client = "%s:%d" % sock.getsockname()
    sock = connect(address)
    exchange(sock, b"x")
    reset(sock)

    def both():
        rows = [c for c in connections_of(hub) if c["closed"]]
        return rows if len(rows) == 2 else None
    rows = wait_until(both, "two closed connections in the list")
    by_end = {c["end"]: c for c in rows}
    assert set(by_end) == {"closed", "client_reset"}
    good = by_end["closed"]
    assert good["client"] == client and good["bytes"] == {"in": 5, "out": 5}
    assert good["agent"] == agent.id and good["error"] is None


def test_a_thousand_streams_are_open_at_once(bench, hub, agent, echo_server):
    address = endpoint(hub.tunnel(echo_server.address))
    count = amount(1000, 300)
    before = hub.process.rss_kib(), agent.process.rss_kib()
    socks = [connect(address) for _ in range(count)]
    try:
        for i, sock in enumerate(socks):
            assert exchange(sock, b"%d" % i) == b"%d" % i
        status = wait_until(lambda: (s := hub.admin.get("/api/v1/tunnels/web")["status"])
                            ["streams"]["open"] == count and s, "the count of streams")
        assert status["streams"]["total"] >= count
        # All are still alive, last to first.
        for i, sock in reversed(list(enumerate(socks))):
            assert exchange(sock, b"again %d" % i) == b"again %d" % i
        if not SANITIZE:
            for process, base in zip((hub.process, agent.process), before):
                assert process.rss_kib() - base < 16 * count, "KiB per stream"
    finally:
        for sock in socks:
            sock.close()
    wait_until(lambda: hub.admin.get("/api/v1/tunnels/web")["status"]["streams"]["open"] == 0,
               "the streams to be gone")


def throughput(address, seconds):
    """Bytes a second that one connection receives."""
    with connect(address) as sock:
        end = time.monotonic() + seconds
        total = 0
        while time.monotonic() < end:
            total += len(sock.recv(CHUNK))
    return total / seconds


def test_a_stalled_reader_costs_the_others_nothing_and_memory_is_bounded(bench, hub, agent):
    server = bench.server(source)
    address = endpoint(hub.tunnel(server.address))
    throughput(address, 0.5)
    memory = None
    for _ in range(5):  # one must show it: the machine may be busy with other things
        free = max(throughput(address, 0.5) for _ in range(4))
        memory = memory or (hub.process.rss_kib(), agent.process.rss_kib())
        known = server.accepted
        stalled = [connect(address) for _ in range(4)]  # never read
        wait_until(lambda: server.accepted >= known + 4, "the stalled streams to reach the target")
        beside = max(throughput(address, 0.5) for _ in range(4))
        print(f"{beside / 1e6:.0f} MB/s beside stalled readers, {free / 1e6:.0f} without")
        if beside > 0.6 * free:
            break
        for sock in stalled:
            reset(sock)
    else:
        raise AssertionError("the others are slow each time")
    if not SANITIZE:
        for process, before in zip((hub.process, agent.process), memory):
            assert process.rss_kib() - before < 24 * 1024

    # A stalled stream is not broken: it goes on where it stopped.
    stalled[0].settimeout(10 * SLOW)
    received = 0
    while received < 16 << 20:
        received += len(stalled[0].recv(CHUNK))
    for sock in stalled:
        reset(sock)


def test_a_target_that_does_not_read_stalls_only_its_own_client(bench, hub, agent, echo_server):
    def never_read(server, sock):
        server.stop = threading.Event()
        server.stop.wait(60)
    server = bench.server(never_read)
    stuck = connect(endpoint(hub.tunnel(server.address, name="stuck")))
    fine = endpoint(hub.tunnel(echo_server.address, name="fine"))
    stuck.setblocking(False)
    sent = 0
    with pytest.raises(TimeoutError):
        stuck.settimeout(1.0)
        while sent < 256 << 20:
            sent += stuck.send(bytes(CHUNK))
    assert sent < 64 << 20, "the window and the kernel's buffers, no more"
    with connect(fine) as sock:
        data = os.urandom(1 << 20)
        threading.Thread(target=sock.sendall, args=(data,), daemon=True).start()
        got = bytearray()
        while len(got) < len(data):
            got += sock.recv(CHUNK)
        assert bytes(got) == data
    server.stop.set()


def test_ssh_works_through_a_tunnel(bench, hub, agent):
    sshd = bench.sshd()
    host, port = endpoint(hub.tunnel(sshd.address, name="ssh")).rsplit(":", 1)
    out = run(["ssh", "-F", "none", "-p", port, "-i", sshd.client_key, "-o", "StrictHostKeyChecking=no",
               "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", host,
               "head -c 1000000 /dev/zero | sha256sum"]).stdout
    assert out.split()[0] == hashlib.sha256(bytes(1000000)).hexdigest()


def test_ipv6_targets_and_listeners_work(bench, hub, agent):
    server = bench.server(echo, host="::1")
    address = endpoint(hub.tunnel(server.address, listen="[::1]:0"))
    assert address.startswith("[::1]:")
    with connect(address) as sock:
        assert exchange(sock, b"six") == b"six"


def test_a_target_may_be_a_name(bench, hub, agent):
    server = bench.server(echo)
    with connect(endpoint(hub.tunnel(f"localhost:{server.port}"))) as sock:
        assert exchange(sock, b"named") == b"named"


def test_a_client_that_leaves_at_once_leaves_nothing_behind(bench, hub, agent):
    server = bench.server(silent)
    address = endpoint(hub.tunnel(server.address))
    with connect(address) as sock:
        sock.sendall(b"x")
    files = hub.process.open_files(), agent.process.open_files()
    for i in range(200):
        sock = connect(address)
        reset(sock) if i % 2 else sock.close()

    def gone():
        return (hub.admin.get("/api/v1/tunnels/web")["status"]["streams"]["open"] == 0
                and hub.process.open_files() <= files[0] + 4
                and agent.process.open_files() <= files[1] + 4)
    wait_until(gone, "every socket to be closed")
