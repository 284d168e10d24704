"""SNMP for tests: what to ask a device, and devices that are made up.

    python3 snmp.py '{"addresses": [...], "objects": 50, "delay_ms": 20, "late_every": 0}'

answers GetNext on each address, port 161, from a table of 1.3.6.1.4.1.9999.1.N.0, until it is ended. Each
answer takes `delay_ms`, one at a time as a small device has it; each `late_every`-th takes 300 ms longer, so that
those after it overtake it.
"""

import heapq
import json
import select
import socket
import sys
import time

ROOT = ".1.3.6.1.4.1.9999"


def table(objects):
    """Lines of snmpd.conf: that many values below ROOT, which the community "secret" may write."""
    return ["rwcommunity secret"] + [f'override -rw {ROOT}.1.{n}.0 octet_str "value {n} of a device"'
                                     for n in range(1, objects + 1)]


def walk(host, root=ROOT, program="snmpwalk", options=()):
    """A command; it asks six times, a second apart."""
    return [program, "-v2c", "-c", "public", "-On", "-m", "", "-t", "1", "-r", "5", *options, host, root]


# ---- messages ----

def length(n):
    return bytes([n]) if n < 128 else bytes([0x82, n >> 8, n & 255])


def tlv(tag, content):
    return bytes([tag]) + length(len(content)) + content


def base128(n):
    out = bytes([n & 127])
    while n := n >> 7:
        out = bytes([128 | n & 127]) + out
    return out


BELOW = bytes([0x2b, 6, 1, 4, 1]) + base128(9999)


def row(n):
    return BELOW + b"\x01" + base128(n) + b"\x00"


def bindings(name, value):
    return tlv(0x30, tlv(0x30, tlv(6, name) + value))


def request(tag, request_id, name, value=b"\x05\x00", community=b"public"):
    pdu = tlv(2, request_id.to_bytes(4, "big")) + b"\x02\x01\x00" * 2 + bindings(name, value)
    return tlv(0x30, b"\x02\x01\x01" + tlv(4, community) + tlv(tag, pdu))


# ---- devices that are made up ----

class Table:
    """For each name that can be asked for, what stands behind the request-id in the answer."""

    def __init__(self, objects):
        names = [row(n) for n in range(1, objects + 1)]
        self.after = {}
        for name, following in zip([BELOW, *names], [*names, None]):
            answer = bindings(following, tlv(4, b"an object of a device")) if following else \
                bindings(name, b"\x82\x00")
            self.after[name] = b"\x02\x01\x00\x02\x01\x00" + answer

    def answer(self, request):
        """`request`: of net-snmp, whose lengths are below 128."""
        community_end = 7 + request[6]
        head = request[2:community_end]
        at = community_end + 2
        request_id = request[at:at + 2 + request[at + 1]]
        name_at = at + len(request_id) + 6 + 4
        name = request[name_at + 2:name_at + 2 + request[name_at + 1]]
        behind = self.after.get(bytes(name))
        return tlv(0x30, head + tlv(0xa2, request_id + behind)) if behind else None


def serve(addresses, objects, delay_ms, late_every=0):
    table, poll, sockets, due = Table(objects), select.epoll(), {}, []
    busy_until, answered = {}, 0
    for address in addresses:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, 161))
        sock.setblocking(False)
        sockets[sock.fileno()] = sock
        poll.register(sock.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        while due and due[0][0] <= now:
            _, _, fd, peer, data = heapq.heappop(due)
            sockets[fd].sendto(data, peer)
        for fd, _ in poll.poll(max(due[0][0] - now, 0) if due else -1):
            request, peer = sockets[fd].recvfrom(2048)
            answer = table.answer(request)
            if not answer:
                continue
            answered += 1
            at = max(time.monotonic(), busy_until.get(fd, 0)) + delay_ms / 1000
            busy_until[fd] = at
            if late_every and answered % late_every == 0:
                at += 0.3
            heapq.heappush(due, (at, answered, fd, peer, answer))


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]))
