"""SNMP through a mount, over a distance: a program that walks does not wait for it, and sees what it would see on
the LAN."""

import json
import os
import re
import subprocess
import sys

import pytest

from lib import network, snmp
from lib.datagram import Snmpd
from lib.plant import Plant, address
from lib.process import SANITIZE, Process, amount, run, wait_until
from lib.warren import program

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")

DEVICE = 30
OBJECTS = amount(2000, 300)
SYSTEM = ".1.3.6.1.2.1.1"


@pytest.fixture
def plant(bench, directory):
    """A LAN so many milliseconds away."""
    if not network.available():
        pytest.skip("network namespaces need root")

    def make(rtt_ms):
        made = bench.keep(Plant(directory, services=False, delay_ms=rtt_ms / 2, rate_mbit=1000))
        made.devices = made.add_host("devices", DEVICE)
        return made.start()
    return make


@pytest.fixture
def snmpd(bench, directory):
    """A real snmpd on the LAN's host for devices, with a table of its own."""
    def start(plant):
        path = os.path.join(directory, "snmpd")
        os.makedirs(path, exist_ok=True)
        return bench.keep(Snmpd(path, host=address(DEVICE), port=161, namespace=plant.devices.name,
                                lines=snmp.table(OBJECTS)))
    return start


@pytest.fixture
def made_up(bench, directory, plant):
    """Devices that are made up, at these numbers."""
    def start(plant, *numbers, **settings):
        process = Process([sys.executable, snmp.__file__,
                           json.dumps({"addresses": [address(n) for n in numbers], **settings})],
                          os.path.join(directory, "devices.log"), namespace=plant.devices.name).start()
        process.close = process.stop
        bench.keep(process).wait_log("ready")
    return start


def timed(plant, argv, *options, mounted=True):
    """(its output, seconds): what is timed begins when the way to the LAN is there."""
    script = f"snmpgetnext -v2c -c public -t 9 {address(DEVICE)} {snmp.ROOT} >&2; begin=$(date +%s%N); " \
             '"$@"; code=$?; echo "took $(($(date +%s%N) - begin))" >&2; exit $code'
    call = plant.mounted if mounted else plant.native
    kwargs = {"options": options} if mounted else {}
    done = call("sh", "-c", script, "sh", *argv, seconds=110, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout, int(re.search(r"took (\d+)", done.stderr)[1]) / 1e9


def asked_ahead(plant):
    return json.loads(run([program("warren-agent"), "inspect", "--data", plant.agent.data]).stdout)["read_ahead"]


def values(text):
    """{name: value}; those of more than one line are not of interest."""
    return dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)


# ---- time ----

@pytest.mark.parametrize("rtt_ms", [50, 100])
def test_a_walk_takes_at_most_twice_its_time_on_the_lan(plant, snmpd, rtt_ms):
    plant = plant(rtt_ms)
    snmpd(plant)
    full = snmp.walk(address(DEVICE), root=".1.3.6.1.2.1")
    before, lan_s = timed(plant, full, mounted=False)
    through, ahead_s = timed(plant, full)
    after, _ = timed(plant, full, mounted=False)
    before, through, after = values(before), values(through), values(after)
    lasting = {name for name in before if before[name] == after.get(name)}
    assert {name: through.get(name) for name in lasting} == {name: before[name] for name in lasting}
    assert len(lasting) > 0.8 * len(before)
    _, few_s = timed(plant, snmp.walk(address(DEVICE), root=SYSTEM))
    few, plain_s = timed(plant, snmp.walk(address(DEVICE), root=SYSTEM), "--no-read-ahead")
    n = few.count("\n")
    print(f"\n{rtt_ms} ms: walk of {len(before)} objects: LAN {lan_s:.2f} s, mount {ahead_s:.2f} s; "
          f"of {n}: {few_s:.2f} s, without read-ahead {plain_s:.2f} s")
    assert plain_s > n * rtt_ms / 1000
    if not SANITIZE:  # it is 1.3 on a quiet machine, 1.5 at 100 ms
        assert ahead_s < 2 * lan_s + 10 * rtt_ms / 1000


def test_what_is_read_ahead_is_byte_for_byte_what_the_lan_gives(plant, snmpd):
    plant = plant(50)
    snmpd(plant)
    for name, options in (("snmpwalk", ()), ("snmpbulkwalk", ()), ("snmpbulkwalk", ("-Cr40",)),
                          ("snmpwalk", ("-v1",))):
        argv = snmp.walk(address(DEVICE), program=name, options=options)
        native = plant.native(*argv)
        assert native.stdout.count("\n") == OBJECTS
        through = plant.mounted(*argv)
        assert (through.stdout, through.returncode) == (native.stdout, native.returncode)
    assert asked_ahead(plant)["answered"] > 2 * 0.9 * OBJECTS


