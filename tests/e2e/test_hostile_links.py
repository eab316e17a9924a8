"""Links, pipes, devices and depths that a guest plants where the host passes: in a root that lasts, in a template whose tree
is hostile, and in the mount points of datasets. A start is refused with a reason or goes well; nothing outside of the
VPS is touched, nothing is left, and without the planted thing the next start goes well."""
import contextlib
import os
import pathlib
import shutil
import socket
import stat
import tempfile

from harness import recipe, sh
from hostile import FULL, Neighbour, daemon_size
from test_hostile_console import ACTS
from truth import assert_no_orphans, ensure_tiny, operations_over, pool_path, tree_hash

PLACES = ("/etc/hostname", "/etc/hosts", "/etc/machine-id", "/etc", "/dev", "/proc", "/sys", "/run", "/sbin", "/tmp", "/persistent")


def make_template(node, name, plant, impermanence):
    """A template whose tree is that of `tiny` after `plant(tree)`, made from an archive; what the command answered."""
    ensure_tiny(node)
    digest = next(t["digest"] for t in node.json("template", "list") if t["name"] == "tiny")
    directory = node.dir / f"recipe-{name}"
    directory.mkdir()
    tree = directory / "tree"
    sh("cp", "-a", pool_path(node) / f"templates/{digest[:16]}/private", tree)
    plant(tree)
    sh("tar", "--sparse", "--numeric-owner", "--xattrs", "-C", tree, "-cf", directory / "tree.tar", ".")
    shutil.rmtree(tree)
    lines = pathlib.Path(recipe("tiny")).read_text().split("[build]")[0]
    lines = lines.replace("impermanence = true", f"impermanence = {str(impermanence).lower()}")
    if not impermanence:
        lines = lines.split("# No dataset is named")[0].split("[[manifest.layout.mount]]")[0]
    (directory / "recipe.toml").write_text(f'{lines}\n[build]\narchive = "tree.tar"\n')
    return node.run("template", "build", directory / "recipe.toml", "--name", name, check=False)


@contextlib.contextmanager
def template(node, name, plant, impermanence):
    done = make_template(node, name, plant, impermanence)
    try:
        assert done.returncode == 0, done
        yield name
    finally:
        node.run("template", "remove", name, check=False)
        shutil.rmtree(node.dir / f"recipe-{name}", ignore_errors=True)


class Outside:
    """What of the host a link could lead to: a directory made for it, and files of the platform's names."""

    def __init__(self, node):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="victim-", dir=node.dir))
        for name in ("hostname", "hosts", "machine-id", "init", "mayfly/boot.json", ".mayfly/guest"):
            (self.directory / name).parent.mkdir(exist_ok=True)
            (self.directory / name).write_text("the host's\n")
        self.before = self.state()

    def state(self):
        host = {}
        for path in ("/etc/hostname", "/etc/hosts", "/etc/machine-id", "/dev", "/run/mayfly", "/dev/.mayfly", "/sbin/init"):
            with contextlib.suppress(OSError):
                seen = os.lstat(path)
                text = pathlib.Path(path).read_bytes() if stat.S_ISREG(seen.st_mode) else b""
                host[path] = (seen.st_ino, oct(seen.st_mode), seen.st_uid, text)
        return tree_hash(self.directory), host

    def untouched(self):
        assert self.state() == self.before, "the host was touched"


def kinds(outside):
    """What may be in the way of a path, by a name; each makes it at a path of the host."""
    def link(target):
        return lambda path: path.symlink_to(target)

    def with_socket(path):
        with socket.socket(socket.AF_UNIX) as one:
            here = os.open(path.parent, os.O_PATH)
            one.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)
    return {
        "absolute link": link(outside), "relative link": link("../" * 30 + str(outside)[1:]),
        "link through /proc": link(f"/proc/1/root{outside}"), "loop": lambda path: path.symlink_to(path.name),
        "dangling link": link("/nowhere/at/all"), "pipe": os.mkfifo, "file": lambda path: path.write_text("in the way"),
        "directory": lambda path: path.mkdir(), "socket": with_socket,
        "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 1)),
    }


def aside(path):
    """Takes what is at a path away; gives what brings it back."""
    saved = path.with_name(f"{path.name}.aside")
    there = os.path.lexists(path)
    if there:
        path.rename(saved)

    def back():
        # Not followed here either.
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if there:
            saved.rename(path)
    return back


def put_back(node, back):
    """On ZFS the tests' own view of the pool is shown anew for it."""
    pool_path(node)
    back()
    node.backend.release()


