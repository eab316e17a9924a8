"""P4: copies are placed at birth and taken back when they have settled, and from the dead root at the end."""
import os
import signal
import time

from harness import Refused, wait_for
from persist import COPY, await_stored, declare, fates, in_guest, restart, storage, stored, template, write
from truth import operations_over

DECLARED = '\n[manifest.layout.persistence."/persistent"]\nfiles = [{ file = "/etc/app.conf", method = "copy" }]\n'


def owed(node, vps):
    """Whether the mark of the last root says that something is still to be taken from it."""
    return any('"unharvested":true' in text and f'"{vps}.impermanence-' in text.replace('\\"', '"')
               for text in node.backend.marks().values())


def history(node, vps):
    done = node.run("logs", vps)
    return done.stdout + done.stderr


def test_a_copy_survives_a_thousand_replacements(node):
    """Replaced by rename a thousand times under load; then stop, start: the last version."""
    with template(node, "copies", DECLARED) as name, node.vps(name, wait=False) as vps:
        assert fates(node, vps) == {"/etc/app.conf": ("applied", "copy")}
        in_guest(node, vps, """
            for n in 1 2 3; do (while :; do :; done) & done
            n=0; while [ $n -lt 1000 ]; do n=$((n + 1)); echo "version $n" > /etc/app.conf.new; mv /etc/app.conf.new /etc/app.conf; done
            kill $(jobs -p)""")
        node.run("stop", vps)
        assert not owed(node, vps)
        assert stored(node, vps, "/etc/app.conf") == "version 1000\n"
        assert os.listdir(storage(node, vps) / "var/lib/mayfly/placed") == []
        node.run("start", vps)
        assert in_guest(node, vps, "cat /etc/app.conf") == "version 1000"
        # What the supervisor had no time to take is told of as taken from a dead root.
        node.exec(vps, "sh", "-c", "echo last > /etc/app.conf.new; mv /etc/app.conf.new /etc/app.conf; poweroff -f", check=False)
        node.wait_state(vps, "stopped")
        operations_over(node)
        assert stored(node, vps, "/etc/app.conf") == "last\n"
        assert "1 copy was taken back: /etc/app.conf" in history(node, vps), history(node, vps)


def test_a_running_root_is_harvested_when_a_file_has_settled(node):
    with template(node, "copies", DECLARED) as name, node.vps(name, wait=False) as vps:
        write(node, vps, "/etc/app.conf", "one")
        await_stored(node, vps, "/etc/app.conf", "one")
        write(node, vps, "/etc/app.conf", "two")
        await_stored(node, vps, "/etc/app.conf", "two")
        assert stored(node, vps, "/etc/app.conf.prev") == "one", "the version before stays"
        # Held open for writing it is left alone, however long that takes.
        in_guest(node, vps, "(exec 3> /etc/app.conf; printf half >&3; sleep 6; printf ' and whole' >&3; sleep 0.1) "
                            "> /dev/null 2>&1 < /dev/null &")
        time.sleep(4)
        assert stored(node, vps, "/etc/app.conf") == "two"
        await_stored(node, vps, "/etc/app.conf", "half and whole")
        # Without a daemon it goes on: it is the supervisor's work.
        node.kill_daemon()
        try:
            pid = node.run_state(vps)["init_pid"]
            with open(f"/proc/{pid}/root/etc/app.conf", "w") as file:
                file.write("while nobody looked")
        finally:
            node.serve()
        await_stored(node, vps, "/etc/app.conf", "while nobody looked")


def test_what_is_emptied_or_deleted_stays_stored(node):
    with template(node, "copies", DECLARED) as name, node.vps(name, wait=False) as vps:
        write(node, vps, "/etc/app.conf", "dear")
        restart(node, vps)
        for change in (": > /etc/app.conf", "rm /etc/app.conf", "rm /etc/app.conf; mkdir /etc/app.conf",
                       "rm -r /etc; ln -s /persistent /etc", "rm /etc/app.conf; mkfifo /etc/app.conf"):
            in_guest(node, vps, change)
            time.sleep(2.5)
            assert stored(node, vps, "/etc/app.conf") == "dear", change
            restart(node, vps)
            assert stored(node, vps, "/etc/app.conf") == "dear", change
            assert in_guest(node, vps, "cat /etc/app.conf") == "dear", change


