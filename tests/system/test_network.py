"""Agents of one LAN find each other and end up with one network (docs/networks.md)."""

import os
import shutil
import socket
import struct
import time

import dns.message
import dns.rdatatype
import pytest

from lib import network
from lib.network import hear_all, hear_not, inside, lose_multicast
from lib.process import SLOW, wait_until
from lib.service import connect, exchange, serves
from lib.warren import Agent, Problem, endpoint

pytestmark = pytest.mark.skipif(not network.available(), reason="network namespaces need root")


@pytest.fixture
def lans(bench):
    return bench.keep(network.Lans())


@pytest.fixture
def hub(bench, lans):
    return bench.hub(host=lans.HUB, namespace=lans.hub.name)


def token(hub, **more):
    """A bootstrap token that names no network."""
    body = {"uses": None, **more} if more.get("kind") != "api" else more
    return hub.admin.post("/api/v1/tokens", body)["token"]


def enrolled(hub, name, secret, host, options=(), user=None):
    """An agent that has yet to be started."""
    agent = Agent(hub, os.path.join(hub.directory, name), name, host.name, options, user)
    agent.enroll(secret)
    agent.host = host
    return agent


def started(hub, name, secret, host, options=(), user=None):
    agent = enrolled(hub, name, secret, host, options, user)
    agent.start()
    agent.wait_online()
    return agent


def networks_of(hub, agents):
    """{agent's name: its network}; one call, however many they are."""
    found = {a["name"]: a["network"] for a in hub.admin.items("/api/v1/agents?page_size=500")}
    return {a.name: found[a.name] for a in agents}


def wait_one_network(hub, agents, seconds=30):
    def one():
        ids = set(networks_of(hub, agents).values())
        return ids.pop() if len(ids) == 1 else None
    return wait_until(one, "one network for all", seconds, every=0.1)


def sightings(hub, agent):
    """{name: mutual} of whom the agent hears."""
    return {s["name"]: s["mutual"] for s in hub.admin.get(f"/api/v1/agents/{agent.name}")["sightings"]}


def wait_sees(hub, agent, *names, seconds=20):
    wait_until(lambda: all(sightings(hub, agent).get(n) for n in names),
               f"{agent.name} and {names} to hear each other", seconds, every=0.1)


def heard_at(hub, agent, start):
    """Names of those that it hears both ways, at addresses that begin so."""
    return {s["name"] for s in hub.admin.get(f"/api/v1/agents/{agent.name}")["sightings"]
            if s["mutual"] and s["address"].startswith(start)}


def refused(hub, agent):
    discovery = hub.admin.get(f"/api/v1/agents/{agent.name}")["status"]["discovery"]
    return discovery["beacons"]["refused"] if discovery else {}


def without_ipv6(host):
    host.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
    return host


# ---- what they come to ----

def test_two_agents_of_one_lan_get_one_network_and_the_hub_says_why(lans, hub):
    lan, secret = lans.lan(7), token(hub)
    agents = [started(hub, f"a{i}", secret, lan.host()) for i in range(2)]
    first = wait_one_network(hub, agents)
    shown = hub.admin.get(f"/api/v1/networks/{first}")
    assert shown["automatic"] and shown["status"]["agents"]["total"] == 2
    alias, = shown["aliases"]
    assert "10.7.0.0/24" in alias["reason"] and "a0" in alias["reason"] and "a1" in alias["reason"]
    for ref in (alias["id"], alias["name"]):
        assert hub.admin.get(f"/api/v1/networks/{ref}")["id"] == first

    pair, = wait_until(lambda: hub.admin.get(f"/api/v1/networks/{first}")["sightings"], "a sighting")
    assert pair["prefix"] == "10.7.0.0/24"
    assert {a["address"] for a in pair["agents"]} == {"10.7.0.10", "10.7.0.11"}
    moved = [a for a in hub.admin.items("/api/v1/agents") if a["status"]["placement"]["by"] == "merge"]
    assert len(moved) == 1 and "10.7.0.0/24" in moved[0]["status"]["placement"]["reason"]
    row, = [row for row in hub.admin.items("/api/v1/audit") if row["action"] == "network.merge"]
    assert row["actor"]["id"] == "hub" and alias["id"] in row["detail"]
    assert hub.metric("warren_network_merges_total") == 1
    # and all of it is still so after a restart
    hub.process.stop()
    hub.start()
    assert hub.admin.get(f"/api/v1/networks/{alias['id']}")["aliases"][0]["reason"] == alias["reason"]
    assert set(networks_of(hub, agents).values()) == {first}


