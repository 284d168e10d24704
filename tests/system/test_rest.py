"""The REST contract over the wire: errors, versions, repetition, pages, watches; answers as openapi.yaml says."""

import http.client
import json
import os
import ssl
import threading

import pytest
import yaml

from lib.process import SANITIZE, run, wait_until
from lib.warren import REPOSITORY, Problem


@pytest.fixture
def admin(hub):
    return hub.admin


def spec(network="lan", address="127.0.0.1:80", **more):
    return {"target": {"network": network, "address": address}, **more}


@pytest.fixture
def tunnel(admin):
    admin.post("/api/v1/networks", {"name": "lan"})
    return admin.post("/api/v1/tunnels", {"name": "web", "spec": spec()})


# --- shape ------------------------------------------------------------------------------------------

with open(os.path.join(REPOSITORY, "api/openapi.yaml")) as _f:
    CONTRACT = yaml.safe_load(_f)


def mismatch(schema, value, where="$"):
    """The first way in which a value is not what a schema of the contract says, or None."""
    if "$ref" in schema:
        target = CONTRACT
        for part in schema["$ref"].lstrip("#/").split("/"):
            target = target[part]
        return mismatch(target, value, where)
    names = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    types = schema.get("type", [])
    types = types if isinstance(types, list) else [types]
    if types and not any(isinstance(value, names[t]) for t in types):
        return f"{where}: {value!r} is not {types}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where}: {value!r} is not one of {schema['enum']}"
    if isinstance(value, dict):
        for name in schema.get("required", []):
            if name not in value:
                return f"{where}.{name} is missing"
        known = schema.get("properties", {})
        for name, member in value.items():
            if known and name not in known:
                return f"{where}.{name} is not in the contract"
            found = mismatch(known.get(name, {}), member, f"{where}.{name}")
            if found:
                return found
    if isinstance(value, list):
        for i, item in enumerate(value):
            found = mismatch(schema.get("items", {}), item, f"{where}[{i}]")
            if found:
                return found
    return None


def check(kind, value):
    assert mismatch(CONTRACT["components"]["schemas"][kind], value) is None, \
        mismatch(CONTRACT["components"]["schemas"][kind], value)
    return value


def test_every_object_has_the_shape_of_the_contract(bench, hub, echo_server):
    from lib.service import serves
    from lib.warren import endpoint
    admin = hub.admin
    hub.agent("a1")
    made = hub.tunnel(echo_server.address)
    assert serves(endpoint(made))
    check("tunnel", hub.admin.get("/api/v1/tunnels/web"))
    wait_until(lambda: admin.items("/api/v1/tunnels/web/connections"), "the connection's row")
    created = admin.post("/api/v1/tokens", {"kind": "api", "name": "t"})
    assert created["token"].startswith("wat_")
    check("token", created)
    for path, kind in (("tunnels", "tunnel"), ("agents", "agent"), ("networks", "network"),
                       ("tokens", "token"), ("audit", "audit"), ("hubs", "hub"), ("tenants", "tenant"),
                       ("tunnels/web/connections", "connection")):
        page = admin.get(f"/api/v1/{path}")
        check(kind + "_list", page)
        assert page["items"], f"an example of {kind}"
    assert all("token" not in t for t in admin.items("/api/v1/tokens")), "secrets are shown once"


def test_both_http_versions_answer(hub):
    for flag, version in (("--http1.1", "1.1"), ("--http2", "2")):
        out = run(["curl", "-sS", flag, "--cacert", hub.ca_path, "-w", "\n%{http_version} %{http_code}",
                   "-H", f"Authorization: Bearer {hub.admin.token}", hub.url + "/api/v1/tunnels"]).stdout
        body, last = out.rsplit("\n", 1)
        assert last == f"{version} 200" and json.loads(body)["items"] == []


def test_many_requests_share_a_connection(hub):
    connection = hub.admin.connection()
    for _ in range(50):
        connection.request("GET", "/api/v1/tunnels", headers={"Authorization": f"Bearer {hub.admin.token}"})
        answer = connection.getresponse()
        assert answer.status == 200 and json.loads(answer.read())["items"] == []
    connection.close()


def test_a_load_of_http2_requests_has_no_error(hub):
    out = run(["h2load", "-n", 2000, "-c", 4, "-m", 20, hub.url + "/healthz"]).stdout
    assert "2000 succeeded, 0 failed, 0 errored" in out, out


