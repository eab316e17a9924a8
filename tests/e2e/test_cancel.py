"""H5: one change of a VPS at a time; others wait, or are refused naming the first; a stop by force makes them give way; what
is cancelled is put back."""
import os
import pathlib
import shutil
import signal
import time

from backends import only
from harness import SLOW, TOP, Node, find_processes, wait_for
from test_alive import put_something
from truth import assert_no_orphans, ensure_tiny, inits, operations_over, own_node, pool_path, tree_hash
# What is cancelled, or stopped by force, is over within so many seconds.
SOON = 10.0 * SLOW


def operation(node, op):
    return node.json("operation", "show", op)


def asked(node, *words):
    """Asks for something and does not wait; answers with the operation's id."""
    return node.json(*words, "--no-wait")["id"]


def frozen(node, vps):
    """Its init does not act on signals any more, but for the one that nobody can ignore."""
    pid = node.show(vps)["run"]["init_pid"]
    os.kill(pid, signal.SIGSTOP)
    return pid


def soon(what, since):
    took = time.monotonic() - since
    assert took < SOON, f"{what} took {took:.1f} s"


def assert_over(node, vps, op, state):
    shown = operation(node, op)
    assert shown["state"] == state, shown
    assert not inits(node, vps)


def test_a_forced_stop_does_not_wait_for_a_polite_one(node):
    """H5: also where a start waits behind that; and a third who does not want to wait is told for whom."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        data = put_something(node, vps)
        for words in (["stop"], ["restart"]):
            frozen(node, vps)
            polite = asked(node, words[0], vps, "--timeout", "10m")
            behind = asked(node, "start", vps)
            wait_for("it halts", lambda: operation(node, polite)["state"] == "running", 5)
            refused = node.refused("vps.busy", "start", vps, "--if-busy", "refuse")
            assert polite in refused.message and words[0] in refused.message and "uid 0" in refused.message, refused.message
            if words == ["stop"]:
                refused = node.refused("operation.too_late", "operation", "cancel", polite)
                assert "halt run" in refused.message, refused.message
            began = time.monotonic()
            node.run("stop", vps, "--force")
            soon("stop --force", began)
            assert_over(node, vps, polite, "cancelled")
            assert_over(node, vps, behind, "cancelled")
            told = operation(node, polite)["error"]
            assert told["code"] == "operation.cancelled" and "stop --force" in told["message"], told
            operations_over(node)
            assert node.show(vps)["state"] == "stopped" and not inits(node, vps)
            assert tree_hash(pool_path(node) / f"{vps}/private") == data
            node.run("start", vps)
    assert_no_orphans(node)


def test_a_restart_that_is_cancelled_leaves_it_stopped(node):
    """H5: the guest halts, and no other is started; what waits for its turn is cancelled at once."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        data = put_something(node, vps)
        init = frozen(node, vps)
        restart = asked(node, "restart", vps, "--timeout", "10m")
        waits = asked(node, "set", vps, "memory=300M")
        wait_for("it halts", lambda: operation(node, restart)["state"] == "running", 5)
        began = time.monotonic()
        assert node.json("operation", "cancel", waits)["state"] == "cancelled"
        soon("the cancelling of what waits", began)
        # Nobody waits for the end: the guest has been asked to halt, and does what it likes.
        done = node.run("operation", "list", "--vps", vps, "--state", "running", "--json")
        assert restart in done.stdout and waits not in done.stdout
        cancel = node.start_command("operation", "cancel", restart)
        wait_for("that is recorded", lambda: operation(node, restart)["cancelled_by"], 5)
        os.kill(init, signal.SIGCONT)
        assert cancel.wait(SOON) == 0
        assert_over(node, vps, restart, "cancelled")
        operations_over(node)
        time.sleep(0.5)
        assert node.show(vps)["state"] == "stopped" and not inits(node, vps)
        assert tree_hash(pool_path(node) / f"{vps}/private") == data
        node.refused("operation.too_late", "operation", "cancel", restart)
        node.refused("operation.not_found", "operation", "cancel", "0" * 20)
        assert [op["id"] for op in node.json("operation", "list", "--vps", vps, "--limit", "1", "--state", "cancelled")]
    assert_no_orphans(node)


