"""P1 to P3, P7, P9: what is declared is there before the guest's first process, in VPSes that really boot."""
import re

from harness import sh, wait_for
from persist import declare, fates, in_guest, report, restart, storage, stored, template
from truth import tree_hash

# The case that the module itself is tested with, in Mayfly's file.
MODULES_OWN = """\
["/persistent"]
hideMounts = true
directories = [
    "/var/lib/colord",
    { directory = "/var/lib/birdhouse", user = "bird", group = "bird", mode = "u=rwx,g=rx,o=" },
    { directory = "/srv/pond", user = "fish", group = "fish", mode = "0700" },
    { directory = "/srv/pond/deep/end", user = "bird", group = "fish", mode = "0770" },
]
files = [
    "/etc/machine-id",
    { file = "/etc/ssh/ssh_host_ed25519_key", method = "symlink" },
    "/etc/ssh/ssh_host_rsa_key",
    { file = "/etc/secret/key", parentDirectory = { mode = "0700" } },
]

["/persistent".users.bird]
directories = ["Downloads", ".config/nest", { directory = ".ssh", mode = "0700" }]
files = [".birdrc"]

["/persistent".users.fish]
directories = [{ directory = "tank/water", user = "bird", group = "bird", mode = "0750" }]
files = ["tank/.fishrc"]
"""
# Path, and what `stat` says of it: owner, group, mode, kind.
AS_DECLARED = {
    "/var/lib/colord": "root root 755 directory",
    "/var/lib/birdhouse": "bird bird 750 directory",
    "/srv/pond": "fish fish 700 directory",
    "/srv/pond/deep": "root root 755 directory",
    "/srv/pond/deep/end": "bird fish 770 directory",
    "/etc/machine-id": "root root 644 regular file",
    "/etc/ssh/ssh_host_ed25519_key": "root root 777 symbolic link",
    "/etc/ssh/ssh_host_rsa_key": "root root 600 regular file",
    "/etc/secret": "root root 700 directory",
    "/home/bird": "bird bird 700 directory",
    "/home/bird/Downloads": "bird bird 755 directory",
    "/home/bird/.config": "bird bird 755 directory",
    "/home/bird/.config/nest": "bird bird 755 directory",
    "/home/bird/.ssh": "bird bird 700 directory",
    "/home/fish": "fish fish 700 directory",
    "/home/fish/tank": "fish fish 755 directory",
    "/home/fish/tank/water": "bird bird 750 directory",
}


def stats(node, vps, paths):
    lines = in_guest(node, vps, "stat -c '%n %U %G %a %F' " + " ".join(paths)).splitlines()
    return {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in lines}


def test_the_modules_own_case_over_two_boots(node):
    with node.vps("debian-12-impermanence") as vps:
        for user in ("bird", "fish"):
            node.exec(vps, "useradd", "--create-home", "--shell", "/bin/sh", user)
        declare(node, vps, MODULES_OWN)
        identity = "cat /etc/machine-id; sha256sum /etc/ssh/ssh_host_ed25519_key /etc/ssh/ssh_host_rsa_key"
        first = in_guest(node, vps, identity)
        for n in (1, 2):
            restart(node, vps)
            node.wait_running(vps)
            told = report(node, vps)
            assert told["state"] == "applied", (n, told)
            seen = stats(node, vps, AS_DECLARED)
            assert seen == AS_DECLARED, (n, {path: what for path, what in seen.items() if AS_DECLARED[path] != what})
            # The same in the storage, where the link's target is a file; a parent that the root has stays root's.
            there = stats(node, vps, [f"/persistent{path}" for path in AS_DECLARED])
            for path, what in AS_DECLARED.items():
                if "symbolic link" not in what:
                    assert there[f"/persistent{path}"] == what, (n, path, there)
            assert in_guest(node, vps, identity) == first, f"boot {n}: it is another machine"
            assert in_guest(node, vps, "systemctl is-active ssh") == "active"
            mounts = in_guest(node, vps, "cat /proc/self/mountinfo")
            for path in ("/var/lib/birdhouse", "/srv/pond", "/home/bird/.config/nest", "/etc/machine-id"):
                assert f" {path} " in mounts, (n, path)
            seen = in_guest(node, vps, "cat /home/bird/nest-file /home/bird/.config/nest/egg /home/bird/.birdrc 2>/dev/null; :")
            assert seen == ("" if n == 1 else "egg\nrc"), (n, seen)
            in_guest(node, vps, "su bird -c 'echo egg > ~/.config/nest/egg; echo rc > ~/.birdrc; echo lost > ~/nest-file'")
            in_guest(node, vps, "su fish -c 'echo f > ~/tank/.fishrc'; echo k > /etc/secret/key")
        assert stored(node, vps, "/home/bird/.birdrc") == "rc\n"
        assert stored(node, vps, "/home/fish/tank/.fishrc") == "f\n"
        assert stored(node, vps, "/etc/secret/key") == "k\n"


