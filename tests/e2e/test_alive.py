"""Nothing in the kernel or in LXC refuses to delete the root of a running guest, or to start a second init on it. Before
any start, delete or unmount the run is proven to be over, whatever of it was lost."""
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import time

from backends import only
from harness import MAYFLY, alive, sh, wait_for
from truth import (assert_no_orphans, ensure_tiny, gone, inits, kill, operations_over, own_node, pool_path,
                   tree_hash)
from harness import Node


def run_of(node, vps):
    """The present run as its supervisor wrote it, and its directory."""
    run = node.show(vps)["run"]["id"]
    directory = node.state / f"runs/{vps}.{run}"
    return json.loads((directory / "state.json").read_text()), directory


def put_something(node, vps):
    """Persistent data, and its hash."""
    private = pool_path(node) / f"{vps}/private"
    (private / "kept").write_text("kept " * 100)
    return tree_hash(private)


def assert_one(node, vps, data=None):
    """Exactly one init, on the root that the record names; and the data is as it was."""
    shown = node.show(vps)
    assert shown["state"] == "running", shown
    found = inits(node, vps)
    assert found == [(shown["run"]["init_pid"], f"{shown['run']['root']}/private")], f"{found}, recorded {shown['run']}"
    if data:
        assert tree_hash(pool_path(node) / f"{vps}/private") == data, "persistent data has changed"


def settled(node, vps):
    operations_over(node)
    wait_for(f"VPS {vps} runs", lambda: node.show(vps)["state"] == "running", 20)
    operations_over(node)


def in_namespace_of(pid, *command):
    """A host process that goes on in a copy of the mount namespace of `pid`."""
    return subprocess.Popen(["/usr/bin/nsenter", f"--mount=/proc/{pid}/ns/mnt", "--wd=/", *command], env={},
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True)


