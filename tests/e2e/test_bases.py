"""R5: bases that stay, bases that follow their template, and templates that somebody needs."""
import images
from harness import wait_for
from test_import import imported, in_pool, scratch


def archives(top):
    """Two releases of one system."""
    return [images.tar(images.tree(top / f"tree{n}", release=str(n)), top / f"{n}.tar") for n in (1, 2)]


def release(node, vps):
    return node.exec(vps, "sed", "-n", "s/VERSION_ID=//p", "/etc/os-release").strip('"')


def contents(digest):
    return f"templates/{digest[:16]}"


def test_pinned_stays_and_latest_follows(node):
    with scratch(node) as top:
        first, second = archives(top)
        old = imported(node, "moving", first)["digest"]
        with node.vps("moving", "--impermanence", wait=False) as pinned, \
                node.vps("moving", "--impermanence", wait=False) as follows:
            node.run("set", follows, "track=latest")
            node.refused("template.exists", "template", "import", "moving", str(second))
            new = imported(node, "moving", second, "--replace")["digest"]
            assert old != new and node.show(follows)["run"]["base"] == old
            for vps in (pinned, follows):
                node.run("restart", vps, "--force")
            assert (release(node, pinned), release(node, follows)) == ("1", "2")
            shown = node.show(follows)
            assert (shown["base"], shown["run"]["base"]) == ({"template": new, "track": "latest", "own": None}, new)
            assert contents(old) in in_pool(node)
            # The pinned one is moved by hand, at its next start; what it had stays until its last root is given up.
            node.run("set", pinned, "base=moving")
            assert release(node, pinned) == "1"
            node.run("stop", pinned, "--force")
            assert node.show(pinned)["last_root_base"] == old
            node.run("set", pinned, "memory=1G")
            assert contents(old) in in_pool(node)
            node.run("start", pinned)
            assert release(node, pinned) == "2"
            wait_for("what nothing needs is destroyed", lambda: contents(old) not in in_pool(node) and not node.graves())
            refused = node.refused("template.in_use", "template", "remove", "moving")
            assert f"VPS {follows}" in refused.message, refused.message
        node.run("template", "remove", "moving")


def test_a_base_that_does_not_fit_is_refused(node):
    with scratch(node) as top:
        first, _ = archives(top)
        imported(node, "moving", first)
        with node.vps("moving", "--impermanence", start=False) as vps:
            before = node.show(vps)
            for template in ("debian-12", "nixos-shaped"):
                node.ensure_template(template)
                node.refused("template.unfit", "set", vps, f"base={template}")
            node.refused("template.not_found", "set", vps, "base=nowhere")
            assert node.show(vps)["base"] == before["base"]
        with node.vps("moving", start=False) as vps:
            refused = node.refused("template.unfit", "set", vps, "track=latest")
            assert "impermanence=on" in refused.hint
        node.run("template", "remove", "moving")
