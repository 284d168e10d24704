"""A hub's and an agent's life: settings, start, reload, drain; a tunnel's: change, end, delete; a stock gRPC client."""

import os
import re
import shutil
import signal
import socket
import threading
import time

import pytest

from lib.process import SLOW, run, wait_until
from lib.service import connect, exchange, read_all, serves
from lib.warren import Agent, Problem, endpoint, program


# --- settings ---------------------------------------------------------------------------------------

def hub_command(*words, env=None, check=True):
    return run([program("warren"), "hub", *words], env=env, check=check)


def test_settings_come_from_file_environment_and_flags_in_rising_strength(directory):
    path = os.path.join(directory, "hub.toml")
    with open(path, "w") as f:
        f.write('data = "d"\nlisten = "127.0.0.1:1111"\ncert_ttl = "1h"\nlog_level = "warn"\n'
                '[limits]\nhandshakes = 100\n')
    dumped = hub_command("--config", path, "--dump-config", "--log-level", "debug",
                         env={"WARREN_CERT_TTL": "2h", "WARREN_LOG_LEVEL": "error"}).stdout
    for line in ('listen = "127.0.0.1:1111"', 'cert_ttl = "2h"', 'log_level = "debug"', "handshakes = 100",
                 'late_renewal = "grace"'):
        assert line in dumped, dumped
    # What it dumps it also reads; the comments say where each value came from.
    again = os.path.join(directory, "again.toml")
    with open(again, "w") as f:
        f.write(dumped)

    def settings(text):
        return [line for line in text.splitlines() if not line.startswith("#")]
    assert settings(hub_command("--config", again, "--dump-config").stdout) == settings(dumped)


@pytest.mark.parametrize("text,expected", [
    ('data = "d"\nlisten = "nowhere"\n', "listen"),
    ('data = "d"\ncolour = "red"\n', "colour"),
    ('data = "d"\ncert_ttl = "soon"\n', "cert_ttl"),
    ('data = "d"\nworkers = -1\n', "workers"),
    ('data = \n', "line|hub.toml"),
])
def test_check_config_names_the_setting_at_fault(directory, text, expected):
    path = os.path.join(directory, "hub.toml")
    with open(path, "w") as f:
        f.write(text)
    done = hub_command("--config", path, "--check-config", check=False)
    assert done.returncode != 0 and re.search(expected, done.stderr), done.stderr


def test_check_config_of_good_settings_is_silent_about_errors_and_starts_nothing(directory):
    data = os.path.join(directory, "data")
    assert hub_command("--data", data, "--check-config").returncode == 0
    assert not os.path.exists(data)


# --- start, reload, drain ----------------------------------------------------------------------------

def test_a_second_hub_on_the_same_data_or_port_says_why_it_cannot_start(bench, hub):
    done = run([program("warren"), "hub", "--data", os.path.join(hub.directory, "other"), "--listen",
                f"127.0.0.1:{hub.port}"], check=False)
    assert done.returncode != 0 and "in use" in done.stderr.lower(), done.stderr
    done = run([program("warren"), "hub", "--data", hub.data, "--listen", "127.0.0.1:0"], check=False)
    assert done.returncode != 0 and re.search("in use|locked|another|already", done.stderr.lower()), done.stderr


def test_sigterm_lets_open_streams_finish_and_takes_no_new_work(bench, hub, echo_server):
    hub.agent("a1")
    address = endpoint(hub.tunnel(echo_server.address))
    sock = connect(address)
    assert exchange(sock, b"x") == b"x"
    admin = hub.admin
    hub.process.signal(signal.SIGTERM)

    def refused():
        try:
            connect(address, 1).close()
        except ConnectionRefusedError:
            return True
    wait_until(refused, "the listener to close")
    assert hub.process.alive()
    assert exchange(sock, b"still") == b"still", "the open stream goes on"
    with pytest.raises(ConnectionError):  # refused, or reset by the worker that closes last
        admin.raw("GET", "/readyz")
    sock.close()
    assert hub.process.popen.wait(8 * SLOW) == 0, "it ends when the last stream has"


