"""The image that `make image` built, in podman: WARREN_IMAGE names the folder. Without cgroups, so that it runs in any sandbox
that lets root make namespaces."""

import contextlib
import os
import resource
import shutil

from lib import network
from lib.process import run

STORE = os.environ.get("WARREN_IMAGE", "")
NAME = "localhost/warren"
FLAGS = ("--cgroups=disabled", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all",
         "--security-opt=no-new-privileges", "--pull=never", "--no-hosts", "--log-driver=k8s-file",
         # podman asks for more than some machines allow
         f"--ulimit=nofile={min(resource.getrlimit(resource.RLIMIT_NOFILE))}", "--ulimit=nproc=4096")

# crun refuses where both kinds of cgroups are mounted, although it is to make none.
ONE_KIND = ["unshare", "--mount", "--propagation", "slave", "sh", "-c",
            'umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"', "sh"]


def missing():
    """Why the image cannot be run here; None: it can."""
    if not STORE or not os.path.isdir(os.path.join(STORE, "storage")):
        return "no image: make image, then make image-test"
    if not shutil.which("podman") or not shutil.which("crun"):
        return "no podman or crun: scripts/deps image"
    return None if network.available() else "network namespaces need root"


def podman(*words, check=True, input=None, seconds=60):
    driver = "vfs" if os.path.isdir(os.path.join(STORE, "storage/vfs")) else "overlay"
    has_both = os.path.isdir("/sys/fs/cgroup/unified") and words[0] != "image"
    return run([*(ONE_KIND if has_both else []), "podman", "--root", f"{STORE}/storage", "--runroot", f"{STORE}/run",
                "--storage-driver", driver, "--cgroup-manager", "cgroupfs", "--runtime", "crun", "--events-backend",
                "none", *words], check=check, input=input, seconds=seconds)


@contextlib.contextmanager
def unpacked():
    """The image's root folder."""
    path = podman("image", "mount", NAME).stdout.strip()
    try:
        yield path
    finally:
        podman("image", "unmount", NAME)


class Container:
    def __init__(self, name, host):
        self.name, self.host = name, host
        self.address = host.addresses["eth0"]

    def shown(self, what):
        return podman("inspect", "--format", "{{." + what + "}}", self.name).stdout.strip()

    def log(self):
        done = podman("logs", self.name, check=False)
        return done.stdout + done.stderr

    def run(self, *words, check=True):
        return podman("exec", self.name, *words, check=check)

    def stop(self):
        """SIGTERM; the exit code."""
        podman("stop", "--time", "30", self.name)
        return int(self.shown("State.ExitCode"))


class Containers:
    """Unprivileged and on a root that cannot be written. They end with the test, their volumes too."""

    def __init__(self):
        self.names, self.volumes = [], []

    def volume(self, name):
        self.volumes.append(f"{name}-{os.getpid()}")
        return self.volumes[-1]

    def once(self, *words, volume=None, host=None, input=None, flags=()):
        """Runs to its end: a CompletedProcess, whatever the exit code."""
        where = f"--network=ns:/run/netns/{host.name}" if host else "--network=none"
        mount = ("-v", f"{volume}:/var/lib/warren") if volume else ()
        return podman("run", "--rm", "-i", *FLAGS, *flags, where, *mount, NAME, *words, check=False, input=input)

    def start(self, name, *words, volume, host):
        self.names.append(f"{name}{len(self.names)}-{os.getpid()}")
        podman("run", "--detach", "--name", self.names[-1], *FLAGS, f"--network=ns:/run/netns/{host.name}",
               "-v", f"{volume}:/var/lib/warren", NAME, *words)
        return Container(self.names[-1], host)

    def close(self):
        for name in reversed(self.names):
            podman("rm", "--force", "--time", "0", name, check=False)
        for name in self.volumes:
            podman("volume", "rm", "--force", name, check=False)
