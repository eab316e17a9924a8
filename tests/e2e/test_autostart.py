"""F6: what runs after a boot of the host, in which order and how much of it at once; what happens when the host goes down."""
import json
import os
import signal
import sqlite3

from harness import alive, wait_for
from persist import in_guest, template
from truth import assert_no_orphans, ensure_tiny, gone, operations_over

# An init that says when it is asked to end.
ORDERLY = """#!/bin/busybox sh
export PATH=/bin:/sbin
trap 'echo halted in order > /dev/console; exit 0' TERM
while :; do sleep 3600 & wait $!; done
"""
# As many starts as there are processors, but for very small and very large machines.
AT_ONCE = max(2, min(16, len(os.sched_getaffinity(0))))


def forget_boot(node):
    """The daemon, which is down, has seen another boot of the host last."""
    with sqlite3.connect(node.state / "state.db") as db:
        (text,) = db.execute("SELECT value FROM entries WHERE key = '/node/boot'").fetchone()
        document = json.loads(text)
        assert document["boot_id"], document
        document["boot_id"] = "0" * 36
        db.execute("UPDATE entries SET value = ? WHERE key = '/node/boot'", (json.dumps(document),))
    db.close()


def test_after_a_boot_higher_priorities_start_first_and_not_all_at_once(node):
    """By the journal: no start was accepted before those of higher priorities were over, nor while as many as may were not."""
    ensure_tiny(node)
    made = {}
    try:
        for priority, when, count in ((10, "on", AT_ONCE + 2), (0, "on", 3), (-5, "on", 1), (99, "off", 1)):
            for _ in range(count):
                vps = node.create("tiny", "--disk", "64M", start=False)
                node.run("set", vps, f"autostart={when},priority={priority}")
                made[vps] = priority if when == "on" else None
        known = {op["id"] for op in node.json("operation", "list")}
        node.end_daemon()
        forget_boot(node)
        node.serve()
        called = [vps for vps, priority in made.items() if priority is not None]
        wait_for("what is called for runs", lambda: all(node.show(vps)["state"] == "running" for vps in called))
        operations_over(node)
        starts = [op for op in node.json("operation", "list") if op["verb"] == "start" and op["id"] not in known]
        assert sorted(op["vps"] for op in starts) == sorted(called), starts
        assert all(op["by"] == "mayfly" and op["state"] == "done" for op in starts), starts
        for op in starts:
            earlier = [one for one in starts if one is not op and one["id"] < op["id"]]
            higher = [one for one in starts if made[one["vps"]] > made[op["vps"]]]
            late = [one for one in higher if one["ended_unix_ms"] > op["created_unix_ms"]]
            assert not late, f"{op} began before {late} were over"
            at_once = [one for one in earlier if one["ended_unix_ms"] > op["created_unix_ms"]]
            assert len(at_once) < AT_ONCE, f"{op} began beside {at_once}"
    finally:
        for vps in made:
            node.run("destroy", vps, "--yes")
    assert_no_orphans(node)


def test_guests_are_halted_with_the_host_and_come_back_on_new_roots(node):
    """R6, F6: as the host's shutdown does it, with the daemon gone: each supervisor is told, halts its guest by the signal of
    that guest's init, and ends with it. Nothing is deleted."""
    with template(node, "orderly", init=ORDERLY) as name, node.vps(name, wait=False) as one, node.vps(name, wait=False) as two, \
            node.vps(name, wait=False) as off:
        vpses = (one, two)
        node.run("set", off, "autostart=off")
        for vps in vpses:
            in_guest(node, vps, "echo dear > /persistent/kept; sync")
        before = {vps: node.show(vps)["run"] for vps in (*vpses, off)}
        node.end_daemon()
        for pid in node.supervisors():
            os.kill(pid, signal.SIGTERM)
        for run in before.values():
            gone(run["init_pid"])
        wait_for("the supervisors have ended", lambda: not node.supervisors())
        assert not node.processes() and not any(alive(run["init_pid"]) for run in before.values())
        forget_boot(node)
        node.serve()
        wait_for("they run again", lambda: all(node.show(vps)["state"] == "running" for vps in vpses))
        operations_over(node)
        for vps in vpses:
            run = node.show(vps)["run"]
            assert run["id"] != before[vps]["id"] and run["root"] != before[vps]["root"], run
            assert in_guest(node, vps, "cat /persistent/kept") == "dear"
            log = node.run("logs", vps).stdout
            assert 0 <= log.index("halted in order") < log.index("the run ended: the host went down"), log
        stayed = node.show(off)
        assert stayed["state"] == "stopped" and stayed["last_root"] == before[off]["root"], stayed
        assert before[off]["root"] in node.in_pool()
