"""The daemon killed at every point of a change of mounts of a VPS that runs; then started again."""
import pathlib

from harness import wait_for
from test_crash import Kept, cut, each, step_points
from truth import assert_no_orphans, ensure_tiny


def shown(node, vps, path):
    """How many mounts the guest's first process has there."""
    pid = node.show(vps)["run"]["init_pid"]
    lines = pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return sum(line.split(" ")[4] == path for line in lines)


def test_a_change_of_mounts_killed_anywhere_is_finished(node):
    """D3, R9: record and guest agree afterwards, nothing is shown twice, and the run goes on."""
    ensure_tiny(node)
    kept = Kept(node)
    node.run("start", kept.id)
    init = node.show(kept.id)["run"]["init_pid"]
    add, remove = ("mount", "add", kept.id, "/more"), ("mount", "remove", kept.id, "/more")
    for change, other, wanted in ((add, remove, 1), (remove, add, 0)):

        def once(point):
            cut(node, point, *change)
            kept.assert_intact()
            assert_no_orphans(node)
            assert shown(node, kept.id, "/more") == wanted
            assert [m["path"] for m in node.show(kept.id)["mounts"]].count("/more") == wanted
            assert node.show(kept.id)["run"]["init_pid"] == init, "it was restarted"
            node.run(*other)

        each(step_points(node, *change), once)
        node.run(*change)
    kept.destroy()


def test_a_dataset_made_and_shown_killed_anywhere_is_finished(node):
    """D4, R9."""
    ensure_tiny(node)
    kept = Kept(node)
    node.run("start", kept.id)
    make = ("dataset", "create", f"{kept.id}/more", "--quota", "16M", "--mount", "/more")

    def once(point):
        cut(node, point, *make)
        kept.assert_intact()
        assert_no_orphans(node)
        assert shown(node, kept.id, "/more") == 1
        node.run("mount", "remove", kept.id, "/more")
        node.run("dataset", "destroy", f"{kept.id}/more", "--yes")
        wait_for("it is destroyed", lambda: not node.graves())

    each(step_points(node, *make), once)
    kept.destroy()
