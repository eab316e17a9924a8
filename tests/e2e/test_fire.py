"""Kills at random moments under a load from several clients: the daemon, supervisors, lxc-starts and inits of guests.

MAYFLY_KILLS=500 is the long form; MAYFLY_SEED repeats what was done to whom, though not the moments at which it fell."""
import collections
import hashlib
import os
import pathlib
import random
import re
import threading
import time
import traceback

import images
from harness import TOP, Node, Refused
from test_fsck import fsck
from test_import import scratch
from test_set import agreed
from truth import assert_no_orphans, differences, kill, operations_over, own_node, pool_path, snapshot

KILLS = int(os.environ.get("MAYFLY_KILLS", "20"))
SEED = int(os.environ.get("MAYFLY_SEED", random.SystemRandom().randrange(1 << 32)))
CLIENTS = 4
VPSES = 8
# Where the two datasets of each VPS are, inside and in the pool.
PLACES = {"/persistent": "", "/data": "/data"}
# What may be answered to somebody whose VPS was changed, destroyed, killed by somebody else meanwhile, or whose daemon died.
MEANWHILE = {"node.unreachable", "vps.not_found", "vps.running", "vps.not_running", "vps.busy", "vps.start_failed",
             "dataset.not_found", "dataset.exists", "dataset.in_use", "mount.not_found", "mount.exists", "template.not_found",
             "template.exists", "template.in_use", "operation.cancelled", "operation.too_late", "operation.not_found"}


def content(token):
    """What is written for a token: some pages, different for each."""
    line = hashlib.sha256(token.encode()).hexdigest() + "\n"
    return (line * (1 + int(line[:3], 16))).encode()


class Guest:
    """A VPS, and what must be in it: `sure` was written and synced, `maybe` was cut off."""

    def __init__(self, name):
        self.name = name
        self.made = self.given_up = False
        self.sure, self.maybe = {}, set()


def releases(top):
    """Words that import two releases of what may be the base of a VPS of `tiny`."""
    manifest = top / "tiny.toml"
    manifest.write_text((TOP / "tests/fixtures/tiny/recipe.toml").read_text().split("[build]")[0])
    trees = [images.tar(images.tree(top / f"tree{n}", release=str(n)), top / f"{n}.tar") for n in (1, 2)]
    return [["template", "import", "moving", tree, manifest] for tree in trees]


