"""What a program hears through `warren mount` is what it hears on the LAN itself: each program runs on
the agent's host and through a mount, and what they say is compared."""

import contextlib
import os
import re
import xml.etree.ElementTree

import pytest

from lib import hear
from lib import plant as p
from lib.process import SLOW

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")

TCP_PORTS, UDP_PORTS = "7,22,53,80,443,4000,4001", "7,53,161,4001"
HOSTS4 = [p.address(n) for n in (*p.HOSTS.values(), *p.REJECTS)] + [p.FAR[0]]
HOSTS6 = [p.address6(n) for n in (*p.HOSTS.values(), *p.REJECTS)] + [p.FAR[1]]
BEYOND = list(p.BEYOND.values())


def family(version):
    return (["-6"], HOSTS6 + [b[1] for b in BEYOND], ["--ipv6"]) if version == 6 else \
        ([], HOSTS4 + [b[0] for b in BEYOND], [])


def scan_result(done):
    """{host: state} and {(host, protocol, port): (state, reason, who said so)} of nmap's XML."""
    assert done.returncode == 0, done.stderr
    hosts, ports = {}, {}
    for host in xml.etree.ElementTree.fromstring(done.stdout).iter("host"):
        name = host.find("address").get("addr")
        hosts[name] = host.find("status").get("state")
        for extra in host.iter("extraports"):
            raise AssertionError(f"ports of {name} are folded: {extra.get('state')}")
        for port in host.iter("port"):
            state = port.find("state")
            ports[name, port.get("protocol"), int(port.get("portid"))] = (
                state.get("state"), state.get("reason"), state.get("reason_ip"))
    return hosts, ports


def nmap(plant, *words, options=(), seconds=100):
    """(natively, mounted)."""
    done = plant.both("nmap", "-n", "-oX", "-", "--reason", *words, options=options,
                      seconds=seconds)
    return [scan_result(d) for d in done]


# How nmap names what connect() makes of an ICMP error, and what a scan by SYN hears of it.
AS_CONNECT = {"no-route": ("filtered", "net-unreach"), "net-prohibited": ("filtered", "net-unreach"),
              "addr-unreach": ("filtered", "host-unreach"), "host-prohibited": ("filtered", "host-unreach"),
              "admin-prohibited": ("filtered", "host-unreach"), "port-unreach": ("closed", "conn-refused"),
              "reject-route": ("filtered", "admin-prohibited")}


def said_of(runs, host):
    """What native scans said of a host's ports. An ICMP error that comes back within connect() itself, as over
    wires without any delay, is lost on nmap's scan by connect(): a scan by SYN hears it."""
    said = {value for run in runs for (h, _, _), value in run.items() if h == host}
    return {(state, why, None) for state, why, _ in said} | {
        (*AS_CONNECT[why], None) for _, why, _ in said if why in AS_CONNECT}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["-sT", "-sS", "-sU"])
def test_port_tables_of_a_scan_are_the_same(plant, kind, version):
    words, targets, options = family(version)
    ports = UDP_PORTS if kind == "-sU" else TCP_PORTS
    argv = ["-Pn", kind, "-T4", "--max-retries", "2", "-p", ports, *words, "--disable-arp-ping", *targets]
    (_, native), (_, mounted) = nmap(plant, *argv, options=options)
    assert len(native) == len(targets) * len(ports.split(","))
    runs = [native]

    def differing():
        return {key: (value, mounted.get(key)) for key, value in native.items()
                if mounted.get(key) != value and not (
                    kind == "-sT" and value[1] == "no-response" and mounted[key] in said_of(runs, key[0]))}
    if kind == "-sT" and differing():  # what the wire really said
        runs.append(nmap(plant, *["-sS" if word == kind else word for word in argv], options=options)[0][1])
    assert not differing()
    assert len({value[1] for value in mounted.values()}) >= (4 if kind == "-sU" else 6)