def test_it_needs_no_privilege_and_leaves_the_port_to_a_responder_of_the_machine(lans, hub):
    lan, secret = lans.lan(7), token(hub)
    host = lan.host()
    with inside(host.name):  # as avahi and systemd-resolved have it
        responder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        responder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        responder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        responder.bind(("0.0.0.0", 5353))
        responder.settimeout(5)
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    agents = [started(hub, f"a{i}", secret, where, user=65534)
              for i, where in enumerate((host, lan.host()))]
    wait_one_network(hub, agents)
    sender.sendto(b"for the responder", (host.addresses["eth0"], 5353))
    while (got := responder.recv(2000)) != b"for the responder":
        assert b"_warren" in got  # multicast reaches both
    responder.close()
    sender.close()


@pytest.mark.parametrize("unheard", ["ipv4", "ipv6"])
def test_either_address_family_is_enough(lans, hub, unheard):
    lan, secret = lans.lan(7), token(hub)
    hosts = [lan.host() for _ in range(2)]
    for host in hosts:
        host.nft(f"""
            table inet one {{
                chain in {{
                    type filter hook input priority 0; meta nfproto {unheard} udp dport 5353 drop
                }}
            }}""")
    agents = [started(hub, f"a{i}", secret, host) for i, host in enumerate(hosts)]
    wait_one_network(hub, agents)
    pair, = wait_until(
        lambda: hub.admin.get("/api/v1/networks/" + agents[0].identity()["network"])["sightings"],
        "a sighting")
    assert all(("fe80" in a["address"]) == (unheard == "ipv4") for a in pair["agents"])


def test_a_watcher_of_dns_sd_sees_a_service_that_resolves(lans, hub):
    lan = lans.lan(7)
    watcher = Capture(lan.host())
    agent = started(hub, "a0", token(hub), lan.host())
    address = agent.host.addresses["eth0"]

    def announced():
        return [f for s, f in watcher.beacons() if s == address]
    frame = wait_until(announced, "an announcement", 20)[0]
    packet, records = frame[42:], {}
    for kind in (b"\0\x01", b"\0\x10", b"\0\x21"):  # of which caches keep one only (RFC 6762, 10.2)
        packet = packet.replace(kind + b"\x80\x01\0\0", kind + b"\0\x01\0\0")
    for rrset in dns.message.from_wire(packet).answer:
        records.setdefault(dns.rdatatype.to_text(rrset.rdtype), []).append(rrset)
    instance = str([r for r in records["PTR"] if str(r.name) == "_warren._udp.local."][0][0])
    assert instance.endswith("._warren._udp.local.")
    assert str(records["SRV"][0].name) == str(records["TXT"][0].name) == instance
    host = str(records["SRV"][0][0].target)
    assert str(records["A"][0].name) == host and str(records["A"][0][0]) == address


@pytest.mark.parametrize("count,loss", [(3, 0), (8, 40), (50, 0)])
def test_any_number_that_start_at_once_get_one_network(lans, hub, count, loss):
    lan, secret = lans.lan(7), token(hub)
    hosts = [lan.host() for _ in range(count)]
    agents = [enrolled(hub, f"a{i}", secret, host) for i, host in enumerate(hosts)]
    if loss:
        for host in hosts:
            lose_multicast(host, loss)
    before = time.monotonic()
    for agent in agents:
        agent.start()
    one = wait_one_network(hub, agents, 60)
    print(f"{count} agents, {loss} % lost: one network after {time.monotonic() - before:.1f} s")
    assert len(hub.admin.items("/api/v1/networks?page_size=500")) == 1
    assert hub.metric("warren_network_merges_total") == count - 1
    for agent in agents:
        agent.process.stop()
        agent.start()
    for agent in agents:
        agent.wait_online(30)
    assert set(networks_of(hub, agents).values()) == {one}
    assert hub.metric("warren_network_merges_total") == count - 1


