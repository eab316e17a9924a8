"""What happens to runs, told as it happens (`events`) and remembered (`logs`)."""
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

from harness import MAYFLY, wait_for
from truth import kill, operations_over, own_node


@contextlib.contextmanager
def followed(node, *words):
    """The lines that a command prints, as they come."""
    path = node.dir / "followed"
    with open(path, "wb") as out:
        argv = [MAYFLY, "--socket", node.state / "api.sock", *map(str, words)]
        process = subprocess.Popen(argv, stdout=out, stderr=out, start_new_session=True)
    try:
        yield lambda: path.read_text(errors="replace").splitlines()
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def quick_node(make):
    """A node of its own in memory, where thousands of changes take seconds."""
    def in_memory(name, size):
        had = os.environ.get("MAYFLY_SCRATCH")
        os.environ["MAYFLY_SCRATCH"] = "/dev/shm"
        try:
            return make(name, size=size)
        finally:
            del os.environ["MAYFLY_SCRATCH"]
            if had is not None:
                os.environ["MAYFLY_SCRATCH"] = had
    with own_node(in_memory, "events") as node:
        yield node


def revision(node, vps):
    """The present one, as `events` refuses what lies beyond."""
    return int(node.refused("input.invalid", "events", "--since", 10**15).message.rsplit(" ", 1)[1])


def runs_told(lines):
    """What is said of runs, in order, without what differs each time."""
    return [line.split("  ", 1)[1] for line in lines if "  VPS " in line]


def test_events_and_logs_tell_how_runs_begin_and_end(node):
    """A1, F3: start, restart, poweroff inside, a crash of init, a refused operation; after a destroy, nothing of it."""
    with node.vps("tiny", start=False, wait=False) as vps, node.vps("tiny", "--start", start=False, wait=False) as other:
        name = node.show(vps)["hostname"]
        with followed(node, "events", "--vps", name, "--since", revision(node, vps)) as lines:
            node.run("start", vps)
            first = node.show(vps)["run"]
            node.run("restart", vps, "--force")
            second = node.show(vps)["run"]
            node.run("restart", other, "--force")
            kill(second["init_pid"])
            third = wait_for("it runs again", lambda: (run := node.show(vps)["run"]) and run["id"] != second["id"]
                             and run["phase"] == "running" and run, 30)
            operations_over(node)
            node.exec(vps, "poweroff", "-f", check=False)
            wait_for("it is off", lambda: node.show(vps)["desired"] == "stopped", 20)
            operations_over(node)
            refused = node.refused("vps.not_running", "stop", vps)
            node.run("start", vps)
            wanted = [
                f"VPS {vps}  run {first['id']} started with {first['root']} at / (start by uid 0)",
                f"VPS {vps}  run {first['id']} ended: stopped (restart by uid 0)",
                f"VPS {vps}  run {second['id']} started with {second['root']} at / (restart by uid 0)",
                f"VPS {vps}  run {second['id']} ended: it crashed (init was killed by signal 9), crash 1 in 5 minutes; it is "
                "started again",
                f"VPS {vps}  run {third['id']} started again with {third['root']} at /, after crash 1 of 3",
                f"VPS {vps}  run {third['id']} ended: it powered itself off",
            ]
            wait_for("all is told", lambda: len(runs_told(lines())) == 7, 10)
            told = lines()
            assert runs_told(told)[:6] == wanted, told
            failed = [line for line in told if "  failed  " in line]
            assert len(failed) == 1 and f"stop {vps}  failed  vps.not_running: {refused.message}" in failed[0], failed
            assert not [line for line in told if f" {other} " in line], "only what concerns that VPS"

        # Remembered through a stop and another daemon, apart from what the guest printed, who cannot forge it.
        node.exec(vps, "sh", "-c", "echo '2020-01-01 00:00:00Z  run 000000 started with 1 at /' > /dev/console")
        node.run("stop", vps, "--force")
        node.restart_daemon()
        log = node.run("logs", vps)
        assert "run 000000" in log.stdout and "tiny: up" in log.stdout and "run 000000" not in log.stderr
        *events, console = log.stderr.splitlines()
        assert console == "--- console ---" and len(events) == 9, events
        shown = [line.split("  ", 1)[1] for line in events]
        assert [f"VPS {vps}  {line}" for line in shown[:6]] == wanted, shown
        assert shown[6] == f"stop by uid 0 failed: vps.not_running: {refused.message}"
        assert shown[8].endswith("ended: stopped (stop by uid 0)")
        assert node.run("logs", vps, "--events").stdout == "\n".join(events) + "\n"
        alone = node.run("logs", vps, "--console")
        assert (alone.stdout, alone.stderr) == (log.stdout, "")
        both = node.json("logs", vps)
        assert both["console"].split() == log.stdout.split()
        assert [event["what"] for event in both["events"]] == ["started", "ended"] * 3 + ["operation_failed", "started", "ended"]
        assert both["events"][3]["how"] == "crashed" and both["events"][3]["run"] == second["id"]

        # The next of that number sees nothing of it.
        node.run("destroy", vps, "--yes")
        node.refused("vps.not_found", "logs", vps)
        assert node.create("tiny", "--id", vps, "--start", start=False, wait=False) == vps
        events = node.json("logs", vps, "--events")["events"]
        assert [(event["what"], event["verb"]) for event in events] == [("started", "create")], events
        assert "000000" not in node.run("logs", vps).stdout


