"""SNMP that is read ahead, where a device is in trouble or changes: a program sees what it would see on the LAN."""

import os
import subprocess

import pytest

from lib import snmp
from lib.plant import address
from lib.snmp_plant import DEVICE, OBJECTS, SYSTEM, plant

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")


def compare_walks(plant):
    argv = snmp.walk(address(DEVICE), options=("-t", "1", "-r", "9"))
    native, through = plant.native(*argv, seconds=110), plant.mounted(*argv, seconds=110)
    assert native.returncode == 0, native.stderr
    assert (through.stdout, through.returncode) == (native.stdout, 0), through.stderr


def test_a_device_that_answers_slowly(plant):
    plant = plant(50)
    plant.made_up(DEVICE, objects=8, delay_ms=400)
    compare_walks(plant)


def test_a_device_whose_answers_overtake_each_other(plant):
    plant = plant(50)
    plant.made_up(DEVICE, objects=150, delay_ms=2, late_every=9)
    compare_walks(plant)


def test_a_device_that_drops(plant):
    plant = plant(50)
    plant.made_up(DEVICE, objects=200, delay_ms=1)
    plant.devices.nft("""
        table inet loss {
            chain in { type filter hook input priority 0; udp dport 161 numgen inc mod 40 == 7 drop; }
        }""")
    compare_walks(plant)


def test_a_device_that_restarts_in_the_middle(plant):
    plant = plant(50)
    device = plant.snmpd(OBJECTS)
    argv = snmp.walk(address(DEVICE), options=("-t", "1", "-r", "20"))
    native = plant.native(*argv)
    slow = 'while read -r line; do echo "$line"; [ $((n += 1)) = 100 ] && { echo now >&2; read -r _ < "$0"; }; done'
    fifo = os.path.join(plant.directory, "go")
    os.mkfifo(fifo)
    walk = subprocess.Popen(plant.mount_argv("sh", "-c", f'"$@" | sh -c \'{slow}\' {fifo}; true', "sh",
                                             "stdbuf", "-oL", *argv),
                            env=plant.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [walk.stdout.readline() for _ in range(100)]
    device.process.kill()
    with open(fifo, "w") as go:  # the walk goes on into the silence
        go.write("on\n")
    device.process.start()
    out, err = walk.communicate(timeout=110)
    assert "".join(lines) + out == native.stdout, err


# ---- what must not be old ----

CLIENT = """
import socket, sys
sys.path.insert(0, %r)
from lib import snmp
reader, writer = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
for s in (reader, writer):
    s.settimeout(20)
    s.connect((%r, 161))
def ask(sock, *what, **how):
    sock.send(snmp.request(*what, **how))
    return sock.recv(2000)
ask(reader, 0xa1, 1, snmp.BELOW)
for n in range(1, 21):
    assert b"value %%d of" %% (n + 1) in ask(reader, 0xa1, n + 1, snmp.row(n))
ask(writer, 0xa3, 1, snmp.row(30), snmp.tlv(4, b"newly set"), b"secret")
for n in range(21, 60):
    wanted = b"newly set" if n == 29 else b"value %%d of" %% (n + 1)
    assert wanted in ask(reader, 0xa1, n + 1, snmp.row(n)), n
print("as it should be")
"""


def test_what_was_set_is_read_at_once(plant):
    plant = plant(50)
    plant.snmpd(OBJECTS)
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = plant.mounted("/usr/bin/python3", "-c", CLIENT % (tests, address(DEVICE)))
    assert done.stdout == "as it should be\n", done.stderr
    assert plant.asked_ahead()["answered"] > 40


def test_a_time_to_live_of_nothing_lets_nothing_pass_but_plain_answers(plant):
    plant = plant(50)
    plant.snmpd(OBJECTS)
    argv = snmp.walk(address(DEVICE), root=SYSTEM)
    native, through = plant.native(*argv), plant.mounted(*argv, options=("--read-ahead-ttl", "1ms"))
    names = [line.split(" = ")[0] for line in native.stdout.splitlines()]
    assert [line.split(" = ")[0] for line in through.stdout.splitlines()] == names
