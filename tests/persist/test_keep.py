"""Copies, accounts, presets, owners that come later, and runs in which nothing is to be done (SPEC P4, P7, P9)."""
import json
import os
import stat
import struct
import time

import trees
from scenario import root

COPY = '["/persistent"]\nfiles = [{ file = "/etc/conf", method = "copy" }]\n'


def test_a_copy_is_placed_once_and_taken_back_when_it_changed(work):
    with root(work) as vps:
        vps.declare(COPY)
        vps.write("/persistent/etc/conf", "one", 0o640, (5, 6))
        vps.write("/etc/conf", "of the base")
        _, lines = vps.apply()
        assert lines["/etc/conf"]["fate"] == "applied" and lines["/etc/conf"]["how"] == "copy"
        info = os.stat(vps.at + "/etc/conf")
        assert (vps.read("/etc/conf"), info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == ("one", 5, 6, 0o640)
        assert vps.harvest("--when", "ended")[1]["/etc/conf"]["what"] == "unchanged"
        # Replaced by rename, as editors do.
        vps.write("/etc/conf.new", "two", 0o600, (7, 8))
        os.rename(vps.at + "/etc/conf.new", vps.at + "/etc/conf")
        # Applied once more in the same root it stays what it has become.
        assert vps.apply()[1]["/etc/conf"]["fate"] == "already"
        assert vps.read("/etc/conf") == "two"
        assert vps.harvest("--when", "ended")[1]["/etc/conf"]["what"] == "taken"
        info = os.stat(vps.kept + "/etc/conf")
        assert (vps.read("/persistent/etc/conf"), info.st_uid, stat.S_IMODE(info.st_mode)) == ("two", 7, 0o600)
        assert vps.read("/persistent/etc/conf.prev") == "one"
        assert vps.harvest("--when", "ended", once=True)[1]["/etc/conf"]["what"] == "stored"
        assert vps.harvest("--when", "ended")[0]["state"] == "none", "with its root the record is gone"
        left = [p for p, _ in trees.walk(vps.kept) if ".mayfly-" in p]
        assert left == [], left


def test_what_is_gone_or_empty_deletes_nothing(work):
    with root(work) as vps:
        vps.declare(COPY)
        vps.write("/persistent/etc/conf", "one")
        vps.apply()
        for change, what in [(lambda: vps.write("/etc/conf", ""), "empty"),
                             (lambda: os.unlink(vps.at + "/etc/conf"), "absent")]:
            change()
            assert vps.harvest("--when", "ended")[1]["/etc/conf"]["what"] == what
            assert vps.read("/persistent/etc/conf") == "one"
        os.mkdir(vps.at + "/etc/conf")
        assert vps.harvest("--when", "ended")[1]["/etc/conf"]["what"] == "refused"
        os.rmdir(vps.at + "/etc/conf")
        os.mkfifo(vps.at + "/etc/conf")
        assert vps.harvest("--when", "ended")[1]["/etc/conf"]["what"] == "refused"
        os.unlink(vps.at + "/etc/conf")
        with open(vps.at + "/etc/conf", "w") as file:
            file.truncate(17 << 20)
        report, lines = vps.harvest("--when", "ended")
        assert lines["/etc/conf"]["what"] == "refused" and "16 MiB" in lines["/etc/conf"]["why"], lines
        assert report["refused"] == ["/etc/conf: " + lines["/etc/conf"]["why"]] and report["taken"] == []
        assert vps.read("/persistent/etc/conf") == "one"


def test_what_finds_no_room_is_taken_later(work):
    with root(work) as vps:
        vps.declare('["/persistent"]\nfiles = [' + ",".join(f'{{ file = "/etc/{n}", method = "copy" }}' for n in "abc") + "]")
        vps.apply()
        for name, size in [("a", 1), ("b", 8 << 20), ("c", 8 << 20)]:
            vps.write(f"/etc/{name}", "x" * size)
        with open(vps.kept + "/filler", "wb") as file:
            file.write(bytes(52 << 20))
        report, lines = vps.harvest("--when", "ended", code=1)
        assert [lines[f"/etc/{n}"]["what"] for n in "abc"] == ["taken", "taken", "failed"], lines
        assert "space" in lines["/etc/c"]["why"] and report["refused"] == []
        assert not os.path.exists(vps.kept + "/etc/c")
        os.unlink(vps.kept + "/filler")
        report, lines = vps.harvest("--when", "ended")
        assert [lines[f"/etc/{n}"]["what"] for n in "abc"] == ["unchanged", "unchanged", "taken"], lines
        assert len(vps.read("/persistent/etc/c")) == 8 << 20


def test_a_birth_makes_older_records_useless(work):
    with root(work) as vps:
        vps.declare(COPY)
        vps.write("/persistent/etc/conf", "one")
        vps.apply(run="old")
        vps.write("/etc/conf", "two")
        vps.write("/persistent/var/lib/mayfly/placed/note", "no record")
        os.makedirs(vps.record("directory"))
        vps.write("/persistent/etc/mayfly/persistence.toml", "")
        # Also where nothing is placed any more.
        report, _ = vps.apply(run="new")
        assert sorted(os.listdir(os.path.dirname(vps.record()))) == ["directory.json", "note"]
        assert report["state"] == "applied" and "directory" in report["problems"][0]["what"], report
        assert vps.harvest("--when", "ended", run="old")[0]["state"] == "none"
        assert vps.read("/persistent/etc/conf") == "one"
        # A mebibyte of names is not read.
        for n in range(5_000):
            open(f"{os.path.dirname(vps.record())}/{n}.json", "w").close()
        vps.declare(COPY)
        report, lines = vps.apply(run="new")
        assert lines["/etc/conf"]["fate"] == "applied"
        assert any("1024" in problem["what"] for problem in report["problems"]), report
        assert len(os.listdir(os.path.dirname(vps.record()))) == 5_000 - 1024 + 3


def test_what_was_declared_is_remembered(work):
    def seen(vps):
        with open(vps.kept + "/var/lib/mayfly/declared.json") as file:
            history = json.load(file)
        return {e["path"]: (e["directory"], e["storage"], "gone_unix_ms" in e) for e in history["entries"]}

    with root(work) as vps:
        at = vps.kept + "/var/lib/mayfly/declared.json"
        vps.declare('["/persistent"]\ndirectories = ["/srv/a"]\nfiles = ["/etc/b"]')
        vps.apply()
        assert seen(vps) == {"/srv/a": (True, "/persistent", False), "/etc/b": (False, "/persistent", False)}
        info = os.stat(at)
        assert stat.S_IMODE(info.st_mode) == 0o600 and abs(info.st_mtime - time.time()) < 60
        vps.apply()
        assert os.stat(at).st_ino == info.st_ino, "the same declarations write nothing"
        vps.declare('["/persistent"]\ndirectories = ["/srv/c"')
        assert vps.apply()[0]["state"] == "degraded"
        assert os.stat(at).st_ino == info.st_ino, "what cannot be read is not gone"
        vps.declare('["/persistent"]\nfiles = ["/etc/b"]')
        vps.apply()
        assert seen(vps) == {"/srv/a": (True, "/persistent", True), "/etc/b": (False, "/persistent", False)}
        for number, broken in enumerate(["{", None]):
            os.unlink(at)
            if broken:
                vps.write("/persistent/var/lib/mayfly/declared.json", broken)
            else:
                os.mkfifo(at)
            report, _ = vps.apply()
            assert report["state"] == "applied" and "kept as declared.json.prev" in report["problems"][0]["what"], report
            assert seen(vps) == {"/etc/b": (False, "/persistent", False)}
            assert stat.S_ISFIFO(os.lstat(at + ".prev").st_mode) == (broken is None)


def test_no_record_of_a_guest_keeps_its_root_for_ever(work):
    """Records lie where a guest can write them, and whatever one says, a dead root is done with."""
    def record(files, **more):
        return json.dumps({"version": 1, "run": "r1", "files": files, **more})

    def placed(path, stored):
        return {"path": path, "stored": stored, "content": {"kind": "absent"}}

    many = [placed(f"/etc/{n}", f"/persistent/{n}") for n in range(100, 6_100)]
    with root(work) as vps:
        os.mkdir(vps.kept + "/sealed")
        trees.mount("none", vps.kept + "/sealed", "tmpfs", 1)
        os.symlink("/etc", vps.at + "/link")
        for path in ["/etc/x", "/etc/200", "/etc/5000"]:
            vps.write(path, "x")
        with open(vps.at + "/etc/1", "w") as file:
            file.truncate(16 << 20)
        os.mkdir(vps.kept + "/etc")
        for number, (text, what) in enumerate([
            ("{", "not understood"), (record([], run="r2"), "not the record"), (record([], version=2), "not the record"),
            ("x" * (9 << 20), "larger than"),
            (record([placed("/link/x", "/persistent/x")]), "link"),
            (record([placed("/etc/x", "/persistent/sealed/x")]), "nothing can be written"),
            (record([placed("/etc/x", "/persistent/etc")]), "directory"),
            (record([placed("/etc/x", "/persistent/gone/x")]), "No such"),
            (record([placed("/../x", "/persistent/x")]), "not understood"),
            (record(many), "more than 4112 files"),
            (record([placed("/etc/1", f"/persistent/{n % 3}") for n in range(4_000)]), "256 MiB"),
        ]):
            vps.write("/persistent/var/lib/mayfly/placed/r1.json", text)
            for when in ["ended", f"crashed:{time.time() + 5}"]:
                begun = time.monotonic()
                report, _ = vps.harvest("--when", when)
                assert report["state"] == "done" and any(what in line for line in report["refused"]), (what, report)
                assert time.monotonic() - begun < 20
        there = {n: os.path.exists(f"{vps.kept}/{n}") for n in ["x", "200", "5000"]}
        assert there == {"x": False, "200": True, "5000": False}


def test_only_this_roots_record_counts(work):
    with root(work) as vps:
        vps.declare(COPY)
        vps.write("/persistent/etc/conf", "one")
        vps.write("/etc/conf", "never placed here")
        assert vps.harvest("--when", "ended")[0]["state"] == "none"
        assert vps.read("/persistent/etc/conf") == "one"
        # A record that cannot be read bars placing as well as taking.
        vps.write("/persistent/var/lib/mayfly/placed/r1.json", "{")
        assert vps.apply()[1]["/etc/conf"]["fate"] == "refused"
        report, _ = vps.harvest("--when", "ended")
        assert report["state"] == "done" and "not understood" in report["refused"][0], report
        assert (vps.read("/etc/conf"), vps.read("/persistent/etc/conf")) == ("never placed here", "one")
        vps.write("/persistent/var/lib/mayfly/placed/r2.json", json.dumps({"version": 1, "run": "other", "files": []}))
        assert vps.apply(run="r2")[1]["/etc/conf"]["fate"] == "refused"


def test_a_file_that_is_being_written_waits(work):
    # A guest's root may not ask for what is not its own, unlike this one.
    as_a_guest = ("setpriv", "--bounding-set", "-lease")
    with root(work) as vps:
        vps.declare(COPY)
        vps.write("/persistent/etc/conf", "one")
        vps.apply()
        for text, owner in [("half of", (0, 0)), ("another's", (1000, 1000))]:
            vps.write("/etc/conf", "", owner=owner)
            with open(vps.at + "/etc/conf", "w") as file:
                file.write(text)
                file.flush()
                os.utime(vps.at + "/etc/conf", (1, 1))
                time.sleep(1.2)
                report, lines = vps.harvest(code=1, by=as_a_guest)
                assert lines["/etc/conf"]["what"] == "unsettled" and report["state"] == "incomplete"
            report, lines = vps.harvest(code=0, by=as_a_guest)
            assert lines["/etc/conf"]["what"] == "taken", "closed, and left alone for a second"
            info = os.stat(vps.kept + "/etc/conf")
            assert (vps.read("/persistent/etc/conf"), (info.st_uid, info.st_gid)) == (text, owner)
        vps.write("/etc/conf", "just now")
        assert vps.harvest(code=1)[1]["/etc/conf"]["what"] == "unsettled"
        assert vps.harvest("--when", f"crashed:{time.time()}")[1]["/etc/conf"]["what"] == "unsettled"
        assert vps.read("/persistent/etc/conf") == "another's"
        assert vps.harvest("--when", f"crashed:{time.time() + 5}")[1]["/etc/conf"]["what"] == "taken"


def test_attributes_go_with_a_copy(work):
    entries = [(1, 6, -1), (2, 4, 1000), (4, 4, -1), (16, 4, -1), (32, 0, -1)]
    kept = {"user.origin": b"a program", "security.capability": struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0),
            "system.posix_acl_access": struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)}
    left = {"trusted.x": b"the host's", "security.other": b"a label"}

    def attributes(at):
        return {name: os.getxattr(at, name) for name in [*kept, *left] if name in os.listxattr(at)}

    with root(work) as vps:
        vps.declare(COPY)
        vps.write("/persistent/etc/conf", "one", 0o640, (1000, 1000))
        for name, value in {**kept, **left}.items():
            os.setxattr(vps.kept + "/etc/conf", name, value)
        assert len(attributes(vps.kept + "/etc/conf")) == 5
        vps.apply()
        assert attributes(vps.at + "/etc/conf") == kept
        vps.write("/etc/conf.new", "two", 0o640, (1001, 1001))
        for name, value in kept.items():
            os.setxattr(vps.at + "/etc/conf.new", name, value)
        os.rename(vps.at + "/etc/conf.new", vps.at + "/etc/conf")
        assert vps.harvest("--when", "ended")[0]["taken"] == ["/etc/conf"]
        assert attributes(vps.kept + "/etc/conf") == kept
        info = os.stat(vps.kept + "/etc/conf")
        assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (1001, 0o640)
        # More than anybody needs is no reason to keep a root.
        vps.write("/etc/conf", "three")
        for n in range(3):
            os.setxattr(vps.at + "/etc/conf", f"user.{n}", bytes(30_000))
        report, _ = vps.harvest("--when", "ended")
        assert "64 KiB" in report["refused"][0] and vps.read("/persistent/etc/conf") == "two"