def tried(node, vps, what):
    """A start that is refused and says why, or goes well; then the VPS is stopped. Answers with the reason."""
    done = node.run("start", vps, check=False, timeout=100)
    said = (done.stdout + done.stderr).encode(errors="surrogateescape")
    assert not ACTS.search(said), f"{what}: {said}"
    assert len(said) < 8000, f"{what}: {len(said)} bytes are said"
    if done.returncode == 0:
        node.run("stop", vps, "--force")
        return None
    assert done.returncode == 1 and "next:" in done.stderr, f"{what}: {done}"
    assert node.show(vps)["state"] == "stopped" and node.nothing_alive(vps), what
    return done.stderr.splitlines()[0]


def test_links_in_a_root_that_lasts_lead_nowhere(node):
    """H8, R4: a VPS without impermanence; whatever its root planted at the places that LXC, the supervisor and the helper
    pass is still there at the next start."""
    outside = Outside(node)
    with template(node, "lasting", lambda tree: None, impermanence=False), node.vps("tiny", wait=False) as other:
        with node.vps("lasting", start=False) as vps:
            neighbour = Neighbour(node, other)
            assert tried(node, vps, "as it is") is None
            refused = {}
            for place in PLACES[3:]:
                for kind, make in kinds(outside.directory).items():
                    # LXC waits for somebody at the other end of a pipe; after 30 s the start is given up.
                    if not FULL and (kind not in ("absolute link", "relative link", "link through /proc", "loop")
                                     and place != "/dev"):
                        continue
                    # Each time: the pool is another directory after the node was asked something.
                    path = pool_path(node) / f"{vps}/private{place}"
                    back = aside(path)
                    make(path)
                    node.backend.release()
                    refused[place, kind] = tried(node, vps, f"{kind} at {place}")
                    outside.untouched()
                    put_back(node, back)
            assert tried(node, vps, "as it was") is None
            told = [f"{place}: {kind}" for (place, kind), why in refused.items() if why]
            print(f"  {len(refused)} planted, {len(told)} starts refused")
            assert refused["/dev", "absolute link"] and refused["/run", "loop"], refused
            neighbour.feels_nothing()
            neighbour.daemon_has_not_grown()
    shutil.rmtree(outside.directory)
    assert_no_orphans(node)


def test_an_init_that_is_none_says_what_it_is(node):
    """R4, E1: /sbin/init as every other thing. The reason is printable, and short however long the link is."""
    outside = Outside(node)
    with template(node, "lasting", lambda tree: None, impermanence=False), node.vps("lasting", start=False) as vps:
        def sparse(path):
            with open(path, "wb") as file:
                file.truncate(4 << 30)
            path.chmod(0o755)

        def setuid(path):
            shutil.copy(path.with_name("init.aside"), path)
            path.chmod(0o6755)

        def unreadable(path):
            shutil.copy(path.with_name("init.aside"), path)
            path.chmod(0)

        inits = {**kinds(outside.directory), "4 GB of nothing": sparse, "setuid": setuid, "unreadable": unreadable,
                 "link into the guest": lambda path: path.symlink_to("/sbin/init.aside"),
                 "link through its own /proc": lambda path: path.symlink_to("/proc/1/root/sbin/init.aside"),
                 "link with a name of escapes": lambda path: path.symlink_to("/nowhere/\x1b]0;owned\x07\n\x1b[2J"),
                 "link of no text": lambda path: os.symlink(b"/\xff\xfe\x9b31m", path),
                 "long link": lambda path: path.symlink_to("/" + "x/" * 1900 + "init")}
        for kind, make in inits.items():
            path = pool_path(node) / f"{vps}/private/sbin/init"
            back = aside(path)
            make(path)
            node.backend.release()
            why = tried(node, vps, kind)
            boots = kind in ("setuid", "link into the guest", "link through its own /proc")
            assert (why is None) == boots, f"{kind}: {why}"
            outside.untouched()
            put_back(node, back)
        assert tried(node, vps, "as it was") is None
    log = (node.dir / "daemon.log").read_bytes()
    assert not ACTS.search(log), ACTS.search(log)
    shutil.rmtree(outside.directory)


