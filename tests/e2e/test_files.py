"""F4: files into a running VPS and out of it, passwords, and whether they will be there after a restart."""
import hashlib
import json
import os
import pathlib
import subprocess
import tempfile

from harness import MAYFLY, find_processes, wait_for


def mayfly(node, *words, **more):
    """The command line with bytes for its input and output."""
    argv = [MAYFLY, "--socket", str(node.state / "api.sock"), *map(str, words)]
    return subprocess.run(argv, capture_output=True, timeout=120, **more)


def test_files_go_in_and_out_and_their_fate_is_told(node):
    with node.vps(template="debian-12-impermanence") as vps, tempfile.TemporaryDirectory() as here:
        here = pathlib.Path(here)
        big = os.urandom(9 << 20)
        (here / "big").write_bytes(big)
        os.chmod(here / "big", 0o640)

        # Into a dataset it stays, into the temporary root it does not, and both are told.
        stays = node.json("push", vps, here / "big", "/persistent/big")
        assert stays["stays"] and f"dataset {vps}" in stays["why"] and stays["bytes"] == len(big), stays
        gone = node.json("push", vps, here / "big", "/srv")
        assert (gone["path"], gone["stays"]) == ("/srv/big", False) and "temporary root" in gone["why"], gone
        told = node.run("push", vps, here / "big", "/srv/big").stdout
        assert "gone with the next start" in told and f"mayfly persist add {vps} /srv/big" in told, told
        memory = node.json("push", vps, here / "big", "/run/big")
        assert not memory["stays"] and "memory" in memory["why"], memory
        # A declared copy stays although it lies in the root.
        node.run("persist", "add", vps, "/etc/app.conf", "--method", "copy")
        node.run("restart", vps)
        assert node.exec(vps, "sh", "-c", "ls /persistent/big; ls /srv") == "/persistent/big"
        declared = json.loads(node.run("push", vps, "-", "/etc/app.conf", "--json", input="one\n").stdout)
        assert declared["stays"] and "taken back" in declared["why"], declared

        # What goes in comes out, with the mode; a link is followed inside.
        assert node.exec(vps, "stat", "-c", "%a %u:%g", "/persistent/big") == "640 0:0"
        node.exec(vps, "ln", "-s", "/persistent/big", "/root/link")
        node.run("pull", vps, "/root/link", here / "back")
        assert (here / "back").read_bytes() == big and os.stat(here / "back").st_mode & 0o777 == 0o640
        piped = mayfly(node, "pull", vps, "/persistent/big", "-", check=True).stdout
        assert hashlib.sha256(piped).digest() == hashlib.sha256(big).digest()
        pushed = mayfly(node, "push", vps, "-", "/persistent/piped", "--mode", "600", "--owner", "1000:1000", input=big)
        assert pushed.returncode == 0, pushed
        assert node.exec(vps, "stat", "-c", "%a %u:%g %s", "/persistent/piped") == f"600 1000:1000 {len(big)}"
        # One that is there keeps its rights.
        node.run("push", vps, here / "big", "/persistent/piped")
        assert node.exec(vps, "stat", "-c", "%a %u:%g", "/persistent/piped") == "600 1000:1000"

        # A file that something is bound over cannot be replaced, and is written over.
        node.exec(vps, "sh", "-c", "echo old > /persistent/below; touch /etc/over; mount --bind /persistent/below /etc/over")
        node.run("push", vps, "-", "/etc/over", input="new\n")
        assert node.exec(vps, "cat", "/etc/over", "/persistent/below") == "new\nnew"

        node.run("restart", vps)
        assert node.exec(vps, "sh", "-c", "cat /etc/app.conf; test ! -e /srv/big && sha256sum < /persistent/big") == \
            "one\n" + hashlib.sha256(big).hexdigest() + "  -"


