"""Incus as a peer: its own directory, pool and image, asked over its API. Absent where the host has none and the archive
gives none: `absent()` says why, and the lines of the table repeat it.

Two things are taken out so that only the work is compared: the hook of Debian's lxcfs package that sleeps half a second
after every stop (Mayfly and bare LXC include nothing of it), and the network.
"""
import contextlib
import os
import pathlib
import shutil
import subprocess
import time

from scene import MS_BIND, TOP, Api, mount, sh, until

DAEMONS = ("/usr/libexec/incus/incusd", "/usr/bin/incusd", "/usr/sbin/incusd")
SLEEPER = pathlib.Path("/usr/share/lxc/config/common.conf.d/00-lxcfs.conf")
METADATA = """architecture: x86_64
creation_date: 1
properties:
  description: the tree of the bench
"""


def daemon():
    return next((path for path in DAEMONS if os.access(path, os.X_OK)), None) or shutil.which("incusd")


def absent(install):
    """Why there is none; none where there is one."""
    if daemon() is None and install:
        packages = ["incus-base", "incus-client"]
        done = subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "--no-remove", *packages],
                              env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, text=True)
        if done.returncode != 0:
            done = subprocess.run([TOP / "tests/vm/install-from-backports", *packages], capture_output=True, text=True)
        if daemon() is None:
            why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            return f"Incus cannot be installed here: {why}"
    return None if daemon() else "Incus is not installed; --install-incus tries to"


class Incus:
    name, label = "incus", "Incus"

    def __init__(self, scene, tree):
        self.scene, self.dir, self.pool = scene, scene.dir / "incus", scene.fs / "incus"
        self.dir.mkdir()
        self.dir.chmod(0o711)
        if SLEEPER.exists():
            mount("/dev/null", SLEEPER, None, MS_BIND)
        self.log = open(scene.dir / "incus.log", "ab")
        self.daemon = subprocess.Popen([daemon(), "--group", "root"], env={**os.environ, "INCUS_DIR": str(self.dir)},
                                       stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        scene.daemons.append(self.daemon)
        socket = self.dir / "unix.socket"
        until("incusd answers", lambda: socket.exists() or self.daemon.poll() is not None, 60, 0.05)
        if self.daemon.poll() is not None:
            raise RuntimeError(f"incusd ended: {(scene.dir / 'incus.log').read_text()[-2000:]}")
        self.api = Api(socket)
        until("incusd is ready", self.answers, 60, 0.1)
        self.version = self.api.ask("GET", "/1.0")["metadata"]["environment"]["server_version"]
        pool = {"name": "bench", "driver": "btrfs", "config": {"source": str(self.pool)}}
        self.api.ask("POST", "/1.0/storage-pools", pool)
        self.pool.chmod(0o711)
        self.make_image(tree)
        self.made = []

    def answers(self):
        with contextlib.suppress(OSError, RuntimeError):
            return self.api.ask("GET", "/1.0")

    def make_image(self, tree):
        (self.scene.dir / "metadata.yaml").write_text(METADATA)
        image = self.scene.dir / "image.tar"
        sh("tar", "--numeric-owner", "--xattrs", "-cf", image, "-C", self.scene.dir, "metadata.yaml",
           "--transform", "s,^\\.,rootfs,S", "-C", tree, ".")
        sh("incus", "image", "import", image, "--alias", "bench", env={**os.environ, "INCUS_DIR": str(self.dir)})
        image.unlink()

    def change(self, method, path, body):
        """Until the operation is over."""
        op = self.api.ask(method, path, body)["metadata"]
        answer = self.api.ask("GET", f"/1.0/operations/{op['id']}/wait?timeout=120")
        done = answer["metadata"]
        if done is None or done["status_code"] != 200:
            raise RuntimeError(f"{method} {path}: {answer}")

    def guest(self, number):
        name = f"bench-{number}"
        self.change("POST", "/1.0/instances", {
            "name": name, "source": {"type": "image", "alias": "bench"},
            "config": {"limits.memory": "1GiB", "limits.processes": "4096", "security.idmap.isolated": "false",
                       "raw.lxc": "lxc.init.cmd = /usr/sbin/first"},
            "devices": {"root": {"type": "disk", "path": "/", "pool": "bench"}},
        })
        self.change("POST", f"/1.0/instances/{name}/snapshots", {"name": "clean", "stateful": False})
        self.made.append(name)
        return Guest(self, name)

    def idle(self):
        """A restore deletes in the foreground."""

    def list_with_state(self):
        return self.api.ask("GET", "/1.0/instances?recursion=2")

    def remove(self):
        for name in self.made:
            with contextlib.suppress(Exception):
                self.change("PUT", f"/1.0/instances/{name}/state", {"action": "stop", "force": True, "timeout": 30})
            with contextlib.suppress(Exception):
                self.change("DELETE", f"/1.0/instances/{name}", None)
        with contextlib.suppress(Exception):
            for image in self.api.ask("GET", "/1.0/images")["metadata"]:
                self.change("DELETE", f"/1.0/images/{image.rsplit('/', 1)[1]}", None)
            self.api.ask("DELETE", "/1.0/storage-pools/bench")
        self.daemon.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.daemon.wait(30)
        if self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        self.log.close()
        # It makes mounts below its directory, in the bench's own namespace.
        for at in ("shmounts", "guestapi", "devincus", ""):
            sh("umount", "-R", self.dir / at, check=False)


class Guest:
    def __init__(self, side, name):
        self.side, self.path = side, f"/1.0/instances/{name}"
        self.name = name

    def state(self, action):
        self.side.change("PUT", f"{self.path}/state", {"action": action, "force": True, "timeout": 60})

    def start(self):
        """On a fresh snapshot: the restore is what gives the guest a clean root."""
        began = time.monotonic_ns()
        self.side.change("PUT", self.path, {"restore": "clean"})
        self.state("start")
        return began, time.monotonic_ns()

    def prepare(self):
        """Not measured where many start at once: the restores would go one after the other."""
        self.side.change("PUT", self.path, {"restore": "clean"})

    def ask_start(self):
        self.side.api.ask("PUT", f"{self.path}/state", {"action": "start", "timeout": 60})

    def stop(self):
        began = time.monotonic_ns()
        self.state("stop")
        return began, time.monotonic_ns()

    def restart(self):
        began = time.monotonic_ns()
        self.state("stop")
        self.side.change("PUT", self.path, {"restore": "clean"})
        self.state("start")
        return began, time.monotonic_ns()

    def root(self):
        return self.side.pool / "containers" / self.name / "rootfs"

    def run(self, *command):
        sh("incus", "exec", self.name, "-T", "--", *command, env={**os.environ, "INCUS_DIR": str(self.side.dir)})

    def tidy(self):
        """The next restore does that."""

    def processes(self):
        return [self.side.api.ask("GET", f"{self.path}/state")["metadata"]["pid"]]