def test_port_tables_are_the_same_from_afar(bench, directory):
    """Through 50 ms, which nmap is told about: docs/scan.md."""
    far = bench.keep(p.Plant(directory, delay_ms=25)).start()
    _, targets, _ = family(4)
    (_, native), (_, mounted) = nmap(far, "-Pn", "-sS", "-T4", "--max-retries", "2", "--min-rtt-timeout", "500ms",
                                     "-p", TCP_PORTS, "--disable-arp-ping", *targets)
    assert mounted == native
    assert len({value[1] for value in mounted.values()}) >= 6


@pytest.mark.parametrize("version", [4, 6])
def test_host_states_of_a_sweep_are_the_same(plant, version):
    words, targets, options = family(version)
    dead = [(p.address6 if version == 6 else p.address)(n) for n in p.DEAD]
    native, mounted = nmap(plant, "-sn", "-T4", "--disable-arp-ping", *words, *targets, *dead,
                           options=options)

    def up(result):
        return {host for host, state in result[0].items() if state == "up"}
    assert up(native) == up(mounted)
    number = p.HOSTS["closed"]
    assert (p.address6 if version == 6 else p.address)(number) in up(native)
    assert not up(native) & set(dead)


TRACES = [p.FAR, (p.address(p.HOSTS["closed"]), p.address6(p.HOSTS["closed"])),
          *((p.address(n), p.address6(n)) for n in p.REJECTS), *BEYOND[:2]]


def route(done):
    """The hops of a traceroute, each with who answered and how, without times."""
    assert done.returncode == 0, done.stderr
    return [re.sub(r" +[\d.]+ ms", "", line).split() for line in done.stdout.splitlines()[1:]]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("how", [["-U", "-p", "33434"], ["-I"], ["-T", "-p", "7"]], ids=["udp", "icmp", "tcp"])
def test_traceroutes_are_the_same(plant, how, version):
    for pair in TRACES:
        target = pair[version == 6]
        # Waits for 5 s, and not a multiple of what the last hop took.
        done = plant.both_undisturbed("traceroute", f"-{version}", "-n", "-q", "1", "-w", "5,1000,1000", "-m",
                                      "3", *how, target, options=["--ipv6"] if version == 6 else [])
        native, mounted = map(route, done)
        assert native == mounted, (target, done[1].stderr)
        if pair is p.FAR:
            assert [hop[1] for hop in mounted] == [
                (p.address6 if version == 6 else p.address)(p.INNER), target]


@contextlib.contextmanager
def pinging(plant):
    """Whoever is on the agent's host may ping, without any privilege."""
    host = plant.hosts["agent"]
    host.sysctl("net.ipv4.ping_group_range", "0 2147483647")
    try:
        yield
    finally:
        host.sysctl("net.ipv4.ping_group_range", "1 0")


def ping_lines(done):
    return [re.sub(r" (time=\S+ ms|time \d+ms)|^rtt.*|pipe \d+", "", line).strip()
            for line in done.stdout.splitlines()]


@pytest.mark.parametrize("version", [4, 6])
def test_pings_are_the_same(plant, version):
    """Errors are compared below: `ping` does not always print them, on the LAN either."""
    def of(name):
        return plant.v6(name) if version == 6 else plant[name]
    for words in ([of("echo")], ["-s", "0", of("echo")], ["-s", "20000", of("echo")],
                  ["-p", "a5", "-Q", "0xb8", of("closed")], [p.FAR[version == 6]], [of("quiet")],
                  [of("dropping")], [p.BEYOND["blackhole"][version == 6]]):
        native, mounted = plant.both_undisturbed("ping", f"-{version}", "-n", "-c", "2", "-i", "0.2",
                                                 "-W", "2", *words, options=["--ipv6"] if version == 6 else [])
        assert ping_lines(native) == ping_lines(mounted), (native, mounted)
        assert native.returncode == mounted.returncode


