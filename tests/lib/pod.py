"""What a kubelet does with a pod, as far as the chart asks for it: environment, volumes, secrets, user and
capabilities, a root that cannot be written, probes, the end. The pod's address is that of a host of a test's network."""

import os
import shutil

from lib.process import Process, run, wait_until
from lib.warren import REPOSITORY, Rest, program

SCRIPT = """
set -e
mount -t tmpfs tmpfs {work}
mkdir {work}/upper {work}/work {work}/root
mount -t overlay overlay -o lowerdir={lower},upperdir={work}/upper,workdir={work}/work {work}/root
cd {work}/root
mkdir -p proc dev {points}
{copies}
mount --rbind /proc proc
mount --rbind /dev dev
{binds}
mount -o remount,ro,bind {work}/root
exec chroot {work}/root /usr/bin/env -i setpriv --reuid={uid} --regid={gid} --groups={groups} --no-new-privs \\
    --inh-caps=-all --ambient-caps=-all --bounding-set=-all /usr/bin/env {env} /usr/bin/entrypoint {args}
"""


def quote(text):
    return "'" + str(text).replace("'", "'\\''") + "'"


class Pod:
    """The one container of a Deployment's template. `secrets`: {name: {key: bytes}}. `image`: the folder into which an image
    was unpacked; without it this machine with the programs of the build in their places."""

    def __init__(self, directory, deployment, host, secrets, image=None):
        self.spec = deployment["spec"]["template"]["spec"]
        self.container = self.spec["containers"][0]
        self.namespace, self.host = host.name, host.addresses["eth0"]
        self.port = self.port_of("tls")
        self.directory, self.secrets = str(directory), secrets
        self.volumes = {}
        os.makedirs(os.path.join(self.directory, "work"))
        for volume in self.spec["volumes"]:
            self.volumes[volume["name"]] = self.make_volume(volume)
        script = os.path.join(self.directory, "start")
        with open(script, "w") as f:
            f.write(self.script(image))
        self.process = Process(["unshare", "--mount", "--propagation", "private", "bash", script],
                               os.path.join(self.directory, "pod.log"), namespace=self.namespace)
        self.data = self.volumes["data"]
        self.token_path, self.ca_path = (os.path.join(self.data, n) for n in ("admin.token", "ca.pem"))
        self.agents = []

    def port_of(self, name):
        return next(p["containerPort"] for p in self.container["ports"] if p["name"] == name)

    # ---- volumes ----

    def make_volume(self, volume):
        """As with an fsGroup: root's, the group's, and what is made in it is the group's too."""
        group = self.spec["securityContext"]["fsGroup"]
        path = os.path.join(self.directory, volume["name"])
        os.makedirs(path)
        if "secret" in volume:
            self.fill_secret(path, volume["secret"], group)
        os.chown(path, 0, group)
        os.chmod(path, 0o2777 if "emptyDir" in volume else 0o3777)
        return path

    def fill_secret(self, path, source, group):
        """Names are links into ..data, a link to the folder of a version."""
        os.makedirs(os.path.join(path, "..version"))
        os.symlink("..version", os.path.join(path, "..data"))
        for item in source["items"]:
            file = os.path.join(path, "..data", item["path"])
            with open(file, "wb") as f:
                f.write(self.secrets[source["secretName"]][item["key"]])
            os.chown(file, 0, group)
            os.chmod(file, source["defaultMode"])
            os.symlink(f"..data/{item['path']}", os.path.join(path, item["path"]))

    # ---- the container ----

    def environment(self):
        """$(NAME) stands for a variable before it."""
        values = {}
        for entry in self.container["env"]:
            value = entry.get("value")
            if value is None:
                assert entry["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
                value = self.host
            for name, known in values.items():
                value = value.replace(f"$({name})", known)
            assert "$(" not in value, f"{entry['name']} refers to what is not before it"
            values[entry["name"]] = value
        return values

    def script(self, image):
        security = {**self.spec["securityContext"], **self.container["securityContext"]}
        assert security["readOnlyRootFilesystem"] and security["capabilities"] == {"drop": ["ALL"]}
        assert security["runAsNonRoot"] and not security["allowPrivilegeEscalation"]
        mounts = [(self.volumes[m["name"]], m["mountPath"], m.get("readOnly"))
                  for m in self.container["volumeMounts"]]
        copies = [] if image else [(program("warren"), "warren"), (program("warren-agent"), "warren-agent"),
                                   (os.path.join(REPOSITORY, "packaging/oci/entrypoint"), "entrypoint")]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/var/lib/warren",
               "WARREN_DATA": "/var/lib/warren", **self.environment()}
        return SCRIPT.format(
            work=os.path.join(self.directory, "work"), lower=image or "/",
            points=" ".join(m[1].lstrip("/") for m in mounts),
            copies="\n".join(f"install -m 755 {quote(a)} usr/bin/{b}" for a, b in copies),
            binds="\n".join(f"mount --bind {'-o ro ' if ro else ''}{quote(a)} {b.lstrip('/')}"
                            for a, b, ro in mounts),
            uid=security["runAsUser"], gid=security["runAsGroup"], groups=security["fsGroup"],
            env=" ".join(quote(f"{k}={v}") for k, v in env.items()),
            args=" ".join(map(quote, self.container["args"])))

    def start(self):
        self.process.start()
        return self

    # ---- probes ----

    def probe(self, kind):
        """As a kubelet asks: by the pod's address, by any certificate; the HTTP status, 0 without an answer."""
        get = self.container[kind]["httpGet"]
        url = f"{get['scheme'].lower()}://{self.host}:{self.port_of(get['port'])}{get['path']}"
        done = run(["curl", "-sk", "--http2", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", url],
                   namespace=self.namespace, check=False)
        return int(done.stdout or 0)

    def wait_ready(self):
        startup = self.container["startupProbe"]
        def ready():
            assert self.process.alive(), f"the pod ended:\n{self.process.log()[-3000:]}"
            return self.probe("readinessProbe") == 200
        wait_until(ready, "the pod to be ready", startup["periodSeconds"] * startup["failureThreshold"])
        return self

    def stop(self):
        """The exit code; a pod that takes longer than it may is an error."""
        return self.process.stop(self.spec["terminationGracePeriodSeconds"])

    def rest(self, token):
        """As from inside: certificates do not bear a pod's address."""
        return Rest("127.0.0.1", self.port, self.ca_path, token, self.namespace)

    def close(self):
        for agent in self.agents:
            agent.process.stop()
        if self.process.alive():
            self.process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
