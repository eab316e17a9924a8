"""The host goes down: in good order, and by losing its power at a random moment."""
import json
import os
import random
import threading
import time

import machine

# Persistent data that is written, flushed and then looked at after each cut. In the VPS's own dataset.
WRITE = "mkdir -p /persistent/kept && i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo line $i > /persistent/kept/$i; done; sync"
HASH = "cat $(ls /persistent/kept/* | sort) | md5sum"


def mayfly(vm, *words, check=True):
    return vm.run("mayfly", *words, check=check, timeout=300)


def listed(vm):
    return json.loads(vm.text("mayfly", "list", "--json"))


def ensure_node(vm):
    """The service with a node on ZFS and the template `tiny`."""
    if vm.run("test", "-e", "/var/lib/mayfly/node.json", check=False).status != 0:
        mayfly(vm, "init", "--pool", "zfs:tank/ct", "--no-network")
    vm.run("systemctl", "start", "mayfly")
    if "tiny" not in mayfly(vm, "template", "list").output:
        mayfly(vm, "template", "build", "/payload/templates/tiny.toml", "--name", "tiny")


def ensure_kept(vm):
    """A VPS that runs and has data; its id and the data's hash."""
    if not any(one["hostname"] == "kept" for one in listed(vm)):
        mayfly(vm, "create", "kept", "--template", "tiny", "--disk", "256M", "--start")
        mayfly(vm, "exec", "kept", "--", "sh", "-c", WRITE)
        vm.run("sync")
    one = next(one for one in listed(vm) if one["hostname"] == "kept")
    return one["id"], mayfly(vm, "exec", "kept", "--", "sh", "-c", HASH).output


def boot(vm):
    vm.boot()
    vm.run("mount", "-o", "ro", machine.PAYLOAD_DISK, "/payload")


def wait_settled(vm, seconds=120):
    """Until no operation is under way, the graveyard is empty, and every VPS is as it should be."""
    end = time.monotonic() + seconds
    while True:
        states = {one["id"]: (one["state"], one["desired"]) for one in listed(vm)}
        operations = json.loads(vm.text("mayfly", "operation", "list", "--json"))
        under_way = [op for op in operations if op["state"] not in ("done", "failed", "cancelled")]
        graves = vm.text("zfs", "list", "-H", "-r", "-o", "name", "tank/ct/trash").splitlines()[1:]
        if not under_way and not graves and all(state == desired for state, desired in states.values()):
            return states
        if time.monotonic() > end:
            raise AssertionError(f"not settled: {states}, {under_way}, graves {graves}\n"
                                 + vm.text("journalctl", "-u", "mayfly", "-n", "40", "--no-pager", "-o", "cat"))
        time.sleep(0.5)


def check_clean(vm):
    """ZFS is well, and everything in the pool is explained by a VPS or a template."""
    health = vm.text("zpool", "status", "-x", "tank")
    assert "is healthy" in health, health
    explained = {"tank/ct", "tank/ct/.mayfly", "tank/ct/.mayfly/staging", "tank/ct/templates", "tank/ct/trash"}
    for one in listed(vm):
        shown = json.loads(vm.text("mayfly", "show", one["id"], "--json"))
        names = [d["dataset"] for d in shown["datasets"]] + [shown["last_root"], (shown["run"] or {}).get("root")]
        explained.update(f"tank/ct/{name}" for name in names if name)
    digests = {t["digest"][:16] for t in json.loads(vm.text("mayfly", "template", "list", "--json"))}
    there = set(vm.text("zfs", "list", "-H", "-r", "-t", "filesystem", "-o", "name", "tank/ct").splitlines())
    there = {name for name in there if name.split("/")[2:3] != ["templates"] or name.split("/")[3:4] == []
             or name.split("/")[3] not in digests}
    assert there == explained, f"left over {sorted(there - explained)}, missing {sorted(explained - there)}"


def clean_reboot(vm, results):
    """R6, H3: VPSes that should run are halted with the host and run again after it, on new roots."""
    def test():
        ensure_node(vm)
        vps, data = ensure_kept(vm)
        before = json.loads(vm.text("mayfly", "show", vps, "--json"))["run"]
        vm.start("systemctl", "reboot")
        vm.wait_off()
        boot(vm)
        wait_settled(vm)
        after = json.loads(vm.text("mayfly", "show", vps, "--json"))["run"]
        assert after and after["id"] != before["id"] and after["root"] != before["root"], (before, after)
        assert mayfly(vm, "exec", vps, "--", "sh", "-c", HASH).output == data
        log = mayfly(vm, "logs", vps).output
        assert "the host went down" in log, f"it was not halted with the host:\n{log}"
        check_clean(vm)
    results.test("power: a reboot of the host brings VPSes back with new roots", test)


VERBS = {
    "create": ["create cut --template tiny --disk 64M --start"],
    "start": ["stop kept --force", "start kept", "stop kept --force", "start kept"],
    "restart": ["restart kept --force"],
    "destroy": ["create cut --template tiny --disk 64M --start", "destroy cut --yes --now"],
}


def cuts(vm, results, count):
    """The power goes while something is under way, and comes back."""
    seed = int(os.environ.get("MAYFLY_SEED") or random.randrange(1 << 32))
    print(f"power cuts: MAYFLY_SEED={seed}", flush=True)
    chance = random.Random(seed)
    ensure_node(vm)
    for number in range(count):
        verb = sorted(VERBS)[number % len(VERBS)]
        after = chance.uniform(0.2, 8.0)
        if not results.test(f"power: cut {number + 1} in {verb} after {after:.2f} s", lambda: cut(vm, verb, after)):
            # What comes next would only repeat it.
            return


def cut(vm, verb, after):
    _, data = ensure_kept(vm)
    words = " && ".join(f"mayfly {words}" for words in VERBS[verb])
    # Load beside it: files that are written and flushed in the running VPS.
    load = "while :; do mayfly exec kept -- sh -c 'echo x > /persistent/load; sync' >/dev/null 2>&1; done"
    calls = [vm.start("sh", "-c", load), vm.start("sh", "-c", f"while :; do {words}; mayfly destroy cut --yes --now; done")]
    done = threading.Event()
    done.wait(after)
    vm.reset()
    del calls
    boot(vm)
    states = wait_settled(vm)
    assert len(states) <= 2, states
    for one in listed(vm):
        if one["hostname"] == "cut":
            mayfly(vm, "destroy", "cut", "--yes", "--now")
    if next(one for one in listed(vm) if one["hostname"] == "kept")["state"] != "running":
        mayfly(vm, "start", "kept")
    assert mayfly(vm, "exec", "kept", "--", "sh", "-c", HASH).output == data, "persistent data has changed"
    wait_settled(vm)
    check_clean(vm)
