"""One root with one storage, and the verbs on it."""
import contextlib
import json
import os
import time

import trees


class Root:
    def __init__(self, work):
        self.tree = trees.Tree(work + "/root", ["/persistent"])
        self.at, self.kept = self.tree.at, self.tree.at + "/persistent"
        self.spec = work + "/spec.json"
        os.mkdir(self.at + "/etc")

    def declare(self, text):
        self.write("/persistent/etc/mayfly/persistence.toml", text)

    def write(self, path, text, mode=0o644, owner=(0, 0)):
        at = self.at + path
        os.makedirs(os.path.dirname(at), exist_ok=True)
        with open(at, "w") as file:
            file.write(text)
        os.chmod(at, mode)
        os.chown(at, *owner)

    def read(self, path):
        with open(self.at + path) as file:
            return file.read()

    def apply(self, run="r1", seconds=30, **more):
        spec = {"version": 1, "run": run, "temporary_root": True, "storage": "/persistent", **more}
        with open(self.spec, "w") as file:
            json.dump(spec, file)
        begun = time.monotonic()
        done = trees.guest("apply", "--spec", self.spec, "--root", self.at, "--json", timeout=seconds)
        self.took = time.monotonic() - begun
        assert len(done.stdout) < 1 << 20, "the report does not fit into boot.json"
        report = json.loads(done.stdout)
        assert done.returncode == (report["state"] == "degraded"), done
        return report, {line["path"]: line for line in report["declarations"]}

    def record(self, run="r1"):
        return f"{self.kept}/var/lib/mayfly/placed/{run}.json"

    def harvest(self, *arguments, run="r1", code=0, once=False, by=()):
        """A record that goes with its root comes back, so that one test can harvest several times, unless `once`."""
        try:
            with open(self.record(run)) as file:
                record = file.read()
        except OSError:
            record = None
        done = trees.guest("harvest", "--root", self.at, "--storage", "/persistent", "--run", run, *arguments, by=by)
        assert done.returncode == code, (done.returncode, done.stderr, done.stdout)
        report = json.loads(done.stdout)
        assert (report["state"] == "incomplete") == (code == 1), report
        goes = report["state"] == "done" and "--when" in arguments and "running" not in arguments
        assert record is None or os.path.exists(self.record(run)) != goes, report
        if goes and record is not None and not once:
            with open(self.record(run), "w") as file:
                file.write(record)
        lines = {line["path"]: line for line in report["files"]}
        taken = [line["path"] for line in report["files"] if line["what"] == "taken"]
        assert report["omitted"] or report["taken"] == taken and report["taken_count"] == len(taken)
        return report, lines

    def is_kept(self, path):
        one, other = os.stat(self.at + path), os.stat(self.kept + path)
        return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


@contextlib.contextmanager
def root(work):
    made = Root(work)
    try:
        yield made
    finally:
        made.tree.close()
