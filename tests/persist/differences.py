"""Where Mayfly is deliberately not like the module. docs/persistence.md lists the same, with reasons and switches."""
from module import calls, concat, entries, parents_of

DIFFERENCES = {}
REMEMBERED = "what has been declared is remembered in the storage"


def difference(name):
    def add(check):
        DIFFERENCES[name] = check
        return check
    return add


def explain(scene, path):
    """The name of the difference that `path` is a case of; none where it is a fault."""
    return next((name for name, check in DIFFERENCES.items() if check(Case(scene, path))), None)


def is_in(path, directory):
    return path == directory or path.startswith(directory + "/")


class Case:
    """One path that looks different, with all that is known of its scene."""

    def __init__(self, scene, path):
        self.__dict__.update(scene)
        self.path = path
        self.mine, self.their = self.ours.get(path), self.theirs.get(path)
        users = {**self.users, "ghost": {"group": "ghost", "home": "/home/ghost"}}
        self.directories, self.files = entries(self.declared, users)
        self.made = calls(self.declared, users)[0]
        # What a path is called in the root, for one in a storage.
        self.base = next((path[len(s):] for s in self.declared if is_in(path, s)), path) or "/"
        self.permissions_only = self.mine and self.their and {**self.mine, "owner": 0, "mode": 0} == {
            **self.their, "owner": 0, "mode": 0}

    def wishes(self, base):
        return {tuple(perms) for s, path, *perms in self.made if s and concat(path).rstrip("/.") == base}

    def refused(self):
        return [l["path"] for l in self.report["declarations"] if l["fate"] == "refused"]


@difference("a symbolic link in the way is refused, where the module follows it")
def links(case):
    links = [p for p, entry in case.before.items() if entry["what"] == "link"]
    for entry in case.directories + case.files:
        stored = concat(entry["storage"], entry["path"])
        for link in links:
            if is_in(entry["path"], link) or is_in(stored, link):
                base = link[len(entry["storage"]):] if is_in(link, entry["storage"]) else link
                if any(is_in(case.path, p) for p in ("/elsewhere", link, base, entry["storage"] + base)):
                    return True
    return False


@difference("what is refused leaves nothing behind")
def leftovers(case):
    return case.mine == case.before.get(case.path) and any(is_in(case.base, path) for path in case.refused())


@difference("a declared directory has the owner and mode of its declaration, though it is a parent of another")
def declared_permissions(case):
    if case.like or not case.permissions_only:
        return False
    # A set-group-id bit is inherited by what is made below.
    inherited = {int(e.get("mode", "0"), 8) & ~0o2000 for e in (case.mine, case.their)}
    above = parents_of(case.base) if len(inherited) == 1 else []
    return any(len(case.wishes(base)) > 1 for base in [case.base, *above])


@difference("a directory of an unknown owner is root's alone, 0700")
def unknown_owner(case):
    ghosts = [path for _, path, user, *_ in case.made if user == "ghost"]
    return any(is_in(case.base, p) or is_in(p, case.base) for p in ghosts) and (
        case.permissions_only or case.their is None)


@difference("a file in a directory that stays needs no link, and gets none to itself")
def file_inside(case):
    inside = [(f, d) for f in case.files for d in case.directories if is_in(f["path"], concat(d["path"]))]
    return any(f["storage"] == d["storage"] and f["path"] == case.base for f, d in inside)


@difference("what one storage has in a directory of another is mounted in it, and changes nothing of it")
def storages_overlap(case):
    for outer in case.directories:
        for inner in case.directories + case.files:
            if outer["storage"] != inner["storage"] and is_in(inner["path"], outer["path"]):
                if is_in(case.base, concat(outer["path"])) or is_in(concat(outer["path"]), case.base):
                    return True
    return False


@difference(REMEMBERED)
def history(case):
    file = "/persistent/var/lib/mayfly/declared.json"
    mine = case.mine or {}
    if case.path == file:
        return (mine.get("what"), mine.get("mode"), mine.get("owner")) == ("file", "0o600", (0, 0))
    # A set-group-id bit is inherited.
    made = mine.get("what") == "directory" and mine["owner"] == (0, 0) and mine["mode"] in ("0o755", "0o2755")
    return case.their is None and is_in(file, case.path) and made


@difference("a home is its user's, whoever owns what is declared in it")
def homes(case):
    """Of all that a user declares, only what has another owner makes the module give the home away."""
    made = [(d["default"], d["perms"]) for d in case.directories if d["home"] == case.base]
    made += [(f["parent"]["default"], f["parent"]["perms"]) for f in case.files if f["parent"]["home"] == case.base]
    return not case.like and case.permissions_only and any(default[0] != perms[0] for default, perms in made)
