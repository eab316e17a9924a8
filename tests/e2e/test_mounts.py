"""Datasets at paths of the guest."""
import os

from harness import wait_for


def mounted(node, vps, path):
    """What is mounted there inside, and whether read-only."""
    root, options = node.exec(vps, "findmnt", "-no", "FSROOT,OPTIONS", "-M", path).split()
    return root, "ro" if "ro" in options.split(",") else "rw"


def three_datasets(node, vps):
    node.run("dataset", "set", vps, "quota=512M")
    for name in ("one", "one/two", "three"):
        node.run("dataset", "create", f"{vps}/{name}", "--quota", "32M")


def test_mounts_are_there_before_init_parents_first(node):
    """D3: in whatever order they were added; mount points are made, in a temporary root anew each time."""
    with node.vps(start=False) as vps:
        three_datasets(node, vps)
        for dataset, path in (("three", "/srv/deep/er"), ("one/two", "/srv/deep"), ("one", "/srv")):
            node.run("mount", "add", f"{vps}/{dataset}", path)
        assert [m["path"] for m in node.json("mount", "list", vps)] == ["/persistent", "/srv", "/srv/deep", "/srv/deep/er"]
        for _ in range(2):
            node.run("start", vps)
            wanted = {"/persistent": f"/{vps}/private", "/srv": f"/{vps}/one/private", "/srv/deep": f"/{vps}/one/two/private",
                      "/srv/deep/er": f"/{vps}/three/private"}
            assert {path: mounted(node, vps, path)[0] for path in wanted} == wanted
            # Process 1 has them: nothing of the guest mounted them.
            with open(f"/proc/{node.show(vps)['run']['init_pid']}/mountinfo") as table:
                order = [line.split()[4] for line in table if line.split()[4] in wanted]
            assert order == sorted(order), order
            node.exec(vps, "sh", "-c", "for d in /srv /srv/deep /srv/deep/er; do echo here >> $d/file; done")
            node.run("stop", vps, "--force")
        with node.pool() as pool:
            for name in ("one", "one/two", "three"):
                assert (pool / str(vps) / name / "private/file").read_text() == "here\nhere\n"
                assert os.lstat(pool / str(vps) / name / "private/file").st_uid == 0


def test_read_only_holds_against_root_of_the_guest(node):
    """D3: no write, no remount, no bind of it elsewhere that could be written."""
    with node.vps(start=False) as vps:
        three_datasets(node, vps)
        node.run("mount", "add", f"{vps}/three", "/srv", "--read-only")
        node.run("mount", "add", f"{vps}/three", "/mnt")
        node.run("start", vps)
        assert (mounted(node, vps, "/srv")[1], mounted(node, vps, "/mnt")[1]) == ("ro", "rw")
        node.exec(vps, "touch", "/mnt/seen")
        assert node.exec(vps, "ls", "/srv") == "seen"
        for attempt in ("touch /srv/x", "mount -o remount,rw,bind /srv && touch /srv/x", "mount -o remount,rw /srv && touch /srv/x",
                        "mkdir /b && mount --bind /srv /b && mount -o remount,rw,bind /b; touch /b/x",
                        "rm /srv/seen", "chmod 700 /srv", "unshare -m sh -c 'mount -o remount,rw,bind /srv; touch /srv/x'"):
            done = node.exec(vps, "sh", "-c", attempt, check=False)
            assert done.returncode != 0, f"{attempt}: {done}"
        assert node.exec(vps, "ls", "-A", "/mnt") == "seen"


def test_what_cannot_be_mounted_is_refused_at_once(node):
    """D3, E2: two at one path, the system's own places, files of the platform, datasets that are not there."""
    with node.vps(start=False) as vps:
        three_datasets(node, vps)
        before = node.show(vps)
        refused = node.refused("mount.exists", "mount", "add", f"{vps}/one", "/persistent")
        assert "mount list" in refused.hint
        for path in ("/proc/x", "/dev", "/sys/fs", "/run/x", "/", "/etc/hostname", "/etc/machine-id/x"):
            done = node.run("mount", "add", f"{vps}/one", path, check=False)
            assert done.returncode in (1, 2) and done.stderr, path
        for path in ("relative", "/a/../b", "/a/./b"):
            assert node.run("mount", "add", f"{vps}/one", path, check=False).returncode == 2, path
        node.refused("dataset.not_found", "mount", "add", f"{vps}/none", "/srv")
        node.refused("mount.not_found", "mount", "remove", vps, "/srv")
        assert node.show(vps) == before


def test_a_symlink_in_the_way_is_refused(node):
    """D3, E2: planted by the guest where a mount point must be; nothing is made where it leads to."""
    with node.vps() as vps:
        three_datasets(node, vps)
        node.exec(vps, "sh", "-c", "mkdir /persistent/a; ln -s /etc /persistent/a/link; ln -s ../../../etc /persistent/up; sync")
        node.run("stop", vps)
        last = node.show(vps)["last_root"]
        for path, link in (("/persistent/a/link/new", "/a/link"), ("/persistent/a/link", "/a/link"), ("/persistent/up/x", "/up")):
            node.run("mount", "add", f"{vps}/one", path)
            refused = node.refused("mount.refused", "start", vps)
            assert link in refused.message and "symlink" in refused.message, refused.message
            shown = node.show(vps)
            assert (shown["state"], shown["desired"], shown["last_root"]) == ("stopped", "stopped", last), shown
            assert node.temporary_roots(vps) == [last] and node.nothing_alive(vps)
            node.run("mount", "remove", vps, path)
        assert not os.path.exists("/etc/new") and not os.path.exists("/etc/x")
        node.run("start", vps)
        wait_for("the roots in vain are destroyed", lambda: not node.graves())


def test_the_root_dataset_is_persistent_and_the_root_too(node):
    """D3, C1's middle: a persistent system sees its own root dataset at another path as well, then goes impermanent."""
    with node.vps("debian-12", start=False) as vps:
        node.run("dataset", "set", vps, "quota=768M")
        node.run("dataset", "create", f"{vps}/nix", "--quota", "64M", "--mount", "/nix")
        node.run("mount", "add", vps, "/persistent")
        node.run("start", vps)
        node.wait_running(vps)
        assert mounted(node, vps, "/") == mounted(node, vps, "/persistent") == (f"/{vps}/private", "rw")
        assert mounted(node, vps, "/nix")[0] == f"/{vps}/nix/private"
        node.exec(vps, "sh", "-c", "echo one > /note; echo two > /persistent/etc/note; echo three > /nix/note")
        assert node.exec(vps, "cat", "/persistent/note", "/etc/note") == "one\ntwo"
        # Only the dataset itself shows there, not what is mounted within.
        assert node.exec(vps, "ls", "-A", "/persistent/nix", "/persistent/proc") == "/persistent/nix:\n\n/persistent/proc:"
        node.run("feature", "set", vps, "impermanence=on")
        node.wait_running(vps)
        assert mounted(node, vps, "/")[0].startswith(f"/{vps}.impermanence-")
        assert node.exec(vps, "cat", "/persistent/note", "/persistent/etc/note", "/nix/note") == "one\ntwo\nthree"
        assert node.exec(vps, "ls", "/note", check=False).returncode == 2
