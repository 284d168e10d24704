"""A customer's LAN with a host for every way to answer, an agent on it, a hub and an operator outside.

    operator ── hub host ══ router ── switch ─┬─ agent's host
                        (delay, loss)  (NAT)   ├─ web, snmp, ssh, dns, echo, closed, dropping, ...
                                               ├─ one host with an address for each way to reject
                                               └─ inner router ── far host

    plant = Plant(directory, delay_ms=25).start()
    plant.native("nmap", ..., plant["web"])        # on the agent's host
    plant.mounted("nmap", ..., plant["web"])       # the operator's `warren mount plant -- nmap ...`

`plant["web"]` is an IPv4 address, `plant.v6("web")` the other one. No host limits how often it reports
errors, and routers know their neighbours (lib/network.py says why), so that two runs see the same.
"""

import concurrent.futures
import os
import subprocess
import tempfile

from lib.datagram import Dnsmasq, Snmpd, UdpServer
from lib.link import Link
from lib.network import Host, losses, wire
from lib.pair import hub_of_test
from lib.process import SLOW, Process
from lib.service import Nginx, Sshd, TcpServer, echo
from lib.warren import program

# The last number of each host's address, 10.9.0.N and fd09::N.
HOSTS = {
    "web": 10,        # nginx on 80
    "snmp": 11,       # snmpd on 161
    "ssh": 12,        # sshd on 22
    "dns": 13,        # dnsmasq on 53; knows web.plant and so on
    "echo": 14,       # TCP and UDP on 7, TCP on 4000
    "closed": 15,     # refuses everything
    "dropping": 16,   # says nothing to anything
    "quiet": 17,      # refuses everything, but does not answer pings
    "resetting": 18,  # a firewall that resets TCP and drops the rest, pings excepted
}
# nft's names of the codes with which addresses of one more host reject TCP and UDP.
REJECTS = {
    20: ("net-unreachable", "no-route"),
    21: ("host-unreachable", "addr-unreachable"),
    22: ("prot-unreachable", "policy-fail"),
    23: ("port-unreachable", "port-unreachable"),
    24: ("net-prohibited", "reject-route"),
    25: ("host-prohibited", "admin-prohibited"),
    26: ("admin-prohibited", "admin-prohibited"),
}
DEAD = (200, 201, 202)  # nobody's

ROUTER, AGENT, INNER, REJECTING = 1, 2, 3, 19
FAR = "10.10.0.10", "fd10::10"  # behind the inner router; echo on 7, nothing else
# What the inner router says about these: nft's names, None for nothing. By its firewall, for what is
# said by routes is limited to one a second.
BEYOND = {"unreachable": ("10.11.1.1", "fd11:1::1"), "prohibit": ("10.11.2.1", "fd11:2::1"),
          "blackhole": ("10.11.3.1", "fd11:3::1"), "nowhere": ("10.11.4.1", "fd11:4::1")}
BEYOND_SAYS = {"unreachable": ("host-unreachable", "addr-unreachable"), "blackhole": None,
               "prohibit": ("admin-prohibited", "admin-prohibited"),
               "nowhere": ("net-unreachable", "no-route")}
# Such things said by the agent's own routes.
OWN = {"unreachable": ("10.12.1.1", "fd12:1::1"), "prohibit": ("10.12.2.1", "fd12:2::1"),
       "blackhole": ("10.12.3.1", "fd12:3::1")}

HUB, OPERATOR = "198.51.100.1", "203.0.113.2"


def address(number):
    return f"10.9.0.{number}"


def address6(number):
    return f"fd09::{number}"


def firewall(host, *rules, hook="input"):
    """What arrives at a host meets these rules first."""
    host.nft("\n".join(["table inet f {", "chain c {", f"type filter hook {hook} priority 0;", *rules,
                        "}", "}"]))


