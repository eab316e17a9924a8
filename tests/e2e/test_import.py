"""T1: archives that somebody else made become templates, whole or not at all."""
import contextlib
import hashlib
import json
import shutil

import images
from harness import sh, wait_for


@contextlib.contextmanager
def scratch(node):
    top = node.dir / "images"
    top.mkdir()
    try:
        yield top
    finally:
        shutil.rmtree(top)


def imported(node, name, *words):
    node.run("template", "import", name, *words)
    return node.json("template", "show", name)


def remove(node, *names):
    for name in names:
        node.run("template", "remove", name)


def in_pool(node):
    """The datasets of templates."""
    return {name for name in node.backend.datasets() if name.startswith("templates/")}


def attributes(pid, path):
    """Extended attributes as root of the guest sees them."""
    program = ("import json, os; p = %r; print(json.dumps({n: os.getxattr(p, n).hex() for n in os.listxattr(p)}))"
               % f"/proc/{pid}/root{path}")
    return json.loads(sh("nsenter", "-t", str(pid), "-U", "-S", "0", "-G", "0", "--", "python3", "-c", program).stdout)


def assert_boots(node, name, acl=True):
    """A VPS of it runs, shares nothing that is secret, and has what the tree had."""
    with node.vps(name, "--impermanence", wait=False) as vps:
        assert node.exec(vps, "cat", "/etc/os-release").startswith("ID=tiny")
        for path in images.SECRETS:
            if path != "etc/machine-id":
                assert node.exec(vps, "test", "-e", f"/{path}", check=False).returncode == 1, path
        assert node.exec(vps, "cat", "/etc/machine-id") == node.show(vps)["incarnation"]
        assert node.exec(vps, "cat", "/etc/strange\nname") == "strange"
        seen = attributes(node.show(vps)["run"]["init_pid"], "/usr/bin/capped")
        assert seen["security.capability"] == images.CAPABILITY.hex(), seen
        assert seen["user.kept"] == b"kept".hex(), seen
        # An access list is of file systems that have one; squashfs has none.
        assert ("system.posix_acl_access" in seen) == acl, seen


def test_every_kind_of_image_becomes_a_vps_that_boots(node):
    with scratch(node) as top:
        tree = images.tree(top / "tree")
        (top / "meta").mkdir()
        (top / "meta/metadata.yaml").write_text(images.METADATA)
        meta = images.tar(top / "meta", top / "meta.tar.xz", "--xz")
        rootfs = images.tar(tree, top / "rootfs.tar.xz", "--xz")
        squashed = images.squashfs(tree, top / "rootfs.squashfs")
        (top / "all").mkdir()
        shutil.copy(top / "meta/metadata.yaml", top / "all")
        sh("cp", "-a", str(tree), str(top / "all/rootfs"))
        kinds = {
            "plain": [images.tar(tree, top / "a.tar")],
            "gz": [images.tar(tree, top / "a.tar.gz", "--gzip")],
            "zst": [images.tar(tree, top / "a.tar.zst", "--zstd")],
            "squashfs": [squashed],
            "pair": [rootfs, meta],
            "pair-squashfs": [squashed, meta],
            "unified": [images.tar(top / "all", top / "all.tar.gz", "--gzip")],
        }
        for name, files in kinds.items():
            template = imported(node, name, *files)
            total = hashlib.sha256()
            for file in reversed(files):
                total.update(file.read_bytes())
            assert template["digest"] == total.hexdigest(), name
            manifest = template["manifest"]
            assert (manifest["distribution"], manifest["architecture"], manifest["root_kind"]) == ("tiny", "amd64", "template")
            assert_boots(node, name, acl="squashfs" not in name)
        remove(node, *kinds)
        wait_for("their contents are destroyed", lambda: not node.graves())


def no_squashfs():
    return None if shutil.which("mksquashfs") else "there is no mksquashfs here to make images with"


test_every_kind_of_image_becomes_a_vps_that_boots.skipped = no_squashfs


def test_a_manifest_says_what_a_template_is(node):
    with scratch(node) as top:
        archive = images.tar(images.tree(top / "tree"), top / "a.tar")
        (top / "m.toml").write_text(
            '[manifest]\ndistribution = "mine"\nversion = "9"\narchitecture = "amd64"\nhalt_signal = 15\nroot_kind = "template"\n'
            '[manifest.layout]\nimpermanence = true\n[[manifest.layout.mount]]\npath = "/persistent"\n')
        mine = imported(node, "mine", archive, top / "m.toml")
        assert mine["manifest"]["distribution"] == "mine"
        # The same archive laid out differently is another template.
        plain = imported(node, "plain", archive)
        assert plain["digest"] == hashlib.sha256(archive.read_bytes()).hexdigest() != mine["digest"]
        with node.vps("mine", wait=False) as vps:
            assert node.exec(vps, "sh", "-c", "echo kept > /persistent/kept; cat /persistent/kept") == "kept"
        there = in_pool(node)
        (top / "m.toml").write_text((top / "m.toml").read_text().replace("amd64", "s390x"))
        refused = node.refused("template.unfit", "template", "import", "other", str(archive), str(top / "m.toml"))
        assert "for s390x" in refused.message and in_pool(node) == there, refused.message
        (top / "m.toml").write_text("[build]\nsuite = 'bookworm'\n")
        node.refused("input.invalid", "template", "import", "other", str(archive), str(top / "m.toml"))
        remove(node, "mine", "plain")


def test_bad_archives_are_refused_whole(node):
    with scratch(node) as top:
        tree = images.tree(top / "tree")
        good, squashed = images.tar(tree, top / "good.tar"), images.squashfs(tree, top / "good.squashfs")
        before = in_pool(node)
        passwd = sh("sha256sum", "/etc/passwd").stdout
        for what, file, why in images.bad(top, good, squashed):
            refused = node.refused("template.bad_archive", "template", "import", "bad", str(file))
            assert why in refused.message, f"{what}: {refused.message}"
            assert in_pool(node) == before and not node.graves(), what
        digest = hashlib.sha256(good.read_bytes()).hexdigest()
        node.refused("template.wrong_digest", "template", "import", "bad", str(good), "--digest", "sha256:" + "0" * 64)
        node.refused("input.invalid", "template", "import", "bad", "/no/such/file")
        assert not any(t["name"] == "bad" for t in node.json("template", "list"))
        assert in_pool(node) == before and sh("sha256sum", "/etc/passwd").stdout == passwd
        imported(node, "good", good, "--digest", f"sha256:{digest}")
        remove(node, "good")


test_bad_archives_are_refused_whole.skipped = no_squashfs


def test_two_vpses_of_a_template_share_no_secret(node):
    for template in ("debian-12", "debian-12-impermanence"):
        with node.vps(template) as one, node.vps(template) as two:
            ids = [node.exec(vps, "cat", "/etc/machine-id") for vps in (one, two)]
            assert len(set(ids)) == 2 and all(len(i) == 32 for i in ids), ids
            keys = [node.exec(vps, "sh", "-c", "cat /etc/ssh/ssh_host_*_key.pub 2>/dev/null || true") for vps in (one, two)]
            assert not keys[0] or keys[0] != keys[1], keys
