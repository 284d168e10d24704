"""UDP tunnels with real programs on both ends: snmpwalk and snmpd, dig and dnsmasq; datagrams of every
size, closed ports, silence, floods, congestion, fail-over."""

import os
import signal
import socket
import tempfile
import time

import pytest

from lib.datagram import (LARGEST4, LARGEST6, Dnsmasq, Snmpd, UdpServer, address_of, answers, ask,
                          closed_port, dig, snmpwalk, udp_socket)
from lib.process import SLOW, amount, wait_until
from lib.warren import endpoint


def udp_tunnel(hub, target, **options):
    return hub.tunnel(target, protocol="udp", **options)


def client_of(tunnel, **options):
    """A socket and where to send to."""
    address = address_of(endpoint(tunnel))
    return udp_socket(address[0], timeout=5 * SLOW, **options), address


def status(hub, name="web"):
    return hub.admin.get(f"/api/v1/tunnels/{name}")["status"]


def records(hub, name="web", query=""):
    return hub.admin.items(f"/api/v1/tunnels/{name}/connections{query}")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_real_snmpwalk_reaches_a_real_snmpd(bench, site, host):
    hub, _ = site
    snmpd = bench.keep(Snmpd(tempfile.mkdtemp(prefix="snmpd", dir=bench.directory), host))
    listen = "[::1]:0" if ":" in host else "127.0.0.1:0"
    tunnel = udp_tunnel(hub, snmpd.address, listen=listen)
    assert tunnel["spec"]["target"]["protocol"] == "udp"
    direct, walked = snmpwalk(snmpd.address), snmpwalk(endpoint(tunnel))
    assert any("behind the firewall" in line for line in walked)
    # but for the uptimes, which go on
    assert [line for line in walked if "Timeticks" not in line] == \
        [line for line in direct if "Timeticks" not in line]
    counted = status(hub)["datagrams"]
    assert counted["in"] == counted["out"] >= len(walked) and counted["dropped"] == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_real_dig_asks_a_real_dns_server(bench, site, host):
    hub, _ = site
    dns = bench.keep(Dnsmasq(tempfile.mkdtemp(prefix="dns", dir=bench.directory), host))
    listen = "[::1]:0" if ":" in host else "127.0.0.1:0"
    at = endpoint(udp_tunnel(hub, dns.address, listen=listen))
    assert answers(dig(at, "device1.example")) == ["192.0.2.17"]
    assert answers(dig(at, "device1.example", "AAAA")) == ["2001:db8::17"]
    big = dig(at, "big.example", "TXT", "+bufsize=4096", "+ignore")
    assert len(answers(big)) == 12 and "flags: qr aa rd" in big and " tc" not in big.split("flags")[1][:20]


def test_a_target_by_name_is_resolved_by_the_agent(bench, site):
    hub, _ = site
    server = bench.keep(UdpServer())
    sock, at = client_of(udp_tunnel(hub, f"localhost:{server.port}"))
    assert ask(sock, at, b"by name", tries=3) == b"by name"


@pytest.mark.parametrize("host, largest", [("127.0.0.1", LARGEST4), ("::1", LARGEST6)])
def test_datagrams_of_every_size_go_both_ways(bench, site, host, largest):
    hub, _ = site
    server = bench.keep(UdpServer(host=host))
    listen = "[::1]:0" if ":" in host else "127.0.0.1:0"
    sock, at = client_of(udp_tunnel(hub, server.address, listen=listen))
    for size in [0, 1, 2, 1199, 1472, 1473, 9000, 16384, 32768, 65000, largest - 1, largest]:
        data = os.urandom(size)
        assert ask(sock, at, data, tries=3) == data, size
    assert status(hub)["datagrams"]["dropped"] == 0


