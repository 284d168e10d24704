"""`warren forward`: ports of this machine that lead into a network, with real programs."""

import hashlib
import os
import signal
import socket
import subprocess
import threading

import pytest

from lib.local import forward
from lib.process import SLOW, run, wait_until
from lib.service import connect, exchange, free_port, hash_until_eof, read_all, reset, serves, silent
from lib.warren import program


def test_several_ports_lead_to_several_targets_by_address_and_name(bench, site, echo_server):
    hub, agent = site
    v6 = bench.server(echo_server.handler, host="::1")
    named = f"localhost:{echo_server.port}"
    door = forward(bench, hub, f"0:{echo_server.address}", f"0:{v6.address}", f"0:{named}")
    for address in door.addresses:
        assert address.startswith("127.0.0.1:")
        assert serves(address)
    assert [event["target"] for event in door.events("listening")] == \
        [echo_server.address, v6.address, named]
    targets = {t["spec"]["target"]["address"] for t in hub.admin.items("/api/v1/tunnels")}
    assert targets == {echo_server.address, v6.address, named}


def test_an_ipv6_door(bench, site, echo_server):
    hub, agent = site
    door = forward(bench, hub, f"0:{echo_server.address}", "--bind", "::1")
    assert door.address.startswith("[::1]:") and serves(door.address)


def test_half_close_and_resets_are_carried(bench, site):
    hub, agent = site
    data = os.urandom(3_000_000)
    hasher = bench.server(hash_until_eof)
    heard = []

    def end_first(server, sock):
        sock.sendall(b"that is all")
        sock.shutdown(1)
        heard.append(read_all(sock))
    ender = bench.server(end_first)

    def reset_when_asked(server, sock):
        sock.recv(1)
        reset(sock)
    resetter = bench.server(reset_when_asked)
    listener = bench.server(silent)
    door = forward(bench, hub, *(f"0:{s.address}" for s in (hasher, ender, resetter, listener)))
    with connect(door.addresses[0], 20 * SLOW) as sock:
        sock.sendall(data)
        sock.shutdown(1)
        assert read_all(sock)[0].decode() == f"{len(data)} {hashlib.sha256(data).hexdigest()}\n"
    with connect(door.addresses[1], 20 * SLOW) as sock:
        assert read_all(sock) == (b"that is all", "eof")
        sock.sendall(b"I go on")
    wait_until(lambda: heard == [(b"I go on", "eof")], "the server to have read all")
    with connect(door.addresses[2], 20 * SLOW) as sock:
        sock.sendall(b"x")
        assert read_all(sock) == (b"", "reset")
    sock = connect(door.addresses[3])
    wait_until(lambda: listener.accepted == 1, "the target to be reached")
    reset(sock)
    wait_until(lambda: listener.ends == ["ConnectionResetError"], "the target to hear of it")


def test_a_target_that_cannot_be_reached_is_told_and_resets_its_clients(bench, site):
    hub, agent = site
    door = forward(bench, hub, "0:127.0.0.1:9", "0:no-such-host.invalid:80")
    for address in door.addresses:
        with connect(address, 20 * SLOW) as sock:
            assert read_all(sock) == (b"", "reset")
    assert "127.0.0.1:9: connection refused" in door.notes()
    assert "no-such-host.invalid:80: the name cannot be resolved" in door.notes()


def test_many_clients_at_once(bench, site, echo_server):
    hub, agent = site
    door = forward(bench, hub, f"0:{echo_server.address}")
    good = []

    def one(i):
        with connect(door.address, 30 * SLOW) as sock:
            data = os.urandom(50_000)
            good.append(exchange(sock, data) == data)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60 * SLOW)
    assert good == [True] * 150


def test_it_survives_a_restart_of_the_hub_and_holds_clients_meanwhile(bench, site, echo_server):
    hub, agent = site
    door = forward(bench, hub, f"0:{echo_server.address}")
    assert serves(door.address)
    hub.process.kill()
    wait_until(lambda: door.events("hub")[-1]["state"] == "down", "it to notice")
    held = connect(door.address, 30 * SLOW)
    held.sendall(b"patience")
    hub.start()
    agent.wait_online()
    got, end = read_all(held, 8)
    # the hub may be there before its agent
    assert got == b"patience" or (end == "reset" and any("not available" in n for n in door.notes()))
    wait_until(lambda: door.events("hub")[-1]["state"] == "up", "it to be back")
    assert serves(door.address, timeout=20 * SLOW)
    assert any("trying again" in note for note in door.notes())


def test_a_hub_that_stops_gracefully_is_left_and_found_again(bench, site, echo_server):
    hub, agent = site
    door = forward(bench, hub, f"0:{echo_server.address}")
    with connect(door.address, 20 * SLOW) as sock:
        assert exchange(sock, b"one") == b"one"
        hub.process.signal(signal.SIGTERM)
        hub.process.wait_log("draining")
        wait_until(lambda: door.events("hub")[-1]["state"] == "down", "it to notice")
        assert exchange(sock, b"two") == b"two", "open streams go on"
    hub.process.stop()
    hub.start()
    agent.wait_online()
    wait_until(lambda: door.events("hub")[-1]["state"] == "up", "it to be back", 20)
    assert serves(door.address, timeout=20 * SLOW)


