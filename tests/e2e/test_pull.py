"""T1: images of a server become templates, whole or not at all, and nothing of a download is left."""
import contextlib
import hashlib
import os
import shutil
import time

import images
import servers
from harness import SLOW, Node, wait_for
from test_import import in_pool, remove
from truth import assert_no_orphans, own_node


@contextlib.contextmanager
def image_server(node):
    """A server with `tiny/1` in two versions, one of them as a squashfs too, and what it is made of."""
    top = node.dir / "server"
    (top / "www").mkdir(parents=True)
    try:
        with servers.serving(top / "www") as server:
            for release, version in ((1, "20251124_05:24"), (2, "20251125_05:24")):
                server.add("tiny/1", version, servers.metadata(top, release), servers.rootfs(top, release))
            yield top, server
    finally:
        shutil.rmtree(top)


def assert_nothing_left(node, there):
    assert not (node.state / "downloads").exists()
    assert in_pool(node) == there and not node.graves()
    assert not any(t["name"] == "bad" for t in node.json("template", "list"))


def test_an_image_of_a_server_becomes_a_vps_that_boots(node):
    with image_server(node) as (top, server):
        steps = node.json("template", "pull", server.url, "tiny/1", "--dry-run")["plan"]["steps"]
        assert [step["step"]["step"] for step in steps] == ["pull_template"] and not server.asked, (steps, server.asked)
        node.run("template", "pull", server.url, "tiny/1")
        assert not (node.state / "downloads").exists()
        assert server.asked[-1].endswith("rootfs.tar.xz") and all("1124" not in path for path in server.asked), server.asked
        pulled = node.json("template", "show", "tiny-1")
        files = (top / "meta2/incus.tar.xz", top / "meta2/rootfs.tar.xz")
        assert pulled["digest"] == hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
        assert pulled["manifest"]["distribution"] == "tiny" and pulled["manifest"]["version"] == "2", pulled
        with node.vps("tiny-1", wait=False) as vps:
            assert 'VERSION_ID="2"' in node.exec(vps, "cat", "/etc/os-release")
        # The same under a name of one's own: what is there already is not told again; and over what is there.
        node.run("template", "pull", f"{server.url}/", "mine", "--image", "tiny:1:amd64:default")
        assert node.json("template", "show", "mine")["digest"] == pulled["digest"]
        node.refused("template.exists", "template", "pull", server.url, "mine", "--image", "tiny/1")
        if shutil.which("mksquashfs"):
            squashed = images.squashfs(images.tree(top / "tree3", release="3"), top / "rootfs.squashfs")
            both = server.add("tiny/1", "20251126_05:24", servers.metadata(top, 3), squashed)
            node.run("template", "pull", server.url, "mine", "--image", "tiny/1", "--replace")
            assert node.json("template", "show", "mine")["digest"] == both
        remove(node, "tiny-1", "mine")
        wait_for("their contents are destroyed", lambda: not node.graves())


def answer(code, **headers):
    def act(request):
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()
    return act


def cut_off(request):
    request.send_response(200)
    request.send_header("Content-Length", "100000")
    request.end_headers()
    request.wfile.write(b"x" * 1000)
    request.close_connection = True


def say(text):
    def act(request):
        request.send_response(200)
        request.end_headers()
        request.wfile.write(text)
        request.close_connection = True
    return act


