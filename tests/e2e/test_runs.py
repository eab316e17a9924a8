"""Every way to end and to begin a run, and what the daemon makes of it, dead or alive."""
import os
import signal

from harness import alive, wait_for
from truth import ensure_tiny, kill, operations_over

POWEROFF, REBOOT = signal.SIGRTMIN + 4, signal.SIGRTMIN + 5  # what systemd takes them for


def begun(node, vps):
    """The present run, once it is seen in processes, cgroups and mounts."""
    run = node.show(vps)["run"]
    assert node.processes(vps) and mounts_of(node, run["root"]), "the looks below would find nothing in any case"
    assert all(f"/{vps}.{run['id']}" in cgroup for cgroup in node.cgroups(vps))
    return run


def mounts_of(node, root):
    return [m for m in node.mounts() if m[1].startswith(f"{root}/")]


def comes_back(node, vps, before, seconds=30):
    """Another run with a root of its own, and nothing left of the one before."""
    def look():
        shown = node.show(vps)
        return shown["state"] == "running" and shown["run"]["id"] != before["id"] and shown["run"]
    run = wait_for("it runs again", look, seconds)
    assert run["root"] != before["root"]
    assert node.exec(vps, "ls", "/dirt", check=False).returncode == 2
    nothing_of(node, vps, before)
    assert all(f"/{vps}.{run['id']}" in cgroup for cgroup in node.cgroups(vps)), node.cgroups(vps)
    wait_for("the old root is destroyed", lambda: node.temporary_roots(vps) == [run["root"]] and not node.graves())
    return run


def nothing_of(node, vps, run):
    assert not [c for c in node.cgroups(vps) if f"/{vps}.{run['id']}" in c], "cgroups of the old run are left"
    assert not mounts_of(node, run["root"]), "mounts of the old root are left"
    assert not alive(run["init_pid"])


def dirty(node, vps):
    node.exec(vps, "sh", "-c", "echo dirt > /dirt; sync")
    return begun(node, vps)


def killed(which):
    def test(node):
        with node.vps(wait=False) as vps:
            before = dirty(node, vps)
            os.kill(node.run_state(vps)[which], signal.SIGKILL)
            comes_back(node, vps, before)
    return test


test_a_killed_init_comes_back_with_a_new_root = killed("init_pid")
test_a_killed_supervisor_comes_back_with_a_new_root = killed("supervisor_pid")
test_a_killed_lxc_start_comes_back_with_a_new_root = killed("lxc_pid")
for _test in (test_a_killed_init_comes_back_with_a_new_root, test_a_killed_supervisor_comes_back_with_a_new_root,
              test_a_killed_lxc_start_comes_back_with_a_new_root):
    _test.__doc__ = "R6, H8: the run is over as crashed, all of it is swept, and it is started again."


def test_a_reboot_inside_gives_a_new_root(node):
    """R6: the guest asks for it and gets a new run."""
    with node.vps() as vps:
        before = dirty(node, vps)
        node.exec(vps, "systemctl", "reboot", check=False)
        comes_back(node, vps, before)


def test_a_poweroff_inside_stops(node):
    """R6, R7: it stays stopped, with its last root, also for the next daemon."""
    with node.vps() as vps:
        before = dirty(node, vps)
        node.exec(vps, "systemctl", "poweroff", check=False)
        shown = node.wait_state(vps, "stopped")
        assert (shown["desired"], shown["last_root"]) == ("stopped", before["root"])
        assert node.nothing_alive(vps)
        node.restart_daemon()
        assert node.show(vps)["state"] == "stopped" and node.nothing_alive(vps)
        assert node.temporary_roots(vps) == [before["root"]]
        node.run("start", vps)
        comes_back(node, vps, before)


def test_a_poweroff_before_the_start_is_over_stops_as_well(node):
    """R6: also where nobody asked for that start; it is no crash."""
    ensure_tiny(node)
    for _ in range(3):
        with node.vps("tiny", wait=False) as vps:
            first = node.show(vps)["run"]
            kill(first["init_pid"])
            wait_for("it runs again", lambda: (run := node.show(vps)["run"]) and run["id"] != first["id"]
                     and run["phase"] == "running", 20, 0.005)
            # Within the moment for which an init has to live, more often than not.
            node.exec(vps, "poweroff", "-f", check=False)
            shown = node.wait_state(vps, "stopped", 20)
            operations_over(node)
            assert node.show(vps)["state"] == shown["desired"] == "stopped", shown
            assert node.nothing_alive(vps)