def test_200_devices_walked_at_once(plant, made_up):
    plant = plant(100)
    numbers = [*range(40, 200), *range(203, 243)][:amount(200, 40)]
    for n in numbers:
        plant.devices.ip("addr", "add", f"{address(n)}/24", "dev", "eth0")
    made_up(plant, DEVICE, *numbers, objects=40, delay_ms=40)
    script = "for host in " + " ".join(address(n) for n in numbers) + "; do " + \
        " ".join(word or "''" for word in snmp.walk("$host", options=("-Ov",))) + " & done; wait"
    native, lan_s = timed(plant, ["sh", "-c", script], mounted=False)
    through, ahead_s = timed(plant, ["sh", "-c", script])
    print(f"\n{len(numbers)} devices at 40 ms an answer: LAN {lan_s:.2f} s, mount {ahead_s:.2f} s")
    assert native.count("\n") == 41 * len(numbers)  # the end of the MIB, too
    assert sorted(through.splitlines()) == sorted(native.splitlines())
    if not SANITIZE:  # 41 questions each take 6 s and more otherwise
        assert ahead_s < 2 * lan_s


def test_hits_and_waste_are_counted_and_an_agent_may_be_told_to_stay_out_of_it(plant, snmpd):
    plant = plant(50)
    snmpd(plant)
    argv = snmp.walk(address(DEVICE))

    def warren(*words):
        done = subprocess.run(["ip", "netns", "exec", plant.hosts["operator"].name, program("warren"), "mount", *words],
                              env=plant.environment(), capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout
    warren("plant", "--name", "lab", "--detach")
    assert warren("exec", "lab", "--", *argv).count("\n") == OBJECTS
    counted = json.loads(warren("status", "lab", "-o", "json"))["read_ahead"]
    asked = asked_ahead(plant)
    assert counted["hits"] > 0.9 * OBJECTS and counted["wasted"] < 0.1 * OBJECTS
    assert counted["hits"] <= asked["answered"] <= asked["asked"] < 1.1 * OBJECTS
    plant.agent.process.stop()
    plant.agent.process.argv.append("--no-read-ahead")
    plant.agent.start()
    wait_until(lambda: json.loads(warren("status", "lab", "-o", "json"))["phase"] == "active", "the agent", 40)
    assert warren("exec", "lab", "--", *snmp.walk(address(DEVICE), root=SYSTEM)).count("\n") > 10
    assert asked_ahead(plant)["asked"] == 0
    warren("stop", "lab")


# ---- trouble ----

def compare_walks(plant):
    argv = snmp.walk(address(DEVICE), options=("-t", "1", "-r", "9"))
    native, through = plant.native(*argv, seconds=110), plant.mounted(*argv, seconds=110)
    assert native.returncode == 0, native.stderr
    assert (through.stdout, through.returncode) == (native.stdout, 0), through.stderr


def test_a_device_that_answers_slowly(plant, made_up):
    plant = plant(50)
    made_up(plant, DEVICE, objects=12, delay_ms=400)
    compare_walks(plant)


def test_a_device_whose_answers_overtake_each_other(plant, made_up):
    plant = plant(50)
    made_up(plant, DEVICE, objects=150, delay_ms=2, late_every=9)
    compare_walks(plant)


def test_a_device_that_drops(plant, made_up):
    plant = plant(50)
    made_up(plant, DEVICE, objects=200, delay_ms=1)
    plant.devices.nft("""
        table inet loss {
            chain in { type filter hook input priority 0; udp dport 161 numgen inc mod 40 == 7 drop; }
        }""")
    compare_walks(plant)


def test_a_device_that_restarts_in_the_middle(plant, snmpd):
    plant = plant(50)
    device = snmpd(plant)
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


def test_what_was_set_is_read_at_once(plant, snmpd):
    plant = plant(50)
    snmpd(plant)
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = plant.mounted("/usr/bin/python3", "-c", CLIENT % (tests, address(DEVICE)))
    assert done.stdout == "as it should be\n", done.stderr
    assert asked_ahead(plant)["answered"] > 40


def test_a_time_to_live_of_nothing_lets_nothing_pass_but_plain_answers(plant, snmpd):
    plant = plant(50)
    snmpd(plant)
    argv = snmp.walk(address(DEVICE), root=SYSTEM)
    native, through = plant.native(*argv), plant.mounted(*argv, options=("--read-ahead-ttl", "1ms"))
    names = [line.split(" = ")[0] for line in native.stdout.splitlines()]
    assert [line.split(" = ")[0] for line in through.stdout.splitlines()] == names
