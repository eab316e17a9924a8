"""The feature `impermanence`, on and off."""
from harness import wait_for


def test_impermanence_goes_on_and_off_on_a_running_debian(node):
    """R11: it is restarted into a temporary root, its own root dataset stays as it was; off boots that again."""
    with node.vps("debian-12", "plain") as vps:
        node.exec(vps, "sh", "-c", "echo mine > /mine; sync")
        run = node.show(vps)["run"]
        assert run["root"] == str(vps) and node.temporary_roots(vps) == []

        node.run("feature", "set", vps, "impermanence=on", "--root-quota", "1G")
        node.wait_running(vps)
        shown = node.show(vps)
        assert shown["run"]["id"] != run["id"] and node.temporary_roots(vps) == [shown["run"]["root"]]
        assert shown["impermanence"] == {"root_quota_bytes": 1 << 30, "root_kind": "template"}
        assert node.exec(vps, "ls", "/mine", check=False).returncode == 2
        with node.pool() as pool:
            assert (pool / str(vps) / "private/mine").read_text() == "mine\n"
        # Said again it changes nothing: the same run goes on.
        node.run("feature", "set", vps, "impermanence=on")
        assert node.show(vps)["run"] == shown["run"]

        node.run("feature", "set", vps, "impermanence=off")
        node.wait_running(vps)
        assert node.show(vps)["run"]["root"] == str(vps)
        assert node.exec(vps, "cat", "/mine") == "mine"
        wait_for("no temporary root is left", lambda: node.temporary_roots(vps) == [] and not node.graves())


def test_impermanence_of_a_stopped_vps_leaves_it_stopped(node):
    """R11: the next start has a temporary root."""
    with node.vps("debian-12", start=False) as vps:
        node.run("feature", "set", vps, "impermanence=on")
        shown = node.show(vps)
        assert (shown["state"], shown["desired"], shown["run"]) == ("stopped", "stopped", None)
        assert node.nothing_alive(vps) and node.temporary_roots(vps) == []
        node.run("start", vps)
        assert node.temporary_roots(vps) == [node.show(vps)["run"]["root"]]
        node.run("stop", vps, "--force")
        node.run("feature", "set", vps, "impermanence=off")
        assert node.show(vps)["state"] == "stopped" and node.nothing_alive(vps)
        node.run("start", vps)
        assert node.show(vps)["run"]["root"] == str(vps)


def test_a_feature_that_is_not_there_is_refused(node):
    """F1, E1: unavailable, said so, nothing changed."""
    with node.vps("debian-12", start=False) as vps:
        before = node.show(vps)
        for feature in ("nesting", "tun", "fuse", "kvm", "ppp"):
            node.refused("feature.unavailable", "feature", "set", vps, f"{feature}=on")
        node.refused("feature.unavailable", "feature", "set", vps, "impermanence=on", "kvm=on")
        node.refused("input.invalid", "feature", "set", vps, "impermanence=on", "--root-quota", "1M")
        assert node.show(vps) == before
