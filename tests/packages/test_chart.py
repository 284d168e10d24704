"""The Helm chart and the manifest: rendered, held against what Kubernetes' API and a hub know, and run: three pods of the
Deployment as a kubelet would start them (lib/pod.py), on a PostgreSQL that wants TLS and a password, behind haproxy."""

import copy
import os
import re
import shutil

import pytest
import yaml

from lib import chart, network, oci, postgres
from lib.cluster import Balancer
from lib.network import Lans, inside
from lib.pod import Pod
from lib.process import run, wait_until
from lib.service import serves
from lib.warren import REPOSITORY, Agent, program

pytestmark = pytest.mark.skipif(chart.missing() is not None, reason=str(chart.missing()))

MANIFEST = os.path.join(REPOSITORY, "packaging/kubernetes/warren.yaml")
URL = "postgres://warren@db.example.org/warren?sslmode=verify-full"
LEAST = {"publicNames": ["hub.example.org"], "database": {"url": URL}}


def merged(base, over):
    result = copy.deepcopy(base)
    for key, value in over.items():
        is_map = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if is_map else value
    return result


VALUES = {
    "least": {},
    "one hub": {"hubs": 1},
    "inside only": {"service": {"type": "ClusterIP", "port": 8443}},
    "node port": {"service": {"type": "NodePort"}},
    "balancer of a cloud": {
        "service": {"annotations": {"service.beta.kubernetes.io/aws-load-balancer-type": "nlb"}},
        "env": {"WARREN_PROXY_PROTOCOL_FROM": "10.0.0.0/8", "WARREN_METRICS_ACCESS": "open"}},
    "own secrets": {
        "database": {"passwordSecret": {"name": "pg-app", "key": "pgpass"},
                     "caSecret": {"name": "pg-ca", "key": "root.crt"},
                     "listenUrl": "postgres://warren@direct.example.org/warren?sslmode=verify-full"},
        "caKeySecret": {"name": "vault-key", "key": "seal"}},
    "own image": {"image": {"repository": "registry.example.org/a/warren", "tag": "1", "pullPolicy": "Always"},
                  "imagePullSecrets": [{"name": "registry"}]},
    "IPv6": {"ipv6": True, "publicNames": ["hub.example.org", "2001:db8::7"]},
    "where it runs": {"resources": {"limits": {"cpu": 2, "memory": "1Gi"}}, "nodeSelector": {"disk": "ssd"},
                      "tolerations": [{"key": "net", "operator": "Exists", "effect": "NoSchedule"}],
                      "podAnnotations": {"prometheus.io/scrape": "true"}},
    "no drain": {"drainGraceSeconds": 0, "env": {"WARREN_LOG_LEVEL": "debug", "WARREN_LOG_FORMAT": "text"}},
}


@pytest.fixture(scope="module")
def renderer(tmp_path_factory):
    return chart.Renderer(str(tmp_path_factory.mktemp("render")))


@pytest.fixture(params=VALUES, ids=lambda name: name.replace(" ", "-"))
def values(request):
    return merged(LEAST, VALUES[request.param])


@pytest.fixture
def objects(renderer, values):
    return renderer.objects(values)


def container(objects):
    return objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]


def environment(objects):
    return {e["name"]: e.get("value") for e in container(objects)["env"]}


# ---- what Kubernetes makes of it ----

def test_kubernetes_knows_every_field(objects):
    pytest.importorskip("kubernetes", reason="no python3-kubernetes: scripts/deps chart")
    assert set(objects) == {"Deployment", "Service", "PodDisruptionBudget"}
    for obj in objects.values():
        chart.check_object(obj)


def test_the_check_of_fields_finds_what_is_wrong(renderer):
    pytest.importorskip("kubernetes", reason="no python3-kubernetes: scripts/deps chart")
    whole = renderer.objects(LEAST)["Deployment"]
    for change, said in ((lambda d: d["spec"].update(replica=3), "spec.replica: V1DeploymentSpec has no such field"),
                         (lambda d: d["spec"].update(replicas="3"), "'3' is no int"),
                         (lambda d: d["spec"].pop("selector"), "selector")):
        broken = copy.deepcopy(whole)
        change(broken)
        with pytest.raises((AssertionError, ValueError), match=re.escape(said)):
            chart.check_object(broken)


