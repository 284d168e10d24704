"""The Helm chart, rendered, and what Kubernetes' API knows of the objects that come out."""

import os
import re
import shutil

import yaml

from lib.process import run
from lib.warren import REPOSITORY

CHART = os.path.join(REPOSITORY, "packaging/helm/warren")
RENDER = os.path.join(REPOSITORY, "tests/packages/render/main.go")
GOPATH = "/usr/share/gocode"


class Refused(Exception):
    """The chart does not render with such values."""


def missing():
    """Why the chart cannot be rendered here; None: it can."""
    if not shutil.which("go"):
        return "no go: scripts/deps chart"
    for package in ("github.com/Masterminds/sprig", "gopkg.in/yaml.v3"):
        if not os.path.isdir(os.path.join(GOPATH, "src", package)):
            return f"no Go package {package}: scripts/deps chart"
    return None


class Renderer:
    """`helm template` without Helm: tests/packages/render. Built in `directory`."""

    def __init__(self, directory):
        self.directory = directory
        self.program = os.path.join(directory, "render")
        env = {"GO111MODULE": "off", "GOPATH": GOPATH, "GOFLAGS": "", "CGO_ENABLED": "0",
               "GOCACHE": os.path.join(directory, "cache")}
        run(["go", "build", "-o", self.program, RENDER], env=env, seconds=300)

    def text(self, values, release="warren"):
        path = os.path.join(self.directory, "values.yaml")
        with open(path, "w") as f:
            yaml.safe_dump(values, f)
        done = run([self.program, CHART, release, path], check=False)
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    def objects(self, values, release="warren"):
        """{kind: object}"""
        templates = re.split(r"^---\n# Source: (.*)\n", self.text(values, release), flags=re.M)
        manifests = "\n---\n".join(body for name, body in zip(templates[1::2], templates[2::2])
                                   if name.endswith(".yaml"))
        return by_kind(manifests)


def helm():
    """The real one, where there is one: WARREN_HELM names it, else PATH."""
    return os.environ.get("WARREN_HELM") or shutil.which("helm")


class Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a map, as the API server would."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"twice: {keys} at {node.start_mark}"
        return super().construct_mapping(node, deep)


def by_kind(text):
    parts = [part for part in yaml.load_all(text, Loader) if part]
    kinds = {part["kind"]: part for part in parts}
    assert len(kinds) == len(parts)
    return kinds


# ---- what the API knows: the models of Debian's python3-kubernetes ----

MODELS = {("apps/v1", "Deployment"): "V1Deployment", ("v1", "Service"): "V1Service",
          ("policy/v1", "PodDisruptionBudget"): "V1PodDisruptionBudget"}
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}
QUANTITIES = ("limits", "requests") # texts to the models; the API takes numbers too


def check_object(obj):
    """Every field exists, has its type, and none that must be there is missing."""
    _check(obj, MODELS[obj["apiVersion"], obj["kind"]], obj["kind"])


def _check(value, kind, path):
    if kind in PLAIN:
        is_bool_as_int = isinstance(value, bool) and kind != "bool"
        assert isinstance(value, PLAIN[kind]) and not is_bool_as_int, f"{path}: {value!r} is no {kind}"
    elif kind.startswith("list["):
        assert isinstance(value, list), f"{path}: {value!r} is no list"
        for i, item in enumerate(value):
            _check(item, kind[5:-1], f"{path}[{i}]")
    elif kind.startswith("dict("):
        assert isinstance(value, dict), f"{path}: {value!r} is no map"
        for key, item in value.items():
            _check(key, "str", path)
            is_number = isinstance(item, (int, float)) and path.endswith(QUANTITIES)
            _check(str(item) if is_number else item, kind[5:-1].split(", ", 1)[1], f"{path}.{key}")
    elif kind != "object":
        _check_model(value, kind, path)


def _check_model(value, kind, path):
    from kubernetes import client
    model = getattr(client, kind)
    attributes = {name: attribute for attribute, name in model.attribute_map.items()}
    assert isinstance(value, dict), f"{path}: {value!r} is no {kind}"
    for name, item in value.items():
        assert name in attributes, f"{path}.{name}: {kind} has no such field"
        _check(item, model.openapi_types[attributes[name]], f"{path}.{name}")
    model(**{attributes[name]: item for name, item in value.items()}) # ValueError: what is missing
