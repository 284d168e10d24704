"""Sweeps of a network, most of which is not there: through a mount, and by the agent itself.

    operator, hub 198.51.100.1 ══ 100 ms ══ agent's host 10.20.0.2 ── five hosts of 10.20.0.0/22

Times are measured beside the same sweep made on the agent's host, and printed.
"""

import contextlib
import json
import os
import subprocess
import threading
import time

import pytest

from lib import network
from lib.datagram import Snmpd
from lib.link import Link
from lib.network import Host, wire
from lib.process import SANITIZE, SLOW, run, wait_until
from lib.warren import program

HUB, ROUND_TRIP_MS = "198.51.100.1", 100
RANGE = "10.20.0.0/22"
LIVE = ["10.20.0.7", "10.20.0.250", "10.20.1.99", "10.20.2.1", "10.20.3.200"]
SILENT = "10.20.3.3"  # is there, and says nothing to anybody who asks it by IP
OPEN = {22: LIVE, 8080: LIVE[:2]}


class Site:
    """What is in the picture above."""

    def __init__(self, bench):
        self.bench = bench
        self.hub_host, self.agent_host, self.plant = (bench.keep(Host(n)) for n in ("hub", "agent", "plant"))
        self.link = bench.keep(Link(self.hub_host, [f"{HUB}/24"], self.agent_host, ["198.51.100.2/24"],
                                    delay_ms=ROUND_TRIP_MS / 2))
        wire(self.agent_host, "lan", ["10.20.0.2/22"], self.plant, "lan",
             [f"{a}/22" for a in (*LIVE, SILENT)])
        for port, addresses in OPEN.items():
            for address in addresses:
                bench.server(host=address, port=port, namespace=self.plant.name)
        self.plant.nft(f"""
            table ip f {{
                chain in {{
                    type filter hook input priority 0;
                    ip daddr {SILENT} drop
                }}
            }}""")
        self.hub = bench.hub(host=HUB, namespace=self.hub_host.name)
        self.agent = self.hub.agent("a1", network="plant", namespace=self.agent_host.name)

    def on_the_lan(self, *argv):
        return timed("ip", "netns", "exec", self.agent_host.name, *argv)

    def mounted(self, *argv):
        return timed("ip", "netns", "exec", self.hub_host.name, program("warren"), "mount", "--root",
                     "plant", "--", *argv, env=self.hub.environment())

    def scan(self, *argv, **kwargs):
        return timed("ip", "netns", "exec", self.hub_host.name, program("warren"), "scan", "plant", *argv,
                     env=self.hub.environment(), **kwargs)


def timed(*argv, env=None, check=True):
    """What it printed, and how long it took."""
    began = time.monotonic()
    done = subprocess.run(argv, env={**os.environ, **env} if env else None, capture_output=True, text=True,
                          timeout=100 * SLOW)
    assert not check or done.returncode == 0, done.stderr
    return done, time.monotonic() - began


@pytest.fixture
def table():
    """The kernel's table of neighbours, for the test alone."""
    with network.table_of_neighbours():
        yield


@pytest.fixture
def site(bench):
    if not network.available():
        pytest.skip("network namespaces need root")
    return Site(bench)


def up_hosts(nmap_greppable):
    return {line.split()[1] for line in nmap_greppable.splitlines() if "Status: Up" in line}


def open_ports(nmap_greppable):
    found = set()
    for line in nmap_greppable.splitlines():
        if "Ports: " not in line:
            continue
        for port in line.split("Ports: ")[1].split("\t")[0].split(", "):
            number, state = port.split("/")[:2]
            if state == "open":
                found.add((line.split()[1], int(number)))
    return found


def everything_open():
    return {(a, port) for port, addresses in OPEN.items() for a in addresses}


@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")
def test_a_sweep_through_a_mount_takes_about_as_long_as_on_the_lan(site):
    part = "10.20.0.0/25"  # of the same kind as the whole, which takes nmap minutes without ARP
    for words in (["-sn", part], ["-Pn", "-sT", "-p", "22,8080", part]):
        native, slow = site.on_the_lan("nmap", "-n", "-T4", "--send-ip", "--disable-arp-ping", "-oG", "-",
                                       *words)
        through, slower = site.mounted("nmap", "-n", "-T4", "-oG", "-", *words)
        print(f"nmap {' '.join(words)}: {slow:.1f} s on the LAN, {slower:.1f} s through the mount")
        assert LIVE[0] in up_hosts(through.stdout)
        assert open_ports(through.stdout) == open_ports(native.stdout)


