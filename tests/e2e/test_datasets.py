"""Disk space: datasets and their quotas."""
import os

from harness import wait_for

MIB = 1 << 20


def dataset(node, vps, name=""):
    return next(d for d in node.json("dataset", "list", vps) if d["name"] == name)


def test_the_sum_of_quotas_is_the_disk_space_at_most(node):
    """D1: too much is refused with what is free and which dataset to shrink; the hint works."""
    with node.vps(start=False) as vps:
        assert dataset(node, vps)["quota_bytes"] == 1024 * MIB, "the root dataset takes what the others leave"
        refused = node.refused("dataset.disk_space", "dataset", "create", f"{vps}/data", "--quota", "400M")
        assert "0B" in refused.message and f"mayfly dataset set {vps} quota=624M" in refused.hint, refused.hint
        assert not os.path.exists(f"/proc/{node.daemon.pid}/root{node.state}/pool/{vps}/data")
        node.run(*refused.hint.split("mayfly ")[1].split())
        node.run("dataset", "create", f"{vps}/data", "--quota", "400M")
        refused = node.refused("dataset.disk_space", "dataset", "set", vps, "quota=625M")
        assert f"{vps}/data" in refused.hint
        node.refused("input.invalid", "dataset", "set", vps, "quota=1M")
        assert {d["name"]: d["quota_bytes"] // MIB for d in node.json("dataset", "list", vps)} == {"": 624, "data": 400}
        assert node.show(vps)["disk_unassigned_bytes"] == 0


def test_a_quota_holds_and_changes_on_a_running_vps(node):
    """D1: EDQUOT inside, more at once, below use refused, what is used is shown."""
    with node.vps(wait=False) as vps:
        write = ("dd", "if=/dev/zero", "bs=1M", "conv=fsync")
        node.run("dataset", "set", vps, "quota=100M")
        full = node.exec(vps, *write, "of=/persistent/a", "count=150", check=False)
        assert full.returncode == 1 and "Disk quota exceeded" in full.stderr, full
        node.exec(vps, "touch", "/in-the-root")
        node.run("dataset", "set", vps, "quota=200M")
        node.exec(vps, *write, "of=/persistent/b", "count=60")
        used = dataset(node, vps)["used_bytes"]
        assert 140 * MIB < used < 170 * MIB, used
        refused = node.refused("dataset.quota_below_use", "dataset", "set", vps, "quota=50M")
        assert dataset(node, vps)["quota_bytes"] == 200 * MIB
        assert "M at least" in refused.hint or "delete" in refused.hint, refused.hint
        node.exec(vps, "sh", "-c", "rm /persistent/a /persistent/b; sync")
        wait_for("the space is back", lambda: dataset(node, vps)["used_bytes"] < 10 * MIB, 40, 0.5)
        node.run("dataset", "set", vps, "quota=50M")
        assert node.exec(vps, *write, "of=/persistent/c", "count=60", check=False).returncode == 1


def test_subdatasets_at_any_depth(node):
    """D2: nested names, on a running VPS; what they hold first; reserved names."""
    with node.vps(wait=False) as vps:
        node.run("dataset", "set", vps, "quota=512M")
        wait_for("the graves are gone", lambda: not node.graves())
        before = node.in_pool()
        for name in ("private", "trash", "a/private", f"{vps}.impermanence-abcdef", "a.rescue-1", ".x", "a//b", "../x"):
            done = node.run("dataset", "create", f"{vps}/{name}", "--quota", "16M", check=False)
            assert done.returncode in (1, 2) and done.stderr, name
        refused = node.refused("dataset.not_found", "dataset", "create", f"{vps}/a/b", "--quota", "16M")
        assert f"{vps}/a" in refused.message
        for name in ("a", "a/b", "a/b/c"):
            node.run("dataset", "create", f"{vps}/{name}", "--quota", "16M")
        node.refused("dataset.exists", "dataset", "create", f"{vps}/a/b", "--quota", "16M")
        with node.pool() as pool:
            assert os.listdir(pool / f"{vps}/a/b/c") == ["private"]
            assert sorted(os.listdir(pool / f"{vps}/a")) == ["b", "private"]
        assert node.in_pool() == before, "they lie in the VPS's own"

        node.run("stop", vps, "--force")
        refused = node.refused("dataset.in_use", "dataset", "destroy", f"{vps}/a", "--yes", "--force")
        assert f"{vps}/a/b" in refused.message and "destroy" in refused.hint
        for name in ("a/b/c", "a/b", "a"):
            node.run("dataset", "destroy", f"{vps}/{name}", "--yes")
        assert [d["name"] for d in node.json("dataset", "list", vps)] == [""]
        with node.pool() as pool:
            assert os.listdir(pool / str(vps)) == ["private"]
        wait_for("the graveyard is empty", lambda: not node.graves())


def test_a_dataset_is_made_and_mounted_at_once_and_not_destroyed_while_mounted(node):
    """D2, D4: refused without --force, and in any case without --yes; nothing is lost by a refusal."""
    with node.vps(start=False) as vps:
        node.run("dataset", "set", vps, "quota=512M")
        node.run("dataset", "create", f"{vps}/data", "--quota", "64M", "--mount", "/srv/data")
        node.run("start", vps)
        node.exec(vps, "sh", "-c", "echo precious > /srv/data/file")
        assert node.exec(vps, "findmnt", "-no", "FSROOT", "/srv/data") == f"/{vps}/data/private"
        assert dataset(node, vps, "data")["mounted_at"] == ["/srv/data"]
        node.refused("vps.running", "dataset", "destroy", f"{vps}/data", "--yes", "--force")
        node.run("stop", vps, "--force")
        refused = node.refused("dataset.in_use", "dataset", "destroy", f"{vps}/data", "--yes")
        assert "/srv/data" in refused.message and "mount remove" in refused.hint
        node.refused("input.invalid", "dataset", "destroy", f"{vps}/data", "--force")
        with node.pool() as pool:
            assert (pool / str(vps) / "data/private/file").read_text() == "precious\n"
        node.run("dataset", "destroy", f"{vps}/data", "--yes", "--force")
        assert [m["path"] for m in node.json("mount", "list", vps)] == ["/persistent"]
        node.run("start", vps)
        assert node.exec(vps, "ls", "/srv/data", check=False).returncode == 2


def test_the_pool_is_not_promised_more_than_twice(node):
    """D1: the ratio is shown, more than 200 % is refused."""
    node.ensure_template("debian-12")
    space = node.json("pool", "show")["space"]
    assert space["promised_percent"] == space["promised_bytes"] * 100 // space["capacity_bytes"]
    refused = node.refused("pool.full", "create", "--template", "debian-12", "--disk", "100G")
    assert "200 %" in refused.message
    assert not [v for v in node.json("list") if v["disk_bytes"] == 100 << 30], "its number is free again"