class Fire:
    """Clients, the killer, and what both know."""

    def __init__(self, node, imports):
        self.node = node
        self.imports = imports
        self.random = random.Random(SEED)
        self.over = threading.Event()
        self.troubles = []
        self.answers = collections.Counter()
        self.kills = collections.Counter()
        self.count = 0
        self.lock = threading.Lock()
        self.guests = [self.fresh() for _ in range(VPSES)]
        self.all = list(self.guests)

    def fresh(self):
        with self.lock:
            self.count += 1
            return Guest(f"f{self.count}")

    # -- what clients do

    def ask(self, *words):
        """True: done. False: refused, failed, or nobody knows."""
        try:
            self.node.json(*words)
        except Refused as refused:
            self.answers[refused.code] += 1
            if refused.code not in MEANWHILE:
                self.troubles.append(f"this is no answer here: {refused}")
            if refused.code == "node.unreachable":
                time.sleep(0.1)
            return False
        self.answers["done"] += 1
        return True

    def make(self, guest):
        """Until it is there, with its datasets and something in them."""
        steps = [["create", guest.name, "--template", "tiny", "--disk", "400M"],
                 ["dataset", "set", guest.name, "quota=128M"],
                 ["dataset", "create", f"{guest.name}/data", "--quota", "64M", "--mount", "/data"]]
        for words in steps:
            self.insist(*words)
        guest.made = True
        self.ask("start", guest.name)
        for place in PLACES:
            self.write(guest, place)

    def insist(self, *words):
        """What nobody else does to this VPS: it is asked for until it is done. One that was taken by a daemon that died
        is found to be done already."""
        end = time.monotonic() + 120
        while not self.ask_insisting(*words):
            assert time.monotonic() < end, f"{words}: it is never done"
            time.sleep(0.1)

    def ask_insisting(self, *words):
        try:
            self.node.json(*words)
        except Refused as refused:
            if refused.code in ("vps.name_taken", "dataset.exists"):
                return True
            assert refused.code in MEANWHILE, refused
            return False
        return True

    def write(self, guest, place, pick=None):
        """A file that is synced when the command says so."""
        pick = pick or self.random
        token = f"{pick.randrange(1 << 48):012x}"
        text = content(token)
        line = text.split(b"\n", 1)[0].decode()
        with self.lock:
            guest.maybe.add((place, token))
        script = f"yes {line} | head -n {text.count(10)} > {place}/{token} && sync && echo synced"
        done = self.node.run("exec", guest.name, "--", "sh", "-c", script, check=False)
        if done.returncode == 0 and done.stdout == "synced\n":
            with self.lock:
                guest.sure[(place, token)] = text

    def replace(self, slot):
        old = self.guests[slot]
        with self.lock:
            if old.given_up or not old.made:
                return
            old.given_up = True
        while any(vps["hostname"] == old.name for vps in self.list()):
            self.ask("destroy", old.name, "--yes")
        new = self.fresh()
        with self.lock:
            self.all.append(new)
        self.make(new)
        # Nobody else starts it before it has its datasets.
        self.guests[slot] = new

    def cancel(self, pick):
        """Gives up what somebody else has asked for."""
        try:
            going = [op["id"] for op in self.node.json("operation", "list", "--limit", "20")
                     if op["state"] in ("queued", "running")]
        except Refused as refused:
            assert refused.code == "node.unreachable", refused
            return
        if going:
            self.ask("operation", "cancel", pick.choice(going))

    def list(self):
        while True:
            try:
                return self.node.json("list")
            except Refused as refused:
                assert refused.code == "node.unreachable", refused
                time.sleep(0.05)

    def client(self, number):
        """Does this and that to any VPS until all kills are done."""
        pick = random.Random(f"{SEED} {number}")
        try:
            while not self.over.is_set():
                self.one(pick)
        except Exception:
            self.troubles.append(f"client {number}: {traceback.format_exc()}")
            self.over.set()

    def one(self, pick):
        slot = pick.randrange(VPSES)
        guest = self.guests[slot]
        name, some = guest.name, pick.randrange(4)
        wait = pick.choice([[], [], ["--no-wait"]])
        choices = {
            8: [lambda: self.ask("start", name, *wait), lambda: self.write(guest, pick.choice(list(PLACES)), pick)],
            4: [lambda: self.ask("restart", name, *pick.choice([[], ["--force"]]), *wait),
                lambda: self.ask("stop", name, *pick.choice([[], ["--force"], ["--force", "--discard"]]), *wait)],
            2: [lambda: self.ask("dataset", "create", f"{name}/d{some}", "--quota", "16M", *wait),
                lambda: self.ask("dataset", "create", f"{name}/d{some}", "--quota", "16M", "--mount", f"/mnt/d{some}", *wait),
                lambda: self.ask("dataset", "destroy", f"{name}/d{some}", "--yes", "--force", *wait),
                lambda: self.ask("dataset", "set", f"{name}/data", f"quota={64 + some}M", *wait),
                lambda: self.ask("mount", "add", f"{name}/data", f"/mnt/m{some}", *wait),
                lambda: self.ask("mount", "remove", name, f"/mnt/m{some}", *wait),
                lambda: self.ask("set", name, f"memory={100 + some}M", f"processes={300 + some}", *wait)],
            # Half of them live through all of it.
            1: [lambda: self.replace(slot) if slot >= VPSES // 2 else None, lambda: self.ask("show", name),
                lambda: self.cancel(pick),
                lambda: self.ask("set", name, f"base={pick.choice(['tiny', 'moving'])}",
                                 f"track={pick.choice(['pinned', 'latest'])}", *wait),
                lambda: self.ask(*pick.choice(self.imports), *pick.choice([[], ["--replace"]]), *wait),
                lambda: self.ask("template", "remove", "moving", *wait)],
        }
        weighed = [(weight, act) for weight, acts in choices.items() for act in acts]
        pick.choices([act for _, act in weighed], [weight for weight, _ in weighed])[0]()

    # -- the killer

    def burn(self):
        """So many kills, one after the other."""
        while sum(self.kills.values()) < KILLS and not self.over.is_set():
            time.sleep(self.random.uniform(0.02, 0.6))
            whom = self.random.choices(["daemon", "supervisor", "lxc-start", "init"], [4, 2, 2, 2])[0]
            if whom == "daemon":
                self.node.kill_daemon()
                self.kills[whom] += 1
                # One in three does not come to the end of its recovery.
                while self.random.random() < 0.33 and sum(self.kills.values()) < KILLS:
                    self.node.serve(wait=False)
                    time.sleep(self.random.uniform(0, 0.4))
                    self.node.kill_daemon()
                    self.kills["daemon in recovery"] += 1
                self.node.serve()
            else:
                self.kill_of_a_run(whom)

    def kill_of_a_run(self, whom):
        guest = self.random.choice(self.guests)
        told = self.random.random() < 0.5
        found = next((v for v in self.list() if v["hostname"] == guest.name), None)
        if found is None:
            return
        if told:
            self.write(guest, self.random.choice(list(PLACES)))
        state = self.node.run_state(found["id"])
        pid = state and state.get({"supervisor": "supervisor_pid", "lxc-start": "lxc_pid", "init": "init_pid"}[whom])
        if pid and state["phase"] != "ended" and self.is_ours(pid):
            kill(pid)
            self.kills[whom] += 1

    def is_ours(self, pid):
        try:
            return f"mayfly-{self.node.id}/" in pathlib.Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            return False

    # -- what must be true afterwards

    def assert_data(self):
        """Every VPS has what was written and synced, and nothing that nobody wrote; one that is gone was given up."""
        there = {v["hostname"]: v["id"] for v in self.node.json("list")}
        hashed = files = 0
        for guest in self.all:
            if guest.name not in there:
                assert guest.given_up or not guest.made, f"VPS {guest.name} is gone, and nobody destroyed it"
                continue
            found = {}
            for place, dataset in PLACES.items():
                directory = pool_path(self.node) / f"{there[guest.name]}{dataset}/private"
                for file in directory.iterdir():
                    if file.is_file():
                        found[(place, file.name)] = file.read_bytes()
            for key, text in guest.sure.items():
                assert found.get(key) == text, f"VPS {guest.name}: {key} is not as it was written"
                hashed += 1
            strange = set(found) - set(guest.sure) - guest.maybe
            assert not strange, f"VPS {guest.name}: nobody wrote {strange}"
            files += len(found)
        return hashed, files

    def assert_states(self):
        """Each VPS does what was asked for last, or it is said why not."""
        operations = self.node.json("operation", "list")
        for vps in self.node.json("list"):
            mine = [op for op in operations if op["vps"] == vps["id"]]
            # The oldest operations of a long fire are forgotten.
            born = max((n for n, op in enumerate(mine) if op["verb"] == "create" and op["state"] == "done"), default=-1)
            wanted, why = ("stopped", "it was made") if born >= 0 else (None, "what is forgotten")
            for op in mine[born + 1:]:
                if op["verb"] in ("start", "restart", "stop") and op["by"] != "mayfly":
                    if op["state"] == "done":
                        wanted, why = ("stopped" if op["verb"] == "stop" else "running"), op["verb"]
                    elif op["error"]["code"] in ("vps.start_failed", "host.failed", "operation.cancelled"):
                        wanted, why = None, op["error"]["message"]
                elif op["verb"] in ("run ended", "start"):
                    wanted, why = None, op["verb"]
            # After a crash it runs again, or it has crashed too often; that the daemon and the host agree is shown below.
            assert vps["state"] in ([wanted] if wanted else ["running", "stopped"]), f"{vps}: after {why}"

    def assert_all(self):
        node = self.node
        operations_over(node, 120)
        assert_no_orphans(node)
        self.assert_states()
        for op in node.json("operation", "list"):
            assert op["state"] == "done" or op["error"]["code"] in MEANWHILE | {"host.failed", "run.still_alive"}, op
        for vps in node.json("list"):
            if vps["state"] == "running":
                agreed(node, vps["id"])
        found, answer = fsck(node)
        assert not found, answer
        return self.assert_data()


