"""A supervisor killed at every point of its life, while the daemon goes on and while that dies as well. What was begun is put
back or goes on, nothing persistent is lost, nothing is left."""
import re
import time

from harness import wait_for
from test_alive import edit_document
from test_crash import CRATES, Kept, each
from truth import assert_no_orphans, ensure_tiny, kill, operations_over


def points():
    """The points in the supervisor, from its source."""
    text = (CRATES / "mayfly-host/src/crash.rs").read_text()
    found = re.findall(r'"([a-z_.]+)"', re.search(r"SUPERVISOR_POINTS: &\[&str\] = &\[(.*?)\];", text, re.S).group(1))
    assert found, "no point was found in the source"
    return found


# What is passed before the guest runs, and what when it ends. Copies are settled in between, where there are any: tests of the
# supervisor alone die there.
STARTING = points()[:points().index("supervise.after_running") + 1]
ENDING = [point for point in points()[len(STARTING):] if not point.endswith("_settle")]
# The daemon is told of these deaths by the supervisor's parent, of the others by the control socket.
UNTOLD = ("supervise.begun", "supervise.after_state")


def last_operation(node, verb):
    return [op for op in node.json("operation", "list") if op["verb"] == verb][-1]


def test_a_start_whose_supervisor_is_killed_anywhere_is_put_back(node):
    """R6, R9, E2: the start fails and says so; the last root stays, and the next start is like any other."""
    ensure_tiny(node)
    kept = Kept(node)
    node.run("start", kept.id)
    node.run("stop", kept.id, "--force")

    def once(point):
        point, with_daemon = point
        if node.show(kept.id)["state"] == "running":
            node.run("stop", kept.id, "--force")
        last = node.show(kept.id)["last_root"]
        node.end_daemon()
        failed = "step.launch.failed" if point in UNTOLD else "step.await_init.failed"
        node.serve(crash_at=f"{point},{failed}" if with_daemon else point)
        node.run("start", kept.id, *(["--no-wait"] if with_daemon else []), check=False)
        if with_daemon:
            node.wait_daemon_died()
            node.serve()
        operations_over(node)
        kept.assert_intact()
        assert_no_orphans(node)
        shown, start = node.show(kept.id), last_operation(node, "start")
        if with_daemon and start["state"] == "done":
            # Nothing had told yet that the run had begun, so it began once more.
            assert point == "supervise.begun" and shown["state"] == "running", (start, shown)
        else:
            assert start["state"] == "failed" and start["error"]["code"] in ("vps.start_failed", "host.failed"), start
            assert shown["state"] == "stopped" and shown["last_root"] == last, shown
            node.run("start", kept.id)
        assert node.show(kept.id)["state"] == "running"
        assert_no_orphans(node)

    each([(point, with_daemon) for point in STARTING for with_daemon in (False, True)], once)
    kept.destroy()


def test_a_run_whose_supervisor_is_killed_while_it_ends_is_over(node):
    """R6, R9, H8: after a stop, a restart, and the death of its init."""
    ensure_tiny(node)
    kept = Kept(node)

    def once(point):
        point, how = point
        if node.show(kept.id)["state"] == "running":
            node.run("stop", kept.id, "--force")
        node.end_daemon()
        # Three crashes in five minutes would leave it stopped.
        edit_document(node, kept.id, lambda document: document.update(crashes=[]))
        # Only the first supervisor that this daemon starts is the one that dies.
        node.serve(crash_at=point)
        node.run("start", kept.id)
        before = node.show(kept.id)["run"]
        supervisor = node.run_state(kept.id)["supervisor_pid"]
        if how == "init killed":
            kill(before["init_pid"])
        else:
            node.run(how.split()[0], kept.id, *(["--no-wait"] if "daemon" in how else []))
        if "daemon" in how:
            time.sleep(0.02)
            node.restart_daemon()
        wait_for("the run is over", lambda: (r := node.show(kept.id)["run"]) is None or r["id"] != before["id"], 20)
        operations_over(node)
        wanted = "stopped" if how.startswith("stop") else "running"
        wait_for(f"it is {wanted}", lambda: node.show(kept.id)["state"] == wanted, 20)
        operations_over(node)
        kept.assert_intact()
        assert_no_orphans(node)
        assert supervisor not in node.supervisors(), "the supervisor lives"

    hows = ("stop", "stop and daemon killed", "restart", "init killed")
    each([(point, how) for how in hows for point in ENDING], once)
    kept.destroy()
