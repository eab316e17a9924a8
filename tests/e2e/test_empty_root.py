"""NixOS-shaped VPSes: an empty root, and the system in a dataset."""
import json

from harness import wait_for
from truth import documents

SKELETON = {"boot", "dev", "etc", "proc", "run", "sbin", "sys", "var"}
MOUNT_POINTS = {"nix", "persistent"}
PROFILE = "/nix/var/nix/profiles/system"


def test_it_boots_from_an_empty_root_three_times(node):
    """R1, R4, T4: a root of its own each time, the same machine-id; findmnt shows what is mounted where."""
    with node.vps("nixos-shaped") as vps:
        roots, ids = [], []
        for _ in range(3):
            shown = node.show(vps)
            root = shown["run"]["root"]
            roots.append(root)
            ids.append(node.exec(vps, "cat", "/etc/machine-id"))
            table = node.exec(vps, "findmnt", "-rno", "TARGET,FSROOT", "/", "/nix", "/persistent", check=False).stdout
            for path, source in (("/", f"/{root}/private"), ("/nix", f"/{vps}/nix/private"), ("/persistent", f"/{vps}/private")):
                assert node.exec(vps, "findmnt", "-no", "FSROOT", path) == source, table
            boot = json.loads(node.exec(vps, "cat", "/run/mayfly/boot.json"))
            assert boot["root"] == {"dataset": root, "kind": "empty", "base": None,
                                    "birth_unix_ms": boot["root"]["birth_unix_ms"]}
            assert node.exec(vps, "readlink", "/sbin/init") == f"{PROFILE}/init"
            assert node.exec(vps, "ls", "/dirt", check=False).returncode == 2
            node.exec(vps, "sh", "-c", "echo dirt > /dirt; echo log >> /var/log/kept")
            node.run("restart", vps)
            node.wait_running(vps)
        assert len(set(roots)) == 3 and len(set(ids)) == 1 and len(ids[0]) == 32, (roots, ids)
        assert node.exec(vps, "cat", "/var/log/kept") == "log\nlog\nlog"
        assert node.temporary_roots(vps) == [node.show(vps)["run"]["root"]]


def test_the_skeleton_is_exactly_that_and_nothing_more(node):
    """R4: seen in the plan, and on the disk in a root whose start was cut off before the guest ran."""
    with node.vps("nixos-shaped", start=False) as vps:
        plan = node.json("start", vps, "--dry-run")["plan"]["steps"]
        trees = [s["step"] for s in plan if s["step"]["step"] == "prepare_tree"]
        root = next(t["tree"] for t in trees if ".impermanence-" in t["dataset"])
        assert {d.strip("/") for d in root["directories"]} == SKELETON | MOUNT_POINTS, root
        assert root["links"] == [["/sbin/init", f"{PROFILE}/init"]] and root["files"] == [], root
        made = next(s["step"]["new"] for s in plan if s["step"]["step"] == "create_dataset")
        assert made["origin"] == "empty", made

        node.end_daemon()
        node.serve(crash_at="step.launch")
        node.run("start", vps, check=False)
        node.wait_daemon_died()
        found = node.look_offline(f"find {vps}.impermanence-*/private -mindepth 1 -printf '%P %l\\n'").splitlines()
        wanted = {f"{d} " for d in SKELETON | MOUNT_POINTS} | {f"sbin/init {PROFILE}/init"}
        assert set(found) == wanted and len(found) == len(wanted), found
        node.serve()
        node.wait_running(vps)


def test_what_would_not_boot_is_refused_and_left_as_it_was(node):
    """R4, R11, E1, E2: nothing at /nix, a profile that leads nowhere, a root dataset without a system."""
    with node.vps("nixos-shaped", wait=False) as vps:
        run = node.show(vps)["run"]

        # The profile leads nowhere: seen through the datasets, as the guest would see it.
        node.exec(vps, "mv", f"{PROFILE}-1-link", f"{PROFILE}-2-link")
        refused = node.refused("vps.would_not_boot", "restart", vps)
        assert f"{PROFILE}-1-link" in refused.message and "deploy" in refused.hint, (refused.message, refused.hint)
        assert node.show(vps)["run"] == run, "it goes on as it was"
        assert node.temporary_roots(vps) == [run["root"]]
        # Links are followed inside the VPS: its profile may not lead to a program of the host.
        node.exec(vps, "sh", "-c", f"mkdir /nix/trap; ln -s /usr/bin/env /nix/trap/init; ln -s /nix/trap {PROFILE}-1-link")
        refused = node.refused("vps.would_not_boot", "restart", vps)
        assert "/usr" in refused.message, refused.message
        node.exec(vps, "mv", "-T", f"{PROFILE}-2-link", f"{PROFILE}-1-link")

        # Without impermanence it would boot from the root dataset, which holds no system.
        refused = node.refused("vps.would_not_boot", "feature", "set", vps, "impermanence=off")
        assert "root dataset" in refused.message and "holds data" in refused.hint, (refused.message, refused.hint)
        assert node.show(vps)["run"] == run and node.show(vps)["impermanence"]["root_kind"] == "empty"

        node.run("stop", vps)
        node.run("mount", "remove", vps, "/nix")
        wait_for("the graves are gone", lambda: not node.graves())
        before = documents(node)["vpses"][vps], node.in_pool()
        refused = node.refused("vps.would_not_boot", "start", vps)
        assert "/nix" in refused.message and "mount" in refused.hint, (refused.message, refused.hint)
        assert (documents(node)["vpses"][vps], node.in_pool()) == before
        refused = node.refused("vps.would_not_boot", "start", vps, "--dry-run")
        node.run("mount", "add", f"{vps}/nix", "/nix")
        node.run("start", vps)
        node.wait_running(vps)
        wait_for("one root", lambda: len(node.temporary_roots(vps)) == 1 and not node.graves())
