"""A LAN some milliseconds away with SNMP devices on it, real or made up (lib.snmp), at numbers of lib.plant."""

import json
import os
import re
import sys

import pytest

from lib import network, snmp
from lib.datagram import Snmpd
from lib.plant import Plant, address
from lib.process import Process, amount, run
from lib.warren import program

DEVICE = 30
SYSTEM = ".1.3.6.1.2.1.1"
OBJECTS = amount(2000, 300)


class SnmpPlant(Plant):
    def __init__(self, directory, rtt_ms):
        super().__init__(directory, services=False, delay_ms=rtt_ms / 2, rate_mbit=1000)
        self.devices = self.add_host("devices", DEVICE)
        self.start()

    def snmpd(self, objects):
        """A real one, at DEVICE, with a table of so many objects of its own."""
        path = os.path.join(self.directory, "snmpd")
        os.makedirs(path)
        return self._keep(Snmpd(path, host=address(DEVICE), port=161, namespace=self.devices.name,
                                lines=snmp.table(objects)))

    def made_up(self, *numbers, **settings):
        """Devices of lib.snmp.serve at these numbers."""
        for n in numbers:
            if n != DEVICE:
                self.devices.ip("addr", "add", f"{address(n)}/24", "dev", "eth0")
        process = Process([sys.executable, snmp.__file__,
                           json.dumps({"addresses": [address(n) for n in numbers], **settings})],
                          os.path.join(self.directory, "devices.log"), namespace=self.devices.name)
        process.close = process.stop
        self._keep(process).start().wait_log("ready")

    def timed(self, argv, *options, mounted=True):
        """(its output, seconds) of a command on the LAN, or in a mount: it begins when the way to the LAN is there."""
        script = f"snmpget -v2c -c public -t 9 {address(DEVICE)} {snmp.ROOT}.1.1.0 >&2; begin=$(date +%s%N); " \
                 '"$@"; code=$?; echo "took $(($(date +%s%N) - begin))" >&2; exit $code'
        argv = ["sh", "-c", script, "sh", *argv]
        done = self.mounted(*argv, options=options, seconds=110) if mounted else self.native(*argv, seconds=110)
        assert done.returncode == 0, done.stderr
        return done.stdout, int(re.search(r"took (\d+)", done.stderr)[1]) / 1e9

    def asked_ahead(self):
        """What the agent counts: {asked, answered, kept}."""
        return json.loads(run([program("warren-agent"), "inspect", "--data", self.agent.data]).stdout)["read_ahead"]


@pytest.fixture
def plant(bench, directory):
    """Makes a LAN so many milliseconds away."""
    if not network.available():
        pytest.skip("network namespaces need root")
    return lambda rtt_ms: bench.keep(SnmpPlant(directory, rtt_ms))
