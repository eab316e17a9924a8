"""X: another system boots with the VPS's datasets in reach, and nothing of the VPS is given up for it."""
import re

from harness import Refused, wait_for
from persist import in_guest, report, storage, template, write
from truth import tree_hash

DECLARED = """
[manifest.layout.persistence."/persistent"]
directories = ["/srv/kept"]
files = [{ file = "/etc/app.conf", method = "copy" }, { file = "/etc/linked", method = "symlink" }]
"""


def rescue_roots(node, vps):
    return [name for name in node.in_pool() if re.fullmatch(rf"{vps}\.rescue-[0-9a-f]{{6}}", name)]


def test_a_rescue_system_has_the_datasets_in_reach(node):
    """X1, X2: a root of its own, the root dataset at /mnt/vps and nowhere else; the prompt and the motd say so."""
    node.ensure_template("debian-12")
    with node.vps("debian-12-impermanence", "web") as vps:
        node.run("stop", vps)
        node.run("dataset", "set", vps, "quota=600M")
        node.run("dataset", "create", f"{vps}/data", "--quota", "100M", "--mount", "/srv/data")
        node.run("start", vps)
        node.wait_running(vps)
        in_guest(node, vps, "echo kept > /persistent/kept; echo data > /srv/data/kept; echo gone > /gone")
        own = node.show(vps)["run"]["root"]
        limits = node.show(vps)["limits"]
        said = node.run("rescue", vps, "--template", "debian-12").stdout
        assert f"{vps} is at /mnt/vps" in said and f"{vps}/data is at /srv/data" in said, said
        node.wait_running(vps)
        shown = node.show(vps)
        assert rescue_roots(node, vps) == [shown["run"]["root"]], shown["run"]
        assert shown["last_root"] == own and own in node.in_pool(), "the last root stays"
        assert shown["limits"] == limits
        assert in_guest(node, vps, "cat /mnt/vps/kept /srv/data/kept; ls /gone 2>&1; ls -d /persistent 2>&1; hostname; hostname -I") \
            .splitlines()[:2] == ["kept", "data"]
        mounts = in_guest(node, vps, "cat /proc/self/mountinfo")
        assert len(re.findall(r" /\S*private /(?:mnt/vps|persistent) ", mounts)) <= 1 and " /persistent " not in mounts, mounts
        assert "rescue system" in in_guest(node, vps, "cat /etc/motd")
        assert in_guest(node, vps, "bash -ic 'echo \"${debian_chroot}\"' 2>/dev/null") == "rescue"
        assert "rescue" in node.run("show", vps).stdout
        # The guest mends something, and leaves by rebooting.
        in_guest(node, vps, "echo mended > /mnt/vps/kept; (sleep 0.2; reboot) > /dev/null 2>&1 &")
        run = shown["run"]["id"]
        wait_for("its own system runs again", lambda: (now := node.show(vps)["run"]) and now["id"] != run and now["init_pid"])
        node.wait_running(vps)
        now = node.show(vps)
        assert now["run"]["rescue"] is None and now["run"]["root"].startswith(f"{vps}.impermanence-")
        assert in_guest(node, vps, "cat /persistent/kept") == "mended"
        wait_for("both old roots are gone", lambda: node.temporary_roots(vps) == [now["run"]["root"]]
                 and not rescue_roots(node, vps) and not node.graves())


def test_declarations_are_not_applied_in_rescue(node):
    """P9: a hash of the storage says that nothing was changed, and boot.json says why nothing was done."""
    with template(node, "plain") as name, template(node, "declares", DECLARED) as declares, \
            node.vps(declares, wait=False) as vps:
        write(node, vps, "/etc/app.conf", "mine")
        in_guest(node, vps, "echo linked > /etc/linked; echo kept > /srv/kept/file")
        node.run("stop", vps)
        before = tree_hash(storage(node, vps), times=True)
        for words in ((), ("--no-root",), ("--root-at", "/srv")):
            node.run("rescue", vps, "--template", name, *words)
            told = report(node, vps)
            assert told["state"] == "inactive" and "rescue" in told["why"], told
            assert told["declarations"] == []
            node.run("stop", vps)
            assert tree_hash(storage(node, vps), times=True) == before, words
        node.run("start", vps)
        assert in_guest(node, vps, "cat /etc/app.conf /etc/linked /srv/kept/file") == "mine\nlinked\nkept".replace("mine\n", "mine")