@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")
def test_a_sweep_of_a_large_range_through_a_mount_takes_about_as_long_as_on_the_lan(table, site):
    """By a program that is told to ask for many at a time, for each costs it the distance (docs/scan.md)."""
    words = ["nmap", "-n", "-T4", "-oG", "-", "-Pn", "-sT", "-p", "22,8080", RANGE]
    native, slow = site.on_the_lan(*words, "--send-ip", "--disable-arp-ping")
    through, slower = site.mounted(*words, "--min-parallelism", "512")
    hosts, seconds = site.mounted("nmap", "-n", "-T4", "-oG", "-", "-sn", "--min-parallelism", "512", RANGE)
    print(f"nmap -sT of {RANGE}: {slow:.1f} s on the LAN, {slower:.1f} s through the mount; -sn there {seconds:.1f} s")
    assert open_ports(through.stdout) == open_ports(native.stdout) == everything_open()
    assert up_hosts(hosts.stdout) == {*LIVE, "10.20.0.2"}
    assert slower < 1.5 * slow or SANITIZE


@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")
def test_dead_addresses_delay_no_live_one(table, site):
    """Thousands of dials that nobody answers, beside connections to a host that is there."""
    text = f"""
import socket, time
live = ("{LIVE[0]}", 22)
socket.create_connection(live, 30).close()
dead = []
for n in range(3000):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((f"10.20.{{n % 4}}.{{n // 4 % 250 + 1}}", 2000 + n // 1000))
    dead.append(s)
times = []
for _ in range(20):
    began = time.monotonic()
    socket.create_connection(live, 30).close()
    times.append(time.monotonic() - began)
print(sorted(times)[10])
"""
    done, _ = site.mounted("/usr/bin/python3", "-c", text)
    median = float(done.stdout)
    print(f"a connection beside 3,000 dials to dead addresses: {median * 1000:.0f} ms")
    assert median < 10 * ROUND_TRIP_MS / 1000 * SLOW


@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")
def test_datagrams_to_dead_addresses_leave_the_machine_room(table, site):
    """Its table of neighbours has 1,024 places, which others on it need."""
    text = f"""
import socket, time
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
for n in range(1000):
    at = f"10.20.{{n % 4}}.{{n // 4 + 1}}"
    for s, to, data in ((udp, (at, 9), b"x"), (echo, (at, 0), b"\\x08" + b"\\0" * 7)):
        try:
            s.sendto(data, to)
        except OSError:
            pass
print("sent", flush=True)
live = socket.create_connection(("{LIVE[4]}", 22), 60)
print("reached", flush=True)
input()
"""
    mount = subprocess.Popen(
        ["ip", "netns", "exec", site.hub_host.name, program("warren"), "mount", "--root", "plant", "--",
         "/usr/bin/python3", "-c", text], env={**os.environ, **site.hub.environment()}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True)
    assert mount.stdout.readline() == "sent\n"
    began, most = time.monotonic(), 0

    def dials():
        return json.loads(run([program("warren-agent"), "inspect", "--data", site.agent.data]).stdout)["dials"]
    wait_until(lambda: dials()["waiting_for_neighbours"] > 0, "the agent to have too many")
    while (now := dials())["waiting_for_neighbours"]:
        most = max(most, now["neighbours"])
        assert now["neighbours"] < 800
        assert time.monotonic() - began < 60 * SLOW
    print(f"{most} at a time; all had their turn after {time.monotonic() - began:.1f} s")
    assert most > 0
    assert mount.stdout.readline() == "reached\n"
    mount.communicate("\n", timeout=60 * SLOW)


