"""C2, C3: a persistent VPS made impermanent by one command, and back; its data is the same all the while."""
import re

from harness import wait_for
from nixos import PROFILE, at, check_df, inside, ordinary, user_data
from persist import fates
from truth import assert_no_orphans

# It fails in a system whose root is temporary, and nowhere else.
ILL = """[Unit]
Description=Ill where nothing stays
[Service]
Type=oneshot
ExecStart=/bin/sh -c '! grep -q impermanence- /run/mayfly/boot.json'
[Install]
WantedBy=multi-user.target
"""


def plant(node, vps):
    """What a user has: files with owners, links, holes, and their hash."""
    inside(node, vps, "mkdir -p /home/me; echo dear > /home/me/file; head -c 300000 /dev/urandom > /home/me/blob;"
                      "truncate -s 40M /home/me/hole; ln -s file /home/me/link; ln /home/me/file /home/me/hard;"
                      "chown -R 1000:100 /home/me; chmod 700 /home/me; sync")
    return user_data(node, vps, "/")


def assert_temporary(node, vps):
    root = at(node, vps, "/")
    assert re.fullmatch(rf"{vps}\.impermanence-[0-9a-f]{{6}}", root), root
    return root


def test_a_nixos_by_one_command_and_back(node):
    """The page's eight steps in one: /nix in a dataset, the root dataset at /persistent, a new `/` at each start."""
    with ordinary(node, "nixos-convert") as template, node.vps(template, "--disk", "40G") as vps:
        dear = plant(node, vps)
        store = inside(node, vps, "cd /nix && find . -type f | sort | xargs sha256sum | sha256sum; readlink " + PROFILE)
        planned = node.run("impermanence", "convert", vps, "--dry-run").stdout
        assert "copy /nix of" in planned and at(node, vps, "/") == str(vps), planned

        said = node.run("impermanence", "convert", vps, timeout=600).stdout
        copied = re.search(r"/nix of \d+: (\S+) were copied to \d+/nix, (\S+) are shared", said)
        assert copied and copied.group(1) != "0", said
        print(f"  {copied.group(0)}", flush=True)
        roots = set()
        for _ in range(2):
            root = assert_temporary(node, vps)
            assert root not in roots
            roots.add(root)
            assert [at(node, vps, path) for path in ("/nix", "/persistent")] == [f"{vps}/nix", str(vps)]
            assert user_data(node, vps, "/persistent") == dear
            assert inside(node, vps, "ls /home 2>/dev/null; true") == ""
            again = inside(node, vps, "cd /nix && find . -type f | sort | xargs sha256sum | sha256sum; readlink " + PROFILE)
            assert again == store
            check_df(node, vps, root)
            node.run("restart", vps)
            node.wait_running(vps)
        # It moved: the root dataset has it no more, and neither has the guest.
        assert inside(node, vps, "ls -A /persistent/nix 2>/dev/null; true") == ""
        wait_for("what was copied is gone where it was", lambda: not node.show(vps)["converted"]["rest"], 60)
        with node.pool() as pool:
            wait_for("nothing lies beside the tree", lambda: not [p for p in (pool / str(vps)).iterdir() if p.name.startswith((".taken", ".dropped"))], 30)

        node.run("impermanence", "revert", vps, timeout=300)
        assert [at(node, vps, path) for path in ("/", "/nix", "/persistent")] == [str(vps), f"{vps}/nix", str(vps)]
        assert user_data(node, vps, "/") == user_data(node, vps, "/persistent") == dear
        assert node.show(vps)["impermanence"] is None
        node.refused("vps.not_convertible", "impermanence", "revert", vps)
        wait_for("the roots are gone", lambda: not node.temporary_roots(vps) and not node.graves(), 60)
        assert_no_orphans(node)