def test_a_merge_moves_tunnels_and_cuts_no_stream(bench, lans, hub):
    lan, secret = lans.lan(7), token(hub)
    hosts = [without_ipv6(lan.host()) for _ in range(2)]
    hear_not(hosts[1], ["10.7.0.10"])
    agents = [started(hub, f"a{i}", secret, host) for i, host in enumerate(hosts)]
    ids = networks_of(hub, agents)
    tunnels = []
    for agent, host in zip(agents, hosts):
        server = bench.server(host="127.0.0.1", namespace=host.name)
        tunnels.append(hub.tunnel(server.address, name=f"t-{agent.name}", network=ids[agent.name]))
    socks = [connect(endpoint(t), namespace=lans.hub.name) for t in tunnels]
    for sock in socks:
        assert exchange(sock, b"before") == b"before"
    hear_all(hosts[1])
    one = wait_one_network(hub, agents)
    assert one == ids["a0"], "both have tunnels: the older survives"
    for sock in socks:
        assert exchange(sock, b"after") == b"after"
    for t in tunnels:
        assert hub.admin.get(f"/api/v1/tunnels/{t['id']}")["spec"]["target"]["network"] == one
    # a tunnel may still be made by the id that is an alias now
    made = hub.tunnel("127.0.0.1:1", name="late", network=ids["a1"], wait=False)
    assert made["spec"]["target"]["network"] == one
    listed = hub.admin.items(f"/api/v1/tunnels?network={ids['a1']}")
    assert {t["name"] for t in listed} == {"t-a0", "t-a1", "late"}


def test_a_split_changes_nothing_and_a_join_merges_once(lans, hub):
    lan, secret = lans.lan(7), token(hub)
    hosts = [without_ipv6(lan.host()) for _ in range(4)]
    addresses = [host.addresses["eth0"] for host in hosts]

    def split():
        for host in hosts[:2]:
            hear_not(host, addresses[2:])
        for host in hosts[2:]:
            hear_not(host, addresses[:2])

    split()
    agents = [started(hub, f"a{i}", secret, host) for i, host in enumerate(hosts)]
    wait_one_network(hub, agents[:2])
    wait_one_network(hub, agents[2:])
    assert len(set(networks_of(hub, agents).values())) == 2
    for host in hosts:
        hear_all(host)
    one = wait_one_network(hub, agents)
    assert hub.metric("warren_network_merges_total") == 3
    split()
    for agent in agents:  # whoever starts anew hears its own half only
        agent.process.stop()
        agent.start()
    wait_sees(hub, agents[0], "a1")
    wait_sees(hub, agents[2], "a3")
    assert "a2" not in sightings(hub, agents[0])
    assert set(networks_of(hub, agents).values()) == {one}
    for host in hosts:
        hear_all(host)
    wait_sees(hub, agents[0], "a1", "a2", "a3", seconds=60)
    assert set(networks_of(hub, agents).values()) == {one}
    assert hub.metric("warren_network_merges_total") == 3
    assert hub.metric("warren_agent_moves_total") == 0


# ---- named networks, and what an operator orders ----