def test_a_new_file_and_a_link_are_taken(work):
    with root(work) as vps:
        vps.declare('["/persistent"]\nfiles = [{ file = "/etc/new", method = "copy" }, { file = "/etc/localtime", method = "copy" }]')
        os.makedirs(vps.kept + "/etc", exist_ok=True)
        os.symlink("/usr/share/zoneinfo/UTC", vps.kept + "/etc/localtime")
        vps.apply()
        assert os.readlink(vps.at + "/etc/localtime") == "/usr/share/zoneinfo/UTC"
        vps.write("/etc/new", "made here")
        os.unlink(vps.at + "/etc/localtime")
        os.symlink("/usr/share/zoneinfo/Europe/Prague", vps.at + "/etc/localtime")
        _, lines = vps.harvest("--when", "ended")
        assert {line["what"] for line in lines.values()} == {"taken"}
        assert vps.read("/persistent/etc/new") == "made here"
        assert os.readlink(vps.kept + "/etc/localtime").endswith("Prague")
        assert os.readlink(vps.kept + "/etc/localtime.prev").endswith("UTC")


def test_a_dead_root_and_its_storage_may_lie_apart(work):
    with root(work) as vps:
        vps.declare(COPY)
        vps.write("/persistent/etc/conf", "one")
        vps.apply()
        vps.write("/etc/conf", "two")
        os.mkdir(work + "/elsewhere")
        trees.mount(vps.kept, work + "/elsewhere", None, 4096)
        trees.umount(vps.kept)
        report, _ = vps.harvest("--when", "ended", "--at", f"/persistent={work}/elsewhere")
        assert report["state"] == "done", report
        with open(work + "/elsewhere/etc/conf") as file:
            assert file.read() == "two"
        trees.umount(work + "/elsewhere")


