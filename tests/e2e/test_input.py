"""What is refused: with the right status and code, told once, naming the object and the next step; and nothing is changed
by it."""
import json
import os
import shutil
import socket
import subprocess

from backends import only
from harness import MAYFLY, Node, sh, wait_for
from truth import assert_unchanged, differences, ensure_tiny, operations_over, own_node, pool_path, snapshot, subvolumes


def ask(node, *words, env=None):
    """The command without a terminal; status, standard output, standard error."""
    argv = [MAYFLY, "--socket", str(node.state / "api.sock"), *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, env=env)
    return done.returncode, done.stdout, done.stderr


def assert_refused(node, code, names, words):
    """Refused with `code`; text and JSON say the same, once, and where they ought to."""
    status, out, err = ask(node, *words)
    assert status == 1, f"status {status}: {out}{err}"
    assert not out, f"a refusal on standard output: {out}"
    assert err.count("error: ") == 1 and err.startswith("error: "), err
    assert err.rstrip().endswith(f"[{code}]"), f"{code} was expected: {err}"
    status, out, err = ask(node, "--json", *words)
    assert status == 1 and not err, f"status {status}, on standard error: {err}"
    error = json.loads(out)["error"]
    assert set(error) == {"code", "message", "hint", "operation"}, error
    assert error["code"] == code, error
    for name in names:
        assert name in error["message"], f"{name} is not named: {error['message']}"
    assert error["hint"].strip(), f"no next step: {error}"
    assert error["hint"] not in error["message"] and error["message"].count(error["message"][:30]) == 1
    return error


def assert_usage(node, words, names=()):
    """Not understood: status 2, told on standard error, and nothing was asked of the node."""
    status, out, err = ask(node, *words)
    assert status == 2, f"{words}: status {status}: {out}{err}"
    assert not out and err.startswith("error: "), f"{words}: {out}{err}"
    for name in names:
        assert name in err, f"{words}: {name} is not named: {err}"


CREATE = ["create", "--template", "tiny", "--disk", "64M"]


