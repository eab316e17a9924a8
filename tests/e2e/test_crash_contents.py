"""The daemon killed while contents change places, come back, or are given up."""
from persist import in_guest, template
from test_alive import edit_document
from test_crash import CUT_VERBS, cut, cut_while, driver_points, each, step_points
from truth import assert_no_orphans, operations_over

# What is cut here; every kind of step is cut at every place in the engine's own tests.
KINDS = ("step.create_dataset", "step.exchange", "step.record", "step.bury_data")
# ZFS alone has a moment at which one of the two is out of the way: it is cut in zfs_crash.rs.
EXCHANGE = [p for p in driver_points() if p.startswith("exchange.") and p != "exchange.after_first"]


def of(points):
    return [p for p in points if p.startswith(KINDS)]


def test_a_reinstall_killed_anywhere_is_finished(node):
    """I, R9: there and back; what lies below the root dataset stays where it is."""
    with template(node, "whole", impermanence=False) as name, node.vps(name, "--disk", "256M", start=False) as vps:
        node.run("dataset", "set", vps, "quota=128M")
        node.run("dataset", "create", f"{vps}/data", "--quota", "64M", "--mount", "/srv/data")
        node.run("start", vps)
        in_guest(node, vps, "echo old > /kept; echo stays > /srv/data/kept; sync")
        verb = ["reinstall", vps, "--template", name, "--yes"]
        back = ["reinstall", vps, "--undo", "--yes"]

        def has(kept):
            shown = node.show(vps)
            assert shown["state"] == "running", shown
            got = in_guest(node, vps, "cat /kept 2>/dev/null; cat /srv/data/kept").split()
            assert got == [*kept, "stays"], got
            assert_no_orphans(node)

        def there(point):
            cut(node, point, *verb)
            has([])
            node.run(*back)
            has(["old"])

        each([*of(step_points(node, *verb)), *EXCHANGE], there)

        def undo(point):
            if not node.show(vps)["replaced"]:
                node.run(*verb)
            cut_while(node, point, "reinstall undo", lambda: node.run(*back, "--no-wait", check=False))
            has(["old"])
            assert node.show(vps)["replaced"] == []

        node.run(*verb)
        each(of(step_points(node, *back)), undo)

        def forget(point):
            for _ in range(2 - len(node.show(vps)["replaced"])):
                node.run(*verb)
            cut_while(node, point, "reinstall forget", lambda: node.run(*up, "--no-wait", check=False))
            has([])
            assert node.show(vps)["replaced"] == []

        for _ in range(2):
            node.run(*verb)
        up = ["reinstall", vps, "--forget", "--yes"]
        each(of(step_points(node, *up)), forget)

        def expiry(point):
            if not node.show(vps)["replaced"]:
                node.run(*verb)
            node.end_daemon()
            edit_document(node, vps, lambda document: document["replaced"][0].update(kept_ms=7 * 24 * 3600 * 1000))
            # It is seen to when the daemon starts, before anybody asks for anything.
            node.serve(crash_at=point, wait=False)
            node.wait_daemon_died()
            CUT_VERBS.add("reinstall expiry")
            node.serve()
            operations_over(node)
            has([])
            assert node.show(vps)["replaced"] == []

        each(["step.record#1", "step.record.done#1", "step.bury_data#1", "step.bury_data.done#1"], expiry)