# --- errors -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("body,field", [
    ({"name": "Not A Name", "spec": spec()}, "name"),
    ({"name": "x"}, "spec"),
    ({"name": "x", "spec": {}}, "spec.target"),
    ({"name": "x", "spec": spec(address="no port")}, "spec.target.address"),
    ({"name": "x", "spec": spec(network="nowhere")}, "spec.target.network"),
    ({"name": "x", "spec": spec(ttl="soon")}, "spec.ttl"),
    ({"name": "x", "spec": spec(access={"endpoint": {"listen": "here"}})}, "spec.access.endpoint.listen"),
    ({"name": "x", "spec": spec(), "colour": "red"}, "colour"),
])
def test_a_bad_field_is_named(admin, tunnel, body, field):
    with pytest.raises(Problem) as problem:
        admin.post("/api/v1/tunnels", body)
    check("problem", problem.value.body)
    assert problem.value.status in (400, 404)
    assert problem.value.body["field"] == field
    assert problem.value.body["detail"]
    assert problem.value.headers["Content-Type"].startswith("application/problem+json")


def test_what_is_not_there_is_a_404_and_what_exists_a_409(admin, tunnel):
    for path in ("/api/v1/tunnels/nothing", "/api/v1/tunnels/tun_0000000000000000", "/api/v1/nothing", "/",
                 "/api/v1/agents/x", "/api/v1/networks/x", "/api/v1/tunnels/x/connections"):
        with pytest.raises(Problem) as problem:
            admin.get(path)
        assert problem.value.status == 404
    with pytest.raises(Problem) as problem:
        admin.post("/api/v1/tunnels", {"name": "web", "spec": spec()})
    assert problem.value.status == 409 and problem.value.body["type"] == "urn:warren:error:exists"
    with pytest.raises(Problem) as problem:
        admin.delete("/api/v1/networks/lan")
    assert problem.value.status == 409, "it has a tunnel"
    with pytest.raises(Problem) as problem:
        admin.call("PATCH", "/api/v1/tunnels", {})
    assert problem.value.status == 405 and "GET" in problem.value.headers["Allow"]


# --- versions and repetition ------------------------------------------------------------------------

def test_if_match_guards_against_lost_updates(admin, tunnel):
    _, headers = admin.call("GET", "/api/v1/tunnels/web")
    etag = headers["ETag"]
    assert etag == f'"{tunnel["version"]}"'
    changed = admin.patch("/api/v1/tunnels/web", {"spec": {"target": {"address": "127.0.0.1:81"}}},
                          headers={"If-Match": etag})
    assert changed["version"] > tunnel["version"] and changed["spec"]["target"]["address"] == "127.0.0.1:81"
    for method, body in (("PATCH", {"name": "late"}), ("DELETE", None)):
        with pytest.raises(Problem) as problem:
            admin.call(method, "/api/v1/tunnels/web", body, headers={"If-Match": etag})
        assert problem.value.status == 412
    assert admin.get("/api/v1/tunnels/web")["name"] == "web"
    admin.delete("/api/v1/tunnels/web", headers={"If-Match": f'"{changed["version"]}"'})
    with pytest.raises(Problem):
        admin.get("/api/v1/tunnels/web")


def test_an_idempotency_key_makes_a_repeated_post_act_once(admin, tunnel):
    body = {"name": "twice", "spec": spec()}
    key = {"Idempotency-Key": "abc-1"}
    first = admin.post("/api/v1/tunnels", body, headers=key)
    again = admin.post("/api/v1/tunnels", body, headers=key)
    assert first["id"] == again["id"]
    assert len([t for t in admin.items("/api/v1/tunnels") if t["name"] == "twice"]) == 1
    with pytest.raises(Problem) as problem:
        admin.post("/api/v1/tunnels", {"name": "other", "spec": spec()}, headers=key)
    assert problem.value.status == 422


def test_an_idempotency_key_survives_kill_9(hub):
    key = {"Idempotency-Key": "abc-2"}
    first = hub.admin.post("/api/v1/networks", {"name": "once"}, headers=key)
    hub.process.kill()
    hub.start()
    assert hub.admin.post("/api/v1/networks", {"name": "once"}, headers=key)["id"] == first["id"]


def test_a_patch_is_a_merge_and_null_removes(admin, tunnel):
    admin.patch("/api/v1/tunnels/web", {"spec": {"ttl": "1h", "access": {"internal": False}}})
    got = admin.get("/api/v1/tunnels/web")
    assert got["spec"]["ttl"] == "1h" and got["spec"]["access"]["internal"] is False
    assert got["spec"]["target"]["address"] == "127.0.0.1:80", "untouched"
    admin.patch("/api/v1/tunnels/web", {"spec": {"ttl": None}}, headers={
        "Content-Type": "application/merge-patch+json"})
    assert admin.get("/api/v1/tunnels/web")["spec"]["ttl"] is None
    for body in ({"spec": {"target": {"network": "elsewhere"}}}, {"spec": {"size": 1}}, {"colour": "red"}):
        with pytest.raises(Problem) as problem:
            admin.patch("/api/v1/tunnels/web", body)
        assert problem.value.status == 400


