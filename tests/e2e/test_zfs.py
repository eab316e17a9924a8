"""What is true on ZFS alone: what the guest's df shows, snapshots of other people, marks that came with the data, zpools that
cannot be used."""
import contextlib
import json
import os
import pathlib
import re
import subprocess
import tempfile

from harness import MAYFLY, sh, wait_for

BACKENDS = ["zfs"]


def pool_of(node):
    """The dataset that is the node's pool."""
    return json.loads((node.state / "node.json").read_text())["pool"]["dataset"]


def zfs(*words, check=True):
    return sh("zfs", *words, check=check).stdout


def datasets(under, kind="filesystem"):
    return zfs("list", "-H", "-r", "-t", kind, "-o", "name", under).split()


def roots(node, vps):
    return [name for name in datasets(pool_of(node)) if name.startswith(f"{pool_of(node)}/{vps}.impermanence-")]


def graves(node):
    return datasets(f"{pool_of(node)}/trash")[1:]


def settled(node, seconds=60):
    wait_for("the graveyard is empty", lambda: not graves(node), seconds, 0.3)


def mounted(under):
    """Mounts of datasets below one, in any mount namespace that has a process."""
    found = set()
    for table in pathlib.Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            lines = [line.split(" - zfs ") for line in table.read_text(errors="replace").splitlines()]
            found |= {line[1].split()[0] for line in lines if len(line) == 2}
    return {name for name in found if name == under or name.startswith(f"{under}/") or name.startswith(f"{under}.")}


def reports(node):
    return node.json("pool", "show")["reports"]


@contextlib.contextmanager
def scratch_zpool(*options, mirror=False):
    """A zpool of small files, and its files."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        files = [pathlib.Path(directory) / f"disk{n}" for n in range(2 if mirror else 1)]
        for file in files:
            with open(file, "wb") as disk:
                disk.truncate(256 << 20)
        name = f"scratch{os.getpid()}"
        sh("zpool", "create", "-O", "mountpoint=none", *options, name, *(["mirror"] if mirror else []), *map(str, files))
        try:
            yield name, files
        finally:
            sh("zpool", "destroy", "-f", name)


def init(pool, state):
    return sh(MAYFLY, "init", "--pool", f"zfs:{pool}", "--state-dir", str(state), "--no-network", check=False)


def refused(pool, *words):
    """`init` says no, with these words in what it says."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        done = init(pool, pathlib.Path(directory) / "state")
    assert done.returncode == 1, f"{pool}: status {done.returncode}: {done.stdout}{done.stderr}"
    missing = [word for word in words if word not in done.stderr]
    assert not missing, f"{pool}: {missing} is not in: {done.stderr}"
    assert "next: " in done.stderr, done.stderr


def test_df_inside_shows_each_dataset_with_its_quota(node):
    """D5: the picture of the page that Mayfly is built from."""
    with node.vps("nixos-shaped") as vps:
        pool, root = pool_of(node), node.show(vps)["run"]["root"]
        shown = node.exec(vps, "sh", "-c", "df -hT | grep zfs").splitlines()
        seen = {line.split()[6]: (line.split()[0], line.split()[2]) for line in shown}
        assert seen == {
            "/": (f"{pool}/{root}", "10G"),
            "/nix": (f"{pool}/{vps}/nix", "20G"),
            "/persistent": (f"{pool}/{vps}", "4.0G"),
        }, shown
        print("\n".join(f"    {line}" for line in shown), flush=True)


def test_nothing_of_the_pool_is_mounted_on_the_host(node):
    with node.vps() as vps:
        pool = pool_of(node)
        ours = pathlib.Path("/proc/1/mountinfo").read_text()
        assert f" - zfs {pool}" not in ours, ours
        assert f"{pool}/{vps}" in mounted(pool), "the look sees no mounts at all"
        for name in datasets(pool):
            assert zfs("get", "-H", "-o", "value", "mountpoint", name).strip() == "legacy", name
        temporary = roots(node, vps)
        assert len(temporary) == 1
        assert zfs("get", "-H", "-o", "value,source", "com.sun:auto-snapshot", temporary[0]).split() == ["false", "local"]