def test_accounts_keep_their_numbers(work):
    """Install, harvest, a new root from the base, and everybody is who they were."""
    base = "root:x:0:0::/root:/bin/sh\nmessagebus:x:100:101::/:/bin/false\n"
    groups, shadow = "root:x:0:\nmessagebus:x:101:\nsudo:x:27:\n", "root:*:1::::::\nmessagebus:!:1::::::\n"

    def fresh(at):
        os.makedirs(at)
        return root(at)

    def write_base(vps):
        vps.write("/etc/passwd", base)
        vps.write("/etc/group", groups)
        vps.write("/etc/shadow", shadow, 0o640, (0, 42))
        vps.declare('["/persistent"]\npresets = ["accounts"]\nusers.me.directories = ["Documents"]\n'
                    'directories = [{ directory = "/var/lib/db", user = "db", group = "db", mode = "0700" }]')

    with fresh(work + "/one") as vps:
        write_base(vps)
        _, lines = vps.apply()
        assert vps.read("/etc/passwd") == base, "without anything kept the base's is left alone"
        assert lines["/var/lib/db"]["fate"] == "pending" and lines["/home/me/Documents"]["fate"] == "pending"
        info = os.stat(vps.kept + "/var/lib/db")
        assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o700)
        vps.write("/etc/passwd", base + "db:x:105:107::/var/lib/db:/bin/false\nme:x:1000:1000::/home/me:/bin/sh\n")
        vps.write("/etc/group", groups.replace("sudo:x:27:", "sudo:x:27:me") + "db:x:107:\nme:x:1000:\n")
        vps.write("/etc/shadow", shadow + "me:$y$secret:1::::::\n", 0o640, (0, 42))
        assert vps.harvest("--when", "ended")[0]["state"] == "done"
        kept = vps.kept + "/var/lib/mayfly/accounts"
        assert stat.S_IMODE(os.stat(kept).st_mode) == 0o700
        saved = work + "/saved"
        os.system(f"cp -a {vps.kept} {saved}")

    with fresh(work + "/two") as vps:
        os.system(f"cp -a {saved}/. {vps.kept}/")
        write_base(vps)
        _, lines = vps.apply(run="r2")
        assert "db:x:105:107:" in vps.read("/etc/passwd") and "me:x:1000:1000:" in vps.read("/etc/passwd")
        assert "sudo:x:27:me\n" in vps.read("/etc/group") and "me:$y$secret:" in vps.read("/etc/shadow")
        info = os.stat(vps.at + "/etc/shadow")
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (0, 42, 0o640)
        # Who owns what waited for its owner is known now.
        assert lines["/var/lib/db"]["fate"] == "applied", lines
        info = os.stat(vps.kept + "/var/lib/db")
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (105, 107, 0o700)
        assert os.stat(vps.kept + "/home/me").st_uid == 1000
        before = vps.read("/etc/passwd")
        vps.write("/etc/passwd", before + "late:x:106:100::/:/bin/false\n")
        vps.apply(run="r2")
        assert "late" in vps.read("/etc/passwd"), "a repeated run merges nothing over what has become of it"