@pytest.mark.parametrize("version", [4, 6])
def test_errors_have_their_type_code_and_sender(plant, version):
    at = p.address6 if version == 6 else p.address
    hosts = [at(n) for n in p.REJECTS] + [pair[version == 6] for pair in BEYOND] + \
        [at(p.HOSTS[name]) for name in ("closed", "dropping", "resetting")] + [at(p.DEAD[1])]
    kinds = "TCP", "UDP", "PING"
    targets = [f"{kind}/{host}/9" for kind in kinds for host in hosts]
    targets += [f"{kind}/{p.FAR[version == 6]}/{ttl}" for kind in kinds for ttl in (1, 2)]
    with pinging(plant):
        native, mounted = plant.both_undisturbed("/usr/bin/python3", hear.__file__, str(5 * SLOW), *targets,
                                                 options=["--ipv6"] if version == 6 else [])
    assert native.stdout.splitlines() == mounted.stdout.splitlines(), mounted.stderr
    assert len(native.stdout.splitlines()) == len(targets), native.stderr


@pytest.mark.parametrize("version", [4, 6])
def test_what_the_agents_own_routes_refuse_is_refused(plant, version):
    """The error has no sender there, and here comes from the way out."""
    target = f"TCP/{p.OWN['unreachable'][version == 6]}/9"
    native, mounted = plant.both("/usr/bin/python3", hear.__file__, str(5 * SLOW), target,
                                 options=["--ipv6"] if version == 6 else [])
    assert [done.stdout.split()[:2] for done in (native, mounted)] == [[target, "EHOSTUNREACH"]] * 2


def test_an_agent_without_any_privilege_pings_where_its_group_may(plant):
    with pinging(plant):
        agent = plant.hub.agent("a2", network="group", namespace=plant.hosts["agent"].name, user="65534")
        for words in (["-4", plant["echo"]], ["-6", plant.v6("echo")], ["-4", "-t", "1", p.FAR[0]],
                      ["-4", plant["quiet"]], ["-4", p.BEYOND["prohibit"][0]]):
            words = ["-n", "-c", "1", "-W", "2", *words]
            native = plant.native("ping", *words)
            mounted = plant.mounted("ping", *words, options=["--ipv6"], network="group")
            assert ping_lines(native) == ping_lines(mounted), mounted.stderr
        assert "pings through mounts" not in agent.process.log()
        agent.process.stop()


def test_an_agent_that_may_not_ping_says_so(plant):
    agent = plant.hub.agent("a3", network="mute", namespace=plant.hosts["agent"].name, user="65534")
    agent.process.wait_log("pings through mounts will not be answered.*ping_group_range")
    done = plant.mounted("ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", plant["echo"], network="mute")
    assert done.returncode == 1 and "100% packet loss" in done.stdout
    assert done.stderr.count("pings are not answered: the agent may not send them") == 1
    agent.process.stop()


def test_the_owners_ceiling_counts_for_pings(plant):
    agent = plant.hub.agent("a4", network="narrow", namespace=plant.hosts["agent"].name,
                            options=["--allow", f"{plant['echo']}/32", "--allow", f"{plant['web']}/32:80"])
    good = plant.mounted("ping", "-n", "-c", "1", "-W", "2", plant["echo"], network="narrow")
    assert good.returncode == 0, good.stdout + good.stderr
    for name in ("web", "closed"):
        bad = plant.mounted("ping", "-n", "-c", "1", "-W", "2", plant[name], network="narrow")
        assert bad.returncode == 1 and "Packet filtered" in bad.stdout, bad.stdout
    agent.process.stop()


def test_a_mount_of_a_part_pings_that_part(plant):
    """The hub cannot see what is pinged: the agent is told what it may."""
    for name, expected in (("echo", 0), ("web", 1)):
        done = plant.mounted("sh", "-c", f"ip route replace default dev warren0; ping -n -c 1 -W 2 {plant[name]}",
                             options=["--allow", f"{plant['echo']}/32"])
        assert done.returncode == expected, done.stdout + done.stderr
        assert ("Packet filtered" in done.stdout) == bool(expected)
    done = plant.mounted("ping", "-n", "-c", "1", "-W", "2", plant["echo"],
                         options=["--allow", "10.99.0.0/16", "--allow", "10.9.0.12/30", "--allow", "fd09::/64"])
    assert done.returncode == 0, done.stdout + done.stderr
