"""Network namespaces: hosts of a test, wires between them, NAT, cuts.

They share two things of the kernel. The table of neighbours (ARP, NDP) has 1,024 entries for the whole machine: where
it is full no host of any test learns a new address, nor answers who asks for its own. And what crosses a wire waits in
a queue of the CPU's, of 1,000 packets: where a flood, of whichever test, has filled it, packets of all wires are lost.
"""

import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import re
import subprocess
import tempfile

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
_serial = itertools.count()


def available():
    """Whether this process may make network namespaces."""
    if os.geteuid() != 0:
        return False
    name = f"w{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True)
    if made.returncode == 0:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return made.returncode == 0


def _setns(fd):
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def inside(namespace):
    """Sockets that this thread makes meanwhile belong to the namespace (None: stay here)."""
    if not namespace:
        yield
        return
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _setns(there)
        yield
    finally:
        _setns(here)
        os.close(here)
        os.close(there)


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def ip_in(namespace, *words):
    """`namespace` may be None: here."""
    ip(*(["-n", namespace] if namespace else []), *words)


def sysctl_in(namespace, name, value):
    where = ["ip", "netns", "exec", namespace] if namespace else []
    subprocess.run([*where, "sysctl", "-qw", f"{name}={value}"], check=True, capture_output=True)


def interfaces(namespace):
    """Names of those that are no loopback."""
    where = ["-n", namespace] if namespace else []
    shown = subprocess.run(["ip", *where, "-o", "link", "show"], check=True, capture_output=True, text=True)
    names = [line.split(":")[1].strip().split("@")[0] for line in shown.stdout.splitlines()]
    return [name for name in names if name != "lo"]