def test_names_come_from_nixos_maps_too(work):
    with root(work) as vps:
        vps.write("/persistent/var/lib/nixos/uid-map", '{"svc": 990}')
        vps.write("/persistent/var/lib/nixos/gid-map", '{"svc": 989}')
        vps.declare('["/persistent"]\ndirectories = [{ directory = "/var/lib/svc", user = "svc", group = "svc" }, { directory = "/n", user = "12", group = 13 }]')
        vps.apply()
        info = os.stat(vps.at + "/var/lib/svc")
        assert (info.st_uid, info.st_gid) == (990, 989)
        assert (os.stat(vps.at + "/n").st_uid, os.stat(vps.at + "/n").st_gid) == (12, 13)


def test_nothing_is_done_where_nothing_is_temporary(work):
    for name, prepare, more in [
        ("persistent", lambda vps: None, {"temporary_root": False}),
        ("unmounted", lambda vps: trees.umount(vps.kept), {}),
        ("top", lambda vps: None, {"storage": "/"}),
        ("same", lambda vps: (trees.umount(vps.kept), trees.mount(vps.at + "/sub", vps.kept, None, 4096)), {}),
        ("whole", lambda vps: (trees.umount(vps.kept), trees.mount(vps.at, vps.kept, None, 4096)), {}),
    ]:
        os.mkdir(f"{work}/{name}")
        with root(f"{work}/{name}") as vps:
            os.mkdir(vps.at + "/sub")
            prepare(vps)
            storage = more.get("storage", "/persistent")
            before = sorted(p for p, _ in trees.walk(vps.at))
            report, _ = vps.apply(**{"manifest": {storage: {"directories": ["/var/log"], "files": ["/etc/x"]}}, **more})
            assert report["state"] == "inactive" and report["why"], (name, report)
            assert sorted(p for p, _ in trees.walk(vps.at)) == before, name


