"""An image server on the loopback: what a directory has, by simplestreams, with whatever a test makes wrong of it."""
import contextlib
import functools
import hashlib
import http.server
import json
import pathlib
import ssl
import threading

import images
from harness import sh


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        act = self.server.instead.get(self.path)
        if act:
            act(self)
        else:
            super().do_GET()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Who does not take an answer to its end has its reasons, and tests that look for them."""


class ImageServer:
    """`instead[path]` is called with the request in place of an answer; `asked` are the paths that were asked for."""

    def __init__(self, top, certificate=None):
        self.top = pathlib.Path(top)
        handler = functools.partial(Quiet, directory=str(self.top))
        self.http = Server(("127.0.0.1", 0), handler)
        self.http.asked, self.http.instead = [], {}
        scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self.http.server_address[1]}"
        self.asked, self.instead = self.http.asked, self.http.instead
        self.products = {}

    def add(self, image, version, metadata, rootfs, arch="amd64"):
        """A version of an image, of files that are copied to where the server says they are."""
        name = f"{image.replace('/', ':')}:{arch}:default"
        where = f"images/{image}/{arch}/default/{version}"
        (self.top / where).mkdir(parents=True)
        items = {}
        for file, ftype in ((metadata, "incus.tar.xz"), (rootfs, "squashfs" if rootfs.suffix == ".squashfs" else "root.tar.xz")):
            held = file.read_bytes()
            (self.top / where / file.name).write_bytes(held)
            items[file.name] = {"ftype": ftype, "path": f"{where}/{file.name}", "size": len(held),
                                "sha256": hashlib.sha256(held).hexdigest()}
        both = hashlib.sha256(metadata.read_bytes() + rootfs.read_bytes()).hexdigest()
        kind = "squashfs" if rootfs.suffix == ".squashfs" else "rootxz"
        items[metadata.name][f"combined_{kind}_sha256"] = both
        product = self.products.setdefault(name, {
            "aliases": f"{image}/default,{image}", "arch": arch, "os": image.split("/")[0], "variant": "default", "versions": {}})
        product["versions"][version] = {"items": items}
        self.write()
        return both

    def items(self, image, version):
        """The entries of a version's metadata and root, to be spoilt; `write` shows them."""
        items = self.products[f"{image.replace('/', ':')}:amd64:default"]["versions"][version]["items"]
        return list(items.values())

    def write(self):
        streams = self.top / "streams/v1"
        streams.mkdir(parents=True, exist_ok=True)
        (streams / "index.json").write_text(json.dumps({"format": "index:1.0", "index": {"images": {
            "datatype": "image-downloads", "format": "products:1.0", "path": "streams/v1/images.json",
            "products": list(self.products)}}}))
        (streams / "images.json").write_text(json.dumps({
            "format": "products:1.0", "content_id": "images", "datatype": "image-downloads", "products": self.products}))


@contextlib.contextmanager
def serving(top, certificate=None):
    server = ImageServer(top, certificate)
    thread = threading.Thread(target=server.http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def certificate(top):
    """A certificate for the loopback that nobody but who is told believes, with its key, in one file."""
    file = pathlib.Path(top) / "server.pem"
    sh("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
       "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE",
       "-keyout", str(top / "key.pem"), "-out", str(top / "cert.pem"))
    file.write_text((top / "key.pem").read_text() + (top / "cert.pem").read_text())
    return file


def metadata(top, release):
    """The archive that says what an image is."""
    directory = pathlib.Path(top) / f"meta{release}"
    (directory / "in").mkdir(parents=True)
    (directory / "in/metadata.yaml").write_text(images.METADATA.replace('"7"', f'"{release}"'))
    # Beside what is packed: tar is no friend of a directory that changes.
    return images.tar(directory / "in", directory / "incus.tar.xz", "--xz")


def rootfs(top, release):
    """A system that boots and says that it is of that release."""
    tree = images.tree(pathlib.Path(top) / f"tree{release}", release=str(release))
    return images.tar(tree, pathlib.Path(top) / f"meta{release}/rootfs.tar.xz", "--xz")