def test_events_from_a_revision_and_of_a_vps_that_are_not_there_are_refused(node):
    """A1: never silence, never a gap: what is refused says from where on there is something."""
    with node.vps("tiny", start=False, wait=False) as vps:
        now = revision(node, vps)
        assert f"--since {now}" in node.refused("input.invalid", "events", "--since", now + 1).hint
        node.refused("vps.not_found", "events", "--vps", "nobody")
        node.refused("vps.not_found", "events", "--vps", "nobody", "--since", now)


def test_a_reader_of_events_that_does_not_read_costs_little_and_holds_nobody_up(node):
    """A1: thousands of changes while a client takes none, and another asks for all of them at once."""
    def size():
        status = pathlib.Path(f"/proc/{node.daemon.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    def silent(address):
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(str(node.state / "api.sock"))
        stream.sendall(f"GET {address} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return stream

    def changes(count):
        """So many at least: builds of a template that is there, refused in their turn, two changes each."""
        body = b'{"recipe":"debian-12","name":"tiny"}'
        ask = f"POST /v1/templates HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(node.state / "api.sock"))
            for _ in range(count // 2):
                asking.sendall(ask)
                assert asking.recv(4096).startswith(b"HTTP/1.1 202")
        wait_for("all are over", lambda: all(op["state"] != "queued" for op in node.json("operation", "list")), 60)

    with quick_node(type(node)) as node, contextlib.ExitStack() as streams:
        vps = node.create("tiny", "--start", start=False, wait=False)
        began = revision(node, vps)
        changes(3000)
        before = size()
        readers = [streams.enter_context(silent(f"/v1/events?since={began}")) for _ in range(10)]
        readers += [streams.enter_context(silent("/v1/events")) for _ in range(10)]
        changes(3000)
        made = revision(node, vps) - began
        assert made >= 6000, made
        time.sleep(1)
        grown = size() - before
        print(f"  {made} changes; {len(readers)} readers that read nothing: the daemon has grown by {grown} KiB")
        assert grown < 1536 * len(readers), f"grown by {grown} KiB"
        at = time.monotonic()
        node.run("restart", vps, "--force")
        assert time.monotonic() - at < 10
        # And one that reads late has missed nothing.
        seen = []
        late = readers[0].makefile("rb")
        while not seen or seen[-1] < began + made:
            line = late.readline()
            if line.startswith(b'{"revision"'):
                seen.append(json.loads(line)["revision"])
        assert sorted(set(seen)) == list(range(began + 1, seen[-1] + 1))


def test_the_end_of_a_run_that_no_daemon_saw_is_remembered_by_the_next(node):
    """F3: with what it was, and the start that follows from it."""
    with own_node(type(node), "events") as own:
        vps = own.create("tiny", "--start", start=False, wait=False)
        run = own.show(vps)["run"]
        own.kill_daemon()
        os.kill(run["init_pid"], signal.SIGKILL)
        wait_for("its supervisor ends", lambda: not own.supervisors(), 10)
        own.serve()
        told = wait_for("it is told", lambda: (e := own.json("logs", vps, "--events")["events"])[2:] and e, 30)
        assert [(e["what"], e["how"]) for e in told] == [("started", None), ("ended", "crashed"), ("started", None)], told
        assert told[2]["after_crash"] == 1
