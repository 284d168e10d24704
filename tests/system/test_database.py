"""A hub's database: from a file to PostgreSQL. (The other tests run on PostgreSQL too, with
WARREN_TEST_DB=postgres; what happens to a database is in test_database_faults.)"""

import os
import shutil

import pytest

from lib import postgres
from lib.process import run, wait_until
from lib.service import free_port, serves
from lib.warren import Hub, endpoint, program

TABLES = ("tenant", "token", "network", "agent", "audit", "tunnel", "connection", "feed", "hub")


@pytest.fixture
def server(bench):
    return bench.postgres()


def test_a_running_hub_moves_to_a_cluster_without_re_enrolling_an_agent(bench, server, echo_server,
                                                                        directory):
    hub = bench.hub(db="")
    agent = hub.agent("a1")
    tunnel = hub.tunnel(echo_server.address, listen="127.0.0.1:0")
    assert serves(endpoint(tunnel))
    serial = agent.serial()
    wait_until(lambda: hub.admin.items(f"/api/v1/tunnels/{tunnel['id']}/connections"), "the access log")
    hub.process.stop()
    url, file = server.new_database(), f"sqlite:{hub.data}/warren.db"
    said = run([program("warren"), "db", "copy", "--from", file, "--to", url]).stdout
    assert "tunnel" in said
    database = url.split("/")[3].split("?")[0]
    for table in TABLES:
        query = f"select count(*) from {table}"
        in_file = run(["sqlite3", f"{hub.data}/warren.db", query]).stdout.strip()
        assert server.sql(query, database) == in_file, table
    again = run([program("warren"), "db", "copy", "--from", file, "--to", url], check=False)
    assert again.returncode != 0 and "in use already" in again.stderr

    key_file = os.path.join(directory, "ca.keyfile")
    with open(os.open(key_file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as f:
        f.write(os.urandom(32).hex().encode())
    hub.process.argv += ["--db", url, "--ca-key-file", key_file]
    hub.start()
    agent.wait_online(20)
    assert agent.serial() == serial
    wait_until(lambda: serves(endpoint(hub.wait_active(tunnel["id"], 20))), "the tunnel to serve", 20)

    other = bench.keep(Hub(os.path.join(directory, "beside"), options=(
        "--db", url, "--ca-key-file", key_file)))
    os.makedirs(other.data, mode=0o700)
    shutil.copy(hub.token_path, other.token_path)
    other.start()
    with open(hub.ca_path) as mine, open(other.ca_path) as its:
        assert mine.read() == its.read(), "one CA"
    assert other.admin.get(f"/api/v1/agents/{agent.id}")["status"]["phase"] == "online"

    hub.process.stop()
    other.process.stop()
    back = os.path.join(directory, "back.db")
    run([program("warren"), "db", "copy", "--from", url, "--to", f"sqlite:{back}"])
    for table in TABLES:
        query = f"select count(*) from {table}"
        assert server.sql(query, database) == run(["sqlite3", back, query]).stdout.strip(), table


def test_a_password_in_the_url_is_refused_and_not_repeated(bench, directory):
    done = run([program("warren"), "hub", "--data", os.path.join(directory, "x"), "--db",
                "postgres://warren:hunter2@db/warren"], check=False)
    assert done.returncode == 2
    assert "db_password_file" in done.stderr and "hunter2" not in done.stderr + done.stdout


@pytest.fixture
def strict_server(bench, directory):
    """One that wants TLS and a password: (server, URL for user warren)."""
    port = free_port()
    server = postgres.Postgres(os.path.join(directory, "strict"), port=port, options={
        "listen_addresses": "127.0.0.1", "ssl": "on", "ssl_cert_file": "../server.pem",
        "ssl_key_file": "../server.key"})
    for name, subject in (("server", "127.0.0.1"), ("other", "elsewhere")):
        paths = [os.path.join(server.directory, name + end) for end in (".key", ".pem")]
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-keyout", paths[0], "-out", paths[1], "-days", "2", "-subj", f"/CN={subject}", "-addext",
             f"subjectAltName={'IP:127.0.0.1' if name == 'server' else 'DNS:elsewhere'}"])
        if os.geteuid() == 0:
            run(["chown", postgres.USER, *paths])
    server.make()
    with open(os.path.join(server.data, "pg_hba.conf"), "w") as f:
        f.write("local all admin trust\nhostssl all warren 127.0.0.1/32 scram-sha-256\n")
    bench.keep(server.start())
    server.sql(f"create role warren login password '{PASSWORD}'")
    server.sql("create database warren owner warren")
    return server, (f"postgres://warren@127.0.0.1:{port}/warren?sslmode=verify-full&sslrootcert="
                    f"{server.directory}/")


PASSWORD = "correct horse 4711"


def write_secret(path, text):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
        f.write(text)
    return path


def test_tls_is_verified_and_the_password_comes_from_a_file_or_the_environment(bench, directory,
                                                                              strict_server):
    _, url = strict_server
    file = write_secret(os.path.join(directory, "password"), PASSWORD + "\n")
    hub = bench.hub(db=url + "server.pem", options=("--db-password-file", file))
    assert hub.admin.items("/api/v1/tokens")
    hub.process.stop()
    assert PASSWORD not in hub.process.log()

    def refused(flags=(), ca="server.pem", env=None):
        done = run([program("warren"), "hub", "--data", os.path.join(directory, "x"), "--db", url + ca,
                    *flags], env=env, check=False)
        assert done.returncode == 1 and PASSWORD not in done.stderr
        return done.stderr
    assert "password" in refused()
    assert "authentication failed" in refused(env={"PGPASSWORD": "wrong"})
    assert "certificate verify failed" in refused(("--db-password-file", file), ca="other.pem")
    os.chmod(file, 0o644)
    assert "password" in refused(("--db-password-file", file)), "others can read the file"
    hub.process.env["PGPASSWORD"] = PASSWORD
    hub.process.argv = [word for word in hub.process.argv if word not in ("--db-password-file", file)]
    hub.start()
    assert hub.admin.items("/api/v1/tokens")