# --- pages ------------------------------------------------------------------------------------------

def test_pages_give_everything_once_even_while_things_change(admin):
    for i in range(23):
        admin.post("/api/v1/networks", {"name": f"n{i:02}"})
    seen, token, pages = [], "", 0
    while token is not None:
        page = admin.get("/api/v1/networks?page_size=5" + (f"&page_token={token}" if token else ""))
        assert len(page["items"]) <= 5
        seen += [n["name"] for n in page["items"]]
        token = page["next_page_token"]
        pages += 1
        if pages == 2:
            admin.delete("/api/v1/networks/n00")
            admin.delete("/api/v1/networks/n22")
            admin.post("/api/v1/networks", {"name": "later"})
    assert seen[:-1] == [f"n{i:02}" for i in range(22)] and seen[-1] == "later"
    for query in ("page_token=rubbish", "page_size=0", "page_size=1001", "page_size=x"):
        with pytest.raises(Problem) as problem:
            admin.get("/api/v1/networks?" + query)
        assert problem.value.status == 400


# --- watch ------------------------------------------------------------------------------------------

def test_a_watch_shows_what_is_then_what_changes(admin, tunnel):
    with admin.watch("/api/v1/tunnels") as watch:
        _, event, data = watch.next()
        assert event == "put" and data["id"] == tunnel["id"] and data["spec"] == tunnel["spec"]
        assert watch.next()[1] == "sync"
        made = admin.post("/api/v1/tunnels", {"name": "two", "spec": spec()})
        got = watch.next()
        assert got[1] == "put" and got[2]["id"] == made["id"]
        admin.delete("/api/v1/tunnels/two")
        watch.until(lambda event, data: event == "delete" and data["id"] == made["id"])


def test_a_watch_resumes_where_it_broke_off(admin, tunnel):
    with admin.watch("/api/v1/networks") as watch:
        last = watch.until(lambda event, data: event == "sync")[0]
    names = [f"n{i}" for i in range(10)]
    for name in names:
        admin.post("/api/v1/networks", {"name": name})
    with admin.watch("/api/v1/networks", last_event_id=last) as watch:
        got = [watch.next() for _ in names]
    assert [data["name"] for _, _, data in got] == names and all(event == "put" for _, event, _ in got)
    with admin.watch("/api/v1/networks", last_event_id=got[4][0]) as watch:
        assert watch.next()[2]["name"] == "n5"
    with pytest.raises(Problem) as problem, admin.watch("/api/v1/networks", last_event_id="-5"):
        pass
    assert problem.value.status in (400, 410)


def test_a_watch_of_one_object_ends_after_its_delete(admin, tunnel):
    with admin.watch("/api/v1/tunnels/web") as watch:
        assert watch.next()[1] == "put"
        threading.Timer(0.1, lambda: admin.delete("/api/v1/tunnels/web")).start()
        watch.until(lambda event, data: event == "delete")
        assert watch.next() is None


def test_many_watches_at_once_all_see_a_change(hub, admin, tunnel):
    watches = []
    for _ in range(100):
        manager = admin.watch("/api/v1/tunnels")
        watches.append((manager, manager.__enter__()))
    for _, watch in watches:
        watch.until(lambda event, data: event == "sync")
    admin.patch("/api/v1/tunnels/web", {"name": "renamed"})
    for manager, watch in watches:
        watch.until(lambda event, data: event == "put" and data["name"] == "renamed")
        manager.__exit__(None, None, None)


def test_a_watcher_that_does_not_read_costs_a_bounded_amount(hub, admin, tunnel):
    """It is dropped, or its events are gathered; the hub's memory does not follow the changes."""
    sock = ssl.create_default_context(cafile=hub.ca_path).wrap_socket(
        __import__("socket").create_connection((hub.host, hub.port)), server_hostname=hub.host)
    sock.sendall(f"GET /api/v1/tunnels?watch=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin.token}\r\n\r\n"
                 .encode())
    assert sock.recv(1)
    before = hub.process.rss_kib()
    for i in range(300):
        admin.patch("/api/v1/tunnels/web", {"spec": {"target": {"address": f"127.0.0.1:{1000 + i}"}}})
    if not SANITIZE:
        assert hub.process.rss_kib() - before < 32 * 1024
    sock.close()


# --- audit ------------------------------------------------------------------------------------------

