"""Mayfly: a node of its own, asked over its API."""
import contextlib
import json
import os
import pathlib
import subprocess
import time

from scene import TOP, Api, sh, until

MAYFLY = os.environ.get("MAYFLY", str(TOP / "target/release/mayfly"))


class Mayfly:
    name, label = "mayfly", "Mayfly"

    def __init__(self, scene):
        self.scene, self.state, self.pool = scene, scene.dir / "state", scene.fs / "mayfly"
        self.pool.mkdir()
        sh(MAYFLY, "init", "--pool", f"btrfs:{self.pool}", "--state-dir", self.state, "--no-network")
        self.log = open(scene.dir / "daemon.log", "ab")
        self.daemon = subprocess.Popen([MAYFLY, "serve", "--state-dir", str(self.state)], stdout=self.log, stderr=self.log,
                                       stdin=subprocess.DEVNULL)
        scene.daemons.append(self.daemon)
        socket = self.state / "api.sock"
        until("the daemon answers", socket.exists)
        self.api = Api(socket)
        self.command("template", "build", scene.recipe, "--name", "bench")
        digest = self.api.ask("GET", "/v1/templates")[0]["digest"]
        self.template = self.pool / "templates" / digest[:16]

    def command(self, *words):
        return sh(MAYFLY, "--socket", self.state / "api.sock", *words)

    def guest(self, number):
        made = json.loads(self.command("create", "--template", "bench", "--disk", "1G", "--memory", "1G", "--json"))
        return Guest(self, made["vps"])

    def change(self, method, path, body=None):
        """Until the operation is over."""
        op = self.api.ask(method, path, body)
        while op["state"] not in ("done", "failed", "cancelled"):
            op = self.api.ask("GET", f"/v1/operations/{op['id']}?wait_ms=60000")
        if op["state"] != "done":
            raise RuntimeError(f"{method} {path}: {op}")

    def idle(self):
        """Until what it does behind everybody's back is done."""
        until("the graveyard is empty", lambda: not os.listdir(self.pool / "trash"), 60, 0.02)

    def list_with_state(self):
        return self.api.ask("GET", "/v1/vps")

    def remove(self):
        with contextlib.suppress(Exception):
            for vps in self.api.ask("GET", "/v1/vps"):
                self.command("destroy", vps["id"], "--yes")
        self.daemon.terminate()
        self.daemon.wait(30)
        self.log.close()


class Guest:
    def __init__(self, side, vps):
        self.side, self.vps, self.path = side, vps, f"/v1/vps/{vps}"

    def start(self):
        began = time.monotonic_ns()
        self.side.change("POST", f"{self.path}/start")
        return began, time.monotonic_ns()

    def prepare(self):
        """A start makes its own root."""

    def ask_start(self):
        """Returns when it was accepted."""
        self.side.api.ask("POST", f"{self.path}/start")

    def start_by_command(self):
        began = time.monotonic_ns()
        self.side.command("start", self.vps)
        return began, time.monotonic_ns()

    def stop(self):
        began = time.monotonic_ns()
        self.side.change("POST", f"{self.path}/stop", {"timeout_ms": 60000, "force": True})
        return began, time.monotonic_ns()

    def restart(self):
        began = time.monotonic_ns()
        self.side.change("POST", f"{self.path}/restart", {"timeout_ms": 60000, "force": True})
        return began, time.monotonic_ns()

    def root(self):
        return self.side.pool / self.side.api.ask("GET", self.path)["run"]["root"] / "private"

    def run(self, *command):
        self.side.command("exec", self.vps, "--", *command)

    def declare(self, paths):
        """Directories that are to stay."""
        at = self.side.pool / str(self.vps) / "private"
        for path in ["/etc/mayfly", *paths]:
            (at / path.lstrip("/")).mkdir(parents=True)
        listed = ", ".join(f'"{path}"' for path in paths)
        (at / "etc/mayfly/persistence.toml").write_text(f'["/persistent"]\ndirectories = [{listed}]\n')

    def tidy(self):
        """The node does that itself."""

    def run_directory(self):
        return next((self.side.state / "runs").glob(f"{self.vps}.*"))

    def processes(self):
        state = json.loads((self.run_directory() / "state.json").read_text())
        return [state["supervisor_pid"], state["lxc_pid"]]
