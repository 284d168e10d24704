"""Who may do what: tenants, certificates of the wrong kind, enrolment by hand, renewal, revocation."""

import base64
import hashlib
import os
import re
import ssl
import stat
import time

import pytest

from lib.process import SLOW, run, wait_until
from lib.service import connect, exchange, read_all, serves
from lib.warren import Agent, Problem, endpoint, program, tls_socket


def handshake_and_first_read(hub, alpn, certificate=None, key=None):
    """What the hub does with a client certificate: "served" or "refused"."""
    try:
        sock = tls_socket(hub, [alpn], certificate=certificate, key=key, timeout=5 * SLOW)
        if alpn == "warren-renew/1":
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        else:
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        return "served" if sock.recv(100) else "refused"
    except (ssl.SSLError, ConnectionError):
        return "refused"


def make_foreign_certificate(directory, uri):
    """A certificate by another CA that claims to be `uri`."""
    def at(name):
        return os.path.join(directory, name)
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", at("fca.key"), "-out", at("fca.pem"), "-subj", "/CN=Warren CA", "-days", "30"])
    run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
         at("f.key"), "-out", at("f.csr"), "-subj", "/CN=agent"])
    with open(at("ext"), "w") as f:
        f.write(f"subjectAltName=URI:{uri}\nextendedKeyUsage=clientAuth\nkeyUsage=digitalSignature\n")
    run(["openssl", "x509", "-req", "-in", at("f.csr"), "-CA", at("fca.pem"), "-CAkey", at("fca.key"),
         "-CAcreateserial", "-out", at("f.pem"), "-days", "30", "-extfile", at("ext")])
    return at("f.pem"), at("f.key")


LANES = ["warren-agent/1", "warren-reverse/1", "warren-renew/1"]


@pytest.mark.parametrize("lane", LANES)
def test_only_certificates_of_this_ca_are_let_in(hub, directory, lane):
    agent = hub.agent("a1")
    if lane != "warren-reverse/1":  # which is served beside a live session only
        agent.process.stop()
    uri = re.search(r"URI:(\S+)", agent.certificate())[1]
    assert handshake_and_first_read(hub, lane, agent.certificate_path, agent.key_path) == "served"
    assert handshake_and_first_read(hub, lane) == "refused", "no certificate"
    assert handshake_and_first_read(hub, lane, *make_foreign_certificate(directory, uri)) == "refused"


def test_the_hubs_own_certificate_is_no_agent(hub):
    found = [os.path.join(hub.data, f) for f in os.listdir(hub.data)]
    keys = [f for f in found if f.endswith(".key") and os.path.basename(f) != "ca.key"]
    for key in keys:
        certificate = key[:-4] + ".pem"
        if os.path.exists(certificate):
            assert handshake_and_first_read(hub, "warren-agent/1", certificate, key) == "refused"
    assert handshake_and_first_read(hub, "warren-agent/1", hub.ca_path, os.path.join(hub.data, "ca.key")) \
        == "refused"


def test_an_expired_certificate_is_refused(bench):
    hub = bench.hub(options=["--cert-ttl", "3s"])
    agent = hub.agent("a1")
    agent.process.stop()
    assert handshake_and_first_read(hub, "warren-agent/1", agent.certificate_path, agent.key_path) == "served"
    wait_until(agent.expired, "the certificate to expire", 10)
    for lane in ("warren-agent/1", "warren-reverse/1"):
        assert handshake_and_first_read(hub, lane, agent.certificate_path, agent.key_path) == "refused"


def test_no_client_certificate_is_asked_for_on_the_web_lanes(hub):
    out = run(["openssl", "s_client", "-connect", f"{hub.host}:{hub.port}", "-alpn", "h2"],
              check=False, input="").stdout
    assert "No client certificate CA names sent" in out
    assert "ALPN protocol: h2" in out


def test_sslscan_shows_tls_1_3_only(hub):
    out = run(["sslscan", "--no-colour", f"{hub.host}:{hub.port}"], seconds=90).stdout
    assert re.search(r"TLSv1\.3\s+enabled", out)
    for old in ("SSLv2", "SSLv3", r"TLSv1\.0", r"TLSv1\.1", r"TLSv1\.2"):
        assert re.search(old + r"\s+disabled", out), out
    assert "Accepted  TLSv1.2" not in out


# --- tenants ---------------------------------------------------------------------------------------