def test_the_base_preset_on_a_template(work):
    with root(work) as vps:
        vps.write("/etc/ssh/sshd_config", "x")
        report, lines = vps.apply(manifest={"/persistent": {"presets": ["base"]}})
        assert report["state"] == "applied", report
        assert vps.read("/persistent/etc/machine-id") == "uninitialized\n" and vps.is_kept("/etc/machine-id")
        vps.write("/etc/ssh/ssh_host_ed25519_key.x", "secret", 0o600)
        os.rename(vps.at + "/etc/ssh/ssh_host_ed25519_key.x", vps.at + "/etc/ssh/ssh_host_ed25519_key")
        vps.harvest("--when", "ended")
        assert stat.S_IMODE(os.stat(vps.kept + "/etc/ssh/ssh_host_ed25519_key").st_mode) == 0o600
        assert stat.S_IMODE(os.stat(vps.kept + "/root").st_mode) == 0o755
        assert stat.S_IMODE(os.stat(vps.kept + "/root/.ssh").st_mode) == 0o700


def test_what_the_platform_wrote_is_the_first_version_and_then_gives_way(work):
    files = {"/etc/machine-id": "id of this machine\n", "/etc/hostname": "web\n", "/etc/hosts": "127.0.0.1 web\n"}
    declared = ('["/persistent"]\nfiles = ["/etc/machine-id", { file = "/etc/hostname", method = "symlink" }, '
                '{ file = "/etc/hosts", method = "copy" }, "/etc/other"]')

    def seen(vps):
        # Links lead to where the storage is in the root.
        links = {path: os.path.islink(vps.at + path) for path in files}
        return {path: vps.read(os.readlink(vps.at + path) if links[path] else path) for path in files}

    with root(work) as vps:
        vps.declare(declared)
        for path, text in files.items():
            vps.write(path, text, 0o640, (3, 4))
        vps.write("/etc/other", "of the base")
        for fate in ["applied", "already"]:
            report, lines = vps.apply(platform=list(files))
            assert {path: lines[path]["fate"] for path in files} == dict.fromkeys(files, fate), report
            assert [line["path"] for line in lines.values() if line["fate"] == "refused"] == ["/etc/other"]
            assert seen(vps) == files
        assert vps.is_kept("/etc/machine-id") and os.readlink(vps.at + "/etc/hostname") == "/persistent/etc/hostname"
        for path in ["/etc/machine-id", "/etc/hostname"]:
            info = os.stat(vps.kept + path)
            assert (vps.read("/persistent" + path), info.st_uid, stat.S_IMODE(info.st_mode)) == (files[path], 3, 0o640)
        saved = work + "/saved"
        os.system(f"cp -a {vps.kept} {saved}")
    os.mkdir(work + "/next")
    with root(work + "/next") as vps:
        # A new root, into which the platform wrote what it always writes.
        os.system(f"cp -a {saved}/. {vps.kept}/")
        for path, text in files.items():
            vps.write(path, "new " + text)
            vps.write("/persistent" + path, "kept " + text)
        _, lines = vps.apply(platform=list(files), run="r2")
        assert {path: lines[path]["fate"] for path in files} == dict.fromkeys(files, "applied"), lines
        assert seen(vps) == {path: "kept " + text for path, text in files.items()}


