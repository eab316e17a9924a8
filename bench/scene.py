"""What all sides of the bench share: one btrfs in a file, one tree, and how it is seen that a guest lives.

A guest's first instruction is noted by the guest: `first.c` is its init, reads the clock and writes it into the guest's own
root, where the host reads it afterwards. So it is seen in the same way for every side, and nobody polls meanwhile.
"""
import contextlib
import ctypes
import http.client
import json
import os
import pathlib
import platform
import shutil
import socket
import subprocess
import time
import tomllib

TOP = pathlib.Path(__file__).resolve().parent.parent
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_REC, MS_PRIVATE, MS_BIND = 0x20000, 0x4000, 1 << 18, 0x1000
# What a guest of systemd takes, with room to spare; the default is less than what twenty of them need.
INOTIFY = pathlib.Path("/proc/sys/fs/inotify/max_user_instances")
CUSTOMIZE = """set -eu
mkdir -p "$1/persistent"
cp "{first}" "$1/usr/sbin/first"
cat > "$1/etc/systemd/system/booted.service" <<END
[Service]
ExecStart=/bin/sh -c 'systemctl is-system-running --wait > /booted.state; exec /usr/sbin/first --mark /booted'
END
ln -s ../booted.service "$1/etc/systemd/system/multi-user.target.wants/booted.service"
"""


def sh(*argv, check=True, **more):
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL, **more)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, argv))}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def mount(source, target, kind, flags):
    if LIBC.mount(os.fsencode(source), os.fsencode(target), kind, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {source} at {target}")


def enter_own_mount_namespace():
    """What the bench mounts is seen by nobody else, and goes with it."""
    if LIBC.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "no mount namespace")
    mount("none", "/", None, MS_REC | MS_PRIVATE)


def until(what, look, seconds=60, every=0.001):
    end = time.monotonic() + seconds
    while not (got := look()):
        if time.monotonic() > end:
            raise RuntimeError(f"not within {seconds} s: {what}")
        time.sleep(every)
    return got


class Api(http.client.HTTPConnection):
    """JSON over a unix socket, one connection."""

    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None):
        for attempt in (1, 2):
            try:
                headers = {"Content-Type": "application/json"} if body is not None else {}
                self.request(method, path, json.dumps(body) if body is not None else None, headers)
                answer = self.getresponse()
                text = answer.read()
                break
            except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
                # An idle connection that the server has closed.
                self.close()
                if attempt == 2:
                    raise
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text) if text else None


class Scene:
    """The file system and the recipe, in a directory that goes at the end."""

    def __init__(self):
        base = pathlib.Path(os.environ.get("MAYFLY_SCRATCH", "/var/tmp"))
        self.dir = base / f"mayfly-bench-{os.getpid()}"
        self.fs = self.dir / "fs"
        self.recipe = self.dir / "recipe/bench.toml"
        self.instances = INOTIFY.read_text()
        # Daemons of the sides; those that are still there at the end are ended.
        self.daemons = []

    def make(self):
        self.fs.mkdir(parents=True)
        for path in (self.dir, self.fs):
            path.chmod(0o711)
        image = self.dir / "fs.img"
        sh("truncate", "-s", "24G", image)
        sh("mkfs.btrfs", "-q", image)
        sh("mount", "-o", "loop", image, self.fs)
        self.fs.chmod(0o711)
        INOTIFY.write_text(str(max(int(self.instances), 2048)))
        self.make_recipe()

    def make_recipe(self):
        self.recipe.parent.mkdir()
        built = os.environ.get("MAYFLY_TEMPLATE_DIR") or sh(TOP / "tests/templates", stderr=None).strip()
        source = pathlib.Path(built, "debian-12-impermanence.toml")
        archive = tomllib.loads(source.read_text())["build"]["archive"]
        os.symlink(source.parent / archive, self.recipe.parent / archive)
        sh("cc", "-static", "-O2", "-o", self.recipe.parent / "first", TOP / "bench/first.c")
        (self.recipe.parent / "bench.sh").write_text(CUSTOMIZE.replace("{first}", str(self.recipe.parent / "first")))
        text = source.read_text().replace('init = "/sbin/init"', 'init = "/usr/sbin/first"')
        self.recipe.write_text(text + 'customize = ["bench.sh"]\n')

    def remove(self):
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()
        with contextlib.suppress(OSError):
            INOTIFY.write_text(self.instances)
        sh("umount", self.fs, check=False)
        loops = lambda: str(self.dir) not in sh("losetup", "-a")
        with contextlib.suppress(RuntimeError):
            until("the loop device is let go", loops, 20, 0.1)
        shutil.rmtree(self.dir, ignore_errors=True)

    def settle(self):
        """So that what one side left behind is not paid by the next."""
        sh("btrfs", "filesystem", "sync", self.fs)
        time.sleep(0.15)
        os.sync()


def noted(root, name="first"):
    """When the guest on this root noted `name`, by the clock of `time.monotonic_ns`; waits for it."""
    file = pathlib.Path(root, name)
    return int(until(f"{file} is there", lambda: file.exists() and file.read_text(), 60))


def milliseconds(begin, end):
    return (end - begin) / 1e6


def machine():
    """Where the figures come from."""
    cpu = next((line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    memory = next(int(line.split()[1]) for line in pathlib.Path("/proc/meminfo").read_text().splitlines()
                  if line.startswith("MemTotal"))
    version = lambda *argv: (sh(*argv, check=False).strip().splitlines() or ["absent"])[0]
    return {
        "cpu": f"{os.cpu_count()} x {cpu}",
        "memory_bytes": memory * 1024,
        "kernel": platform.release(),
        "cgroups": "v2" if pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1 or hybrid",
        "lxc": version("lxc-start", "--version"),
        "mayfly": version(TOP / "target/release/mayfly", "--version"),
        "commit": version("git", "-C", TOP, "describe", "--always", "--dirty"),
    }


def pss(pid):
    """The proportional set of a process, in kibibytes."""
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has no Pss")
