"""Where the two sides of a tunnel are: both on loopback, or in two network namespaces with an emulated
wire between them. Client and hub are on the near side, agent and target on the far side.

`hub_host` and `agent_host` are where the other side reaches them; each end is at 127.0.0.1 for its
own side.
"""

import contextlib
import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

from lib import network  # noqa: E402
from lib.link import Link  # noqa: E402


class Loopback:
    hub_host = agent_host = target_host = "127.0.0.1"
    near_namespace = far_namespace = None

    def near(self, argv):
        return argv

    far = near

    def port_open(self, port, host="127.0.0.1"):
        """Whether the near side can connect."""
        with network.inside(self.near_namespace):
            with socket.create_connection((host, port), 2):
                return True


class Veth(Loopback):
    """A plain wire, with nothing emulated."""

    hub_host, agent_host, target_host = "10.9.0.1", "10.9.0.2", "10.9.0.2"

    def __init__(self):
        self.hosts = [network.Host("near"), network.Host("far")]
        near, far = self.hosts
        self.near_namespace, self.far_namespace = near.name, far.name
        try:
            network.wire(near, "side", [f"{self.hub_host}/24"], far, "side", [f"{self.agent_host}/24"])
            near.ip("route", "add", "default", "via", self.agent_host)
            for host in self.hosts:
                host.sysctl("net.ipv4.ip_local_port_range", "10000 65535")
        except BaseException:
            self.close()
            raise

    def near(self, argv):
        return ["ip", "netns", "exec", self.near_namespace, *argv]

    def far(self, argv):
        return ["ip", "netns", "exec", self.far_namespace, *argv]

    def close(self):
        for host in self.hosts:
            host.close()


class Wire(Veth):
    """`wire` is the Link, from the near side ("a") to the far side ("b"). The load generator reads the
    target's counters over a second one, which is plain, so that this neither waits nor weighs."""

    hub_host, agent_host, target_host = "10.9.0.1", "10.9.0.2", "10.10.0.2"

    def __init__(self, build, congestion=None):
        self.closing = contextlib.ExitStack()
        try:
            self.hosts = [network.Host("near"), network.Host("far")]
            for host in self.hosts:
                self.closing.callback(host.close)
                if congestion:
                    host.sysctl("net.ipv4.tcp_congestion_control", congestion)
            near, far = self.hosts
            self.near_namespace, self.far_namespace = near.name, far.name
            network.wire(near, "side", ["10.10.0.1/24"], far, "side", [f"{self.target_host}/24"])
            self.wire = Link(near, [f"{self.hub_host}/24"], far, [f"{self.agent_host}/24"],
                             program=os.path.join(build, "tests/lib/linkem"))
            self.closing.callback(self.wire.close)
        except BaseException:
            self.close()
            raise

    def close(self):
        self.closing.close()
