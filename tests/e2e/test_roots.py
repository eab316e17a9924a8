"""Temporary roots made from a template: what they are, what they cost, what becomes of them."""
import json
import os
import re
import stat

from harness import wait_for


def root_of(node, vps):
    return node.show(vps)["run"]["root"]


def test_a_restart_gives_a_new_root_and_keeps_what_is_persistent(node):
    """R1, R5, R6: a sibling of the VPS's own dataset, named for the run; T4: who it is stays the same."""
    with node.vps("debian-12-impermanence", "web") as vps:
        first = root_of(node, vps)
        assert re.fullmatch(rf"{vps}\.impermanence-[0-9a-f]{{6}}", first), first
        assert node.temporary_roots(vps) == [first]
        with node.pool() as pool:
            assert sorted(os.listdir(pool / str(vps))) == ["private"], "nothing is below the VPS's own dataset"
        node.exec(vps, "sh", "-c", "echo gone > /gone; echo gone > /etc/gone; echo kept > /persistent/kept")
        who = ("sh", "-c", "cat /etc/machine-id; hostname; cat /etc/hostname; grep web /etc/hosts")
        before = node.exec(vps, *who)
        assert before.splitlines()[1:] == ["web", "web", "127.0.1.1\tweb"], before
        assert before.splitlines()[0] == node.show(vps)["incarnation"]

        node.run("restart", vps)
        node.wait_running(vps)
        second = root_of(node, vps)
        assert re.fullmatch(rf"{vps}\.impermanence-[0-9a-f]{{6}}", second) and second != first
        assert node.exec(vps, "cat", "/persistent/kept") == "kept"
        assert node.exec(vps, "ls", "/gone", "/etc/gone", check=False).returncode == 2
        assert node.exec(vps, *who) == before
        wait_for("the first root is destroyed", lambda: not node.graves())
        assert node.temporary_roots(vps) == [second]


def test_a_full_root_harms_nobody_else(node):
    """R2: the root's own quota, which does not count the template's bytes and is not the VPS's disk space."""
    with node.vps("debian-12-impermanence", "full", start=False) as vps, \
            node.vps("debian-12-impermanence", "other", wait=False) as other:
        node.run("feature", "set", vps, "impermanence=on", "--root-quota", "64M")
        node.run("start", vps)
        node.wait_running(vps)
        root = next(d for d in node.json("pool", "show")["datasets"] if d["dataset"] == root_of(node, vps))
        assert root["quota_bytes"] == 64 << 20
        assert root["used_bytes"] < 40 << 20, f"the template's bytes are charged: {root}"
        filled = node.exec(vps, "dd", "if=/dev/zero", "of=/fill", "bs=1M", "count=200", check=False)
        assert filled.returncode == 1 and ("Disk quota exceeded" in filled.stderr or "No space left" in filled.stderr), filled
        written = int(node.exec(vps, "stat", "-c", "%s", "/fill"))
        assert 20 << 20 < written <= 64 << 20, written
        # Its own data, another VPS, and a start go on.
        node.exec(vps, "dd", "if=/dev/zero", "of=/persistent/more", "bs=1M", "count=100", "conv=fsync")
        node.exec(other, "dd", "if=/dev/zero", "of=/more", "bs=1M", "count=100", "conv=fsync")
        node.run("restart", vps)
        node.wait_running(vps)
        assert node.exec(vps, "ls", "/fill", check=False).returncode == 2


def test_the_guest_sees_its_own_tree_and_nothing_of_the_platform(node):
    """R3: only `private` of each dataset, idmapped; outside nosuid, nodev and 0700, inside setuid programs work."""
    with node.vps(wait=False) as vps:
        inside = set(node.exec(vps, "ls", "-A", "/").split())
        assert inside == {"bin", "boot", "dev", "etc", "home", "lib", "lib64", "media", "mnt", "opt", "persistent", "proc",
                          "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var"}, inside
        # What is declared by the template is stored; nothing else is there.
        assert set(node.exec(vps, "ls", "-A", "/persistent").split()) == {"etc", "root", "var"}
        assert node.exec(vps, "sh", "-c", "cat /proc/self/mountinfo").count(".mayfly/marks") == 0
        node.exec(vps, "sh", "-c", "touch /mine; install -o daemon -g daemon /dev/null /persistent/daemons")
        with node.pool() as pool:
            root = pool / root_of(node, vps)
            seen = os.lstat(pool)
            assert (seen.st_uid, stat.S_IMODE(seen.st_mode)) == (0, 0o700), oct(seen.st_mode)
            # No owner was shifted on the disk.
            assert os.lstat(root / "private/mine").st_uid == 0
            assert os.lstat(root / "private/usr/bin/su").st_uid == 0
            assert os.lstat(pool / str(vps) / "private/daemons").st_uid == 1
        with open(f"/proc/{node.daemon.pid}/mountinfo") as table:
            options = next(line.split()[5] for line in table if line.split()[4] == f"{node.state}/pool")
        assert {"nosuid", "nodev"} <= set(options.split(",")), options
        with open("/proc/self/mountinfo") as table:
            assert str(node.state) not in table.read(), "the pool is mounted where everybody sees it"

        options = node.exec(vps, "findmnt", "-no", "OPTIONS", "/").split(",")
        assert "nosuid" not in options and "nodev" in options, options
        for directory in ("/usr/local/bin", "/persistent"):
            node.exec(vps, "install", "-m", "4755", "/usr/bin/id", f"{directory}/setuid-id")
            drop = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
            assert node.exec(vps, *drop, f"{directory}/setuid-id", "-un") == "root"
        # The kernel's root of the guest is nobody on the host.
        init = node.show(vps)["run"]["init_pid"]
        assert os.stat(f"/proc/{init}").st_uid == node.show(vps)["ids"]["first"] >= 1 << 20


