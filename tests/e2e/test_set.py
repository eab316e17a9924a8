"""Limits of a VPS that are changed while it runs, and what the kernel then does."""
import os
import re
import signal

import backends
from harness import find_processes, wait_for
from test_limits import limit

MIB = 1 << 20


def held(node, vps):
    """What the kernel was told: memory, swap on top of it, hundredths of a CPU, processes."""
    memory = limit(node, vps, "memory.limit_in_bytes")
    if memory is not None:
        swap = int(limit(node, vps, "memory.memsw.limit_in_bytes")) - int(memory)
        quota = int(limit(node, vps, "cpu.cfs_quota_us"))
        cpus = None if quota < 0 else quota * 100 // int(limit(node, vps, "cpu.cfs_period_us"))
    else:
        memory, swap = limit(node, vps, "memory.max"), int(limit(node, vps, "memory.swap.max"))
        quota, period = limit(node, vps, "cpu.max").split()
        cpus = None if quota == "max" else int(quota) * 100 // int(period)
    return {"memory_bytes": int(memory), "swap_bytes": swap, "cpu_percent": cpus,
            "processes": int(limit(node, vps, "pids.max"))}


def agreed(node, vps):
    """The limits, on which the record and the kernel agree."""
    limits = node.show(vps)["limits"]
    assert limits == held(node, vps), f"recorded {limits}, held {held(node, vps)}"
    return limits


def used(node, vps):
    """Bytes of memory that are charged to the guest."""
    return int(limit(node, vps, "memory.usage_in_bytes") or limit(node, vps, "memory.current"))


def hog(node, vps, mib):
    """The status of a program that needs so much memory at once."""
    return node.exec(vps, "dd", "if=/dev/zero", "of=/dev/null", f"bs={mib}M", "count=1", check=False).returncode


def test_memory_goes_up_and_down_while_it_runs(node):
    """F2: a hog passes at the higher limit and dies alone at the lower one; caches are given up, what is in use is not."""
    with node.vps("debian-12-impermanence", "--memory", "200M") as vps:
        run = node.show(vps)["run"]
        assert hog(node, vps, 400) == 137
        node.run("set", vps, "memory=700M")
        assert agreed(node, vps)["memory_bytes"] == 700 * MIB and hog(node, vps, 400) == 0
        # Caches are no use that anybody would miss. Those of ZFS are charged to nobody.
        node.exec(vps, "sh", "-c", "dd if=/dev/zero of=/var/tmp/big bs=1M count=300 && sync && cat /var/tmp/big >/dev/null")
        assert backends.NAME == "zfs" or used(node, vps) > 250 * MIB, "the caches are charged"
        node.run("set", vps, "memory=200M")
        assert agreed(node, vps)["memory_bytes"] == 200 * MIB and hog(node, vps, 400) == 137
        node.run("set", vps, "memory=700M")
        assert hog(node, vps, 400) == 0
        # A file in memory has no other place to be.
        before = agreed(node, vps)
        node.exec(vps, "dd", "if=/dev/zero", "of=/dev/shm/held", "bs=1M", "count=300")
        refused = node.refused("vps.limit_below_use", "set", vps, "cpus=1", "memory=200M", "processes=300")
        assert agreed(node, vps) == before, "what is refused changes nothing"
        least = int(re.search(r"ask for (\d+)M at least", refused.hint).group(1))
        assert 300 <= least < 600, refused.hint
        node.run("set", vps, f"memory={least + 20}M")
        node.exec(vps, "rm", "/dev/shm/held")
        node.run("set", vps, "memory=200M", "swap=1G")
        limits = agreed(node, vps)
        assert (limits["memory_bytes"], limits["swap_bytes"]) == (200 * MIB, 1 << 30)
        assert re.search(r"^memory: +200M\nswap: +1G$", node.run("show", vps).stdout, re.M)
        node.run("set", vps, "swap=0")
        assert agreed(node, vps)["swap_bytes"] == 0
        assert node.show(vps)["run"] == run and node.exec(vps, "systemctl", "is-system-running") == "running"


