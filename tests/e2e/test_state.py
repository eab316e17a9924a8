"""The state directory full, and read-only: operations stop safely, nothing is half told, and it goes on by itself."""
import contextlib
import json
import time

from harness import MAYFLY, Node, sh, wait_for
from test_fsck import fsck
from truth import assert_no_orphans, ensure_tiny, inits, operations_over, tree_hash, pool_path


@contextlib.contextmanager
def small_state(name):
    """A node whose state directory is a small file system of its own."""
    node = Node(name, size="1G")
    node.state.mkdir()
    image = node.dir / "state.img"
    try:
        with open(image, "wb") as file:
            file.truncate(24 << 20)
        sh("mkfs.ext4", "-q", "-m", "0", image)
        sh("mount", "-o", "loop", image, node.state)
        node.init()
        node.serve()
        ensure_tiny(node)
        yield node
    finally:
        with contextlib.suppress(Exception):
            node.end_daemon()
        for pid in node.supervisors():
            sh("kill", "-9", str(pid), check=False)
        wait_for("nothing has it open", lambda: not node.supervisors(), 20)
        for _ in range(50):
            if sh("umount", node.state, check=False).returncode == 0:
                break
            time.sleep(0.2)
        node.remove()
    assert not node.leftovers(), node.leftovers()


def fill(node):
    filler = node.state / "filler"
    with open(filler, "wb") as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
                file.flush()
    return filler


def test_a_full_state_directory_stops_changes_and_goes_on_by_itself(node):
    """H3, E1: refused with the reason; the guest that ended meanwhile is settled when there is room."""
    with small_state("fullstate") as node:
        vps, other = [node.json("create", "--template", "tiny", "--disk", "64M", "--start")["vps"] for _ in range(2)]
        node.run("stop", other, "--force")
        hashes = tree_hash(pool_path(node) / f"{vps}/private")
        filler = fill(node)
        refusals = 0
        for n in range(200):
            done = node.run("set", other, f"processes={5000 + n}", "--no-wait", "--json", check=False)
            if done.returncode:
                error = json.loads(done.stdout)["error"]
                assert error["code"] == "state.failed" and "df -h" in error["hint"], error
                refusals += 1
                if refusals > 3:
                    break
        assert refusals > 3, "the state directory never was full"
        assert len(node.json("list")) == 2 and node.show(vps)["state"] == "running"
        node.exec(vps, "sh", "-c", "true")
        filler.unlink()
        operations_over(node)
        node.run("start", other)
        assert len(inits(node)) == 2
        assert tree_hash(pool_path(node) / f"{vps}/private") == hashes
        assert not fsck(node)[0]
        for one in (vps, other):
            node.run("destroy", one, "--yes", "--now")
        assert_no_orphans(node)


def test_a_daemon_on_a_read_only_state_directory_says_so(node):
    """H3, E1: it refuses to start and says what to do; what runs goes on, also when it could be written again."""
    with small_state("rostate") as node:
        vps = node.json("create", "--template", "tiny", "--disk", "64M", "--start")["vps"]
        before = inits(node)
        node.end_daemon()
        done = sh("unshare", "--mount", "--propagation", "private", "sh", "-c",
                  'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$0" serve --state-dir "$1"',
                  MAYFLY, str(node.state), check=False, timeout=60)
        assert done.returncode == 1 and "Read-only" in done.stderr and "next: " in done.stderr, done
        assert inits(node) == before
        node.serve()
        assert inits(node) == before and node.show(vps)["state"] == "running"
        assert not fsck(node)[0]
        node.run("destroy", vps, "--yes", "--now")