def test_an_answer_comes_from_the_address_that_was_asked(bench, site):
    hub, _ = site
    server = bench.keep(UdpServer())
    for listen, host in (("0.0.0.0:0", "127.0.0.9"), ("[::]:0", "127.0.0.8"), ("[::]:0", "::1")):
        tunnel = udp_tunnel(hub, server.address, listen=listen, name=f"t{host[-1]}{len(listen)}")
        port = address_of(endpoint(tunnel))[1]
        with udp_socket("::1" if ":" in host else "127.0.0.1") as sock:
            sock.connect((host, port))  # takes answers from there only
            sock.send(b"from where?")
            assert sock.recv(100) == b"from where?"


def test_a_closed_port_is_reported_and_the_flow_goes_on(bench, site):
    hub, _ = site
    port = closed_port()
    tunnel = udp_tunnel(hub, f"127.0.0.1:{port}")
    sock, at = client_of(tunnel)
    sock.sendto(b"anybody there?", at)
    reason = wait_until(lambda: status(hub)["reason"], "the tunnel to say why", 10)
    assert "connection_refused" in reason
    bench.keep(UdpServer(port=port))
    assert ask(sock, at, b"and now?", tries=3) == b"and now?"
    wait_until(lambda: status(hub)["reason"] is None, "the tunnel to be in order again")
    assert status(hub)["streams"]["total"] == 1


def can_send_icmp():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
        return True
    except PermissionError:
        return False


@pytest.mark.skipif(not can_send_icmp(), reason="needs CAP_NET_RAW")
@pytest.mark.parametrize("listen, host", [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.9"),
                                          ("[::]:0", "127.0.0.9"), ("[::1]:0", "::1"), ("[::]:0", "::1")])
def test_a_closed_port_is_felt_by_the_client_itself(bench, site, listen, host):
    hub, _ = site
    port = closed_port()
    at = address_of(endpoint(udp_tunnel(hub, f"127.0.0.1:{port}", listen=listen)))[1]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10 * SLOW)
        sock.connect((host, at))
        for _ in range(2):
            sock.send(b"anybody there?")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)
        bench.keep(UdpServer(port=port))
        sock.send(b"and now?")
        assert sock.recv(100) == b"and now?"


@pytest.mark.skipif(not can_send_icmp(), reason="needs CAP_NET_RAW")
def test_a_real_dig_is_refused_as_it_would_be_there(bench, site):
    hub, _ = site
    at = endpoint(udp_tunnel(hub, f"127.0.0.1:{closed_port()}"))
    began = time.monotonic()
    assert "connection refused" in dig(at, "device1.example")
    assert time.monotonic() - began < 5 * SLOW  # no timeouts were waited for


def test_a_closed_port_is_in_the_access_log(bench, site):
    hub, _ = site
    sock, at = client_of(udp_tunnel(hub, f"127.0.0.1:{closed_port()}", idle_timeout="1s"))
    sock.sendto(b"anybody there?", at)
    row = wait_until(lambda: next((r for r in records(hub) if r["closed"]), None), "the record", 15)
    assert row["end"] == "idle" and row["error"] == "connection_refused"
    assert row["client"] == "%s:%d" % sock.getsockname() and row["bytes"] == {"in": 14, "out": 0}
    assert hub.metric("warren_dial_errors_total") >= 1


def test_a_silent_client_is_forgotten_and_may_come_back(bench, site):
    hub, _ = site
    server = bench.keep(UdpServer())
    sock, at = client_of(udp_tunnel(hub, server.address, idle_timeout="1s"))
    assert ask(sock, at, b"one") == b"one"
    assert [r["end"] for r in records(hub, query="?open=1")] == ["open"]
    wait_until(lambda: status(hub)["streams"]["open"] == 0, "the flow to end", 10)
    row = wait_until(lambda: records(hub), "the record")[0]
    assert row["end"] == "idle" and row["bytes"] == {"in": 3, "out": 3} and row["error"] is None
    assert ask(sock, at, b"two") == b"two"
    assert len(server.clients) == 2  # another socket of the agent
    assert status(hub)["streams"]["total"] == 2