STUB = """\
#!/bin/busybox sh
cat /proc/self/mountinfo > /dev/console
export PATH=/bin:/sbin
{ cat /proc/self/mountinfo; ls -ln /etc/linked /etc/copied; cat /etc/copied; } > /persistent/seen 2>&1
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done
"""
BEFORE_INIT = """
[manifest.layout.persistence."/persistent"]
directories = ["/var/log", { directory = "/srv/data", mode = "0750" }, "/opt/with space", "/root/.config/app"]
files = [
    "/etc/bound",
    { file = "/etc/linked", method = "symlink" },
    { file = "/etc/copied", method = "copy" },
]
"""


def test_everything_is_there_at_the_first_act_of_init(node):
    """The guest's init is a stub that prints its mount table before anything else."""
    with template(node, "stub", BEFORE_INIT, STUB) as name, node.vps(name, start=False) as vps:
        at = storage(node, vps)
        (at / "etc").mkdir()
        for file in ("bound", "copied", "linked"):
            (at / "etc" / file).write_text(f"{file}\n")
        node.run("start", vps)
        seen = wait_for("the stub wrote what it saw", lambda: "copied\n" in (stored(node, vps, "/seen") or "")
                        and stored(node, vps, "/seen"))
        for path in ("/var/log", "/srv/data", "/opt/with\\040space", "/root/.config/app", "/etc/bound", "/persistent"):
            assert f" {path} " in seen, (path, seen)
        assert re.search(r"/etc/linked -> /persistent/etc/linked", seen), seen
        assert seen.rstrip().endswith("copied"), seen
        wait_for("the console has its first act", lambda: " /opt/with\\040space " in node.run("logs", vps).stdout, 10)


PACKAGE = """\
set -eu
top={top}/{name}
mkdir -p $top/DEBIAN $top/usr/share/{name}
printf 'Package: {name}\\nVersion: 1\\nArchitecture: all\\nMaintainer: none <none@example.org>\\nDescription: {name}\\n' > $top/DEBIAN/control
cat > $top/DEBIAN/postinst <<'END'
#!/bin/sh
set -e
getent passwd {name} > /dev/null || useradd --system --no-create-home --user-group {name}
mkdir -p /var/lib/{name}
chown {name}:{name} /var/lib/{name}
END
chmod 755 $top/DEBIAN/postinst
dpkg-deb --build --root-owner-group $top {top}/{name}.deb
"""
KEEPS = """\
["/persistent"]
directories = [
    { directory = "/var/lib/alpha", user = "alpha", group = "alpha", mode = "0750" },
    { directory = "/var/lib/omega", user = "omega", group = "omega", mode = "0750" },
]
"""


def install(node, vps, *names):
    at = storage(node, vps)
    for name in names:
        sh("sh", "-c", PACKAGE.format(top=at, name=name))
        node.exec(vps, "dpkg", "--install", f"/persistent/{name}.deb")


def numbers(node, vps):
    """The users' numbers, and whose the data is."""
    ids = in_guest(node, vps, "for u in alpha omega; do id -u $u; id -g $u; done").split()
    owners = in_guest(node, vps, "stat -c '%u %g' /var/lib/alpha/data /var/lib/omega/data").split()
    return ids, owners


