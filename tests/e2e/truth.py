"""What is true of a node, looked up with the host's own tools, and compared with what the node says."""
import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import stat
import subprocess

from harness import alive, find_processes, sh, wait_for

def ensure_tiny(node):
    """The template `tiny`: nothing but an init. Built within seconds."""
    node.ensure_template("tiny")


@contextlib.contextmanager
def own_node(make, name, size="4G"):
    """A node for one test alone, with the template `tiny`."""
    node = make(name, size=size)
    try:
        node.init()
        node.serve()
        ensure_tiny(node)
        yield node
    finally:
        node.remove()
    left = node.leftovers()
    assert not left or os.environ.get("MAYFLY_KEEP"), left


def tree_hash(top, times=False):
    """One hash over names, kinds, modes, owners, and contents of a tree; and over the times of change, if wanted."""
    total = hashlib.sha256()
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted(names + files):
            path = os.path.join(directory, name)
            seen = os.lstat(path)
            what = (os.path.relpath(path, top), oct(seen.st_mode), seen.st_uid, seen.st_gid)
            if times:
                what += (seen.st_mtime_ns,)
            total.update(repr(what).encode())
            if stat.S_ISREG(seen.st_mode):
                total.update(pathlib.Path(path).read_bytes())
            elif stat.S_ISLNK(seen.st_mode):
                total.update(os.readlink(path).encode())
    return total.hexdigest()


def pool_path(node):
    """The pool as a directory that works here, until something is asked of the node."""
    return node.backend.path()


def subvolumes(node):
    """{name in the pool: what names it for ever} of every dataset."""
    return node.backend.datasets()


def marks(node):
    """{what names the dataset: text} of the ownership marks."""
    return node.backend.marks()


def mounts_of_pool(node):
    """(process, directory of the pool, mount point) in every mount namespace but the daemon's own and this one."""
    own = {os.readlink(f"/proc/{pid}/ns/mnt") for pid in (node.daemon.pid, os.getpid())}
    found = []
    for pid, shown, point in node.mounts():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/mnt") not in own:
                found.append((pid, shown, point))
    return found


def inits(node, vps=None):
    """(process, dataset at its `/`) of every guest init: a process that is number 1 in a process namespace of its own,
    in a cgroup of the node's runs or on a root of its pool."""
    node.backend.observe()
    in_cgroups = set(node.processes(vps))
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or not alive(int(entry)):
            continue
        with contextlib.suppress(OSError, IndexError):
            status = pathlib.Path(f"/proc/{entry}/status").read_text()
            numbers = re.search(r"^NSpid:\s+(.*)$", status, re.M).group(1).split()
            if len(numbers) < 2 or numbers[-1] != "1":
                continue
            tops = pathlib.Path(f"/proc/{entry}/mountinfo").read_text().splitlines()
            roots = (node.backend.shown(line) for line in tops if line.split(" ")[4] == "/")
            root = next((shown for shown in roots if shown is not None), None)
            ours = root is not None and (vps is None or re.match(rf"{vps}(\.|/)", root))
            if ours or int(entry) in in_cgroups:
                found.append((int(entry), root))
    return found


def operations_over(node, seconds=60):
    """Waits until no operation is under way, nor follows from one that has just ended."""
    def over():
        if node.daemon.poll() is not None:
            raise AssertionError(f"the daemon ended: {node.log_end()}")
        if any(op["state"] not in ("done", "failed", "cancelled") for op in node.json("operation", "list")):
            return False
        # What was to run is started again, or told to rest, a moment after the end of its run.
        return all(v["state"] in ("running", "needs_operator") or v["state"] == v["desired"] == "stopped"
                   for v in node.json("list"))
    return wait_for("all operations are over", over, seconds)


def documents(node):
    """All that the node says of its VPSes, templates and pool, without what changes by itself."""
    vpses = {}
    for vps in node.json("list"):
        shown = node.show(vps["id"])
        for dataset in shown["datasets"]:
            dataset.pop("used_bytes")
        vpses[vps["id"]] = shown
    pool = node.json("pool", "show")
    quotas = {d["dataset"]: (d["role"], d["quota_bytes"]) for d in pool["datasets"]}
    return {"vpses": vpses, "templates": node.json("template", "list"), "quotas": quotas, "reports": pool["reports"],
            "waiting": pool["waiting"]}


def cleared(node):
    """Whether nothing is left to be destroyed, nor a mark of what was."""
    return not node.json("pool", "show")["waiting"] and set(marks(node)) <= set(subvolumes(node).values())


def snapshot(node):
    """The host's state as far as a refused request must leave it alone, once all that was asked for before is over."""
    operations_over(node)
    # What waits for ever is part of it.
    with contextlib.suppress(AssertionError):
        wait_for("the graves are gone", lambda: cleared(node), 20)
    intents = sorted(os.listdir(pool_path(node) / ".mayfly/intents"))
    node.backend.release()
    return {
        "documents": documents(node),
        "subvolumes": subvolumes(node),
        "marks": marks(node),
        "intents": intents,
        "staging": node.backend.staged(),
        "cgroups": node.cgroups(),
        "runs": sorted(os.listdir(node.state / "runs")),
        "consoles": sorted(os.listdir(node.state / "consoles")),
        "inits": sorted(inits(node)),
        # Not all: the oldest are forgotten now and then.
        "carried out": [op["id"] for op in node.json("operation", "list") if op["state"] == "done"][-100:],
    }


def differences(before, after):
    """What is not equal in two snapshots, in words."""
    return [f"{key}: {before[key]} before, {after[key]} after" for key in before if before[key] != after[key]]