class Plant:
    """`services`: False for the bare network. Other arguments are those of lib.link.Link; without any
    the hub's wire is as fast as a local one."""

    def __init__(self, directory, services=True, **wan):
        self.directory = tempfile.mkdtemp(prefix="plant", dir=directory)
        os.chmod(self.directory, 0o755)
        self.parts = []  # in the order of their start
        self.hosts = {}
        self.ports = 0
        self.hub = self.agent = None
        self._outside(wan)
        self._lan()
        self._inner()
        self._acquaint()
        if services:
            self._services()

    def _keep(self, part):
        self.parts.append(part)
        return part

    def _host(self, name):
        self.hosts[name] = host = self._keep(Host(name))
        # Every error is told: the kernel's own limits would make two runs differ.
        host.sysctl("net.ipv4.icmp_ratemask", 0)
        host.sysctl("net.ipv6.icmp.ratelimit", 0)
        host.sysctl("net.ipv6.icmp.ratemask", 2)  # not even the limit of all together
        return host

    def _outside(self, wan):
        hub, router, operator = (self._host(name) for name in ("hub", "router", "operator"))
        wire(hub, "operator", ["203.0.113.1/24"], operator, "eth0", [f"{OPERATOR}/24"])
        operator.ip("route", "add", "default", "via", "203.0.113.1")
        hub.sysctl("net.ipv4.ip_forward", 1)
        self.link = None
        if wan:
            self.link = self._keep(Link(hub, [f"{HUB}/24"], router, ["198.51.100.2/24"], **wan))
        else:
            wire(hub, "wan", [f"{HUB}/24"], router, "wan", ["198.51.100.2/24"])
        for family in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            router.sysctl(f"net.{family}", 1)
        router.nft("""
            table inet nat {
                chain out { type nat hook postrouting priority srcnat; oifname "wan" masquerade; }
                chain through {
                    type filter hook forward priority filter; policy drop;
                    ct state established,related accept
                    iifname "eth0" accept
                }
            }""")

    def plug(self, host, *numbers):
        """A wire from the switch to a host that gets these addresses."""
        self.ports += 1
        port = f"p{self.ports}"
        addresses = [text for n in numbers for text in (f"{address(n)}/24", f"{address6(n)}/64")]
        wire(host, "eth0", addresses, self.switch, port, [])
        self.switch.ip("link", "set", port, "master", "br0")

    def add_host(self, name, *numbers):
        """One more host on the LAN."""
        host = self._host(name)
        self.plug(host, *numbers)
        host.ip("route", "add", "default", "via", address(ROUTER))
        host.ip("route", "add", "10.10.0.0/15", "via", address(INNER))
        host.ip("-6", "route", "add", "default", "via", address6(ROUTER))
        host.ip("-6", "route", "add", "fd10::/15", "via", address6(INNER))
        return host

    def _lan(self):
        self.switch = self._host("switch")
        self.switch.ip("link", "add", "name", "br0", "type", "bridge", "mcast_snooping", "0")
        self.switch.ip("link", "set", "br0", "up")
        self.plug(self.hosts["router"], ROUTER)
        agent = self.add_host("agent", AGENT)
        for kind, (v4, v6) in OWN.items():
            agent.ip("route", "add", kind, v4)
            agent.ip("-6", "route", "add", kind, v6)
        for name, number in HOSTS.items():
            self.add_host(name, number)
        firewall(self.hosts["dropping"],
                 "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept", "drop")
        firewall(self.hosts["quiet"], "icmp type echo-request drop", "icmpv6 type echo-request drop")
        firewall(self.hosts["resetting"], "meta l4proto tcp reject with tcp reset",
                 "meta l4proto udp drop")
        rejecting = self.add_host("rejecting", REJECTING, *REJECTS)
        every = "meta l4proto { tcp, udp } reject with"
        firewall(rejecting, *(
            rule for n, (v4, v6) in REJECTS.items()
            for rule in (f"ip daddr {address(n)} {every} icmp type {v4}",
                         f"ip6 daddr {address6(n)} {every} icmpv6 type {v6}")))

    def _inner(self):
        inner, far = self._host("inner"), self._host("far")
        self.plug(inner, INNER)
        wire(inner, "eth1", ["10.10.0.1/24", "fd10::1/64"], far, "eth0",
             [f"{FAR[0]}/24", f"{FAR[1]}/64"])
        far.ip("route", "add", "default", "via", "10.10.0.1")
        far.ip("-6", "route", "add", "default", "via", "fd10::1")
        for family in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            inner.sysctl(f"net.{family}", 1)
        inner.ip("route", "add", "10.11.0.0/16", "via", FAR[0])
        inner.ip("-6", "route", "add", "fd11::/16", "via", FAR[1])
        rules = []
        for name, (v4, v6) in BEYOND.items():
            say4, say6 = (f"reject with icmp{v} type {say}" for v, say in zip(
                ("", "v6"), BEYOND_SAYS[name])) if BEYOND_SAYS[name] else ("drop", "drop")
            rules += [f"ip daddr {v4} {say4}", f"ip6 daddr {v6} {say6}"]
        firewall(inner, *rules, hook="forward")

    def _acquaint(self):
        """Those that pass on packets know the next one. Such entries count in what the kernel tells of its table, so
        there are few; what the others lose, programs that ask once are compared without (both_undisturbed)."""
        agent, hub, router, operator, inner, far = (
            self.hosts[name] for name in ("agent", "hub", "router", "operator", "inner", "far"))
        for name, n in (("router", ROUTER), ("inner", INNER)):
            agent.knows("eth0", self.hosts[name], "eth0", (address(n), address6(n)))
            self.hosts[name].knows("eth0", agent, "eth0", (address(AGENT), address6(AGENT)))
        for a, a_dev, a_at, b, b_dev, b_at in (
                (inner, "eth1", ("10.10.0.1", "fd10::1"), far, "eth0", FAR),
                (hub, "wan", (HUB,), router, "wan", ("198.51.100.2",)),
                (hub, "operator", ("203.0.113.1",), operator, "eth0", (OPERATOR,))):
            a.knows(a_dev, b, b_dev, b_at)
            b.knows(b_dev, a, a_dev, a_at)

    def _services(self):
        def folder(name):
            path = os.path.join(self.directory, name)
            os.makedirs(path)
            os.chmod(path, 0o755)
            return path

        def at(name):
            return {"host": self[name], "namespace": self.hosts[name].name}
        names = [f"--address=/{name}.plant/{to}" for name in HOSTS
                 for to in (self[name], self.v6(name))]
        self.nginx = self._keep(Nginx(folder("web"), port=80, host6=self.v6("web"), **at("web")))
        self.snmpd = self._keep(Snmpd(folder("snmp"), port=161, host6=self.v6("snmp"), **at("snmp")))
        self.sshd = self._keep(Sshd(folder("ssh"), port=22, **at("ssh")))
        self.dns = self._keep(Dnsmasq(folder("dns"), port=53, options=names, **at("dns")))
        for name, pair in (("echo", (self["echo"], self.v6("echo"))), ("far", FAR)):
            for host in pair:
                where = {"host": host, "namespace": self.hosts[name].name}
                self._keep(UdpServer(port=7, **where))
                for port in (7, 4000) if name == "echo" else (7,):
                    self._keep(TcpServer(echo, port=port, **where))

    def start(self, agent_options=(), agent_user=None):
        """A hub and an agent of network "plant"."""
        self.hub = self._keep(hub_of_test(os.path.join(self.directory, "hub"), host=HUB,
                                          namespace=self.hosts["hub"].name)).start()
        self.agent = self.hub.agent("a1", network="plant", namespace=self.hosts["agent"].name,
                                    options=agent_options, user=agent_user)
        return self

    def __getitem__(self, name):
        """The IPv4 address of a host of HOSTS."""
        return address(HOSTS[name])

    def v6(self, name):
        return address6(HOSTS[name])

    def native(self, *argv, seconds=60, **kwargs):
        """Runs a program to its end on the agent's host."""
        return subprocess.run(["ip", "netns", "exec", self.hosts["agent"].name, *argv],
                              capture_output=True, text=True, timeout=seconds * SLOW, **kwargs)

    def mount_argv(self, *argv, options=(), network="plant"):
        return ["ip", "netns", "exec", self.hosts["operator"].name, program("warren"), "mount", network,
                *options, "--", *argv]

    def mounted(self, *argv, options=(), network="plant", seconds=60, text=True, **kwargs):
        """Runs a program to its end through the operator's `warren mount`."""
        return subprocess.run(self.mount_argv(*argv, options=options, network=network),
                              env=self.environment(), capture_output=True, text=text,
                              timeout=seconds * SLOW, **kwargs)

    def both(self, *argv, options=(), seconds=60):
        """(natively, mounted): a program run on the agent's host and through a mount, at once."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            mounted = pool.submit(self.mounted, *argv, options=options, seconds=seconds)
            return self.native(*argv, seconds=seconds), mounted.result()

    def both_undisturbed(self, *argv, rounds=5, **kwargs):
        """As both, for programs that ask once and are told apart by one packet: again when the kernel has thrown away
        packets meanwhile (network.losses), be they of other tests, for then the LAN itself was not the same twice."""
        for _ in range(rounds):
            before = losses()
            done = self.both(*argv, **kwargs)
            lost = losses() - before
            if not lost:
                break
            print(f"{lost} packets of this machine were lost during {' '.join(argv)}")
        return done

    def environment(self):
        return {**os.environ, **self.hub.environment()}

    def processes(self):
        for part in self.parts:
            if isinstance(getattr(part, "process", None), Process):
                yield part.process
            if hasattr(part, "processes"):
                yield from part.processes()
        if self.hub:
            yield from (agent.process for agent in self.hub.agents)

    def close(self):
        for part in reversed(self.parts):
            part.close()
        self.parts = []
