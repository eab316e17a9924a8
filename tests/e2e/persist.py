"""What the tests of declarations share: a VPS that boots at once and has a storage, and what is in that storage."""
import contextlib
import hashlib
import json
import os
import shutil

import images
from harness import TOP, wait_for

FILE = "etc/mayfly/persistence.toml"
# It is copied, whatever it is: the declaration of most tests.
COPY = '["/persistent"]\nfiles = [{ file = "/etc/app.conf", method = "copy" }]\n'


def manifest(declared="", impermanence=True):
    """The manifest of `tiny` with a storage, and what it declares."""
    text = (TOP / "tests/fixtures/tiny/recipe.toml").read_text().split("[build]")[0]
    storage = f'impermanence = {str(impermanence).lower()}\nstorage = "/persistent"'
    return text.replace("impermanence = true", storage) + declared


@contextlib.contextmanager
def template(node, name, declared="", init=None, impermanence=True):
    """A template whose guests are up at once, for the length of a `with`."""
    top = node.dir / f"image-{name}"
    top.mkdir()
    try:
        tree = images.tree(top / "tree")
        if init:
            (tree / "sbin/init").write_text(init)
        text = top / "manifest.toml"
        text.write_text(manifest(declared, impermanence))
        node.run("template", "import", name, images.tar(tree, top / "tree.tar"), text)
        shutil.rmtree(top)
        yield name
    finally:
        node.run("template", "remove", name, check=False)
        shutil.rmtree(top, ignore_errors=True)


def storage(node, vps):
    """What the guest has at /persistent, as the host sees it; until something is asked of the node."""
    return node.backend.path() / str(vps) / "private"


def stored(node, vps, path):
    """A stored file; None where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return (storage(node, vps) / path.lstrip("/")).read_bytes().decode()
    return None


def declare(node, vps, text):
    """The VPS's own declarations, written by its owner inside."""
    node.exec(vps, "mkdir", "-p", f"/persistent/{os.path.dirname(FILE)}")
    node.exec(vps, "sh", "-c", f"cat > /persistent/{FILE} <<'END'\n{text}END")


def boot(node, vps):
    """What the guest can read of its birth."""
    return json.loads(node.exec(vps, "cat", "/run/mayfly/boot.json"))


def report(node, vps):
    """What became of the declarations, as the guest is told."""
    return boot(node, vps)["persistence"]


def fates(node, vps):
    """{path: (fate, how)} of all declarations."""
    return {line["path"]: (line["fate"], line.get("how")) for line in report(node, vps)["declarations"]}


def write(node, vps, path, text):
    """As programs do that replace their file: a new one, renamed over it."""
    node.exec(vps, "sh", "-c", f"printf %s {text!r} > {path}.new && mv {path}.new {path}")


def restart(node, vps, *words):
    node.run("restart", vps, *words)


def await_stored(node, vps, path, text, seconds=60):
    """After a harvest that took long the next one waits fifty times as long."""
    wait_for(f"{path} is stored as {text!r}", lambda: stored(node, vps, path) == text, seconds)


def in_guest(node, vps, script):
    """A shell script inside, and what it prints."""
    return node.exec(vps, "sh", "-c", script)


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()
