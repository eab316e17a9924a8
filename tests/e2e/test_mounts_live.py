"""D2, D3, D4: mounts that are added to a VPS that runs and removed from it, whatever its guest does about them."""
import os
import pathlib

from harness import wait_for
from persist import await_stored, declare, write


def points(node, vps):
    """{mount point in the guest: what its table says of the lowest mount there} of the pool's datasets."""
    pid = node.show(vps)["run"]["init_pid"]
    found = {}
    for line in pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        if (shown := node.backend.shown(line)) is not None:
            found.setdefault(line.split(" ")[4], (shown, line.split(" ")[5].split(",")[0]))
    return found


def with_datasets(node, vps, *names):
    node.run("dataset", "set", vps, "quota=512M")
    for name in names:
        node.run("dataset", "create", f"{vps}/{name}", "--quota", "64M")


def inside(node, vps, script, check=True):
    return node.exec(vps, "sh", "-c", script, check=check)


def test_a_mount_comes_and_goes_while_the_vps_runs(node):
    """D3, D4: at once, with the guest's owners, made and mounted in one; open files do not keep it; what nobody shows is
    destroyed while the VPS goes on; after a restart it is the same."""
    with node.vps() as vps:
        with_datasets(node, vps, "one", "two")
        run = node.show(vps)["run"]
        assert node.run("mount", "add", f"{vps}/one", "/srv/deep/er", "--dry-run").stdout.startswith(f"1. show {vps}/one at /srv")
        node.run("mount", "add", f"{vps}/one", "/srv/deep/er")
        node.run("dataset", "create", f"{vps}/new", "--quota", "64M", "--mount", "/srv/new")
        assert inside(node, vps, "stat -c '%u %a' /srv/deep /srv/deep/er; echo here > /srv/deep/er/file; echo new > /srv/new/file;"
                                 "stat -c %u /srv/deep/er/file; mkdir /srv/deep/er/suid && cp /bin/true /srv/deep/er/suid/ &&"
                                 "chmod u+s /srv/deep/er/suid/true; findmnt -no OPTIONS -M /srv/deep/er") \
            .splitlines()[:3] == ["0 755", "0 755", "0"]
        at_start = inside(node, vps, "findmnt -no OPTIONS -M /persistent").split(",")
        live = inside(node, vps, "findmnt -no OPTIONS -M /srv/new").split(",")
        flags = {"ro", "rw", "nosuid", "nodev", "noexec", "noatime", "relatime", "idmapped"}
        assert flags & set(at_start) == flags & set(live), f"{at_start} from the start, {live} now"
        # A service that has a mount namespace of its own gets it, and loses it again.
        inside(node, vps, "systemd-run -q --unit own -p PrivateMounts=yes sleep 1000")
        node.run("mount", "add", f"{vps}/two", "/srv/two")
        look = "grep -c ' /srv/two ' /proc/$(systemctl show -P MainPID own)/mountinfo"
        assert inside(node, vps, look) == "1"
        assert node.show(vps)["run"] == run, "it was restarted"

        inside(node, vps, "(while echo more; do sleep 0.05; done) > /srv/two/open 2>/dev/null & sleep 0.2")
        node.refused("vps.running", "dataset", "destroy", f"{vps}/two", "--yes", "--force")
        node.run("mount", "remove", vps, "/srv/two")
        assert inside(node, vps, look, check=False).stdout.strip() == "0"
        assert inside(node, vps, "ls -A /srv/two") == "" and "/srv/two" not in points(node, vps)
        node.refused("mount.not_found", "mount", "remove", vps, "/srv/two")
        node.run("dataset", "destroy", f"{vps}/two", "--yes")
        # One that the run has from its start on.
        node.run("restart", vps)
        node.wait_running(vps)
        there = {p: s[0] for p, s in points(node, vps).items() if p.startswith("/srv")}
        assert there == {"/srv/deep/er": f"{vps}/one/private", "/srv/new": f"{vps}/new/private"}, there
        assert inside(node, vps, "cat /srv/deep/er/file /srv/new/file") == "here\nnew"
        run = node.show(vps)["run"]
        node.run("mount", "remove", vps, "/srv/new")
        node.run("dataset", "destroy", f"{vps}/new", "--yes")
        wait_for("the graveyard is empty", lambda: not node.graves(), 60)
        assert node.show(vps)["run"] == run and inside(node, vps, "cat /srv/deep/er/file") == "here"
        # Added again where it was from the start on.
        node.run("mount", "remove", vps, "/srv/deep/er")
        node.run("mount", "add", f"{vps}/one", "/srv/deep/er")
        assert inside(node, vps, "cat /srv/deep/er/file") == "here"


