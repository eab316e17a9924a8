"""Random declarations, and random trees for them: what is there already, stored and in the way."""

USERS = {
    "root": {"uid": 0, "gid": 0, "group": "root", "home": "/root"},
    "me": {"uid": 1000, "gid": 100, "group": "users", "home": "/home/me"},
    "del": {"uid": 1001, "gid": 1001, "group": "del", "home": "/althome/del"},
    "benny": {"uid": 1002, "gid": 1002, "group": "benny", "home": "/home/benny"},
}
STORAGES = ["/keep", "/persistent"]
MODES = ["0700", "0750", "0755", "0777", "1777", "2750"]


def passwd():
    return "".join(f"{n}:x:{u['uid']}:{u['gid']}::{u['home']}:/bin/sh\n" for n, u in USERS.items())


def group():
    return "".join(f"{u['group']}:x:{u['gid']}:\n" for u in USERS.values())


def path(random):
    names = [random.choice("abc") for _ in range(random.randint(1, 4))]
    return random.choice(["/srv/", "/var/", "/"]) + "/".join(["d" + names[0], *names[1:]])


def perms(random, owners):
    said = {}
    if random.random() < 0.5:
        said["mode"] = random.choice(MODES)
    if random.random() < 0.4:
        said["user"] = random.choice(owners)
    if random.random() < 0.3:
        said["group"] = random.choice(["users", "del", "root"])
    return said


def declarations(random, seen, top, owners):
    settings = {"directories": [], "files": []}
    for _ in range(random.choice([0, 1, 1, 2, 3])):
        directory = path(random)[0 if top else 1:]
        if (top, directory) not in seen:
            seen.add((top, directory))
            said = perms(random, owners)
            settings["directories"].append({"directory": directory, **said} if said or random.random() < 0.5 else directory)
    for _ in range(random.choice([0, 1, 1, 2])):
        # Files have names that no directory has: what is both is refused by Mayfly, and no question of equality.
        file = random.choice([path(random) + "/f", path(random) + "/g", "/etc/machine-id" if top else "/.rc", "/etc/one"])
        file = file[0 if top else 1:]
        if (top, file) not in seen:
            seen.add((top, file))
            item = {"file": file}
            said = perms(random, owners)
            if said:
                item["parentDirectory"] = said
            if random.random() < 0.3:
                item["method"] = random.choice(["auto", "symlink"])
            settings["files"].append(item if len(item) > 1 or random.random() < 0.5 else file)
    return settings


def scene(random):
    """Declarations by storage, and what to put into the trees: (path, what, detail)."""
    owners = [n for n in USERS if n != "root"] + (["ghost"] if random.random() < 0.1 else [])
    declared, seen = {}, set()
    for storage in random.sample(STORAGES, random.choice([1, 1, 2])):
        settings = declarations(random, seen, True, owners)
        for name in random.sample(["me", "del"], random.choice([0, 0, 1, 2])):
            users = settings.setdefault("users", {})
            users[name] = declarations(random, seen_of(seen, name), False, [n for n in USERS if n != "root"])
        if random.random() < 0.1:
            settings["enable"] = False
        declared[storage] = settings
    return declared, things(random, declared)


def seen_of(seen, name):
    """One set for each user, kept in the set of all."""
    for item in seen:
        if isinstance(item, Names) and item.user == name:
            return item.names
    fresh = Names(name)
    seen.add(fresh)
    return fresh.names


class Names:
    def __init__(self, user):
        self.user, self.names = user, set()


def things(random, declared):
    from module import concat, entries, parents_of
    directories, files = entries(declared, {**USERS, "ghost": USERS["root"]})
    made = []
    troubled = random.random() < 0.5

    def owner():
        user = USERS[random.choice(list(USERS))]
        return user["uid"], user["gid"]

    def directory(at):
        made.append((at, "directory", (*owner(), random.choice(MODES))))

    def file(at, text):
        made.append((at, "file", (*owner(), random.choice(["0644", "0600"]), text)))

    for entry in directories + files:
        stored = concat(entry["storage"], entry["path"])
        for base in [entry["path"], stored]:
            for parent in parents_of(base):
                if random.random() < 0.25:
                    directory(parent)
    for entry in directories:
        stored = concat(entry["storage"], entry["path"])
        if random.random() < 0.4:
            directory(stored)
            if random.random() < 0.5:
                file(stored + "/content", f"content of {stored}")
        if random.random() < 0.3:
            directory(entry["path"])
            if random.random() < 0.3:
                file(entry["path"] + "/hidden", "hidden")
        if troubled and random.random() < 0.1:
            file(random.choice([stored, entry["path"]]), "in the way")
        if troubled and random.random() < 0.1:
            made.append((random.choice([stored, entry["path"]]), "link", "/elsewhere"))
    for entry in files:
        stored = concat(entry["storage"], entry["path"])
        if random.random() < 0.5:
            file(stored, random.choice(["", f"content of {stored}"]))
        if random.random() < 0.2:
            file(entry["path"], "")
        if troubled and random.random() < 0.2:
            file(entry["path"], "in the way")
        if troubled and random.random() < 0.1:
            directory(random.choice([stored, entry["path"]]))
        if troubled and random.random() < 0.1:
            made.append((entry["path"], "link", random.choice([stored, "/elsewhere/x"])))
        if troubled and random.random() < 0.1:
            made.append((random.choice([stored, entry["path"]]), "fifo", owner()))
    random.shuffle(made)
    return made