@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")
def test_a_port_scan_does_not_take_a_round_trip_a_port(site):
    done, seconds = site.mounted("nmap", "-n", "-Pn", "-sS", "-T4", "--min-rtt-timeout", "500ms", "-p", "1-10000",
                                 "-oG", "-", LIVE[0])
    print(f"10,000 ports in {seconds:.1f} s")
    assert seconds < 10000 * ROUND_TRIP_MS / 1000 / 10  # not a round trip a port
    assert open_ports(done.stdout) == {(LIVE[0], 22), (LIVE[0], 8080)}


def test_an_agent_scans_by_itself_and_tells_as_it_finds(site):
    began = time.monotonic()
    done, seconds = site.scan(RANGE, "--ports", "22,80,8080", "-o", "json")
    hosts = {h["address"]: h for h in map(json.loads, done.stdout.splitlines())}
    print(f"{RANGE} scanned in {seconds:.1f} s: {done.stderr.strip()}")
    assert set(hosts) == {*LIVE, SILENT, "10.20.0.2"}
    assert hosts[SILENT]["found_by"] == "arp" and "rtt_ms" not in hosts[SILENT]
    assert hosts[SILENT]["filtered"] == 3
    assert {(a, p["port"]) for a, h in hosts.items() for p in h["ports"]} == everything_open()
    assert sorted(hosts[a]["rtt_ms"] for a in LIVE)[2] < ROUND_TRIP_MS * SLOW  # the LAN's, not the way's to it
    assert {len(hosts[a]["mac"]) for a in LIVE} == {17}
    assert "1024 addresses, 7 up" in done.stderr
    audit = [a for a in site.hub.admin.items("/api/v1/audit") if a["action"] == "network.scan"]
    assert [a["detail"] for a in audit] == [f"{RANGE}, 3 ports"]


def test_a_scan_takes_about_as_long_as_the_native_sweep(table, site):
    """Of a range of which nearly nothing is there: by ARP, which is the fastest that nmap has. The second agent may
    do no more than any user's program."""
    site.agent.process.stop()
    for user in (None, "65534"):
        agent = site.hub.agent(f"by-{user}", network="plant", namespace=site.agent_host.name, user=user)
        for _ in range(3):  # should the machine be busy with other things
            room = network.neighbours_room()
            native, native_s = site.on_the_lan("nmap", "-n", "-sn", "-oG", "-", RANGE)
            done, seconds = site.scan(RANGE, "-q")
            if seconds < 1.5 * native_s:
                break
            with contextlib.suppress(AssertionError):
                wait_until(lambda: network.neighbours_room() > 900, "others to leave the table", 15)
        room = min(room, network.neighbours_room())
        print(f"{RANGE}: {native_s:.1f} s natively, by ARP; {seconds:.1f} s by an agent of user {user or 'root'}; "
              f"others left {room} entries of the table")
        assert set(done.stdout.split()) == up_hosts(native.stdout) == {*LIVE, SILENT, "10.20.0.2"}
        # Without ARP of its own it has what others leave: three turns instead of two take longer than that.
        assert seconds < 1.5 * native_s or SANITIZE or (user and room < 850)
        agent.process.stop()


def test_a_scan_is_not_slow_for_long_in_a_table_that_others_have_filled(table, site):
    """With what never answered them and the kernel would throw out, so that nobody else is harmed: the agent, which may
    do no more than any user's program, cannot see that at first."""
    site.agent.process.stop()
    site.hub.agent("by-nobody", network="plant", namespace=site.agent_host.name, user="65534")
    other, n = site.bench.keep(Host("other")), network.neighbours_room() - 60
    wire(other, "eth0", ["10.66.0.1/16"], site.plant, "other", [])
    other.batch(f"neigh add 10.66.{i >> 8}.{i & 255} dev eth0 nud failed" for i in range(2, n + 2))
    before = network.neighbours_room()
    done, seconds = site.scan(RANGE, "-q")
    print(f"{RANGE}: {seconds:.1f} s where {n} entries were others'; room was {before}, is {network.neighbours_room()}")
    assert set(done.stdout.split()) == {*LIVE, SILENT, "10.20.0.2"}
    assert seconds < 30 * SLOW  # 60 entries, three seconds each, are not enough for that


