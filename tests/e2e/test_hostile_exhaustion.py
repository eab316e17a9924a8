"""A guest that takes all it can get of what the kernel counts for the whole host, or counts for nobody. After each attack,
and while it lasts, another VPS stops, starts and executes in its usual time. MAYFLY_HOSTILE=full takes the big numbers."""
import os
import pathlib
import re

from harness import SLOW, alive, sh, wait_for
from hostile import FULL, attack, besieged, mount_cgroup, put_attacks
from truth import assert_no_orphans, pool_path


def again(node, vps):
    """Ends an attack with everything that it holds."""
    node.run("restart", vps, "--force")


def test_what_the_kernel_counts_for_the_whole_host_cannot_be_taken_by_one(node):
    """H9: ptys, requests of asynchronous I/O, open files, file locks. Another guest used to get no pty after 3067 of them and
    no asynchronous I/O after 65,000 requests."""
    with besieged(node, "--memory", "1G") as (vps, other):
        put_attacks(node, other.vps)
        for what, number, wanted in (("ptys", 6000, 6000), ("aio", 200_000, 200_000), ("files", 20 if FULL else 4, 1),
                                     ("locks", 8, 40_000)):
            got, error = attack(node, vps, what, number)
            # Each process opens what it may: that is its own limit.
            assert got >= wanted and error == ("EMFILE" if what == "files" else "none"), (what, got, error)
            if what in ("ptys", "aio"):
                assert attack(node, other.vps, what, 1000) == (1000, "none"), f"another guest gets no {what}"
            print(f"  {got} {what}; a restart of another VPS took {other.feels_nothing():.2f} s, usually {other.usual:.2f} s")
            other.daemon_has_not_grown()
            again(node, vps)


def test_network_namespaces_have_a_bound_that_guest_root_cannot_lift(node):
    """Each takes 0.8 MB of the host's memory, and a quarter of it is counted to the VPS."""
    with besieged(node) as (vps, other):
        lift = ("mkdir /tmp/p; mount -t proc p /tmp/p; cat /tmp/p/sys/user/max_net_namespaces; "
                "echo 100000 > /tmp/p/sys/user/max_net_namespaces; cat /tmp/p/sys/user/max_net_namespaces")
        assert node.exec(vps, "sh", "-c", lift).split() == ["256", "256"]
        for kinds in ("net", "user,net"):
            got, error = attack(node, vps, "namespaces", 1000, kinds)
            # One is that of the guest itself.
            assert 200 <= got <= 256 and error == "ENOSPC", (kinds, got, error)
            other.feels_nothing()
            again(node, vps)


def test_namespaces_cgroups_and_mounts_without_number_stop_nobody(node):
    """H8, H1: user, process and mount namespaces, cgroups in two hierarchies, mounts up to the kernel's own limit."""
    count = 6000 if FULL else 1000
    with besieged(node) as (vps, other):
        got, error = attack(node, vps, "namespaces", count, "user,pid,mnt,ipc,uts", seconds=180)
        assert got == count, (got, error)
        print(f"  {got} namespaces of 5 kinds; another VPS: {other.feels_nothing():.2f} s, usually {other.usual:.2f} s")
        again(node, vps)

        count = 10_000 if FULL else 2000
        for controller in ("pids", "memory", ""):
            at = mount_cgroup(node, vps, controller)
            if at:
                got, error = attack(node, vps, "cgroups", count, at, seconds=180)
                assert got == count and error == "none", (controller, got, error)
                print(f"  {got} cgroups of {controller or 'version 2'}; another VPS: {other.feels_nothing():.2f} s")
        if at:
            # On version 2 the kernel bounds them.
            node.exec(vps, "mkdir", f"{at}/more")
            got, error = attack(node, vps, "cgroups", 20_000, f"{at}/more", seconds=180)
            assert error == "EAGAIN" and got + count <= 16_384, (got, error)
        again(node, vps)
        assert not [c for c in node.cgroups(vps) if node.show(vps)["run"]["id"] not in c], "old cgroups are left"

        # The kernel's limit for one namespace is fs.mount-max.
        most = int(pathlib.Path("/proc/sys/fs/mount-max").read_text())
        count = most + 1000 if FULL else 4000
        got, error = attack(node, vps, "mounts", count, seconds=300)
        assert got == count if count < most else (got < most and error == "ENOSPC"), (got, error)
        print(f"  {got} mounts; another VPS: {other.feels_nothing():.2f} s")
        other.daemon_has_not_grown()
        node.run("stop", vps, "--force")
        other.feels_nothing()
    assert_no_orphans(node)


