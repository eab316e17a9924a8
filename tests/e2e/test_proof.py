"""Nothing is destroyed for its name: what a person, another node, or an earlier VPS put into the pool stays there."""
import json
import os
import pathlib
import shutil

from backends import only
from harness import MAYFLY, Node, sh, wait_for
from truth import (assert_no_orphans, assert_unchanged, ensure_tiny, inits, marks, operations_over, pool_path, snapshot,
                   subvolumes, tree_hash)


def by_hand(node, name):
    """A dataset that somebody makes in the pool, with something precious in it."""
    node.backend.make(name)
    (pool_path(node) / name / "private/precious").write_text(f"{name} is not yours\n")
    node.backend.release()


def write_mark(node, name, change=None, text=None):
    """A mark as the driver writes them; `change` alters it."""
    vps, _, run = name.removeprefix("trash/").partition(".impermanence-")
    incarnation = node.show(vps)["incarnation"] if vps.isdigit() else "0" * 32
    mark = {"node": node.id, "owner": [int(vps) if vps.isdigit() else 100, incarnation], "role": "temporary",
            "run": run or "abcdef", "made_as": name, "condemned_by": None, **(change or {})}
    node.backend.write_mark(name, mark, text)


def remove_by_hand(node, names):
    for name in names:
        node.backend.destroy(name)


def strangers(node, vps):
    """Subvolumes with every way in which a mark can fail to be a proof; {name: its hash}."""
    ways = {
        f"{vps}.impermanence-aaaaa1": None,
        f"{vps}.impermanence-aaaaa2": {"node": "0123456789abcdef"},
        f"{vps}.impermanence-aaaaa3": {"owner": [vps, "f" * 32]},
        f"{vps}.impermanence-aaaaa4": {"owner": [vps + 1, node.show(vps)["incarnation"]]},
        f"{vps}.impermanence-aaaaa5": {"made_as": f"{vps}.impermanence-bbbbbb"},
        f"{vps}.impermanence-aaaaa6": {"run": None},
        f"{vps}.impermanence-aaaaa7": {"role": "persistent"},
        f"{vps}.impermanence-aaaaa8": {"owner": None},
        "trash/by-hand": None,
        f"trash/{vps}.impermanence-aaaaa9": {},
        "trash/foreign": {"node": "0123456789abcdef", "condemned_by": "0" * 20},
    }
    for name, change in ways.items():
        by_hand(node, name)
        if change is not None:
            write_mark(node, name, change)
    return {name: tree_hash(pool_path(node) / name) for name in ways}


def assert_there(node, hashes):
    lost = [name for name, value in hashes.items() if tree_hash(pool_path(node) / name) != value]
    assert not lost, f"destroyed or changed: {lost}"


def assert_reported(node, names):
    # What is being worked at is passed over for a moment.
    wait_for(f"`pool show` speaks of {names}", lambda: all(
        any(name in report for report in node.json("pool", "show")["reports"]) for name in names), 10)
    plain = node.run("pool", "show").stdout
    assert all(name in plain for name in names)


@only("btrfs", "a directory of the pool may be no dataset")
def test_what_is_not_proven_survives_everything(node):
    """R9, H2: made by hand, without a mark, with one of another node, incarnation, name or kind; in the graveyard too."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        hashes = strangers(node, vps)
        plain = f"{vps}.impermanence-aaaaa0"
        (pool_path(node) / plain).mkdir()
        (pool_path(node) / plain / "precious").write_text("a directory, no subvolume")
        try:
            for happens in (node.restart_daemon, lambda: node.run("restart", vps, "--force"),
                            lambda: node.run("stop", vps, "--force"), lambda: node.run("start", vps),
                            lambda: node.run("stop", vps, "--force", "--discard"), node.restart_daemon):
                happens()
                operations_over(node)
                assert_there(node, hashes)
                assert (pool_path(node) / plain / "precious").exists()
                assert_reported(node, hashes)
            node.run("destroy", vps, "--yes", "--now")
            assert_there(node, hashes)
            assert_reported(node, hashes)
            # H2: a new VPS of the number is not taken in by what bears the number.
            again = node.json("create", "--template", "tiny", "--disk", "64M", "--id", vps, "--start")["vps"]
            assert again == vps
            node.run("restart", vps, "--force")
            node.restart_daemon()
            assert_there(node, hashes)
            assert_reported(node, hashes)
            node.run("destroy", vps, "--yes", "--now")
            assert_there(node, hashes)
        finally:
            remove_by_hand(node, hashes)
            shutil.rmtree(pool_path(node) / plain)
        assert_no_orphans(node)


def test_a_mark_that_cannot_be_read_is_not_the_same_as_none(node):
    """R9: a look that failed is not proof; a destroy would take away the only record that could tell whose it is."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        bad = {
            f"{vps}.impermanence-ccccc1": "{ this is no mark",
            f"{vps}.impermanence-ccccc2": json.dumps({"version": 99, "uuid": "", "mark": {}}),
        }
        for name, text in bad.items():
            by_hand(node, name)
            write_mark(node, name, text=text)
        copied = f"{vps}.impermanence-ccccc3"
        by_hand(node, copied)
        # The very mark of the present root, under the UUID of another dataset.
        root = node.show(vps)["run"]["root"]
        write_mark(node, copied, text=marks(node)[subvolumes(node)[root]])
        hashes = {name: tree_hash(pool_path(node) / name) for name in [*bad, copied]}
        try:
            node.restart_daemon()
            node.run("restart", vps, "--force")
            assert_there(node, hashes)
            assert_reported(node, hashes)
            before = snapshot(node)
            node.refused("host.could_not_look", "destroy", vps, "--yes")
            assert_unchanged(node, before)
            assert_there(node, hashes)
        finally:
            remove_by_hand(node, hashes)


