"""What a socket is told about a target: a program that a test runs on a host or through a mount.

    hear.py SECONDS KIND/HOST/PORT...      KIND: TCP, UDP or PING; a PORT below 5 is a TTL too

prints for each how the attempt ended, and what its queue of errors held: (errno, origin, ICMP type, code,
who sent it). All at once.
"""

import concurrent.futures
import errno
import socket
import struct
import sys

IP_RECVERR, IPV6_RECVERR = 11, 25


def make(kind, v6):
    family = socket.AF_INET6 if v6 else socket.AF_INET
    icmp = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    return socket.socket(family, socket.SOCK_STREAM if kind == "TCP" else socket.SOCK_DGRAM,
                         icmp if kind == "PING" else 0)


def queue(sock):
    found = []
    sock.setblocking(False)
    while True:
        try:
            control = sock.recvmsg(2000, 2000, socket.MSG_ERRQUEUE)[1]
        except OSError:
            return found
        for level, kind, data in control:
            if (level, kind) not in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
                continue
            number, origin, type_, code = struct.unpack_from("=IBBB", data)
            sender = data[16:]
            family = struct.unpack_from("=H", sender)[0] if len(sender) >= 2 else 0
            who = {socket.AF_INET: sender[4:8], socket.AF_INET6: sender[8:24]}.get(family)
            found.append((errno.errorcode[number], origin, type_, code,
                          who and socket.inet_ntop(family, who)))


def ask(target):
    kind, host, port = target.split("/")
    v6, port = ":" in host, int(port)
    sock = make(kind, v6)
    level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
    sock.setsockopt(level, IPV6_RECVERR if v6 else IP_RECVERR, 1)
    if port < 5:
        sock.setsockopt(level, socket.IPV6_UNICAST_HOPS if v6 else socket.IP_TTL, port)
    sock.settimeout(float(sys.argv[1]))
    try:
        sock.connect((host, port))
        if kind == "UDP":
            sock.send(b"hello")
        if kind == "PING":
            sock.send(bytes([128 if v6 else 8, *[0] * 7]))
        sock.recv(100)
        said = "answered"
    except TimeoutError:
        said = "silence"
    except OSError as error:
        said = errno.errorcode[error.errno]
    return f"{target} {said} {queue(sock)}"


if __name__ == "__main__":
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        print(*pool.map(ask, sys.argv[2:]), sep="\n")