@contextlib.contextmanager
def table_of_neighbours():
    """For a test that fills much of it, or that measures what depends on how full it is: one at a time on a machine."""
    folder = os.open(tempfile.gettempdir(), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def neighbours_room():
    """How many entries are free for IPv4. What failed and is not thrown out yet counts as in use."""
    shown = subprocess.run(["ip", "-s", "ntable", "show", "name", "arp_cache"], check=True, capture_output=True,
                           text=True).stdout
    return int(re.search(r"thresh3 (\d+)", shown)[1]) - int(re.search(r"entries (\d+)", shown)[1])


def losses():
    """How many packets the kernel has thrown away since its start for want of either, whosesoever they were."""
    with open("/proc/net/softnet_stat") as f:
        queues = sum(int(line.split()[1], 16) for line in f)
    shown = subprocess.run(["ip", "-s", "ntable", "show"], check=True, capture_output=True, text=True).stdout
    return queues + sum(map(int, re.findall(r"table_fulls (\d+)", shown)))


def leave():
    """This thread, and what it starts from now on, has a loopback of its own and nothing else."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    ip("link", "set", "lo", "up")


class Host:
    """One namespace."""

    def __init__(self, role):
        self.name = f"w{os.getpid()}-{next(_serial)}-{role}"[:60]
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *words):
        ip("-n", self.name, *words)

    def batch(self, lines):
        """Commands of ip, all at once."""
        subprocess.run(["ip", "-n", self.name, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True,
                       capture_output=True)

    def plug(self, device, addresses):
        """A device begins to work, with these addresses."""
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            self.ip("addr", "add", address, "dev", device, *nodad)
        self.ip("link", "set", device, "up")

    def knows(self, device, other, other_device, addresses):
        """These addresses of the other's device need not be asked for, and are never thrown out."""
        shown = subprocess.run(["ip", "-n", other.name, "-j", "link", "show", "dev", other_device], check=True,
                               capture_output=True, text=True)
        mac = json.loads(shown.stdout)[0].get("address")
        if not mac:
            return  # no Ethernet: nobody is asked there
        self.batch(f"neigh replace {a} lladdr {mac} dev {device} nud permanent" for a in addresses)

    def nft(self, rules):
        subprocess.run(["ip", "netns", "exec", self.name, "nft", "-f", "-"], input=rules, text=True,
                       check=True, capture_output=True)

    def sysctl(self, name, value):
        sysctl_in(self.name, name, value)

    def close(self):
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


def wire(a, a_dev, a_addresses, b, b_dev, b_addresses):
    """A veth pair between two hosts; addresses as "10.0.0.1/24"."""
    ip("link", "add", a_dev, "netns", a.name, "type", "veth", "peer", "name", b_dev, "netns", b.name)
    for host, dev, addresses in ((a, a_dev, a_addresses), (b, b_dev, b_addresses)):
        host.plug(dev, addresses)


class CustomerNetwork:
    """The usual picture:

        hub host 198.51.100.1 ──── 198.51.100.2 router 10.0.0.1 ──── 10.0.0.17 agent's host
                 2001:db8::1       2001:db8::2   (masquerade)  fd00::1      fd00::17

    The router translates addresses and forwards nothing that did not begin inside; the hub's host
    has no route to 10.0.0.0/24.
    """

    HUB = "198.51.100.1"
    HUB6 = "2001:db8::1"
    AGENT = "10.0.0.17"

    def __init__(self):
        self.hosts = []
        self.hub = self._host("hub")
        self.router = self._host("nat")
        self.lan = self._host("lan")
        wire(self.hub, "wan", [f"{self.HUB}/24", f"{self.HUB6}/64"],
             self.router, "wan", ["198.51.100.2/24", "2001:db8::2/64"])
        wire(self.router, "lan", ["10.0.0.1/24", "fd00::1/64"],
             self.lan, "lan", [f"{self.AGENT}/24", "fd00::17/64"])
        self.lan.ip("route", "add", "default", "via", "10.0.0.1")
        self.lan.ip("-6", "route", "add", "default", "via", "fd00::1")
        self.router.sysctl("net.ipv4.ip_forward", 1)
        self.router.sysctl("net.ipv6.conf.all.forwarding", 1)
        self.router.nft("""
            table inet nat {
                chain out { type nat hook postrouting priority srcnat; oifname "wan" masquerade; }
                chain through {
                    type filter hook forward priority filter; policy drop;
                    ct state established,related accept
                    iifname "lan" accept
                }
            }""")

    def _host(self, role):
        self.hosts.append(Host(role))
        return self.hosts[-1]

    def cut(self):
        """The link is silent: nothing arrives, nothing is refused."""
        self.router.nft("""
            table inet cut {
                chain in { type filter hook prerouting priority -300; policy drop; }
            }""")

    def restore(self):
        self.router.nft("delete table inet cut")

    def black_hole(self, address):
        """Packets from the agent's host to this address vanish."""
        self.lan.nft(f"""
            table ip hole {{
                chain out {{ type filter hook output priority 0; ip daddr {address} drop; }}
            }}""")

    def close(self):
        for host in self.hosts:
            host.close()


class Lans:
    """A hub's host that is the router of any number of LANs, each a switch that multicast crosses:

        hub host 198.51.100.1 ── 10.7.0.1 ═╤═ switch ═╤═ … agents' hosts 10.7.0.10, .11, …
                              └─ 10.8.0.1 ═╧═ switch …
    """

    HUB = "198.51.100.1"

    def __init__(self):
        self.hosts = []
        self.hub = self._host("hub")
        self.hub.ip("addr", "add", f"{self.HUB}/32", "dev", "lo")
        self.hub.sysctl("net.ipv4.ip_forward", 1)

    def _host(self, role):
        self.hosts.append(Host(role))
        return self.hosts[-1]

    def lan(self, number, subnet=None):
        return Lan(self, number, subnet or f"10.{number}.0")

    def close(self):
        for host in self.hosts:
            host.close()


class Lan:
    """One switch of `Lans`; `subnet` is the first three numbers of a /24."""

    def __init__(self, lans, number, subnet):
        self.lans, self.number, self.subnet = lans, number, subnet
        self.count = itertools.count(10)
        self.ports = 0
        self.switch = lans._host(f"sw{number}")
        self.switch.ip("link", "add", "name", "br0", "type", "bridge")
        self.switch.ip("link", "set", "br0", "up")
        device = f"lan{number}"
        wire(lans.hub, device, [f"{subnet}.1/24"], self.switch, "uplink", [])
        self.switch.ip("link", "set", "uplink", "master", "br0")
        self.routes = set()

    def host(self, device="eth0"):
        """A new host on this LAN."""
        host = self.lans._host(f"l{self.number}")
        self.plug(host, device)
        return host

    def plug(self, host, device="eth0", is_default=True):
        """An address on this LAN for a host, by a new wire."""
        self.ports += 1
        address = f"{self.subnet}.{next(self.count)}"
        wire(host, device, [f"{address}/24"], self.switch, f"p{self.ports}", [])
        self.switch.ip("link", "set", f"p{self.ports}", "master", "br0")
        if is_default:
            host.ip("route", "replace", "default", "via", f"{self.subnet}.1")
        host.addresses = getattr(host, "addresses", {})
        host.addresses[device] = address
        return address

    @staticmethod
    def unplug(host, device="eth0"):
        host.ip("link", "del", device)

    def extend(self, other):
        """Joins this switch and another one by a wire: one LAN. The name of the wire's end here."""
        self.ports += 1
        name = f"x{self.ports}"
        wire(self.switch, name, [], other.switch, name, [])
        self.switch.ip("link", "set", name, "master", "br0")
        other.switch.ip("link", "set", name, "master", "br0")
        return name

    def split(self, name):
        self.switch.ip("link", "set", name, "down")

    def join(self, name):
        self.switch.ip("link", "set", name, "up")


def lose_multicast(host, percent):
    """Of the multicast DNS packets that arrive at the host, so many are lost."""
    host.nft(f"""
        table inet loss {{
            chain in {{
                type filter hook input priority 0;
                udp dport 5353 numgen random mod 100 < {percent} drop
            }}
        }}""")


def hear_not(host, addresses):
    """From now on the host hears no multicast DNS of these addresses: a LAN that is split for it."""
    host.nft(f"""
        table inet split
        delete table inet split
        table inet split {{
            chain in {{
                type filter hook input priority 0;
                udp dport 5353 ip saddr {{ {", ".join(addresses)} }} drop
            }}
        }}""")


def hear_all(host):
    host.nft("delete table inet split")