def test_a_debian_by_one_command_and_back(node):
    """Its present root becomes the base; users, homes, logs and keys stay, and so does what --keep names."""
    with node.vps("debian-12", "--disk", "4G") as vps:
        dear = plant(node, vps)
        inside(node, vps, "useradd -m -s /bin/bash anna; echo hers > /home/anna/file; echo mine > /root/file;"
                          "mkdir -p /var/lib/app /opt/app; echo state > /var/lib/app/state; echo prog > /opt/app/prog; sync")
        before = inside(node, vps, "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub; id anna; getcap /usr/bin/ping 2>/dev/null;"
                                   "stat -c '%a %u %g %n' /usr/bin/su /tmp /root /etc/shadow")
        document = {k: v for k, v in node.show(vps).items() if k not in ("run", "pid", "state", "storage_used", "datasets")}

        node.run("impermanence", "convert", vps, "--keep", "/var/lib/app", "--root-quota", "2G", timeout=600)
        shown = node.show(vps)
        assert shown["impermanence"]["root_kind"] == "template", shown
        root = assert_temporary(node, vps)
        states = fates(node, vps)
        assert all(fate in ("applied", "already") for fate, _ in states.values()), states
        facts = ("cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub; id anna; getcap /usr/bin/ping 2>/dev/null;"
                 "stat -c '%a %u %g %n' /usr/bin/su /tmp /root /etc/shadow")
        assert inside(node, vps, facts) == before
        assert user_data(node, vps, "/") == user_data(node, vps, "/persistent") == dear
        # A program of its own, made before, is part of the base; what comes later and is not declared goes.
        assert inside(node, vps, "cat /opt/app/prog /var/lib/app/state /root/file /home/anna/file").split() == ["prog", "state", "mine", "hers"]
        inside(node, vps, "useradd -m berta; echo later > /opt/app/later; echo newer > /var/lib/app/state; echo more > /home/me/more; sync")
        node.run("restart", vps)
        node.wait_running(vps)
        assert assert_temporary(node, vps) != root
        assert inside(node, vps, "cat /opt/app/later 2>/dev/null; cat /var/lib/app/state; cat /home/me/more").split() == ["newer", "more"]
        assert "berta" in inside(node, vps, "id berta; ls -d /home/berta")
        dear = user_data(node, vps, "/")

        # Its base is its own: no template's takes its place.
        node.refused("template.unfit", "set", vps, "base=debian-12")
        node.refused("template.unfit", "reinstall", vps, "--template", "debian-12", "--scope", "os", "--yes")

        node.run("impermanence", "revert", vps, timeout=300)
        assert at(node, vps, "/") == str(vps) and at(node, vps, "/persistent") is None
        assert inside(node, vps, facts) == before
        assert user_data(node, vps, "/") == dear
        assert "berta" in inside(node, vps, "id berta; cat /var/lib/app/state") and "newer" in inside(node, vps, "cat /var/lib/app/state")
        now = {k: v for k, v in node.show(vps).items() if k in document}
        assert now == document, (now, document)
        wait_for("its base is gone", lambda: not [n for n in node.in_pool() if ".base-" in n] and not node.graves(), 60)
        assert_no_orphans(node)


def test_one_that_gets_worse_is_put_back(node):
    """A unit that fails in the converted system alone: the VPS is as before, and runs."""
    with node.vps("debian-12", "--disk", "4G") as vps:
        dear = plant(node, vps)
        node.exec(vps, "sh", "-c", f"cat > /etc/systemd/system/ill.service <<'END'\n{ILL}END\nsystemctl daemon-reload; systemctl enable --now ill")
        before, pool = node.show(vps), sorted(n for n in node.in_pool() if n.startswith(str(vps)))
        refusal = node.refused("vps.unhealthy", "impermanence", "convert", vps)
        assert "ill.service" in refusal.message, refusal.message
        node.wait_running(vps)
        after = node.show(vps)
        for field in ("impermanence", "mounts", "storage", "base", "template"):
            assert after[field] == before[field], field
        assert at(node, vps, "/") == str(vps) and user_data(node, vps, "/") == dear
        wait_for("nothing is left", lambda: sorted(n for n in node.in_pool() if n.startswith(str(vps))) == pool and not node.graves(), 60)
        inside(node, vps, "systemctl disable --now ill; systemctl reset-failed")
        # What was to stay and cannot is as bad: it would be gone at the next start.
        refusal = node.refused("vps.unhealthy", "impermanence", "convert", vps, "--keep", "/etc/debian_version")
        assert "/etc/debian_version" in refusal.message, refusal.message
        node.wait_running(vps)
        assert at(node, vps, "/") == str(vps) and user_data(node, vps, "/") == dear
        # One that had failed before may fail again.
        node.exec(vps, "sh", "-c", "sed -i 's/^ExecStart=.*/ExecStart=false/' /etc/systemd/system/ill.service; systemctl daemon-reload;"
                                   "systemctl enable ill; systemctl restart ill; true")
        node.run("impermanence", "convert", vps, timeout=600)
        assert_temporary(node, vps)
        node.run("impermanence", "revert", vps, timeout=300)
        assert user_data(node, vps, "/") == dear


def test_all_reasons_against_a_conversion(node):
    """Said at once, before anything is halted."""
    with node.vps("debian-12", "--disk", "1G") as vps:
        refusal = node.refused("vps.not_convertible", "impermanence", "convert", vps, "--keep", "/proc/x", "--keep", "/persistent/y",
                               "--root-quota", "1M", "--root-kind", "empty")
        for why in ("/proc/x cannot stay", "/persistent/y stays anyway", "root quota of 1M", "no system at /nix"):
            assert why in refusal.message, (why, refusal.message)
        assert at(node, vps, "/") == str(vps)
        node.run("stop", vps)
        assert "does not run" in node.refused("vps.not_convertible", "impermanence", "convert", vps).message
        assert node.refused("vps.not_convertible", "impermanence", "revert", vps).hint


def test_a_disk_too_small_puts_all_back(node):
    """The copy of a Nix store does not fit: said, and as before."""
    with ordinary(node, "nixos-tight") as template, node.vps(template, "--disk", "24G") as vps:
        dear = plant(node, vps)
        refusal = node.refused("dataset.disk_space", "impermanence", "convert", vps, "--nix-quota", "64M")
        assert f"{vps}/nix" in refusal.message, refusal.message
        node.wait_running(vps)
        assert at(node, vps, "/") == str(vps) and user_data(node, vps, "/") == dear
        assert [d["name"] for d in node.show(vps)["datasets"]] == [""]
        wait_for("nothing is left", lambda: f"{vps}/nix" not in node.in_pool() and not node.graves(), 60)