@only("btrfs", "subvolumes can lie in the tree of a dataset")
def test_destroy_is_refused_where_something_else_lies_below(node):
    """R9, E2: a subvolume that is not the VPS's, below its dataset or in its tree."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        node.run("stop", vps, "--force")
        node.run("dataset", "set", vps, "quota=256M")
        node.run("dataset", "create", f"{vps}/data", "--quota", "32M", "--mount", "/data")
        node.run("start", vps)
        pid = node.show(vps)["run"]["init_pid"]
        for place in (f"{vps}/by-hand", f"{vps}/private/by-hand", f"{vps}/data/private/deep"):
            by_hand(node, place)
            before = snapshot(node)
            refused = node.refused("storage.not_ours", "destroy", vps, "--yes")
            assert place in refused.message, refused.message
            assert_unchanged(node, before)
            assert (pool_path(node) / place / "private/precious").exists()
            assert node.show(vps)["run"]["init_pid"] == pid, "the VPS was stopped for a refusal"
            if "data" in place:
                node.run("stop", vps, "--force")
                before = snapshot(node)
                node.refused("storage.not_ours", "dataset", "destroy", f"{vps}/data", "--yes", "--force")
                assert_unchanged(node, before)
            remove_by_hand(node, [place])


@only("btrfs", "subvolumes can lie in the tree of a dataset")
def test_something_in_a_temporary_root_is_not_destroyed_with_it(node):
    """R9: a subvolume that a person put into a root stays when that root gives way, and the VPS runs all the same."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        root = node.show(vps)["run"]["root"]
        inside = f"{root}/private/by-hand"
        by_hand(node, inside)
        node.run("restart", vps, "--force")
        assert node.show(vps)["run"]["root"] != root and len(inits(node, vps)) == 1
        stays = f"{root}: it is not destroyed"
        wait_for("it is told that the old root stays", lambda: any(stays in r for r in node.json("pool", "show")["reports"]), 10)
        before = snapshot(node)
        refused = node.refused("storage.not_ours", "destroy", vps, "--yes")
        assert inside in refused.message, refused.message
        assert_unchanged(node, before)
        node.run("stop", vps, "--force", "--discard")
        node.restart_daemon()
        assert (pool_path(node) / inside / "private/precious").exists(), f"destroyed: {node.in_pool()}"
        assert_reported(node, [inside])
        remove_by_hand(node, [inside])
        node.run("start", vps)
        wait_for("the old root goes", lambda: len(node.temporary_roots(vps)) == 1, 40)
        assert_no_orphans(node)


def test_an_id_used_again_never_sees_its_predecessor(node):
    """H2: no data, no console, no root of the predecessor, also while that one is still being destroyed."""
    ensure_tiny(node)
    with node.vps("tiny", "--id", 9001, wait=False) as vps:
        secret = pool_path(node) / f"{vps}/private/secret"
        secret.write_text("of the predecessor")
        node.exec(vps, "sh", "-c", "echo predecessor-on-the-console > /dev/console")
        wait_for("the console has it", lambda: "predecessor-on" in node.run("logs", vps).stdout)
        old = node.show(vps)
        node.run("destroy", vps, "--yes")
        made = node.json("create", "successor", "--template", "tiny", "--disk", "64M", "--id", vps, "--start")
        assert made["vps"] == vps
        new = node.show(vps)
        assert new["incarnation"] != old["incarnation"]
        assert node.exec(vps, "ls", "-A", "/persistent") == ""
        assert "predecessor-on" not in node.run("logs", vps).stdout
        assert not os.path.exists(pool_path(node) / f"{vps}/private/secret")
        wait_for("the graves are empty", lambda: not node.graves(), 40)
        assert_no_orphans(node)


