"""The emulated wire keeps its word: what tests and measurements over it stand on."""

import socket
import statistics
import struct
import threading
import time

import pytest

from lib import network
from lib.link import Link
from lib.network import Host, inside
from lib.process import wait_until
from lib.service import TcpServer, connect, source

A, B, A6, B6 = "10.9.0.1", "10.9.0.2", "fd09::1", "fd09::2"
SO_RCVBUFFORCE, SO_TIMESTAMPNS = 33, 35


@pytest.fixture
def wire(bench):
    """Makes a wire between two hosts."""
    if not network.available():
        pytest.skip("network namespaces need root")
    a, b = bench.keep(Host("a")), bench.keep(Host("b"))

    def make(**settings):
        link = bench.keep(Link(a, [f"{A}/24", f"{A6}/64"], b, [f"{B}/24", f"{B6}/64"], **settings))
        link.a, link.b = a, b
        return link
    return make


def udp(host, address=None):
    with inside(host.name):
        sock = socket.socket(socket.AF_INET6 if address and ":" in address else socket.AF_INET,
                             socket.SOCK_DGRAM)
    if address:
        sock.bind((address, 0))
    sock.settimeout(5)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
    return sock


def ping(link, a=A, b=B, count=20, timeout=5.0):
    """Round trips in ms of those datagrams that were answered."""
    here, there = udp(link.a, a), udp(link.b, b)
    times = []

    def answer():
        while (got := there.recvfrom(100))[0]:
            there.sendto(*got)
    echo = threading.Thread(target=answer)
    echo.start()
    here.settimeout(timeout)
    for n in range(count):
        began = time.monotonic()
        here.sendto(b"ping%d" % n, there.getsockname())
        try:
            here.recv(100)
            times.append((time.monotonic() - began) * 1000)
        except TimeoutError:
            pass
    with inside(link.b.name):
        there.sendto(b"", there.getsockname())
    echo.join()
    here.close(), there.close()
    return times


def fastest(times):
    """What the wire does; the slower ones tell how busy the machine is."""
    return statistics.quantiles(times, n=10)[0]


class Flood:
    """Numbered datagrams from a to b as fast as asked; (number, delay in s) of those that arrived."""

    def __init__(self, link, count, per_second, size=1200):
        receiver, sender = udp(link.b, B), udp(link.a)
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.arrived = []
        reader = threading.Thread(target=self._read, args=(receiver, count))
        reader.start()
        to, began = receiver.getsockname(), time.monotonic()
        for n in range(count):
            while time.monotonic() < began + n / per_second:
                pass
            sender.sendto(struct.pack("!Qd", n, time.time()).ljust(size, b"."), to)
        self.seconds = time.monotonic() - began
        while sender.sendto(struct.pack("!Qd", count, 0), to) and reader.is_alive():
            time.sleep(0.02)
        receiver.close(), sender.close()

    def _read(self, receiver, count):
        while True:
            data, [(_, _, at)], _, _ = receiver.recvmsg(2048, 64)  # the kernel's clock at its arrival
            n, sent = struct.unpack_from("!Qd", data)
            if n == count:
                return
            seconds, nanoseconds = struct.unpack("qq", at)
            self.arrived.append((n, seconds + nanoseconds * 1e-9 - sent))


def download(link, seconds):
    """Mbit/s of TCP payload that come from b to a."""
    server = TcpServer(source, host=B, namespace=link.b.name)
    try:
        with connect(server.address, namespace=link.a.name) as sock:
            def read(until):
                size = 0
                while time.monotonic() < until:
                    size += len(sock.recv(1 << 18))
                return size
            read(time.monotonic() + 0.5)
            began = time.monotonic()
            size = read(began + seconds)
            return size * 8e-6 / (time.monotonic() - began)
    finally:
        server.close()


@pytest.mark.parametrize("delay_ms", [0, 5, 50])
@pytest.mark.parametrize("ends", [(A, B), (A6, B6)])
def test_delay(wire, delay_ms, ends):
    times = ping(wire(delay_ms=delay_ms), *ends)
    assert len(times) == 20
    assert min(times) >= 2 * delay_ms
    assert fastest(times) < 2 * delay_ms + 3, times