def bomb(node, vps):
    """How many processes a guest gets that wants very many."""
    forks = ("while (@p < 2000) { $p = fork; last if !defined $p; if (!$p) { sleep 60; exit } push @p, $p } "
             "print scalar @p; kill 9, @p")
    return int(node.exec(vps, "perl", "-e", forks))


def test_processes_go_up_and_down_while_it_runs(node):
    """F2: a fork bomb stops at the new number; what runs already goes on."""
    with node.vps() as vps:
        node.run("set", vps, "processes=150")
        assert 50 < bomb(node, vps) < 150
        node.run("set", vps, "processes=600")
        assert 450 < bomb(node, vps) < 600
        node.exec(vps, "sh", "-c", "for i in $(seq 80); do setsid sleep 1000 >/dev/null 2>&1 & done")

        def sleepers():
            return len(set(node.processes(vps)) & set(find_processes(lambda words: words[:1] == ["sleep"])))
        wait_for("80 processes sleep", lambda: sleepers() == 80)
        node.run("set", vps, "processes=60")
        assert agreed(node, vps)["processes"] == 60 and sleepers() == 80
        node.run("set", vps, "processes=600")
        assert node.exec(vps, "sh", "-c", "echo $(echo fine)") == "fine"


def loops(node, vps):
    """How often two loops went round in three seconds."""
    loop = "n=0; trap 'echo $n; exit' TERM; while :; do n=$((n + 1)); done"
    both = f'for i in 1 2; do timeout 3 sh -c "$0" & done; wait'
    return sum(map(int, node.exec(vps, "sh", "-c", both, loop).split()))


def test_processors_go_up_and_down_while_it_runs(node):
    """F2: the same loops get less done, and more again."""
    with node.vps() as vps:
        run = node.show(vps)["run"]
        assert agreed(node, vps)["cpu_percent"] is None
        free = loops(node, vps)
        node.run("set", vps, "cpus=0.03")
        assert agreed(node, vps)["cpu_percent"] == 3
        little = loops(node, vps)
        node.run("set", vps, "cpus=none")
        assert agreed(node, vps)["cpu_percent"] is None
        again = loops(node, vps)
        assert little * 2.5 < min(free, again), f"{free} rounds, then {little}, then {again}"
        assert node.show(vps)["run"] == run


def test_limits_outlive_runs_and_daemons(node):
    """F2: what was set holds after a restart, a stop and a start, a crash of the daemon, and one in the middle of it."""
    with node.vps() as vps:
        node.run("set", vps, "memory=300M", "swap=100M", "cpus=1.5", "processes=500")
        want = {"memory_bytes": 300 * MIB, "swap_bytes": 100 * MIB, "cpu_percent": 150, "processes": 500}
        assert agreed(node, vps) == want
        node.run("restart", vps, "--force")
        assert agreed(node, vps) == want
        node.restart_daemon()
        assert agreed(node, vps) == want
        node.run("set", vps, "cpus=1")
        assert agreed(node, vps) == (want := want | {"cpu_percent": 100})
        node.run("stop", vps, "--force")
        plan = node.run("set", vps, "memory=400M", "--dry-run").stdout
        assert plan == f"1. record of {vps}: memory 400M\n", plan
        node.run("set", vps, "memory=400M")
        assert node.show(vps)["limits"] == (want := want | {"memory_bytes": 400 * MIB})
        node.run("start", vps)
        assert agreed(node, vps) == want
        # Asked for once more, there is nothing to do.
        assert node.run("set", vps, "memory=400M", "--dry-run").stdout == "nothing to do\n"
        for memory, point in (500, "set_limits"), (600, "set_limits.done"), (350, "record"):
            node.end_daemon()
            node.serve(crash_at=f"step.{point}")
            cut = node.run("set", vps, f"memory={memory}M", "processes=400", check=False)
            assert cut.returncode == 1 and "node.unreachable" in cut.stderr, f"{point}: {cut}"
            node.wait_daemon_died()
            node.serve()
            want |= {"memory_bytes": memory * MIB, "processes": 400}
            wait_for(f"{point}: the next daemon finishes it", lambda: node.show(vps)["limits"] == want)
            assert agreed(node, vps) == want