@pytest.mark.parametrize("words,token,exit_code,text", [
    (["forward", "nowhere", "0:127.0.0.1:80"], None, 3, "no network 'nowhere'"),
    (["forward", "lan", "0:127.0.0.1:80"], "wat_wrong", 4, "API token"),
    (["proxy", "lan", "--listen", "127.0.0.1:0"], "wat_wrong", 4, "API token"),
    (["forward", "lan", "127.0.0.1:80"], None, 2, "PORT:HOST:PORT"),
    (["forward", "lan", "80:10.0.0.1"], None, 2, "HOST:PORT"),
    (["forward", "lan", "0:127.0.0.1:80", "--bind", "203.0.113.1"], None, 7, "cannot listen"),
    (["proxy", "lan", "--listen", "localhost"], None, 2, "HOST:PORT"),
])
def test_what_cannot_be_is_said_at_once(site, directory, words, token, exit_code, text):
    hub, agent = site
    env = {"WARREN_TOKEN_FILE": "", "WARREN_TOKEN": token} if token else None
    done = hub.cli(*words, check=False, env=env)
    assert done.returncode == exit_code and text in done.stderr, done.stderr


def test_a_port_that_is_taken_is_an_error_and_an_open_door_a_warning(bench, site, echo_server):
    hub, agent = site
    done = hub.cli("forward", "lan", f"{echo_server.port}:127.0.0.1:80", check=False)
    assert done.returncode == 5 and "in use" in done.stderr, done.stderr
    door = forward(bench, hub, "0:127.0.0.1:80", "--bind", "0.0.0.0")
    assert any("everyone who can reach 0.0.0.0" in note for note in door.notes())


def test_a_terminal_has_one_line_of_status_and_ctrl_c_ends_it(site, echo_server):
    hub, agent = site
    leader, follower = os.openpty()
    process = subprocess.Popen(
        [program("warren"), "forward", "lan", f"0:{echo_server.address}"], stdin=follower,
        stdout=follower, stderr=follower, env={**os.environ, **hub.environment()},
        start_new_session=True)
    os.close(follower)
    seen = b""

    def read_until(text):
        nonlocal seen
        while text not in seen:
            seen += os.read(leader, 4096)
    read_until(b" -> " + echo_server.address.encode() + b" in lan")
    read_until(b"connected | 0 open")
    line = [part for part in seen.decode().splitlines() if " -> " in part][0]
    with connect(line.rsplit("\x1b[K")[-1].split(" -> ")[0], 20 * SLOW) as sock:
        assert exchange(sock, b"hello") == b"hello"
        read_until(b"connected | 1 open, 1 in all | 5 B up, 5 B down")
    process.send_signal(signal.SIGINT)
    assert process.wait(15 * SLOW) == 0
    try:
        read_until(b"1 in all, 5 B up, 5 B down\r\n")
    finally:
        os.close(leader)


# ---- real programs ----

@pytest.fixture
def postgres(bench):
    """A real PostgreSQL on loopback, over IPv4 and IPv6: its port."""
    port = free_port()
    bench.postgres(port=port, options={"listen_addresses": "127.0.0.1,::1"})
    return port


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_psql_queries_and_copies_both_ways(bench, site, postgres, directory, host):
    hub, agent = site
    door = forward(bench, hub, f"0:{host}:{postgres}")
    address, port = door.address.rsplit(":", 1)
    psql = ["psql", "-X", "-h", address, "-p", port, "-U", "admin", "-d", "postgres", "-At", "-v",
            "ON_ERROR_STOP=1"]
    ready = wait_until(lambda: subprocess.run([*psql, "-c", "select 6*7"], capture_output=True,
                                              text=True, timeout=30 * SLOW).stdout == "42\n",
                       "the database", 30)
    assert ready
    rows = "".join(f"{i}\t{hashlib.md5(str(i).encode()).hexdigest()}\n" for i in range(50_000))
    done = run([*psql, "-c", "create table t (n int, h text)", "-c", "copy t from stdin"], input=rows)
    done = run([*psql, "-c", "copy (select * from t order by n) to stdout"])
    assert done.stdout == rows
    done = run([*psql, "-c", "select count(*) from t where h <> md5(n::text)"])
    assert done.stdout == "0\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_datagrams_are_forwarded(bench, site, host):
    hub, agent = site
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((host.strip("[]"), 0))

    def answer():
        while True:
            try:
                data, peer = server.recvfrom(65536)
            except OSError:
                return
            server.sendto(data.upper(), peer)
    threading.Thread(target=answer, daemon=True).start()
    door = forward(bench, hub, f"0:{host}:{server.getsockname()[1]}/udp")
    address, port = door.address.rsplit(":", 1)
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(5)]

    def asked(client, data):
        client.settimeout(1)
        client.sendto(data, (address, int(port)))
        return client.recv(65536)
    for i, client in enumerate(clients):
        text = f"client {i} ".encode() * 100
        assert wait_until(lambda: asked(client, text), "an answer", 20) == text.upper()
    door.process.stop()
    server.close()
