"""Rotation of the CA: nobody is cut off, whoever was away comes back, what is over is refused."""

import json
import os
import re
import shutil
import subprocess

import pytest

from lib.process import Process, run, wait_until
from lib.service import connect, exchange, free_port, serves
from lib.warren import Agent, endpoint, program

ROOT = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", re.DOTALL)


def roots_in(path):
    """The fingerprints of the certificates in a PEM file."""
    with open(path) as f:
        pems = ROOT.findall(f.read())
    shown = [run(["openssl", "x509", "-noout", "-fingerprint", "-sha256"], input=pem).stdout for pem in pems]
    return [s.split("=")[1].strip().replace(":", "").lower() for s in shown]


def status(hub):
    return hub.admin.get("/api/v1/ca")


def root(hub, state):
    return next(r for r in status(hub)["roots"] if r["state"] == state)


def is_issued_by(agent, fingerprint):
    """Whether the agent's certificate is by the root of that fingerprint, which it has in its ca.pem."""
    with open(os.path.join(agent.data, "ca.pem")) as f:
        pems = ROOT.findall(f.read())
    for pem, found in zip(pems, roots_in(os.path.join(agent.data, "ca.pem"))):
        path = os.path.join(agent.directory, "root.pem")
        with open(path, "w") as f:
            f.write(pem)
        done = subprocess.run(["openssl", "verify", "-CAfile", path, "-purpose", "sslclient",
                               agent.certificate_path], capture_output=True, check=False)
        if done.returncode == 0:
            return found == fingerprint
    return False


def wait_moved(hub, agents):
    new = root(hub, "signing")["fingerprint"]
    for agent in agents:
        wait_until(lambda a=agent: is_issued_by(a, new), f"{agent.name} to renew by the new root", 60)


def enroll_later(hub, name, token):
    agent = Agent(hub, os.path.join(hub.directory, name), name)
    return agent, agent.enroll(token, check=False)


def test_nobody_is_cut_off_by_a_rotation(bench, hub, echo_server):
    agents = [hub.agent(name) for name in ("a1", "a2", "a3")]
    away = hub.agent("away")
    away.process.stop()
    early = hub.bootstrap_token()
    hub.cli("login", hub.url, "--ca", hub.ca_path, "--token-file", hub.token_path)
    context = {"WARREN_HUB": "", "WARREN_CA": "", "WARREN_TOKEN_FILE": ""}
    tunnel = hub.tunnel(echo_server.address)
    before = status(hub)
    assert (before["stage"], len(before["roots"])) == ("stable", 1)
    old = before["roots"][0]["fingerprint"]
    assert roots_in(hub.ca_path) == [old]

    with connect(endpoint(tunnel)) as sock:
        assert exchange(sock, b"before") == b"before"
        hub.cli("ca", "rotate")
        now = status(hub)
        assert now["stage"] == "moving"
        new = root(hub, "signing")["fingerprint"]
        assert root(hub, "old")["fingerprint"] == old
        for agent in agents:
            assert sorted(roots_in(os.path.join(agent.data, "ca.pem"))) == sorted([old, new])
        assert roots_in(os.path.join(away.data, "ca.pem")) == [old]
        assert roots_in(hub.ca_path) == [new, old]
        wait_moved(hub, agents)
        assert exchange(sock, b"moved") == b"moved"

        # What knows the old root only goes on: a token, a login, an agent that was away.
        late, done = enroll_later(hub, "late", early)
        assert done.returncode == 0, done.stderr
        assert is_issued_by(late, new)
        assert hub.cli("status", env=context).returncode == 0
        with open(os.path.join(hub.directory, "config/warren/contexts.json")) as f:
            assert next(iter(json.load(f)["contexts"].values()))["ca"].count("BEGIN") == 2
        refused = hub.cli("ca", "rotate", "--finish", check=False)
        assert refused.returncode != 0 and "away" in refused.stderr and "1 agents" in refused.stderr
        away.start()
        away.wait_online(20)
        wait_moved(hub, [away])

        hub.cli("ca", "rotate", "--finish")
        assert exchange(sock, b"after") == b"after"
        assert status(hub)["stage"] == "stable"
        assert roots_in(hub.ca_path) == [new]
        for agent in [*agents, away]:
            wait_until(lambda a=agent: roots_in(os.path.join(a.data, "ca.pem")) == [new], agent.name)

    assert hub.cli("status", env=context).returncode == 0
    _, done = enroll_later(hub, "too_late", early)
    assert done.returncode != 0 and "rotated" in done.stderr
    assert enroll_later(hub, "in_time", hub.bootstrap_token())[1].returncode == 0
    hub.process.stop()
    hub.start()
    for agent in agents:
        agent.wait_online(20)
        agent.process.stop()
        agent.start()
        agent.wait_online(20)
    assert serves(endpoint(hub.wait_active(tunnel["id"], 20)))
    assert [f for f in os.listdir(hub.data) if f.startswith("ca") and f.endswith(".key")] == ["ca.key"]