def test_a_template_with_a_hostile_tree_harms_nobody(node):
    """T1, T4, R5: links and pipes where the platform writes its files, names that are no text, depths, holes, setuid files."""
    outside = Outside(node)

    def everything(tree):
        deep = os.open(tree, os.O_RDONLY)
        for _ in range(80):
            os.mkdir("deep" * 10, dir_fd=deep)
            below = os.open("deep" * 10, os.O_RDONLY, dir_fd=deep)
            os.close(deep)
            deep = below
        os.close(deep)
        (tree / "odd").mkdir()
        for name in (b"\xff\xfe", b"new\nline", b"\x1b]0;owned\x07", b"-rf", b" "):
            (pathlib.Path(os.fsdecode(bytes(tree / "odd") + b"/" + name))).write_text("x")
        with open(tree / "hole", "wb") as file:
            file.truncate(4 << 30)
        shutil.copy(tree / "bin/busybox", tree / "setuid")
        (tree / "setuid").chmod(0o6755)
        (tree / "var/lib").mkdir(parents=True)
        (tree / "var/lib/dbus").symlink_to(outside.directory)
        (tree / "var/lib/dhcp").symlink_to("../" * 20 + str(outside.directory)[1:])

    with template(node, "odd", everything, impermanence=True), node.vps("odd", wait=False) as vps:
        assert node.exec(vps, "sh", "-c", "ls /odd | wc -l").strip() == "5"
        assert int(node.exec(vps, "stat", "-c", "%s", "/hole")) == 4 << 30
        outside.untouched()
        size = daemon_size(node)
        node.run("restart", vps, "--force")
        node.run("stop", vps, "--force", "--discard")
        assert daemon_size(node)[0] < size[0] + (16 << 10), "the daemon has grown"

    for place in ("/etc/hostname", "/etc/machine-id", "/etc", "/persistent", "/dev"):
        for kind in ("absolute link", "relative link", "pipe", "directory"):
            if not FULL and (place, kind) not in (("/etc/hostname", "pipe"), ("/etc/hostname", "directory"), ("/etc", "absolute link"),
                                                  ("/etc/machine-id", "relative link"), ("/persistent", "absolute link")):
                continue

            def plant(tree, place=place, kind=kind):
                path = pathlib.Path(f"{tree}{place}")
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
                kinds(outside.directory)[kind](path)
            name = f"hostile{place.replace('/', '-')}-{kind.split()[0]}"
            if place == "/persistent" and kind != "directory":
                # A part of the layout would begin with what the link names.
                done = make_template(node, name, plant, impermanence=True)
                assert done.returncode == 1 and "template.build_failed" in done.stderr, done
                outside.untouched()
                shutil.rmtree(node.dir / f"recipe-{name}")
                continue
            with template(node, name, plant, impermanence=True):
                with node.vps(name, start=False) as vps:
                    tried(node, vps, f"{kind} at {place}")
                    outside.untouched()
    shutil.rmtree(outside.directory)
    assert_no_orphans(node)


def test_deep_and_long_ways_to_an_init_are_refused_shortly(node):
    """R4: a profile of NixOS that leads through hundreds of directories, and one whose name fills the screen. The daemon used
    to hold a descriptor for each, and to repeat the whole name."""
    with node.vps("nixos-shaped", start=False) as vps:
        private = pool_path(node) / f"{vps}/nix/private"
        profile = private / "var/nix/profiles/system"
        target = os.readlink(profile)
        at = os.open(private, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=at)
            below = os.open("d", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)
        node.backend.release()
        for way in ("/nix/" + "d/" * 1500, "/nix/" + "/".join(["x\x1b[31m" + "y" * 200] * 19), "/nix/" + "d/../" * 700):
            pool_path(node)
            profile.unlink()
            profile.symlink_to(way)
            node.backend.release()
            held = daemon_size(node)[1]
            why = tried(node, vps, way[:40])
            assert why and len(why) < 1500, why
            assert daemon_size(node)[1] <= held + 4
        pool_path(node)
        profile.unlink()
        profile.symlink_to(target)
        node.backend.release()
        assert tried(node, vps, "as it was") is None


def test_mount_points_of_a_guest_are_never_passed_by_the_host(node):
    """D3: inside /persistent, where they last: parents and the mount point itself, changed while the VPS runs as well."""
    outside = Outside(node)
    with node.vps("tiny", start=False) as vps:
        node.run("dataset", "set", vps, "quota=512M")
        node.run("dataset", "create", f"{vps}/data", "--quota", "16M")
        node.run("mount", "add", f"{vps}/data", "/persistent/a/b/c")
        node.run("start", vps)
        for way in (f"ln -s {outside.directory} /persistent/a", f"mkdir /persistent/a; ln -s ../../../../..{outside.directory} "
                    "/persistent/a/b", "mkfifo /persistent/a", "mkdir -p /persistent/a/b; mkfifo /persistent/a/b/c",
                    "mkdir -p /persistent/a/b; ln -s c /persistent/a/b/c", "touch /persistent/a"):
            node.exec(vps, "sh", "-c", f"umount -l /persistent/a/b/c 2>/dev/null; rm -rf /persistent/a; {way}")
            done = node.run("restart", vps, "--force", check=False)
            assert done.returncode == 1 and "mount.refused" in done.stderr, f"{way}: {done}"
            outside.untouched()
            # The run had ended by then, and was tried again for as often as crashes are.
            operations_over(node)
            if node.show(vps)["state"] != "running":
                private = pool_path(node) / f"{vps}/private/a"
                shutil.rmtree(private) if stat.S_ISDIR(os.lstat(private).st_mode) else private.unlink()
                node.backend.release()
                # It may have been tried again just now.
                node.run("start", vps, check=False)
                node.wait_state(vps, "running")
        node.exec(vps, "touch", "/persistent/a/b/c/there")
    shutil.rmtree(outside.directory)
    assert_no_orphans(node)