def test_a_vps_that_does_not_boot_or_is_full_can_be_rescued(node):
    with template(node, "plain") as name, template(node, "copies", DECLARED) as copies, \
            node.vps(copies, "--disk", "300M", wait=False) as vps:
        node.run("dataset", "set", vps, "quota=64M")
        in_guest(node, vps, "dd if=/dev/urandom of=/persistent/fill bs=64k 2>/dev/null; sync;"
                            "dd if=/dev/urandom of=/etc/app.conf bs=1M count=8 2>/dev/null")
        digest = in_guest(node, vps, "sha256sum < /etc/app.conf")
        node.run("stop", vps)
        try:
            node.json("start", vps)
            raise AssertionError("it started although its storage is full")
        except Refused as refused:
            assert refused.code == "root.harvest_failed", refused
        node.run("rescue", vps, "--template", name)
        in_guest(node, vps, "rm /mnt/vps/fill; sync")
        node.run("restart", vps)
        assert in_guest(node, vps, "sha256sum < /etc/app.conf") == digest


def test_what_cannot_be_a_rescue_system_is_refused(node):
    with template(node, "plain") as name, node.vps(name, wait=False) as vps:
        run = node.show(vps)["run"]
        for code, *words in (("template.not_found", "--template", "absent"),
                             ("mount.refused", "--template", name, "--root-at", "/usr"),
                             ("mount.refused", "--template", name, "--root-at", "/proc/x")):
            node.refused(code, "rescue", vps, *words)
        assert node.show(vps)["run"] == run


def test_a_system_that_lies_in_a_dataset_rescues_too(node):
    """X3: a clone of its /nix comes along and goes with the root; the VPS's own /nix is out of its way, and the answer says so."""
    with node.vps("nixos-shaped", "--disk", "40G", wait=False) as vps:
        in_guest(node, vps, "echo mine > /nix/mine; echo kept > /persistent/kept; sync")
        node.run("dataset", "set", vps, "quota=10G")
        said = node.run("rescue", vps, "--template", "nixos-shaped").stdout
        assert "usually at /nix would hide the rescue system" in said and f"{vps}/nix is at /mnt/vps/nix" in said, said
        node.wait_running(vps)
        root, = rescue_roots(node, vps)
        with open(f"/proc/{node.show(vps)['run']['init_pid']}/mountinfo") as table:
            shown = {line.split(" ")[4]: node.backend.shown(line) for line in table if node.backend.shown(line) is not None}
        wanted = {"/": f"{root}/private", "/nix": f"{root}/nix/private", "/mnt/vps": f"{vps}/private",
                  "/mnt/vps/nix": f"{vps}/nix/private"}
        assert {at: shown.get(at) for at in wanted} == wanted, shown
        assert in_guest(node, vps, "cat /mnt/vps/nix/mine /mnt/vps/kept; ls /nix/mine 2>&1; true").splitlines()[:2] == ["mine", "kept"]
        # A dataset that is made now, where it would hide the store, is told as well.
        said = node.run("dataset", "create", f"{vps}/more", "--quota", "1G", "--mount", "/nix/more").stdout
        assert "/mnt/vps/nix/more" in said, said
        node.restart_daemon()
        in_guest(node, vps, "echo gone > /nix/gone; test -e /nix/gone")
        assert rescue_roots(node, vps) == [root], "what lives is nobody's leftover"
        assert node.run("fsck").returncode == 0
        node.run("mount", "remove", vps, "/nix/more")
        node.run("restart", vps)
        node.wait_running(vps)
        assert in_guest(node, vps, "cat /nix/mine /persistent/kept; ls /nix/gone 2>&1; true").splitlines()[:2] == ["mine", "kept"]
        wait_for("the rescue root is gone with all that was in it", lambda: not rescue_roots(node, vps) and not node.graves(), 60)
