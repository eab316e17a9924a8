"""Bare LXC: a snapshot of the template's tree, lxc-start in the foreground, a kill, a deletion. As tight as it can be
written: the file system's own calls, one process spawned. It proves nothing, journals nothing and survives nothing."""
import contextlib
import fcntl
import os
import pathlib
import pty
import signal
import struct
import subprocess
import threading
import time
import tty

from scene import noted, sh

SNAP_CREATE_V2, SNAP_DESTROY = 0x50009417, 0x5000940F
IDS = 262144
# What Mayfly renders for a VPS, less what serves only its own ends (its helper, the records of the run).
CONFIG = """lxc.uts.name = {name}
lxc.init.cmd = {init}
lxc.idmap = u 0 {first} 262144
lxc.idmap = g 0 {first} 262144
lxc.net.0.type = empty
lxc.seccomp.profile = {seccomp}
lxc.apparmor.profile = unconfined
lxc.cap.drop =
lxc.rootfs.path = dir:{root}/private
lxc.rootfs.options = idmap=container,noatime
lxc.autodev = 1
lxc.tty.max = 0
lxc.tty.dir =
lxc.pty.max = 1024
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.mount.entry = tmpfs run tmpfs rw,nosuid,nodev,mode=0755 0 0
lxc.mount.entry = {data}/private persistent none bind,idmap=container 0 0
lxc.cgroup.pids.max = 4096
lxc.cgroup2.pids.max = 4096
lxc.cgroup.memory.limit_in_bytes = 1073741824
lxc.cgroup2.memory.max = 1073741824
"""


def subvolume_call(directory, number, name, source=-1):
    if number == SNAP_DESTROY:
        argument = struct.pack("q4088s", 0, name.encode())
    else:
        argument = struct.pack("qQQ32s4040s", source, 0, 0, b"", name.encode())
    fcntl.ioctl(directory, number, bytearray(argument))


class Container:
    """One container; every start has a fresh root."""

    def __init__(self, side, number):
        self.side, self.name, self.count = side, f"bench-{os.getpid()}-{number}", 0
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.console = os.ttyname(slave)
        self.slave = slave
        self.first = 0x7000_0000 + number * IDS
        self.data = side.dir / f"{self.name}.data"
        sh("btrfs", "subvolume", "create", self.data)
        (self.data / "private").mkdir()
        self.config = side.dir / f"{self.name}.conf"
        self.init_command = "/usr/sbin/first"
        self.lxc = self.root = self.old = None
        threading.Thread(target=self.drain, daemon=True).start()

    def drain(self):
        with contextlib.suppress(OSError):
            while os.read(self.master, 65536):
                pass

    def start(self):
        """Returns when lxc-start was spawned."""
        self.count += 1
        name = f"{self.name}.{self.count}"
        self.root = self.side.dir / name
        subvolume_call(self.side.directory, SNAP_CREATE_V2, name, self.side.template)
        self.config.write_text(CONFIG.format(name=self.name, first=self.first, root=self.root, data=self.data,
                                             init=self.init_command, seccomp=self.side.seccomp))
        # Where it finds newuidmap it uses that, and then wants these ids in /etc/subuid.
        argv = ["/usr/bin/lxc-start", "-F", "-C", "-P", str(self.side.dir), "-n", self.name, "-f", str(self.config),
                "-s", f"lxc.console.path={self.console}"]
        self.lxc = subprocess.Popen(argv, env={"PATH": "/"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL, start_new_session=True)

    def init(self):
        children = pathlib.Path(f"/proc/{self.lxc.pid}/task/{self.lxc.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def kill(self):
        """Until lxc-start has ended; the root stays."""
        pid = self.init()
        os.kill(pid or self.lxc.pid, signal.SIGKILL)
        self.lxc.wait()
        self.lxc, self.old, self.root = None, self.root, None

    def delete(self):
        if self.old:
            subvolume_call(self.side.directory, SNAP_DESTROY, self.old.name)
            self.old = None

    def run(self, *command):
        sh("lxc-attach", "-P", self.side.dir, "-n", self.name, "--clear-env", "--", *command)

    def remove(self):
        if self.lxc:
            self.kill()
        self.delete()
        os.close(self.master)
        os.close(self.slave)


class Plain:
    name, label = "plain", "bare LXC"

    def __init__(self, scene, template, seccomp):
        self.scene, self.dir = scene, scene.fs / "plain"
        self.dir.mkdir()
        self.dir.chmod(0o711)
        self.directory = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
        self.template = os.open(template, os.O_RDONLY | os.O_DIRECTORY)
        self.seccomp = scene.dir / "seccomp"
        self.seccomp.write_text(seccomp)
        self.made = []

    def guest(self, number):
        container = Container(self, number)
        self.made.append(container)
        return Guest(container)

    def idle(self):
        """Nothing is done behind anybody's back."""

    def remove(self):
        for container in self.made:
            with contextlib.suppress(Exception):
                container.remove()
        os.close(self.template)
        os.close(self.directory)


class Guest:
    """What the measures ask of every side."""

    def __init__(self, container):
        self.it = container

    def start(self):
        """(began, returned) in nanoseconds; the guest notes its first instruction itself."""
        began = time.monotonic_ns()
        self.it.start()
        return began, time.monotonic_ns()

    def prepare(self):
        """A start makes its own root."""

    def stop(self):
        began = time.monotonic_ns()
        self.it.kill()
        return began, time.monotonic_ns()

    def restart(self):
        """A kill, a new root, a start; the old root goes afterwards."""
        began = time.monotonic_ns()
        self.it.kill()
        self.it.start()
        return began, time.monotonic_ns()

    def root(self):
        return self.it.root / "private"

    def run(self, *command):
        self.it.run(*command)

    def tidy(self):
        self.it.delete()

    def declare(self, paths):
        """The same as plain mounts, made by the guest's first process."""
        for path in paths:
            (self.it.data / "private" / path.lstrip("/")).mkdir(parents=True)
        (self.it.data / "private/list").write_text("".join(f"{path}\n" for path in paths))
        self.it.init_command = "/usr/sbin/first --binds /persistent/list"

    def processes(self):
        return [self.it.lxc.pid]
