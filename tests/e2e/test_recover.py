"""A lost, damaged or outdated state database: nothing is destroyed, VPSes run on, and `mayfly recover` rebuilds it."""
import json
import os
import shutil
import signal
import sqlite3
import time

from harness import MAYFLY, Node, sh, wait_for
from test_fsck import fsck
from truth import assert_no_orphans, inits, operations_over, own_node, pool_path, subvolumes, tree_hash


def kept(node, vps):
    return tree_hash(pool_path(node) / f"{vps}/private")


def database(node):
    """Its files; the daemon has ended, so that they are whole."""
    return [p for p in (node.state / f"state.db{end}" for end in ("", "-wal", "-shm")) if p.exists()]


def recover(node, *words):
    done = node.run("recover", "--json", *words, check=False)
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def refused_to_serve(node):
    done = sh("timeout", "60", MAYFLY, "serve", "--state-dir", str(node.state), check=False)
    assert done.returncode == 1 and "mayfly recover" in done.stderr, done
    return done.stderr


def test_a_lost_database_is_rebuilt_and_vpses_do_not_notice(node):
    """H4: from mirrors and marks; a second time there is nothing to do."""
    with own_node(Node, "lost") as node:
        ids = [node.json("create", "--template", "tiny", "--disk", "64M", "--start")["vps"] for _ in range(2)]
        for vps in ids:
            node.exec(vps, "sh", "-c", "echo dear > /persistent/kept")
        os.sync()
        node.run("stop", ids[1], "--force")
        shown = [node.show(vps) for vps in ids]
        hashes, alive, there = [kept(node, vps) for vps in ids], inits(node), subvolumes(node)
        assert recover_is_refused(node)
        node.end_daemon()
        for path in database(node):
            path.unlink()
        refused_to_serve(node)
        assert fsck(node)[0].get("state.unreadable") == ["state.db"]
        planned = recover(node, "--dry-run")
        assert planned["needed"] and not planned["written"] and not database(node)
        done = recover(node)
        assert done["written"] and {v["id"] for v in done["vpses"]} == set(ids), done
        assert done["notes"], "it says what it could not know"
        assert not recover(node)["needed"]
        node.serve()
        assert inits(node) == alive, "they run on"
        assert subvolumes(node) == there
        assert [kept(node, vps) for vps in ids] == hashes
        again = [node.show(vps) for vps in ids]
        for old, new in zip(shown, again):
            assert {k: old[k] for k in ("hostname", "state", "mounts", "last_root")} == \
                   {k: new[k] for k in ("hostname", "state", "mounts", "last_root")}
        assert not fsck(node)[0]
        node.run("restart", ids[0], "--force")
        node.run("start", ids[1])
        assert node.exec(ids[1], "cat", "/persistent/kept") == "dear"
        assert_no_orphans(node)
        for vps in ids:
            node.run("destroy", vps, "--yes", "--now")


def recover_is_refused(node):
    done = node.run("recover", check=False)
    return done.returncode == 1 and "node.busy" in done.stderr and "systemctl stop" in done.stderr


def test_after_an_old_copy_was_put_back_nothing_is_reaped(node):
    """H4, H2: last roots, templates, VPSes and runs that the copy does not know stay, and all of it is told."""
    with own_node(Node, "oldcopy") as node:
        known = node.json("create", "--template", "tiny", "--disk", "64M", "--start")["vps"]
        node.end_daemon()
        copies = [(path, path.with_name("copy-" + path.name)) for path in database(node)]
        for path, copy in copies:
            shutil.copy2(path, copy)
        node.serve()
        node.run("restart", known, "--force")
        later = node.json("create", "--template", "tiny", "--disk", "64M", "--start")["vps"]
        node.run("stop", later, "--force")
        [last_root] = node.temporary_roots(later)
        wait_for("graves are empty", lambda: not node.graves(), 40)
        alive, there = inits(node), subvolumes(node)
        node.end_daemon()
        for path in database(node):
            path.unlink()
        for path, copy in copies:
            shutil.copy2(copy, path)
        node.serve()
        # The reaper looks every thirty seconds, and at once when it starts.
        time.sleep(35)
        assert subvolumes(node) == there and last_root in there, "something was reaped"
        assert inits(node) == alive, "something was started or ended"
        for verb in (["start", known], ["stop", known, "--force"], ["destroy", known, "--yes"],
                     ["create", "--template", "tiny"], ["template", "remove", "tiny"]):
            refused = node.refused("state.behind", *verb)
            assert "mayfly recover" in refused.hint
        trouble = "\n".join(node.json("status")["trouble"])
        assert "an older copy of it was put back" in trouble and str(later) in trouble, trouble
        assert fsck(node, "--repair")[0] == {"state.behind": ["state.db"]}
        node.end_daemon()
        done = recover(node)
        assert {v["id"] for v in done["vpses"]} == {known, later} and os.path.exists(done["kept"]), done
        node.serve()
        time.sleep(1)
        assert inits(node) == alive and last_root in subvolumes(node)
        assert node.show(later)["last_root"] == last_root
        assert not fsck(node)[0]
        for vps in (known, later):
            node.run("destroy", vps, "--yes", "--now")