def test_each_way_has_its_own_delay_and_order_is_kept(wire):
    link = wire(delay_ms=40)
    link.set("ba", delay_ms=0)
    assert 40 <= fastest(ping(link)) < 42
    link.set("ab", delay_ms=0)
    assert fastest(ping(link)) < 2
    link.set(delay_ms=1)
    numbers = [n for n, _ in Flood(link, 3000, 20000).arrived]
    assert numbers == sorted(numbers)


def test_loss_is_of_single_packets_and_repeats_with_its_seed(wire):
    link = wire(loss=0.1, seed=7)
    first = [n for n, _ in Flood(link, 5000, 10000).arrived]
    assert 0.08 < 1 - len(first) / 5000 < 0.12
    pairs = sum(a + 1 == b for a, b in zip(first, first[1:]))  # both arrived: 0.9 of those
    assert 0.86 < pairs / len(first) < 0.94
    link.set("ab", loss=0)
    assert len(Flood(link, 2000, 10000).arrived) == 2000
    link.set("ab", loss=1)
    assert ping(link, count=2, timeout=0.2) == []
    assert link.stats()["ab"]["lost"] > 450 and link.stats()["ba"]["lost"] == 0


def test_rate_and_the_queue_in_front_of_it(wire):
    link = wire(delay_ms=10, rate_mbit=20, queue_ms=50)

    def fills_the_wire():  # 1266 bytes a packet on it: twice the rate
        dropped, flood = link.stats()["ab"]["dropped"], Flood(link, 4000, 4000)
        delays = sorted(delay for _, delay in flood.arrived)
        assert delays[0] >= 0.010
        assert abs(link.stats()["ab"]["dropped"] - dropped - (4000 - len(flood.arrived))) <= 5  # its end, too
        on_wire = len(flood.arrived) * (1200 + 28 + 38) * 8e-6 / (flood.seconds + 0.05)
        assert on_wire < 20.5
        # The queue was full all the time.
        return 18.5 < on_wire and 0.055 < delays[len(delays) // 2] and delays[len(delays) * 9 // 10] < 0.065
    wait_until(fills_the_wire, "a second in which nothing else holds the wire up", 30)
    link.set("ab", queue_ms=0, queue_kib=10)

    def is_short():
        delays = sorted(delay for _, delay in Flood(link, 2000, 4000).arrived)
        return delays[len(delays) * 9 // 10] < 0.010 + 10 * 1024 * 8 / 20e6 + 0.005
    wait_until(is_short, "the delays of a short queue", 30)


@pytest.mark.parametrize("rate_mbit", [50, 200])
def test_tcp_fills_the_wire(wire, rate_mbit):
    link = wire(delay_ms=5, rate_mbit=rate_mbit)
    def is_full():
        speed = download(link, 1.5)
        assert speed < 0.95 * rate_mbit
        return 0.85 * rate_mbit < speed
    wait_until(is_full, "the wire to be full, while nothing else keeps the machine from it", 30)
    assert ping(link, count=5), "the other way is free"


def test_a_cut_wire_is_silent_and_loses_what_is_on_its_way(wire):
    link = wire(delay_ms=100)
    receiver, sender = udp(link.b, B), udp(link.a)
    sender.sendto(b"on its way", receiver.getsockname())
    wait_until(lambda: link.stats()["ab"]["waiting"] == 1, "the datagram to be on its way")
    link.cut("ab")
    link.restore("ab")
    assert receiver.recv(100) == b"on its way", "restored before it was due"
    link.cut()
    sender.sendto(b"lost", receiver.getsockname())
    assert ping(link, count=2, timeout=0.2) == []
    link.restore()
    sender.sendto(b"later", receiver.getsockname())
    assert receiver.recv(100) == b"later"
    assert link.stats()["ab"]["cut"] >= 3


def test_what_it_does_not_understand_is_an_error(wire):
    link = wire()
    for way, settings in (("across", {"delay_ms": 1}), ("ab", {"delay": 1}), ("ab", {"loss": "much"}),
                          ("ab", {"rate_mbit": -1})):
        with pytest.raises(ValueError):
            link.set(way, **settings)
    assert ping(link, count=3)