def test_another_tenants_token_sees_and_reaches_nothing(bench, hub, echo_server):
    agent = hub.agent("a1")
    tunnel = hub.tunnel(echo_server.address)
    network = tunnel["spec"]["target"]["network"]
    hub.admin.post("/api/v1/tenants", {"name": "other"})
    made = hub.admin.post("/api/v1/tokens", {"kind": "api", "name": "theirs", "tenant": "other"})
    theirs = hub.rest(made["token"])

    for kind in ("tunnels", "networks", "agents", "tokens", "audit"):
        seen = theirs.items(f"/api/v1/{kind}")
        text = str(seen)
        for mine in (agent.id, tunnel["id"], network, "default"):
            assert mine not in text, f"{mine} in {kind}"
    for method, path in (("GET", f"/api/v1/tunnels/{tunnel['id']}"), ("GET", "/api/v1/tunnels/web"),
                         ("DELETE", "/api/v1/tunnels/web"), ("DELETE", f"/api/v1/networks/{network}"),
                         ("GET", f"/api/v1/tunnels/{tunnel['id']}/connections"),
                         ("GET", f"/api/v1/agents/{agent.id}"),
                         ("POST", f"/api/v1/agents/{agent.id}:revoke"),
                         ("GET", f"/api/v1/networks/{network}")):
        with pytest.raises(Problem) as refused:
            theirs.call(method, path)
        assert refused.value.status == 404, path
    with pytest.raises(Problem) as refused:
        theirs.post("/api/v1/tunnels", {"name": "spy", "spec": {"target": {
            "network": network, "address": echo_server.address}}})
    assert refused.value.status in (400, 404)
    with pytest.raises(Problem) as refused:
        theirs.post("/api/v1/tokens", {"kind": "bootstrap", "network": network})
    assert refused.value.status in (400, 404)
    for method, path, body in (("POST", "/api/v1/tenants", {"name": "mine"}),
                               ("POST", "/api/v1/tokens", {"kind": "api", "role": "admin"}),
                               ("POST", "/api/v1/tokens", {"kind": "api", "tenant": "default"})):
        with pytest.raises(Problem) as refused:
            theirs.call(method, path, body)
        assert refused.value.status in (403, 404), path

    # The same names are free for them, and their agent gets none of our tunnels.
    theirs.post("/api/v1/networks", {"name": "lan"})
    token = theirs.post("/api/v1/tokens", {"network": "lan"})["token"]
    their_agent = Agent(hub, os.path.join(hub.directory, "theirs"), "theirs")
    their_agent.enroll(token)
    their_agent.start()
    wait_until(lambda: [a for a in theirs.items("/api/v1/agents") if a["status"]["phase"] == "online"],
               "their agent to be online")
    agent.process.kill()
    wait_until(lambda: hub.admin.get("/api/v1/tunnels/web")["status"]["phase"] == "pending", "no agent left")
    assert theirs.items("/api/v1/tunnels") == []


def test_wrong_tokens_are_refused(hub):
    for token in ("", "nonsense", "wat_0000000000000000_" + "A" * 43, hub.admin.token[:-1] + "x",
                  hub.admin.token[:20], hub.admin.token + "x"):
        with pytest.raises(Problem) as refused:
            hub.rest(token or "-").get("/api/v1/tunnels")
        assert refused.value.status == 401
        assert refused.value.body["type"] == "urn:warren:error:unauthenticated"
    with pytest.raises(Problem) as refused:
        hub.rest(hub.bootstrap_token()).get("/api/v1/tunnels")
    assert refused.value.status == 401


# --- enrolment --------------------------------------------------------------------------------------