def hangs(node, vps):
    """Its start waits until somebody opens the other end of a pipe."""
    run = pool_path(node) / f"{vps}/private/run"
    shutil.rmtree(run)
    os.mkfifo(run)


def test_a_start_that_hangs_is_cancelled_or_stopped(node):
    """H5: nobody waits for the half minute that an init may take; a daemon that ends does not either, and the next one goes
    on with it."""
    with node.vps("debian-12", start=False) as vps:
        hangs(node, vps)
        for how in ("cancel", "stop", "sigterm"):
            start = asked(node, "start", vps)
            wait_for("it waits for init", lambda: (node.run_state(vps) or {}).get("phase") == "starting", 20)
            # Until it is not the launch any more that is given up.
            time.sleep(0.5)
            assert operation(node, start)["state"] == "running", operation(node, start)
            began = time.monotonic()
            if how == "cancel":
                assert node.json("operation", "cancel", start)["state"] == "cancelled"
            elif how == "stop":
                node.run("stop", vps, "--force")
            else:
                node.end_daemon()
                soon("the end of the daemon", began)
                node.serve()
                node.json("operation", "cancel", start)
            soon(how, began)
            assert_over(node, vps, start, "cancelled")
            operations_over(node)
            shown = node.show(vps)
            assert shown["state"] == "stopped" and not node.supervisors(), shown
    assert_no_orphans(node)


SLOW_RECIPE = """
[manifest]
distribution = "tiny"
version = "1"
architecture = "amd64"
init = "/sbin/init"
halt_signal = 15
root_kind = "template"

[build]
suite = "bookworm"
variant = "extract"
packages = ["busybox-static"]
customize = ["slow.sh"]
"""


@only("btrfs", "it needs the package archive, which the machine with ZFS has not")
def test_a_template_build_is_cancelled_with_all_that_it_started(node):
    """H5: its programs end, nothing of it stays, and the next build is none the worse."""
    with own_node(Node, "cancel") as own:
        recipe = own.dir / "recipe"
        recipe.mkdir()
        (recipe / "recipe.toml").write_text(SLOW_RECIPE)
        (recipe / "slow.sh").write_text("#!/bin/sh\nsleep 86399 &\nsleep 86398\n")
        (recipe / "slow.sh").chmod(0o755)
        before = {pathlib.Path(name) for name in own.in_pool()}
        build = asked(own, "template", "build", recipe / "recipe.toml", "--name", "slow")

        def sleepers():
            return find_processes(lambda argv: argv[:2] in (["sleep", "86399"], ["sleep", "86398"]))
        wait_for("it sleeps", lambda: len(sleepers()) == 2, 120)
        waits = asked(own, "template", "build", recipe / "recipe.toml", "--name", "other")
        refused = own.refused("vps.busy", "template", "remove", "tiny", "--if-busy", "refuse")
        assert build in refused.message, refused.message
        began = time.monotonic()
        assert own.json("operation", "cancel", waits)["state"] == "cancelled"
        assert own.json("operation", "cancel", build)["state"] == "cancelled"
        soon("the cancelling of a build", began)
        # Killed they are, and gone a moment later.
        wait_for("what it started ends", lambda: not sleepers(), 1)
        assert operation(own, build)["error"]["code"] == "operation.cancelled"
        assert [t["name"] for t in own.json("template", "list")] == ["tiny"]
        assert {pathlib.Path(name) for name in own.in_pool()} == before
        assert_no_orphans(own)
        shutil.copy(TOP / "tests/fixtures/tiny/tiny.sh", recipe / "slow.sh")
        own.run("template", "build", recipe / "recipe.toml", "--name", "slow")


def test_a_guest_has_a_day_at_most_to_halt(node):
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        for verb in ("stop", "restart"):
            node.refused("input.invalid", verb, vps, "--timeout", "25h")
            node.refused("input.invalid", verb, vps, "--timeout", "9999999999999s")
        assert node.show(vps)["state"] == "running"
