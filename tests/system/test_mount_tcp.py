"""A mount's TCP against this kernel's: the program in the mount and the target have the kernel's own, and
between the program and the mount is nothing, or a wire that loses, doubles, delays and cuts packets."""

import os
import platform
import re
import socket
import subprocess
import sys
import threading

import pytest

from lib import network, tcp_cases
from lib.process import SANITIZE, SLOW, amount, sanitizer_environment
from lib.service import TcpServer, echo
from lib.warren import program

pytestmark = pytest.mark.skipif(not network.available() or not os.path.exists("/dev/net/tun"),
                                reason="needs root and /dev/net/tun")

BAD_BYTES = 1 << 20

# How the wire is: a seed of mount-leg's --disturb, or none.
WIRES = {"a good wire": ("10.0.0.1", None), "a bad wire": ("10.0.0.1", 7), "IPv6 and a bad wire": ("fd00::1", 8)}


@pytest.fixture(scope="module")
def target():
    """A host whose addresses only a mount that starts there reaches."""
    host = network.Host("target")
    host.ip("addr", "add", "10.0.0.1/32", "dev", "lo")
    host.ip("addr", "add", "fd00::1/128", "dev", "lo", "nodad")
    host.sysctl("net.core.somaxconn", 65535)
    yield host
    host.close()


def leg(target, *argv, **kwargs):
    return subprocess.Popen(["ip", "netns", "exec", target.name, program("bench/mount-leg"), *argv],
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)


@pytest.fixture(scope="module", params=WIRES)
def results(request, target):
    """{case: what its two sides say}: all cases in one mount at once."""
    address, seed = WIRES[request.param]
    said, servers = {}, {}
    tcp_cases.BYTES = amount(4 << 20, 1 << 20)

    def handler(name):
        def serve(server, sock):
            sock.settimeout(tcp_cases.TIMEOUT * SLOW)
            try:
                tcp_cases.CASES[name].serve(sock)
            except AssertionError as error:
                said.setdefault(name, []).append(f"server: {error!r}")
            except OSError:
                pass  # a bad wire's double of an old SYN; what is missing, the client misses
        return serve
    for name in tcp_cases.CASES:
        servers[name] = TcpServer(handler(name), host=address, namespace=target.name)
    disturb = [f"--disturb={seed}"] if seed else []
    environment = {**os.environ, **sanitizer_environment(), "TCP_CASES_TIMEOUT": str(40 * SLOW),
                   "TCP_CASES_BYTES": str(tcp_cases.BYTES)}
    mount = leg(target, "-6", *disturb, "--", sys.executable, tcp_cases.__file__, address,
                *[f"{name}={server.port}" for name, server in servers.items()], env=environment)
    out, err = mount.communicate(timeout=100 * SLOW)
    for line in out.splitlines():
        name, _, text = line.partition(" ")
        said.setdefault(name, []).append(text)
    for server in servers.values():
        server.close()
    assert mount.returncode == 0, err
    assert not err, err
    return said


@pytest.mark.parametrize("case", tcp_cases.CASES)
def test_what_two_programs_do_works_as_on_a_lan(results, case):
    assert results.get(case) == ["ok"]


# Reads to the end; how much it was, and how large the largest packet on its interface.
READER = """
import socket, sys
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x800))
tap.setblocking(False)
count = largest = 0
with socket.create_connection(("10.0.0.1", int(sys.argv[1])), 60) as s:
    s.settimeout(60)
    while data := s.recv(1 << 20):
        count += len(data)
        try:
            while True:
                largest = max(largest, tap.recv_into(bytearray(1), 1, socket.MSG_TRUNC))
        except BlockingIOError:
            pass
print(count, largest)
"""


def test_bulk_comes_to_a_program_in_packets_larger_than_ip_has(target):
    size = amount(64 << 20, 16 << 20)
    server = TcpServer(lambda server, sock: sock.sendall(bytes(size)), host="10.0.0.1", namespace=target.name)
    mount = leg(target, "--", sys.executable, "-c", READER, str(server.port),
                env={**os.environ, **sanitizer_environment()})
    out, err = mount.communicate(timeout=60 * SLOW)
    server.close()
    assert mount.returncode == 0 and not err, err
    count, largest = map(int, out.split())
    assert count == size
    if tuple(map(int, platform.release().split(".")[:2])) >= (6, 3):
        assert largest > 65535, largest


