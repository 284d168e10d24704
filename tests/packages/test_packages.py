"""The Debian packages that `make deb` made, installed for real: in a copy-on-write view of this machine, in a
mount namespace of its own, so that nothing of it stays. Root only."""

import os
import re
import subprocess

import pytest
import yaml

DEBS = os.path.abspath(os.environ["WARREN_DEBS"])
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="installing packages needs root")


@pytest.fixture
def machine(tmp_path):
    """Runs a shell script as root of a machine that is like this one, but without Warren."""
    def run(script):
        steps = f"""
            set -e
            mount -t tmpfs tmpfs {tmp_path}
            mkdir {tmp_path}/upper {tmp_path}/work {tmp_path}/root
            mount -t overlay overlay -o lowerdir=/,upperdir={tmp_path}/upper,workdir={tmp_path}/work {tmp_path}/root
            mount --rbind /proc {tmp_path}/root/proc
            mount --rbind /dev {tmp_path}/root/dev
            mkdir -p {tmp_path}/root/debs
            mount --bind {DEBS} {tmp_path}/root/debs
            exec chroot {tmp_path}/root /bin/bash -e
        """
        p = subprocess.run(["unshare", "--mount", "--propagation", "private", "bash", "-c", steps],
                           input=script, capture_output=True, text=True, timeout=120,
                           env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"})
        assert p.returncode == 0, p.stdout + p.stderr
        return p.stdout
    return run


INSTALL = "dpkg -i /debs/warren-*.deb >/dev/null\n"


def test_debian_has_all_that_the_packages_depend_on(machine):
    out = machine("apt-get install --simulate /debs/warren-*.deb")
    for name in "warren-cli", "warren-hub", "warren-agent":
        assert f"Inst {name} " in out


def test_installed_programs_run_and_nothing_starts_by_itself(machine):
    out = machine(INSTALL + """
        warren --version; warren-agent --version
        warren hub --config /etc/warren/hub.toml --data /tmp/hub --check-config
        getent passwd warren
        test -e /etc/systemd/system/multi-user.target.wants/warren.service && echo enabled
        man -w warren warren-agent
        true""")
    assert re.search(r"^warren:.*:/var/lib/warren:", out, re.M)
    assert "enabled" not in out and "/usr/share/man/man1/warren-agent.1" in out


def test_systemd_accepts_the_units(machine):
    out = machine(INSTALL + "systemd-analyze verify /lib/systemd/system/warren.service "
                            "/lib/systemd/system/warren-agent.service 2>&1 | grep -i warren || true")
    assert out == ""


def test_settings_survive_an_upgrade_and_purge_takes_everything(machine):
    out = machine(INSTALL + """
        echo '# mine' >>/etc/warren/hub.toml
        mkdir -p /var/lib/warren && touch /var/lib/warren/warren.db
        dpkg -i --force-confdef --force-confold /debs/warren-*.deb >/dev/null
        grep -c '# mine' /etc/warren/hub.toml
        dpkg --remove warren-hub >/dev/null; ls /var/lib/warren /etc/warren
        dpkg --purge warren-hub warren-cli warren-agent >/dev/null 2>&1
        ls -d /etc/warren /var/lib/warren /usr/bin/warren* 2>&1 || true""")
    assert out.splitlines()[0] == "1" and "warren.db" in out and "hub.toml" in out
    assert out.count("No such file") == 3


TOP = os.path.join(os.path.dirname(__file__), "../..")
MANIFEST, CHART = "packaging/kubernetes/warren.yaml", "packaging/helm/warren/templates/hub.yaml"


@pytest.mark.parametrize("path", [MANIFEST, CHART])
def test_kubernetes_sets_only_what_a_hub_knows(machine, path):
    with open(os.path.join(TOP, path)) as f:
        named = set(re.findall(r"WARREN_[A-Z_]+", f.read()))
    known = set(re.findall(r"\[(WARREN_[A-Z_]+)\]", machine(INSTALL + "warren hub --help")))
    assert named and not named - known


def test_the_manifest_is_three_hubs_that_one_disruption_leaves_serving():
    with open(os.path.join(TOP, MANIFEST)) as f:
        parts = {part["kind"]: part for part in yaml.safe_load_all(f)}
    hubs = parts["Deployment"]["spec"]
    assert hubs["replicas"] == 3 and parts["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    labels = hubs["template"]["metadata"]["labels"]
    for selector in (hubs["selector"]["matchLabels"], parts["Service"]["spec"]["selector"],
                     parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]):
        assert selector == labels
    env = {e["name"]: e.get("value") for e in hubs["template"]["spec"]["containers"][0]["env"]}
    assert env["WARREN_AGENT_ADDRESS"] == "none", "agents do not reach pods"