def test_the_fourth_crash_in_five_minutes_stops_it(node):
    """R6: on_crash starts it again three times."""
    with node.vps(wait=False) as vps:
        for _ in range(3):
            before = begun(node, vps)
            os.kill(node.run_state(vps)["init_pid"], signal.SIGKILL)
            comes_back(node, vps, before)
        before = begun(node, vps)
        os.kill(node.run_state(vps)["init_pid"], signal.SIGKILL)
        shown = node.wait_state(vps, "stopped")
        assert (shown["desired"], shown["last_root"]) == ("stopped", before["root"])
        wait_for("nothing of it is left", lambda: node.nothing_alive(vps), 5)
        nothing_of(node, vps, before)
        node.run("start", vps)
        comes_back(node, vps, before)


def test_a_guest_outlives_the_daemon(node):
    """R6, H3: kill -9 of the daemon, and its orderly end, leave run, root and processes as they were."""
    with node.vps(wait=False) as vps:
        before = dirty(node, vps)
        for end in (node.kill_daemon, node.end_daemon):
            end()
            assert alive(before["init_pid"]) and mounts_of(node, before["root"])
            node.serve()
            shown = node.show(vps)
            assert (shown["state"], shown["run"]) == ("running", before)
            assert node.exec(vps, "cat", "/dirt") == "dirt"
        # It is watched again: the next daemon notices a crash.
        os.kill(before["init_pid"], signal.SIGKILL)
        comes_back(node, vps, before)


def test_what_happened_while_the_daemon_was_down_is_noticed(node):
    """R6, H3: a poweroff stays off, a reboot and a crash come back with a new root."""
    with node.vps() as off, node.vps() as again, node.vps(wait=False) as crashed:
        before = {vps: dirty(node, vps) for vps in (off, again, crashed)}
        node.kill_daemon()
        for vps, number in ((off, POWEROFF), (again, REBOOT), (crashed, signal.SIGKILL)):
            os.kill(before[vps]["init_pid"], number)
        for vps in before:
            wait_for(f"VPS {vps} ends", lambda: not alive(before[vps]["init_pid"]), 20)
        wait_for("their supervisors end", lambda: not node.supervisors(), 10)
        node.serve()
        shown = node.wait_state(off, "stopped")
        assert (shown["desired"], shown["last_root"]) == ("stopped", before[off]["root"]) and node.nothing_alive(off)
        for vps in (again, crashed):
            comes_back(node, vps, before[vps])


def test_a_start_that_the_daemon_did_not_survive_is_finished_by_the_next(node):
    """R6, R7, E2: wherever it was cut off, one run, one root, and the last root gone in the end."""
    with node.vps(wait=False) as vps:
        for point in ("create_dataset.done", "record.done", "launch", "launch.done", "bury_root"):
            before = dirty(node, vps)
            node.run("stop", vps, "--force")
            node.end_daemon()
            node.serve(crash_at=f"step.{point}")
            cut = node.run("start", vps, check=False)
            assert cut.returncode == 1 and "node.unreachable" in cut.stderr, f"{point}: {cut}"
            node.wait_daemon_died()
            node.serve()
            comes_back(node, vps, before)
            assert len(node.supervisors()) == 1, f"{point}: {node.supervisors()}"
            last = node.json("operation", "list")[-1]
            assert all(op["state"] in ("done", "failed", "cancelled") for op in node.json("operation", "list")), last


def test_a_restart_that_the_daemon_did_not_survive_is_finished_by_the_next(node):
    """R6: the old run is over and the new one begun, once."""
    with node.vps(wait=False) as vps:
        for point in ("end_run.done", "launch.done"):
            before = dirty(node, vps)
            node.end_daemon()
            node.serve(crash_at=f"step.{point}")
            node.run("restart", vps, "--force", check=False)
            node.wait_daemon_died()
            node.serve()
            comes_back(node, vps, before)
            assert len(node.supervisors()) == 1, f"{point}: {node.supervisors()}"
