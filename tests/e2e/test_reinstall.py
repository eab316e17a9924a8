"""I: contents are replaced by a template's and come back by an undo; what is no part of the scope stays."""
from harness import wait_for
from persist import in_guest, storage, template
from truth import assert_no_orphans, tree_hash


def asides(node, vps):
    return [name for name in node.in_pool() if name.startswith(f"{vps}.replaced-")]


def test_a_persistent_root_is_replaced_and_comes_back(node):
    """I1, I3: running and stopped; a hash of the tree says that the undo brings back what was."""
    with template(node, "whole", impermanence=False) as name, node.vps(name, "--disk", "256M", wait=False) as vps:
        node.run("dataset", "set", vps, "quota=128M")
        node.run("stop", vps, "--force")
        node.run("dataset", "create", f"{vps}/data", "--quota", "64M", "--mount", "/srv/data")
        node.run("start", vps)
        in_guest(node, vps, "echo old > /kept; echo stays > /srv/data/kept; echo changed > /etc/hostname; "
                            "head -c 3000000 /dev/urandom > /big; sync")
        limits, mounts = node.show(vps)["limits"], node.show(vps)["mounts"]
        node.run("stop", vps, "--force")
        before = tree_hash(storage(node, vps), times=True)
        node.run("start", vps)

        verb = ["reinstall", vps, "--template", name]
        refused = node.refused("input.invalid", *verb)
        assert "put aside" in refused.message and "--yes" in refused.hint, refused
        refused = node.refused("input.invalid", *verb, "--scope", "data", "--yes")
        assert "not impermanent" in refused.message, refused
        (told,) = [step["step"] for step in node.json(*verb, "--dry-run")["plan"]["steps"] if step["step"]["step"] == "exchange"]
        assert told["used_bytes"] > 3_000_000, told
        assert asides(node, vps) == []

        said = node.run(*verb, "--yes").stdout
        assert "kept: " in said and f"mayfly reinstall {vps} --undo" in said, said
        shown = node.show(vps)
        assert shown["state"] == "running" and shown["run"]["init_pid"], shown
        assert (shown["limits"], shown["mounts"]) == (limits, mounts)
        (one,) = shown["replaced"]
        assert one["used_bytes"] > 3_000_000 and asides(node, vps) == one["datasets"], one
        assert one["datasets"][0] in node.run("show", vps).stdout
        got = in_guest(node, vps, "ls /kept /big 2>/dev/null; cat /srv/data/kept /etc/machine-id /etc/hostname").split()
        assert got == ["stays", shown["incarnation"], shown["hostname"]], got
        assert_no_orphans(node)
        assert node.run("fsck", check=False).returncode == 0

        in_guest(node, vps, "echo new > /kept")
        node.run("reinstall", vps, "--undo", "--yes")
        assert in_guest(node, vps, "cat /kept /srv/data/kept").split() == ["old", "stays"]
        node.run("stop", vps, "--force")
        assert tree_hash(storage(node, vps), times=True) == before
        wait_for("what gave way is gone", lambda: not asides(node, vps) and not node.graves())
        node.refused("input.invalid", "reinstall", vps, "--undo", "--yes")

        # One that is stopped stays stopped, and what it has aside goes with it.
        node.run(*verb, "--yes")
        assert node.show(vps)["state"] == "stopped"
        assert tree_hash(storage(node, vps), times=True) != before
        node.run("reinstall", vps, "--undo", "--yes")
        assert tree_hash(storage(node, vps), times=True) == before
        node.run(*verb, "--yes")
    assert not asides(node, vps)
    assert_no_orphans(node)


def test_a_reinstall_that_does_not_start_changes_nothing(node):
    """E2: the new system's init cannot even be executed; the VPS runs again as it was."""
    with template(node, "whole", impermanence=False) as name, \
            template(node, "broken", init="#!/bin/none\n", impermanence=False) as broken, \
            node.vps(name, "--disk", "256M", wait=False) as vps:
        in_guest(node, vps, "echo old > /kept; sync")
        run = node.show(vps)["run"]["id"]
        done = node.run("reinstall", vps, "--template", broken, "--yes", check=False)
        assert done.returncode == 1, done.stdout
        wait_for("it runs again", lambda: (now := node.show(vps)) and now["state"] == "running" and now["run"]["id"] != run
                 and now["run"]["init_pid"])
        assert in_guest(node, vps, "cat /kept") == "old"
        assert node.show(vps)["template"] == name and node.show(vps)["replaced"] == []
        wait_for("nothing is aside", lambda: not asides(node, vps))
        assert_no_orphans(node)


def test_an_impermanent_vps_is_reinstalled_by_scope(node):
    """I2: without a scope it is told what would go, in bytes; each scope replaces what it says."""
    with template(node, "first") as first, template(node, "second") as second, node.vps(first, wait=False) as vps:
        in_guest(node, vps, "echo dear > /persistent/kept; head -c 2000000 /dev/urandom > /persistent/big; sync")
        wait_for("it is counted", lambda: node.show(vps)["datasets"][0]["used_bytes"] > 2_000_000)
        refused = node.refused("input.invalid", "reinstall", vps, "--template", second, "--yes")
        for word in ("os: roots are made from second", "data: ", f"in {vps}", "all: "):
            assert word in refused.message, refused.message

        def scope(which):
            node.run("reinstall", vps, "--template", second, "--scope", which, "--yes")
            shown = node.show(vps)
            kept = in_guest(node, vps, "cat /persistent/kept 2>/dev/null || true")
            return shown["template"], kept, len(asides(node, vps))

        for which, want in (("os", (second, "dear", 0)), ("data", (first, "", 1)), ("all", (second, "", 1))):
            got = scope(which)
            assert got == want, f"{which}: {got}"
            node.run("reinstall", vps, "--undo", "--yes")
            assert in_guest(node, vps, "cat /persistent/kept") == "dear"
            assert node.show(vps)["template"] == first
            wait_for("what gave way is gone", lambda: not asides(node, vps) and not node.graves())
        assert_no_orphans(node)
        # A template that a VPS can go back to stays.
        node.run("reinstall", vps, "--template", second, "--scope", "os", "--yes")
        node.run("restart", vps)
        if node.json("template", "list"):
            node.refused("template.in_use", "template", "remove", first)