def test_a_foreign_recursive_snapshot_is_in_nobodys_way(node):
    pool, zpool = pool_of(node), pool_of(node).split("/")[0]
    with node.vps() as vps:
        node.run("exec", vps, "--", "sh", "-c", "echo kept > /persistent/kept; sync")
        zfs("snapshot", "-r", f"{zpool}@daily")
        try:
            before = roots(node, vps)
            assert f"{before[0]}@daily" in datasets(pool, "snapshot")
            node.run("restart", vps)
            node.run("stop", vps)
            node.run("start", vps)
            settled(node)
            now = roots(node, vps)
            assert len(now) == 1 and now != before, (before, now)
            left = [name for name in datasets(pool, "snapshot") if ".impermanence-" in name]
            assert not left, f"snapshots of dead roots are left: {left}"
            assert f"{pool}/{vps}@daily" in datasets(pool, "snapshot"), "the snapshot of persistent data is gone"
            copied(f"{pool}/{vps}@daily", f"{zpool}/copy")
            names = datasets(f"{zpool}/copy")
            assert names == [f"{zpool}/copy"], f"more than the VPS was sent: {names}"
        finally:
            sh("zfs", "destroy", "-r", f"{zpool}/copy", check=False)
            zfs("destroy", "-r", f"{zpool}@daily")


def copied(snapshot, to, *options):
    """`zfs send | zfs receive`, with all that send knows to send along."""
    pipe = f"zfs send {' '.join(options) or '-R'} {snapshot} | zfs receive -u {to}"
    sh("bash", "-o", "pipefail", "-c", pipe)


def test_a_mark_that_proves_nothing_destroys_nothing(node):
    pool = pool_of(node)
    with node.vps() as vps:
        root = roots(node, vps)[0]
        zfs("snapshot", f"{root}@copy")
        strangers = {name: f"{pool}/{vps}.impermanence-{name}" for name in ("aaaaa1", "aaaaa2", "aaaaa3", "aaaaa4")}
        grave = f"{pool}/trash/{vps}.impermanence-aaaaa5"
        mark = json.loads(zfs("get", "-H", "-o", "value", "mayfly:mark", root))
        mark["mark"]["node"] = "0123456789abcdef"
        try:
            copied(f"{root}@copy", strangers["aaaaa1"], "-p")
            zfs("create", "-u", strangers["aaaaa2"])
            zfs("create", "-u", "-o", "mayfly:mark=what is this", strangers["aaaaa3"])
            zfs("create", "-u", "-o", f"mayfly:mark={json.dumps(mark)}", strangers["aaaaa4"])
            copied(f"{root}@copy", grave, "-p")
            everything = [*strangers.values(), grave]
            node.restart_daemon()
            node.run("restart", vps)
            settled_but(node, [grave])
            there = datasets(pool)
            assert all(name in there for name in everything), f"destroyed: {set(everything) - set(there)}"
            told = reports(node)
            silent = [name for name in everything if not any(name.removeprefix(f"{pool}/") in line for line in told)]
            assert not silent, f"`pool show` does not speak of {silent}: {told}"
            assert zfs("get", "-H", "-o", "source", "mayfly:mark", strangers["aaaaa1"]).strip() == "received"
        finally:
            for name in [*strangers.values(), grave]:
                sh("zfs", "destroy", "-r", name, check=False)


def settled_but(node, left):
    wait_for("the graveyard holds nothing else", lambda: set(graves(node)) <= set(left), 60, 0.3)


def test_a_hold_keeps_a_grave_and_nothing_else(node):
    with node.vps() as vps:
        root = roots(node, vps)[0]
        zfs("snapshot", f"{root}@held")
        zfs("hold", "keep", f"{root}@held")
        node.run("restart", vps)
        node.run("restart", vps)
        waiting = wait_for("all other graves are gone", lambda: (g := graves(node)) and len(g) == 1 and g, 60, 0.3)
        assert os.path.basename(root) in waiting[0]
        # Wherever it goes in the graveyard, nothing mounts it.
        zfs("rename", waiting[0], f"{waiting[0]}.moved")
        assert not mounted(f"{pool_of(node)}/trash"), mounted(f"{pool_of(node)}/trash")
        assert mounted(f"{pool_of(node)}/{vps}"), "the look sees no mounts at all"
        zfs("rename", f"{waiting[0]}.moved", waiting[0])
        node.run("restart", vps)
        zfs("release", "keep", f"{waiting[0]}@held")
        node.restart_daemon()
        settled(node)


