"""The command line: the calls that scripts are written against, and what people see."""

import hashlib
import json
import os
import pty
import re
import stat
import subprocess

import pytest
import yaml

from lib.process import run, wait_until
from lib.service import connect, exchange, serves
from lib.warren import BUILD, endpoint, program


def test_the_exact_calls_that_scripts_are_written_against(bench, hub, echo_server):
    token = hub.cli("token", "create", "-o", "json")
    assert token["token"].startswith("wbt_")
    network = hub.cli("token", "create", "--network", "site", "--uses", "2", "--ttl", "24h", "-o", "json")["network"]
    agent = hub.agent("a1", network="site")
    assert [a["id"] for a in hub.cli("agent", "list", "-o", "json")] == [agent.id]
    assert network in [n["id"] for n in hub.cli("network", "list", "-o", "json")]
    assert hub.cli("tunnel", "list", "-o", "json") == []
    made = hub.cli("tunnel", "create", "--name", "web", "--network", "site", "--target", echo_server.address,
                   "--listen", "127.0.0.1:0", "--wait", "-o", "json")
    assert serves(made["status"]["endpoint"]["address"])
    assert hub.cli("tunnel", "get", "web", "-o", "json")["id"] == made["id"]
    assert hub.cli("tunnel", "get", made["id"], "-o", "json")["name"] == "web"
    assert [t["name"] for t in hub.cli("tunnel", "list", "-o", "json")] == ["web"]
    hub.cli("tunnel", "delete", "web")
    assert hub.cli("tunnel", "list", "-o", "json") == []
    hub.cli("agent", "revoke", agent.id)
    assert hub.cli("agent", "list", "-o", "json")[0]["status"]["phase"] == "revoked"


def test_tables_are_for_people_and_yaml_says_the_same_as_json(hub, echo_server):
    hub.agent("a1")
    hub.tunnel(echo_server.address)
    table = hub.cli("tunnel", "list").stdout
    lines = table.splitlines()
    assert re.match(r"NAME\s", lines[0]) and lines[1].startswith("web ")
    assert echo_server.address in lines[1] and "active" in lines[1]
    as_yaml = yaml.safe_load(hub.cli("tunnel", "get", "web", "-o", "yaml").stdout)
    as_json = hub.cli("tunnel", "get", "web", "-o", "json")
    assert as_yaml["spec"] == as_json["spec"] and as_yaml["id"] == as_json["id"]


def test_errors_say_what_and_name_the_flag_and_exit_non_zero(hub):
    cases = [
        (["tunnel", "get", "nothing"], "nothing"),
        (["tunnel", "create", "--name", "x", "--network", "nowhere", "--target", "127.0.0.1:1"], "nowhere"),
        (["tunnel", "create", "--name", "x", "--network", "nowhere", "--target", "rubbish"], "rubbish|target"),
        (["tunnel", "create", "--name", "x"], "network|target"),
        (["tunnel", "explode"], "explode"),
        (["tunnel", "list", "--colour"], "colour"),
    ]
    for words, expected in cases:
        done = hub.cli(*words, check=False)
        assert done.returncode != 0, words
        assert re.search(expected, done.stderr), (words, done.stderr)
        assert not done.stdout
    done = hub.cli("tunnel", "list", check=False, env={"WARREN_HUB": "https://127.0.0.1:1"})
    assert done.returncode != 0 and re.search("refused|connect", done.stderr)
    done = hub.cli("tunnel", "list", check=False, env={"WARREN_TOKEN_FILE": "/nonexistent"})
    assert done.returncode != 0 and "/nonexistent" in done.stderr


def test_wait_gives_up_with_the_reason(hub):
    hub.admin.post("/api/v1/networks", {"name": "empty"})
    done = hub.cli("tunnel", "create", "--name", "x", "--network", "empty", "--target", "127.0.0.1:1", "--listen",
                   "127.0.0.1:0", "--wait", "--timeout", "1s", check=False)
    assert done.returncode != 0 and "agent" in done.stderr


def test_watch_prints_changes_until_it_is_stopped(hub, directory):
    out = os.path.join(directory, "watch.out")
    with open(out, "w") as f:
        watcher = subprocess.Popen([program("warren"), "network", "list", "--watch", "-o", "json"], stdout=f,
                                   env={**os.environ, **hub.environment()})
    try:
        hub.admin.post("/api/v1/networks", {"name": "seen"})
        wait_until(lambda: "seen" in open(out).read(), "the change to be printed")
        assert watcher.poll() is None
    finally:
        watcher.terminate()
        watcher.wait(10)


