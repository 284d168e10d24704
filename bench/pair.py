#!/usr/bin/python3
"""The data path alone (relay-pair) beside ssh and haproxy, with run.py's measurements.

    WARREN_BUILD=build bench/pair.py --peers pair,ssh,haproxy --rounds 3 --only bulk
"""

import os

import peers
import run
from procs import free_port, wait_for


class Pair(peers.Haproxy):
    name = "warren"  # so that report.py judges it
    max_streams = 9_900

    def run(self, role, *ports):
        program = os.path.join(peers.Warren.build, "bench/relay-pair")
        return self.group.start(role, [program, role, self.path("ca.pem"), self.path("leaf.crt"),
                                       self.path("leaf.key"), *ports])

    def start(self):
        self.certificates()
        tls_port = free_port()
        hub = self.run("hub", tls_port, self.port)
        wait_for("the hub end", lambda: self.place.port_open(tls_port))
        self.ends = {"hub": [hub], "agent": [self.run("agent", tls_port, self.target)]}
        wait_for("the pair", lambda: self.place.port_open(self.port))


peers.ALL["pair"] = Pair
if __name__ == "__main__":
    run.main()
