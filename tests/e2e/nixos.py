"""An ordinary NixOS-shaped VPS, and what the tests of its way to impermanence look at."""
import contextlib
import shutil

import images
from harness import recipe, sh

PROFILE = "/nix/var/nix/profiles/system"
TREE = ("boot", "dev", "etc", "proc", "run", "sbin", "sys", "tmp", "var")


@contextlib.contextmanager
def ordinary(node, name):
    """A template with the same system in one tree: an ordinary NixOS-shaped VPS."""
    node.ensure_template("nixos-shaped")
    digest = node.json("template", "show", "nixos-shaped")["digest"]
    top = node.dir / f"image-{name}"
    tree = top / "tree"
    for directory in TREE:
        (tree / directory).mkdir(parents=True)
    (tree / "sbin/init").symlink_to(f"{PROFILE}/init")
    try:
        with node.pool() as pool:
            sh("cp", "-a", pool / "templates" / digest[:16] / "nix/private", tree / "nix")
        text = recipe("nixos-shaped").read_text().split("[manifest.layout]")[0]
        (top / "manifest.toml").write_text(text.replace('root_kind = "empty"', 'root_kind = "template"'))
        node.run("template", "import", name, images.tar(tree, top / "tree.tar"), top / "manifest.toml", timeout=900)
        shutil.rmtree(top)
        yield name
    finally:
        node.run("template", "remove", name, check=False)
        shutil.rmtree(top, ignore_errors=True)


def at(node, vps, path):
    """The dataset that the guest has mounted at exactly this path; none where there is none."""
    pid = node.show(vps)["run"]["init_pid"]
    with open(f"/proc/{pid}/mountinfo") as table:
        shown = [node.backend.shown(line) for line in table if line.split(" ")[4] == path]
    return shown[-1].removesuffix("/private") if shown and shown[-1] else None


def inside(node, vps, script):
    return node.exec(vps, "sh", "-c", script, timeout=600)


def user_data(node, vps, root):
    """A hash over names, owners, modes, times and contents of what the user has."""
    return inside(node, vps, f"tar -C {root} --numeric-owner -c home/me | sha256sum")


def check_df(node, vps, root):
    """D5: `df -hT` has the three datasets where they are; on ZFS by their names and with their quotas."""
    lines = [line.split() for line in inside(node, vps, "df -hT / /nix /persistent").splitlines()[1:]]
    assert [line[6] for line in lines] == ["/", "/nix", "/persistent"], lines
    if not node.backend.__class__.__name__.startswith("Zfs"):
        assert {line[1] for line in lines} == {"btrfs"}, lines
        return
    every = [line.split() for line in inside(node, vps, "df -hT | grep zfs").splitlines()]
    assert every == lines, "no other dataset is in sight"
    names = [line[0].removeprefix(f"{node.backend.pool}/") for line in lines]
    assert (names, [line[1] for line in lines]) == ([root, f"{vps}/nix", str(vps)], ["zfs"] * 3), lines
    assert [line[2] for line in lines] == ["10G", "20G", "20G"], lines