def assert_unchanged(node, before, besides=()):
    """The node is as `snapshot` found it, but for what is named in `besides`."""
    after = snapshot(node)
    found = differences({key: before[key] for key in before if key not in besides}, after)
    assert not found, "\n".join(found)


def template_contents(said):
    """What lies below `templates` for templates that have a name, and for what was cloned from contents of others."""
    named = {template["digest"][:16] for template in said["templates"]}
    used = set()
    for doc in said["vpses"].values():
        bases = (doc["base"]["template"], doc["run"] and doc["run"]["base"], doc["last_root_base"])
        used.update(base[:16] for base in bases if base)
        used.update(one["base"][:16] for one in doc["replaced"])
    return named, used


def accounted_for(said, there):
    """The datasets in `there` that templates and the documents of VPSes explain."""
    named, used = template_contents(said)
    explained = {path for path in there if path.startswith("templates/") and path.split("/")[1] in named | used}
    for doc in said["vpses"].values():
        explained.update(d["dataset"] for d in doc["datasets"])
        explained.update(aside for one in doc["replaced"] for aside in one["datasets"])
        explained.update(own for own in [doc["base"]["own"]] if own)
        explained.update(root for root in (doc["run"] and doc["run"]["root"], doc["last_root"]) if root)
        if doc["run"] and doc["run"]["rescue"]:
            # Parts of a rescue system lie below its root.
            explained.update(path for path in there if path.startswith(f"{doc['run']['root']}/"))
    return explained


def assert_no_orphans(node, spare=(), seconds=40):
    """The pool, the cgroups, the mount tables and the state directory have exactly what the node's documents explain.
    `spare` are subvolumes that a test made by hand."""
    wait_for("the graveyard is empty", lambda: not node.graves(), seconds)
    # What could not be buried at once, for a look that took too long, is buried by the reaper. What stays is told below.
    with contextlib.suppress(AssertionError):
        wait_for("leftovers are buried", lambda: not node.graves() and not set(subvolumes(node)) - set(spare)
                 - accounted_for(documents(node), subvolumes(node))
                 and set(marks(node)) <= set(subvolumes(node).values()), seconds, 0.2)
    said = documents(node)
    there = {path: uuid for path, uuid in subvolumes(node).items() if path not in spare}
    running = {}
    explained = accounted_for(said, there)
    for vps, doc in said["vpses"].items():
        assert doc["state"] in ("stopped", "running"), f"VPS {vps} is {doc['state']}: {doc['why']} {doc['notes']}"
        if doc["run"]:
            running[vps] = doc["run"]
    assert set(there) == explained, f"orphans {set(there) - explained}, missing {explained - set(there)}"
    pool = pool_path(node)
    top = {name for name in os.listdir(pool) if name not in (".mayfly", "trash", "templates")} - {s for s in spare}
    assert top == {path for path in explained if "/" not in path}, f"in the pool: {sorted(top)}"
    assert not os.listdir(pool / ".mayfly/intents"), "an intent is left"
    named, used = template_contents(said)
    contents = set(os.listdir(pool / "templates"))
    assert named <= contents <= named | used, f"templates {contents}, with names {named}, in use {used}"
    node.backend.release()
    assert not node.backend.staged(), "something lies in the staging area"
    marked = set(marks(node)) - {uuid for path, uuid in subvolumes(node).items() if path in spare}
    assert marked == set(there.values()), f"marks of nothing: {marked - set(there.values())}"
    assert not said["waiting"], said["waiting"]

    runs = {f"{vps}.{run['id']}" for vps, run in running.items()}
    assert {os.path.basename(c) for c in node.cgroups()} <= runs, f"cgroups {node.cgroups()}, running {runs}"
    supervised = [pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[2] for pid in node.supervisors()]
    assert sorted(os.path.basename(d.decode()) for d in supervised) == sorted(runs), f"{supervised}, running {runs}"
    kept = {name for name in os.listdir(node.state / "runs")}
    assert runs <= kept and {name.split(".")[0] for name in kept} <= {str(vps) for vps in said["vpses"]}, kept
    assert set(os.listdir(node.state / "consoles")) <= {str(vps) for vps in said["vpses"]}
    roots = {run["root"] for run in running.values()}
    for pid, directory, at in mounts_of_pool(node):
        vps = int(re.match(r"\d+", directory).group()) if re.match(r"\d+[./]", directory) else None
        assert vps in running, f"process {pid} has {directory} of the pool mounted at {at}"
        temporary = ".impermanence-" in directory
        assert not temporary or directory.rsplit("/", 1)[0] in roots, f"process {pid} has {directory} at {at}"
    found = inits(node)
    wanted = {(run["init_pid"], f"{run['root']}/private") for run in running.values()}
    assert set(found) == wanted and len(found) == len(running), f"inits {found}, wanted {wanted}"


def kill(pid, number=9):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def gone(pid, seconds=10):
    wait_for(f"process {pid} is gone", lambda: not alive(pid), seconds, 0.01)


def static_program(directory, name, source):
    """A static program from C source; it runs in any guest. MAYFLY_PROGRAMS has those that were compiled elsewhere."""
    if os.environ.get("MAYFLY_PROGRAMS"):
        return pathlib.Path(os.environ["MAYFLY_PROGRAMS"], hashlib.sha256(source.encode()).hexdigest()[:16])
    if not shutil.which("gcc"):
        raise AssertionError("gcc is missing: ./run deps")
    path = pathlib.Path(directory) / name
    subprocess.run(["gcc", "-O1", "-static", "-x", "c", "-o", path, "-"], input=source.encode(), check=True)
    return path


__all__ = [name for name in dir() if not name.startswith("_")]