def test_a_host_that_says_nothing_is_found_each_time(site):
    """Its hardware address is known from the time before, and no longer trusted."""
    assert site.scan("-q", SILENT)[0].stdout == f"{SILENT}\n"
    site.agent_host.ip("neigh", "change", SILENT, "dev", "lan", "nud", "stale")
    assert site.scan("-q", SILENT)[0].stdout == f"{SILENT}\n"


def test_a_table_has_a_row_for_each_host(site):
    done, _ = site.scan("10.20.0.0/29", "10.20.0.250", "--ports", "22,8080")
    lines = done.stdout.splitlines()
    assert lines[0].split()[0] == "ADDRESS"
    rows = {line.split()[0]: line for line in lines[1:]}
    assert set(rows) == {"10.20.0.2", "10.20.0.7", "10.20.0.250"}
    assert "22,8080" in rows["10.20.0.250"]
    assert site.scan("-q", "10.20.0.250")[0].stdout == "10.20.0.250\n"


def test_the_owners_ceiling_counts_for_every_probe(site):
    site.agent.process.stop()
    wait_until(lambda: site.agent.identity()["status"]["phase"] != "online", "the agent to be gone")
    site.agent.process.argv += ["--allow", "10.20.0.0/24:22", "--allow", "10.20.1.0/24"]
    site.agent.start().wait_online()
    site.agent_host.nft("""
        table ip w {
            chain out {
                type filter hook output priority 0
                ip daddr 10.20.2.0/23 counter
                ip daddr 10.20.0.0/24 ip daddr != 10.20.0.2 tcp dport != 22 counter
            }
        }""")
    done, _ = site.scan(RANGE, "--ports", "22,8080", "-o", "json")
    hosts = {h["address"]: h for h in map(json.loads, done.stdout.splitlines())}
    assert {(a, p["port"]) for a, h in hosts.items() for p in h["ports"]} == {
        (LIVE[0], 22), (LIVE[1], 22), (LIVE[2], 22)}
    assert "512 outside what the agent's owner allows" in done.stderr
    rules = run(["ip", "netns", "exec", site.agent_host.name, "nft", "list", "table", "ip", "w"]).stdout
    assert rules.count("packets 0 bytes 0") == 2, rules


def test_snmp_tells_who_it_is(site, directory):
    site.bench.keep(Snmpd(directory, host=LIVE[0], namespace=site.plant.name, port=161))

    def asked(community):
        done, _ = site.scan("10.20.0.0/28", "--snmp", community, "-o", "json")
        return {h["address"]: h.get("snmp") for h in map(json.loads, done.stdout.splitlines())}
    assert asked("public")[LIVE[0]] == {"name": os.uname().nodename, "description": " ".join(os.uname())}
    assert asked("guessed")[LIVE[0]] is None
    for text in (site.agent.process.log(), site.hub.process.log(),
                 json.dumps(site.hub.admin.items("/api/v1/audit"))):
        assert "network.scan" not in text or "SNMP" in text
        assert "guessed" not in text


def test_a_scan_ends_with_whoever_asked_for_it(site):
    """Ctrl-C: the agent sends no probe any more."""
    scan = subprocess.Popen(
        ["ip", "netns", "exec", site.hub_host.name, program("warren"), "scan", "plant", "10.20.0.0/16",
         "--rate", "200", "-o", "json"], env=site.hub.environment(), stdout=subprocess.PIPE, text=True)
    first = threading.Timer(60 * SLOW, scan.kill)
    first.start()
    assert json.loads(scan.stdout.readline())["address"]  # as it finds them
    scan.terminate()
    scan.wait()
    first.cancel()

    wait_until(lambda: "10.20" not in run(
        ["ip", "netns", "exec", site.agent_host.name, "ss", "-Htn", "state", "syn-sent"]).stdout,
        "the agent to stop", 30)


def test_bad_requests_say_which_member(site):
    for words, code, text in ((["10.0.0.0/8"], 1, "65536 addresses"), (["somewhere"], 1, "no range"),
                              ([RANGE, "--ports", "no"], 1, "list of ports")):
        done, _ = site.scan(*words, check=False)
        assert done.returncode != 0 and text in done.stderr, done
    done = run([program("warren"), "scan", "nowhere", RANGE], env=site.hub.environment(),
               namespace=site.hub_host.name, check=False)
    assert "no network 'nowhere'" in done.stderr