def test_selectors_ports_and_volumes_name_what_there_is(objects, values):
    deployment, service = objects["Deployment"]["spec"], objects["Service"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    for selector in (deployment["selector"]["matchLabels"], service["selector"],
                     objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]):
        assert selector == labels
    ports = {p["name"]: p["containerPort"] for p in container(objects)["ports"]}
    listen = environment(objects)["WARREN_LISTEN"]
    assert ports == {"tls": int(listen.rsplit(":", 1)[1])}
    assert [p["targetPort"] for p in service["ports"]] == ["tls"]
    for probe in "startupProbe", "livenessProbe", "readinessProbe":
        assert container(objects)[probe]["httpGet"]["port"] == "tls"
    pod = deployment["template"]["spec"]
    assert {m["name"] for m in container(objects)["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    grace = int(environment(objects)["WARREN_DRAIN_GRACE"].removesuffix("s"))
    assert pod["terminationGracePeriodSeconds"] > grace
    assert deployment["replicas"] == values.get("hubs", 3)
    assert objects["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_secrets_lie_where_the_hub_looks(objects):
    env = environment(objects)
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    mounts = {m["name"]: m["mountPath"] for m in container(objects)["volumeMounts"]}
    files = {f"{mounts[v['name']]}/{item['path']}" for v in pod["volumes"] if "secret" in v
             for item in v["secret"]["items"]}
    for name in "WARREN_DB_PASSWORD_FILE", "WARREN_CA_KEY_FILE":
        assert env[name] in files
    assert env["PGSSLROOTCERT"] in files or env["PGSSLROOTCERT"].startswith("/etc/ssl/")


# ---- what Helm makes of it, where there is one ----

needs_helm = pytest.mark.skipif(not chart.helm(), reason="no Helm: WARREN_HELM=PATH (packaging/README.md)")


def helm(directory, values, *words):
    path = os.path.join(directory, "values.yaml")
    with open(path, "w") as f:
        yaml.safe_dump(values, f)
    return run([chart.helm(), *words, chart.CHART, "-f", path], check=False)


@needs_helm
def test_helm_renders_the_same_and_finds_nothing_wrong(objects, values, directory):
    done = helm(directory, values, "template", "warren")
    assert done.returncode == 0, done.stderr
    assert chart.by_kind(done.stdout) == objects
    linted = helm(directory, values, "lint", "--strict")
    assert linted.returncode == 0, linted.stdout


@needs_helm
def test_helm_refuses_what_the_schema_refuses(directory):
    done = helm(directory, merged(LEAST, {"hub": 3}), "template", "warren")
    assert done.returncode != 0 and "hub" in done.stderr


# ---- what the hub makes of it ----

def check_settings(env, directory):
    """The effective settings of a hub with this environment, as it says them itself."""
    known = set(re.findall(r"\[(WARREN_[A-Z_]+)\]", run([program("warren"), "hub", "--help"]).stdout))
    ours = {name for name in env if name.startswith("WARREN_")}
    assert ours <= known
    address = "fd00::7" if "[" in env["WARREN_LISTEN"] else "10.0.0.7"
    given = {name: value.replace("$(POD_IP)", address) for name, value in env.items() if value is not None}
    argv = ["env", "-i", "PATH=/usr/bin:/bin", *(f"{k}={v}" for k, v in given.items()), program("warren"), "hub",
            "--data", directory]
    run([*argv, "--check-config"])
    return run([*argv, "--dump-config"]).stdout


def test_the_hub_takes_the_environment(objects, values, directory):
    env = environment(objects)
    said = check_settings(env, directory)
    for name in values["publicNames"]:
        assert f'"{name}"' in said
    for name, value in values.get("env", {}).items():
        assert env[name] == value
    assert env["WARREN_AGENT_ADDRESS"] == "none", "agents do not reach pods"


# ---- what is refused ----

@pytest.mark.parametrize("values, said", [
    ({}, "publicNames"), ({"publicNames": ["hub.example.org"]}, "database.url")], ids=["no-name", "no-database"])
def test_what_must_be_given_is_asked_for(renderer, values, said):
    with pytest.raises(chart.Refused, match=said):
        renderer.text(values)


def schema():
    with open(os.path.join(chart.CHART, "values.schema.json")) as f:
        return yaml.safe_load(f)


def defaults():
    with open(os.path.join(chart.CHART, "values.yaml")) as f:
        return yaml.safe_load(f)


def test_the_schema_of_values_has_them_all_and_takes_those_here(values):
    jsonschema = pytest.importorskip("jsonschema", reason="no python3-jsonschema: scripts/deps chart")
    jsonschema.validate(merged(defaults(), values), schema())
    assert set(schema()["properties"]) == set(defaults()) | {"global"}


@pytest.mark.parametrize("wrong", [
    {"hub": 3}, {"hubs": "3"}, {"hubs": 0}, {"publicNames": "hub.example.org"}, {"database": {"URL": URL}},
    {"database": {"url": "sqlite:x"}}, {"service": {"type": "Ingress"}}, {"drainGraceSeconds": "45s"},
    {"env": {"WARREN_WORKERS": None}}], ids=str)
def test_the_schema_of_values_refuses_what_is_wrong(wrong):
    jsonschema = pytest.importorskip("jsonschema", reason="no python3-jsonschema: scripts/deps chart")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merged(merged(defaults(), LEAST), wrong), schema())


# ---- the manifest for those without Helm ----

def test_the_manifest_is_the_chart_with_its_defaults(renderer):
    with open(MANIFEST) as f:
        assert chart.by_kind(f.read()) == renderer.objects(LEAST)


def test_the_notes_say_how_to_log_in(renderer):
    text = renderer.text(LEAST, release="r1")
    assert "app.kubernetes.io/instance=r1" in text
    assert "warren login https://hub.example.org:443 --token-file admin.token" in text


# ---- run ----

PASSWORD = "a secret of the cluster"


class Kubernetes:
    """A LAN of pods: PostgreSQL on one host of it, haproxy as the service on another one."""

    def __init__(self, bench, directory):
        self.bench, self.directory = bench, directory
        self.lan = bench.keep(Lans()).lan(1)
        self.secrets = {"warren-ca-key": {"key": os.urandom(32)},
                        "warren-database": {"password": PASSWORD.encode() + b"\n"}}
        self.start_database()

    def start_database(self):
        host = self.lan.host()
        address = host.addresses["eth0"]
        server = postgres.Postgres(os.path.join(self.directory, "db"), options={
            "listen_addresses": address, "ssl": "on", "ssl_cert_file": "../server.pem",
            "ssl_key_file": "../server.key"})
        paths = [os.path.join(server.directory, "server" + end) for end in (".key", ".pem")]
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-keyout", paths[0], "-out", paths[1], "-subj", "/CN=db", "-addext", f"subjectAltName=IP:{address}"])
        run(["chown", postgres.USER, *paths])
        server.make()
        with open(os.path.join(server.data, "pg_hba.conf"), "w") as f:
            f.write("local all admin trust\nhostssl all warren 0.0.0.0/0 scram-sha-256\n")
        with inside(host.name):
            self.bench.keep(server.start())
        server.sql(f"create role warren login password '{PASSWORD}'")
        server.sql("create database warren owner warren")
        with open(paths[1], "rb") as f:
            self.secrets["db-ca"] = {"ca.crt": f.read()}
        self.url = f"postgres://warren@{address}/warren?sslmode=verify-full"

    def pod(self, deployment, image):
        path = os.path.join(self.directory, f"pod{len(os.listdir(self.directory))}")
        return self.bench.keep(Pod(path, deployment, self.lan.host(), self.secrets, image)).start()


@pytest.fixture
def kubernetes(bench, directory):
    if not network.available():
        pytest.skip("network namespaces need root")
    if not postgres.binaries() or not shutil.which("haproxy"):
        pytest.skip("no PostgreSQL or haproxy: scripts/deps test")
    return Kubernetes(bench, directory)


@pytest.fixture(params=["build", "image"])
def image(request):
    """What pods run from: the programs that were built, or the image."""
    if request.param == "build":
        yield None
    elif oci.missing():
        pytest.skip(oci.missing())
    else:
        with oci.unpacked() as root:
            yield root


def test_pods_of_the_chart_are_a_cluster_that_serves_and_is_replaced(kubernetes, renderer, bench, directory, image):
    front = kubernetes.lan.host()
    deployment = renderer.objects(merged(LEAST, {
        "publicNames": [front.addresses["eth0"]], "drainGraceSeconds": 10,
        "database": {"url": kubernetes.url, "caSecret": {"name": "db-ca"}}}))["Deployment"]
    pods = [kubernetes.pod(deployment, image) for _ in range(deployment["spec"]["replicas"])]
    for pod in pods:
        pod.wait_ready()
        assert pod.probe("livenessProbe") == pod.probe("startupProbe") == 200
    writers = [pod for pod in pods if os.path.exists(pod.token_path)]
    assert len(writers) == 1, "one administrator's token"
    with open(writers[0].token_path) as f:
        token = f.read().strip()
    admins = [pod.rest(token) for pod in pods]
    assert [len(admin.items("/api/v1/hubs")) for admin in admins] == [3, 3, 3]

    service = bench.keep(Balancer(directory, front.addresses["eth0"], front.name, pods)).start()
    lan = kubernetes.lan.host()
    agent = Agent(service, os.path.join(directory, "agent"), "a1", lan.name)
    agent.enroll(admins[0].post("/api/v1/tokens", {"network": "lan", "uses": None})["token"])
    agent.start()
    agent.process.wait_log("connected", 20)
    echo = bench.server(host=lan.addresses["eth0"], namespace=lan.name)
    admins[1].post("/api/v1/tunnels", {"name": "web", "spec": {
        "target": {"network": "lan", "address": echo.address},
        "access": {"endpoint": {"listen": "0.0.0.0:9000"}}}})
    for pod in pods: # the agent is at one of them
        wait_until(lambda p=pod: serves(f"{p.host}:9000", namespace=front.name), f"the tunnel at {pod.host}", 20)

    new = kubernetes.pod(deployment, image).wait_ready() # maxSurge: 1, then one of the old is ended
    assert pods[0].stop() == 0
    assert not os.path.exists(new.token_path), "a replaced pod makes no second token"
    wait_until(lambda: serves(f"{new.host}:9000", namespace=front.name), "the tunnel at the new pod", 20)
    for pod in (*pods[1:], new):
        assert pod.stop() == 0