def test_an_id_whose_dataset_lies_in_the_pool_is_refused(node):
    """H2, E2: data of nobody under the name of a VPS to be is not taken over, and not destroyed by the undo."""
    ensure_tiny(node)
    by_hand(node, "9002")
    try:
        wait_for("what an earlier test destroyed is gone", lambda: not node.graves(), 40)
        before = snapshot(node)
        refused = node.refused("storage.not_ours", "create", "--template", "tiny", "--disk", "64M", "--id", 9002)
        assert "9002" in refused.message
        assert_unchanged(node, before)
        assert (pool_path(node) / "9002/private/precious").exists()
    finally:
        remove_by_hand(node, ["9002"])


def test_a_state_database_from_before_reaps_nothing(node):
    """R9, H4: a VPS that the database does not know is neither reaped nor killed; it is told."""
    ensure_tiny(node)
    saved = node.dir / "saved"

    def database():
        return [p for p in node.state.iterdir() if p.name.startswith("state.db")]

    node.end_daemon()
    saved.mkdir()
    for path in database():
        shutil.copy2(path, saved)
    node.serve()
    vps = node.create("tiny", wait=False)
    (pool_path(node) / f"{vps}/private/kept").write_text("kept")
    root, pid = node.show(vps)["run"]["root"], node.show(vps)["run"]["init_pid"]
    node.end_daemon()
    newer = node.dir / "newer"
    newer.mkdir()
    for path in database():
        shutil.move(path, newer / path.name)
    for path in saved.iterdir():
        shutil.copy2(path, node.state / path.name)
    try:
        node.serve()
        assert vps not in [v["id"] for v in node.json("list")]
        node.restart_daemon()
        assert (pool_path(node) / f"{vps}/private/kept").read_text() == "kept"
        assert (pool_path(node) / root / "private").is_dir()
        assert inits(node, vps) == [(pid, f"{root}/private")], "the guest was ended"
        assert_reported(node, [str(vps), root])
        before = snapshot(node)
        node.refused("state.behind", "create", "--template", "tiny", "--disk", "64M", "--id", vps)
        assert_unchanged(node, before)
    finally:
        node.end_daemon()
        for path in database():
            path.unlink()
        for path in newer.iterdir():
            shutil.move(path, node.state / path.name)
        shutil.rmtree(saved)
        shutil.rmtree(newer)
        node.serve()
    assert node.show(vps)["run"]["init_pid"] == pid
    node.run("destroy", vps, "--yes")
    assert_no_orphans(node)


@only("btrfs", "a pool in a file")
def test_a_pool_of_another_node_is_refused(node):
    """R9, E1: by init, and by serve when the pool was changed under it."""
    before = snapshot(node)
    pool = f"loop:{node.pool_file},size={node.size},sparse"
    other = Node("foreign", size="256M")
    try:
        done = sh(MAYFLY, "init", "--pool", pool, "--state-dir", str(other.state), "--no-network", "--json", check=False)
        error = json.loads(done.stdout)["error"]
        assert done.returncode == 1 and error["code"] == "pool.foreign", done
        assert str(node.pool_file) in error["message"] and error["hint"]
        assert not (other.state / "node.json").exists()
        other.init()
        document = json.loads((other.state / "node.json").read_text())
        document["pool"]["file"] = str(node.pool_file)
        right = (other.state / "node.json").read_text()
        (other.state / "node.json").write_text(json.dumps(document))
        done = sh(MAYFLY, "serve", "--state-dir", str(other.state), "--json", check=False)
        assert done.returncode == 1 and json.loads(done.stdout)["error"]["code"] == "pool.foreign", done
        (other.state / "node.json").write_text(right)
    finally:
        other.remove()
    assert_unchanged(node, before)
    assert not other.leftovers(), other.leftovers()


def test_what_nobody_recorded_in_the_staging_area_stays(node):
    """R9: half-made datasets are removed by their intent, of this node, and never by their place."""
    by_hand(node, ".mayfly/staging/by-hand")
    by_hand(node, ".mayfly/staging/foreign")
    intent = pathlib.Path(pool_path(node) / ".mayfly/intents/foreign")
    intent.symlink_to(json.dumps({"version": 1, "node": "0123456789abcdef", "name": "foreign"}))
    try:
        node.restart_daemon()
        for name in ("by-hand", "foreign"):
            assert (pool_path(node) / f".mayfly/staging/{name}/private/precious").exists(), f"{name} was destroyed"
            assert f"staging/{name}" in node.log_end(40), f"nothing was said of {name}"
    finally:
        (pool_path(node) / ".mayfly/intents/foreign").unlink()
        remove_by_hand(node, [".mayfly/staging/by-hand", ".mayfly/staging/foreign"])
