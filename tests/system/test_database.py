"""A hub's database: from a file to PostgreSQL. (The other tests run on PostgreSQL too, with
WARREN_TEST_DB=postgres; what happens to a database is in test_database_faults.)"""

import os
import shutil

import pytest

from lib.process import run, wait_until
from lib.service import serves
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
