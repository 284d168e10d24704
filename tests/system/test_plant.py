"""The test LAN is what it says it is: what the comparisons over it stand on."""

import socket

import pytest

from lib import plant as p
from lib.datagram import ask, dig, snmpwalk, udp_socket
from lib.network import inside
from lib.process import run
from lib.service import connect, exchange


def outcome(plant, address, port):
    """How a connection from the agent's host ends: a word or the name of an errno."""
    with inside(plant.hosts["agent"].name):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.settimeout(1)
    try:
        sock.connect((address, port))
        return "open"
    except TimeoutError:
        return "silent"
    except OSError as error:
        return error.strerror
    finally:
        sock.close()


def test_each_host_answers_in_its_own_way(plant):
    refused, no_host, no_net = "Connection refused", "No route to host", "Network is unreachable"
    expected = {
        (plant["web"], 80): "open", (plant.v6("web"), 80): "open",
        (plant["ssh"], 22): "open", (plant["dns"], 53): "open",
        (plant["echo"], 4000): "open", (plant.v6("echo"), 4000): "open",
        (p.FAR[0], 7): "open", (p.FAR[1], 7): "open", (p.FAR[0], 8): refused,
        (plant["closed"], 80): refused, (plant["quiet"], 80): refused,
        (plant["resetting"], 80): refused, (plant["dropping"], 80): "silent",
        (p.address(20), 1): no_net, (p.address(21), 1): no_host,
        (p.address(22), 1): "Protocol not available", (p.address(23), 1): refused,
        (p.address(24), 1): no_net, (p.address(25), 1): no_host, (p.address(26), 1): no_host,
        (p.BEYOND["unreachable"][0], 1): no_host, (p.BEYOND["prohibit"][0], 1): no_host,
        (p.BEYOND["blackhole"][0], 1): "silent", (p.BEYOND["nowhere"][0], 1): no_net,
        (p.OWN["unreachable"][0], 1): no_host, (p.OWN["prohibit"][0], 1): "Permission denied",
        (p.OWN["blackhole"][0], 1): "Invalid argument",
    }
    assert {key: outcome(plant, *key) for key in expected} == expected


def test_its_services_are_real(plant):
    agent = plant.hosts["agent"].name
    assert any("behind the firewall" in line for line in snmpwalk(f"{plant['snmp']}:161", agent))
    assert plant["web"] in dig(f"{plant['dns']}:53", "web.plant", "A", "+short", namespace=agent)
    assert "OpenSSH" in run(["ssh-keyscan", "-T", "5", plant["ssh"]], namespace=agent).stderr
    for host in (plant["echo"], plant.v6("echo"), *p.FAR):
        with connect((host, 7), namespace=agent) as sock:
            assert exchange(sock, b"hello") == b"hello"
        with udp_socket("::" if ":" in host else "0.0.0.0", namespace=agent) as sock:
            assert ask(sock, (host, 7), b"hello", tries=3) == b"hello"


@pytest.mark.parametrize("where", ["operator", "hub"])
def test_nobody_outside_reaches_it(plant, where):
    with inside(plant.hosts[where].name), pytest.raises(OSError):
        socket.create_connection((plant["web"], 80), 1)