def test_a_damaged_document_disables_its_vps_alone(node):
    """H4: the others are listed and go on; the document is put back."""
    with own_node(Node, "damaged") as node:
        bad, good = [node.json("create", "--template", "tiny", "--disk", "64M", "--start")["vps"] for _ in range(2)]
        node.run("stop", bad, "--force")
        [root] = node.temporary_roots(bad)
        node.end_daemon()
        change(node, "UPDATE entries SET value = substr(value, 1, 40) WHERE key = ?", f"/vps/{bad}")
        node.serve()
        assert [v["id"] for v in node.json("list")] == [good]
        refused = node.refused("state.failed", "show", bad)
        assert "mayfly fsck" in refused.hint
        assert any(f"/vps/{bad}" in line for line in node.json("status")["trouble"])
        node.run("restart", good, "--force")
        assert root in subvolumes(node)
        assert fsck(node)[0] == {"document.bad": [f"/vps/{bad}"]}
        answer = fsck(node, "--repair")[1]
        assert [one["code"] for one in answer["mended"]] == ["document.bad"], answer
        assert not fsck(node)[0]
        node.run("start", bad)
        assert len(node.json("list")) == 2
        for vps in (bad, good):
            node.run("destroy", vps, "--yes", "--now")


def test_a_damaged_database_says_what_to_type_and_is_rebuilt(node):
    """H4: not a database any more."""
    with own_node(Node, "garbage") as node:
        vps = node.json("create", "--template", "tiny", "--disk", "64M")["vps"]
        node.end_daemon()
        path = node.state / "state.db"
        # A whole log would mend it.
        for log in database(node)[1:]:
            log.unlink()
        path.write_bytes(b"garbage " * (path.stat().st_size // 8))
        refused_to_serve(node)
        assert "state.unreadable" in fsck(node)[0]
        done = recover(node)
        assert [v["id"] for v in done["vpses"]] == [vps]
        assert (node.state / "state.db.before-recover-1").read_bytes().startswith(b"garbage")
        node.serve()
        node.run("start", vps)
        assert not fsck(node)[0]
        node.run("destroy", vps, "--yes", "--now")


def test_recover_killed_anywhere_is_finished_by_the_next(node):
    """R9, H4: whatever it leaves, no daemon trusts half of it."""
    with own_node(Node, "cutrecover") as node:
        vps = node.json("create", "--template", "tiny", "--disk", "64M", "--start")["vps"]
        node.end_daemon()
        for point in ("recover.after_write", "recover.after_log", "recover.after_exchange"):
            # One document that cannot be used, and a log that was not taken up.
            change(node, "UPDATE entries SET value = '7' WHERE key = ?", f"/vps/{vps}")
            died = sh("env", f"MAYFLY_CRASH_AT={point}", MAYFLY, "recover", "--state-dir", str(node.state), check=False)
            assert died.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), f"{point}: {died}"
            recover(node)
            assert not recover(node)["needed"]
            node.serve()
            assert node.show(vps)["state"] == "running", f"killed at {point}"
            assert not fsck(node)[0], f"killed at {point}"
            operations_over(node)
            node.end_daemon()
        kept = sorted(name for name in os.listdir(node.state) if name.startswith("state.db"))
        assert kept[0] == "state.db" and len(kept) >= 4, kept
        assert "state.db.recovering" not in kept
        node.serve()
        node.run("destroy", vps, "--yes", "--now")


def change(node, statement, *values):
    """Changes the database by hand while no daemon runs."""
    with sqlite3.connect(node.state / "state.db") as db:
        done = db.execute(statement, values)
        assert done.rowcount == 1
    db.close()
