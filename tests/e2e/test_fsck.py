"""`mayfly fsck`: a healthy node is clean, also under load and without its daemon; each planted defect is found, and mended or
left to an operator."""
import json
import os
import threading

from backends import only
from harness import MAYFLY, Node, sh
from truth import own_node, pool_path, subvolumes


def fsck(node, *words):
    """(status, findings by code, the whole answer)."""
    done = node.run("fsck", "--json", *words, check=False)
    answer = json.loads(done.stdout)
    assert "findings" in answer, answer
    assert done.returncode == (1 if answer["findings"] or answer["not_mended"] else 0), done
    found = {}
    for one in answer["findings"]:
        found.setdefault(one["code"], []).append(one["object"])
        assert one["meaning"] and bool(one["repair"]) != bool(one["operator"]), one
    return found, answer


def test_a_healthy_node_is_clean_under_load_and_without_its_daemon(node):
    """R9: what the daemon is in the middle of is no finding."""
    with own_node(Node, "fsck") as node:
        ids = [node.json("create", "--template", "tiny", "--disk", "64M", "--start")["vps"] for _ in range(3)]
        ends = threading.Event()
        failed = []

        def load(vps):
            while not ends.is_set():
                for verb in (["restart", vps, "--force"], ["stop", vps, "--force"], ["start", vps]):
                    done = node.run(*verb, check=False)
                    if done.returncode:
                        failed.append(done.stderr)

        threads = [threading.Thread(target=load, args=(vps,)) for vps in ids]
        for thread in threads:
            thread.start()
        try:
            for _ in range(8):
                found, answer = fsck(node)
                assert not found, answer
        finally:
            ends.set()
            for thread in threads:
                thread.join()
        assert not failed, failed[:3]
        assert "nothing is wrong" in node.run("fsck").stdout
        node.end_daemon()
        found, answer = fsck(node)
        assert not found, answer
        node.serve()
        for vps in ids:
            node.run("destroy", vps, "--yes")
        assert not fsck(node)[0]


@only("btrfs", "defects are planted with its tools")
def test_planted_defects_are_found_and_mended_or_left_to_an_operator(node):
    """R9, H4: with and without the daemon."""
    with own_node(Node, "defects") as node:
        vps = node.json("create", "--template", "tiny", "--disk", "64M", "--start")["vps"]
        node.run("stop", vps, "--force")
        [root] = node.temporary_roots(vps)
        # What changes with every stop is mirrored a moment later, and here at once.
        assert not fsck(node)[0]
        node.backend.make("stray")
        sh("btrfs", "subvolume", "create", pool_path(node) / f"{vps}/private/mine")
        (pool_path(node) / f".mayfly/mirrors/vps:{vps}").write_text("damaged")
        (pool_path(node) / ".mayfly/mirrors/vps:999").write_text("left")
        sh("btrfs", "subvolume", "create", pool_path(node) / ".mayfly/staging/litter")
        sh("nsenter", f"--mount=/proc/{node.daemon.pid}/ns/mnt", "btrfs", "qgroup", "limit", "32M",
           node.state / "pool" / str(vps))
        before = set(subvolumes(node))
        wanted = {"pool.unmarked": ["stray"], "pool.nested": [f"{vps}/private/mine"], "mirror.bad": [f"/vps/{vps}"],
                  "mirror.left": ["/vps/999"], "pool.staged": ["litter"], "dataset.quota_differs": [str(vps)]}
        found, answer = fsck(node)
        assert found == wanted, answer
        node.end_daemon()
        assert fsck(node)[0] == wanted
        node.serve()
        found, answer = fsck(node, "--repair")
        mended = {one["code"] for one in answer["mended"]}
        # Mirrors are made good by the daemon as well, when it starts.
        assert "dataset.quota_differs" in mended <= {"mirror.bad", "mirror.left", "dataset.quota_differs"}, answer
        assert [one["finding"]["object"] for one in answer["not_mended"]] == ["litter"], answer
        left = {code: wanted[code] for code in ("pool.unmarked", "pool.nested", "pool.staged")}
        assert found == left, answer
        assert set(subvolumes(node)) == before and root in before, "what nobody proved to be ours is left alone"
        assert fsck(node)[0] == left
        sh("btrfs", "subvolume", "delete", f"/proc/{node.daemon.pid}/root{node.state}/pool/.mayfly/staging/litter",
           check=False)
        node.run("destroy", vps, "--yes", "--now", check=False)


def test_without_a_node_it_says_what_to_type(node):
    """E1."""
    empty = node.dir / "no-node"
    empty.mkdir(exist_ok=True)
    done = sh(MAYFLY, "fsck", "--state-dir", str(empty), check=False)
    assert done.returncode == 1 and "mayfly init" in done.stderr, done
    assert os.listdir(empty) in ([], ["lock"])
