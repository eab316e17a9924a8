"""A mount namespace that leaked to another process of the host delays the destruction of what it shows, and nothing else.
On btrfs nothing in the kernel refuses to destroy what is mounted elsewhere, so that the daemon has to look (H8); ZFS does."""
import contextlib
import os
import pathlib
import re
import subprocess
import time

from harness import MAYFLY, SLOW, Node, alive, sh, wait_for
from test_alive import in_namespace_of, put_something, run_of
from truth import (assert_no_orphans, ensure_tiny, gone, inits, kill, operations_over, own_node, pool_path,
                   tree_hash)

# What a stop, a start, a restart, a destroy take at most where nothing is in the way, on a slow machine too. The daemon
# used to wait 30 s for holders.
USUAL = 25.0


@contextlib.contextmanager
def leaked(node, vps, how="the guest's"):
    """A process of the host that holds a mount namespace of the present run."""
    state, _ = run_of(node, vps)
    if how == "the guest's":
        # With the guest's root as its own root, so its program is one of the guest's.
        holder = in_namespace_of(state["init_pid"], "/bin/busybox", "sleep", "3600")
    elif how == "the supervisor's":
        holder = in_namespace_of(state["supervisor_pid"], "/bin/sleep", "3600")
    else:
        holder = in_namespace_of(state["supervisor_pid"], "/usr/bin/unshare", "--mount", "/bin/sleep", "3600")
    try:
        wait_for("the holder has it", lambda: asleep(holder.pid) and shown_to(node, holder.pid), 10)
        yield holder
        assert holder.poll() is None, "a process of the host was killed"
    finally:
        holder.kill()
        holder.wait()


def asleep(pid):
    """It has come to its last program, and is where it is meant to be."""
    return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] in (b"/bin/sleep", b"/bin/busybox")


def shown_to(node, pid):
    """What of the pool a process has mounted, by names as they are now."""
    node.backend.observe()
    lines = pathlib.Path(f"/proc/{pid}/mountinfo").read_text(errors="replace").splitlines()
    return sorted({shown for line in lines if (shown := node.backend.shown(line)) is not None})


def timed(node, *words):
    """A command that takes no longer than it usually does."""
    began = time.monotonic()
    done = node.json(*words)
    took = time.monotonic() - began
    assert took < USUAL, f"{' '.join(map(str, words))} took {took:.1f} s"
    return done


def reports(node):
    return "\n".join(node.json("pool", "show")["reports"])


def told_waits(node, pid):
    """The reasons that the log gives for graves that a process holds, in their order."""
    waits = {}
    for line in (node.dir / "daemon.log").read_text(errors="replace").splitlines():
        told = re.search(r" a grave waits grave=(\S+) why=(.*)", line)
        if told and f"process {pid} of the host" in told[2]:
            waits.setdefault(told[1], []).append(told[2])
    return waits


def seen_by(holder, path):
    """A file as the holder sees it."""
    return pathlib.Path(f"/proc/{holder.pid}/root{path}").read_text()