def stray_init(node, vps, cgroup):
    """A second guest on the root of the present run, by an lxc-start of somebody's own that leaves its guest alone when
    it dies (`lxc.monitor.signal.pdeath = 0`); then that lxc-start is killed. Gives the orphan's process id."""
    state, directory = run_of(node, vps)
    dropped = ("lxc.namespace.share.user", "lxc.cgroup.", "lxc.hook.", "lxc.init.cmd", "lxc.monitor.signal", "lxc.log",
               "lxc.cgroup2.", "lxc.mount.entry")
    lines = [line for line in (directory / "lxc.conf").read_text().splitlines() if not line.startswith(dropped)]
    for part in ("monitor", "monitor.pivot", "container"):
        lines.append(f"lxc.cgroup.dir.{part} = {cgroup}/{part}")
    lines += ["lxc.monitor.signal.pdeath = 0", "lxc.init.cmd = /bin/sleep 3600", f"lxc.log.file = {node.dir}/stray.log",
              "lxc.log.level = DEBUG"]
    config = node.dir / "stray.conf"
    config.write_text("\n".join(lines) + "\n")
    name = f"stray-{vps}-{os.getpid()}"
    # Without a PATH it finds no newuidmap and writes the maps itself: /etc/subuid need not have the range.
    starter = in_namespace_of(state["supervisor_pid"], "/usr/bin/lxc-start", "-F", "-P", "/run", "-n", name, "-f", config)
    own = state["init_pid"]

    def second():
        assert starter.poll() is None, (node.dir / "stray.log").read_text()[-3000:]
        # Until its program was executed it is lxc-start's own child, and dies with that.
        return [pid for pid, _ in inits(node, vps)
                if pid != own and pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/bin/sleep\0")]
    orphan = wait_for("the stray guest is up", second, 10)[0]
    starter.kill()
    starter.wait()
    time.sleep(0.1)
    assert alive(orphan), "the orphan has died with its lxc-start"
    assert "PPid:\t1\n" in pathlib.Path(f"/proc/{orphan}/status").read_text()
    return orphan


def test_a_running_vps_is_not_started_twice(node):
    """H8, H5: neither one after the other nor all at once, and not by restarts at the same time."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        data = put_something(node, vps)
        node.refused("vps.running", "start", vps)
        assert_one(node, vps, data)
        node.run("stop", vps, "--force")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            started = list(pool.map(lambda _: node.run("start", vps, "--json", check=False), range(8)))
        assert sorted(d.returncode for d in started) == [0] + [1] * 7
        assert all(json.loads(d.stdout)["error"]["code"] == "vps.running" for d in started if d.returncode)
        assert_one(node, vps, data)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda _: node.run("restart", vps, "--force", check=False), range(4)))
        assert [d.returncode for d in done] == [0] * 4, done
        assert_one(node, vps, data)
        assert_no_orphans(node)


def test_an_orphaned_init_is_ended_before_the_next(node):
    """H8: an init whose lxc-start was told to leave it, within the run's cgroups and outside; before a start, and before
    a destroy."""
    ensure_tiny(node)
    for place in ("inside", "outside"):
        for verb in ("start", "restart", "destroy"):
            with node.vps("tiny", wait=False) as vps:
                data = put_something(node, vps)
                run = node.show(vps)["run"]["id"]
                cgroup = f"mayfly-{node.id}/{vps}.{run}/stray" if place == "inside" else f"stray-{node.id}"
                orphan = stray_init(node, vps, cgroup)
                if verb == "start":
                    # The run is ended behind the daemon's back, so that nothing is swept on the way.
                    node.kill_daemon()
                    state, directory = run_of_file(node, vps, run)
                    shutil.rmtree(directory)
                    for pid in (state["supervisor_pid"], state["lxc_pid"], state["init_pid"]):
                        kill(pid)
                    forget_run(node, vps)
                    assert alive(orphan)
                    node.serve()
                    node.run("start", vps)
                elif verb == "restart":
                    node.run("restart", vps, "--force")
                else:
                    node.run("destroy", vps, "--yes", "--now")
                assert not alive(orphan), f"{verb}, {place}: the orphan lives"
                if verb == "destroy":
                    assert not inits(node, vps) and node.nothing_alive(vps)
                else:
                    assert_one(node, vps, data)
            remove_cgroups(f"stray-{node.id}")
            assert_no_orphans(node)


def run_of_file(node, vps, run):
    directory = node.state / f"runs/{vps}.{run}"
    return json.loads((directory / "state.json").read_text()), directory


def remove_cgroups(name):
    hierarchies = pathlib.Path("/sys/fs/cgroup")
    for top in [*hierarchies.glob(f"*/{name}"), *hierarchies.glob(name)]:
        for directory, _, _ in os.walk(top, topdown=False):
            os.rmdir(directory)


def edit_document(node, vps, change):
    """Changes a VPS's document while the daemon is down."""
    with sqlite3.connect(node.state / "state.db") as db:
        (text,) = db.execute("SELECT value FROM entries WHERE key = ?", (f"/vps/{vps}",)).fetchone()
        document = json.loads(text)
        change(document)
        db.execute("UPDATE entries SET value = ? WHERE key = ?", (json.dumps(document), f"/vps/{vps}"))
    db.close()
    return text


def forget_run(node, vps):
    def change(document):
        document["run"] = None
        document["desired"] = "stopped"
    return edit_document(node, vps, change)


def test_a_lost_record_does_not_lead_to_a_second_init(node):
    """H8: the run's directory removed, its state damaged, the run gone from the state database."""
    ensure_tiny(node)
    losses = {
        "run directory": lambda node, vps, directory: shutil.rmtree(directory),
        "state.json": lambda node, vps, directory: (directory / "state.json").unlink(),
        "half a state.json": lambda node, vps, directory: (directory / "state.json").write_text('{"protocol": 1, "ph'),
        "run.json": lambda node, vps, directory: (directory / "run.json").unlink(),
        "control socket": lambda node, vps, directory: (directory / "control.sock").unlink(),
        "run in the document": lambda node, vps, directory: forget_run(node, vps),
        "all of it": lambda node, vps, directory: (shutil.rmtree(directory), forget_run(node, vps)),
    }
    for loss, lose in losses.items():
        with node.vps("tiny", wait=False) as vps:
            try:
                data = put_something(node, vps)
                pid = node.show(vps)["run"]["init_pid"]
                _, directory = run_of(node, vps)
                node.kill_daemon()
                lose(node, vps, directory)
                assert alive(pid)
                node.serve()
                operations_over(node)
                if node.show(vps)["state"] == "stopped":
                    # Unless what follows a crash comes before it: between the end of a run and that is a moment.
                    done = node.run("start", vps, check=False)
                    assert done.returncode == 0 or "[vps.running]" in done.stderr, done.stderr
                settled(node, vps)
                assert_one(node, vps, data)
                node.run("restart", vps, "--force")
                assert_one(node, vps, data)
                assert_no_orphans(node)
            except Exception as error:
                raise AssertionError(f"lost: {loss}: {error}") from error


def test_a_run_whose_record_was_lost_is_ended_before_a_destroy(node):
    """H8: destroy of a VPS that seems to be stopped, and runs."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        pid = node.show(vps)["run"]["init_pid"]
        _, directory = run_of(node, vps)
        node.kill_daemon()
        shutil.rmtree(directory)
        forget_run(node, vps)
        node.serve()
        assert node.show(vps)["state"] == "stopped" and alive(pid)
        node.run("destroy", vps, "--yes", "--now")
        assert not alive(pid) and not inits(node, vps)
        assert_no_orphans(node)


def test_killed_supervisors_and_lxc_starts_leave_nobody(node):
    """H8, R6: with the daemon there, and without it; frozen guests too."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        data = put_something(node, vps)
        for whom in ("supervisor_pid", "lxc_pid", "init_pid"):
            for daemon in (True, False):
                # Three crashes in five minutes would leave it stopped.
                if node.show(vps)["state"] == "running":
                    node.run("stop", vps, "--force")
                node.end_daemon()
                edit_document(node, vps, lambda d: d.update(crashes=[]))
                node.serve()
                node.run("start", vps)
                state, _ = run_of(node, vps)
                if not daemon:
                    node.kill_daemon()
                kill(state[whom])
                # Without anybody's help: the kernel ends each with the one before it.
                gone(state["init_pid"])
                if not daemon:
                    node.serve()
                wait_for("another run", lambda: (r := node.show(vps)["run"]) and r["init_pid"] != state["init_pid"]
                         and r["phase"] == "running", 20)
                settled(node, vps)
                assert_one(node, vps, data)
                assert_no_orphans(node)


def test_a_frozen_guest_is_ended_all_the_same(node):
    """H8: a guest that was frozen, with a supervisor that was stopped and then killed."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        data = put_something(node, vps)
        state, _ = run_of(node, vps)
        run = node.show(vps)["run"]["id"]
        payloads = [pathlib.Path(cgroup, "payload") for cgroup in node.cgroups(vps) if cgroup.endswith(f".{run}")]
        freezers = [(payload / file, word) for payload in payloads
                    for file, word in (("freezer.state", "FROZEN"), ("cgroup.freeze", "1")) if (payload / file).exists()]
        assert freezers, "nothing to freeze with"
        for freezer, word in freezers:
            freezer.write_text(word)
        node.kill_daemon()
        kill(state["supervisor_pid"])
        node.serve()
        settled(node, vps)
        assert_one(node, vps, data)
        assert not alive(state["init_pid"])


@only("btrfs", "the daemon has the pool mounted, on a loop device")
def test_a_pool_unmounted_under_the_daemon_is_not_mounted_twice(node):
    """H8: `umount` in the daemon's namespace while a VPS runs on the pool; the next daemon finds the same loop device."""
    with own_node(Node, "unmounted") as node:
        vps = node.create("tiny", wait=False)
        data = put_something(node, vps)
        pid = node.show(vps)["run"]["init_pid"]
        busy = sh("nsenter", f"--mount=/proc/{node.daemon.pid}/ns/mnt", "umount", node.state / "pool", check=False)
        assert busy.returncode != 0, "the pool could be unmounted under the daemon"
        sh("nsenter", f"--mount=/proc/{node.daemon.pid}/ns/mnt", "umount", "--lazy", node.state / "pool")
        assert alive(pid)
        # What the daemon cannot see it must not take for absent.
        restarted = node.run("restart", vps, "--force", check=False)
        shown = node.show(vps)
        assert restarted.returncode != 0 or shown["state"] == "running", restarted
        node.kill_daemon()

        def devices():
            return sh("losetup", "-j", node.pool_file).stdout.splitlines()
        node.serve()
        assert len(devices()) == 1, devices()
        operations_over(node)
        if node.show(vps)["state"] == "stopped":
            node.run("start", vps)
        assert_one(node, vps, data)
        node.run("restart", vps, "--force")
        assert_one(node, vps, data)
        # A second daemon on the same state is refused before it touches anything.
        second = sh(MAYFLY, "serve", "--state-dir", node.state, "--json", check=False)
        assert second.returncode == 1 and json.loads(second.stdout)["error"]["code"] == "node.busy", second
        assert len(devices()) == 1
        assert_one(node, vps, data)
        assert_no_orphans(node)
        node.run("destroy", vps, "--yes")


def test_the_hosts_propagation_is_not_changed(node):
    """H8: no mount of a VPS or of the pool is seen in the host's own mount namespace."""
    ensure_tiny(node)
    before = pathlib.Path("/proc/1/mountinfo").read_text()
    with node.vps("tiny", wait=False):
        node.restart_daemon()
        now = pathlib.Path("/proc/1/mountinfo").read_text()
        fields = [re.sub(r"^(\S+ ){2}", "", line) for line in now.splitlines()]
        old = [re.sub(r"^(\S+ ){2}", "", line) for line in before.splitlines()]
        assert not [line for line in fields if str(node.dir) in line], "a mount of the node is on the host"
        assert [line.split(" - ")[0].split(" ", 4)[4:] for line in fields if line in old] == \
            [line.split(" - ")[0].split(" ", 4)[4:] for line in old if line in fields]
        assert os.listdir(node.state / "pool") == []