def test_forks_memory_and_inodes_end_at_the_limits_of_the_vps(node):
    """F2, R2, D1: a fork bomb, a hog, a flood of empty files; each ends at a limit, and can be stopped."""
    with besieged(node, "--memory", "256M") as (vps, other):
        node.run("set", vps, "processes=400")
        attack(node, vps, "forks", 0, wait=False)
        wait_for("the bomb has gone off", lambda: len(node.processes(vps)) > 350, 30)
        print(f"  {len(node.processes(vps))} processes; another VPS: {other.feels_nothing():.2f} s")
        # The supervisor and lxc-start are beside them.
        assert len(node.processes(vps)) <= 403
        refused = node.exec(vps, "true", check=False)
        assert refused.returncode != 0 or refused.stdout == "", "it may be that there is no room for one more"
        again(node, vps)

        node.exec(vps, "sh", "-c", "/persistent/attacks memory 0 > /dev/null 2>&1; echo $?", check=False)
        assert node.exec(vps, "sh", "-c", "/persistent/attacks memory 0 > /dev/null 2>&1; echo $?") == "137"
        other.feels_nothing()
        assert node.show(vps)["state"] == "running"

        node.run("stop", vps, "--force")
        node.run("dataset", "set", vps, "quota=512M")
        quota = 256 if FULL else 16
        node.run("dataset", "create", f"{vps}/small", "--quota", f"{quota}M", "--mount", "/small")
        node.run("start", vps)
        got, error = attack(node, vps, "inodes", 10_000_000, "/small/flood", seconds=300)
        assert error in ("EDQUOT", "ENOSPC") and got > 1000, (got, error)
        used = int(sh("du", "-s", "--block-size=1", pool_path(node) / f"{vps}/small/private").stdout.split()[0])
        print(f"  {got} empty files in {quota}M ({used} bytes by du); another VPS: {other.feels_nothing():.2f} s")
        with node.pool() as pool:
            assert os.statvfs(pool).f_bavail > 0
        node.exec(other.vps, "sh", "-c", "dd if=/dev/zero of=/persistent/more bs=1M count=8 2>/dev/null && sync")
        again(node, vps)
        node.exec(vps, "sh", "-c", "rm -rf /small/flood; touch /small/again")
        other.daemon_has_not_grown()
    assert_no_orphans(node)


def test_sockets_that_look_like_those_of_the_host_are_the_guests_alone(node):
    """R3: abstract sockets by the names under which LXC listens on the host, for this VPS and for its neighbour."""
    with besieged(node) as (vps, other):
        for of in (vps, other.vps):
            name = f"/run/mayfly-{node.id}-{of}/command"
            assert attack(node, vps, "sockets", 200, name) == (200, "none")
            listening = re.findall(rf"@\S*mayfly-{node.id}-{of}/command\S*", pathlib.Path("/proc/net/unix").read_text())
            assert listening and len(set(listening)) == 1, listening
            assert node.exec(other.vps, "echo", "mine") == "mine" and node.exec(vps, "echo", "too") == "too"
            assert f"@{name}" not in node.exec(other.vps, "cat", "/proc/net/unix")
        other.feels_nothing()


def test_a_guest_that_takes_all_its_processes_in_sleep_dies_at_once(node):
    """H8: thousands of processes, each in namespaces of its own with a mount table of its own: the stop is a usual one, and
    none of them lives on."""
    with besieged(node) as (vps, other):
        got, error = attack(node, vps, "namespaces", 3000 if FULL else 800, "user,mnt,pid", seconds=180)
        assert error == "none", (got, error)
        pids = node.processes(vps)
        assert len(pids) > got
        node.run("stop", vps, "--force", timeout=60 * SLOW)
        assert not [pid for pid in pids if alive(pid)]
        assert node.nothing_alive(vps)
        other.feels_nothing()
