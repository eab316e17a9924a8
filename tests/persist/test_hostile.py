"""Trees and files that were prepared to do harm: each is a line of the report, in bounds of time and memory."""
import os
import resource
import stat
import time

import trees
from scenario import root

ALL = '["/persistent"]\ndirectories = ["/var/log", "/srv/data"]\nfiles = ["/etc/one", { file = "/etc/two", method = "copy" }]\n'


def outside(work):
    """What nothing may touch."""
    os.mkdir(work + "/outside")
    with open(work + "/outside/file", "w") as file:
        file.write("untouched")
    return work + "/outside"


def untouched(at):
    info = os.stat(at)
    assert os.listdir(at) == ["file"] and (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o755)
    with open(at + "/file") as file:
        assert file.read() == "untouched"


def test_links_anywhere_lead_nowhere(work):
    safe = outside(work)
    ways = ["/var", "/var/log", "/srv", "/srv/data", "/etc/one", "/etc/two"]
    ways += ["/persistent" + way for way in ways] + ["/persistent/var/lib", "/persistent/etc/mayfly"]
    for number, way in enumerate(ways):
        for target in [safe, "../" * 40 + safe.lstrip("/"), "/proc/self/root" + safe, way, "nowhere", safe + "/file"]:
            place = f"{work}/{number}"
            os.makedirs(place, exist_ok=True)
            with root(place) as vps:
                vps.declare(ALL)
                vps.write("/persistent/etc/two", "kept")
                at = vps.at + way
                os.makedirs(os.path.dirname(at), exist_ok=True)
                if os.path.lexists(at):
                    os.rename(at, at + ".away")
                os.symlink(target, at)
                report, lines = vps.apply()
                told = lines.get(way.removeprefix("/persistent"))
                # A copy replaces a link in the root, and a stored link is a link's copy: neither is followed.
                if way not in ("/etc/two", "/persistent/etc/two"):
                    assert report["state"] == "degraded", (way, target, report)
                    assert told is None or told["fate"] == "refused" and "link" in told["why"], (way, target, told)
                untouched(safe)


def test_files_of_other_kinds_at_every_place(work):
    safe = outside(work)
    for number, way in enumerate(["/persistent/etc/mayfly/persistence.toml", "/persistent/var", "/persistent/etc/one",
                                  "/persistent/etc/two", "/var", "/srv/data", "/etc/one", "/etc/two", "/etc/passwd",
                                  "/persistent/var/lib/nixos/uid-map", "/persistent/var/lib/mayfly/placed/r1.json"]):
        for kind in ["fifo", "socket", "device", "null", "file", "directory"]:
            place = f"{work}/{number}{kind}"
            os.makedirs(place)
            with root(place) as vps:
                vps.declare(ALL)
                vps.write("/persistent/etc/two", "kept")
                at = vps.at + way
                os.makedirs(os.path.dirname(at), exist_ok=True)
                if os.path.lexists(at):
                    os.unlink(at)
                if kind == "directory":
                    os.mkdir(at)
                elif kind == "file":
                    vps.write(way, "x")
                else:
                    mode = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "device": stat.S_IFBLK, "null": stat.S_IFCHR}
                    os.mknod(at, mode[kind] | 0o666, os.makedev(*{"device": (7, 0), "null": (1, 5)}.get(kind, (0, 0))))
                report, lines = vps.apply(seconds=10)
                assert report["state"] in ("applied", "degraded")
                for path, line in lines.items():
                    if line.get("how") == "bind" and line["fate"] in ("applied", "already"):
                        assert vps.is_kept(path), line
                untouched(safe)


def test_a_file_of_100_mb_is_not_read(work):
    with root(work) as vps:
        os.makedirs(vps.kept + "/etc/mayfly")
        with open(vps.kept + "/etc/mayfly/persistence.toml", "w") as file:
            file.write("#" * 1000 + "\n")
            file.truncate(60 << 20)
        os.makedirs(vps.at + "/etc", exist_ok=True)
        for name in ["passwd", "group"]:
            with open(f"{vps.at}/etc/{name}", "w") as file:
                file.truncate(8 << 30)
        report, lines = vps.apply(manifest={"/persistent": {"directories": ["/var/log"]}})
        assert lines["/var/log"]["fate"] == "applied" and vps.is_kept("/var/log")
        assert "larger" in report["problems"][0]["what"], report
        assert vps.took < 15, vps.took