def test_packages_installed_in_another_order_keep_their_data(node):
    """P7: the same users get the same numbers, whatever is installed when; without the preset they do not."""
    for declared, stable in ((KEEPS, True), (KEEPS + 'presets = { accounts = false }\n', False)):
        with node.vps("debian-12-impermanence") as vps:
            declare(node, vps, declared)
            restart(node, vps)
            node.wait_running(vps)
            # Nobody knows them yet: their directories are root's alone, and told as pending.
            if stable:
                assert fates(node, vps)["/var/lib/alpha"][0] == "pending", fates(node, vps)
            install(node, vps, "alpha", "omega")
            in_guest(node, vps, "for u in alpha omega; do echo mine > /var/lib/$u/data; chown $u:$u /var/lib/$u/data; done")
            first = numbers(node, vps)
            assert first[0] == first[1]
            restart(node, vps)
            node.wait_running(vps)
            assert node.exec(vps, "dpkg", "--status", "alpha", check=False).returncode != 0, "the root is new"
            install(node, vps, "omega", "alpha")
            second = numbers(node, vps)
            if stable:
                assert second == first, (first, second)
                assert report(node, vps)["state"] == "applied", report(node, vps)
            else:
                assert second[0] != first[0], "without the preset the order decides, so this test would show nothing"


def test_a_password_and_a_user_survive(node):
    with node.vps("debian-12-impermanence") as vps:
        in_guest(node, vps, "useradd --create-home --shell /bin/sh human; echo human:first | chpasswd")
        before = in_guest(node, vps, "getent shadow human; getent passwd human")
        restart(node, vps)
        node.wait_running(vps)
        assert in_guest(node, vps, "getent shadow human; getent passwd human") == before
        in_guest(node, vps, "echo human:second | chpasswd")
        changed = in_guest(node, vps, "getent shadow human")
        restart(node, vps, "--force")
        node.wait_running(vps)
        # Killed: what was written in its last second is not taken; a second is not over.
        assert in_guest(node, vps, "getent shadow human") in (before.splitlines()[0], changed)
        in_guest(node, vps, "echo human:third | chpasswd")
        third = in_guest(node, vps, "getent shadow human")
        in_guest(node, vps, "(sleep 0.2; reboot) > /dev/null 2>&1 &")
        run = node.show(vps)["run"]["id"]
        wait_for("it has rebooted", lambda: (now := node.show(vps)["run"]) and now["id"] != run and now["init_pid"])
        node.wait_running(vps)
        assert in_guest(node, vps, "getent shadow human") == third


IN_THE_WAY = """\
["/persistent"]
directories = ["/etc/dir-link", "/loop/a/b", "/srv/../../etc", "/proc/keep", "/srv/good", "relative/one"]
files = [
    { file = "/etc/fifo", method = "copy" },
    { file = "/etc/full" },
    { file = "/etc/hostname" },
    { file = "/etc/app.conf", method = "copie" },
]
surprise = 7
"""
HOSTILE = """
ln -s /persistent /persistent/etc/dir-link; ln -s b /persistent/loop; mkfifo /persistent/etc/fifo
"""


def test_trouble_never_blocks_a_boot_and_is_told(node):
    """P3: it boots degraded; boot.json and `show` say why. A declared file of the platform beats the platform (T4)."""
    with template(node, "plain") as name, node.vps(name, wait=False) as vps:
        declare(node, vps, IN_THE_WAY)
        in_guest(node, vps, HOSTILE + "echo kept-name > /persistent/etc/hostname")
        restart(node, vps)
        told = report(node, vps)
        assert told["state"] == "degraded", told
        all_fates = fates(node, vps)
        assert all_fates["/srv/good"] == ("applied", "bind"), all_fates
        assert all_fates["/etc/hostname"][0] == "applied", all_fates
        assert in_guest(node, vps, "cat /etc/hostname") == "kept-name"
        for path in ("/etc/dir-link", "/loop/a/b", "/proc/keep", "/etc/fifo"):
            assert all_fates[path][0] == "refused", (path, all_fates)
        problems = " ".join(f"{p['at']} {p['what']}" for p in told["problems"])
        for word in ("..", "method", "surprise"):
            assert word in problems, (word, problems)
        shown = node.run("show", vps).stdout
        assert "degraded" in shown and "/etc/dir-link" in shown, shown
        # The next start is not harder for it, and nothing was put where the links lead.
        assert stored(node, vps, "/a") is None
        restart(node, vps)
        assert fates(node, vps) == all_fates