def test_limits_that_are_refused(node):
    """F2: no guest changes its own; nonsense, and what does not exist."""
    with node.vps() as vps:
        before = agreed(node, vps)
        for wrong in ("ram=4G", "memory", "memory=none", "memory=big", "swap=none", "cpus=0", "processes=none"):
            done = node.run("set", vps, wrong, check=False)
            assert done.returncode == 2, f"{wrong}: {done}"
        assert node.run("set", vps, check=False).returncode == 2
        node.refused("template.not_found", "set", vps, "memory=4G", "base=nowhere")
        for wrong in ("memory=1M", "processes=3", "processes=5000000"):
            node.refused("input.invalid", "set", vps, wrong)
        node.refused("input.invalid", "set", vps, "memory=4G", "memory=5G")
        node.refused("vps.not_found", "set", "nobody", "memory=4G")
        files = ("/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes "
                 "/sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory.max "
                 "/sys/fs/cgroup/memory.swap.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max")
        tried = node.exec(vps, "sh", "-c", f"for f in {files}; do (echo 4000000 >$f) 2>/dev/null && echo WROTE $f; done; true")
        assert tried == "" and agreed(node, vps) == before


def test_settings_change_together_with_limits_or_not_at_all(node):
    """F2, F6, D1: disk space, what follows a crash, autostart; of a VPS that runs and of one that is stopped."""
    def settings(vps):
        seen = node.show(vps)
        return seen["disk_bytes"], seen["on_crash"], seen["autostart"], seen["limits"]["processes"]

    with node.vps("debian-12-impermanence") as vps:
        run = node.show(vps)["run"]
        for running in True, False:
            if not running:
                node.run("stop", vps, "--force")
            before = settings(vps)
            # Below the quotas of its datasets: how much is free, and what to shrink.
            refused = node.refused("dataset.disk_space", "set", vps, "disk=500M", "processes=333", "on-crash=stop",
                                   "autostart=off")
            assert "0B of the" in refused.message, refused.message
            assert re.fullmatch(rf"shrink one first: mayfly dataset set {vps} quota=\d+[MG]", refused.hint), refused.hint
            assert settings(vps) == before, "what is refused changes nothing"
            node.refused("pool.full", "set", vps, "disk=900000G", "processes=333")
            assert settings(vps) == before
            node.run("set", vps, "disk=3G", "on-crash=stop", "autostart=on,priority=7", "processes=444")
            assert settings(vps) == (3 << 30, "stop", {"when": "on", "priority": 7}, 444)
            if running:
                assert agreed(node, vps)["processes"] == 444 and node.show(vps)["run"] == run
            # The new space is a dataset's to take, and what no dataset has can go again.
            node.run("dataset", "set", vps, "quota=1200M")
            node.refused("dataset.disk_space", "set", vps, "disk=1G")
            node.run("dataset", "set", vps, "quota=1G")
            node.run("set", vps, "disk=1G", "on-crash=restart", "autostart=last,priority=0", "processes=8192")
            assert settings(vps) == (1 << 30, "restart", {"when": "last", "priority": 0}, 8192)
        plan = node.run("set", vps, "on-crash=stop", "autostart=off", "--dry-run").stdout
        assert plan == f"1. record of {vps}: on crash stop, autostart off\n", plan
        assert re.search(r"^on crash: +restart\nautostart: +last$", node.run("show", vps).stdout, re.M)


def test_on_crash_stop_leaves_it_stopped(node):
    """R6: a guest whose init is killed from the host is not started again."""
    with node.vps("debian-12-impermanence") as vps:
        node.run("set", vps, "on-crash=stop")
        os.kill(node.show(vps)["run"]["init_pid"], signal.SIGKILL)
        node.wait_state(vps, "stopped")
        assert node.show(vps)["desired"] == "stopped" and node.nothing_alive(vps)
