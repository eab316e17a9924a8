"""The daemon killed at every point of what takes copies back, boots a rescue system or changes declarations; and at last,
whether any point was forgotten."""
from harness import wait_for
from persist import in_guest, stored, template, write
from test_crash import CUT, CUT_VERBS, cut, cut_while, driver_points, each, step_kinds, step_points, verbs
from test_persist_copies import DECLARED, owed
from truth import assert_no_orphans, kill, operations_over


class Versions:
    """A VPS with a copy, whose versions are numbered."""

    def __init__(self, node, vps):
        self.node, self.vps, self.count = node, vps, 0

    def write(self):
        """A new one, in a VPS that runs."""
        if self.node.show(self.vps)["state"] == "stopped":
            self.node.run("start", self.vps)
        self.count += 1
        write(self.node, self.vps, "/etc/app.conf", f"version {self.count}")

    def assert_stored(self):
        assert_no_orphans(self.node)
        assert stored(self.node, self.vps, "/etc/app.conf") == f"version {self.count}"
        assert not owed(self.node, self.vps) or self.node.show(self.vps)["state"] == "running"


def test_a_harvest_killed_anywhere_loses_nothing(node):
    """P4, R9: restart, and stop with and without discarding the root: what was written last is stored."""
    with template(node, "copies", DECLARED) as name, node.vps(name, wait=False) as vps:
        versions = Versions(node, vps)
        for verb in (["restart", vps], ["stop", vps], ["stop", vps, "--discard"]):

            def once(point):
                versions.write()
                cut(node, point, *verb)
                versions.assert_stored()
                if verb[0] == "restart":
                    assert in_guest(node, vps, "cat /etc/app.conf") == f"version {versions.count}"

            versions.write()
            points = step_points(node, *verb)
            assert "step.harvest#1" in points, points
            each(points, once)


def test_the_end_of_a_run_killed_anywhere_loses_no_copy(node):
    """P4, R6: its init was killed after what it wrote had settled; the daemon dies while it takes that back."""
    with template(node, "copies", DECLARED) as name, node.vps(name, wait=False) as vps:
        versions = Versions(node, vps)
        for point in ("step.end_run#1", "step.record.done#1", "step.harvest#1", "step.harvest.done#1"):
            # Three crashes in five minutes would leave it stopped.
            node.run("stop", vps, check=False)
            node.run("start", vps)
            versions.write()
            wait_for("it has settled", lambda: stored(node, vps, "/etc/app.conf") == f"version {versions.count}")
            before = node.show(vps)["run"]
            node.run("set", vps, "on-crash=stop")
            cut_while(node, point, "run ended", lambda: kill(before["init_pid"]))
            node.wait_state(vps, "stopped")
            operations_over(node)
            node.run("start", vps)
            versions.assert_stored()
            assert in_guest(node, vps, "cat /etc/app.conf") == f"version {versions.count}"


def test_a_rescue_killed_anywhere_gives_nothing_up(node):
    """X, R9: into rescue from a VPS that runs, and out of it."""
    with template(node, "plain") as rescue, template(node, "copies", DECLARED) as name, node.vps(name, wait=False) as vps:
        versions = Versions(node, vps)
        verb = ["rescue", vps, "--template", rescue]

        def once(point):
            if (node.show(vps)["run"] or {}).get("rescue"):
                node.run("restart", vps)
            versions.write()
            own = node.show(vps)["run"]["root"]
            cut(node, point, *verb)
            versions.assert_stored()
            shown = node.show(vps)
            assert shown["run"]["rescue"] and shown["last_root"] == own, shown
            assert in_guest(node, vps, "cat /mnt/vps/etc/app.conf") == f"version {versions.count}"

        each(step_points(node, *verb), once)

        def out(point):
            if not (node.show(vps)["run"] or {}).get("rescue"):
                node.run(*verb)
            cut(node, point, "restart", vps)
            versions.assert_stored()
            assert node.show(vps)["run"]["rescue"] is None
            assert in_guest(node, vps, "cat /etc/app.conf") == f"version {versions.count}"

        node.run(*verb)
        each(step_points(node, "restart", vps), out)


def test_a_change_of_declarations_killed_anywhere_is_whole(node):
    """P1, E2: the file is the one before or the one after, and the change is finished."""
    with template(node, "copies", DECLARED) as name, node.vps(name, start=False) as vps:
        for change, other in ((["add"], ["remove"]), (["remove"], ["add"])):
            words = lambda of: ["persist", *of, vps, "/srv/data", *(["--directory"] if of == ["add"] else [])]

            def once(point):
                cut(node, point, *words(change))
                assert_no_orphans(node)
                text = stored(node, vps, "/etc/mayfly/persistence.toml") or ""
                assert ("/srv/data" in text) == (change == ["add"]), text
                node.run(*words(other))

            each(step_points(node, *words(change)), once)
            node.run(*words(change))


def test_no_point_was_forgotten(node):
    """Every point that the source names was cut by the tests above, or stands here with the reason."""
    reasons = {p: "in test_recover.py" for p in driver_points() if p.startswith("recover.")}
    # One call of the driver passes all of them, whatever asked for it.
    reasons |= {p: "in btrfs_crash.rs and zfs_crash.rs" for p in driver_points() if p.startswith(("copy.", "take_out."))}
    reasons["exchange.after_first"] = "of ZFS alone, in zfs_crash.rs"
    wanted = driver_points() + [f"step.{kind}{end}" for kind in step_kinds() for end in ("", ".done")]
    missing = [point for point in wanted if point not in CUT and point not in reasons]
    print(f"  {len(CUT)} different points were cut")
    assert not missing, f"never cut: {missing}"
    # One record each, as a setting is; the node of these tests has no network (test_network.py has a node that does).
    uncut = set(verbs()) - CUT_VERBS - {"port add", "port remove"}
    assert not uncut, f"operations that were never cut: {uncut}"
    assert not set(reasons) - set(wanted), "a reason for a point that is not there"