def test_hostile_files_cost_little(node):
    """100 MB of TOML, a FIFO, a million entries: the VPS is up within its usual time."""
    cases = {
        "100 MB": "head -c 100000000 /dev/zero | tr '\\0' '#' > /persistent/etc/mayfly/persistence.toml",
        "a FIFO": "mkfifo /persistent/etc/mayfly/persistence.toml",
        "a link to itself": "ln -s persistence.toml /persistent/etc/mayfly/persistence.toml",
        "a directory": "mkdir /persistent/etc/mayfly/persistence.toml",
        "a link to a device": "ln -s /dev/zero /persistent/etc/mayfly/persistence.toml",
        "many": "{ echo '[\"/persistent\"]'; echo 'directories = ['; seq 20000 | sed 's|.*|\"/d/&\",|'; echo ']'; }"
                " > /persistent/etc/mayfly/persistence.toml",
        "a million": "{ echo '[\"/persistent\"]'; echo 'directories = ['; seq 1000000 | sed 's|.*|\"/d/&\",|'; echo ']'; }"
                " > /persistent/etc/mayfly/persistence.toml",
        "deep": "{ printf 'a = '; head -c 100000 /dev/zero | tr '\\0' '['; } > /persistent/etc/mayfly/persistence.toml",
    }
    with template(node, "plain") as name, node.vps(name, "--disk", "2G", wait=False) as vps:
        in_guest(node, vps, "mkdir -p /persistent/etc/mayfly")
        for what, plant in cases.items():
            in_guest(node, vps, f"rm -rf /persistent/etc/mayfly/persistence.toml; {plant}")
            restart(node, vps, "--force")
            told = report(node, vps)
            assert told["state"] == "degraded", (what, told["state"], told.get("why"))
            assert told["took_ms"] < 5000, (what, told["took_ms"])
            assert len(str(told)) < 1 << 20
        in_guest(node, vps, "rm -rf /persistent/etc/mayfly /persistent/d")


def test_where_the_root_stays_nothing_is_done(node):
    """P9: without the feature, and with the root dataset at the storage's path while it is `/`: a hash says so."""
    declared = """
[manifest.layout.persistence."/persistent"]
directories = ["/srv/data"]
files = [{ file = "/etc/app.conf", method = "copy" }, { file = "/etc/linked", method = "symlink" }]
"""
    with template(node, "lasting", declared, impermanence=False) as name, node.vps(name, start=False) as vps:
        assert [m["path"] for m in node.json("mount", "list", vps)] == ["/persistent"], "the middle of a conversion"
        at = storage(node, vps)
        (at / "etc/app.conf").write_text("mine\n")
        (at / "etc/linked").write_text("mine too\n")
        (at / "srv").mkdir(exist_ok=True)
        node.run("start", vps)
        told = report(node, vps)
        assert told["state"] == "inactive" and told["declarations"] == [], told
        assert "temporary" in told["why"], told
        node.run("stop", vps)
        before = tree_hash(storage(node, vps), times=True)
        for _ in range(2):
            node.run("start", vps)
            node.run("stop", vps)
            assert tree_hash(storage(node, vps), times=True) == before
        # Not mounted at all, with the feature on: inactive as well, and the guest's own file is not there to be read.
        node.run("mount", "remove", vps, "/persistent")
        node.run("feature", "set", vps, "impermanence=on")
        node.run("start", vps)
        told = report(node, vps)
        assert told["state"] == "inactive" and "/persistent" in told["why"], told
        node.run("stop", vps)
        assert tree_hash(storage(node, vps), times=True) == before
        # And where it is both, the same dataset is not used for keeping what it is itself.
        node.run("mount", "add", vps, "/persistent")
        node.run("start", vps)
        assert report(node, vps)["state"] in ("applied", "degraded")
        node.run("stop", vps)