def refusals(a, b):
    """(code, what the message names, words) for a VPS `a` that runs and `b` that is stopped."""
    return [
        ("vps.id_taken", [str(a)], [*CREATE, "--id", a]),
        ("vps.name_taken", ["running"], [*CREATE, "running"]),
        ("template.not_found", ["nothing-like-it"], ["create", "--template", "nothing-like-it"]),
        ("dataset.disk_space", ["32M"], ["create", "--template", "tiny", "--disk", "32M"]),
        ("dataset.disk_space", ["0B"], ["create", "--template", "tiny", "--disk", "0"]),
        ("pool.full", ["200 %"], ["create", "--template", "tiny", "--disk", "1000T"]),
        ("pool.full", ["200 %"], ["create", "--template", "tiny", "--disk", str(2**63)]),
        ("vps.not_found", ["nobody"], ["show", "nobody"]),
        ("vps.not_found", ["nobody"], ["start", "nobody"]),
        ("vps.not_found", ["99"], ["start", "99"]),
        ("vps.not_found", ["987654"], ["destroy", "987654", "--yes"]),
        ("vps.not_found", ["nobody"], ["exec", "nobody", "--", "true"]),
        ("vps.not_found", ["nobody"], ["dataset", "list", "nobody"]),
        ("vps.not_found", ["nobody"], ["mount", "list", "nobody"]),
        ("vps.not_found", ["nobody"], ["logs", "nobody"]),
        ("vps.not_found", ["../x"], ["show", "../x"]),
        ("vps.not_found", ["a/b"], ["stop", "a/b"]),
        ("vps.not_found", ["%2e"], ["start", "%2e"]),
        ("vps.running", [str(a)], ["start", a]),
        ("vps.not_running", [str(b)], ["stop", b]),
        ("vps.not_running", [str(b)], ["exec", b, "--", "true"]),
        ("dataset.not_found", [f"{b}/none"], ["dataset", "set", f"{b}/none", "quota=32M"]),
        ("dataset.not_found", [f"{b}/none"], ["dataset", "destroy", f"{b}/none", "--yes"]),
        ("dataset.not_found", [f"{b}/none"], ["mount", "add", f"{b}/none", "/none"]),
        ("dataset.not_found", [f"{b}/none"], ["dataset", "create", f"{b}/none/deep", "--quota", "16M"]),
        ("dataset.exists", [f"{b}/data"], ["dataset", "create", f"{b}/data", "--quota", "16M"]),
        ("dataset.in_use", [f"{b}/data", "/data"], ["dataset", "destroy", f"{b}/data", "--yes"]),
        ("dataset.disk_space", [f"{b}/more"], ["dataset", "create", f"{b}/more", "--quota", "10G"]),
        ("dataset.disk_space", [f"{b}/data"], ["dataset", "set", f"{b}/data", "quota=10G"]),
        ("dataset.disk_space", [str(b)], ["dataset", "set", b, "quota=100T"]),
        ("input.invalid", ["1M"], ["dataset", "set", f"{b}/data", "quota=1M"]),
        ("input.invalid", ["0B"], ["dataset", "create", f"{b}/more", "--quota", "0"]),
        ("dataset.quota_below_use", [f"{b}/full"], ["dataset", "set", f"{b}/full", "quota=16M"]),
        ("mount.exists", ["/data"], ["mount", "add", b, "/data"]),
        ("mount.not_found", ["/none"], ["mount", "remove", b, "/none"]),
        *[("mount.refused", [path], ["mount", "add", f"{b}/full", path])
          for path in ("/", "/dev", "/dev/shm", "/proc", "/sys/fs", "/run", "/run/mayfly")],
        ("mount.refused", ["/sbin/init"], ["mount", "add", f"{b}/full", "/sbin/init/below"]),
        ("input.invalid", [str(b)], ["destroy", b]),
        ("input.invalid", [f"{b}/data"], ["dataset", "destroy", f"{b}/data"]),
        ("template.exists", ["tiny"], ["template", "build", "debian-12", "--name", "tiny"]),
        ("template.not_found", ["none"], ["template", "show", "none"]),
        ("template.not_found", ["none"], ["template", "remove", "none"]),
        ("template.in_use", ["tiny"], ["template", "remove", "tiny"]),
        ("operation.not_found", ["ffff"], ["operation", "show", "ffff"]),
        ("operation.not_found", ["nonsense"], ["operation", "watch", "nonsense"]),
        ("input.invalid", ["twice"], ["feature", "set", b, "nesting=on", "nesting=off"]),
        ("vps.would_not_boot", [str(b)], ["feature", "set", b, "impermanence=on", "--root-kind", "empty"]),
    ]