def test_two_named_networks_on_one_lan_stay_two_until_an_operator_merges_them(lans, hub):
    lan = lans.lan(7)
    agents = [started(hub, f"a{i}", hub.bootstrap_token(name), lan.host())
              for i, name in enumerate(("red", "blue"))]
    reason = wait_until(lambda: hub.admin.get("/api/v1/networks/red")["status"]["reason"], "a reason")
    assert "blue" in reason and "warren network merge" in reason
    assert len(set(networks_of(hub, agents).values())) == 2
    # an automatic one joins a named one without being asked
    wait_sees(hub, agents[0], "a1")
    done = hub.cli("network", "merge", "red", "blue", "-o", "json")
    assert done["name"] == "blue" and not done["automatic"]
    assert [a["name"] for a in done["aliases"]] == ["red"]
    assert wait_one_network(hub, agents) == done["id"]
    assert hub.admin.get("/api/v1/networks/red")["status"]["reason"] is None
    # a token for the old name leads to the merged one
    assert hub.admin.post("/api/v1/tokens", {"network": "red"})["network"] == done["id"]
    late = started(hub, "late", token(hub), lan.host())
    assert wait_one_network(hub, [*agents, late]) == done["id"]
    with pytest.raises(Problem) as problem:
        hub.admin.post("/api/v1/networks/red:merge", {"into": "blue"})
    assert problem.value.status == 409
    with pytest.raises(Problem) as problem:
        hub.admin.post("/api/v1/networks/red:merge", {"into": "nowhere"})
    assert problem.value.status == 400 and problem.value.body["field"] == "into"


def test_an_operator_splits_a_network_by_moving_an_agent(lans, hub):
    lan, secret = lans.lan(7), token(hub)
    agents = [started(hub, f"a{i}", secret, lan.host()) for i in range(2)]
    one = wait_one_network(hub, agents)
    hub.admin.post("/api/v1/networks", {"name": "other"})
    moved = hub.cli("agent", "move", "a1", "other", "-o", "json")
    assert moved["status"]["placement"]["by"] == "operator"
    agents[1].wait_online()
    wait_sees(hub, agents[0], "a1")
    assert networks_of(hub, agents)["a0"] == one != networks_of(hub, agents)["a1"]
    done = hub.cli("agent", "move", "a1", "other", check=False)
    assert done.returncode == 5 and "already" in done.stderr


def test_without_discovery_an_agent_neither_speaks_nor_is_merged(lans, hub):
    lan, secret = lans.lan(7), token(hub)
    watcher = Capture(lan.host())
    quiet = started(hub, "quiet", secret, lan.host(), ["--no-discovery"])
    assert hub.admin.get("/api/v1/agents/quiet")["status"]["discovery"]["enabled"] is False
    agents = [started(hub, f"a{i}", secret, lan.host()) for i in range(2)]
    wait_one_network(hub, agents)
    assert networks_of(hub, [quiet])["quiet"] not in networks_of(hub, agents).values()
    senders = {source for source, _ in watcher.packets()}
    assert quiet.host.addresses["eth0"] not in senders
    assert agents[0].host.addresses["eth0"] in senders


# ---- machines that are copied or carried about ----

def copy_of(agent, host):
    """Another machine with the agent's data folder."""
    twin = Agent(agent.hub, agent.directory + "-twin", agent.name, host.name)
    shutil.copytree(agent.data, twin.data, ignore=shutil.ignore_patterns("*.sock"))
    twin.host = host
    return twin


@pytest.mark.parametrize("same_lan", [True, False])
def test_a_cloned_machine_is_told(lans, hub, same_lan):
    lan = lans.lan(7)
    agent = started(hub, "a0", token(hub), lan.host())
    twin = copy_of(agent, (lan if same_lan else lans.lan(8)).host()).start()

    def told():
        status = hub.admin.get("/api/v1/agents/a0")["status"]
        return status["reason"]
    # Apart, they are told by their sessions: each waits half a minute before it takes it back.
    reason = wait_until(told, "the clone to be told", 100, every=0.2)
    assert "copied" in reason and "enroll --force" in reason
    row, = [row for row in hub.admin.items("/api/v1/audit") if row["action"] == "agent.clone"]
    assert row["object"] == agent.id
    assert hub.metric("warren_agent_clones_total") == 1
    assert hub.process.wait_log("in use twice")
    if same_lan:
        wait_until(lambda: "bears this agent's identity" in agent.process.log() + twin.process.log(),
                   "an agent's own log to say so")