def test_many_clients_at_once(bench, site):
    hub, agent = site
    server = bench.keep(UdpServer(lambda data: b"<" + data + b">"))
    tunnel = udp_tunnel(hub, server.address)
    at = address_of(endpoint(tunnel))
    n = amount(1000, 200)
    before = agent.process.open_files()
    sockets = [udp_socket(timeout=10 * SLOW, buffer=1 << 16) for _ in range(n)]
    for round_ in range(2):
        for i, sock in enumerate(sockets):
            sock.sendto(b"%d/%d" % (round_, i), at)
        for i, sock in enumerate(sockets):
            assert sock.recv(100) == b"<%d/%d>" % (round_, i)
    now = status(hub)
    assert (now["streams"]["open"], now["streams"]["total"]) == (n, n)
    assert now["datagrams"] == {"in": 2 * n, "out": 2 * n, "dropped": 0}
    assert len(server.clients) == n
    assert len(records(hub, query="?open=1&page_size=1000")) == n
    hub.admin.delete(f"/api/v1/tunnels/{tunnel['id']}")
    wait_until(lambda: agent.process.open_files() <= before + 2, "the agent's sockets to close")
    for sock in sockets:
        sock.close()


def test_clients_beyond_the_limit_make_way_for_new_ones(bench, site):
    hub, _ = site
    server = bench.keep(UdpServer())
    at = address_of(endpoint(udp_tunnel(hub, server.address)))
    n = amount(6000, 4500)
    for i in range(n):
        with udp_socket(timeout=5 * SLOW, buffer=1 << 14) as sock:
            assert ask(sock, at, b"%d" % i, tries=5) == b"%d" % i
    assert status(hub)["streams"]["open"] <= 4096 + 10


def test_when_the_link_stands_the_oldest_go_and_are_counted(bench, site):
    hub, agent = site
    got = []
    server = bench.keep(UdpServer(lambda data: got.append(data)))
    sock, at = client_of(udp_tunnel(hub, server.address))
    sock.sendto(b"first", at)
    wait_until(lambda: got, "the flow")
    agent.process.signal(signal.SIGSTOP)
    try:
        n = 40000  # of 1 KiB: more than all buffers between the two take
        for i in range(n):
            sock.sendto(b"%06d" % i + bytes(1018), at)
            if i % 200 == 0:
                time.sleep(0.002)
        dropped = wait_until(lambda: status(hub)["datagrams"]["dropped"], "drops to be counted")
    finally:
        agent.process.signal(signal.SIGCONT)
    wait_until(lambda: b"%06d" % (n - 1) in {d[:6] for d in got[-500:]}, "the newest to arrive", 15)
    numbers = [int(d[:6]) for d in got[1:]]
    assert numbers == sorted(numbers)
    assert dropped > 1000 and hub.process.rss_kib() < 200_000
    assert hub.metric("warren_datagrams_total") >= n
    print(f"{dropped} of {n} dropped, {len(numbers)} arrived")


def test_the_agents_drops_are_counted_at_the_hub(bench, site):
    hub, agent = site
    burst = bytes(1024)

    def answer(data):
        if data == b"go":
            for i in range(40000):
                server.sock.sendto(b"%06d" % i + burst, next(iter(server.clients)))
                if i % 200 == 0:
                    time.sleep(0.002)
        return b"end"
    server = bench.keep(UdpServer(answer))
    sock, at = client_of(udp_tunnel(hub, server.address))
    assert ask(sock, at, b"hello", tries=3) == b"end"
    hub.process.signal(signal.SIGSTOP)
    try:
        server.answer(b"go")
    finally:
        hub.process.signal(signal.SIGCONT)
    wait_until(lambda: status(hub)["datagrams"]["dropped"] > 1000, "the agent's drops to be told", 15)
    assert agent.process.rss_kib() < 200_000


