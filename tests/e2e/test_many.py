"""Many VPSes at once: each is started as if it were alone, none is called started whose init died, and all of it ends."""
import concurrent.futures
import pathlib
import re
import time

from harness import alive, sh
from truth import assert_no_orphans, ensure_tiny, inits, operations_over

SYSTEMD = 25
DEFINED = 100
# What kernels give one user by default.
DEFAULT_INOTIFY = 128


class Phases:
    """What took how long, to be read."""

    def __init__(self):
        self.began, self.told = time.monotonic(), []

    def over(self, what):
        now = time.monotonic()
        self.told.append(f"{what} {now - self.began:.1f} s")
        self.began = now

    def __str__(self):
        return "  " + ", ".join(self.told)


def all_at_once(vpses, what):
    """Does something to every VPS at the same time; the first failure is raised when all have ended."""
    with concurrent.futures.ThreadPoolExecutor(len(vpses)) as pool:
        return list(pool.map(what, vpses))


def destroy_all(node, vpses):
    all_at_once(vpses, lambda vps: node.run("destroy", vps, "--yes", timeout=600))
    assert_no_orphans(node, seconds=120)


def operations(node, verb, before):
    """Operations since then: numbers of VPSes that are gone are used again."""
    return [op for op in node.json("operation", "list") if op["verb"] == verb and op["id"] not in before]


def known(node):
    return {op["id"] for op in node.json("operation", "list")}


def assert_first_runs(node, runs, before):
    """Every VPS is in the very run that its start began, and that run's init lives."""
    ended = [op for op in operations(node, "run ended", before) if op["vps"] in runs]
    assert not ended, f"runs ended meanwhile: {ended}"
    lives = dict(inits(node))
    for vps, run in runs.items():
        now = node.show(vps)
        assert now["state"] == "running" and now["run"]["id"] == run["id"], now
        assert alive(run["init_pid"]) and lives[run["init_pid"]] == f"{run['root']}/private", (vps, run)
    assert len(lives) == len(runs), f"{len(lives)} inits of {len(runs)} VPSes"


def test_twenty_five_systemd_vpses_started_at_once_all_run(node):
    """R6, H9: by the word of systemd inside. The budget of inotify instances is raised by `serve`, and it says so."""
    setting = pathlib.Path("/proc/sys/fs/inotify/max_user_instances")
    phases, before = Phases(), known(node)
    vpses = [node.create("debian-12-impermanence", start=False) for _ in range(SYSTEMD)]
    phases.over(f"{SYSTEMD} created in")
    setting.write_text(str(DEFAULT_INOTIFY))
    node.restart_daemon()
    wanted = max(1024, 64 + 32 * SYSTEMD)
    assert int(setting.read_text()) == wanted
    said = re.findall(r'raised a budget.*name="(\S+)" from=(\d+) to=(\d+)', node.log_end(200))
    assert ("fs.inotify.max_user_instances", str(DEFAULT_INOTIFY), str(wanted)) in said, node.log_end(200)
    phases.over("daemon restarted in")
    all_at_once(vpses, lambda vps: node.run("start", vps, timeout=600))
    runs = {vps: node.show(vps)["run"] for vps in vpses}
    phases.over("all started after")
    for vps in vpses:
        node.wait_running(vps, 300)
    phases.over("all say running after another")
    assert_first_runs(node, runs, before)
    phases.over("looked at in")
    all_at_once(vpses, lambda vps: node.run("stop", vps, timeout=600))
    phases.over("all stopped in")
    assert not inits(node) and all(node.nothing_alive(vps) for vps in vpses)
    assert_no_orphans(node)
    destroy_all(node, vpses)
    phases.over("destroyed in")
    print(phases, flush=True)


def test_a_hundred_defined_vpses_are_listed_started_and_stopped_in_order(node):
    """R6, H9: all of them run at the same time."""
    ensure_tiny(node)
    phases, before = Phases(), known(node)
    vpses = [node.create("tiny", f"many{n}", "--disk", "64M", start=False) for n in range(DEFINED)]
    phases.over(f"{DEFINED} created in")
    listed = [(v["id"], v["hostname"], v["state"]) for v in node.json("list")]
    assert listed == [(vps, f"many{n}", "stopped") for n, vps in enumerate(vpses)] and vpses == sorted(vpses)
    phases.over("listed in")
    for vps in vpses:
        node.run("start", vps)
    runs = {vps: node.show(vps)["run"] for vps in vpses}
    phases.over("started in")
    began = time.monotonic()
    assert [(v["id"], v["state"]) for v in node.json("list")] == [(vps, "running") for vps in vpses]
    phases.told.append(f"listed running in {time.monotonic() - began:.2f} s")
    assert_first_runs(node, runs, before)
    started = [op["vps"] for op in operations(node, "start", before)]
    assert started == vpses, "they were not started in order"
    phases.began = time.monotonic()
    node.restart_daemon()
    phases.over("daemon restarted in")
    operations_over(node)
    assert_first_runs(node, runs, before)
    phases.began = time.monotonic()
    for vps in vpses:
        node.run("stop", vps, "--force")
        assert not alive(runs[vps]["init_pid"])
    phases.over("stopped in")
    assert {v["state"] for v in node.json("list")} == {"stopped"} and not inits(node)
    assert_no_orphans(node)
    phases.began = time.monotonic()
    destroy_all(node, vpses)
    phases.over("destroyed in")
    free = sh("free", "-m").stdout.splitlines()[1].split()
    print(f"{phases}, {free[6]} of {free[1]} MiB of memory are free", flush=True)