def test_a_laptop_that_is_carried_to_another_lan_leaves_its_old_network_alone(bench, lans, hub):
    home, office, secret = lans.lan(7), lans.lan(8), token(hub)
    laptop_host = home.host()
    laptop = started(hub, "laptop", secret, laptop_host)
    stays = started(hub, "stays", secret, home.host())
    at_home = wait_one_network(hub, [laptop, stays])
    others = [started(hub, f"o{i}", secret, office.host()) for i in range(2)]
    at_office = wait_one_network(hub, others)
    servers = {"home": bench.server(host="127.0.0.1", namespace=stays.host.name),
               "office": bench.server(host="127.0.0.1", namespace=others[0].host.name)}
    tunnel = hub.tunnel(servers["home"].address, name="at-home", network=at_home)
    hub.tunnel(servers["office"].address, name="at-office", network=at_office)

    home.unplug(laptop_host)
    office.plug(laptop_host)
    wait_until(lambda: networks_of(hub, [laptop])["laptop"] == at_office, "the laptop to move", 60)
    shown = hub.admin.get("/api/v1/agents/laptop")["status"]["placement"]
    assert shown["by"] == "move" and "10.8.0" in shown["reason"]
    assert networks_of(hub, [stays, *others]) == {"stays": at_home, "o0": at_office, "o1": at_office}
    assert hub.admin.get("/api/v1/tunnels/at-home")["spec"]["target"]["network"] == at_home

    def served_by_those_at_home():
        return hub.admin.get("/api/v1/tunnels/at-home")["status"]["phase"] == "active"
    wait_until(served_by_those_at_home, "the tunnel to be served at home", 30)
    wait_until(lambda: serves(endpoint(tunnel), lans.hub.name), "the tunnel to work", 30)
    merges = hub.metric("warren_network_merges_total")

    office.unplug(laptop_host)
    home.plug(laptop_host)
    wait_until(lambda: networks_of(hub, [laptop])["laptop"] == at_home, "the laptop to be back", 60)
    assert hub.metric("warren_network_merges_total") == merges == 2
    assert hub.metric("warren_agent_moves_total") == 2


def test_two_laptops_on_a_visit_do_not_take_their_network_along(lans, hub):
    home, office, secret = lans.lan(7), lans.lan(8), token(hub)
    hosts = [home.host() for _ in range(3)]
    agents = [started(hub, f"a{i}", secret, host) for i, host in enumerate(hosts)]
    at_home = wait_one_network(hub, agents)
    others = [started(hub, f"o{i}", secret, office.host()) for i in range(2)]
    at_office = wait_one_network(hub, others)
    for host in hosts[:2]:
        home.unplug(host)
        office.plug(host)
    wait_until(lambda: set(networks_of(hub, agents[:2]).values()) == {at_office}, "both to move", 60)
    assert networks_of(hub, [agents[2]])["a2"] == at_home
    assert set(networks_of(hub, others).values()) == {at_office}


def test_a_lan_that_gets_new_addresses_stays_one_network(lans, hub):
    old, new, secret = lans.lan(7), lans.lan(8), token(hub)
    hosts = [old.host() for _ in range(3)]
    agents = [started(hub, f"a{i}", secret, host) for i, host in enumerate(hosts)]
    one = wait_one_network(hub, agents)
    for host in hosts:
        old.unplug(host)
        new.plug(host)
    for agent in agents:  # what they heard on the old addresses is forgotten only by and by
        wait_until(lambda agent=agent: heard_at(hub, agent, "10.8.") == {a.name for a in agents} - {agent.name},
                   f"{agent.name} to hear the others at their new addresses", 60, every=0.1)
    late = started(hub, "late", secret, new.host())
    assert wait_one_network(hub, [*agents, late]) == one, "they are at home there"


