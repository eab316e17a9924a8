"""I3: what reinstalls put aside, with the snapshots that others made of it; how it is bounded and given up."""
import contextlib

from backends import NAME, PARENT
from harness import sh, wait_for
from persist import storage, template
from test_alive import edit_document
from test_reinstall import asides
from truth import assert_no_orphans, operations_over, tree_hash

DAYS = 7 * 24 * 3600 * 1000


@contextlib.contextmanager
def snapshot(node, vps, name):
    """A snapshot of a root dataset as an operator makes it: on ZFS it is part of the dataset, on btrfs one of its own that
    lies in the pool. What is yielded looks where it is now, and what it holds."""
    if NAME == "zfs":
        sh("zfs", "snapshot", f"{PARENT}/{node.dir.name}/{vps}@{name}")
        yield lambda: zfs_snapshots(node, name)
        return
    place = f"{name}-{vps}"
    sh("btrfs", "subvolume", "snapshot", "-r", node.backend.path() / str(vps), node.backend.path() / place)
    held = tree_hash(node.backend.path() / place / "private", times=True)

    def where():
        assert tree_hash(node.backend.path() / place / "private", times=True) == held, "the snapshot is another"
        return [place]

    try:
        yield where
    finally:
        node.backend.destroy(place)


def zfs_snapshots(node, name):
    """The datasets in the pool that have a snapshot of that name."""
    node.backend.release()
    pool = f"{PARENT}/{node.dir.name}"
    listed = sh("zfs", "list", "-H", "-r", "-t", "snapshot", "-o", "name", pool).stdout.split()
    return [one.removeprefix(f"{pool}/").split("@")[0] for one in listed if one.endswith(f"@{name}")]


def written(node, vps, text):
    """Something dear in the root dataset of a VPS that is stopped, counted by the pool."""
    with node.pool():
        top = storage(node, vps)
        (top / "kept").write_text(text)
        (top / "big").write_bytes(bytes(range(256)) * 8192)
        sh("sync", "-f", top)
    wait_for("it is counted", lambda: node.show(vps)["datasets"][0]["used_bytes"] > 2_000_000)


def hash_of(node, name):
    with node.pool() as pool:
        return tree_hash(pool / str(name) / "private", times=True)


def test_each_scope_with_snapshots_of_others(node):
    """I1, I2, I3: a persistent root, and each scope of an impermanent VPS: bytes told before, a snapshot that stays with what
    it is of, the same tree after the undo."""
    with template(node, "whole", impermanence=False) as whole, template(node, "other", impermanence=False) as other, \
            template(node, "first") as first, template(node, "second") as second:
        for of, to, scope in ((whole, other, None), (first, second, "os"), (first, second, "data"), (first, second, "all")):
            words = ["--scope", scope] if scope else []
            replaces = scope != "os"
            with node.vps(of, "--disk", "256M", start=False) as vps:
                written(node, vps, "dear")
                before = hash_of(node, vps)
                with snapshot(node, vps, "daily") as where:
                    verb = ["reinstall", vps, "--template", to, *words]
                    steps = [step["step"] for step in node.json(*verb, "--dry-run")["plan"]["steps"]]
                    told = sum(step.get("used_bytes", 0) for step in steps)
                    assert told > 2_000_000 if replaces else told == 0, f"{scope}: {told}"
                    node.run(*verb, "--yes")
                    shown = node.show(vps)
                    assert shown["template"] == (first if scope == "data" else to), shown["template"]
                    (kept,) = shown["replaced"]
                    assert kept["used_bytes"] == told and asides(node, vps) == kept["datasets"], kept
                    assert len(kept["datasets"]) == int(replaces), kept
                    at = kept["datasets"][0] if replaces else str(vps)
                    assert hash_of(node, at) == before, scope
                    assert where() == ([at] if NAME == "zfs" else [f"daily-{vps}"]), where()

                    # A snapshot of what came since goes by force only.
                    undo = ["reinstall", vps, "--undo", "--yes"]
                    with snapshot(node, vps, "since") as since:
                        if NAME == "zfs" and replaces:
                            refused = node.refused("dataset.in_use", *undo)
                            assert "since" in refused.message and "--force" in refused.hint, refused
                            assert hash_of(node, at) == before and since() == [str(vps)]
                            undo.append("--force")
                        node.run(*undo)
                    assert hash_of(node, vps) == before and node.show(vps)["replaced"] == [], scope
                    assert where() == ([str(vps)] if NAME == "zfs" else [f"daily-{vps}"]), where()
        assert_no_orphans(node)


def test_no_more_than_three_are_kept_until_they_are_given_up(node):
    """I3: a fourth is refused and says what to do; asked for, all of them go."""
    with template(node, "whole", impermanence=False) as name, node.vps(name, "--disk", "256M", start=False) as vps:
        verb = ["reinstall", vps, "--template", name, "--yes"]
        for _ in range(3):
            node.run(*verb)
        refused = node.refused("vps.reinstalls_kept", *verb)
        assert "--forget" in refused.hint and "--undo" in refused.hint, refused
        assert len(asides(node, vps)) == 3
        forget = ["reinstall", vps, "--forget"]
        refused = node.refused("input.invalid", *forget)
        assert "3 reinstalls are destroyed" in refused.message and "--yes" in refused.hint, refused
        node.run(*forget, "--yes")
        assert node.show(vps)["replaced"] == [] and asides(node, vps) == []
        node.refused("input.invalid", *forget, "--yes")
        assert_no_orphans(node)


def test_neither_age_nor_forgetting_takes_snapshots_of_others(node):
    """I3: when the days are over, and when it is asked for, what is kept goes, and no snapshot with it but by force."""
    with template(node, "whole", impermanence=False) as name, node.vps(name, "--disk", "256M", start=False) as vps:
        verb, forget = ["reinstall", vps, "--template", name, "--yes"], ["reinstall", vps, "--forget"]
        written(node, vps, "dear")
        with snapshot(node, vps, "daily") as where:
            node.run(*verb)
            (aside,) = asides(node, vps)
            node.end_daemon()
            edit_document(node, vps, lambda document: document["replaced"][0].update(kept_ms=DAYS))
            node.serve()
            operations_over(node)
            if NAME == "zfs":
                (kept,) = node.show(vps)["replaced"]
                assert "daily" in kept["held_by"] and kept["kept_for_ms"] == 0, kept
                assert f"beyond its days: {aside} has a snapshot, daily" in node.run("show", vps).stdout
                refused = node.refused("dataset.in_use", *forget, "--yes")
                assert aside in refused.message and "daily" in refused.message, refused
                assert asides(node, vps) == [aside] and where() == [aside]
                node.run(*forget, "--yes", "--force")
            else:
                assert where() == [f"daily-{vps}"]
            wait_for("it is given up", lambda: node.show(vps)["replaced"] == [] and not asides(node, vps))
        assert_no_orphans(node)


def test_what_is_not_the_vpss_own_stops_a_reinstall_before_it_begins(node):
    """E2: a dataset that somebody has put into the root dataset would go aside with it."""
    with template(node, "whole", impermanence=False) as name, node.vps(name, "--disk", "256M", start=False) as vps:
        node.backend.make(f"{vps}/theirs")
        try:
            refused = node.refused("storage.not_ours", "reinstall", vps, "--template", name, "--yes")
            assert f"{vps}/theirs" in refused.message, refused
            assert node.show(vps)["replaced"] == [] and asides(node, vps) == []
        finally:
            node.backend.destroy(f"{vps}/theirs")
