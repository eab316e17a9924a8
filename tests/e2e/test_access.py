"""Programs in a VPS, its console, and what the console printed."""
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time

from harness import MAYFLY, find_processes, wait_for
from truth import ensure_tiny


def test_exec_passes_status_and_streams_through(node):
    """F4: the status of the command; standard input, output and error kept apart, byte by byte; the CLI's own errors."""
    with node.vps(wait=False) as vps:
        done = node.exec(vps, "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
        assert node.exec(vps, "sh", "-c", "kill -9 $$", check=False).returncode == 137
        missing = node.exec(vps, "no-such-program", check=False)
        assert missing.returncode in (126, 127) and "no-such-program" in missing.stderr, missing
        data = os.urandom(3 << 20)
        argv = [MAYFLY, "--socket", str(node.state / "api.sock"), "exec", str(vps), "--"]
        # Both ways are full at the same time, and neither side may wait for the other: that went wrong now and then.
        for _ in range(25):
            assert subprocess.run([*argv, "cat"], input=data, capture_output=True, timeout=60, check=True).stdout == data
        assert subprocess.run([*argv, "wc", "-c"], input=data, capture_output=True, timeout=60).stdout == b"3145728\n"
        assert node.exec(vps, "sh", "-c", "cat; echo end") == "end", "no input is no waiting"
        who = node.exec(vps, "sh", "-c", "id -u; echo $HOME; tty || true")
        assert who == "0\n/root\nnot a tty", who
        odd = ("a b", "", "$HOME", "*", "ä'\"\\", "-x", "--")
        assert node.exec(vps, "printf", "[%s]", *odd) == "".join(f"[{word}]" for word in odd)
        assert node.run("exec", "-t", vps, "--", "tty", check=False).stdout.startswith("/dev/pts/")

        # It is in the VPS's cgroups, under its limits, and ends with the client.
        client = subprocess.Popen([*argv, "sleep", "987"], stdin=subprocess.DEVNULL)
        inside = lambda: set(node.processes(vps)) & set(find_processes(lambda words: words[:2] == ["sleep", "987"]))
        wait_for("it runs inside", inside)
        client.send_signal(signal.SIGKILL)
        client.wait()
        wait_for("it ended with its client", lambda: not inside(), 15)

        node.run("stop", vps, "--force")
        refused = node.exec(vps, "true", check=False)
        assert refused.returncode == 1 and "vps.not_running" in refused.stderr and "mayfly start" in refused.stderr, refused


def test_logs_have_the_console_also_after_a_stop(node):
    """F3: from before init, through a restart, while stopped."""
    with node.vps() as vps:
        node.exec(vps, "sh", "-c", "echo first-run-was-here > /dev/console")
        wait_for("the line arrives", lambda: "first-run-was-here" in node.run("logs", vps).stdout, 5)
        node.run("restart", vps)
        node.wait_running(vps)
        node.exec(vps, "sh", "-c", "echo second-run-was-here > /dev/console")
        node.run("stop", vps)
        log = node.run("logs", vps).stdout
        assert log.count("Welcome to") == 2 and log.count("the run ended: powered off") == 2, log
        assert 0 < log.index("first-run-was-here") < log.index("the run ended") < log.index("second-run-was-here")
        assert log.rstrip().endswith("the run ended: powered off]")
        ring = node.state / "consoles" / str(vps)
        assert ring.is_dir() and os.stat(ring).st_uid == 0
    assert not ring.exists(), "it goes with its VPS"


class Viewer:
    """`mayfly console` on a terminal."""

    def __init__(self, node, vps):
        self.ours, theirs = pty.openpty()
        self.seen = b""
        self.client = subprocess.Popen([MAYFLY, "--socket", str(node.state / "api.sock"), "console", str(vps)],
                                       stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        with contextlib.suppress(OSError):
            while piece := os.read(self.ours, 65536):
                self.seen += piece

    def type(self, keys):
        os.write(self.ours, keys)

    def resize(self, rows, columns):
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.client.send_signal(signal.SIGWINCH)

    def end(self):
        self.client.kill()
        self.client.wait()
        time.sleep(0.05)
        os.close(self.ours)

    def wait_for(self, what):
        wait_for(f"{what} is on the screen ({self.seen[-300:]})", lambda: what in self.seen, 20)


def test_two_people_at_one_console(node):
    """F3: both see all, both type; scrollback from before they came; leaving leaves the guest alone."""
    with node.vps() as vps:
        one, two = Viewer(node, vps), Viewer(node, vps)
        try:
            for viewer in (one, two):
                viewer.wait_for(b"Welcome to")
                viewer.wait_for(b"login:")
            one.type(b"typed-by-one\r")
            for viewer in (one, two):
                viewer.wait_for(b"typed-by-one")
                viewer.wait_for(b"Password:")
            two.type(b"\r")
            two.wait_for(b"Login incorrect")
            wait_for("the prompt is back", lambda: one.seen.rstrip().endswith(b"login:"), 20)
            two.type(b"typed-by-two")
            one.wait_for(b"typed-by-two")
            one.type(b"\x1d\x1d")
            assert one.client.wait(10) == 0
            two.type(b"-and-more")
            two.wait_for(b"typed-by-two-and-more")
            # The end of the run is seen, and the guest did not end with the viewers.
            assert node.show(vps)["state"] == "running"
            node.run("stop", vps, "--force")
            two.wait_for(b"the run ended")
        finally:
            for viewer in (one, two):
                viewer.end()


def test_a_console_waits_and_goes_on_through_runs(node):
    """F3: opened while the VPS is stopped it shows the next boot, and the one after a reboot inside, nothing twice, each in
    the window that the viewer has by then; another viewer comes and goes meanwhile."""
    ensure_tiny(node)
    with node.vps("tiny", start=False) as vps:
        one = Viewer(node, vps)
        try:
            one.wait_for(b"does not run; this goes on with its next start")
            one.resize(33, 101)

            def window(*wanted):
                size = lambda: node.exec(vps, "stty", "-F", "/dev/console", "size", check=False).stdout.split()
                wait_for(f"the guest has a window of {wanted}", lambda: size() == [str(n) for n in wanted], 10)

            def says(what):
                node.exec(vps, "sh", "-c", f"echo {what} > /dev/console")
                one.wait_for(what.encode() + b"\r\n")

            node.run("start", vps)
            one.wait_for(b"tiny: up")
            window(33, 101)
            says("said-in-the-first-run")
            two = Viewer(node, vps)
            try:
                two.wait_for(b"said-in-the-first-run")
                two.resize(20, 70)
                window(20, 70)
            finally:
                two.end()
            one.resize(40, 120)
            window(40, 120)
            run = node.show(vps)["run"]["id"]
            node.exec(vps, "reboot", "-f", check=False)
            wait_for("it runs again", lambda: (now := node.show(vps)["run"]) and now["id"] != run and now["init_pid"])
            says("said-in-the-second-run")
            window(40, 120)
            # Of the reboot that is told as well, if the next run was not there at once.
            told = one.seen.count(b"does not run")
            node.run("stop", vps, "--force")
            wait_for("the end is told", lambda: one.seen.count(b"does not run") == told + 1)
            for line in (b"said-in-the-first-run", b"said-in-the-second-run"):
                assert one.seen.count(line) == 1, one.seen
            assert one.seen.count(b"tiny: up") == 2, one.seen
        finally:
            one.end()
