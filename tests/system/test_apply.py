"""Declared state: warren apply and warren export against a real hub."""

import json
import os
import pty
import re
import select
import subprocess
import threading

import pytest
import yaml

from lib.service import serves
from lib.warren import endpoint, program

SITE = """\
# one site
kind: network
name: site
---
kind: tunnel
name: web
spec:
  target: {network: site, address: "127.0.0.1:80"}
  access:
    endpoint: {listen: "127.0.0.1:0"}
---
kind: tunnel
name: db
spec:
  target: {network: site, address: "db.internal:5432"}
  ttl: 24h
"""


@pytest.fixture
def write(directory):
    def put(name, text):
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)
        return path
    return put


def plan(hub, *words, code=0):
    done = hub.cli("apply", *words, "-o", "json", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def actions(result):
    return {f"{o['kind']} {o['name']}": o["action"] for o in result["objects"]}


def state(hub):
    return {(kind, o["name"]): (o["id"], o["version"], o.get("spec"))
            for kind in ("networks", "tunnels") for o in hub.admin.items(f"/api/v1/{kind}")}


def other_token(hub, name, directory):
    made = hub.admin.post("/api/v1/tokens", {"kind": "api", "name": name, "role": "operator"})
    path = os.path.join(directory, name + ".token")
    with open(path, "w") as f:
        f.write(made["token"])
    os.chmod(path, 0o600)
    return {"WARREN_TOKEN_FILE": path}


# --- the way it is used -----------------------------------------------------------------------------

def test_a_file_becomes_objects_that_serve(bench, hub, write, echo_server):
    hub.agent("a1", network="site")
    path = write("site.yaml", SITE.replace("127.0.0.1:80", echo_server.address))
    out = hub.cli("apply", "-f", path).stdout
    assert re.search(r"^\+ tunnel web$", out, re.M) and "\x1b" not in out
    assert re.search(r"spec.target.address +\"" + echo_server.address, out)
    assert "2 to create, 1 unchanged" in out and out.endswith("done\n")
    assert serves(endpoint(hub.wait_active("web")))
    again = hub.cli("apply", "-f", path).stdout
    assert again.strip() == "3 unchanged"


def test_a_dry_run_shows_everything_and_changes_nothing(hub, write):
    path = write("site.yaml", SITE)
    before = state(hub)
    out = hub.cli("apply", "-f", path, "--dry-run").stdout
    assert "+ network site" in out and "+ tunnel db" in out and "nothing was changed" in out
    assert "\"site\"" in out, "the network's name, which has no id yet"
    assert state(hub) == before
    result = plan(hub, "-f", path, "-n")
    assert result["dry_run"] and result["summary"]["create"] == 3
    assert all(o["result"] == "planned" for o in result["objects"])
    hub.cli("apply", "-f", path)
    before = state(hub)
    changed = write("changed.yaml", SITE.replace("127.0.0.1:80", "127.0.0.1:81").replace("  ttl: 24h\n", ""))
    result = plan(hub, "-f", changed, "-n")
    assert actions(result) == {"network site": "unchanged", "tunnel web": "update", "tunnel db": "update"}
    changes = {o["name"]: o["changes"] for o in result["objects"]}
    assert changes["web"] == [{"field": "spec.target.address", "from": "127.0.0.1:80", "to": "127.0.0.1:81"}]
    assert changes["db"] == [{"field": "spec.ttl", "from": "1d", "to": None}]
    assert state(hub) == before


def test_a_change_keeps_the_object_and_its_port(bench, hub, write, echo_server):
    hub.agent("a1", network="site")
    path = write("site.yaml", SITE.replace("127.0.0.1:80", echo_server.address))
    hub.cli("apply", "-f", path)
    was = hub.wait_active("web")
    write("site.yaml", SITE.replace("127.0.0.1:80", echo_server.address).replace("24h", "48h"))
    out = hub.cli("apply", "-f", path).stdout
    assert re.search(r"spec.ttl +\"1d\" -> \"2d\"", out), out
    assert "last applied" in out
    now = hub.admin.get("/api/v1/tunnels/web")
    assert now["id"] == was["id"] and endpoint(now) == endpoint(was) and now["version"] == was["version"]


def test_toml_and_folders(hub, write, directory):
    write("all/10-net.toml", '[[network]]\nname = "site"\n')
    write("all/20-web.toml", """
[[tunnel]]
name = "web"
[tunnel.spec.target]
network = "site"
address = "127.0.0.1:80"

[[tunnel]]
name = "db"
spec = { target = { network = "site", address = "127.0.0.1:5432" }, ttl = "1h" }
""")
    write("all/30-more.yaml", "- {kind: tunnel, name: more, spec: {target: {network: site, address: 'x:1'}}}\n")
    write("all/ignored.txt", "rubbish")
    result = plan(hub, "-f", os.path.join(directory, "all"))
    assert actions(result) == {"network site": "create", "tunnel web": "create", "tunnel db": "create",
                               "tunnel more": "create"}
    place = next(o["place"] for o in result["objects"] if o["name"] == "db")
    assert place["file"].endswith("20-web.toml") and place["line"] == 8
    assert {k[1] for k in state(hub)} == {"site", "web", "db", "more"}


def test_the_standard_input_is_a_file_too(hub):
    done = hub.cli("apply", "-f", "-", input=SITE)
    assert "3 to create" in done.stdout
    assert hub.admin.get("/api/v1/tunnels/db")["spec"]["target"]["address"] == "db.internal:5432"


def test_an_export_applied_again_changes_nothing(hub, write, directory):
    hub.cli("apply", "-f", "-", input=SITE)
    hub.admin.post("/api/v1/tunnels", {"name": "by-hand", "spec": {
        "target": {"network": "site", "address": "[fd00::1]:443"}, "access": {"endpoint": None, "internal": False}}})
    before = state(hub)
    for format in ("yaml", "json"):
        text = hub.cli("export", "-o", format).stdout if format == "yaml" else \
            json.dumps(hub.cli("export", "-o", format))
        path = write("export." + format, text)
        assert set(actions(plan(hub, "-f", path)).values()) == {"unchanged"}
    assert state(hub) == before
    documents = list(yaml.safe_load_all(hub.cli("export", "--kind", "tunnel", "--no-version").stdout))
    assert {d["name"] for d in documents} == {"web", "db", "by-hand"}
    assert all(d["spec"]["target"]["network"] == "site" and "version" not in d for d in documents)
    one = list(yaml.safe_load_all(hub.cli("export", "by-hand").stdout))
    assert [d["name"] for d in one] == ["by-hand"] and one[0]["version"] == 1
    assert hub.cli("export", "nothing", check=False).returncode == 3


def test_an_export_moves_to_another_hub(hub, bench, directory):
    from lib.warren import Hub
    hub.cli("apply", "-f", "-", input=SITE)
    text = hub.cli("export", "--no-version").stdout
    other = Hub(os.path.join(directory, "other"))
    try:
        other.start()
        other.cli("apply", "-f", "-", input=text)
        assert {k: v[2] and v[2]["target"]["address"] for k, v in state(other).items()} == \
            {k: v[2] and v[2]["target"]["address"] for k, v in state(hub).items()}
    finally:
        other.close()


# --- two people -------------------------------------------------------------------------------------

def test_an_edit_by_other_means_is_shown_and_not_overwritten(hub, write, directory):
    path = write("site.yaml", SITE)
    hub.cli("apply", "-f", path)
    ann = other_token(hub, "ann", directory)
    hub.cli("tunnel", "update", "web", "--target", "10.9.9.9:99", env=ann)
    before = state(hub)
    write("site.yaml", SITE.replace("24h", "30h"))
    done = hub.cli("apply", "-f", path, check=False)
    assert done.returncode == 5
    assert "! tunnel web" in done.stdout and "by ann" in done.stdout
    assert re.search(r"spec.target.address +\"127.0.0.1:80\" -> \"10.9.9.9:99\"", done.stdout)
    assert "--overwrite" in done.stdout and "nothing was changed" in done.stderr
    assert state(hub) == before, "not even the change that is in no conflict"
    write("site.yaml", SITE.replace("127.0.0.1:80", "10.9.9.9:99"))
    assert set(actions(plan(hub, "-f", path)).values()) == {"unchanged"}
    write("site.yaml", SITE)
    assert actions(plan(hub, "-f", path, "--overwrite"))["tunnel web"] == "update"
    assert hub.admin.get("/api/v1/tunnels/web")["spec"]["target"]["address"] == "127.0.0.1:80"


def test_what_was_made_by_hand_is_not_overwritten(hub, write):
    hub.admin.post("/api/v1/networks", {"name": "site"})
    hub.admin.post("/api/v1/tunnels", {"name": "web", "spec": {
        "target": {"network": "site", "address": "127.0.0.1:7"}}})
    path = write("site.yaml", SITE)
    result = plan(hub, "-f", path, code=5)
    assert actions(result)["tunnel web"] == "conflict" and "db" not in str(state(hub).keys())
    plan(hub, "-f", path, "--overwrite")
    assert hub.admin.get("/api/v1/tunnels/web")["spec"]["target"]["address"] == "127.0.0.1:80"


def test_two_people_edit_the_same_export(hub, write, directory):
    """Each may apply again and again; the second one learns that the other was faster."""
    hub.cli("apply", "-f", "-", input=SITE)
    ann, bob = other_token(hub, "ann", directory), other_token(hub, "bob", directory)
    exported = hub.cli("export", "web").stdout
    anns = write("ann.yaml", exported.replace("127.0.0.1:80", "127.0.0.1:81"))
    bobs = write("bob.yaml", exported.replace("127.0.0.1:80", "127.0.0.1:82"))
    hub.cli("apply", "-f", anns, env=ann)
    write("ann.yaml", exported.replace("127.0.0.1:80", "127.0.0.1:83"))
    hub.cli("apply", "-f", anns, env=ann)  # its own change in between is none of others
    done = hub.cli("apply", "-f", bobs, env=bob, check=False)
    assert done.returncode == 5 and "made from version 1" in done.stdout and "by ann" in done.stdout
    assert hub.admin.get("/api/v1/tunnels/web")["spec"]["target"]["address"] == "127.0.0.1:83"
    hub.cli("apply", "-f", bobs, "--overwrite", env=bob)
    assert hub.admin.get("/api/v1/tunnels/web")["spec"]["target"]["address"] == "127.0.0.1:82"
    done = hub.cli("apply", "-f", anns, env=ann, check=False)
    assert done.returncode == 5 and "by bob" in done.stdout


def test_applies_at_the_same_time_do_not_mix(hub, write):
    """Of many that start together from one state each is done whole or told that it was too late."""
    hub.cli("apply", "-f", "-", input=SITE)
    version = hub.admin.get("/api/v1/tunnels/web")["version"]
    exported = hub.cli("export", "web").stdout
    files = [write(f"p{i}.yaml", exported.replace("127.0.0.1:80", f"127.0.0.1:{100 + i}")) for i in range(6)]
    results = {}

    def run_one(i):
        results[i] = hub.cli("apply", "-f", files[i], check=False)
    threads = [threading.Thread(target=run_one, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    won = [i for i, r in results.items() if r.returncode == 0]
    assert all(r.returncode in (0, 5) for r in results.values()), [r.stderr for r in results.values()]
    now = hub.admin.get("/api/v1/tunnels/web")
    assert now["version"] == version + len(won) >= version + 1
    assert now["spec"]["target"]["address"] in {f"127.0.0.1:{100 + i}" for i in won}


def test_applies_that_create_the_same_objects_meet(hub):
    results = []

    def run_one():
        results.append(hub.cli("apply", "-f", "-", input=SITE, check=False))
    threads = [threading.Thread(target=run_one) for _ in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(r.returncode in (0, 5) for r in results), [r.stderr for r in results]
    assert any(r.returncode == 0 for r in results)
    assert {k[1] for k in state(hub)} == {"site", "web", "db"}


# --- sets -------------------------------------------------------------------------------------------

def test_prune_removes_what_the_set_no_longer_declares_and_nothing_else(hub, write):
    path = write("site.yaml", SITE)
    hub.cli("apply", "-f", path, "--set", "prod")
    hub.admin.post("/api/v1/tunnels", {"name": "by-hand", "spec": {
        "target": {"network": "site", "address": "127.0.0.1:7"}}})
    write("other.yaml", "{kind: tunnel, name: other, spec: {target: {network: site, address: 'a:1'}}}")
    hub.cli("apply", "-f", os.path.join(os.path.dirname(path), "other.yaml"), "--set", "staging")
    documents = SITE.split("---\n")
    write("site.yaml", "---\n".join(documents[:2]))
    result = plan(hub, "-f", path, "--set", "prod")
    assert "tunnel db" not in actions(result), "not without --prune"
    result = plan(hub, "-f", path, "--set", "prod", "--prune", "-n")
    assert actions(result) == {"network site": "unchanged", "tunnel web": "unchanged", "tunnel db": "delete"}
    out = hub.cli("apply", "-f", path, "--set", "prod", "--prune").stdout
    assert "- tunnel db" in out and "1 to delete" in out
    assert {k[1] for k in state(hub)} == {"site", "web", "by-hand", "other"}
    assert hub.cli("apply", "-f", path, "--prune", check=False).returncode == 2


def test_prune_does_not_remove_what_others_changed_since(hub, write):
    path = write("site.yaml", SITE)
    hub.cli("apply", "-f", path, "--set", "prod")
    hub.cli("tunnel", "update", "db", "--target", "kept:1")
    write("site.yaml", SITE.split("---\n")[0])
    result = plan(hub, "-f", path, "--set", "prod", "--prune", code=5)
    assert actions(result)["tunnel db"] == "conflict" and actions(result)["tunnel web"] == "delete"
    assert len(state(hub)) == 3, "a conflict stops it all"
    plan(hub, "-f", path, "--set", "prod", "--prune", "--overwrite")
    assert len(state(hub)) == 1


def test_a_set_does_not_take_another_sets_objects(hub, write):
    path = write("site.yaml", SITE)
    hub.cli("apply", "-f", path, "--set", "prod")
    done = hub.cli("apply", "-f", path, "--set", "mine", check=False)
    assert done.returncode == 5 and "belongs to the set 'prod'" in done.stdout
    write("site.yaml", SITE.replace("24h", "25h"))
    assert hub.cli("apply", "-f", path, check=False).returncode == 5, "nor does who names no set"
    result = plan(hub, "-f", path, "--set", "mine", "--take-over")
    assert actions(result) == {"network site": "adopt", "tunnel web": "adopt", "tunnel db": "update"}
    assert {r["set"] for r in hub.admin.items("/api/v1/applied")} == {"mine"}


def test_what_is_there_already_is_adopted_by_the_set(hub, write):
    hub.cli("apply", "-f", "-", input=SITE)
    path = write("site.yaml", SITE)
    version = hub.admin.get("/api/v1/tunnels/web")["version"]
    assert set(actions(plan(hub, "-f", path, "--set", "prod")).values()) == {"adopt"}
    assert set(actions(plan(hub, "-f", path, "--set", "prod")).values()) == {"unchanged"}
    assert hub.admin.get("/api/v1/tunnels/web")["version"] == version


def test_a_set_of_nothing_prunes_everything_of_it(hub, write):
    hub.cli("apply", "-f", "-", "--set", "prod", input=SITE)
    hub.cli("apply", "-f", "-", "--set", "prod", "--prune", input="# nothing any more\n")
    assert state(hub) == {}, "tunnels before their network"
    assert hub.admin.items("/api/v1/applied") == []


# --- what goes wrong --------------------------------------------------------------------------------

def test_errors_name_file_line_document_and_field(hub, write):
    cases = [
        ("a: [", r"bad.yaml:\d+: not YAML"),
        ("kind: tunnel\nspec: {}\n", r"bad.yaml:1 \(document 1\): name"),
        ("kind: network\nname: a\n---\nkind: pump\nname: x\n", r"bad.yaml:4 \(document 2\): kind: 'pump'"),
        ("kind: network\nname: a\n---\nkind: network\nname: a\n", r"bad.yaml:5 \(document 2\): name.*twice.*bad.yaml:2"),
        ("kind: network\nname: A_b\n", r"bad.yaml:2 .*name"),
        ("kind: network\nname: a\nname: b\n", r"bad.yaml:3: .*'name' occurs twice"),
        (SITE.replace("db.internal:5432", "nonsense"), r"bad.yaml:15 \(document 3\): tunnel db: spec.target.address"),
        (SITE.replace("  ttl: 24h", "  tll: 24h"), r"bad.yaml:16 \(document 3\): tunnel db: spec.tll"),
        (SITE.replace("name: site", "name: elsewhere"), r"bad.yaml:8 \(document 2\): tunnel web: spec.target.network"),
        ("kind: network\nname: !!binary aGk=\n", r"bad.yaml:2: .*!!str"),
        ("x: &x {<<: *x}\n", r"bad.yaml:1: "),
    ]
    for text, expected in cases:
        path = write("bad.yaml", text)
        done = hub.cli("apply", "-f", path, check=False)
        assert done.returncode == 2, (text, done)
        assert re.search(expected, done.stderr), (text, done.stderr)
        assert state(hub) == {}, text
    path = write("bad.toml", '[[network]]\nname = "a"\n[[pump]]\n')
    assert re.search(r"bad.toml:3 .*'pump'", hub.cli("apply", "-f", path, check=False).stderr)
    path = write("bad.toml", '[[network]\nname = "a"\n')
    assert re.search(r"bad.toml:1: not TOML", hub.cli("apply", "-f", path, check=False).stderr)
    assert hub.cli("apply", "-f", "/nonexistent.yaml", check=False).returncode != 0
    assert hub.cli("apply", check=False).returncode == 2


def test_bombs_are_refused_quickly(hub, write):
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    cases = [(laughs, "too many values"), ("[" * 5000, "deep|YAML"), ("kind: x\n" * 400000, "twice|larger"),
             ("x: " + "y" * (5 << 20), "larger|large")]
    for text, expected in cases:
        done = hub.cli("apply", "-f", write("bomb.yaml", text), check=False)
        assert done.returncode not in (0, -11, -6) and re.search(expected, done.stderr), done.stderr[:300]
    for text in ("a" + ".a" * 100000 + " = 1\n", "a = " + "[" * 100000):
        done = hub.cli("apply", "-f", write("bomb.toml", text), check=False)
        assert done.returncode == 2, done


def test_a_failure_half_way_is_told_and_applying_again_goes_on(hub, write):
    """A network whose agents are still there cannot be pruned: what came before is done and stays."""
    hub.agent("a1", network="site")
    path = write("site.yaml", SITE)
    hub.cli("apply", "-f", path, "--set", "prod")
    write("site.yaml", "{kind: network, name: next}")
    done = hub.cli("apply", "-f", path, "--set", "prod", "--prune", check=False)
    assert done.returncode == 5, done
    assert "3 of 4 changes were made" in done.stdout and "still has tunnels or agents" in done.stderr
    assert {k[1] for k in state(hub)} == {"site", "next"}
    hub.cli("agent", "revoke", "a1")
    result = plan(hub, "-f", path, "--set", "prod", "--prune")
    assert actions(result) == {"network next": "unchanged", "network site": "delete"}
    assert [o["result"] for o in result["objects"]] == ["done", "done"]


def test_exit_codes_of_what_is_nobodys_fault(hub, write):
    path = write("site.yaml", SITE)
    assert hub.cli("apply", "-f", path, check=False, env={"WARREN_HUB": "https://127.0.0.1:1"}).returncode == 7


def test_on_a_terminal_it_is_in_colour_and_asks(hub, write):
    path = write("site.yaml", SITE)

    def on_terminal(answer):
        leader, follower = pty.openpty()
        child = subprocess.Popen([program("warren"), "apply", "-f", path], stdin=follower, stdout=follower,
                                 stderr=follower, env={**os.environ, **hub.environment(), "TERM": "xterm"})
        os.close(follower)
        out = b""
        while True:
            ready, _, _ = select.select([leader], [], [], 30)
            try:
                piece = os.read(leader, 65536) if ready else b""
            except OSError:
                break
            if not piece:
                break
            out += piece
            if b"[y/N]" in out and answer:
                os.write(leader, answer)
                answer = None
        os.close(leader)
        return child.wait(30), out.decode()
    code, out = on_terminal(b"n\n")
    assert code == 1 and "nothing was changed" in out and state(hub) == {}
    assert "\x1b[32m+ network site\x1b[0m" in out
    code, out = on_terminal(b"y\n")
    assert code == 0 and len(state(hub)) == 3


# --- the contract underneath ------------------------------------------------------------------------

def test_a_put_needs_a_precondition_and_is_atomic_with_its_record(hub):
    from lib.warren import Problem
    admin = hub.admin
    admin.post("/api/v1/networks", {"name": "site"})
    body = {"name": "web", "spec": {"target": {"network": "site", "address": "127.0.0.1:80"}}}

    def put(headers=None, path="/api/v1/tunnels/web", sent=body):
        return admin.call("PUT", path, sent, headers=headers or {})
    for headers, status in (({}, 428), ({"If-Match": '"1"'}, 412), ({"If-Match": "x"}, 400),
                            ({"If-None-Match": '"1"'}, 400)):
        with pytest.raises(Problem) as e:
            put(headers)
        assert e.value.status == status, headers
    made, headers = put({"If-None-Match": "*"}, "/api/v1/tunnels/web?set=prod")
    assert made["version"] == 1 and headers["ETag"] == '"1"'
    with pytest.raises(Problem) as e:
        put({"If-None-Match": "*"})
    assert e.value.status == 412
    with pytest.raises(Problem) as e:
        put({"If-Match": '"1"'}, sent={**body, "name": "other"})
    assert e.value.body["field"] == "name"
    changed = {**body, "spec": {**body["spec"], "ttl": "1h"}}
    assert put({"If-Match": '"1"'}, sent=changed)[0]["version"] == 2
    assert put({"If-Match": '"2"'}, sent=changed)[0]["version"] == 2, "nothing to change, no new version"
    record, = admin.items("/api/v1/applied?set=prod")
    assert record["version"] == 2 and record["since"] == 0 and record["declared"]["spec"]["ttl"] == "1h"
    assert admin.items("/api/v1/applied?set=other") == []
    admin.delete("/api/v1/tunnels/web")
    assert admin.items("/api/v1/applied") == []


def test_passwords_are_compared_and_never_shown(bench, hub):
    """A file with a password is as repeatable as any other; a new password is a change."""
    hub.admin.post("/api/v1/networks", {"name": "site"})

    def declare(users):
        return json.dumps({"kind": "tunnel", "name": "web", "spec": {
            "target": {"network": "site", "address": "127.0.0.1:80", "protocol": "http"},
            "access": {"endpoint": {"host": "web.example.org"}, "auth": "basic", "users": users}}})

    def apply(users):
        done = hub.cli("apply", "-f", "-", input=declare(users))
        assert "secret-" not in done.stdout + done.stderr
        return done.stdout
    assert "+ tunnel web" in apply([{"name": "ann", "password": "secret-1"}])
    before = hub.admin.get("/api/v1/tunnels/web")["version"]
    assert apply([{"name": "ann", "password": "secret-1"}]).strip() == "1 unchanged"
    assert apply([{"name": "ann"}]).strip() == "1 unchanged"
    assert hub.admin.get("/api/v1/tunnels/web")["version"] == before
    out = apply([{"name": "ann", "password": "secret-2"}])
    assert "~ tunnel web" in out and "passwords change" in out
    assert apply([{"name": "ann", "password": "secret-2"}]).strip() == "1 unchanged"
    text = hub.cli("export", "--kind", "tunnel").stdout
    assert "secret-" not in text and "argon2" not in text
    assert hub.cli("apply", "-f", "-", input=text).stdout.strip() == "1 unchanged"
    assert "argon2" not in json.dumps(hub.admin.items("/api/v1/applied"))
