"""Where a test node keeps its datasets, looked at with the file system's own tools: btrfs in a file, or ZFS.

MAYFLY_POOL=zfs:tank/e2e chooses ZFS; each node gets a dataset of its own below it. To a test both look alike: a pool is a
directory of datasets by their names in the pool, each with what is in it.
"""
import ctypes
import functools
import json
import os
import pathlib
import re
import subprocess
import threading
import time

PARENT = os.environ.get("MAYFLY_POOL", "").removeprefix("zfs:")
NAME = "zfs" if PARENT else "btrfs"


def sh(*argv, check=True):
    return subprocess.run([str(word) for word in argv], check=check, capture_output=True, text=True)


def only(backend, why):
    """A test that speaks of one file system alone."""
    def mark(test):
        test.skipped = None if backend == NAME else f"of {backend} alone: {why}"
        return test
    return mark


def skipped(module, test):
    """Why a test is not for this file system; none where it is. A module may name its BACKENDS."""
    if NAME not in getattr(module, "BACKENDS", [NAME]):
        return f"of {' and '.join(module.BACKENDS)} alone"
    reason = getattr(test, "skipped", None)
    return reason() if callable(reason) else reason


class BtrfsLoop:
    """A sparse file with a btrfs. The daemon has it mounted; what it sees is reached through its root."""

    def __init__(self, node):
        self.node = node
        self.file = node.dir / "pool.img"
        self.device = None

    def spec(self):
        return f"loop:{self.file},size={self.node.size},sparse"

    def path(self):
        return pathlib.Path(f"/proc/{self.node.daemon.pid}/root{self.node.state}/pool")

    def release(self):
        """Nothing of the pool is mounted by the tests themselves."""

    def datasets(self):
        """{name in the pool: what names this dataset for ever}."""
        found = {}
        for line in sh("btrfs", "subvolume", "list", "-u", self.path()).stdout.splitlines():
            uuid, path = re.search(r" uuid (\S+) path (.*)$", line).groups()
            found[path] = uuid
        return found

    def marks(self):
        """{what names the dataset: its ownership mark}."""
        directory = self.path() / ".mayfly/marks"
        return {name: os.readlink(directory / name) if os.path.islink(directory / name) else "not a mark"
                for name in os.listdir(directory)}

    def names(self):
        """Names of what lies in the pool: datasets of VPSes, and graves as `trash/…`."""
        path = self.path()
        names = [name for name in os.listdir(path) if not name.startswith(".")]
        return sorted(names + [f"trash/{name}" for name in os.listdir(path / "trash")])

    def staged(self):
        return sorted(os.listdir(self.path() / ".mayfly/staging"))

    def shown(self, line):
        """The directory of the pool that a line of a mount table shows; none where it shows another file system."""
        fields = line.split(" ")
        if self.device is None or fields[2] != self.device:
            return None
        return fields[3].lstrip("/")

    def observe(self):
        """Remembers what the pool is called in mount tables: nodes on one host have VPSes of the same numbers."""
        if self.node.daemon and self.node.daemon.poll() is None:
            text = pathlib.Path(f"/proc/{self.node.daemon.pid}/mountinfo").read_text()
            at = f"{self.node.state}/pool"
            self.device = next((f[2] for f in map(str.split, text.splitlines()) if f[4] == at), self.device)

    def make(self, name):
        """A dataset that nobody has marked."""
        sh("btrfs", "subvolume", "create", self.path() / name)
        (self.path() / name / "private").mkdir(exist_ok=True)

    def write_mark(self, name, mark, text=None):
        """A mark as the driver writes it, or any text in its place."""
        uuid = self.datasets()[name]
        place = self.path() / ".mayfly/marks" / uuid
        place.unlink(missing_ok=True)
        place.symlink_to(json.dumps({"version": 1, "uuid": uuid, "mark": mark}) if text is None else text)

    def destroy(self, name):
        known = self.datasets().get(name)
        if known:
            # The program looks for the real path, so it has to be in the daemon's mount namespace.
            sh("nsenter", f"--mount=/proc/{self.node.daemon.pid}/ns/mnt", "btrfs", "subvolume", "delete",
               self.node.state / "pool" / name)
            (self.path() / ".mayfly/marks" / known).unlink(missing_ok=True)

    def look_offline(self, command):
        """What a shell command prints in the pool's directory while no daemon and no VPS runs."""
        at = self.node.dir / "offline"
        at.mkdir(exist_ok=True)
        return sh("unshare", "-m", "sh", "-c", f'mount -o loop "$0" "$1" && cd "$1" && {command}', self.file, at).stdout

    def remove(self):
        end = time.monotonic() + 20
        while str(self.file) in sh("losetup", "-a").stdout:
            assert time.monotonic() < end, "the loop device is not let go"
            time.sleep(0.05)

    def leftovers(self):
        return ["a loop device"] if str(self.node.dir) in sh("losetup", "-a").stdout else []