def test_what_a_server_should_not_do_is_refused(node):
    with image_server(node) as (_, server):
        there = in_pool(node)

        def refused(code, why, *words, name="bad", image="tiny/1"):
            told = node.refused(code, "template", "pull", *(words or (server.url,)), name, "--image", image)
            assert why in told.message, told.message
            assert_nothing_left(node, there)

        failed = "template.pull_failed"
        index = "/streams/v1/index.json"
        for act, why in ((answer(404), "404"), (say(b"<html>"), "index"), (say(b'{"index": {}}'), "names no images"),
                         (answer(302, Location=index), "more than 5 times"), (cut_off, "too early"),
                         (answer(302, Location="http://images.invalid/"), "neither https nor the same server")):
            server.instead[index] = act
            refused(failed, why)
        server.instead.clear()
        refused("template.not_found", "no image tiny/9", image="tiny/9")
        refused("template.pull_failed", "was not fetched", "http://127.0.0.1:1")
        refused("input.invalid", "plain http", "http://images.invalid")
        assert node.run("template", "pull", "images:tiny/1", "bad", check=False).returncode == 2
        metadata, root = server.items("tiny/1", "20251125_05:24")
        good = dict(root)
        for spoilt, code, why in (({"sha256": "0" * 64}, "template.wrong_digest", "sha256"),
                                  ({"size": good["size"] - 1}, failed, "the index says"),
                                  ({"size": good["size"] + 1}, failed, "the index says"),
                                  ({"size": 1 << 50}, failed, "more than"),
                                  ({"path": "../../etc/passwd"}, failed, "no path"),
                                  ({"path": "no/such"}, failed, "404")):
            root.update(spoilt)
            server.write()
            refused(code, why)
            root.update(good)
        # Files that are what the index says, and are still not what it says of both together.
        metadata["combined_rootxz_sha256"] = "1" * 64
        server.write()
        refused("template.wrong_digest", "its digest is")
        # The wrong kind of contents is refused by what refuses it of a file.
        text = b"no archive"
        (server.top / good["path"]).write_bytes(text)
        root.update(size=len(text), sha256=hashlib.sha256(text).hexdigest())
        del metadata["combined_rootxz_sha256"]
        server.write()
        refused("template.bad_archive", "neither tar")


def test_a_pull_is_cancelled_while_a_server_stalls(node):
    with image_server(node) as (_, server):
        there = in_pool(node)
        root = server.items("tiny/1", "20251125_05:24")[1]

        def stall(request):
            request.send_response(200)
            request.send_header("Content-Length", str(root["size"]))
            request.end_headers()
            request.wfile.write(b"x" * 1000)
            request.wfile.flush()
            for _ in range(300):
                if over:
                    return
                time.sleep(0.1)

        over = []
        server.instead["/" + root["path"]] = stall
        pull = node.json("template", "pull", server.url, "bad", "--image", "tiny/1", "--no-wait")["id"]
        wait_for("it downloads", lambda: "/" + root["path"] in server.asked, 10)
        assert (node.state / "downloads").stat().st_mode & 0o777 == 0o700
        began = time.monotonic()
        assert node.json("operation", "cancel", pull)["state"] == "cancelled"
        assert time.monotonic() - began < 5 * SLOW
        over.append(True)
        assert_nothing_left(node, there)


def test_https_is_believed_by_the_hosts_authorities_only(node):
    """Also what a crash leaves of a download: it is gone when the next daemon is there."""
    # The node of this test is started by somebody who believes the certificate.
    top = node.dir / "https"
    (top / "www").mkdir(parents=True)
    certificate = servers.certificate(top)
    try:
        with servers.serving(top / "www", certificate) as server:
            server.add("tiny/1", "1", servers.metadata(top, 1), servers.rootfs(top, 1))
            refused = node.refused("template.pull_failed", "template", "pull", server.url, "bad", "--image", "tiny/1")
            assert "certificate" in refused.message, refused.message
            assert not server.asked
            os.environ["SSL_CERT_FILE"] = str(top / "cert.pem")
            try:
                with own_node(Node, "https") as own:
                    own.run("template", "pull", server.url, "tiny/1")
                    assert own.json("template", "show", "tiny-1")["manifest"]["version"] == "1"
                    assert_no_orphans(own)
            finally:
                del os.environ["SSL_CERT_FILE"]
    finally:
        shutil.rmtree(top)


test_https_is_believed_by_the_hosts_authorities_only.skipped = lambda: (
    None if shutil.which("openssl") else "there is no openssl here to make a certificate with")