def test_the_guest_can_read_what_it_booted(node):
    """R10: /run/mayfly/boot.json, also after systemd has set up /run."""
    with node.vps() as vps:
        shown = node.show(vps)
        boot = json.loads(node.exec(vps, "cat", "/run/mayfly/boot.json"))
        assert boot["vps"] == vps and boot["run"] == shown["run"]["id"]
        root = boot["root"]
        assert (root["dataset"], root["kind"]) == (shown["run"]["root"], "template")
        assert root["base"] == shown["base"]["template"]
        assert abs(root["birth_unix_ms"] - shown["run"]["started_unix_ms"]) < 10_000
        assert boot["mounts"] == [{"path": "/persistent", "dataset": str(vps), "read_only": False}]
        mode = node.exec(vps, "stat", "-c", "%a %U", "/run/mayfly/boot.json")
        assert mode.split()[1] == "root" and mode.split()[0] in ("444", "644", "400", "440", "640"), mode


def test_a_stopped_vps_keeps_its_last_root_until_the_next_start(node):
    """R7: unmounted, nameable, given up only when the next init lives, or on request."""
    with node.vps(wait=False) as vps:
        first = root_of(node, vps)
        node.exec(vps, "sh", "-c", "echo late > /late; sync")
        node.run("stop", vps)
        shown = node.show(vps)
        assert (shown["state"], shown["run"], shown["last_root"]) == ("stopped", None, first)
        assert node.temporary_roots(vps) == [first] and node.nothing_alive(vps)
        with node.pool() as pool:
            assert (pool / first / "private/late").read_text() == "late\n"
        refused = node.refused("vps.not_running", "stop", vps)
        assert str(vps) in refused.message

        # A start that fails leaves it where it was: a mount point of the next root is a symlink.
        with node.pool() as pool:
            os.symlink("/etc", pool / str(vps) / "private/link")
        node.json("dataset", "set", vps, "quota=512M")
        node.json("dataset", "create", f"{vps}/extra", "--quota", "16M", "--mount", "/persistent/link")
        node.refused("mount.refused", "start", vps)
        shown = node.show(vps)
        assert (shown["state"], shown["last_root"]) == ("stopped", first)
        assert node.temporary_roots(vps) == [first], "the root of the start that failed is gone, the last one is there"
        node.json("mount", "remove", vps, "/persistent/link")

        node.run("start", vps)
        second = root_of(node, vps)
        assert second != first and node.show(vps)["last_root"] is None
        assert node.temporary_roots(vps) == [second]
        wait_for("the last root is destroyed", lambda: not node.graves())
        assert node.exec(vps, "ls", "/late", check=False).returncode == 2

        node.run("stop", vps, "--discard")
        assert node.show(vps)["last_root"] is None and node.temporary_roots(vps) == []
        wait_for("the discarded root is destroyed", lambda: not node.graves())
        assert str(vps) in node.in_pool()


def test_two_vpses_of_one_template_share_no_identity(node):
    """T1: neither machine-id nor SSH host keys; both are there. The template has none."""
    keys = ("sh", "-c", "cat /etc/machine-id /etc/ssh/ssh_host_*_key.pub | sed 's/ [^ ]*$//'")
    with node.vps() as one, node.vps() as two:
        mine, theirs = (set(node.exec(vps, *keys).splitlines()) for vps in (one, two))
        assert len(mine) == len(theirs) == 4, (mine, theirs)
        assert not mine & theirs
    with node.pool() as pool:
        for base in (pool / "templates").glob("*/private"):
            if (base / "etc").is_dir():
                assert not list((base / "etc/ssh").glob("ssh_host_*")), base
                assert not (base / "etc/machine-id").is_file() or not (base / "etc/machine-id").read_text().strip(), base