class Zfs:
    """A dataset below the one that MAYFLY_POOL names. ZFS mounts none of it, and neither does the daemon; so the tests,
    in a mount namespace of their own, show the `private` of each dataset below a directory in memory. It is taken away
    before anything is asked of the node: what is mounted cannot be destroyed."""

    def __init__(self, node):
        self.node = node
        self.pool = f"{PARENT}/{node.dir.name}"
        self.at = pathlib.Path(f"{node.dir}.shown")
        self.is_shown = False
        # Tests ask the node from several threads at once.
        self.lock = threading.Lock()

    def spec(self):
        return f"zfs:{self.pool}"

    def path(self):
        self.release()
        self.at.mkdir(exist_ok=True)
        mount("tmpfs", self.at, "tmpfs")
        self.is_shown = True
        for name in self.datasets(hidden=True):
            if name in ("", "trash", "templates", ".mayfly/staging"):
                (self.at / name).mkdir(exist_ok=True, parents=True)
                continue
            if name == ".mayfly":
                # Its directories, one by one: the staging area beside them is datasets again.
                self._show(name, ("intents", "build"))
            else:
                self._show(name, ("private",))
        return self.at

    def _show(self, name, directories):
        top = self.at / ".top"
        top.mkdir()
        try:
            mount(f"{self.pool}/{name}", top, "zfs")
        except FileNotFoundError:
            top.rmdir()
            # Destroyed, or moved to the graveyard, since it was listed.
            if name in self.datasets(hidden=True):
                raise
            return
        (self.at / name).mkdir(exist_ok=True, parents=True)
        for directory in directories:
            if (top / directory).is_dir():
                (self.at / name / directory).mkdir(exist_ok=True)
                mount(top / directory, self.at / name / directory, None, MS_BIND)
        umount(top)
        top.rmdir()

    def release(self):
        with self.lock:
            self._release()

    def _release(self):
        if self.is_shown:
            # All at once, whatever is mounted below.
            for line in reversed(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()):
                point = line.split(" ")[4].replace("\\040", " ")
                if point == str(self.at) or point.startswith(f"{self.at}/"):
                    umount(point)
            self.at.rmdir()
            self.is_shown = False

    def datasets(self, hidden=False):
        listed = sh("zfs", "list", "-H", "-r", "-o", "name,guid", "-t", "filesystem", self.pool).stdout
        found = {}
        for line in listed.splitlines():
            name, guid = line.split("\t")
            name = name.removeprefix(self.pool).lstrip("/")
            if hidden or name not in ("", "trash", "templates", ".mayfly", ".mayfly/staging"):
                found[name] = guid
        return found

    def marks(self):
        listed = sh("zfs", "get", "-H", "-r", "-s", "local", "-o", "name,value", "mayfly:mark", self.pool).stdout
        known = self.datasets(hidden=True)
        pairs = (line.split("\t", 1) for line in listed.splitlines())
        return {known[name.removeprefix(self.pool).lstrip("/")]: value for name, value in pairs}

    def names(self):
        known = [name for name in self.datasets(hidden=True) if name and not name.startswith(".mayfly")]
        return sorted(name for name in known if "/" not in name or re.fullmatch("trash/[^/]+", name))

    def staged(self):
        return sorted(n.removeprefix(".mayfly/staging/") for n in self.datasets() if n.startswith(".mayfly/staging/"))

    def shown(self, line):
        left, _, right = line.partition(" - ")
        kind, source = right.split(" ")[:2]
        if kind != "zfs" or not f"{source}/".startswith(f"{self.pool}/"):
            return None
        return f"{source.removeprefix(self.pool)}{left.split(' ')[3].rstrip('/')}".lstrip("/")

    def observe(self):
        """It has the same name in every mount table."""

    def make(self, name):
        sh("zfs", "create", "-u", "-o", "mountpoint=legacy", f"{self.pool}/{name}")
        top = pathlib.Path(f"{self.at}.new")
        top.mkdir()
        mount(f"{self.pool}/{name}", top, "zfs")
        (top / "private").mkdir()
        umount(top)
        top.rmdir()

    def write_mark(self, name, mark, text=None):
        mark = {key: value for key, value in mark.items() if key != "condemned_by"}
        record = json.dumps({"version": 1, "mark": {**mark, "condemned_by": None}}) if text is None else text
        sh("zfs", "set", f"mayfly:mark={record}", f"{self.pool}/{name}")

    def destroy(self, name):
        self.release()
        sh("zfs", "destroy", f"{self.pool}/{name}", check=False)

    def look_offline(self, command):
        try:
            return subprocess.run(["sh", "-c", command], cwd=self.path(), check=True, capture_output=True, text=True).stdout
        finally:
            self.release()

    def remove(self):
        self.release()
        end = time.monotonic() + 30
        while (done := sh("zfs", "destroy", "-r", self.pool, check=False)).returncode != 0:
            if "does not exist" in done.stderr:
                return
            assert time.monotonic() < end, f"{self.pool} cannot be destroyed: {done.stderr}"
            time.sleep(0.2)

    def leftovers(self):
        there = sh("zfs", "list", "-H", "-o", "name", self.pool, check=False)
        return [f"the dataset {self.pool}"] if there.returncode == 0 else []


Backend = Zfs if PARENT else BtrfsLoop

MS_BIND, MNT_DETACH = 4096, 2
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source, target, kind, flags=0):
    """Straight, because a test mounts a hundred times what the program takes a tenth of a second for."""
    words = [None if w is None else os.fsencode(w) for w in (source, target, kind)]
    if LIBC.mount(*words, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), f"mounting {source} at {target}: {os.strerror(ctypes.get_errno())}")


def umount(target):
    if LIBC.umount2(os.fsencode(target), 0) != 0 and LIBC.umount2(os.fsencode(target), MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), f"unmounting {target}: {os.strerror(ctypes.get_errno())}")


@functools.cache
def enter_own_mount_namespace():
    """What the tests mount is seen by nobody else. Called before anything is started."""
    if NAME == "zfs":
        os.unshare(os.CLONE_NEWNS)
        if LIBC.mount(b"none", b"/", None, ctypes.c_ulong((1 << 18) | (1 << 14)), None) != 0:
            raise OSError(ctypes.get_errno(), "the mount namespace cannot be made private")