def test_login_keeps_contexts_in_a_private_file(hub, directory):
    clean = {"WARREN_HUB": "", "WARREN_TOKEN_FILE": "", "WARREN_CA": ""}
    env = {k: v for k, v in {**os.environ, **hub.environment()}.items() if k not in clean}

    def warren(*words, input=None):
        return subprocess.run([program("warren"), *words], env=env, input=input, capture_output=True, text=True,
                              timeout=30)
    done = warren("tunnel", "list")
    assert done.returncode != 0 and "login" in done.stderr
    done = warren("login", hub.url, "--ca", hub.ca_path, "--token-file", hub.token_path)
    assert done.returncode == 0, done.stderr
    done = warren("tunnel", "list", "-o", "json")
    assert done.returncode == 0 and json.loads(done.stdout) == []
    written = [os.path.join(p, f) for p, _, files in os.walk(env["XDG_CONFIG_HOME"]) for f in files]
    assert written and all(stat.S_IMODE(os.stat(f).st_mode) == 0o600 for f in written)


def test_watch_goes_on_after_the_hub_was_killed(hub, directory):
    out = os.path.join(directory, "watch.out")
    with open(out, "w") as f:
        watcher = subprocess.Popen([program("warren"), "network", "list", "--watch"], stdout=f,
                                   env={**os.environ, **hub.environment()})
    try:
        hub.admin.post("/api/v1/networks", {"name": "before"})
        wait_until(lambda: "before" in open(out).read(), "the first change")
        hub.process.kill()
        hub.start()
        hub.admin.post("/api/v1/networks", {"name": "after"})
        wait_until(lambda: "after" in open(out).read(), "the change after the restart")
        assert watcher.poll() is None
    finally:
        watcher.terminate()
        watcher.wait(10)


def test_a_tunnel_is_changed_renamed_and_guarded_by_its_version(hub, echo_server):
    hub.agent("a1")
    hub.tunnel("127.0.0.1:1")
    changed = hub.cli("tunnel", "update", "web", "--target", echo_server.address, "--rename", "shop", "--ttl", "1h",
                      "--wait", "-o", "json")
    assert changed["name"] == "shop" and changed["spec"]["ttl"] == "1h"
    assert serves(changed["status"]["endpoint"]["address"])
    assert hub.cli("tunnel", "update", "shop", "--no-ttl", "-o", "json")["spec"]["ttl"] is None
    assert hub.cli("tunnel", "update", "shop", "--ttl", "2h", "--if-version", "1", check=False).returncode == 5
    assert hub.cli("tunnel", "update", "shop", check=False).returncode == 2
    gone = hub.cli("tunnel", "update", "shop", "--no-listen", "-o", "json")
    assert gone["spec"]["access"]["endpoint"] is None
    assert hub.cli("tunnel", "delete", "shop", "--if-version", "1", check=False).returncode == 5
    assert hub.cli("tunnel", "delete", "shop").returncode == 0