# Fills the mount with whatever it can think of, until it is killed; says when it is under way.
VANDAL = """
import os, random, socket, struct, sys, threading
host, source, stalled, quiet, echo = "10.0.0.1", *map(int, sys.argv[1:])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff

def segment(flags, port, payload=b""):
    near = bytes([198, 19, random.randrange(256), random.randrange(1, 255)])
    far = socket.inet_aton(host)
    tcp = struct.pack("!HHIIBBHHH", random.randrange(1024, 65536), port, random.getrandbits(32),
                      random.getrandbits(32), 5 << 4, flags, random.getrandbits(16), 0, 0) + payload
    tcp += bytes(len(tcp) % 2)
    total = checksum(near + far + struct.pack("!HH", 6, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack("!H", total) + tcp[18:]
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, near, far) + tcp

def pour():  # invented connections that nobody goes on with, more than a mount has flows, and noise
    invented = 0
    while True:
        kind = random.randrange(4)
        if kind < 2 and invented < 40000:
            invented += 1
            data = segment(2, quiet)
        elif kind == 2:
            data = segment(random.randrange(64) & ~2, echo, os.urandom(random.randrange(200) * 2))
        else:
            data = bytearray(segment(16, echo, os.urandom(40)))
            data[random.randrange(12, len(data))] ^= 255
        raw.sendto(data, (host, 0))

def open_many(port, data):  # connections whose one or other end stands still
    kept = []
    for _ in range(300):
        s = socket.create_connection((host, port), 30)
        s.setblocking(False)
        try:
            while data:
                s.send(data)
        except BlockingIOError:
            pass
        kept.append(s)
    return kept

kept = open_many(source, b"") + open_many(stalled, bytes(1 << 16))
threading.Thread(target=pour, daemon=True).start()
print("under way", flush=True)
threading.Event().wait()
"""

# Round trips on a connection of its own and on new ones, beside the vandal.
VICTIM = """
import socket, subprocess, sys, time
vandal = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.PIPE)
assert vandal.stdout.readline() == b"under way\\n"
port, took = int(sys.argv[-1]), []
def talk(s, n):
    for i in range(n):
        began = time.monotonic()
        s.sendall(b"x" * 1000)
        left = 1000
        while left:
            left -= len(s.recv(left)) or sys.exit("the end")
        took.append(time.monotonic() - began)
try:
    with socket.create_connection(("10.0.0.1", port), 60) as s:
        s.settimeout(60)
        talk(s, 500)
        for _ in range(20):
            with socket.create_connection(("10.0.0.1", port), 60) as new:
                new.settimeout(60)
                talk(new, 5)
        talk(s, 500)
    print(f"median {sorted(took)[len(took) // 2] * 1e6:.0f} us, longest {max(took) * 1e3:.0f} ms", flush=True)
    sys.stdin.read()
finally:
    vandal.kill()
    vandal.wait()
"""


MEMORY_MAX_MIB = 600


def source_forever(server, sock):
    while True:
        sock.sendall(bytes(1 << 16))


def read_nothing(server, sock):
    server.stop.wait()


def test_a_program_that_means_harm_stops_nobody_else_and_fills_no_memory(target):
    servers = [TcpServer(handler, host="10.0.0.1", namespace=target.name)
               for handler in (source_forever, read_nothing, echo)]
    servers[1].stop = threading.Event()
    with network.inside(target.name):
        quiet = socket.create_server(("10.0.0.1", 0), backlog=65535)  # its kernel answers, nobody else
    ports = [servers[0].port, servers[1].port, quiet.getsockname()[1], servers[2].port]
    mount = leg(target, "--", sys.executable, "-c", VICTIM, VANDAL, *map(str, ports), stdin=subprocess.PIPE,
                env={**os.environ, **sanitizer_environment()})
    try:
        result = mount.stdout.readline().strip()
        with open(f"/proc/{mount.pid}/status") as f:
            peak = re.search(r"VmHWM:\s+(\d+)", f.read())
        _, err = mount.communicate("", timeout=60 * SLOW)
    finally:
        servers[1].stop.set()
        for server in [*servers, quiet]:
            server.close()
    assert "median" in result and mount.returncode == 0 and not err, err
    peak_mib = int(peak.group(1)) >> 10
    print(f"beside a program that means harm: {result}; the mount's memory {peak_mib} MiB")
    assert peak_mib < MEMORY_MAX_MIB or SANITIZE