def test_secrets_are_private_files_and_in_no_log(hub):
    token = hub.bootstrap_token()
    agent = hub.agent("a1", token=token)
    for path in (hub.token_path, os.path.join(hub.data, "ca.key"), agent.key_path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, path
    secrets = [token[21:64], hub.admin.token[21:64]]
    assert all(re.fullmatch(r"w[ba]t_[0-9a-z]{16}_", t[:21]) for t in (token, hub.admin.token))
    for process in (hub.process, agent.process):
        for secret in secrets:
            assert secret not in process.log()
    for path, _, files in os.walk(hub.data):
        for name in files:
            if name != "admin.token":
                with open(os.path.join(path, name), "rb") as f:
                    data = f.read()
                assert not any(s.encode() in data for s in secrets), name


def test_enrolment_with_plain_curl_and_openssl(hub, directory):
    def at(name):
        return os.path.join(directory, name)
    token = hub.bootstrap_token()
    # First contact: the CA is not known; its fingerprint is in the token.
    p7 = run(["curl", "-sSfk", hub.url + "/.well-known/est/cacerts"]).stdout
    with open(at("ca.p7"), "wb") as f:
        f.write(base64.b64decode(p7))
    run(["openssl", "pkcs7", "-inform", "DER", "-in", at("ca.p7"), "-print_certs", "-out", at("ca.pem")])
    der = ssl.PEM_cert_to_DER_cert(re.search("-----BEGIN.*?END CERTIFICATE-----", open(at("ca.pem")).read(),
                                             re.S)[0])
    fingerprint = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")
    assert token[65:] == fingerprint

    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", at("k")])
    # The subject asks for an identity of its own; nobody listens.
    run(["openssl", "req", "-new", "-key", at("k"), "-subj", "/CN=admin/O=default", "-outform", "DER",
         "-addext", "subjectAltName=URI:spiffe://warren/tenant/default/agent/other", "-out", at("csr.der")])
    with open(at("csr.b64"), "wb") as f:
        f.write(base64.encodebytes(open(at("csr.der"), "rb").read()))
    p7 = run(["curl", "-sSf", "--cacert", at("ca.pem"), "-u", f"by-hand:{token}", "-H",
              "Content-Type: application/pkcs10", "--data-binary", "@" + at("csr.b64"),
              hub.url + "/.well-known/est/simpleenroll"]).stdout
    with open(at("cert.p7"), "wb") as f:
        f.write(base64.b64decode(p7))
    run(["openssl", "pkcs7", "-inform", "DER", "-in", at("cert.p7"), "-print_certs", "-out", at("cert.pem")])
    run(["openssl", "verify", "-CAfile", at("ca.pem"), at("cert.pem")])
    text = run(["openssl", "x509", "-in", at("cert.pem"), "-noout", "-text"]).stdout
    uris = re.findall(r"URI:(\S+?)[,\s]", text)
    assert len(uris) == 1
    identity = re.fullmatch(r"spiffe://warren/tenant/(ten_\w+|default)/agent/(agt_\w+)", uris[0])
    assert identity, uris
    assert "admin" not in text.split("Subject:")[1].split("\n")[0]
    assert "TLS Web Client Authentication" in text and "CA:TRUE" not in text
    assert handshake_and_first_read(hub, "warren-agent/1", at("cert.pem"), at("k")) == "served"
    assert hub.admin.get(f"/api/v1/agents/{identity[2]}")["name"] == "by-hand"


def test_an_agent_is_not_fooled_on_first_contact(bench, hub):
    """A token of one hub at another: the fingerprint does not match, and nothing is sent."""
    other = bench.hub()
    agent = Agent(other, os.path.join(other.directory, "fooled"), "fooled")
    done = agent.enroll(hub.bootstrap_token(), check=False)
    assert done.returncode != 0
    assert re.search("fingerprint|CA|certificate", done.stderr), done.stderr
    assert not os.path.exists(agent.certificate_path)
    assert not other.admin.items("/api/v1/agents")


@pytest.mark.parametrize("spoil,message", [
    (lambda t: t[:-1] + ("A" if t[-1] != "A" else "B"), "fingerprint|CA|token"),
    (lambda t: t[:21] + "A" * 43 + t[64:], "token|refused|denied|unauth"),
    (lambda t: "rubbish", "token"),
])
def test_spoilt_bootstrap_tokens_are_refused_with_a_reason(hub, spoil, message):
    agent = Agent(hub, os.path.join(hub.directory, "a1"), "a1")
    done = agent.enroll(spoil(hub.bootstrap_token()), check=False)
    assert done.returncode != 0 and re.search(message, done.stderr, re.I), done.stderr
    assert not hub.admin.items("/api/v1/agents")


def test_a_token_admits_as_many_agents_as_it_says_and_not_after_its_ttl(hub):
    token = hub.bootstrap_token(uses=2)
    for i in range(2):
        Agent(hub, os.path.join(hub.directory, f"a{i}"), f"a{i}").enroll(token)
    assert Agent(hub, os.path.join(hub.directory, "a2"), "a2").enroll(token, check=False).returncode != 0
    short = hub.bootstrap_token(ttl="1s")
    created = [t for t in hub.admin.items("/api/v1/tokens?page_size=1000") if t["id"].endswith(short.split("_")[1])][0]
    assert created["expires"]
    wait_until(lambda: Agent(hub, os.path.join(hub.directory, "late"), "late").enroll(short, check=False).returncode
               and True, "the token to run out", 5, every=0.3)


def test_enrolment_attempts_are_rate_limited_per_address(bench):
    hub = bench.hub(env={"WARREN_LIMIT_ENROLL": "5"})
    basic = {"Authorization": "Basic " + base64.b64encode(b"x:wbt_0000000000000000_" + b"A" * 43 + b"_"
                                                          + b"A" * 43).decode()}
    statuses = []
    for _ in range(20):
        status, headers, _ = hub.anonymous().raw("POST", "/.well-known/est/simpleenroll", body="AAAA",
                                                 headers=basic)
        statuses.append(status)
    assert 429 in statuses and statuses[0] in (400, 401, 403)
    assert int(headers["Retry-After"]) > 0


# --- renewal ----------------------------------------------------------------------------------------

def test_certificates_are_renewed_at_two_thirds_without_a_break(bench, echo_server):
    hub = bench.hub(options=["--cert-ttl", "6s"])
    agent = hub.agent("a1")
    sock = connect(endpoint(hub.tunnel(echo_server.address)))
    first = agent.serial()
    started = time.monotonic()
    wait_until(lambda: agent.serial() != first, "a renewed certificate", 8)
    assert time.monotonic() - started < 6
    second = agent.serial()
    wait_until(lambda: agent.serial() != second, "and again", 8)
    assert exchange(sock, b"still here") == b"still here"
    assert agent.identity()["status"]["phase"] == "online"
    assert agent.identity()["certificate"]["serial"].lower().lstrip("0") in \
        agent.serial().lower().replace("serial=", "").lstrip("0")


def test_a_revoked_token_admits_nobody_and_those_it_admitted_cannot_renew(bench):
    hub = bench.hub(options=["--cert-ttl", "6s"])
    made = hub.admin.post("/api/v1/tokens", {"network": "lan", "uses": None})
    agent = hub.agent("a1", token=made["token"])
    serial = agent.serial()
    revoked = hub.admin.post(f"/api/v1/tokens/{made['id']}:revoke")
    assert revoked["revoked"]
    assert hub.admin.post(f"/api/v1/tokens/{made['id']}:revoke")["revoked"] == revoked["revoked"]
    late = Agent(hub, os.path.join(hub.directory, "late"), "late").enroll(made["token"], check=False)
    assert late.returncode != 0 and "revoked" in late.stderr
    agent.process.wait_log("(?i)renew.*(revoked|denied|refused|fail)", 8)
    assert agent.serial() == serial


def test_a_revoked_agent_is_cut_within_two_seconds_and_stays_out(hub, echo_server):
    agent = hub.agent("a1")
    sock = connect(endpoint(hub.tunnel(echo_server.address)))
    exchange(sock, b"x")
    started = time.monotonic()
    hub.cli("agent", "revoke", agent.id)
    assert read_all(sock)[1] == "reset"
    assert time.monotonic() - started < 2 * SLOW
    assert agent.identity()["status"]["phase"] == "revoked"
    for lane in LANES:
        assert handshake_and_first_read(hub, lane, agent.certificate_path, agent.key_path) == "refused"
    assert hub.admin.get("/api/v1/tunnels/web")["status"]["phase"] == "pending"
    agent.process.wait_log("(?i)revoked|refused|denied|certificate", 10)
    rows = hub.admin.items("/api/v1/tunnels/web/connections")
    assert rows[0]["end"] in ("revoked", "lost")


def agent_past_expiry(bench, policy):
    hub = bench.hub(options=["--cert-ttl", "3s", "--late-renewal", policy])
    agent = hub.agent("a1")
    agent.process.stop()
    wait_until(agent.expired, "the certificate to expire", 10)
    return hub, agent


def test_late_renewal_grace_renews_an_expired_certificate(bench):
    hub, agent = agent_past_expiry(bench, "grace")
    agent.start()
    agent.wait_online(15)
    assert not agent.expired()


def test_late_renewal_deny_wants_a_new_enrolment(bench):
    hub, agent = agent_past_expiry(bench, "deny")
    agent.start()
    agent.process.wait_log("(?i)expired|denied|enrol", 10)
    assert agent.identity()["status"]["phase"] == "offline"
    assert agent.expired()


def test_late_renewal_approve_waits_for_an_operator(bench):
    hub, agent = agent_past_expiry(bench, "approve")
    agent.start()
    wait_until(lambda: agent.identity()["status"]["phase"] == "pending", "the request to show", 15)
    assert agent.expired()
    hub.cli("agent", "approve", "a1")
    agent.wait_online(40)


def test_an_expired_certificate_may_do_nothing_but_renew(bench):
    hub, agent = agent_past_expiry(bench, "grace")
    sock = tls_socket(hub, ["warren-renew/1"], certificate=agent.certificate_path, key=agent.key_path)
    sock.sendall(f"GET /api/v1/tunnels HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {hub.admin.token}\r\n\r\n"
                 .encode())
    assert b"404" in sock.recv(1000).split(b"\r\n")[0]


# --- the agent's own process -------------------------------------------------------------------------

def test_the_agent_runs_unprivileged(bench, hub, echo_server):
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    os.chmod(hub.directory, 0o755)
    agent = hub.agent("a1", user="65534")
    assert serves(endpoint(hub.tunnel(echo_server.address)))
    with open(f"/proc/{agent.process.pid}/status") as f:
        status = f.read()
    assert re.search(r"^Uid:\s+65534\s+65534", status, re.M)
    assert re.search(r"^CapEff:\s+0+$", status, re.M)


def test_running_without_enrolment_says_what_to_do(hub, directory):
    done = run([program("warren-agent"), "run", "--data", os.path.join(directory, "nothing")], check=False)
    assert done.returncode != 0
    assert "enroll" in done.stderr