def test_draining_ends_after_its_grace_time(bench, echo_server):
    hub = bench.hub(options=["--drain-grace", "1s"])
    hub.agent("a1")
    sock = connect(endpoint(hub.tunnel(echo_server.address)))
    exchange(sock, b"x")
    started = time.monotonic()
    hub.process.signal(signal.SIGTERM)
    assert read_all(sock)[1] in ("reset", "eof")
    assert hub.process.popen.wait(10 * SLOW) == 0
    assert 0.8 <= time.monotonic() - started < 6 * SLOW


def test_sighup_applies_what_is_reloadable_and_names_what_is_not(bench, directory, echo_server):
    path = os.path.join(directory, "hub.toml")

    def write(level, workers):
        with open(path, "w") as f:
            f.write(f'log_level = "{level}"\nworkers = {workers}\n')
    write("info", 1)
    hub = bench.hub(options=["--config", path])
    agent = hub.agent("a1")
    sock = connect(endpoint(hub.tunnel(echo_server.address)))
    exchange(sock, b"x")
    write("debug", 2)
    hub.process.signal(signal.SIGHUP)
    hub.process.wait_log("(?i)reload")
    hub.process.wait_log("workers")
    assert exchange(sock, b"y") == b"y"
    write("rubbish", 2)
    seen = len(hub.process.log())
    hub.process.signal(signal.SIGHUP)
    hub.process.wait_log("log_level", after=seen)
    assert serves(endpoint(hub.admin.get("/api/v1/tunnels/web")))
    assert agent.process.alive()


