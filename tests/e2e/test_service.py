"""The installed package under systemd: what runs as mayfly.service, what upgrades leave alone, AppArmor, cgroup v2.

Needs a host that is this test's own (tests/vm): the node is the one of /var/lib/mayfly.
"""
import json
import os
import pathlib
import subprocess
import time

import backends
from harness import MAYFLY, Node, alive, find_processes, sh, wait_for

BACKENDS = [backends.NAME] if os.environ.get("MAYFLY_SERVICE") else ["an installed package with systemd (tests/vm)"]
PACKAGE = "/payload/mayfly.deb"
SERVICE = []


class Service(Node):
    """The node of mayfly.service."""

    def __init__(self):
        self.dir = self.state = pathlib.Path("/var/lib/mayfly")
        self.backend = backends.Backend(self)
        if backends.PARENT:
            self.backend.pool = f"{backends.PARENT.split('/')[0]}/ct"

    class Daemon:
        """systemd's main process of the service, as far as the tests ask it."""

        @property
        def pid(self):
            return int(sh("systemctl", "show", "--value", "-p", "MainPID", "mayfly").stdout)

        def poll(self):
            return None if self.pid else 1

    daemon = Daemon()

    def log_end(self, lines=15):
        return sh("journalctl", "-u", "mayfly", "-n", str(lines), "--no-pager", "-o", "cat").stdout


def service():
    """The running service, with a node and the template `tiny`."""
    if not SERVICE:
        one = Service()
        if not (one.state / "node.json").exists():
            pool = one.backend.spec() if backends.PARENT else "loop:/var/lib/mayfly/pool.img,size=20G,sparse"
            sh(MAYFLY, "init", "--pool", pool, "--no-network")
        sh("systemctl", "start", "mayfly")
        one.id = json.loads((one.state / "node.json").read_text())["id"]
        SERVICE.append(one)
    return SERVICE[0]


def about(one, vps):
    run = one.show(vps)["run"]
    return run["id"], run["init_pid"], run["root"], one.run_state(vps)["supervisor_pid"]


def test_the_service_is_ready_when_the_api_answers(_node):
    """`systemctl start` returns when it serves, not before; nothing of it is left when it stops."""
    one = service()
    for _ in range(3):
        sh("systemctl", "restart", "mayfly")
        assert one.answers(), one.log_end()
    sh("systemctl", "stop", "mayfly")
    assert not one.run("status", check=False).returncode == 0
    sh("systemctl", "start", "mayfly")
    assert one.answers()


def test_a_vps_outlives_the_daemon_its_upgrade_and_its_death(_node):
    """H3: restart, reinstallation of the package, kill -9: the same init on the same root, which the new daemon reaches."""
    one = service()
    with one.vps("tiny", wait=False) as vps:
        one.exec(vps, "sh", "-c", "echo still > /mark")
        before, daemon = about(one, vps), one.daemon.pid

        def reinstall():
            done = sh("dpkg", "-i", PACKAGE)
            assert "error" not in (done.stdout + done.stderr).lower(), done

        def kill():
            sh("systemctl", "kill", "-s", "KILL", "--kill-whom=main", "mayfly")
            wait_for("systemd starts it again", lambda: one.daemon.pid not in (0, daemon), 10)

        for what in (lambda: sh("systemctl", "restart", "mayfly"), reinstall, kill):
            what()
            wait_for("the new daemon answers", one.answers, 20)
            assert one.daemon.pid != daemon, "it is the same daemon"
            daemon = one.daemon.pid
            assert alive(before[1]) and about(one, vps) == before, f"{before} before, {about(one, vps)} now"
            assert one.exec(vps, "cat", "/mark") == "still"


def test_supervisors_and_guests_are_not_in_the_cgroup_of_the_service(_node):
    one = service()
    with one.vps("tiny", wait=False) as vps:
        state = one.run_state(vps)
        for which in ("supervisor_pid", "lxc_pid", "init_pid"):
            cgroup = pathlib.Path(f"/proc/{state[which]}/cgroup").read_text().strip()
            assert f"/mayfly-{one.id}/{vps}." in cgroup and "mayfly.service" not in cgroup, f"{which}: {cgroup}"
        # The daemon's own commands come and go there.
        inside = sh("cat", "/sys/fs/cgroup/system.slice/mayfly.service/cgroup.procs").stdout.split()
        strangers = set(map(int, inside)) & {*one.processes(), *one.supervisors()}
        assert str(one.daemon.pid) in inside and not strangers, f"in the service's cgroup: {strangers}"


