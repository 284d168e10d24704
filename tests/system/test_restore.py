"""Backups as docs/operations.md has them, word by word, and what is left after a restore; the administrator's token, lost."""

import os
import shutil

import pytest

from lib.postgres import as_user, binaries
from lib.process import run, wait_until
from lib.service import serves
from lib.warren import Hub, Problem, endpoint, program

pytestmark = pytest.mark.one_hub("hubs of its own")


def shell(script, **variables):
    """Each line of the documentation with these in the place of its names."""
    for name, value in variables.items():
        script = script.replace(name, str(value))
    return run(["bash", "-euc", script])


def private(directory, name):
    path = os.path.join(directory, name)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
        f.write(os.urandom(32).hex())
    return path


def names(hub, kind):
    return sorted(o["name"] for o in hub.admin.items(f"/api/v1/{kind}"))


def is_turned_away(agent):
    """It enrolled after the backup, so the restored hub does not know it."""
    agent.process.wait_log("does not know whom this certificate names", 30)


def test_a_hub_on_a_file_is_backed_up_as_it_runs_and_restored_on_a_new_machine(bench, directory, echo_server):
    hub = bench.hub(db="")
    agent = hub.agent("old")
    tunnel = hub.tunnel(echo_server.address, name="old", listen="127.0.0.1:0")
    serial = agent.serial()
    backup = os.path.join(directory, "backup")
    os.mkdir(backup)
    shell("""
        sqlite3 /var/lib/warren/warren.db ".backup BACKUP/warren.db"
        tar -C /var/lib/warren --exclude='warren.db*' --exclude='*.lock' -cf BACKUP/keys.tar .
        """.replace("/var/lib/warren", hub.data), BACKUP=backup)

    late = hub.agent("late")
    hub.tunnel(echo_server.address, name="late", listen="127.0.0.1:0")
    token = hub.token
    hub.process.kill()
    shutil.rmtree(hub.data)
    shell("""
        install -d -m 700 /var/lib/warren
        tar -C /var/lib/warren -xf BACKUP/keys.tar
        install -m 600 BACKUP/warren.db /var/lib/warren/warren.db
        """.replace("/var/lib/warren", hub.data), BACKUP=backup)
    hub.start()
    assert hub.token == token and names(hub, "tunnels") == ["old"] and names(hub, "agents") == ["old"]
    agent.wait_online(30)
    assert agent.serial() == serial, "nobody enrols again"
    wait_until(lambda: serves(endpoint(hub.wait_active(tunnel["id"], 20))), "the tunnel to serve", 30)
    is_turned_away(late)
    new = hub.agent("new")
    assert names(hub, "agents") == ["new", "old"] and new.process.alive()


def test_a_cluster_is_restored_from_a_dump_with_new_machines(bench, directory, echo_server):
    server = bench.postgres()
    url, key = server.new_database(), private(directory, "ca.key")
    name = url.split("?")[0].rsplit("/", 1)[1]
    options = ("--ca-key-file", key)
    hub = bench.hub(db=url, options=options)
    agent = hub.agent("old")
    tunnel = hub.tunnel(echo_server.address, name="old", listen="127.0.0.1:0")
    serial = agent.serial()
    dump = os.path.join(directory, "db", "warren.dump")
    os.mkdir(os.path.dirname(dump))
    shutil.chown(os.path.dirname(dump), "nobody") if os.geteuid() == 0 else None
    run(as_user([os.path.join(binaries(), "pg_dump"), "--format=custom", f"--file={dump}", url]))

    late = hub.agent("late")
    hub.tunnel(echo_server.address, name="late", listen="127.0.0.1:0")
    token_path, admin = os.path.join(directory, "admin.token"), hub.token
    shutil.copy(hub.token_path, token_path)
    hub.process.kill()
    shutil.rmtree(hub.data) # its machine is lost as well
    server.sql(f"drop database {name}")
    server.sql(f"create database {name}")
    run(as_user([os.path.join(binaries(), "pg_restore"), "--exit-on-error", f"--dbname={url}", dump]))

    os.mkdir(hub.data, 0o700)
    shutil.copy(token_path, hub.token_path)
    hub.start()
    assert hub.token == admin and names(hub, "tunnels") == ["old"] and names(hub, "agents") == ["old"]
    agent.wait_online(30)
    assert agent.serial() == serial, "nobody enrols again"
    wait_until(lambda: serves(endpoint(hub.wait_active(tunnel["id"], 20))), "the tunnel to serve", 30)
    is_turned_away(late)
    second = bench.keep(Hub(os.path.join(directory, "second"), options=("--db", url, *options)))
    os.makedirs(second.data, mode=0o700)
    shutil.copy(token_path, second.token_path)
    second.start()
    wait_until(lambda: {"old"} == {t["name"] for t in second.admin.items("/api/v1/tunnels")
                                   if t["status"]["phase"] == "active"}, "the second hub to serve", 20)


def add_admin(db, check=True):
    return run([program("warren"), "db", "add-admin", "--db", db], check=check)


def test_a_lost_administrators_token_is_replaced_by_who_has_the_database(bench, directory):
    url = bench.postgres().new_database()
    hub = bench.hub(db=url, options=("--ca-key-file", private(directory, "ca.key")))
    old = hub.admin
    token = add_admin(url).stdout.strip()

    def is_admitted():
        try:
            return hub.rest(token).get("/api/v1/tokens/self")["role"] == "admin"
        except Problem:
            return False
    wait_until(is_admitted, "the running hub to hear of it")
    lost = old.get("/api/v1/tokens/self")["id"]
    hub.rest(token).post(f"/api/v1/tokens/{lost}:revoke")
    with pytest.raises(Problem):
        old.get("/api/v1/tokens/self")
    assert "by who has the database" in str(hub.rest(token).items("/api/v1/audit"))


def test_a_token_for_a_hub_on_a_file_is_made_while_it_is_stopped(bench, directory):
    hub = bench.hub(db="")
    db = f"sqlite:{hub.data}/warren.db"
    refused = add_admin(db, check=False)
    assert refused.returncode != 0 and "in use" in refused.stderr and "hint" not in refused.stderr
    hub.process.stop()
    token = add_admin(db).stdout.strip()
    hub.start()
    assert hub.rest(token).get("/api/v1/tokens/self")["role"] == "admin"
    empty = add_admin(f"sqlite:{directory}/empty.db", check=False)
    assert empty.returncode != 0 and "no hub has started" in empty.stderr