USAGE = [
    (["create"], ["--template"]),
    (["create", "--template", "tiny", "--nonsense"], ["--nonsense"]),
    *[([*CREATE, name], [name]) for name in ("UPPER", "a_b", "-a", "a-", "12", "a b", "é", "x" * 64, "a.b")
      if not name.startswith("-")],
    ([*CREATE, "--", "-a"], ["-a"]),
    ([*CREATE, ""], []),
    *[([*CREATE, "--id", number], []) for number in ("0", "99", "-5", "1e3", "1000000000", "99999999999999", "0100", "x")],
    *[(["create", "--template", "tiny", "--disk", size], [size]) for size in ("10X", "ten", "1.5G", "G", "99999999999P")],
    (["create", "--template", "tiny", "--disk=-1"], ["-1"]),
    *[(["create", "--template", name], []) for name in ("", "a/b", "../x", ".hidden", "a b", "x" * 65)],
    ([*CREATE, "--memory", "lots"], ["lots"]),
    *[([*CREATE, "--cpus", n], []) for n in ("0", "x", "1.234")],
    (["frobnicate"], ["frobnicate"]),
    ([], []),
    (["show"], []),
    *[([verb, ""], []) for verb in ("show", "start", "stop", "destroy", "logs")],
    (["list", "--yes"], ["--yes"]),
    (["start", "100", "200"], ["200"]),
    (["stop", "100", "--timeout", "soon"], ["soon"]),
    *[(["dataset", "create", f"100/{name}", "--quota", "16M"], [])
      for name in ("private", "trash", "x.impermanence-abcdef", "x.rescue-abcdef", "..", "../200", "a//b", "a/", ".x",
                   "-x", "a b", "a/private", "a/../../200", "x" * 201, "ü")],
    (["dataset", "create", "100", "--quota", "16M"], ["100"]),
    (["dataset", "create", "100/x"], ["--quota"]),
    (["dataset", "set", "100/x", "size=5G"], ["size"]),
    (["dataset", "set", "100/x", "quota=much"], ["much"]),
    *[(["mount", "add", "100", path], [])
      for path in ("relative", "./x", "", "/a/../b", "/a/./b", "/a//b", "/a/", "/a b", "/a\nb", "/a\\b", "/" + "x" * 1100)],
    (["feature", "set", "100"], []),
    (["feature", "set", "100", "impermanence=perhaps"], ["perhaps"]),
    (["feature", "set", "100", "telepathy=on"], ["telepathy"]),
    (["exec", "100"], []),
    (["init"], ["--pool"]),
    (["init", "--pool", "tape:/dev/st0"], ["tape"]),
    (["init", "--pool", "zfs:/tank/ct"], ["/tank/ct"]),
    (["init", "--pool", "loop:/x"], ["size"]),
    (["init", "--pool", "loop:/x,size=1M"], ["1M"]),
    (["serve", "--port", "80"], ["--port"]),
]


def test_bad_input_is_refused_and_changes_nothing(node):
    """E1, E2: one table; the host's state before and after is equal."""
    ensure_tiny(node)
    with node.vps("tiny", "running", wait=False) as a, node.vps("tiny", start=False) as b:
        node.run("dataset", "set", b, "quota=512M")
        node.run("dataset", "create", f"{b}/data", "--quota", "64M", "--mount", "/data")
        node.run("dataset", "create", f"{b}/full", "--quota", "64M")
        (pool_path(node) / f"{b}/full/private/big").write_bytes(os.urandom(20 << 20))
        os.sync()
        before = snapshot(node)
        table = refusals(a, b)
        wrong = []
        for code, names, words in table:
            try:
                assert_refused(node, code, names, words)
            except Exception as error:
                wrong.append(f"{' '.join(map(str, words))[:80]}: {error}")
                if len(ask(node, "list", "--json")[1]) < 2:
                    raise
        for words, names in USAGE:
            try:
                assert_usage(node, words, names)
            except Exception as error:
                wrong.append(f"{' '.join(map(str, words))[:80]}: {error}")
        operations_over(node)
        wrong += [f"changed: {what}" for what in differences(before, snapshot(node))]
        print(f"  {len(table)} refusals, {len(USAGE)} mistakes of usage")
        assert not wrong, "\n".join(wrong)


