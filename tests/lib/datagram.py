"""UDP: small servers in threads, clients, and the real programs on the other side."""

import os
import re
import socket
import threading

from lib.network import inside
from lib.process import Process, run, wait_until

LARGEST4, LARGEST6 = 65507, 65527


def family_of(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def address_of(text):
    """("host", port) of "host:port"."""
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def udp_socket(host="127.0.0.1", port=0, namespace=None, timeout=5.0, buffer=8 << 20):
    with inside(namespace):
        sock = socket.socket(family_of(host), socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, buffer)
    sock.bind((host, port))
    sock.settimeout(timeout)
    return sock


def closed_port(host="127.0.0.1", namespace=None):
    with udp_socket(host, namespace=namespace) as sock:
        return sock.getsockname()[1]


class UdpServer:
    """Calls `answer(data)` for each datagram and sends back what that returns; None: nothing."""

    def __init__(self, answer=lambda data: data, host="127.0.0.1", namespace=None, port=0):
        self.sock = udp_socket(host, port, namespace, timeout=None)
        self.port = self.sock.getsockname()[1]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.answer = answer
        self.clients = set()
        self.received = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                data, client = self.sock.recvfrom(1 << 16)
            except OSError:
                return
            if not data and not self.port:
                return
            self.received += 1
            self.clients.add(client)
            reply = self.answer(data)
            if reply is not None:
                try:
                    self.sock.sendto(reply, client)
                except OSError:
                    pass

    def close(self):
        own, self.port = self.sock.getsockname(), 0
        try:
            self.sock.sendto(b"", own)  # wakes the thread
        except OSError:
            pass
        self.sock.close()


def ask(sock, address, data, tries=1):
    """One question and its answer; asked again as UDP clients do."""
    for left in range(tries - 1, -1, -1):
        sock.sendto(data, address)
        try:
            return sock.recv(1 << 16)
        except (TimeoutError, ConnectionRefusedError):
            if not left:
                raise
    return None


class Dnsmasq:
    """A real DNS server with names of its own, and those of `options`."""

    def __init__(self, directory, host="127.0.0.1", namespace=None, port=None, options=()):
        self.process = None
        while not self.process:
            self._start(directory, host, namespace, port, options)

    def _start(self, directory, host, namespace, port, options):
        """It wants a port that is free for both UDP and TCP, and somebody may take it in between."""
        if not port:
            with udp_socket(host, namespace=namespace) as probe:
                port = probe.getsockname()[1]
        log = os.path.join(directory, f"dnsmasq-{port}.log")
        process = Process(
            ["/usr/sbin/dnsmasq", "--keep-in-foreground", "--no-daemon", "--conf-file=/dev/null",
             "--no-resolv", "--no-hosts", f"--port={port}", f"--listen-address={host}",
             "--bind-interfaces", "--user=root", "--pid-file=", "--log-queries",
             "--address=/device1.example/192.0.2.17", "--address=/device1.example/2001:db8::17",
             "--edns-packet-max=4096", *(f"--txt-record=big.example,{'x' * 200}{i}" for i in range(12)),
             *options],
            log, namespace=namespace).start()
        wait_until(lambda: "started" in process.log() or not process.alive(), "dnsmasq to start")
        if process.alive():
            self.process, self.port = process, port
            self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        elif "in use" not in process.log():
            raise AssertionError(process.log())

    def close(self):
        self.process.stop()


class Snmpd:
    """A real SNMP agent; also at `host6`, on the same port. `lines`: more of its configuration."""

    def __init__(self, directory, host="127.0.0.1", namespace=None, port=None, host6=None, lines=()):
        self.port = port or closed_port(host, namespace)
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        transports = [f"udp6:[{h}]:{self.port}" if ":" in h else f"udp:{h}:{self.port}"
                      for h in (host, host6) if h]
        conf = os.path.join(directory, "config")  # snmpd keeps its own snmpd.conf in the directory
        with open(conf, "w") as f:
            f.write("rocommunity public\nrocommunity6 public\nsysLocation behind the firewall\n"
                    "sysContact nobody\n" + "".join(f"{line}\n" for line in lines))
        self.process = Process(
            ["/usr/sbin/snmpd", "-f", "-Lo", "-C", "-c", conf, "-I", "-smux", *transports],
            os.path.join(directory, "snmpd.log"), namespace=namespace,
            env={"SNMP_PERSISTENT_DIR": directory}).start()
        wait_until(lambda: snmpwalk(self.address, namespace, check=False).returncode == 0, "snmpd")

    def close(self):
        self.process.stop()


def snmpwalk(address, namespace=None, oid="1.3.6.1.2.1.1", check=True):
    """The lines of a walk."""
    host, port = address_of(address)
    where = f"udp6:[{host}]:{port}" if ":" in host else f"udp:{host}:{port}"
    done = run(["snmpwalk", "-v2c", "-c", "public", "-On", "-t", "5", "-r", "1", where, oid],
               namespace=namespace, check=check)
    return done.stdout.splitlines() if check else done


def dig(address, name, kind="A", *more, namespace=None, seconds=30):
    """The whole text of dig's answer."""
    host, port = address_of(address)
    return run(["dig", f"@{host}", "-p", port, name, kind, "+tries=2", "+time=5", *more],
               namespace=namespace, check=False, seconds=seconds).stdout


def answers(text):
    """The data of the records in dig's answer section."""
    section = re.search(r";; ANSWER SECTION:\n(.*?)\n\n", text, re.S)
    return [line.split(None, 4)[4] for line in section[1].splitlines()] if section else []


# --- capsules (RFC 9297) -----------------------------------------------------------------------

DATAGRAM, ERROR, LOSS = 0, 0x2777726e, 0x2777726f


def varint(value):
    for bits, size in ((6, 1), (14, 2), (30, 4), (62, 8)):
        if value < 1 << bits:
            return (value | (size.bit_length() - 1) << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(value)


def take_varint(data, at):
    size = 1 << (data[at] >> 6)
    if at + size > len(data):
        raise IndexError
    return int.from_bytes(data[at:at + size], "big") & (1 << (8 * size - 2)) - 1, at + size


def capsule(kind, value):
    return varint(kind) + varint(len(value)) + value


def datagram(payload, context=0):
    return capsule(DATAGRAM, varint(context) + payload)


def take_capsule(data):
    """((type, value) or None, the rest)"""
    try:
        kind, at = take_varint(data, 0)
        length, at = take_varint(data, at)
    except IndexError:
        return None, data
    if len(data) < at + length:
        return None, data
    return (kind, data[at:at + length]), data[at + length:]


def masque_path(target):
    host, port = address_of(target)
    return f"/.well-known/masque/udp/{host.replace(':', '%3A')}/{port}/"