def test_a_running_forward_and_an_unused_login_outlive_a_rotation(bench, hub, echo_server):
    agent = hub.agent("a1")
    hub.cli("login", hub.url, "--ca", hub.ca_path, "--token-file", hub.token_path)
    context = {"WARREN_HUB": "", "WARREN_CA": "", "WARREN_TOKEN_FILE": ""}
    old_ca = os.path.join(hub.directory, "old.pem")
    shutil.copy(hub.ca_path, old_ca)
    port = free_port()
    door = f"127.0.0.1:{port}"
    forward = Process([program("warren"), "forward", "lan", f"{port}:{echo_server.address}"],
                      os.path.join(hub.directory, "forward.log"), env={**hub.environment(), "WARREN_CA": old_ca})
    forward.start()
    try:
        wait_until(lambda: serves(door), "warren forward to serve", 20)
        hub.cli("ca", "rotate")
        wait_moved(hub, [agent])
        hub.cli("ca", "rotate", "--finish")
        hub.process.stop()
        hub.start()
        wait_until(lambda: serves(door), "warren forward to be back", 30)
    finally:
        forward.stop()
    hub.cli("status", env=context)
    with open(os.path.join(hub.directory, "config/warren/contexts.json")) as f:
        kept = next(iter(json.load(f)["contexts"].values()))["ca"]
    with open(hub.ca_path) as f:
        assert kept == f.read(), "the new root alone"
    hub.cli("ca", "rotate")
    wait_moved(hub, [agent])
    hub.cli("ca", "rotate", "--finish")
    hub.cli("status", env=context)


def test_an_agent_that_was_away_past_its_certificates_end_comes_back(bench):
    hub = bench.hub(options=["--cert-ttl", "4s", "--late-renewal-grace", "1h"])
    agent = hub.agent("a1")
    agent.process.stop()
    hub.cli("ca", "rotate")
    wait_until(agent.expired, "the certificate to expire", 20)
    refused = hub.cli("ca", "rotate", "--finish", check=False)
    assert "a1" in refused.stderr, "it may still renew late"
    agent.start()
    agent.wait_online(30)
    wait_moved(hub, [agent])


def test_with_force_the_rotation_ends_and_who_needs_the_old_root_is_cut_off(hub):
    staying, away = hub.agent("staying"), hub.agent("away")
    away.process.stop()
    hub.cli("ca", "rotate")
    wait_moved(hub, [staying])
    hub.cli("ca", "rotate", "--finish", "--force")
    away.start()
    away.process.wait_log("not connected")
    assert away.identity()["status"]["phase"] != "online"
    assert staying.identity()["status"]["phase"] == "online"
    actions = [(row["action"], row["detail"]) for row in hub.admin.items("/api/v1/audit")]
    assert {("ca.rotate", "start"), ("ca.rotate", "sign"), ("ca.rotate", "finish")} <= set(actions)


def test_a_rotation_can_be_given_up_before_the_new_root_signs(hub):
    agent = hub.agent("a1")
    old = roots_in(hub.ca_path)
    hub.admin.post("/api/v1/ca:rotate", {"step": "start"})
    assert status(hub)["stage"] == "learning"
    wait_until(lambda: status(hub)["agents"]["aware"] == 1, "the agent to learn")
    assert len(roots_in(os.path.join(agent.data, "ca.pem"))) == 2
    hub.cli("ca", "rotate", "--cancel")
    wait_until(lambda: roots_in(os.path.join(agent.data, "ca.pem")) == old, "the agent to forget")
    assert status(hub)["stage"] == "stable"
    for step in ("sign", "finish", "cancel"):
        status_code = hub.admin.raw("POST", "/api/v1/ca:rotate", {"step": step})[0]
        assert status_code == 409, step
    assert hub.admin.raw("POST", "/api/v1/ca:rotate", {"step": "nonsense"})[0] == 400
    hub.process.stop()
    hub.start()
    agent.wait_online(20)
    hub.cli("ca", "rotate")
    wait_moved(hub, [agent])


def test_only_an_administrator_rotates(hub):
    operator = hub.rest(hub.admin.post("/api/v1/tokens", {"kind": "api"})["token"])
    assert operator.raw("GET", "/api/v1/ca")[0] == 403
    assert operator.raw("POST", "/api/v1/ca:rotate", {"step": "start"})[0] == 403


def test_a_cluster_rotates_with_streams_open(bench, cluster):
    first, second, third = cluster.hubs
    agents = [cluster.agent(f"a{i}", at=hub) for i, hub in enumerate(cluster.hubs)]
    early = second.bootstrap_token()
    echo = bench.server(host=agents[1].address, namespace=agents[1].namespace)
    body = {"name": "web", "spec": {
        "target": {"network": "lan", "address": echo.address},
        "access": {"endpoint": {"listen": "0.0.0.0:9000"}}}}
    cluster.wait_active(first.admin.post("/api/v1/tunnels", body)["id"])
    with connect(f"{third.host}:9000", namespace=cluster.client) as one, \
            connect(f"{first.host}:9000", namespace=cluster.client) as other:
        first.cli("ca", "rotate", seconds=120)
        for hub in cluster.hubs:
            wait_until(lambda h=hub: status(h)["stage"] == "moving", "every hub to move")
        wait_moved(first, agents)
        third_agent = Agent(third, os.path.join(cluster.directory, "late"), "late",
                            cluster.host()[0])
        third_agent.enroll(early)
        for sock in (one, other):
            assert exchange(sock, b"moved") == b"moved"
        assert serves(f"{third.host}:9000", cluster.client), "tickets and links go on"
        first.cli("ca", "rotate", "--finish")
        for sock in (one, other):
            assert exchange(sock, b"after") == b"after"
    for hub in cluster.hubs:
        wait_until(lambda h=hub: status(h)["stage"] == "stable" and len(roots_in(h.ca_path)) == 1, "one root")
        assert serves(f"{hub.host}:9000", cluster.client)
    second.process.stop()
    second.start()
    for hub in cluster.hubs:
        wait_until(lambda h=hub: serves(f"{h.host}:9000", cluster.client), "every hub to serve", 30)
