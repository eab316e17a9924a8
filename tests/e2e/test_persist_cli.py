"""What a VPS declares, told and changed from outside."""
import os
import stat

from harness import wait_for

OWN = "etc/mayfly/persistence.toml"
GUEST = f"/persistent/{OWN}"


def text_of(node, vps):
    """The VPS's own file as it lies in the pool; none where there is none."""
    with node.pool() as pool:
        file = pool / str(vps) / "private" / OWN
        return file.read_text() if file.exists() else None


def rights(node, vps):
    with node.pool() as pool:
        seen = os.lstat(pool / str(vps) / "private" / OWN)
        return seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)


def declared(node, vps):
    """What its own file declares; the template may declare more."""
    lines = node.json("persist", "list", vps)["declarations"]
    return {line["path"]: line for line in lines if line["origin"] == "file"}


def test_a_declared_path_is_there_after_a_restart(node):
    """P1, P3, P4: declared from outside, copied, and there in the next root; `list` and `show` say how it went."""
    with node.vps() as vps:
        node.exec(vps, "sh", "-c", "mkdir -p /srv/data && echo dear > /srv/data/file && echo one > /etc/app.conf")
        told = node.run("persist", "add", vps, "/srv/data/").stdout
        node.run("persist", "add", vps, "/etc/app.conf", "--method", "copy")
        assert "mayfly restart" in told and "cp -a --parents /srv/data /persistent" in told, told
        node.exec(vps, "cp", "-a", "--parents", "/srv/data", "/etc/app.conf", "/persistent")
        before = node.json("persist", "list", vps)["last_start"]
        node.run("restart", vps)
        node.wait_running(vps)
        assert node.exec(vps, "cat", "/srv/data/file", "/etc/app.conf").split() == ["dear", "one"]
        last = node.json("persist", "list", vps)["last_start"]
        assert (last["state"], last["staying"], last["troubled"]) == ("applied", before["staying"] + 2, 0), last
        assert f"applied, {last['staying']} stay" in node.run("show", vps).stdout
        # What a program puts in its place is taken back from the dead root.
        node.exec(vps, "sh", "-c", "echo two > /etc/new && mv /etc/new /etc/app.conf && rm /srv/data/file && echo x > /srv/data/other")
        told = node.run("persist", "remove", vps, "/srv/data").stdout
        assert "/persistent/srv/data" in told, told
        node.run("restart", vps)
        node.wait_running(vps)
        assert node.exec(vps, "cat", "/etc/app.conf") == "two"
        assert node.exec(vps, "ls", "-A", "/persistent/srv/data") == "other", "what is stored stays"
        assert node.exec(vps, "ls", "/srv/data", check=False).returncode != 0


def test_trouble_at_a_start_is_told_outside(node):
    """P3: a start with something in the way comes up, and `show` says what stays not and why."""
    with node.vps(start=False) as vps:
        node.run("persist", "add", vps, "/etc/debian_version", "--file")
        node.run("start", vps)
        node.wait_running(vps)
        last = node.json("persist", "list", vps)["last_start"]
        assert last["state"] == "degraded" and "/etc/debian_version" in last["troubles"][0], last
        shown = node.run("show", vps).stdout
        assert "degraded" in shown and "/etc/debian_version" in shown, shown


def test_declaring_changes_the_own_file_and_nothing_else(node):
    """P1, P5: running or stopped; comments, order and rights of what the guest wrote stay; a plan changes nothing."""
    with node.vps() as vps:
        plan = node.json("persist", "add", vps, "/srv/data", "--directory", "--dry-run")["plan"]["lines"]
        assert len(plan) == 1 and "declare /srv/data, a directory" in plan[0], plan
        assert text_of(node, vps) is None and declared(node, vps) == {}
        node.run("persist", "add", vps, "/srv/data", "--directory")
        assert rights(node, vps) == (0, 0, 0o644)
        assert node.exec(vps, "cat", GUEST) == text_of(node, vps).strip()
        # The guest's own words.
        ours = """# mine
["/persistent"]
directories = [
    "/srv/data", # the data
    # and more
    "/srv/more",
]
"""
        node.exec(vps, "sh", "-c", f"printf %s '{ours}' > {GUEST} && chown 7:8 {GUEST} && chmod 0640 {GUEST}")
        node.run("persist", "add", vps, "/var/cache/app", "--directory", "--tier", "cache")
        added = '    { directory = "/var/cache/app", tier = "cache" },\n'
        wanted = ours.replace('    "/srv/more",\n', f'    "/srv/more",\n{added}')
        assert text_of(node, vps) == wanted
        assert rights(node, vps) == (7, 8, 0o640), "a file keeps its rights"
        lines = declared(node, vps)
        assert {p: (d["kind"], d["tier"], d["origin"]) for p, d in lines.items()} == {
            "/srv/data": ("directory", "data", "file"), "/srv/more": ("directory", "data", "file"),
            "/var/cache/app": ("directory", "cache", "file")}
        node.run("stop", vps, "--force")
        assert declared(node, vps) == lines
        node.run("persist", "remove", vps, "/var/cache/app")
        assert text_of(node, vps) == ours
        # What is at a path tells what it is, in the last root as well.
        node.run("persist", "add", vps, "/etc/hostname", "/etc/systemd")
        lines = declared(node, vps)
        assert (lines["/etc/hostname"]["kind"], lines["/etc/systemd"]["kind"]) == ("file", "directory")


