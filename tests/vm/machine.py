"""One virtual machine with systemd, AppArmor, cgroup v2 and ZFS, driven from outside.

It has no network. Commands go over a virtio port to guest/agent.py; what the tests need comes on a read-only disk. Its
disks are overlays in a scratch directory, so a machine can lose its power and boot again; `Machine.remove` ends the
process and removes the directory.
"""
import base64
import contextlib
import json
import os
import pathlib
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
KERNEL_LINE = ("root=/dev/vda rw quiet loglevel=3 apparmor=1 security=apparmor console=ttyS0 panic=-1 mitigations=off "
               "nokaslr net.ifnames=0 systemd.show_status=0 audit=0")
SCRATCH = os.environ.get("MAYFLY_SCRATCH", "/var/tmp")
POOL_DISK = "/dev/vdb"
PAYLOAD_DISK = "/dev/vdc"
BOOTS = 3


class Died(AssertionError):
    """The machine ended although nobody asked for it, or does not answer."""


class Done:
    """What a command printed, and its status."""

    def __init__(self, status, output):
        self.status = status
        self.output = output


class Machine:
    """A machine that is off; `boot` turns it on. Given a directory that is there already, the one whose disks it has."""

    def __init__(self, payload=None, memory=4096, directory=None):
        self.dir = pathlib.Path(directory or tempfile.mkdtemp(prefix="mayfly-vm-", dir=SCRATCH))
        self.memory = memory
        self.payload = payload
        self.process = None
        self.link = None
        self.boots = 0
        image = self.dir / "image"
        if image.is_symlink():
            self.image = image.readlink()
            return
        self.dir.mkdir(exist_ok=True)
        try:
            self.make_disks(image)
        except BaseException:
            # Nobody has a machine that could be removed.
            shutil.rmtree(self.dir)
            raise

    def make_disks(self, image):
        built = subprocess.run([HERE / "image"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        self.image = pathlib.Path(built)
        image.symlink_to(built)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.image / "root.img",
                        self.dir / "root.qcow2"], check=True)
        with open(self.dir / "pool.img", "wb") as pool:
            pool.truncate(24 << 30)

    def __enter__(self):
        # Being asked to end is a reason to tidy up, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        return self

    def __exit__(self, *_):
        # Asked once more, it tidies up all the same.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.remove()

    # -- power

    def command(self, shell=False):
        """The command line of qemu."""
        # No flush to the real disk: what is lost is what the machine had not written, for it is the process that dies.
        drive = "if=virtio,cache=unsafe,discard=unmap,aio=threads"
        argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "Nehalem", "-smp", "2",
                "-m", str(self.memory), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
                "-kernel", self.image / "kernel", "-initrd", self.image / "initrd",
                "-append", KERNEL_LINE + (" vm.shell" if shell else ""),
                "-drive", f"file={self.dir}/root.qcow2,format=qcow2,{drive}",
                "-drive", f"file={self.dir}/pool.img,format=raw,{drive}",
                "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
                "-chardev", f"socket,id=agent,path={self.dir}/agent.sock,server=on,wait=off",
                "-device", "virtserialport,chardev=agent,name=agent",
                "-serial", "mon:stdio" if shell else f"file:{self.dir}/console.{self.boots}.log"]
        if self.payload:
            argv += ["-drive", f"file={self.payload},format=raw,if=virtio,readonly=on"]
        return [str(word) for word in argv]

    def boot(self, timeout=180, tied=True):
        """Turns the machine on, and waits until all its services are up. Answers with the seconds that it took."""
        for attempt in range(1, BOOTS + 1):
            try:
                return self._boot(timeout, tied)
            except Died as died:
                if attempt == BOOTS or not self._hit_stale_breakpoint():
                    raise
                print(f"boot {self.boots} died of the emulator's stale breakpoint (int3), and is tried again:\n{died}", flush=True)
                self.reset()

    def _boot(self, timeout, tied):
        assert self.process is None, "the machine is on"
        began = time.monotonic()
        self.boots += 1
        with contextlib.suppress(FileNotFoundError):
            (self.dir / "agent.sock").unlink()
        # Tied to this process: also a test run that is killed leaves no machine.
        tie = ["setpriv", "--pdeathsig", "KILL", "--"] if tied else []
        with open(self.dir / "qemu.log", "ab") as log:
            self.process = subprocess.Popen([*tie, *self.command()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        self.link = Link(self, began + timeout)
        state = self.run("systemctl", "is-system-running", "--wait", check=False, timeout=timeout).output.strip()
        if state != "running":
            failed = self.run("systemctl", "--failed", "--no-legend", check=False).output
            raise Died(f"it is {state} after its boot: {failed}\n{self.obituary()}")
        return time.monotonic() - began

    def _hit_stale_breakpoint(self):
        """Whether the kernel died of an int3 that it had taken out again.

        Linux patches its own code with a breakpoint in it for a moment. With a thread a processor, qemu at times runs the
        patched place from a translation that still has the breakpoint, some boots in a thousand; the kernel knows nothing of it.
        One thread for all would take twice the time.
        """
        console = self.dir / f"console.{self.boots}.log"
        return console.exists() and "int3: 0000" in console.read_text(errors="replace")

    def reset(self):
        """The power goes, at this very moment. `boot` turns it on again, with the same disks."""
        self.process.send_signal(signal.SIGKILL)
        self._over()

    def wait_off(self, timeout=90):
        """Waits until the machine has turned itself off, or has gone down for a reboot."""
        self.process.wait(timeout)
        self._over()

    def power_off(self, timeout=90):
        """Turns it off in good order."""
        if self.process:
            with contextlib.suppress(Died):
                self.start("systemctl", "poweroff")
            self.wait_off(timeout)

    def _over(self):
        self.process.wait()
        self.process = None
        if self.link:
            self.link.close()
        self.link = None

    def remove(self):
        """Ends it and removes its disks. MAYFLY_KEEP keeps them."""
        if self.process:
            self.reset()
        if os.environ.get("MAYFLY_KEEP"):
            print(f"kept: {self.dir}")
        else:
            shutil.rmtree(self.dir)

    # -- what it does

    def start(self, *argv, env=None, input="", show=None):
        """Begins a command; `Call.wait` gives its end. `show` gets each line that it prints."""
        return Call(self.link, {"run": [str(w) for w in argv], "env": env or {}, "input": input}, show)

    def run(self, *argv, check=True, timeout=300, env=None, input="", show=None):
        """Runs a command to its end. The shell is called by name where it is wanted: run("sh", "-c", …)."""
        done = self.start(*argv, env=env, input=input, show=show).wait(timeout)
        if check and done.status != 0:
            raise AssertionError(f"in the machine: {' '.join(map(str, argv))}: status {done.status}\n{done.output}")
        return done

    def text(self, *argv, **more):
        """What a command that must succeed prints, without the last newline."""
        return self.run(*argv, **more).output.rstrip("\n")

    def put(self, files):
        """Copies files in: {path in the machine: path here}. For much, use a payload disk: this takes a MB or two a second."""
        for inside, here in files.items():
            mode = os.stat(here).st_mode & 0o777
            with open(here, "rb") as source:
                part = source.read(1 << 18)
                while True:
                    following = source.read(1 << 18)
                    ask = {"put": str(inside), "mode": mode, "data": base64.b64encode(part).decode(), "more": bool(following)}
                    done = Call(self.link, ask, None).wait(60)
                    assert done.status == 0, f"{inside}: {done.output}"
                    part = following
                    if not part:
                        break

    def obituary(self, lines=40):
        """What is known of a machine that does not answer."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.process:
                self.process.wait(1)
        status = self.process.poll() if self.process else None
        what = "does not answer" if status is None else f"ended with status {status}"
        told = [(self.dir / name).read_text(errors="replace").splitlines()[-lines:] if (self.dir / name).exists() else []
                for name in ("qemu.log", f"console.{self.boots}.log")]
        return "\n".join([f"the machine {what}", *told[0], "-- its console --", *told[1]])


class Link:
    """The connection to the agent: one a boot."""

    def __init__(self, machine, deadline):
        self.machine = machine
        self.calls = {}
        self.last = 0
        self.lock = threading.Lock()
        self.hello = queue.Queue()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            try:
                self.socket.connect(str(machine.dir / "agent.sock"))
                break
            except OSError:
                self._check(deadline)
                time.sleep(0.05)
        threading.Thread(target=self._read, daemon=True).start()
        self.send({"hello": 1})
        while True:
            with contextlib.suppress(queue.Empty):
                self.boot_id = self.hello.get(timeout=0.2)
                return
            self._check(deadline)

    def _check(self, deadline):
        ended = self.machine.process and self.machine.process.poll() is not None
        if ended or time.monotonic() > deadline:
            raise Died(self.machine.obituary())

    def send(self, ask):
        try:
            with self.lock:
                self.socket.sendall(json.dumps(ask).encode() + b"\n")
        except OSError as error:
            raise Died(f"the machine is gone: {error}") from None

    def _read(self):
        waiting = b""
        while True:
            try:
                part = self.socket.recv(1 << 16)
            except OSError:
                part = b""
            if not part:
                break
            *lines, waiting = (waiting + part).split(b"\n")
            for line in lines:
                told = json.loads(line)
                if "hello" in told:
                    self.hello.put(told["hello"])
                elif call := self.calls.get(told["id"]):
                    call.told.put(told)
        for call in list(self.calls.values()):
            call.told.put(None)

    def close(self):
        self.socket.close()


class Call:
    """A command under way."""

    def __init__(self, link, ask, show):
        self.link = link
        self.show = show
        self.told = queue.Queue()
        with link.lock:
            link.last += 1
            self.id = link.last
            link.calls[self.id] = self
        link.send({**ask, "id": self.id})

    def wait(self, timeout):
        """Its end. One that takes longer is killed, and fails."""
        end = time.monotonic() + timeout
        output, shown = b"", 0
        while True:
            try:
                told = self.told.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                self.link.send({"kill": self.id})
                raise AssertionError(f"not within {timeout} s; printed so far:\n{output.decode(errors='replace')}") from None
            if told is None:
                raise Died(f"{self.link.machine.obituary()}\n-- printed so far --\n{output.decode(errors='replace')}")
            if "out" in told:
                output += base64.b64decode(told["out"])
                while self.show and (at := output.find(b"\n", shown)) >= 0:
                    self.show(output[shown:at].decode(errors="replace"))
                    shown = at + 1
            else:
                self.link.calls.pop(self.id, None)
                return Done(told["status"], output.decode(errors="replace"))