def test_each_administrative_act_has_an_audit_row(hub, admin, tunnel):
    admin.patch("/api/v1/tunnels/web", {"spec": {"ttl": "1h"}})
    agent = hub.agent("a1")
    admin.post(f"/api/v1/agents/{agent.id}:revoke")
    token = admin.post("/api/v1/tokens", {"kind": "api"})
    admin.post(f"/api/v1/tokens/{token['id']}:revoke")
    admin.delete("/api/v1/tunnels/web")
    rows = admin.items("/api/v1/audit?page_size=1000")
    actions = {(r["action"], r["object"]) for r in rows}
    for action, id in (("tunnel.create", tunnel["id"]), ("tunnel.update", tunnel["id"]),
                       ("tunnel.delete", tunnel["id"]), ("agent.revoke", agent.id),
                       ("token.create", token["id"]), ("token.revoke", token["id"])):
        assert (action, id) in actions, action
    assert any(r["action"] == "agent.enroll" and r["object"] == agent.id for r in rows)
    assert rows == sorted(rows, key=lambda r: r["time"], reverse=True), "newest first"
    mine = admin.get("/api/v1/tokens/self")["id"]
    assert next(r for r in rows if r["action"] == "tunnel.delete")["actor"]["id"] == mine
    only = admin.items(f"/api/v1/audit?action=tunnel.delete&object={tunnel['id']}")
    assert [r["action"] for r in only] == ["tunnel.delete"]


# --- seeing inside ----------------------------------------------------------------------------------

def test_health_needs_no_token_and_the_api_does(hub):
    anonymous = hub.anonymous()
    assert anonymous.raw("GET", "/healthz")[0] == 200
    assert anonymous.raw("GET", "/readyz")[0] == 200
    status, headers, body = anonymous.raw("GET", "/api/v1/tunnels")
    assert status == 401 and json.loads(body)["type"] == "urn:warren:error:unauthenticated"
    assert headers["WWW-Authenticate"]


def test_metrics_are_what_prometheus_reads(bench, hub, echo_server):
    from lib.service import serves
    from lib.warren import endpoint
    hub.agent("a1")
    assert serves(endpoint(hub.tunnel(echo_server.address)))
    status, headers, body = hub.admin.raw("GET", "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    typed = set()
    for line in body.decode().splitlines():
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        elif line and not line.startswith("#"):
            name = line.split("{")[0].split(" ")[0]
            float(line.rsplit(" ", 1)[1])
            assert any(name == t or name.startswith(t + "_") for t in typed), f"{name} has no type"
    for name in ("warren_streams_total", "warren_stream_bytes_total", "warren_dial_errors_total",
                 "warren_handshakes_total", "warren_lease_changes_total", "warren_loop_lag_seconds",
                 "warren_agents_online", "warren_memory_per_agent_bytes"):
        assert name in typed, f"{name} not in {sorted(typed)}"
    assert hub.metric("warren_streams_total") >= 1


def test_http_1_requests_may_be_pipelined(hub):
    sock = http.client.HTTPSConnection(hub.host, hub.port, timeout=10,
                                       context=ssl.create_default_context(cafile=hub.ca_path))
    sock.connect()
    sock.sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
    data = b""
    while data.count(b"HTTP/1.1 200") < 20:
        piece = sock.sock.recv(65536)
        assert piece
        data += piece
    sock.close()


# --- event streams and their callers ------------------------------------------------------------------

def test_an_event_stream_ends_with_its_token(admin, hub):
    """A revoked token hears nothing more; others' streams go on."""
    made = admin.post("/api/v1/tokens", {"kind": "api", "name": "short"})
    mine = hub.rest(made["token"])
    with mine.watch("/api/v1/networks") as watch, admin.watch("/api/v1/networks") as other:
        for w in (watch, other):
            assert w.until(lambda event, data: event == "sync")
        admin.post("/api/v1/tokens/short:revoke")
        assert watch.next() is None, "the stream ends"
        admin.post("/api/v1/networks", {"name": "later"})
        assert other.until(lambda event, data: event == "put")[2]["name"] == "later"


def test_an_event_stream_ends_when_its_token_expires(admin, hub):
    made = admin.post("/api/v1/tokens", {"kind": "api", "name": "short", "ttl": "2s"})
    with hub.rest(made["token"]).watch("/api/v1/networks", timeout=60) as watch:
        assert watch.until(lambda event, data: event == "sync")
        assert watch.next(seconds=40) is None, "with the next heartbeat"


def test_the_query_is_part_of_a_repeated_request(admin):
    body = {"kind": "api", "name": "once"}
    key = {"Idempotency-Key": "with-a-query"}
    admin.post("/api/v1/tokens?x=1", body, headers=key)
    assert admin.post("/api/v1/tokens?x=1", body, headers=key)["name"] == "once"
    with pytest.raises(Problem) as e:
        admin.post("/api/v1/tokens?x=2", body, headers=key)
    assert e.value.status == 422