def test_an_agent_between_two_lans_does_not_make_them_one(lans, hub):
    red, blue, secret = lans.lan(7), lans.lan(8), token(hub)
    router = red.host()
    blue.plug(router, "eth1", is_default=False)
    reds = [started(hub, f"red{i}", secret, red.host()) for i in range(2)]
    blues = [started(hub, f"blue{i}", secret, blue.host()) for i in range(2)]
    ids = {wait_one_network(hub, reds), wait_one_network(hub, blues)}
    both = started(hub, "both", secret, router)
    wait_until(lambda: networks_of(hub, [both])["both"] in ids, "it to join one of them")
    wait_sees(hub, both, "red0", "red1", "blue0", "blue1")
    assert len({*networks_of(hub, reds).values(), *networks_of(hub, blues).values()}) == 2


# ---- who may know what ----

class Capture:
    """Every UDP packet to port 5353 that reaches a host: (source address, whole frame)."""

    def __init__(self, host):
        with inside(host.name):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.setblocking(False)
        self.seen = []

    def packets(self):
        while True:
            try:
                frame = self.socket.recv(65535)
            except BlockingIOError:
                return self.seen
            if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[36:38] == b"\x14\xe9":
                self.seen.append((socket.inet_ntoa(frame[26:30]), frame))
            elif frame[12:14] == b"\x86\xdd" and frame[20] == 17 and frame[56:58] == b"\x14\xe9":
                self.seen.append((socket.inet_ntop(socket.AF_INET6, frame[22:38]), frame))

    def beacons(self):
        return [(s, f) for s, f in self.packets() if b"\x02b=" in f or b"b=" in f]


def ones_sum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[:len(data) & ~1])) + (data[-1] << 8 if len(data) & 1 else 0)
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total


def with_checksums(frame):
    """A frame as it was captured has none of its own yet: the sender's kernel leaves that to the card."""
    if frame[12:14] == b"\x08\x00":
        ip = frame[14:24] + b"\0\0" + frame[26:34]
        ip = ip[:10] + struct.pack("!H", ~ones_sum(ip) & 0xffff) + ip[12:]
        return frame[:14] + ip + frame[34:40] + b"\0\0" + frame[42:]
    udp = frame[54:60] + b"\0\0" + frame[62:]
    pseudo = frame[22:54] + struct.pack("!II", len(udp), 17)
    return frame[:60] + struct.pack("!H", ~ones_sum(pseudo + udp) & 0xffff) + frame[62:]


def inject(host, frame):
    frame = with_checksums(frame)
    with inside(host.name):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sock.bind(("eth0", 0))
        sock.send(frame)
        sock.close()


def test_tenants_on_one_lan_do_not_see_each_other_and_a_watcher_learns_nothing(lans, hub):
    lan = lans.lan(7)
    watcher = Capture(lan.host())
    tenant = hub.admin.post("/api/v1/tenants", {"name": "other"})
    mine, theirs = token(hub), token(hub, tenant="other")
    admin_of_theirs = hub.rest(token(hub, tenant="other", kind="api"))
    a = [started(hub, f"a{i}", mine, lan.host()) for i in range(2)]
    b = [enrolled(hub, f"b{i}", theirs, lan.host()) for i in range(2)]
    for agent in b:
        agent.start()

    def they_are_one():
        found = admin_of_theirs.items("/api/v1/agents")
        return len({x["network"] for x in found}) == 1 and found
    others = wait_until(they_are_one, "the others to share a network of their own", 30)
    one = wait_one_network(hub, a)
    wait_sees(hub, a[0], "a1")
    assert set(sightings(hub, a[0])) == {"a1"}
    wait_until(lambda: refused(hub, a[0]).get("foreign"), "their beacons to be refused")

    frames = watcher.beacons()
    assert {s for s, _ in frames} >= {x.host.addresses["eth0"] for x in (*a, *b)}
    ids = [one, tenant["id"]] + [x["id"] for x in (*hub.admin.items("/api/v1/agents"), *others)] + [
        x["id"] for x in hub.admin.items("/api/v1/networks")]
    names = [x.name for x in (*a, *b)]
    for _, frame in watcher.packets():
        for secret in ids:
            assert secret.encode() not in frame and secret.split("_")[1].encode() not in frame
        payload = frame[42:]
        for name in names:
            assert b"\x02" + name.encode() not in payload and name.encode() + b"." not in payload
    # Two beacons of one agent have nothing in common but their name in DNS, which it draws anew.
    blobs = [f[f.index(b"b=") + 2:f.index(b"b=") + 2 + 124] for _, f in frames]
    assert len(set(blobs)) == len(blobs)
    for size in (8, 12):
        parts = [blob[i:i + size] for blob in blobs for i in range(0, 124 - size)]
        assert len(set(parts)) == len(parts)
    assert len({len(f[f.index(b"v=1"):]) for _, f in frames if f[12:14] == b"\x08\x00"}) == 1