def test_the_package_says_which_vpses_go_on_when_it_is_removed(_node):
    """The daemon stops, VPSes do not; nothing of the pool or the state is removed, also by a purge."""
    one = service()
    with one.vps("tiny", wait=False) as vps:
        before = about(one, vps)
        done = sh("dpkg", "--purge", "mayfly")
        try:
            told = done.stdout + done.stderr
            assert str(vps) in told and "go on" in told, told
            assert "/var/lib/mayfly" in told and "left in place" in told, told
            assert alive(before[1]) and (one.state / "node.json").exists()
        finally:
            sh("dpkg", "-i", PACKAGE)
        wait_for("it serves again", one.answers, 20)
        assert about(one, vps) == before
        assert sh("systemctl", "is-enabled", "mayfly").stdout.strip() == "enabled"


def test_apparmor_is_in_force_and_lets_a_system_work(_node):
    """R4: every process of the guest is confined, also what exec starts; sudo-like programs and systemd work."""
    one = service()
    with one.vps("debian-12-impermanence") as vps:
        pid = one.show(vps)["run"]["init_pid"]
        label = pathlib.Path(f"/proc/{pid}/attr/current").read_text().strip()
        assert "(enforce)" in label and f"-{vps}" in label, label
        program = subprocess.Popen([MAYFLY, "exec", str(vps), "--", "sleep", "987"], stdin=subprocess.DEVNULL)
        try:
            found = wait_for("it runs inside", lambda: sorted(set(one.processes(vps)) & set(
                find_processes(lambda words: words[:2] == ["sleep", "987"]))), 10)
            assert pathlib.Path(f"/proc/{found[0]}/attr/current").read_text().strip() == label
        finally:
            program.kill()
            program.wait()
        for forbidden in ("echo b > /proc/sysrq-trigger", "echo 1 > /proc/sys/kernel/panic", "head -c 1 /proc/kcore",
                          "mkdir -p /x && mount -t securityfs none /x && ls /x/apparmor/profiles",
                          "mount -t debugfs none /mnt && ls /mnt/clk", "echo 1 > /sys/kernel/mm/ksm/run"):
            done = one.exec(vps, "sh", "-c", forbidden, check=False)
            assert done.returncode != 0, f"{forbidden}: {done.stdout}"
        one.exec(vps, "install", "-m", "4755", "/usr/bin/id", "/usr/local/bin/setuid-id")
        drop = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
        assert one.exec(vps, *drop, "/usr/local/bin/setuid-id", "-un") == "root"
        assert one.exec(vps, "systemctl", "is-system-running") == "running"
        one.exec(vps, "systemd-run", "--wait", "-p", "PrivateTmp=yes", "-p", "ProtectSystem=strict", "true")
        one.exec(vps, "sh", "-c", "mkdir -p /a /b && mount --bind /a /b && umount /b && mount -t tmpfs t /a && umount /a")


def test_limits_of_cgroup_v2(_node):
    """F2: the files have what was asked for; a memory hog dies alone, a fork bomb is stopped, processors are shared."""
    one = service()
    with one.vps("tiny", "--memory", "128M", "--cpus", "0.5", wait=False) as vps:
        run = one.show(vps)["run"]
        payload = pathlib.Path(f"/sys/fs/cgroup/mayfly-{one.id}/{vps}.{run['id']}/payload")
        found = {name: (payload / name).read_text().strip() for name in ("memory.max", "pids.max", "cpu.max")}
        assert found == {"memory.max": str(128 << 20), "pids.max": str(one.show(vps)["limits"]["processes"]),
                         "cpu.max": "50000 100000"}, found
        hog = one.exec(vps, "tail", "/dev/zero", check=False)
        assert hog.returncode == 137, hog
        assert "oom_kill 0" not in (payload / "memory.events").read_text()
        assert one.show(vps)["run"] == run and one.exec(vps, "echo", "fine") == "fine"

        began, used = time.monotonic(), cpu_seconds(payload)
        one.exec(vps, "sh", "-c", "for i in 1 2; do (while :; do :; done) & done; sleep 4; kill 0", check=False)
        share = (cpu_seconds(payload) - used) / (time.monotonic() - began)
        assert 0.2 < share < 0.6, f"{share:.2f} processors at half a processor"

        (payload / "pids.max").write_text("64")
        bomb = one.exec(vps, "sh", "-c", "f() { f | f & }; f; sleep 3; cat /proc/loadavg", check=False, timeout=60)
        assert int((payload / "pids.peak").read_text()) <= 64, bomb
        assert "max 0" not in (payload / "pids.events").read_text(), bomb
        # The host goes on, and the VPS can be ended.
        assert one.answers()
        one.run("stop", vps, "--force")
        assert one.nothing_alive(vps)


def cpu_seconds(payload):
    text = (payload / "cpu.stat").read_text().split()
    return int(text[text.index("usage_usec") + 1]) / 1e6