def test_a_dry_run_of_anything_changes_nothing(node):
    """E2, A1: every change takes --dry-run; what would be refused is refused there, too."""
    ensure_tiny(node)
    with node.vps("tiny", "running", wait=False) as a, node.vps("tiny", start=False) as b:
        node.run("dataset", "set", b, "quota=512M")
        node.run("dataset", "create", f"{b}/data", "--quota", "64M")
        before = snapshot(node)
        count = len(node.json("operation", "list"))
        for words in ([*CREATE, "--start"], ["start", b], ["stop", a], ["stop", a, "--force", "--discard"],
                      ["restart", a], ["destroy", a], ["destroy", b, "--now"], ["dataset", "set", b, "quota=128M"],
                      ["dataset", "create", f"{b}/x", "--quota", "16M"], ["dataset", "destroy", f"{b}/data"],
                      ["mount", "add", f"{b}/data", "/data"], ["mount", "remove", b, "/persistent"],
                      ["template", "build", "debian-12", "--name", "new"]):
            plan = node.json(*words, "--dry-run")["plan"]
            assert plan["lines"] and len(plan["lines"]) == len(plan["steps"]), f"{words}: {plan}"
            assert node.run(*words, "--dry-run").stdout.count("\n") == len(plan["lines"])
        for code, _, words in refusals(a, b)[:6]:
            node.refused(code, *words, "--dry-run")
        assert_unchanged(node, before)
        assert len(node.json("operation", "list")) == count, "a dry run left an operation"


