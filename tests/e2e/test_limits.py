"""What a VPS may take of the host."""
import pathlib


def limit(node, vps, file):
    """The value of one limit file of the run's payload, in whichever hierarchy has it."""
    found = [pathlib.Path(cgroup, "payload", file) for cgroup in node.cgroups(vps)]
    value, = {path.read_text().strip() for path in found if path.exists()} or {None}
    return value


def test_limits_hold(node):
    """F2: memory, processors, processes: what the kernel was told, and a hog that dies alone."""
    with node.vps("debian-12-impermanence", "--memory", "256M", "--cpus", "0.5") as vps:
        one = limit(node, vps, "memory.limit_in_bytes")
        if one is not None:
            assert int(one) == 256 << 20
            assert limit(node, vps, "memory.memsw.limit_in_bytes") in (None, str(256 << 20)), "no swap was asked for"
            assert limit(node, vps, "cpu.cfs_quota_us") == "50000" and limit(node, vps, "cpu.cfs_period_us") == "100000"
        else:
            assert limit(node, vps, "memory.max") == str(256 << 20)
            assert limit(node, vps, "cpu.max") == "50000 100000"
        assert limit(node, vps, "pids.max") == "8192" == str(node.show(vps)["limits"]["processes"])
        run = node.show(vps)["run"]
        hog = node.exec(vps, "tail", "/dev/zero", check=False)
        assert hog.returncode == 137, hog
        assert node.show(vps)["run"] == run and node.exec(vps, "echo", "fine") == "fine"
        # Two seconds of two busy loops get one of processor time at half a processor. The guest's own clock counts: a busy
        # host may let it sleep for longer.
        busy = ("read from rest < /proc/uptime; for i in 1 2; do (while :; do :; done) & done; sleep 2; "
                "read to rest < /proc/uptime; cat /proc/*/stat 2>/dev/null | grep '(sh)'; echo $from $to; kill 0")
        *stats, clock = node.exec(vps, "setsid", "-w", "sh", "-c", busy, check=False).stdout.splitlines()
        spent = sum(int(line.rsplit(")", 1)[1].split()[11]) for line in stats)
        passed = 100 * (float(clock.split()[1]) - float(clock.split()[0]))
        assert 0.2 < spent / passed < 0.65, f"{spent} ticks of {passed:.0f}"
