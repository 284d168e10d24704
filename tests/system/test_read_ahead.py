"""SNMP through a mount, over a distance: the program does not wait for it, and sees nothing else than on the LAN."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from lib import network, snmp
from lib.link import Link
from lib.network import Host, wire
from lib.process import SANITIZE, SLOW, Process, amount, run, wait_until
from lib.warren import program

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")

HUB, AGENT, DEVICE = "10.9.0.1", "10.0.0.17", "10.0.0.20"
OBJECTS = amount(3000, 300)


class Far:
    """A hub, a distance, an agent, and a LAN behind it with a host for devices."""

    def __init__(self, bench, directory, delay_ms):
        self.bench, self.directory = bench, directory
        self.near, self.lan, self.devices = (bench.keep(Host(n)) for n in ("near", "lan", "dev"))
        self.link = bench.keep(Link(self.near, [f"{HUB}/24"], self.lan, ["10.9.0.2/24"],
                                    delay_ms=delay_ms / 2, rate_mbit=1000))
        wire(self.lan, "lan", [f"{AGENT}/24"], self.devices, "lan", [f"{DEVICE}/24"])
        self.hub = bench.hub(host=HUB, namespace=self.near.name)
        self.agent = self.hub.agent("a1", network="plant", namespace=self.lan.name)

    def snmpd(self, objects=OBJECTS):
        return self.bench.keep(snmp.Snmpd(os.path.join(self.directory, "snmpd"), DEVICE,
                                          self.devices.name, objects))

    def native(self, argv, seconds=120):
        return subprocess.run(["ip", "netns", "exec", self.lan.name, *argv], capture_output=True,
                              timeout=seconds * SLOW)

    def mounted(self, argv, *options, seconds=120):
        """Runs a command twice removed: what is timed begins when the way to the device is there."""
        script = f"snmpget -v2c -c public -t 5 {DEVICE} .1.3.6.1.2.1.1.3.0 >&2; " \
                 'begin=$(date +%s%N); "$@"; code=$?; echo "took $(($(date +%s%N) - begin))" >&2; exit $code'
        return subprocess.run(
            ["ip", "netns", "exec", self.near.name, program("warren"), "mount", "plant", *options,
             "--", "sh", "-c", script, "sh", *argv],
            env=self.hub.environment(), capture_output=True, timeout=seconds * SLOW)

    def timed_native(self, argv):
        begin = time.monotonic()
        done = self.native(argv)
        return done, time.monotonic() - begin


def seconds_of(done):
    return int(re.search(rb"took (\d+)", done.stderr)[1]) / 1e9


@pytest.fixture
def far(bench, directory):
    if not network.available():
        pytest.skip("network namespaces need root")
    return lambda delay_ms: Far(bench, directory, delay_ms)


@pytest.mark.parametrize("rtt_ms", [50, 100])
def test_a_walk_over_a_distance_takes_about_as_long_as_on_the_lan(far, rtt_ms):
    far = far(rtt_ms)
    far.snmpd()
    for name in ("snmpwalk", "snmpbulkwalk"):
        argv = snmp.walk(DEVICE, program=name)
        native, lan_s = far.timed_native(argv)
        assert native.stdout.count(b"\n") == OBJECTS
        done = far.mounted(argv)
        assert done.returncode == 0, done.stderr
        assert done.stdout == native.stdout
        ahead_s = seconds_of(done)
        print(f"{name} of {OBJECTS} objects, {rtt_ms} ms: LAN {lan_s:.2f} s, read ahead {ahead_s:.2f} s")
        if name == "snmpwalk" and not SANITIZE:
            assert ahead_s < 0.2 * OBJECTS * rtt_ms / 1000
    if rtt_ms == 50:
        few = snmp.walk(DEVICE, root=f"{snmp.ROOT}.1.7")
        plain = far.mounted(few, "--no-read-ahead")
        assert plain.stdout == far.native(few).stdout
