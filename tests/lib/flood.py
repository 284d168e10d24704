"""Raw TCP packets as fast as one thread of a program sends them (sendmmsg), until it is killed.

    python3 flood.py KIND HOST PORT [RATE]      says when it is under way; RATE: at most that many a second

`syn`: connections from invented addresses; `stray`: data of connections that there never were; `own`: data of a
connection of its own, which is open, with invented numbers.
"""

import ctypes
import random
import socket
import struct
import sys
import time

PACKETS = 40000  # more than a mount has flows
BATCH = 512
SYN, ACK = 2, 16


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("len", ctypes.c_size_t)]


class Header(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("name_len", ctypes.c_uint), ("iov", ctypes.POINTER(Iovec)),
                ("iov_len", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_len", ctypes.c_size_t),
                ("flags", ctypes.c_int)]


class Message(ctypes.Structure):
    _fields_ = [("header", Header), ("sent", ctypes.c_uint)]


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff


def packet(flags, near, to, payload=b""):
    """An IPv4 packet with one segment; payload of an even length."""
    ends = socket.inet_aton(near[0]) + socket.inet_aton(to[0])
    tcp = struct.pack("!HHIIBBHHH", near[1], to[1], random.getrandbits(32), random.getrandbits(32), 5 << 4, flags,
                      random.getrandbits(16), 0, 0) + payload
    tcp = tcp[:16] + struct.pack("!H", checksum(ends + struct.pack("!HH", 6, len(tcp)) + tcp)) + tcp[18:]
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + ends + tcp


def invented():
    return f"198.19.{random.randrange(256)}.{random.randrange(1, 255)}", random.randrange(1024, 65536)


def messages(packets):
    batch = (Message * len(packets))()
    for message, data in zip(batch, packets):
        message.header.iov = ctypes.pointer(Iovec(data, len(data)))
        message.header.iov_len = 1
    return batch


def main():
    kind, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    pause = BATCH / float(sys.argv[4]) if len(sys.argv) > 4 else 0
    to = host, port
    if kind == "own":
        own = socket.create_connection(to)
        near = own.getsockname()
    packets = [packet(SYN, invented(), to) if kind == "syn" else
               packet(ACK, near if kind == "own" else invented(), to, bytes(40)) for _ in range(PACKETS)]
    batches = [messages(packets[at:at + BATCH]) for at in range(0, PACKETS, BATCH)]
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.connect((host, 0))
    send = ctypes.CDLL(None).sendmmsg
    print("under way", flush=True)
    due = time.monotonic()
    while True:
        for batch in batches:
            send(raw.fileno(), batch, len(batch), 0)
            due += pause
            time.sleep(max(0, due - time.monotonic()))


if __name__ == "__main__":
    main()
