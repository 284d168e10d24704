"""The CA's keys in the database: sealed under a key file or a passphrase, and changed to another one."""

import os

import pytest

from lib import postgres
from lib.process import run, wait_until
from lib.warren import Hub, program

PHRASE = "correct horse battery staple"


def private(directory, name, text):
    path = os.path.join(directory, name)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
        f.write(text)
    return path


def fails_to_start(hub, *options, env=None):
    """What a hub in the same place, with other options, says and ends with."""
    other = Hub(hub.directory, options=options, env=env)
    done = run(other.process.argv, check=False, env=env)
    assert done.returncode != 0
    return done.stderr


def database_of(hub):
    return "sqlite:" + os.path.join(hub.data, "warren.db")


@pytest.fixture
def sealed(bench, directory):
    """(hub, agent), the CA under a passphrase."""
    phrase = private(directory, "phrase", PHRASE + "\n")
    hub = bench.hub(db="", options=["--ca-passphrase-file", phrase])
    return hub, hub.agent("a1"), phrase


def test_a_passphrase_seals_the_ca_and_is_needed(sealed, directory):
    hub, agent, phrase = sealed
    assert hub.admin.get("/api/v1/ca")["kept_in"] == "passphrase"
    hub.process.stop()
    wrong = private(directory, "wrong", PHRASE.upper())
    key = private(directory, "key", "k" * 40)
    assert "not the passphrase" in fails_to_start(hub, "--ca-passphrase-file", wrong)
    assert "sealed under a passphrase" in fails_to_start(hub, "--ca-key-file", key)
    assert "each needs the passphrase" in fails_to_start(hub)
    both = fails_to_start(hub, "--ca-passphrase-file", phrase, "--ca-key-file", key)
    assert "not several" in both
    short = private(directory, "short", "short")
    assert "at least 12 characters" in fails_to_start(hub, "--ca-passphrase-file", short)
    for name in os.listdir(hub.data):
        path = os.path.join(hub.data, name)
        if os.path.isfile(path):
            with open(path, "rb") as f:
                data = f.read()
            assert b"PRIVATE KEY" not in data and PHRASE.encode() not in data, name
    hub.start()
    agent.wait_online(20)
    hub.cli("ca", "rotate")
    assert PHRASE not in hub.process.log() and "PRIVATE" not in hub.process.log()


def test_the_passphrase_may_be_in_the_environment_and_does_not_stay_there(sealed):
    hub, agent, _ = sealed
    hub.process.stop()
    there = Hub(hub.directory, env={"WARREN_CA_PASSPHRASE": PHRASE})
    there.start()
    try:
        with open(f"/proc/{there.process.pid}/environ", "rb") as f:
            assert PHRASE.encode() not in f.read()
        agent.process.stop()
    finally:
        there.process.stop()


def test_reseal_changes_what_the_ca_is_sealed_under(sealed, directory):
    hub, agent, phrase = sealed
    key, other = private(directory, "key", "k" * 40), private(directory, "other", "o" * 40)

    def reseal(*flags):
        return run([program("warren"), "ca", "reseal", "--db", database_of(hub), *flags], check=False)
    assert "in use" in reseal("--ca-passphrase-file", phrase, "--new-key-file", key).stderr
    hub.cli("ca", "rotate")
    hub.process.stop()
    assert reseal("--new-key-file", key).returncode != 0
    assert "passphrase" in reseal("--ca-key-file", key, "--new-key-file", other).stderr
    done = reseal("--ca-passphrase-file", phrase, "--new-key-file", key)
    assert done.returncode == 0 and "2 keys" in done.stdout, done.stderr
    assert "sealed under a key file" in fails_to_start(hub, "--ca-passphrase-file", phrase)
    assert "not the key file" in fails_to_start(hub, "--ca-key-file", other)
    hub.process.argv[-1] = key
    hub.process.argv[-2] = "--ca-key-file"
    hub.start()
    agent.wait_online(20)
    assert hub.admin.get("/api/v1/ca")["kept_in"] == "key file"
    assert "ca.reseal" in [row["action"] for row in hub.admin.items("/api/v1/audit")]


def test_a_ca_in_files_is_sealed_once_there_is_a_key(bench, directory):
    hub = bench.hub(db="")
    agent = hub.agent("a1")
    hub.cli("ca", "rotate")
    shown = hub.admin.get("/api/v1/ca")
    assert shown["kept_in"] == "files" and shown["stage"] == "moving"
    hub.process.stop()
    done = run([program("warren"), "ca", "reseal", "--db", database_of(hub), "--ca-key-file",
                private(directory, "a", "a" * 40), "--new-key-file", private(directory, "b", "b" * 40)],
               check=False)
    assert "holds no sealed CA" in done.stderr
    hub.process.argv += ["--ca-key-file", private(directory, "key", "k" * 40)]
    hub.start()
    agent.wait_online(20)
    now = hub.admin.get("/api/v1/ca")
    assert now["kept_in"] == "key file"
    assert [(r["fingerprint"], r["state"]) for r in now["roots"]] \
        == [(r["fingerprint"], r["state"]) for r in shown["roots"]]


def test_a_rotated_ca_is_copied_to_another_database(bench, directory):
    if not postgres.binaries():
        pytest.skip("PostgreSQL is not installed")
    hub = bench.hub(db="")
    agent, away = hub.agent("a1"), hub.agent("away")
    away.process.stop()
    hub.cli("ca", "rotate")
    hub.process.stop()
    url = bench.postgres().new_database()
    run([program("warren"), "db", "copy", "--from", database_of(hub), "--to", url])
    hub.process.argv += ["--db", url, "--ca-key-file", private(directory, "key", "k" * 40)]
    hub.start()
    for there in (agent, away):
        if not there.process.alive():
            there.start()
        there.wait_online(20)
    moving = hub.admin.get("/api/v1/ca")
    assert (moving["stage"], moving["kept_in"]) == ("moving", "key file")
    wait_until(lambda: hub.admin.get("/api/v1/ca")["agents"]["old"] == 0, "both agents to renew", 30)
    hub.cli("ca", "rotate", "--finish")
    hub.process.stop()

    # and back into a file, of a hub elsewhere that has the database and the key, and nothing else
    file = os.path.join(directory, "elsewhere.db")
    run([program("warren"), "db", "copy", "--from", url, "--to", f"sqlite:{file}"])
    at = hub.process.argv.index("--db")
    hub.process.argv[at + 1] = f"sqlite:{file}"
    for name in os.listdir(hub.data):
        if name.startswith("ca"):
            os.remove(os.path.join(hub.data, name))
    hub.start()
    for there in (agent, away):
        there.wait_online(20)
    assert hub.admin.get("/api/v1/ca")["stage"] == "stable"