def test_flows_go_to_the_other_agent_when_one_dies(bench, site):
    hub, first = site
    second = hub.agent("a2")
    server = bench.keep(UdpServer())
    tunnel = udp_tunnel(hub, server.address)
    sock, at = client_of(tunnel)
    sock.settimeout(0.2)
    assert ask(sock, at, b"one", tries=20) == b"one"
    held = status(hub)["lease"]["agent"]["id"]
    holder = first if first.id == held else second
    began = time.monotonic()
    holder.process.kill()
    assert ask(sock, at, b"two", tries=100) == b"two"
    took = time.monotonic() - began
    print(f"served again after {took:.2f} s")
    assert took < 10 * SLOW
    assert status(hub)["lease"]["agent"]["id"] != held
    assert len(server.clients) == 2


def test_datagrams_that_nobody_serves_are_thrown_away_and_counted(bench):
    hub = bench.hub()
    agent = hub.agent("a1")
    server = bench.keep(UdpServer())
    sock, at = client_of(udp_tunnel(hub, server.address))
    agent.process.stop()
    wait_until(lambda: status(hub)["phase"] == "pending", "the agent to be missed", 20)

    def thrown_away():
        sock.sendto(b"old", at)
        return status(hub)["datagrams"]["dropped"] > 0
    wait_until(thrown_away, "datagrams to be thrown away", 20, every=0.2)
    agent.start()
    sock.settimeout(0.5)
    assert ask(sock, at, b"new", tries=60) == b"new"


def test_the_owners_ceiling_holds_for_datagrams(bench):
    hub = bench.hub()
    server = bench.keep(UdpServer())
    hub.agent("a1", options=["--allow", "10.0.0.0/8"])
    sock, at = client_of(udp_tunnel(hub, server.address))
    sock.settimeout(0.5)
    sock.sendto(b"let me in", at)
    reason = wait_until(lambda: status(hub)["reason"], "the refusal")
    assert "destination_ip_prohibited" in reason
    with pytest.raises(TimeoutError):
        sock.recv(100)
    assert server.received == 0


def test_a_tunnel_changes_its_protocol_and_target(bench, site):
    hub, _ = site
    first, second = bench.keep(UdpServer(lambda d: b"1")), bench.keep(UdpServer(lambda d: b"2"))
    tunnel = udp_tunnel(hub, first.address)
    sock, at = client_of(tunnel)
    assert ask(sock, at, b"?") == b"1"
    hub.admin.patch(f"/api/v1/tunnels/{tunnel['id']}", {"spec": {"target": {"address": second.address}}})
    def new_client_hears():
        with udp_socket() as other:
            return ask(other, at, b"?", tries=3)
    wait_until(lambda: new_client_hears() == b"2", "the new target")
    assert ask(sock, at, b"?") == b"1"  # a flow keeps its target
    hub.admin.patch(f"/api/v1/tunnels/{tunnel['id']}", {"spec": {"target": {"protocol": "tcp"}}})

    def takes_tcp():
        with socket.create_connection(address_of(endpoint(hub.wait_active("web"))), 2):
            return True
    wait_until(takes_tcp, "a TCP listener")


def test_the_command_line_makes_one(bench, site):
    hub, _ = site
    server = bench.keep(UdpServer())
    made = hub.cli("tunnel", "create", "--name", "dns", "--network", "lan", "--target", server.address,
                   "--protocol", "udp", "--idle-timeout", "90s", "--wait", "-o", "json")
    assert made["spec"]["idle_timeout"] == "90s"
    with udp_socket() as sock:
        assert ask(sock, address_of(endpoint(made)), b"x", tries=3) == b"x"
    refused = hub.cli("tunnel", "create", "--name", "web", "--network", "lan", "--target", "h:1",
                      "--idle-timeout", "90s", check=False)
    assert refused.returncode and "idle_timeout" in refused.stderr