def test_half_a_file_is_not_taken_at_a_crash(node):
    """A program is killed in the middle of writing in place: the last settled version stays."""
    with template(node, "copies", DECLARED) as name, node.vps(name, wait=False) as vps:
        node.run("set", vps, "on-crash=stop")
        write(node, vps, "/etc/app.conf", "settled")
        await_stored(node, vps, "/etc/app.conf", "settled")
        in_guest(node, vps, "(exec 3> /etc/app.conf; while :; do printf half >&3; done) > /dev/null 2>&1 < /dev/null & sleep 0.3")
        os.kill(node.run_state(vps)["init_pid"], signal.SIGKILL)
        node.wait_state(vps, "stopped")
        wait_for("its end is settled", lambda: not owed(node, vps))
        assert stored(node, vps, "/etc/app.conf") == "settled"
        node.run("start", vps)
        assert in_guest(node, vps, "cat /etc/app.conf") == "settled"
        # In order, whatever there is counts, however young.
        in_guest(node, vps, "printf young > /etc/app.conf")
        node.run("stop", vps)
        assert stored(node, vps, "/etc/app.conf") == "young"


def test_a_full_storage_keeps_the_root_until_there_is_room(node):
    """What cannot be taken back now is not given up: a start is refused with the cure, or it is discarded by force."""
    with template(node, "copies", DECLARED) as name, node.vps(name, "--disk", "300M", wait=False) as vps:
        node.run("dataset", "set", vps, "quota=64M")
        # First the storage, with what nothing compresses: a copy is taken as soon as it has settled.
        full = "dd if=/dev/urandom of=/persistent/fill bs=64k 2>/dev/null; sync; :"
        in_guest(node, vps, full)
        in_guest(node, vps, "dd if=/dev/urandom of=/etc/app.conf bs=1M count=8 2>/dev/null; sync")
        size = in_guest(node, vps, "sha256sum /etc/app.conf")
        node.run("stop", vps)
        root = node.document(vps)["last_root"]
        assert owed(node, vps) and root in node.in_pool()
        try:
            node.json("start", vps)
        except Refused as refused:
            assert refused.code == "root.harvest_failed", refused
            assert "dataset set" in refused.hint and "--discard --force" in refused.hint, refused.hint
        else:
            raise AssertionError("it started although copies were not taken back")
        assert owed(node, vps) and root in node.in_pool()
        node.restart_daemon()
        assert root in node.in_pool()
        node.run("dataset", "set", vps, "quota=128M")
        node.run("start", vps)
        assert in_guest(node, vps, "sha256sum /etc/app.conf") == size
        # And given up in so many words.
        in_guest(node, vps, full)
        in_guest(node, vps, "dd if=/dev/urandom of=/etc/app.conf bs=1M count=8 2>/dev/null")
        node.run("stop", vps)
        assert owed(node, vps)
        node.run("stop", vps, "--discard", "--force")
        wait_for("the root is destroyed", lambda: not node.temporary_roots(vps) and not node.graves())
        in_pool = storage(node, vps)
        os.unlink(in_pool / "fill")
        node.run("start", vps)
        assert in_guest(node, vps, "sha256sum /etc/app.conf") == size


def test_what_never_can_be_taken_is_told_and_keeps_nothing(node):
    with template(node, "copies", DECLARED) as name, node.vps(name, "--disk", "300M", wait=False) as vps:
        write(node, vps, "/etc/app.conf", "small")
        restart(node, vps)
        in_guest(node, vps, "dd if=/dev/zero of=/etc/app.conf bs=1M count=20 2>/dev/null")
        restart(node, vps)
        assert in_guest(node, vps, "cat /etc/app.conf") == "small"
        assert "larger than 16 MiB" in history(node, vps), history(node, vps)
        # A record that makes no sense keeps nothing either.
        in_guest(node, vps, "for f in /persistent/var/lib/mayfly/placed/*; do echo nonsense > $f; done; echo x > /etc/app.conf")
        restart(node, vps)
        assert in_guest(node, vps, "cat /etc/app.conf") == "small"


def test_links_and_owners_are_copied_as_they_are(node):
    with template(node, "copies", DECLARED) as name, node.vps(name, wait=False) as vps:
        declare(node, vps, COPY.replace("]\n", ', { file = "/etc/link", method = "copy" }]\n', 2).replace(
            '["/persistent", { file = "/etc/link", method = "copy" }]', '["/persistent"]'))
        restart(node, vps)
        in_guest(node, vps, "echo x > /etc/app.conf; chmod 640 /etc/app.conf; chown 1000:50 /etc/app.conf; ln -s /nowhere/at/all /etc/link")
        restart(node, vps)
        seen = in_guest(node, vps, "stat -c '%u %g %a' /etc/app.conf; readlink /etc/link")
        assert seen == "1000 50 640\n/nowhere/at/all", seen