def test_exit_codes_are_those_of_the_manual(hub, directory):
    hub.admin.post("/api/v1/networks", {"name": "empty"})
    waiting = ["tunnel", "create", "--name", "x", "--network", "empty", "--target", "127.0.0.1:1", "--wait",
               "--timeout", "500ms"]
    bad = os.path.join(directory, "bad.token")
    with open(os.open(bad, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
        f.write("wat_0000000000000000_" + "A" * 43)
    for expected, words, env in [
        (0, ["network", "list"], {}),
        (2, ["network", "list", "--no-such-flag"], {}),
        (2, ["network", "create", "Not_A_Name"], {}),
        (3, ["network", "get", "nothing"], {}),
        (4, ["network", "list"], {"WARREN_TOKEN_FILE": bad}),
        (5, ["network", "create", "empty"], {}),
        (6, waiting, {}),
        (7, ["network", "list"], {"WARREN_HUB": "https://127.0.0.1:1"}),
        (7, ["network", "list"], {"WARREN_CA": "sha256:" + "00" * 32}),
    ]:
        done = hub.cli(*words, check=False, env=env)
        assert done.returncode == expected, (words, done.returncode, done.stderr)
        assert expected == 0 or done.stderr.startswith("warren: ")


def test_login_trusts_only_the_ca_that_was_agreed_on(hub):
    der = subprocess.run(["openssl", "x509", "-in", hub.ca_path, "-outform", "DER"], capture_output=True).stdout
    pin = hashlib.sha256(der).hexdigest()
    env = {"WARREN_CA": "", "WARREN_HUB": "", "WARREN_TOKEN_FILE": ""}

    def login(*words):
        return hub.cli("login", hub.url, "--token-file", hub.token_path, *words, check=False, env=env)
    done = login()
    assert done.returncode == 7 and pin in done.stderr
    assert hub.cli("context", "list", "-o", "json", env=env) == []
    done = login("--ca", "sha256:" + "11" * 32)
    assert done.returncode == 7
    assert login("--ca", f"sha256:{pin}", "--name", "pinned").returncode == 0
    assert login("--trust", "--name", "trusted").returncode == 0
    assert {c["name"]: c["current"] for c in hub.cli("context", "list", "-o", "json", env=env)} \
        == {"pinned": False, "trusted": True}
    assert hub.cli("network", "list", "-o", "json", env=env) == []
    hub.cli("context", "use", "pinned", env=env)
    hub.cli("context", "remove", "trusted", env=env)
    assert hub.cli("status", "-o", "json", env=env)["ready"] is True
    hub.cli("logout", env=env)
    assert hub.cli("network", "list", check=False, env=env).returncode == 2


def test_login_asks_on_the_terminal_and_does_not_echo_the_token(hub):
    token = hub.token
    env = {**os.environ, **hub.environment(), "WARREN_CA": "", "WARREN_HUB": "", "WARREN_TOKEN_FILE": ""}
    child, terminal = pty.fork()
    if child == 0:
        os.execve(program("warren"), ["warren", "login", hub.url], env)
    shown = b""
    answers = [(b"trust it: ", b"yes\n"), (b"API token: ", token.encode() + b"\n")]
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        shown += piece
        if answers and shown.endswith(answers[0][0]):
            os.write(terminal, answers.pop(0)[1])
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    assert b"logged in" in shown and token.encode() not in shown


def test_help_completion_and_man_pages_come_from_the_command_table(hub):
    top = run([program("warren"), "--help"]).stdout
    for word in ("hub", "token", "agent", "network", "tunnel", "audit", "login"):
        assert re.search(rf"^\s+{word}\b", top, re.M), word
    assert "--target" in run([program("warren"), "tunnel", "create", "--help"]).stdout
    script = run([program("warren"), "completion", "bash"]).stdout
    run(["bash", "-n"], input=script)
    words = run(["bash", "-c", script + "\nCOMP_WORDS=(warren tunnel ''); COMP_CWORD=2; _warren;"
                 " echo \"${COMPREPLY[@]}\""], env={"PATH": f"{BUILD}:{os.environ['PATH']}"}).stdout.split()
    assert {"create", "list", "get", "delete"} <= set(words)


def test_an_agent_shows_to_its_own_user_what_it_holds(hub, echo_server):
    agent = hub.agent("a1")
    tunnel = hub.tunnel(echo_server.address)
    inspect = [program("warren-agent"), "inspect", "--data", agent.data]
    seen = json.loads(run(inspect).stdout)
    assert (seen["agent"], seen["connected"], seen["streams"]) == (agent.id, True, 0)
    lease = tunnel["status"]["lease"]["agent"]
    assert seen["leases"] == [{"tunnel": tunnel["id"], "epoch": lease["epoch"], "phase": "taken",
                               "streams": 0}]
    assert os.stat(os.path.join(agent.data, "agent.sock")).st_mode & 0o777 == 0o600
    with connect(endpoint(tunnel)) as sock:
        exchange(sock, b"x")
        assert json.loads(run(inspect).stdout)["streams"] == 1
    agent.process.kill()
    assert "no agent runs" in run(inspect, check=False).stderr
    agent.start()
    agent.wait_online()
    assert json.loads(run(inspect).stdout)["connected"]
    hub.process.kill()
    wait_until(lambda: not json.loads(run(inspect).stdout)["connected"], "the agent to notice")


def test_the_version_is_told(hub):
    assert re.search(r"\d+\.\d+\.\d+", run([program("warren"), "--version"]).stdout)
    assert re.search(r"\d+\.\d+\.\d+", run([program("warren-agent"), "--version"]).stdout)


@pytest.mark.parametrize("secret", ["--token", "--password"])
def test_no_secret_is_taken_from_the_command_line(hub, secret):
    assert hub.cli("tunnel", "list", secret, "wat_x", check=False).returncode != 0