def test_a_dataset_with_snapshots_goes_by_force_only(node):
    with node.vps(start=False) as vps:
        node.run("dataset", "set", f"{vps}", "quota=512M")
        node.run("dataset", "create", f"{vps}/data", "--quota", "64M")
        zfs("snapshot", f"{pool_of(node)}/{vps}/data@mine")
        refusal = node.refused("dataset.in_use", "dataset", "destroy", f"{vps}/data", "--yes")
        assert "mine" in refusal.message, refusal.message
        node.run("dataset", "destroy", f"{vps}/data", "--yes", "--force")
        settled(node)


def test_a_full_root_harms_nobody(node):
    """R2: the guest gets an error, the pool and the other VPSes go on, and the next start is clean."""
    with node.vps("tiny", wait=False) as vps:
        node.run("feature", "set", vps, "impermanence=on", "--root-quota", "48M")
        wrote = node.exec(vps, "sh", "-c", "dd if=/dev/urandom of=/fill bs=64k count=1000; sync", check=False)
        assert "quota exceeded" in wrote.stderr + wrote.stdout or "No space left" in wrote.stderr + wrote.stdout, wrote
        used = int(zfs("get", "-H", "-p", "-o", "value", "used", roots(node, vps)[0]))
        assert 40 << 20 < used <= 52 << 20, f"{used} bytes are used of a quota of 48 MiB"
        with node.vps("tiny", wait=False) as other:
            node.exec(other, "sh", "-c", "echo fine > /persistent/fine; sync")
        node.run("restart", vps)
        assert node.exec(vps, "test", "-e", "/fill", check=False).returncode == 1
        settled(node)


def test_what_cannot_be_a_pool_is_refused_with_the_cure(node):
    pool = pool_of(node)
    refused("nosuch/ct", "there is no zpool nosuch", "zpool import")
    refused(pool.split("/")[0], "a whole zpool", "zfs:tank/ct")
    refused(f"{pool.split('/')[0]}/absent/ct", "there is no dataset", "zfs create")
    refused(pool, "belongs to the node")
    with scratch_zpool() as (zpool, _):
        zfs("create", "-u", "-o", "mountpoint=legacy", f"{zpool}/full")
        zfs("create", "-u", f"{zpool}/full/precious")
        refused(f"{zpool}/full", "not empty", "precious")
        zfs("create", "-V", "16M", f"{zpool}/volume")
        refused(f"{zpool}/volume", "not a file system")
        zfs("set", "readonly=on", f"{zpool}/full")
        refused(f"{zpool}/full", "read-only", "zfs set readonly=off")
    with scratch_zpool("-d", "-o", "feature@extensible_dataset=enabled") as (zpool, _):
        refused(f"{zpool}/ct", "async_destroy", "zpool set feature@async_destroy=enabled")
    with scratch_zpool(mirror=True) as (zpool, files):
        sh("zpool", "offline", zpool, str(files[1]))
        refused(f"{zpool}/ct", "degraded", "zpool status")
        sh("zpool", "online", zpool, str(files[1]))
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            state = pathlib.Path(directory) / "state"
            done = init(f"{zpool}/ct", state)
            assert done.returncode == 0, done.stderr
            again = init(f"{zpool}/ct", state)
            assert again.returncode == 0, again.stderr
            # A copy of a pool is not the pool.
            zfs("snapshot", "-r", f"{zpool}/ct@copy")
            copied(f"{zpool}/ct@copy", f"{zpool}/copied", "-R", "-p")
            refused(f"{zpool}/copied", "is a copy")
            listed = subprocess.run(["zfs", "list", "-r", zpool], capture_output=True, text=True, check=True).stdout
            assert re.search(rf"{zpool}/ct/\.mayfly/staging", listed), listed