def test_what_cannot_or_need_not_be_declared_is_refused(node):
    """P5: with the reason and the next step, and nothing is written."""
    with node.vps() as vps:
        node.run("persist", "add", vps, "/srv/data/")
        before = text_of(node, vps)
        for code, *words in [
            ("persist.refused", "/"), ("persist.refused", "/proc/x/"), ("persist.refused", "/dev/x", "--file"),
            ("persist.refused", "/run/x/"), ("persist.exists", "/persistent"), ("persist.exists", "/persistent/x/"),
            ("persist.exists", "/srv/data"), ("persist.exists", "/srv/data/deep"), ("persist.refused", "/srv", "--file"),
            ("input.invalid", "/nothing/there"), ("persist.exists", "/srv/a/", "/srv/a/"),
        ]:
            node.refused(code, "persist", "add", vps, *words)
            assert text_of(node, vps) == before, words
        for path in ("relative", "/a/../b", ""):
            assert node.run("persist", "add", vps, path, check=False).returncode == 2, path
        assert node.run("persist", "add", vps, "/x", "--directory", "--method", "copy", check=False).returncode == 2
        node.refused("persist.not_found", "persist", "remove", vps, "/nothing/there")
        node.refused("persist.not_found", "persist", "remove", vps, "/srv/data/deep")
    with node.vps("debian-12", start=False) as vps:
        assert "template" in node.refused("persist.no_storage", "persist", "add", vps, "/srv/data/").hint
        assert node.json("persist", "list", vps)["inactive"]


def test_whatever_a_guest_has_there_is_told_and_left_alone(node):
    """E2: links out, FIFOs, directories, endless and senseless files; the host follows and writes nothing."""
    with node.vps() as vps:
        at = f"rm -rf {GUEST}; mkdir -p /persistent/etc/mayfly; "
        outside = "/etc/mayfly-was-here"
        for make in (f"ln -s {outside} {GUEST}", f"mkfifo {GUEST}", f"mkdir {GUEST}", f"ln -s {GUEST} {GUEST}",
                     f"head -c 300000 /dev/zero > {GUEST}", f"head -c 4096 /dev/urandom > {GUEST}",
                     f"printf '%0500d' 0 | tr 0 '[' > {GUEST}", f"printf 'a = \"\\033[2J' > {GUEST}", f"mknod {GUEST} p"):
            node.exec(vps, "sh", "-c", at + make)
            found = node.json("persist", "list", vps)
            assert not [d for d in found["declarations"] if d["origin"] == "file"] and found["problems"], (make, found)
            assert "\033" not in node.run("persist", "list", vps).stdout
            before = node.exec(vps, "stat", "-c", "%F %i %s", GUEST)
            node.refused("persist.not_editable", "persist", "add", vps, "/srv/data/")
            assert node.exec(vps, "stat", "-c", "%F %i %s", GUEST) == before, make
        assert not os.path.lexists(outside)
        # The directory is somewhere else.
        node.exec(vps, "sh", "-c", "rm -rf /persistent/etc && ln -s /etc /persistent/etc")
        assert node.json("persist", "list", vps)["problems"]
        node.refused("persist.not_editable", "persist", "add", vps, "/srv/data/")
        assert not os.path.lexists("/etc/mayfly")
        node.exec(vps, "rm", "/persistent/etc")
        node.run("persist", "add", vps, "/srv/data/")
        # JSON beside no TOML is read, and not edited.
        json = '{"/persistent": {"directories": ["/srv/json"]}}'
        node.exec(vps, "sh", "-c", f"rm {GUEST} && echo '{json}' > /persistent/etc/mayfly/persistence.json")
        assert list(declared(node, vps)) == ["/srv/json"]
        node.refused("persist.not_editable", "persist", "add", vps, "/srv/data/")


def test_a_guest_that_writes_at_the_same_time_is_not_overwritten(node):
    """P5: what was not read is not replaced; whoever asks again gets it done."""
    with node.vps() as vps:
        node.run("persist", "add", vps, "/srv/first/")
        loop = (f"i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); printf '# %s\\n[\"/persistent\"]\\ndirectories = [\"/srv/g%s\"]\\n' $i $i "
                f"> /persistent/etc/mayfly/new && mv /persistent/etc/mayfly/new {GUEST}; done; rm /tmp/stop")
        node.exec(vps, "sh", "-c", f"({loop}) >/dev/null 2>&1 &")
        codes = set()
        for number in range(12):
            done = node.run("persist", "add", vps, f"/srv/h{number}/", check=False)
            codes.add(0 if done.returncode == 0 else "changed" if "meanwhile" in done.stderr else done.stderr)
        node.exec(vps, "touch", "/tmp/stop")
        wait_for("the guest is done", lambda: node.exec(vps, "test", "-e", "/tmp/stop", check=False).returncode != 0)
        assert codes <= {0, "changed"}, codes
        found = node.json("persist", "list", vps)
        assert found["problems"] == [] and any(path.startswith("/srv/g") for path in declared(node, vps)), found
        node.run("persist", "add", vps, "/srv/last/")
        assert "/srv/last" in declared(node, vps)
        assert node.exec(vps, "ls", "-A", "/persistent/etc/mayfly") == "persistence.toml"
