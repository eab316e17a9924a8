"""What the impermanence module of NixOS does with a set of declarations, told anew.

Read from nix-community/impermanence at 4a07d84 (nixos.nix, submodule-options.nix, mount-file.bash) and 123e942
(create-directories.bash), and written down here in other words: which calls its activation script makes, in which order,
what one call does, and what systemd does with the mount units. With MAYFLY_IMPERMANENCE=DIR the calls go to the module's
own two scripts in DIR, and this file's idea of them is held against those.
"""
import ctypes
import os
import stat
import subprocess

LIBC = ctypes.CDLL(None, use_errno=True)
MS_BIND = 4096
ROOT = ("root", "root", "0755")


def parts(*paths):
    return [p for path in paths for p in path.split("/") if p]


def concat(*paths):
    return ("/" if paths[0].startswith("/") else "") + "/".join(parts(*paths))


def parents_of(path):
    """Relative paths have relative parents."""
    names, top = parts(path), "/" if path.startswith("/") else ""
    return [top + "/".join(names[:n]) for n in range(1, len(names))]


def dir_of(path):
    head, slash, _ = path.rpartition("/")
    return (head or "/") if slash else "."


def entries(declared, users):
    """The module's options, evaluated: directories and files with their defaults, system before users, by name of set."""
    directories, files = [], []

    def add(storage, settings, home, default):
        for d in settings.get("directories", []):
            d = {"directory": d} if isinstance(d, str) else d
            directories.append({
                "storage": storage, "home": home, "default": default, "relative": d["directory"],
                "path": concat(home or "/", d["directory"]),
                "perms": (d.get("user", default[0]), d.get("group", default[1]), d.get("mode", default[2])),
            })
        for f in settings.get("files", []):
            f = {"file": f} if isinstance(f, str) else f
            p, holder = f.get("parentDirectory", {}), dir_of(f["file"])
            files.append({
                "storage": storage, "path": concat(home or "/", f["file"]), "method": f.get("method", "auto"),
                "parent": {
                    "storage": storage, "home": home, "default": default, "relative": holder,
                    "path": concat(home or "/", holder),
                    "perms": (p.get("user", default[0]), p.get("group", default[1]), p.get("mode", default[2])),
                },
            })

    enabled = [(s, declared[s]) for s in sorted(declared) if declared[s].get("enable", True)]
    for storage, settings in enabled:
        add(storage, settings, None, ROOT)
    for storage, settings in enabled:
        for name in sorted(settings.get("users", {})):
            user = users[name]
            add(storage, settings["users"][name], user["home"], (name, user["group"], "0755"))
    return directories, files


def unique(items):
    seen = []
    for item in items:
        if item not in seen:
            seen.append(item)
    return seen


def calls(declared, users):
    """The calls of both activation scripts, and the mounts."""
    directories, files = entries(declared, users)
    explicit = directories + unique([f["parent"] for f in files])

    def directory(storage, path, home, default, perms, relative=None):
        return {"storage": storage, "path": path, "home": home, "default": default, "perms": perms,
                "relative": relative or path}

    homes = unique([
        directory(d["storage"], d["home"], None, ROOT, (d["perms"][0], users[d["perms"][0]]["group"], "0700"))
        for d in explicit if d["home"] is not None])
    storages = unique([directory("", d["storage"], None, d["default"], d["default"])
                       for d in explicit + homes if d["home"] is None])

    def above(all_of):
        return unique([directory(d["storage"], concat(d["home"], p) if d["home"] is not None else p, d["home"],
                                 d["default"], d["default"], p)
                       for d in all_of for p in parents_of(d["relative"])])

    ordered = above(storages) + storages + above(homes) + homes + above(explicit) + explicit
    return ([(d["storage"], d["path"], *d["perms"]) for d in ordered],
            [(f["path"], concat(f["storage"], f["path"]), f["method"]) for f in files],
            # systemd orders a mount after those of what holds it.
            sorted(((concat(d["storage"], d["path"]), concat(d["path"])) for d in directories), key=lambda m: parts(m[1])))


class Failed(Exception):
    pass


class Told:
    """This file's idea of the two scripts. Runs inside of the tree."""

    def __init__(self, users, groups, mounted):
        self.uids, self.gids, self.mounted = users, groups, mounted

    def create_directory(self, storage, path, user, group, mode):
        real = os.path.realpath(storage + path)
        if not os.path.isdir(real):
            os.mkdir(real, 0o700)
            # A new directory inherits the set-group-id bit, and mkdir(1) leaves it.
            os.chmod(real, int(mode, 8) | os.stat(real).st_mode & 0o2000)
            if user not in self.uids or group not in self.gids:
                raise Failed("no such owner")
            os.chown(real, self.uids[user], self.gids[group])
        if not os.path.isdir(path):
            os.mkdir(path, 0o755)
        seen = os.stat(real)
        os.chown(path, seen.st_uid, seen.st_gid)
        os.chmod(path, stat.S_IMODE(seen.st_mode))

    def mount_file(self, path, stored, method):
        if os.path.islink(path) and canonical(path) == stored:
            return
        if self.mounted(path):
            return
        try:
            if os.stat(path).st_size > 0:
                raise Failed("a file is there")
        except OSError:
            pass
        fresh = method == "auto" and path == "/etc/machine-id"
        if method == "auto" and os.path.exists(stored) or fresh:
            if not os.path.exists(stored):
                with open(stored, "w") as file:
                    file.write("uninitialized\n")
            touch(path)
            bind(stored, path)
        elif os.path.isdir(path):
            os.symlink(stored, os.path.join(path, os.path.basename(stored)))
        else:
            os.symlink(stored, path)


def canonical(path):
    """As readlink -f: all but the last name must be there."""
    try:
        real = os.path.realpath(path)
        os.lstat(os.path.dirname(real))
        return real
    except OSError:
        return None


def touch(path):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY, 0o666))
    except OSError:
        # touch(1) tries to set the time all the same: of a FIFO, for one.
        os.utime(path)


def bind(source, target):
    # mount(8) makes both paths canonical first.
    source, target = os.path.realpath(source), os.path.realpath(target)
    if LIBC.mount(source.encode(), target.encode(), None, MS_BIND, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")


class Scripts:
    """The module's own scripts, in /.module of the tree."""

    def create_directory(self, *arguments):
        self.call("create-directories.bash", *arguments, "")

    def mount_file(self, *arguments):
        self.call("mount-file.bash", *arguments, "")

    def call(self, script, *arguments):
        done = subprocess.run(["/usr/bin/bash", f"/.module/{script}", *arguments], capture_output=True, text=True,
                              env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"})
        if done.returncode != 0:
            raise Failed(done.stderr)


def activate(hands, declared, users, mounted):
    """One activation and the mount units after it. Runs inside of the tree, as root; nothing stops at a failure."""
    os.umask(0o022)
    directories, files, mounts = calls(declared, users)
    failures = []

    def each(act, items):
        for item in items:
            try:
                act(*item)
            except (OSError, Failed) as e:
                failures.append((item, str(e)))

    each(hands.create_directory, directories)
    each(hands.mount_file, files)

    def unit(what, where):
        if mounted(where):
            return
        # systemd makes the mount point, and then leaves it to mount(8).
        os.makedirs(where, 0o755, exist_ok=True)
        bind(what, where)

    each(unit, mounts)
    return failures
