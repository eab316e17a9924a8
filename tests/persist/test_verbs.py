"""What somebody types in a VPS: `apply` with a file of declarations, `--dry-run`, and `check`."""
import json
import os
import shutil
import subprocess

import trees
from scenario import root

DECLARED = """["/persistent"]
directories = ["/var/log", "/etc/ssh", "/srv/link/x"]
files = ["/etc/there", { file = "/etc/conf", method = "copy" }]
"""


def write(at, text):
    with open(at, "w") as file:
        file.write(text)
    return at


def run(*arguments, code):
    done = trees.guest(*arguments)
    assert done.returncode == code, done
    return done


def test_a_dry_run_says_it_in_lines_and_changes_nothing(work):
    with root(work) as vps:
        vps.write("/etc/there", "of the base")
        vps.write("/persistent/etc/conf", "kept")
        os.makedirs(vps.at + "/srv")
        os.symlink("/elsewhere", vps.at + "/srv/link")
        spec = write(work + "/mine.toml", DECLARED)
        before = vps.tree.look()
        foreseen = run("apply", "--spec", spec, "--root", vps.at, "--dry-run", code=1).stdout
        assert vps.tree.look() == before
        assert foreseen.splitlines() == [
            "nothing is changed; this is what would become of it",
            "applied  bind    /var/log",
            "applied  bind    /etc/ssh",
            "refused  -       /srv/link/x: the symbolic link /srv/link is in the way",
            "refused  -       /etc/there: a file is there already, and it is not empty",
            "applied  copy    /etc/conf",
            "degraded: 3 stay, 2 do not",
        ], foreseen
        done = run("apply", "--spec", spec, "--root", vps.at, code=1).stdout
        assert done.splitlines() == foreseen.splitlines()[1:], done
        assert vps.is_kept("/var/log") and vps.read("/etc/conf") == "kept"
        again = run("apply", "--spec", spec, "--root", vps.at, "--dry-run", code=1).stdout
        assert again.count("\nalready ") == 3 and "\napplied " not in again, again


def test_what_nix_prints_is_applied_by_hand(work):
    with root(work) as vps:
        vps.declare('["/persistent"]\nfiles = [{ file = "/etc/conf", method = "copy" }]')
        vps.write("/persistent/etc/conf", "kept")
        vps.apply()
        remembered = vps.read("/persistent/var/lib/mayfly/declared.json")
        spec = write(work + "/mine.json", json.dumps({"/persistent": {"directories": [{"directory": "/var/log"}],
                                                                      "files": [{"file": "/etc/x", "method": "copy"}]}}))
        done = run("apply", "--spec", spec, "--root", vps.at, "--json", code=0)
        assert [line["fate"] for line in json.loads(done.stdout)["declarations"]] == ["applied", "applied"]
        # It is no birth: what was placed before is taken back all the same, and no other declaration is gone.
        assert os.path.exists(vps.record()) and os.path.exists(vps.record("by-hand"))
        assert vps.read("/persistent/var/lib/mayfly/declared.json") == remembered
        vps.write("/etc/x", "made")
        assert vps.harvest("--when", "ended", run="by-hand")[0]["taken"] == ["/etc/x"]


def test_copies_that_are_placed_by_hand_belong_to_the_run(work):
    with root(work) as vps:
        vps.declare('["/persistent"]\nfiles = [{ file = "/etc/conf", method = "copy" }]')
        vps.write("/persistent/etc/conf", "kept")
        vps.apply()
        vps.write("/run/mayfly/boot.json", '{"run": "r1"}')
        shutil.copy(trees.program(), vps.at + "/guest")
        spec = "/persistent/etc/mayfly/persistence.toml"
        vps.declare('["/persistent"]\nfiles = [{ file = "/etc/conf", method = "copy" }, { file = "/etc/x", method = "copy" }]')
        done = subprocess.run(["chroot", vps.at, "/guest", "apply", "--spec", spec], capture_output=True, text=True)
        assert done.stdout.splitlines() == ["already  copy    /etc/conf", "applied  copy    /etc/x",
                                            "applied: 2 stay, 0 do not"], done
        for path in ["/etc/conf", "/etc/x"]:
            vps.write(path, "changed")
        assert vps.harvest("--when", "ended")[0]["taken"] == ["/etc/conf", "/etc/x"]


def test_check_tells_what_is_wrong_and_where(work):
    good = write(work + "/good.toml", DECLARED)
    assert run("check", "--spec", good, code=0).stdout == "5 declarations: 0 errors, 0 warnings\n"
    bad = write(work + "/bad.toml", '["/persistent"]\ndirectories = ["/a", { directory = "/b", mode = "x" }, "/proc/x", "/a"]\n'
                                    'colour = "\\u001b[2J"\n["persistent"]\n')
    done = run("check", "--spec", bad, code=1).stdout
    assert done.splitlines() == [
        f"error: {bad}: /persistent.directories[1].mode: `x` is no mode; the default is taken",
        f"warning: {bad}: /persistent.colour: this is not known here, and means nothing",
        f"error: {bad}: persistent: it is no storage: those are absolute paths",
        "warning: /a: it is declared twice",
        "error: /proc/x: what is there is the kernel's",
        "3 declarations: 3 errors, 2 warnings",
    ], done
    assert "is not JSON" in run("check", "--spec", write(work + "/bad.json", "{"), code=1).stdout
    manifest = json.dumps({"version": 1, "run": "r", "temporary_root": True, "manifest": {"/p": {"files": [7]}}})
    assert "files[0]" in run("check", "--spec", write(work + "/spec.json", manifest), code=1).stdout


def test_what_is_not_read_here_is_said_with_what_to_do(work):
    for verb in ["apply", "check"]:
        done = run(verb, "--spec", write(work + "/flake.nix", "{}"), code=1)
        assert "nix eval --json" in done.stderr and done.stdout == ""
        assert "ends in none of" in run(verb, "--spec", work + "/declared.yaml", code=1).stderr
        assert "No such file" in run(verb, "--spec", work + "/absent.toml", code=1).stderr
        assert "usage:" in run(verb, "--what", code=2).stderr
    done = run("apply", "--dry-run", code=1)
    assert "--spec /persistent/etc/mayfly/persistence.toml" in done.stderr and done.stdout == ""
    assert "--spec is needed" in run("check", code=2).stderr