def test_what_cannot_be_put_or_pulled_is_refused_and_leaves_nothing(node):
    with node.vps(template="debian-12-impermanence") as vps, tempfile.TemporaryDirectory() as here:
        here = pathlib.Path(here)

        def refused(code, *words, **more):
            done = node.run(*words, check=False, **more)
            assert done.returncode == 1 and code in done.stderr and "next:" in done.stderr, done
            return done.stderr

        assert "no directory" in refused("file.not_found", "push", vps, "-", "/no/such/place", input="x")
        assert "no file" in refused("file.not_found", "pull", vps, "/no-such-file", here / "x")
        node.exec(vps, "sh", "-c", "mkfifo /srv/fifo; ln -s loop /srv/loop; ln -s /proc/1/root/../../.. /srv/out")
        refused("file.refused", "push", vps, "-", "/srv/fifo", input="x")
        refused("file.refused", "pull", vps, "/srv/fifo", here / "x")
        refused("file.refused", "push", vps, "-", "/srv/loop", input="x")
        refused("file.refused", "pull", vps, "/etc", here / "x")
        refused("input.invalid", "push", vps, here, "/srv")
        assert not list(here.iterdir()), "a pull that failed left something"

        # A link cannot lead out: it is followed with the VPS's eyes and rights.
        secret = here / "secret"
        secret.write_text("of the host")
        refused("file.not_found", "pull", vps, f"/srv/out{secret}", here / "x")

        # What is cut off leaves the old file and nothing beside it, and no process.
        node.run("push", vps, "-", "/persistent/whole", input="whole\n")
        argv = [MAYFLY, "--socket", str(node.state / "api.sock"), "push", str(vps), "-", "/persistent/whole"]
        client = subprocess.Popen(argv, stdin=subprocess.PIPE)
        client.stdin.write(b"half" * 100_000)
        client.stdin.flush()
        inside = lambda: [pid for pid in find_processes(lambda words: "put" in words and "/persistent/whole" in words)]
        wait_for("it writes", inside)
        client.kill()
        client.wait()
        wait_for("it ended with its client", lambda: not inside(), 15)
        assert node.exec(vps, "sh", "-c", "cat /persistent/whole; ls -A /persistent | grep -c mayfly- || true") == "whole\n0"


def test_a_file_that_does_not_fit_leaves_nothing(node):
    with node.vps(template="debian-12-impermanence", start=False) as vps, tempfile.TemporaryDirectory() as here:
        done = node.run("push", vps, "-", "/srv/x", input="x", check=False)
        assert "vps.not_running" in done.stderr, done
        node.run("dataset", "set", vps, "quota=512M")
        node.run("dataset", "create", f"{vps}/small", "--quota", "16M", "--mount", "/small")
        node.run("start", vps)
        large = pathlib.Path(here) / "large"
        with open(large, "wb") as file:
            file.truncate(64 << 20)
        done = node.run("push", vps, large, "/small/x", check=False)
        assert done.returncode == 1 and "file.refused" in done.stderr and "quota" in done.stderr.lower(), done
        assert node.exec(vps, "ls", "-A", "/small") == ""


def test_a_password_is_set_and_its_fate_is_told(node):
    with node.vps(template="debian-12-impermanence") as vps:
        kept = node.run("passwd", vps, input="correct horse\n").stdout
        assert "password of root is set" in kept and "it stays" in kept, kept
        check = ("perl", "-e", 'my @e = getpwnam("root"); print crypt("correct horse", $e[1]) eq $e[1] ? "same" : "other"')
        assert node.exec(vps, *check) == "same"
        node.run("restart", vps)
        assert node.exec(vps, *check) == "same", "it was said to stay"
        nobody = node.run("passwd", vps, "--user", "no-such-user", input="x\n", check=False)
        assert nobody.returncode == 1 and "file.refused" in nobody.stderr, nobody
        empty = node.run("passwd", vps, input="\n", check=False)
        assert empty.returncode == 1 and "input.invalid" in empty.stderr, empty