def test_nonsense_is_a_report(work):
    texts = ["a" * 200_000, "[" * 100_000, "[\"/persistent\"]\n" + "a." * 50_000 + "a = 1", "\0" * 1000, "\xff\xfe",
             "[\"/persistent\"]\ndirectories = [" + "\"/a\"," * 40_000 + "]",
             "[\"/persistent\"]\ndirectories = [" + "".join(f'"/{"d/" * 60}{n}",' for n in range(1_900)) + "]",
             "[\"/persistent\"]\nfiles = [" + "".join(f'"/x/\\u0000{n}",' for n in range(9_000)) + "]"]
    for number, text in enumerate(texts):
        os.mkdir(f"{work}/{number}")
        with root(f"{work}/{number}") as vps:
            vps.declare(text)
            report, _ = vps.apply(manifest={"/persistent": {"directories": ["/var/log"]}})
            assert report["problems"], text[:40]
            # Who fills all the room with directories has none for those of the manifest, and is told.
            full = any("20000" in problem["what"] for problem in report["problems"])
            assert full or vps.is_kept("/var/log"), text[:40]
            assert vps.took < 30, (vps.took, text[:40])


def test_a_million_entries_cost_nothing(work):
    with root(work) as vps:
        vps.declare(ALL)
        for name in ["/persistent/var/log", "/persistent/var/lib/mayfly/placed", "/var"]:
            make(vps.at + name)
        trees.mount("none", vps.at + "/var", "tmpfs", 0, "size=2g,nr_inodes=0")
        # A link costs no inode; a million are made in seconds.
        directory = os.open(vps.at + "/var", os.O_RDONLY)
        os.close(os.open("0", os.O_CREAT, dir_fd=directory))
        for n in range(1, 1_000_000):
            os.link("0", str(n), src_dir_fd=directory, dst_dir_fd=directory)
        os.close(directory)
        report, lines = vps.apply()
        assert lines["/srv/data"]["fate"] == "applied", report
        assert vps.took < 15, vps.took


def make(path):
    os.makedirs(path, exist_ok=True)
    return path


def test_memory_is_bounded(work):
    with root(work) as vps:
        vps.declare("[\"/persistent\"]\ndirectories = [" + "".join(f'"/{"d/" * 4}{n}",' for n in range(4_000)) + "]")
        report, lines = vps.apply()
        assert report["state"] == "applied", report["problems"]
        # The largest child so far, in KiB.
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 256 << 10


def test_what_is_mounted_is_left_alone(work):
    with root(work) as vps:
        vps.declare('["/persistent"]\ndirectories = ["/srv/data", "/srv/data/own/x", "/nix"]\nfiles = ["/etc/one"]')
        for path in ["/srv/data", "/nix"]:
            trees.mount("none", make(vps.at + path), "tmpfs", 0, "mode=0710,uid=7")
        report, lines = vps.apply()
        assert lines["/nix"]["fate"] == "refused" and "mounted" in lines["/nix"]["why"], lines
        info = os.stat(vps.at + "/srv/data")
        assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (7, 0o710)
        assert lines["/etc/one"]["fate"] == "applied"


def test_nothing_half_made_is_taken_for_a_wish(work):
    with root(work) as vps:
        vps.declare('["/persistent"]\ndirectories = [{ directory = "/a", mode = "0711" }]\nfiles = [{ file = "/b/c", method = "copy" }]')
        vps.write("/persistent/b/c", "kept")
        os.mkdir(vps.kept + "/.mayfly-new")
        vps.write("/b/.mayfly-new", "half")
        report, _ = vps.apply()
        assert report["state"] == "applied", report
        assert stat.S_IMODE(os.stat(vps.kept + "/a").st_mode) == 0o711
        left = [p for p, _ in trees.walk(vps.at) if p.endswith(".mayfly-new")]
        assert left == [], left


def test_a_tree_that_changes_all_the_time(work):
    """Links and directories swap under its feet: a harvest of a running VPS meets that."""
    safe = outside(work)
    with root(work) as vps:
        vps.declare('["/persistent"]\nfiles = [{ file = "/etc/two", method = "copy" }]')
        vps.write("/persistent/etc/two", "kept")
        vps.apply()
        for at in [vps.at, vps.kept]:
            os.symlink(safe, at + "/link")
        child = os.fork()
        if child == 0:
            try:
                swap_for_ever([vps.at, vps.kept])
            finally:
                os._exit(1)
        try:
            end = time.monotonic() + 3
            while time.monotonic() < end:
                trees.guest("harvest", "--root", vps.at, "--storage", "/persistent", "--run", "r1", "--when", "ended")
                trees.guest("apply", "--spec", vps.spec, "--root", vps.at)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
        untouched(safe)


def swap_for_ever(places):
    """The directory and the link, each in the other's place, in one call."""
    while True:
        for at in places:
            trees.LIBC.renameat2(-100, (at + "/etc").encode(), -100, (at + "/link").encode(), 2)
        real = next(at for at in [places[0] + "/etc", places[0] + "/link"] if not os.path.islink(at))
        # In the directory itself, whatever it is called by then.
        try:
            directory = os.open(real, os.O_RDONLY | os.O_NOFOLLOW)
            file = os.open("two", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, dir_fd=directory)
            os.write(file, os.urandom(8))
            os.close(file)
            os.close(directory)
        except OSError:
            pass