def test_systemd_is_told_when_the_hub_is_ready(bench, directory):
    path = os.path.join(directory, "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.settimeout(10 * SLOW)
        hub = bench.hub(env={"NOTIFY_SOCKET": path})
        assert "READY=1" in notify.recv(4096).decode()
        hub.process.signal(signal.SIGTERM)
        said = ""
        while "STOPPING=1" not in said:
            said += notify.recv(4096).decode()


def test_the_agent_installs_itself_as_a_hardened_service(hub, directory):
    agent = Agent(hub, directory, "a1")
    agent.data = os.path.join(directory, "var/lib/warren-agent")
    os.makedirs(os.path.dirname(agent.data))
    agent.enroll(hub.bootstrap_token())
    run([program("warren-agent"), "install", "--root", directory, "--allow", "10.0.0.0/8"])
    unit = os.path.join(directory, "etc/systemd/system/warren-agent.service")
    with open(unit) as f:
        text = f.read()
    for line in ("Type=notify", "Restart=always", "DynamicUser=yes", "NoNewPrivileges=yes", "CapabilityBoundingSet=",
                 "ProtectSystem=strict", "WantedBy=multi-user.target"):
        assert line in text.splitlines(), line
    assert '--allow "10.0.0.0/8"' in text
    if shutil.which("systemd-analyze"):
        said = run(["systemd-analyze", "security", "--offline=true", "--root", directory, "warren-agent.service"],
                   check=False).stdout
        level = re.search(r"Overall exposure level for warren-agent.service: ([0-9.]+)", said)
        assert not level or float(level[1]) < 2.5
    run([program("warren-agent"), "uninstall", "--root", directory])
    assert not os.path.exists(unit) and os.path.exists(agent.key_path), "the identity stays"


def test_logs_as_json_are_one_object_a_line(bench):
    import json
    hub = bench.hub(options=["--log-format", "json"])
    agent = hub.agent("a1", options=["--log-format", "json"])
    for process in (hub.process, agent.process):
        lines = process.log().splitlines()
        assert lines
        for line in lines:
            assert isinstance(json.loads(line), dict)


@pytest.mark.one_hub("which address an agent comes from")
def test_a_hub_by_default_listens_on_ipv4_and_ipv6_alike(bench):
    hub = bench.hub(host="::1")
    assert hub.admin.raw("GET", "/readyz")[0] == 200
    agent = hub.agent("a1")
    assert agent.identity()["status"]["session"]["address"].startswith("[::1]:")


def test_the_hub_keeps_its_ca_and_identity_over_restarts(hub):
    with open(hub.ca_path) as f:
        ca = f.read()
    first = hub.admin.items("/api/v1/hubs")[0]
    assert hub.process.stop() == 0
    hub.start()
    second = hub.admin.items("/api/v1/hubs")[0]
    assert second["id"] == first["id"] and second["epoch"] > first["epoch"]
    with open(hub.ca_path) as f:
        assert f.read() == ca


# --- tunnels ----------------------------------------------------------------------------------------

@pytest.mark.one_hub("the hub whose clock is first ends it; to the other it is a reset")
def test_a_ttl_that_runs_out_closes_listener_and_streams(bench, hub, echo_server):
    hub.agent("a1")
    tunnel = hub.tunnel(echo_server.address, ttl="2s")
    sock = connect(endpoint(tunnel))
    assert exchange(sock, b"x") == b"x"
    sock.settimeout(6 * SLOW)
    assert read_all(sock)[1] == "reset"
    status = wait_until(lambda: (s := hub.admin.get("/api/v1/tunnels/web")["status"])["phase"] == "expired" and s,
                        "the phase")
    assert status["endpoint"] is None and status["closed"] and status["streams"]["open"] == 0
    with pytest.raises(ConnectionRefusedError):
        connect(endpoint(tunnel))
    row = wait_until(lambda: hub.admin.items("/api/v1/tunnels/web/connections"), "the row")[0]
    assert row["end"] == "expired"


def test_a_deleted_tunnel_closes_listener_and_streams(bench, hub, echo_server):
    hub.agent("a1")
    tunnel = hub.tunnel(echo_server.address)
    sock = connect(endpoint(tunnel))
    exchange(sock, b"x")
    hub.admin.delete("/api/v1/tunnels/web")
    assert read_all(sock)[1] == "reset"
    with pytest.raises(ConnectionRefusedError):
        connect(endpoint(tunnel))
    with pytest.raises(Problem):
        hub.admin.get("/api/v1/tunnels/web")


def test_a_new_target_serves_new_streams_and_a_new_endpoint_moves_the_listener(bench, hub, echo_server):
    hub.agent("a1")
    tunnel = hub.tunnel(echo_server.address)
    old = connect(endpoint(tunnel))
    exchange(old, b"x")
    second = bench.server()
    hub.admin.patch("/api/v1/tunnels/web", {"spec": {"target": {"address": second.address}}})
    wait_until(lambda: serves(endpoint(tunnel)) and second.accepted, "the new target")
    assert exchange(old, b"old") == b"old"
    hub.admin.patch("/api/v1/tunnels/web", {"spec": {"access": {"endpoint": {"listen": "127.0.0.2:0"}}}})

    def moved():
        now = hub.admin.get("/api/v1/tunnels/web")
        return now["status"]["endpoint"] and endpoint(now).startswith("127.0.0.2:") and serves(endpoint(now))
    wait_until(moved, "the new endpoint")
    assert read_all(old)[1] == "reset"


def test_many_tunnels_and_networks_do_not_mix(bench, hub):
    servers = {}
    for name in ("one", "two", "three"):
        hub.agent(f"a-{name}", network=name)

        def greet(server, sock, text=name.encode()):
            sock.sendall(text)
        servers[name] = bench.server(greet)
    tunnels = {name: endpoint(hub.tunnel(server.address, name=f"t-{name}", network=name))
               for name, server in servers.items()}
    for name, address in tunnels.items():
        assert read_all(connect(address))[0] == name.encode()
    agents = {a["name"]: a["id"] for a in hub.admin.items("/api/v1/agents")}
    for name in tunnels:
        row = wait_until(lambda: hub.admin.items(f"/api/v1/tunnels/t-{name}/connections"), "the row")[0]
        assert row["agent"] == agents[f"a-{name}"]


def test_a_new_tunnel_is_served_within_a_moment(bench, hub, echo_server):
    hub.agent("a1")
    took = []
    for i in range(5):
        started = time.monotonic()
        assert serves(endpoint(hub.tunnel(echo_server.address, name=f"t{i}")))
        took.append(time.monotonic() - started)
    assert sorted(took)[2] < 1 * SLOW, took


def test_tunnels_made_and_deleted_in_haste_leave_nothing(bench, hub, echo_server):
    agent = hub.agent("a1")
    hub.tunnel(echo_server.address, name="stays")
    files = hub.process.open_files(), agent.process.open_files()

    def churn(worker):
        admin = hub.admin
        for i in range(15):
            name = f"t{worker}-{i}"
            admin.post("/api/v1/tunnels", {"name": name, "spec": {
                "target": {"network": "lan", "address": echo_server.address},
                "access": {"endpoint": {"listen": "127.0.0.1:0"}}}})
            admin.delete(f"/api/v1/tunnels/{name}")
    threads = [threading.Thread(target=churn, args=(w,)) for w in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [t["name"] for t in hub.admin.items("/api/v1/tunnels")] == ["stays"]
    wait_until(lambda: hub.process.open_files() <= files[0] + 3 and agent.process.open_files() <= files[1] + 3,
               "their descriptors to be closed")
    assert serves(endpoint(hub.admin.get("/api/v1/tunnels/stays")))


# --- behind NAT ---------------------------------------------------------------------------------------

def test_a_real_client_reaches_a_real_service_behind_nat(bench, lan):
    hub = bench.hub(host=lan.HUB, namespace=lan.hub.name)
    nginx = bench.nginx(host=lan.AGENT, namespace=lan.lan.name)
    nginx.put_file("page", b"from behind the NAT\n")
    agent = hub.agent("a1", namespace=lan.lan.name)
    assert agent.identity()["status"]["session"]["address"].startswith("198.51.100.2:"), "masqueraded"
    assert run(["curl", "-sS", "-m", "2", f"http://{nginx.address}/page"], namespace=lan.hub.name,
               check=False).returncode != 0, "no route back"
    address = endpoint(hub.tunnel(nginx.address, listen=f"{lan.HUB}:0"))
    assert run(["curl", "-sSf", f"http://{address}/page"], namespace=lan.hub.name).stdout == "from behind the NAT\n"


@pytest.mark.one_hub("how an agent comes to its hub")
def test_an_agent_reaches_a_hub_over_ipv6(bench, lan):
    hub = bench.hub(host=lan.HUB6, namespace=lan.hub.name)
    server = bench.server(host="fd00::17", namespace=lan.lan.name)
    hub.agent("a1", namespace=lan.lan.name)
    assert serves(endpoint(hub.tunnel(server.address, listen=f"[{lan.HUB6}]:0")), lan.hub.name)


def test_an_agent_falls_back_to_ipv4_when_ipv6_is_dead(bench, lan):
    """Happy eyeballs: a name with both addresses, of which the IPv6 one is silent."""
    etc = f"/etc/netns/{lan.lan.name}"
    os.makedirs(etc, exist_ok=True)
    try:
        with open(etc + "/hosts", "w") as f:
            f.write(f"127.0.0.1 localhost\n{lan.HUB6} hub.test\n{lan.HUB} hub.test\n")
        lan.router.nft("""
            table ip6 dead {
                chain in { type filter hook prerouting priority -300; policy drop; }
            }""")
        hub = bench.hub(host=lan.HUB, namespace=lan.hub.name, options=["--public-name", "hub.test"])
        hub.url = f"https://hub.test:{hub.port}"
        started = time.monotonic()
        hub.agent("a1", namespace=lan.lan.name)
        assert time.monotonic() - started < 6 * SLOW
    finally:
        os.remove(etc + "/hosts")
        os.rmdir(etc)
