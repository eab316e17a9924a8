"""One scratch node, driven through the command line like a user would, and the host's own tools to look at what is true.

Everything that a test makes is below one scratch directory, in cgroups and process names that carry the node's id, and
in one loop device; `Node.remove` ends and removes all of it, also after a failure, and `leftovers` tells what stayed.
"""
import contextlib
import glob
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

from backends import Backend

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
MAYFLY = os.environ.get("MAYFLY", str(TOP / "target/release/mayfly"))
# How many times slower this machine is than the ones that the limits in the tests were chosen on.
SLOW = float(os.environ.get("MAYFLY_SLOW", "1"))
# Recipes with archives that were built elsewhere, for nodes that cannot build: see tests/templates.
TEMPLATES = os.environ.get("MAYFLY_TEMPLATE_DIR")


def archived(name):
    """The recipe of the template `name` with its archive, which needs no mirror."""
    there = TEMPLATES or subprocess.run([TOP / "tests/templates"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return pathlib.Path(there, f"{name}.toml")


def recipe(name):
    """What `template build` is told to make the template `name`."""
    if TEMPLATES:
        return archived(name)
    fixture = TOP / "tests/fixtures" / name / "recipe.toml"
    return fixture if fixture.exists() else name


class Refused(Exception):
    """A command that ended with status 1; `code`, `message`, `hint` are those of its answer."""

    def __init__(self, argv, error):
        super().__init__(f"{' '.join(argv)}: {error}")
        self.code = error.get("code")
        self.message = error.get("message", "")
        self.hint = error.get("hint", "")


def wait_for(what, condition, seconds=30.0, every=0.05):
    """Waits until `condition()` is true and answers with what it gave."""
    # What is asked for at each turn is a process, which slows down what is waited for.
    seconds, every = seconds * SLOW, every * SLOW
    end = time.monotonic() + seconds
    while True:
        got = condition()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(every)


def sh(*argv, check=True, **more):
    return subprocess.run(argv, check=check, capture_output=True, text=True, **more)


class Node:
    """A node in a scratch directory, with its daemon."""

    def __init__(self, name="e2e", size="32G"):
        base = pathlib.Path(os.environ.get("MAYFLY_SCRATCH", "/var/tmp"))
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"mayfly-{name}-", dir=base))
        self.dir.chmod(0o711)
        self.state = self.dir / "state"
        self.size = size
        self.backend = Backend(self)
        self.pool_file = self.dir / "pool.img"
        self.daemon = None
        self.id = None
        # What the daemon is started by: it becomes the daemon.
        self.within = []

    # -- the daemon

    def init(self, pool=None, network=("--no-network",)):
        """Without a network unless told: that belongs to the whole of a network namespace, and most tests share the host's."""
        out = sh(*self.within, MAYFLY, "init", "--pool", pool or self.backend.spec(), "--state-dir", str(self.state), *network)
        self.id = json.loads((self.state / "node.json").read_text())["id"]
        return out.stdout

    def serve(self, crash_at=None, wait=True):
        self.backend.release()
        env = dict(os.environ)
        if crash_at:
            env["MAYFLY_CRASH_AT"] = crash_at
        log = open(self.dir / "daemon.log", "ab")
        self.daemon = subprocess.Popen([*self.within, MAYFLY, "serve", "--state-dir", str(self.state)], stdout=log, stderr=log,
                                       stdin=subprocess.DEVNULL, env=env, start_new_session=True)
        log.close()
        if wait:
            wait_for("the daemon answers", lambda: self.answers() or self.daemon.poll() is not None)
            if self.daemon.poll() is not None:
                raise AssertionError(f"the daemon ended: {self.log_end()}")
            self.backend.observe()

    def answers(self):
        return self.run("status", check=False).returncode == 0

    def kill_daemon(self):
        """kill -9, and nothing else."""
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def end_daemon(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(30)

    def wait_daemon_died(self, seconds=30):
        """After `serve(crash_at=…)` and what should lead there."""
        self.daemon.wait(seconds)
        assert self.daemon.returncode == -signal.SIGKILL, f"status {self.daemon.returncode}: {self.log_end()}"

    def restart_daemon(self):
        self.kill_daemon()
        self.serve()

    def log_end(self, lines=15):
        path = self.dir / "daemon.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def recipe(self, name):
        return recipe(name)

    # -- the command line

    def run(self, *words, check=True, input=None, timeout=300):
        self.backend.release()
        argv = [MAYFLY, "--socket", str(self.state / "api.sock"), *map(str, words)]
        done = subprocess.run(argv, capture_output=True, text=True, input=input, timeout=timeout * SLOW, errors="replace",
                              stdin=None if input is not None else subprocess.DEVNULL)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv[3:])}: status {done.returncode}\n{done.stdout}{done.stderr}\n"
                                 f"-- daemon --\n{self.log_end()}")
        return done

    def start_command(self, *words):
        """A command that nobody waits for here."""
        self.backend.release()
        return subprocess.Popen([MAYFLY, "--socket", str(self.state / "api.sock"), *map(str, words)],
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def json(self, *words, timeout=300):
        """The answer of a command; `Refused` where it was refused."""
        done = self.run(*words, "--json", check=False, timeout=timeout)
        if done.returncode == 0:
            return json.loads(done.stdout) if done.stdout.strip() else None
        try:
            error = json.loads(done.stdout.splitlines()[-1])["error"]
        except (ValueError, KeyError, IndexError):
            raise AssertionError(f"{words}: status {done.returncode}, no error on stdout\n{done.stdout}{done.stderr}\n"
                                 f"-- daemon --\n{self.log_end()}") from None
        raise Refused([str(w) for w in words], error)

    def refused(self, code, *words):
        """The command is refused with that code, and says what to do next."""
        try:
            got = self.json(*words)
        except Refused as refused:
            assert refused.code == code, f"{words}: {refused.code} instead of {code}: {refused.message}"
            assert refused.hint, f"{words}: no next step"
            return refused
        raise AssertionError(f"{words}: not refused, but {got}")

    def ensure_template(self, name):
        if not any(t["name"] == name for t in self.json("template", "list")):
            self.run("template", "build", self.recipe(name), "--name", name, timeout=1800)

    def create(self, template="debian-12-impermanence", *words, start=True, wait=True):
        """A new VPS; answers with its id."""
        self.ensure_template(template)
        disk = [] if "--disk" in words else ["--disk", "24G" if template == "nixos-shaped" else "1G"]
        made = self.json("create", "--template", template, *disk, *words, *(["--start"] if start else []))
        if start and wait:
            self.wait_running(made["vps"])
        return made["vps"]

    @contextlib.contextmanager
    def vps(self, template="debian-12-impermanence", *words, start=True, wait=True):
        """A VPS for the length of a `with`; also what was started in vain is destroyed."""
        before = {v["id"] for v in self.json("list")}
        try:
            yield self.create(template, *words, start=start, wait=wait)
        finally:
            if self.daemon.poll() is not None:
                self.serve()
            if not os.environ.get("MAYFLY_KEEP"):
                for vps in {v["id"] for v in self.json("list")} - before:
                    self.run("destroy", vps, "--yes")

    def show(self, vps):
        return self.json("show", vps)

    def document(self, vps):
        """The whole document of a VPS as the store has it."""
        return self.show(vps)

    def exec(self, vps, *command, check=True, timeout=120):
        done = self.run("exec", vps, "--", *command, check=False, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"in {vps}: {' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip() if check else done

    def wait_running(self, vps, seconds=60):
        """Until systemd inside says `running`."""
        def look():
            done = self.exec(vps, "systemctl", "is-system-running", check=False)
            state = done.stdout.strip()
            if state == "degraded":
                failed = self.exec(vps, "systemctl", "--failed", "--no-legend", check=False).stdout
                raise AssertionError(f"VPS {vps} is degraded: {failed}")
            return state == "running"
        wait_for(f"VPS {vps} says running", look, seconds, 0.2)

    def wait_state(self, vps, state, seconds=60):
        return wait_for(f"VPS {vps} is {state}", lambda: (s := self.show(vps))["state"] == state and s, seconds)

    # -- what is true on the host

    @contextlib.contextmanager
    def pool(self):
        """The pool's directory, until something is asked of the node."""
        yield self.backend.path()
        self.backend.release()

    def look_offline(self, command):
        """What a shell command prints in the pool's directory while no daemon and no VPS runs."""
        return self.backend.look_offline(command)

    def in_pool(self):
        """Names of what lies in the pool: datasets, and graves as `trash/…`."""
        return self.backend.names()

    def temporary_roots(self, vps):
        return [n for n in self.in_pool() if n.startswith(f"{vps}.impermanence-")]

    def graves(self):
        return [n for n in self.in_pool() if n.startswith("trash/")]

    def cgroups(self, vps=None):
        wanted = f"{vps}." if vps else ""
        found = []
        for depth in ("/sys/fs/cgroup/*/", "/sys/fs/cgroup/"):
            found += glob.glob(f"{depth}mayfly-{self.id}/{wanted}*") + glob.glob(f"{depth}**/mayfly-{self.id}/{wanted}*")
        return sorted(set(p for p in found if os.path.isdir(p)))

    def node_cgroups(self):
        return [at for depth in ("/sys/fs/cgroup/*/", "/sys/fs/cgroup/") for at in glob.glob(f"{depth}mayfly-{self.id}")]

    def processes(self, vps=None):
        """Processes in any cgroup of the node's runs."""
        pids = set()
        for cgroup in self.cgroups(vps):
            # Not by a pattern: LXC puts what it executes into a hidden one.
            for directory, _, _ in os.walk(cgroup):
                with contextlib.suppress(OSError):
                    pids.update(int(p) for p in pathlib.Path(directory, "cgroup.procs").read_text().split())
        return sorted(p for p in pids if alive(p))

    def supervisors(self):
        return find_processes(lambda argv: len(argv) > 2 and argv[1] == "supervise" and argv[2].startswith(str(self.state)))

    def run_state(self, vps):
        """What the supervisor of the present run wrote."""
        files = sorted((self.state / "runs").glob(f"{vps}.*/state.json"), key=lambda p: p.stat().st_mtime)
        return json.loads(files[-1].read_text()) if files else None

    def nothing_alive(self, vps):
        """No process, cgroup, supervisor or mount of a VPS is left."""
        ours = re.compile(rf"{vps}(\.impermanence-[0-9a-f]{{6}})?(/\S*)?/private$")
        mounts = [m for m in self.mounts() if ours.match(m[1])]
        return not (self.processes(vps) or self.cgroups(vps) or mounts)

    def mounts(self):
        """(process, directory of the pool, mount point) in every mount namespace."""
        self.backend.release()
        return [(pid, shown, point) for pid, line, point in mount_lines()
                if (shown := self.backend.shown(line)) is not None]

    # -- the end

    def remove(self):
        """Ends everything of this node and removes it."""
        if os.environ.get("MAYFLY_KEEP"):
            print(f"kept: {self.dir}")
            return
        with contextlib.suppress(Exception):
            if self.daemon and self.daemon.poll() is None:
                self.daemon.kill()
                self.daemon.wait(10)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            pids = self.supervisors() + (self.processes() if self.id else [])
            if not pids:
                break
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        if self.id:
            for cgroup in self.cgroups() + self.node_cgroups():
                for root, _, _ in os.walk(cgroup, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(root)
        self.backend.remove()
        shutil.rmtree(self.dir)

    def leftovers(self):
        """What is left of this node on the host, in words."""
        found = self.backend.leftovers()
        found += [f"mount {m}" for m in mounts_everywhere() if str(self.dir) in " ".join(m)]
        found += [f"process {p}" for p in find_processes(lambda argv: any(str(self.dir) in a for a in argv))]
        if self.id:
            found += [f"cgroup {c}" for c in self.cgroups() + self.node_cgroups()]
        if self.dir.exists():
            found.append(f"directory {self.dir}")
        return found


def alive(pid):
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in "ZX"


def find_processes(matches):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                argv = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
                if matches(argv):
                    found.append(int(entry))
    return found


def mount_lines():
    """(process, line of its mount table, mount point), of each mount namespace once."""
    seen, found = set(), []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            namespace = os.readlink(f"/proc/{entry}/ns/mnt")
            if namespace in seen:
                continue
            text = pathlib.Path(f"/proc/{entry}/mountinfo").read_text(errors="replace")
            if text:
                seen.add(namespace)
                found += [(int(entry), line, line.split(" ")[4]) for line in text.splitlines()]
    return found


def mounts_everywhere():
    """(process, root field, mount point) of every mount of every mount namespace."""
    return [(str(pid), line.split(" ")[3], point) for pid, line, point in mount_lines()]