def test_mount_options_are_where_libmount_looks(work):
    """In a root of its own, since paths are seen from there."""
    with root(work) as vps:
        vps.declare('["/persistent"]\nhideMounts = true\ndirectories = ["/var/log", { directory = "/with space", allowTrash = true }]')
        os.mkdir(vps.at + "/proc")
        trees.mount("proc", vps.at + "/proc", "proc")
        with open(vps.at + "/spec.json", "w") as file:
            json.dump({"version": 1, "run": "r", "temporary_root": True, "storage": "/persistent"}, file)
        import shutil
        import subprocess
        shutil.copy(trees.program(), vps.at + "/guest")
        needs = subprocess.run(["ldd", vps.at + "/guest"], capture_output=True, text=True).stdout
        if "=>" in needs:
            raise AssertionError("this test needs the static helper: ./run build")
        done = subprocess.run(["chroot", vps.at, "/guest", "apply", "--spec", "/spec.json", "--json"], capture_output=True, text=True)
        assert json.loads(done.stdout)["state"] == "applied", done
        table = vps.read("/run/mount/utab")
        assert " TARGET=/var/log ROOT=/var/log BINDSRC=/persistent/var/log OPTS=x-gvfs-hide\n" in table, table
        assert "TARGET=/with\\040space ROOT=/with\\040space" in table and "OPTS=x-gvfs-hide,x-gvfs-trash" in table