def test_read_only_holds_in_what_is_added_to_a_running_vps(node):
    """D3: no write, no remount, no bind of it elsewhere that could be written, no copy in a namespace of its own."""
    with node.vps() as vps:
        with_datasets(node, vps, "three")
        node.run("mount", "add", f"{vps}/three", "/mnt")
        inside(node, vps, "touch /mnt/seen")
        node.run("mount", "add", f"{vps}/three", "/srv", "--read-only")
        assert [points(node, vps)[at][1] for at in ("/srv", "/mnt")] == ["ro", "rw"]
        assert inside(node, vps, "ls /srv") == "seen"
        for attempt in ("touch /srv/x", "mount -o remount,rw,bind /srv; touch /srv/x", "mount -o remount,rw /srv; touch /srv/x",
                        "mkdir /b; mount --bind /srv /b && mount -o remount,rw,bind /b; touch /b/x",
                        "rm /srv/seen", "chmod 700 /srv", "unshare -m sh -c 'mount -o remount,rw,bind /srv; touch /srv/x'",
                        "unshare -Urm sh -c 'mount -o remount,rw,bind /srv; touch /srv/x'",
                        "mkdir -p /m && mount --make-private / && mount --move /srv /m; mount -o remount,rw,bind /m && touch /m/x"):
            assert inside(node, vps, attempt, check=False).returncode != 0, attempt
        assert inside(node, vps, "ls -A /mnt") == "seen"


def test_what_a_guest_puts_in_the_way_of_a_new_mount_is_refused(node):
    """D3, E2: links of every kind and files; nothing is recorded, made or mounted anywhere, and the host is not touched."""
    with node.vps() as vps:
        with_datasets(node, vps, "one")
        inside(node, vps, "mkdir /a; ln -s /etc /a/abs; ln -s ../../../../etc /a/up; ln -s /proc/1/root/etc /a/magic;"
                          "ln -s /proc/self/fd/0 /a/fd; ln -s loop /a/loop; touch /a/file; ln -s nowhere /a/dangling;"
                          "mkdir /a/ro && mount -t tmpfs -o ro none /a/ro")

        def recorded():
            now = node.show(vps)
            return [d["name"] for d in now["datasets"]], now["mounts"], now["run"]

        before, table = recorded(), points(node, vps)
        for path, why in (("/a/abs", "symlink"), ("/a/abs/x", "symlink"), ("/a/up/x", "symlink"), ("/a/magic/x", "symlink"),
                          ("/a/fd", "symlink"), ("/a/loop/x", "symlink"), ("/a/dangling", "symlink"), ("/a/file", "no directory"),
                          ("/a/file/x", "no directory"), ("/a/ro/x", "read-only")):
            for verb in (["mount", "add", f"{vps}/one", path], ["dataset", "create", f"{vps}/x", "--quota", "16M", "--mount", path]):
                refused = node.refused("mount.refused", *verb)
                assert why in refused.message, f"{verb}: {refused.message}"
                assert recorded() == before
        assert points(node, vps) == table and not os.path.exists("/etc/x")
        wait_for("what was made in vain is destroyed", lambda: not node.graves(), 60)


def test_a_guest_that_swaps_the_mount_point_wins_nothing(node):
    """D3: a directory and a link change places all the time; the mount lands in a directory of the guest, or is refused."""
    with node.vps() as vps:
        with_datasets(node, vps, "one")
        inside(node, vps, "mkdir -p /race/dir; ln -s /proc/1/root/etc /race/other; (cd /race; while :; do mv -T dir tmp; mv -T other dir;"
                          "mv -T dir other; mv -T tmp dir; done) > /dev/null 2>&1 & true")
        shown = 0
        for _ in range(12):
            done = node.run("mount", "add", f"{vps}/one", "/race/dir/x", check=False)
            if done.returncode == 0:
                shown += 1
                # It may be at /race/tmp/x by now: then there is nothing to take off, and a restart shows it.
                node.run("mount", "remove", vps, "/race/dir/x", check=False)
                if node.show(vps)["mounts"][-1]["path"] == "/race/dir/x":
                    break
            else:
                assert "mount.refused" in done.stderr or "symlink" in done.stderr or "not there" in done.stderr, done.stderr
        guest = set(node.processes(vps)) - set(node.supervisors())
        for holder, dataset, point in node.mounts():
            if point.endswith("/x") and "race" in point:
                assert holder in guest, (holder, dataset, point)
        assert not os.path.exists("/etc/x")
        print(f"  shown {shown} of 12 times")