def test_a_stranger_is_told_nothing(node):
    """A2, E1: another user may connect, and gets auth.forbidden for everything."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        before = snapshot(node)
        stranger = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", MAYFLY,
                    "--socket", str(node.state / "api.sock")]
        for words in (["status"], ["list"], ["show", vps], ["show", "nobody"], ["destroy", vps, "--yes"], ["stop", vps],
                      ["exec", vps, "--", "id"], [*CREATE], ["pool", "show"], ["operation", "list"], ["logs", vps],
                      ["template", "remove", "tiny"], ["dataset", "list", vps], ["events"]):
            done = sh(*stranger, "--json", *map(str, words), check=False, timeout=20)
            assert done.returncode == 1, f"{words}: {done}"
            error = json.loads(done.stdout.splitlines()[-1])["error"]
            assert error["code"] == "auth.forbidden" and error["hint"], f"{words}: {error}"
            assert "vps" not in error["message"] and str(vps) not in error["message"], error
        assert_unchanged(node, before)


def test_strangers_cannot_keep_others_out(node):
    """A2: sixty connections that say nothing; root is served all the same."""
    idle = []
    try:
        for _ in range(60):
            one = socket.socket(socket.AF_UNIX)
            one.connect(str(node.state / "api.sock"))
            idle.append(one)
        assert node.answers()
        for one in idle:
            one.sendall(b"GET / HTTP/1.1\r\nHost: " + b"x" * 4096)
        assert node.answers()
    finally:
        for one in idle:
            one.close()


def test_without_a_daemon_the_command_line_says_so(node):
    """E1: node.unreachable; `init` and `serve` on the wrong directories."""
    for path in (node.dir / "no-such.sock", node.dir / "file"):
        (node.dir / "file").write_text("no socket")
        for words in (["list"], ["start", "100"]):
            done = sh(MAYFLY, "--socket", path, *words, "--json", check=False)
            error = json.loads(done.stdout)["error"]
            assert done.returncode == 1 and error["code"] == "node.unreachable", done
            assert str(path) in error["message"] and "serve" in error["hint"], error
            text = sh(MAYFLY, "--socket", path, *words, check=False)
            assert text.returncode == 1 and not text.stdout and text.stderr.count("error: ") == 1
    (node.dir / "file").unlink()

    def refused(code, *words):
        done = sh(MAYFLY, *map(str, words), "--json", check=False, timeout=30)
        assert done.returncode == 1, done
        error = json.loads(done.stdout)["error"]
        assert error["code"] == code and error["hint"], error
        return error

    before = snapshot(node)
    empty = node.dir / "empty"
    refused("node.not_initialised", "serve", "--state-dir", empty)
    assert not empty.exists(), "a serve that was refused made its directory"
    assert str(node.state) in refused("node.busy", "serve", "--state-dir", node.state)["message"]
    refused("node.exists", "init", "--pool", f"loop:{node.dir}/other.img,size=256M,sparse", "--state-dir", node.state)
    assert not (node.dir / "other.img").exists()
    for pool, code in ((f"loop:{node.dir}/no/such/dir/pool.img,size=256M,sparse", None),
                       (f"btrfs:{node.dir}/not-btrfs", "host.unsuitable"),
                       (f"loop:{node.dir}/huge.img,size=100000T", None)):
        fresh = node.dir / "fresh"
        done = sh(MAYFLY, "init", "--pool", pool, "--state-dir", fresh, "--no-network", "--json", check=False)
        error = json.loads(done.stdout)["error"]
        assert done.returncode == 1 and error["hint"] and (code is None or error["code"] == code), done
        assert not (fresh / "node.json").exists()
        shutil.rmtree(fresh, ignore_errors=True)
        assert not list(node.dir.glob("huge*")) and not (node.dir / "no").exists()
    assert_unchanged(node, before)
    assert node.answers()


@only("btrfs", "a pool in a file")
def test_a_pool_that_is_gone_stops_serve(node):
    """E1: the file is not there, or is no pool; what there is stays as it is."""
    own = Node("gone", size="256M")
    try:
        own.init()

        def refused(what):
            done = sh(MAYFLY, "serve", "--state-dir", own.state, "--json", check=False, timeout=30)
            error = json.loads(done.stdout)["error"]
            assert done.returncode == 1 and error["code"] in ("pool.unavailable", "host.could_not_look"), f"{what}: {done}"
            assert str(own.pool_file) in error["message"] and error["hint"], f"{what}: {error}"

        away = own.dir / "away"
        own.pool_file.rename(away)
        refused("no file")
        own.pool_file.write_bytes(b"\0" * (1 << 20))
        refused("zeros")
        assert own.pool_file.read_bytes() == b"\0" * (1 << 20), "the file was written to"
        away.rename(own.pool_file)
        own.serve()
        own.end_daemon()
    finally:
        own.remove()
    assert not own.leftovers()


@only("btrfs", "a pool in a small file")
def test_a_full_pool_refuses_and_goes_on(node):
    """E1, E2, R2: no room: a create fails with its reason and leaves nothing, VPSes and daemon go on, and there is a way
    out by destroying."""
    with own_node(Node, "full", size="512M") as node:
        vps = node.json("create", "--template", "tiny", "--disk", "420M", "--start")["vps"]
        other = node.json("create", "--template", "tiny", "--disk", "64M")["vps"]
        node.exec(vps, "sh", "-c", "dd if=/dev/urandom of=/persistent/big bs=1M count=1000; sync", check=False)
        os.sync()
        free = node.json("pool", "show")["space"]["free_bytes"]
        if free > 8 << 20:
            filler = pool_path(node) / "filler"
            with open(filler, "wb") as file:
                try:
                    while True:
                        file.write(os.urandom(1 << 20))
                        file.flush()
                        os.fsync(file.fileno())
                except OSError:
                    pass
        before = snapshot(node)
        done = node.run("create", "--template", "tiny", "--disk", "64M", "--start", "--json", check=False)
        if done.returncode:
            error = json.loads(done.stdout)["error"]
            assert error["code"] in ("pool.full", "vps.start_failed"), error
            assert error["hint"] and error["message"].count("\n") == 0
            operations_over(node)
            wait_for("nothing is left of it", lambda: not node.graves(), 40)
            assert set(subvolumes(node)) == set(before["subvolumes"])
        else:
            node.run("destroy", json.loads(done.stdout)["vps"], "--yes", "--now")
        assert node.show(vps)["state"] == "running"
        node.exec(vps, "true")
        (pool_path(node) / "filler").unlink(missing_ok=True)
        node.run("destroy", vps, "--yes", "--now")
        os.sync()
        # The kernel gives room back in the background, and begins with it at a commit.
        sh("btrfs", "filesystem", "sync", pool_path(node))
        wait_for("there is room again", lambda: node.run("start", other, check=False).returncode == 0, 60, 1)
        assert node.show(other)["state"] == "running"
        node.run("destroy", other, "--yes", "--now")