def test_a_leaked_namespace_delays_the_destroy_and_nothing_else(node):
    """H8: stop, start, restart, discard and destroy go on as usual; what is held stays whole until it is let go."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        data = put_something(node, vps)
        node.exec(vps, "sh", "-c", "echo of this root > /mine")
        root = node.show(vps)["run"]["root"]
        with leaked(node, vps) as holder:
            began = time.monotonic()
            assert seen_by(holder, "/mine") == "of this root\n"
            timed(node, "stop", vps, "--force")
            node.refused("vps.not_running", "stop", vps)
            assert node.temporary_roots(vps) == [root], "the last root stays as ever"
            timed(node, "start", vps)
            wait_for("the old root is buried", lambda: node.temporary_roots(vps) == [node.show(vps)["run"]["root"]], 10)
            timed(node, "restart", vps, "--force")
            assert tree_hash(pool_path(node) / f"{vps}/private") == data
            timed(node, "stop", vps, "--force", "--discard")
            # Only what is held is there still.
            wait_for("the other roots are destroyed", lambda: len(node.graves()) == 1, 20)
            assert node.graves()[0].startswith(f"trash/{root}."), node.graves()
            said = reports(node)
            assert f"process {holder.pid} of the host" in said and "sleep 3600" in said and root in said, said
            timed(node, "destroy", vps, "--yes")
            assert all(v["id"] != vps for v in node.json("list"))
            assert len(node.graves()) == 2, node.graves()
            # A new VPS of the same number is none of the holder's business.
            assert timed(node, "create", "--template", "tiny", "--disk", "1G", "--id", vps, "--start")["vps"] == vps
            node.restart_daemon()
            time.sleep(3)
            assert len(node.graves()) == 2, f"a grave was destroyed under a mount: {node.graves()}"
            assert seen_by(holder, "/mine") == "of this root\n", "the root that is held is not whole"
            assert seen_by(holder, "/persistent/kept") == "kept " * 100, "the data that is held is not whole"
            assert f"process {holder.pid} of the host" in reports(node)
            timed(node, "destroy", vps, "--yes")
            held_for = time.monotonic() - began
        # A pause doubles, so it is never longer than the time before it and some.
        wait_for("the graves are gone", lambda: not node.graves(), 2 * held_for + 10)
        waits = told_waits(node, holder.pid)
        # Two graves; each is told once by each daemon, and again where the reason is another: this very process may have been
        # looking at the pool.
        assert len(waits) == 2, waits
        for grave, reasons in waits.items():
            again = sum(one == next_one for one, next_one in zip(reasons, reasons[1:]))
            assert again <= 1, f"{grave} is told over and over: {reasons}"
        assert_no_orphans(node)


def test_holders_of_a_killed_run_are_no_guests(node):
    """H8: in the guest's namespace, in the supervisor's and in a copy of that, after the supervisor was killed. The last two
    lose what they hold with the records of the run: the mount points lie there."""
    ensure_tiny(node)
    for how in ("the guest's", "the supervisor's", "a copy of the supervisor's"):
        with node.vps("tiny", wait=False) as vps:
            state, _ = run_of(node, vps)
            root = node.show(vps)["run"]["root"]
            with leaked(node, vps, how) as holder:
                kill(state["supervisor_pid"])
                gone(state["init_pid"])
                wait_for("another run", lambda: (r := node.show(vps)["run"]) and r["root"] != root
                         and r["phase"] == "running", USUAL / SLOW)
                operations_over(node)
                timed(node, "restart", vps, "--force")
                held = how == "the guest's"
                wait_for(f"only what is held is left: {how}", lambda: len(node.graves()) == held, 20)
                assert held == any(root in what for what in shown_to(node, holder.pid)), how
                timed(node, "destroy", vps, "--yes")
            wait_for("the graves are gone", lambda: not node.graves(), 40)
            assert_no_orphans(node)


def test_a_destroy_that_waits_says_for_whom_and_goes_on(node):
    """H8: `destroy --now` waits a while, names the process, and leaves the rest to the background; another VPS feels
    nothing meanwhile."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as other, node.vps("tiny", wait=False) as vps:
        with leaked(node, vps) as holder:
            began = time.monotonic()
            refused = node.refused("dataset.in_use", "destroy", vps, "--yes", "--now")
            took = time.monotonic() - began
            assert 5 < took < 60, f"it waited {took:.0f} s"
            assert f"process {holder.pid} of the host" in refused.message and "sleep 3600" in refused.message, refused
            assert all(v["id"] != vps for v in node.json("list")), "it is gone but for its space"
            timed(node, "restart", other, "--force")
        wait_for("the graves are gone", lambda: not node.graves(), 2 * took + 20)
    assert_no_orphans(node)
    with node.vps("tiny", wait=False) as vps:
        with leaked(node, vps) as holder:
            destroy = subprocess.Popen([MAYFLY, "--socket", node.state / "api.sock", "destroy", str(vps), "--yes", "--now"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for("the record is gone", lambda: all(v["id"] != vps for v in node.json("list")), USUAL / SLOW)
            time.sleep(1)
            assert destroy.poll() is None and node.graves(), "it does not wait"
        assert destroy.wait(10) == 0
        assert not node.graves()
    assert_no_orphans(node)


def test_a_process_of_the_guests_outside_its_cgroups_is_alive(node):
    """H8: in the guest's user namespace, and in a copy of the run's mounts that is none of the host's. A start, a discard
    and a destroy are refused, and nothing is touched; also where it is on a root that was buried."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        data = put_something(node, vps)
        state, _ = run_of(node, vps)
        root = node.show(vps)["run"]["root"]
        # The user namespace is entered by a process that has the mounts already: it is in no cgroup of the run.
        escaped = subprocess.Popen(
            ["/usr/bin/nsenter", f"--mount=/proc/{state['supervisor_pid']}/ns/mnt", "--wd=/", "/usr/bin/unshare",
             "--mount", "/usr/bin/nsenter", f"--user=/proc/{state['init_pid']}/ns/user", "/bin/sleep", "3600"],
            env={}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            users = os.readlink(f"/proc/{state['init_pid']}/ns/user")
            wait_for("it is there", lambda: asleep(escaped.pid), 10)
            assert os.readlink(f"/proc/{escaped.pid}/ns/user") == users
            assert escaped.pid not in node.processes(vps)
            root_before = tree_hash(pool_path(node) / f"{root}/private")
            for words in (["stop", vps, "--force"], ["restart", vps, "--force"], ["destroy", vps, "--yes", "--now"]):
                began = time.monotonic()
                refused = node.refused("run.still_alive", *words)
                # Nobody waits half a minute for what may not be killed.
                assert time.monotonic() - began < USUAL, f"{words[0]} took {time.monotonic() - began:.1f} s"
                assert str(escaped.pid) in refused.message, refused.message
                assert not inits(node, vps), "an init was started beside it"
            assert (pool_path(node) / root).is_dir() and not node.graves()
            assert tree_hash(pool_path(node) / f"{root}/private") == root_before
            assert tree_hash(pool_path(node) / f"{vps}/private") == data
            assert alive(escaped.pid)
        finally:
            escaped.kill()
            escaped.wait()
        node.run("destroy", vps, "--yes", "--now")
        assert_no_orphans(node)


def test_a_guests_process_on_a_buried_root_is_ended_before_the_next_start(node):
    """H8: a holder keeps a root that was buried, and something enters the guest's user namespace there."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        state, _ = run_of(node, vps)
        with leaked(node, vps) as holder, open(f"/proc/{state['init_pid']}/ns/user") as users:
            node.run("restart", vps, "--force")
            wait_for("the old root is buried", lambda: len(node.graves()) == 1, 10)
            node.run("stop", vps, "--force")
            escaped = subprocess.Popen(
                ["/usr/bin/nsenter", f"--user=/proc/self/fd/{users.fileno()}", f"--mount=/proc/{holder.pid}/ns/mnt",
                 "--wd=/", "/bin/busybox", "sleep", "3600"], env={}, pass_fds=[users.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                wait_for("it is there", lambda: asleep(escaped.pid), 10)
                assert any("trash/" in what for what in shown_to(node, escaped.pid))
                assert f"process {escaped.pid} has trash/" in reports(node)
                node.run("start", vps)
                assert escaped.poll() == -9, "a second guest of the VPS lives"
            finally:
                escaped.kill()
                escaped.wait()
            # The last root is buried by the start, and destroyed some time after it.
            wait_for("only the grave that is held is left", lambda: len(node.graves()) == 1, 20)
        wait_for("the graves are gone", lambda: not node.graves(), 40)
        assert_no_orphans(node)


def test_a_mount_table_that_takes_minutes_to_read_stops_nobody(node):
    """H8: a guest makes thousands of mounts at a deep path that are propagated into each other. Another VPS, and the guest
    itself, restart and go as usual."""
    with own_node(Node, "deep") as node:
        vps, other = node.create("tiny", wait=False), node.create("tiny", wait=False)
        deep = "d" * 200
        fill = (f"cd /; i=0; while [ $i -lt 15 ]; do mkdir {deep}; cd {deep}; i=$((i+1)); done; mount -t tmpfs x . ; "
                f"cd /{deep}; cd {'/'.join([deep] * 14)}; mkdir a b; mount --bind a b; mount --make-rshared /; i=0; "
                "while [ $i -lt 12 ]; do mount --rbind a a || break; i=$((i+1)); done; wc -l < /proc/self/mountinfo")
        began = time.monotonic()
        made = int(node.exec(vps, "sh", "-c", fill).split()[-1])
        assert made > 4000, f"only {made} mounts: this proves nothing"
        print(f"  {made} mounts, made and counted in {time.monotonic() - began:.1f} s")
        for one in (other, vps):
            timed(node, "restart", one, "--force")
        node.exec(vps, "sh", "-c", fill)
        for one in (other, vps):
            timed(node, "destroy", one, "--yes", "--now")
        assert not node.graves()
