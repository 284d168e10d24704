"""The OCI image that `make image` built, run by podman as an operator would, in network namespaces of the test. (The Helm
chart's pods run from it too: test_chart.)"""

import json
import os

import pytest

from lib import oci
from lib.network import Lans
from lib.oci import podman
from lib.process import run, wait_until
from lib.service import serves
from lib.warren import Rest

pytestmark = pytest.mark.skipif(oci.missing() is not None, reason=str(oci.missing()))


@pytest.fixture
def containers(bench):
    return bench.keep(oci.Containers())


@pytest.fixture
def lan(bench):
    return bench.keep(Lans()).lan(1)


def start_hub(containers, directory, host, volume):
    """(container, REST as its administrator)"""
    address = host.addresses["eth0"]
    hub = containers.start("hub", "hub", "--public-name", address, volume=volume, host=host)

    def answers(path):
        assert hub.shown("State.Running") == "true", hub.log()
        done = run(["curl", "-sk", "--max-time", "3", "-o", "/dev/null", "-w", "%{http_code}",
                    f"https://{address}:8443{path}"], namespace=host.name, check=False)
        return done.stdout == "200"
    wait_until(lambda: answers("/readyz"), "the hub to be ready", 30)
    assert answers("/healthz")
    ca = os.path.join(directory, "ca.pem")
    with open(ca, "w") as f:
        f.write(hub.run("cat", "/var/lib/warren/ca.pem").stdout)
    return hub, Rest(address, 8443, ca, hub.run("cat", "/var/lib/warren/admin.token").stdout.strip(), host.name)


def test_the_image_says_how_it_is_run():
    image = json.loads(podman("image", "inspect", oci.NAME).stdout)[0]
    config = image["Config"]
    assert config["User"] == "8443:8443"
    assert config["Entrypoint"] == ["/usr/bin/entrypoint"] and config["Cmd"] == ["hub"]
    assert list(config["Volumes"]) == ["/var/lib/warren"] and "8443/tcp" in config["ExposedPorts"]
    packed = os.path.getsize(os.path.join(oci.STORE, "warren.tar"))
    print(f"\n{image['Size'] / 1e6:.0f} MB unpacked, {packed / 1e6:.0f} MB packed")
    assert image["Size"] < 300e6


def test_nothing_of_the_build_is_in_the_image():
    with oci.unpacked() as root:
        for path in "src", "debs", "usr/bin/gcc", "usr/bin/git", "usr/bin/make":
            assert not os.path.exists(os.path.join(root, path)), path
        assert os.listdir(os.path.join(root, "var/lib/apt/lists")) == []
        assert os.path.exists(os.path.join(root, "etc/ssl/certs/ca-certificates.crt"))


def test_a_hub_and_an_agent_from_the_image_serve_a_tunnel(containers, bench, lan, directory):
    site, volume = lan.host(), containers.volume("hub")
    hub, admin = start_hub(containers, directory, site, volume)
    status = hub.run("cat", "/proc/1/status").stdout
    for line in "Uid:\t8443\t8443\t8443\t8443", "CapEff:\t0000000000000000", "NoNewPrivs:\t1":
        assert line in status
    assert hub.run("touch", "/etc/x", check=False).returncode != 0, "its root cannot be written"

    there, agent_volume = lan.host(), containers.volume("agent")
    token = admin.post("/api/v1/tokens", {"network": "lan"})["token"]
    done = containers.once("agent", "enroll", "--hub", f"https://{hub.address}:8443", "--token-file", "-", "--name", "a1",
                           volume=agent_volume, host=there, input=token + "\n")
    assert done.returncode == 0, done.stdout + done.stderr
    agent = containers.start("agent", "agent", "run", volume=agent_volume, host=there)
    echo = bench.server(host=there.addresses["eth0"], namespace=there.name)
    admin.post("/api/v1/tunnels", {"name": "web", "spec": {
        "target": {"network": "lan", "address": echo.address}, "access": {"endpoint": {"listen": "0.0.0.0:9000"}}}})
    wait_until(lambda: serves(f"{hub.address}:9000", namespace=site.name), "the tunnel", 20)
    hub.run("warren", "status", "--hub", f"https://{hub.address}:8443", "--ca", "/var/lib/warren/ca.pem", "--token-file",
            "/var/lib/warren/admin.token")
    assert agent.stop() == 0 and hub.stop() == 0

    again, after = start_hub(containers, directory, site, volume)
    assert after.token == admin.token and [a["name"] for a in after.items("/api/v1/agents")] == ["a1"]
    assert again.stop() == 0


def test_what_is_wrong_is_said(containers):
    def says(*words, **options):
        done = containers.once(*words, **options)
        assert done.returncode != 0
        print(done.stderr)
        return done.stderr
    assert "hubb" in says("hubb")
    assert "enroll" in says("agent", "run", volume=containers.volume("empty"))
    assert "/var/lib/warren" in says("hub", flags=("--tmpfs", "/var/lib/warren:ro,mode=0755"))
    assert "public_name" in says("hub", "--public-name", "not a name")
    assert containers.once("--version").returncode == 0 and containers.once("agent", "--version").returncode == 0