def test_what_a_guest_does_to_a_mount_does_not_keep_it(node):
    """D3: mounted over, more than once; unmounted or moved by the guest; the way to it covered; copied elsewhere."""
    with node.vps() as vps:
        with_datasets(node, vps, "one")
        add = ("mount", "add", f"{vps}/one", "/srv/x")
        node.run(*add)
        inside(node, vps, "echo mine > /srv/x/file; mount -t tmpfs none /srv/x; mount -t tmpfs none /srv/x; echo other > /srv/x/file")
        node.run("mount", "remove", vps, "/srv/x")
        assert "/srv/x" not in inside(node, vps, "cat /proc/self/mountinfo")
        node.run(*add)
        assert inside(node, vps, "cat /srv/x/file; umount /srv/x") == "mine"
        node.run("mount", "remove", vps, "/srv/x")
        node.run(*add)
        inside(node, vps, "mount -t tmpfs none /srv")
        refused = node.refused("mount.refused", "mount", "remove", vps, "/srv/x")
        assert "/srv" in refused.message and node.show(vps)["mounts"][-1]["path"] == "/srv/x"
        inside(node, vps, "umount /srv; mkdir /copy; mount --bind /srv/x /copy")
        node.run("mount", "remove", vps, "/srv/x")
        assert inside(node, vps, "ls /srv/x; cat /copy/file") == "mine"
        # What the guest holds on to is not destroyed under it.
        refused = node.refused("run.still_alive", "dataset", "destroy", f"{vps}/one", "--yes")
        assert [d["name"] for d in node.show(vps)["datasets"]] == ["", "one"], refused
        inside(node, vps, "umount /copy")
        node.run("dataset", "destroy", f"{vps}/one", "--yes")


def test_mounts_of_a_running_vps_that_depend_on_each_other(node):
    """D3: what would hide another one, take it along, or hide what was declared to stay is refused while it runs."""
    with node.vps() as vps:
        with_datasets(node, vps, "one", "two")
        node.run("mount", "add", f"{vps}/one", "/srv/x/y")
        node.refused("mount.refused", "mount", "add", f"{vps}/two", "/srv/x")
        node.run("mount", "add", f"{vps}/two", "/srv/x/y/z")
        refused = node.refused("mount.refused", "mount", "remove", vps, "/srv/x/y")
        assert "/srv/x/y/z" in refused.hint
        for verb in (["add", f"{vps}/one", "/persistent/x"], ["remove", vps, "/persistent"]):
            node.refused("vps.running", "mount", *verb)
        node.run("mount", "remove", vps, "/srv/x/y/z")
        node.run("mount", "remove", vps, "/srv/x/y")


def test_copies_are_taken_back_although_a_mount_of_the_start_is_gone(node):
    """P4: while it runs, and from the dead root."""
    with node.vps() as vps:
        with_datasets(node, vps, "one")
        declare(node, vps, '["/persistent"]\nfiles = [{ file = "/etc/app.conf", method = "copy" }]\n')
        node.run("mount", "add", f"{vps}/one", "/srv/one")
        write(node, vps, "/etc/app.conf", "first")
        inside(node, vps, "mkdir -p /persistent/etc; cp /etc/app.conf /persistent/etc/")
        node.run("restart", vps)
        node.wait_running(vps)
        node.run("mount", "remove", vps, "/srv/one")
        node.run("dataset", "destroy", f"{vps}/one", "--yes")
        write(node, vps, "/etc/app.conf", "second")
        await_stored(node, vps, "/etc/app.conf", "second")
        assert not [line for line in node.run("logs", vps, "--events").stdout.splitlines() if "taken back yet" in line]
        write(node, vps, "/etc/app.conf", "third")
        node.run("restart", vps)
        assert inside(node, vps, "cat /etc/app.conf") == "third"
