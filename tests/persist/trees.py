"""Twin trees on tmpfs: made alike, worked on differently, and compared as they look from inside."""
import ctypes
import os
import stat
import subprocess

LIBC = ctypes.CDLL(None, use_errno=True)
SYSTEM = {"usr", "bin", "lib", "lib64", "proc", "dev", ".module", "run"}


def mount(source, target, kind=None, flags=0, data=None):
    arguments = [a.encode() if isinstance(a, str) else a for a in (source, target, kind)]
    if LIBC.mount(*arguments, flags, data.encode() if data else None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {source} {target}")


def umount(target):
    LIBC.umount2(target.encode(), 2)


class Tree:
    """A root with its storages, on file systems of their own."""

    def __init__(self, at, storages):
        self.at, self.storages = at, storages
        os.makedirs(at, exist_ok=True)
        mount("none", at, "tmpfs", 0, "mode=0755,size=64m")
        os.mkdir(at + "/elsewhere")
        for storage in storages:
            os.makedirs(at + storage)
            mount("none", at + storage, "tmpfs", 0, "mode=0755,size=64m")

    def close(self):
        umount(self.at)

    def put(self, things):
        """Makes what does not collide with what is there; the same in every tree."""
        for path, what, detail in things:
            at = self.at + path
            try:
                if self.leads_out(path):
                    continue
                # Storages are file systems of their own, so they are there.
                os.makedirs(os.path.dirname(at), 0o755, exist_ok=True)
                if what == "directory":
                    os.mkdir(at)
                    os.chown(at, detail[0], detail[1])
                    os.chmod(at, int(detail[2], 8))
                elif what == "file":
                    with open(at, "x") as file:
                        file.write(detail[3])
                    os.chown(at, detail[0], detail[1])
                    os.chmod(at, int(detail[2], 8))
                elif what == "link":
                    os.symlink(detail, at)
                elif what == "fifo":
                    os.mkfifo(at, 0o600)
                    os.chown(at, *detail)
            except (FileExistsError, NotADirectoryError):
                pass

    def leads_out(self, path):
        """Whether a link is on the way: outside of the tree it would lead elsewhere."""
        names = path.strip("/").split("/")
        return any(os.path.islink(self.at + "/" + "/".join(names[:n])) for n in range(1, len(names)))

    def inside(self, act):
        """Runs `act` in a child that has this tree as its root, and returns what it returns."""
        import json
        reading, writing = os.pipe()
        # Opened outside: its paths are seen from there.
        table = os.open("/proc/self/mountinfo", os.O_RDONLY)

        def mounted(path):
            os.lseek(table, 0, os.SEEK_SET)
            text = b""
            while piece := os.read(table, 1 << 16):
                text += piece
            # findmnt(8) follows links to what is there.
            real = os.path.realpath(path) if os.path.exists(path) else path
            lines = text.decode().splitlines()
            return any(line.split(" ")[4] == self.at + real.replace(" ", "\\040") for line in lines)

        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.chroot(self.at)
                os.chdir("/")
                os.write(writing, json.dumps(act(mounted)).encode()[:60000])
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        os.close(table)
        assert status == 0, "the child failed"
        return json.loads(text)

    def add_programs(self, scripts):
        """What the module's scripts need."""
        for name in ["usr", "proc", "dev", ".module"]:
            os.makedirs(f"{self.at}/{name}")
        mount("/usr", self.at + "/usr", None, 4096)
        mount("/proc", self.at + "/proc", None, 4096)
        mount("/dev", self.at + "/dev", None, 4096)
        mount(scripts, self.at + "/.module", None, 4096)
        for name in ["bin", "lib", "lib64"]:
            if os.path.islink("/" + name):
                os.symlink(os.readlink("/" + name), f"{self.at}/{name}")

    def look(self):
        """Everything in it, by path: type, owner, mode, content, and which stored thing it is, if it is one."""
        seen, stored = {}, {}
        for storage in self.storages:
            for path, info in walk(self.at + storage):
                stored[info.st_dev, info.st_ino] = (storage + path).rstrip("/")
        top = os.stat(self.at).st_dev
        for path, info in walk(self.at, SYSTEM):
            at = self.at + path
            what = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo"}[
                stat.S_IFMT(info.st_mode)]
            entry = {"what": what, "owner": (info.st_uid, info.st_gid)}
            if what == "link":
                entry["content"] = os.readlink(at)
            else:
                entry["mode"] = oct(stat.S_IMODE(info.st_mode))
            if what == "file":
                with open(at, "rb") as file:
                    entry["content"] = file.read().decode()
            entry["is"] = stored.get((info.st_dev, info.st_ino)) if info.st_dev != top else None
            seen[path] = entry
        return seen


def walk(top, leave_out=()):
    pending = [""]
    while pending:
        path = pending.pop()
        if path:
            yield path, os.lstat(top + path)
        for entry in os.scandir(top + path + "/"):
            if path == "" and entry.name in leave_out:
                continue
            below = f"{path}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                pending.append(below)
            else:
                yield below, entry.stat(follow_symlinks=False)


def program():
    """The helper, static or not."""
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for at in [os.environ.get("MAYFLY_GUEST"), top + "/target/release/mayfly-guest", top + "/target/debug/mayfly-guest"]:
        if at and os.path.exists(at):
            return at
    raise SystemExit("error: mayfly-guest is not built\n  next: ./run build")


def guest(*arguments, timeout=60, by=()):
    return subprocess.run([*by, program(), *arguments], capture_output=True, text=True, timeout=timeout)