def remembered(node):
    """The node and its host, and the newest operation. How many are remembered changes: the oldest are forgotten."""
    return {k: v for k, v in snapshot(node).items() if k != "carried out"}, node.json("operation", "list")[-1]["id"]


def test_random_kills_lose_nothing_and_leave_nothing(node):
    """R6, R9, H5, H8: recovery converges, nothing persistent differs, no orphan, a second recovery changes nothing."""
    print(f"  {KILLS} kills, MAYFLY_SEED={SEED}", flush=True)
    with own_node(Node, "fire", size="8G") as node, scratch(node) as top:
        fire = Fire(node, releases(top))
        for guest in fire.guests:
            fire.make(guest)
        began = time.monotonic()
        clients = [threading.Thread(target=fire.client, args=(n,)) for n in range(CLIENTS)]
        for one in clients:
            one.start()
        try:
            fire.burn()
        finally:
            fire.over.set()
            if node.daemon.poll() is not None:
                node.serve()
            for one in clients:
                one.join(300)
        assert not fire.troubles, "\n".join(fire.troubles)
        assert not any(one.is_alive() for one in clients), "a client waits for ever"
        took = time.monotonic() - began
        sure, files = fire.assert_all()
        print(f"  {dict(fire.kills)} in {took:.0f} s, {fire.count} VPSes, {sure} files of {files} were synced, "
              f"answers {dict(fire.answers)}", flush=True)
        before, newest = remembered(node)
        node.restart_daemon()
        operations_over(node)
        assert remembered(node)[1] == newest, "the second recovery has done something"
        assert not differences(before, remembered(node)[0]), differences(before, remembered(node)[0])
        # None is so broken that it could not go on.
        for vps in node.json("list"):
            node.run("start" if vps["state"] == "stopped" else "restart", vps["id"])
        fire.assert_all()
        log = (node.dir / "daemon.log").read_text(errors="replace")
        assert "panicked" not in log, re.search(r".*panicked.*\n.*", log).group()
        for vps in node.json("list"):
            node.run("destroy", vps["id"], "--yes", "--now")
        assert_no_orphans(node)
