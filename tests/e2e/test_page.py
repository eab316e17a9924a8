"""C1, D5: the manual way to impermanence, step by step as the page tells it, on a VPS that begins as an ordinary one.

What the page has done by Nix (the new configuration, deployed with `nixos-rebuild boot`) is in the store of the fixture from
the start: its init binds what it keeps, whether there is a mount at /persistent or not.
"""
import re

from harness import wait_for
from nixos import at, check_df, inside, ordinary, user_data


def test_the_manual_steps_of_the_page(node):
    """Each is a command of its own, and after each the VPS is as the page says."""
    node.ensure_template("debian-12")
    with ordinary(node, "nixos-ordinary") as template, node.vps(template, "--disk", "40G") as vps:
        # An existing NixOS VPS, with things in it.
        assert at(node, vps, "/") == str(vps) and at(node, vps, "/nix") is None
        inside(node, vps, "mkdir -p /home/me; echo dear > /home/me/file; head -c 300000 /dev/urandom > /home/me/blob;"
                          "ln -s file /home/me/link; chown -R 1000:100 /home/me; chmod 700 /home/me; sync")
        dear = user_data(node, vps, "/")

        # Rescue mode, from a template that has no /nix.
        node.run("rescue", vps, "--template", "debian-12")
        node.wait_running(vps)
        run = node.show(vps)["run"]
        assert re.fullmatch(rf"{vps}\.rescue-[0-9a-f]{{6}}", at(node, vps, "/"))
        assert at(node, vps, "/mnt/vps") == str(vps) and at(node, vps, "/nix") is None
        assert inside(node, vps, "ls -d /nix 2>&1; true").count("No such file") == 1
        assert user_data(node, vps, "/mnt/vps") == dear

        # Some disk space is freed, and the subdataset is made while the rescue system runs.
        node.run("dataset", "set", vps, "quota=20G")
        said = node.run("dataset", "create", f"{vps}/nix", "--quota", "20G", "--mount", "/nix").stdout
        assert f"in this rescue system {vps}/nix is at /nix" in said, said
        assert at(node, vps, "/nix") == f"{vps}/nix" and node.show(vps)["run"]["id"] == run["id"]
        assert inside(node, vps, "ls -A /nix") == ""

        # The store moves.
        inside(node, vps, "mv /mnt/vps/nix/* /nix/")
        assert inside(node, vps, "ls -A /mnt/vps/nix; ls /nix").split() == ["store", "var"]
        assert user_data(node, vps, "/mnt/vps") == dear

        # The root dataset gets its second place; this rescue system has it at /mnt/vps already.
        said = node.run("mount", "add", vps, "/persistent").stdout
        assert "next start" in said, said
        assert at(node, vps, "/persistent") is None and at(node, vps, "/mnt/vps") == str(vps)

        # A restart leaves rescue mode: still a persistent system, now with both mounts.
        node.run("restart", vps)
        node.wait_running(vps)
        where = [at(node, vps, path) for path in ("/", "/nix", "/persistent")]
        assert where == [str(vps), f"{vps}/nix", str(vps)], where
        assert user_data(node, vps, "/") == user_data(node, vps, "/persistent") == dear
        # The new configuration is written, and is in storage at once because that is the root dataset.
        inside(node, vps, "echo '{ }' > /etc/nixos/flake.nix; sync")
        assert inside(node, vps, "cat /persistent/etc/nixos/flake.nix") == "{ }"
        machine = inside(node, vps, "cat /etc/machine-id")
        assert not [name for name in node.in_pool() if ".impermanence-" in name]

        # The feature is enabled: the VPS restarts into the configuration that waits for it.
        node.run("feature", "set", vps, "impermanence=on", "--root-kind", "empty")
        node.wait_running(vps)
        roots = set()
        for _ in range(2):
            root = at(node, vps, "/")
            assert re.fullmatch(rf"{vps}\.impermanence-[0-9a-f]{{6}}", root) and root not in roots, root
            roots.add(root)
            assert [at(node, vps, path) for path in ("/nix", "/persistent")] == [f"{vps}/nix", str(vps)]
            assert user_data(node, vps, "/persistent") == dear
            assert inside(node, vps, "cat /etc/machine-id; cat /etc/nixos/flake.nix; ls -A /home").split("\n") == [machine, "{ }"]
            check_df(node, vps, root)
            inside(node, vps, "echo dirt > /dirt")
            node.run("restart", vps)
            node.wait_running(vps)
            assert inside(node, vps, "ls /dirt 2>&1; true").count("No such file") == 1
        wait_for("the old roots are gone", lambda: len(node.temporary_roots(vps)) == 1 and not node.graves(), 60)
        assert not [name for name in node.in_pool() if ".rescue-" in name]
