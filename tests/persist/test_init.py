"""The first process of a VPS: declarations are applied before there is an init, and nothing of that is left in it."""
import json
import os
import shutil
import subprocess

import trees
from scenario import root

INIT = """#!/bin/busybox sh
umask
ls /proc/self/fd
busybox grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status
for task in /proc/self/task/*; do read children < $task/children; echo "children: $children"; done
"""
SPEC = {"version": 1, "run": "r1", "temporary_root": True, "storage": "/persistent"}


class Vps:
    """A root with what the host hands over, and a listening host."""

    def __init__(self, made, spec):
        self.made, self.at = made, made.at
        os.rmdir(self.at + "/etc")
        for name in ["dev", "proc", "run", "sbin", "bin"]:
            os.mkdir(f"{self.at}/{name}")
        trees.mount("proc", self.at + "/proc", "proc")
        shutil.copy("/bin/busybox", self.at + "/bin/busybox")
        os.symlink("busybox", self.at + "/bin/ls")
        made.write("/sbin/init", INIT, 0o755)
        os.mkdir(self.at + "/dev/.mayfly")
        handed = os.path.dirname(made.spec)
        self.fifo = handed + "/report"
        os.mkfifo(self.fifo)
        shutil.copy(trees.program(), handed + "/guest")
        with open(handed + "/boot.json", "w") as file:
            file.write('{"vps": "web", "run": "r1"}')
        names = ["guest", "boot.json", "report"]
        if spec is not None:
            names.append("persistence.json")
            with open(handed + "/persistence.json", "w") as file:
                file.write(spec if isinstance(spec, str) else json.dumps(spec))
        for name in names:
            open(f"{self.at}/dev/.mayfly/{name}", "w").close()
            trees.mount(f"{handed}/{name}", f"{self.at}/dev/.mayfly/{name}", None, 4096)

    def run(self, *program, limits=()):
        enter = ["unshare", "--pid", "--fork", "--kill-child", *limits, "chroot", self.at, *program]
        return subprocess.run(enter, capture_output=True, text=True, timeout=60, umask=0o27,
                              env={"PATH": "/bin:/usr/bin:/usr/sbin:/sbin"})

    def boot(self, limits=()):
        """What the host was told, what the VPS can read, and what its init printed."""
        listening = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
        plain = self.run("/sbin/init")
        done = self.run("/dev/.mayfly/guest", "init", "--", "/sbin/init", limits=limits)
        told = os.read(listening, 1 << 16).decode()
        # Whoever holds the other end keeps the host waiting.
        assert os.read(listening, 1) == b""
        os.close(listening)
        assert done.stdout == plain.stdout and "children: \n" in plain.stdout and plain.stderr == "", (done, plain)
        assert not os.path.lexists(self.at + "/dev/.mayfly")
        lines = [line.split(" ", 1) for line in told.splitlines()]
        assert [line[0] for line in lines if line[0] != "persistence"] == ["begin", "exec"], told
        assert all(len(line) < 2048 for line in told.splitlines())
        summary = [json.loads(line[1]) for line in lines if line[0] == "persistence"]
        boot = self.made.read("/run/mayfly/boot.json")
        return summary, json.loads(boot) if boot else None, done.stderr


def test_a_boot_applies_what_is_declared_and_leaves_no_trace_of_it(work):
    with root(work) as made:
        vps = Vps(made, {**SPEC, "manifest": {"/persistent": {"presets": ["base"]}}})
        summary, boot, errors = vps.boot()
        assert summary == [{"state": "applied", "staying": 10, "troubled": 0, "troubles": []}], summary
        assert boot["vps"] == "web" and boot["persistence"]["state"] == "applied", boot
        assert made.is_kept("/var/log") and made.is_kept("/etc/machine-id")
        assert errors == ""


def test_a_host_that_says_nothing_of_declarations_hears_nothing(work):
    with root(work) as made:
        summary, boot, errors = Vps(made, None).boot()
        assert (summary, boot, errors) == ([], {"vps": "web", "run": "r1"}, "")


def test_nothing_declared_and_no_storage_is_no_success(work):
    with root(work) as made:
        summary, boot, _ = Vps(made, {**SPEC, "storage": None}).boot()
        assert summary[0]["state"] == "inactive" and "nothing is declared" in summary[0]["why"], summary
        assert boot["persistence"]["state"] == "inactive"


def test_trouble_stops_no_boot_and_is_told(work):
    long = [f"/srv/{'ž' * 100}/{n}" for n in range(60)]
    for number, (spec, limits, why) in enumerate([
        ("no JSON", (), "not understood"),
        ({**SPEC, "version": 7}, (), "version 7"),
        # The first file that is written ends the child by a signal.
        ({**SPEC, "manifest": {"/persistent": {"presets": ["base"]}}}, ("prlimit", "--fsize=0"), "signal 25"),
        ({**SPEC, "manifest": {"/persistent": {"files": long}}}, (), None),
    ]):
        os.mkdir(f"{work}/{number}")
        with root(f"{work}/{number}") as made:
            if why is None:
                for path in long:
                    made.write(path, "in the way")
            vps = Vps(made, spec)
            [summary], boot, _ = vps.boot(limits)
            assert summary["state"] == "degraded", summary
            if why is None:
                assert summary["troubled"] == 60 and "in the way" not in summary, summary
                assert "is there already" in summary["troubles"][0] and len(boot["persistence"]["declarations"]) == 60
            else:
                assert why in summary["why"], summary
                # Whoever may write no file writes no boot report either.
                assert (boot is None) == bool(limits) or boot["persistence"]["why"] == summary["why"], boot