def test_forged_and_replayed_beacons_are_refused_and_counted(lans, hub):
    lan, far, secret = lans.lan(7), lans.lan(8), token(hub)
    watcher_host, far_host = lan.host(), far.host()
    watcher = Capture(watcher_host)
    victim = started(hub, "victim", secret, far.host())
    agents = [started(hub, f"a{i}", secret, lan.host()) for i in range(2)]
    one = wait_one_network(hub, agents)

    def copied(source):
        return wait_until(lambda: [f for s, f in watcher.beacons() if s.startswith(source)],
                          f"a beacon from {source}", 20)[-1]
    v4, v6 = copied(agents[0].host.addresses["eth0"]), copied("fe80")

    # a copy on another subnet; one whose seal is broken; one that is heard a second time
    inject(far_host, v4)
    at = v4.index(b"b=") + 40
    broken = v4[:at] + bytes([v4[at] ^ 1]) + v4[at + 1:]
    inject(far_host, broken)
    inject(far_host, v6)
    inject(far_host, v6)
    wait_until(lambda: refused(hub, victim).get("elsewhere"), "the copy to be refused", 20)

    def all_told():
        got = refused(hub, victim)
        return got["elsewhere"] == 1 and got["foreign"] == 1 and got["replayed"] >= 1
    wait_until(all_told, "each to be counted")
    assert hub.metric("warren_lan_beacons_refused_total") >= 3
    # Link-local addresses are alike everywhere: that copy was heard, but nobody hears the victim.
    heard = sightings(hub, victim)
    assert heard and not any(heard.values())
    assert networks_of(hub, [victim])["victim"] != one
    # from beyond the link
    agents[0].process.stop()
    inject(watcher_host, v4[:22] + b"\x40" + v4[23:])
    agents[0].start()
    wait_sees(hub, agents[1], "a0", seconds=30)
    assert refused(hub, agents[1])["replayed"] == 0


def test_a_flood_of_beacons_leaves_the_agent_responsive(bench, lans, hub):
    lan, secret = lans.lan(7), token(hub)
    attacker = lan.host()
    agent = started(hub, "a0", secret, lan.host())
    before = agent.process.rss_kib()
    packet = forged_packet()
    with inside(attacker.name):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF,
                        socket.inet_aton(attacker.addresses["eth0"]))
        for _ in range(5000):
            sock.sendto(packet(), ("224.0.0.251", 5353))
        sock.close()
    friend = started(hub, "a1", secret, lan.host())
    wait_one_network(hub, [agent, friend])
    wait_until(lambda: refused(hub, agent).get("foreign"), "the forged ones to be counted")
    assert agent.process.rss_kib() - before < 1024 * (1 if SLOW == 1 else 40)


def forged_packet():
    """Makes DNS-SD answers with random beacons and random names."""
    service = b"\x07_warren\x04_udp\x05local\0"

    def make():
        label = os.urandom(8).hex().encode()
        txt = b"\x03v=1" + bytes([126]) + b"b=" + os.urandom(124)
        name = bytes([len(label)]) + label + service
        return (struct.pack("!6H", 0, 0x8400, 0, 1, 0, 0) + name +
                struct.pack("!HHIH", 16, 0x8001, 120, len(txt)) + txt)
    return make
