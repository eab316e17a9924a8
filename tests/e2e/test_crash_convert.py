"""The daemon killed while a VPS is converted, while what is left of that is done, and while it is reverted."""
import contextlib
import shutil

import images
from harness import wait_for
from persist import in_guest, manifest
from test_crash import CUT_VERBS, cut, each, step_points
from truth import assert_no_orphans, operations_over

# What is cut here; every kind of step is cut at every place in the engine's own tests.
KINDS = ("step.create_dataset", "step.set_quota", "step.copy_tree", "step.take_out", "step.record", "step.await_health", "step.bury_data")
# A system in a store that makes of an empty root what the tests need, and says that it is well.
INIT = """#!/nix/store/s/bin/busybox sh
/nix/store/s/bin/busybox mkdir -p /run/current-system/sw
/nix/store/s/bin/busybox ln -sfn /nix/store/s/bin /run/current-system/sw/bin
export PATH=/nix/store/s/bin
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done
"""


@contextlib.contextmanager
def template(node, name, is_nixos):
    """A persistent system that is up at once and whose `systemctl` has nothing to tell."""
    top = node.dir / f"image-{name}"
    top.mkdir()
    try:
        tree = images.tree(top / "tree")
        places = {tree / "bin": "/bin"}
        if is_nixos:
            store = tree / "nix/store/s"
            shutil.copytree(tree / "bin", store / "bin", symlinks=True)
            (store / "init").write_text(INIT)
            (store / "init").chmod(0o755)
            (tree / "nix/var/nix/profiles").mkdir(parents=True)
            (tree / "nix/var/nix/profiles/system").symlink_to("/nix/store/s")
            places[store / "bin"] = "/nix/store/s/bin"
        for place, path in places.items():
            # It says nothing, and that nothing failed.
            (place / "systemctl").write_text(f"#!{path}/busybox sh\nexit 0\n")
            (place / "systemctl").chmod(0o755)
        text = top / "manifest.toml"
        text.write_text(manifest(impermanence=False))
        node.run("template", "import", name, images.tar(tree, top / "tree.tar"), text)
        shutil.rmtree(top)
        yield name
    finally:
        node.run("template", "remove", name, check=False)
        shutil.rmtree(top, ignore_errors=True)


def of(points):
    return [p for p in points if p.startswith(KINDS)]


def check(node, vps, converted):
    shown = node.show(vps)
    assert shown["state"] == "running" and (shown["impermanence"] is not None) == converted, shown
    assert in_guest(node, vps, f"cat {'/persistent' if converted else ''}/srv/kept") == "dear"
    assert_no_orphans(node)


def killed(node, name, is_nixos):
    options = ["--disk", "512M"]
    with node.vps(name, *options, wait=False) as vps:
        verb = ["impermanence", "convert", vps, *(["--nix-quota", "64M"] if is_nixos else [])]
        points = of(step_points(node, *verb))
        node.run(*verb)
        wait_for("nothing is left of it", lambda: not node.show(vps)["converted"]["rest"], 30)
        back = of(step_points(node, "impermanence", "revert", vps))

    def there(point):
        with node.vps(name, *options, wait=False) as vps:
            in_guest(node, vps, "mkdir -p /srv; printf dear > /srv/kept; sync")
            cut(node, point, "impermanence", "convert", vps, *verb[3:])
            check(node, vps, True)
            node.run("restart", vps)
            check(node, vps, True)

    each(points, there)

    def away(point):
        with node.vps(name, *options, wait=False) as vps:
            in_guest(node, vps, "mkdir -p /srv; printf dear > /srv/kept; sync")
            node.run("impermanence", "convert", vps, *verb[3:])
            wait_for("nothing is left of it", lambda: not node.show(vps)["converted"]["rest"], 30)
            cut(node, point, "impermanence", "revert", vps)
            check(node, vps, False)

    each(back, away)


def test_a_conversion_of_a_nixos_killed_anywhere_is_finished(node):
    """C2, C3, R9; what is left for afterwards, too."""
    with template(node, "store", True) as name:
        killed(node, name, True)

        def rest(point):
            with node.vps(name, "--disk", "512M", wait=False) as vps:
                in_guest(node, vps, "mkdir -p /srv; printf dear > /srv/kept; sync")
                node.end_daemon()
                # The first steps of these kinds are the conversion's own.
                node.serve(crash_at=point)
                node.run("impermanence", "convert", vps, "--nix-quota", "64M", check=False)
                node.wait_daemon_died()
                CUT_VERBS.add("impermanence rest")
                node.serve()
                operations_over(node)
                wait_for("nothing is left of it", lambda: not node.show(vps)["converted"]["rest"], 30)
                check(node, vps, True)

        each(["step.take_out#2", "step.take_out.done#2"], rest)


def test_a_conversion_of_another_system_killed_anywhere_is_finished(node):
    """C2, C3, R9."""
    with template(node, "plain", False) as name:
        killed(node, name, False)
