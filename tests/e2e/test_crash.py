"""The daemon killed at every point of create, start, restart, stop, destroy and of changes of datasets; then started
again. What was begun is finished or put back, nothing persistent is lost, nothing is left."""
import os
import pathlib
import re
import signal

import images
import servers
from backends import only
from harness import MAYFLY, Node, sh, wait_for
from test_alive import edit_document
from test_set import agreed
from truth import assert_no_orphans, ensure_tiny, kill, operations_over, own_node, pool_path, tree_hash

CRATES = pathlib.Path(__file__).resolve().parent.parent.parent / "crates"


def driver_points():
    """The points in the storage driver, from its source."""
    text = (CRATES / "mayfly-host/src/crash.rs").read_text()
    listed = re.search(r"CRASH_POINTS: &\[&str\] = &\[(.*?)\];", text, re.S).group(1)
    points = re.findall(r'"([a-z_.]+)"', listed)
    assert points, "no crash point was found in the source"
    return points


def step_kinds():
    """The points of the kinds of steps, from their source."""
    text = (CRATES / "mayfly-core/src/plan/step.rs").read_text()
    body = re.search(r"fn crash_point.*?\n    }\n", text, re.S).group()
    kinds = re.findall(r'=> "([a-z_]+)"', body)
    assert len(kinds) == int(re.search(r"ALL: \[Self; (\d+)\]", text).group(1))
    return kinds


def verbs():
    """The operations, from their source."""
    text = (CRATES / "mayfly-core/src/documents/operation.rs").read_text()
    found = re.findall(r'=> "([a-z ]+)"', re.search(r"fn verb.*?\n    }\n", text, re.S).group())
    assert found, "no operation was found in the source"
    return found


CREATE = [p for p in driver_points() if p.startswith("create.")]
BURY = [p for p in driver_points() if p.startswith("bury.")]
REAP = [p for p in driver_points() if p.startswith("reap.")]
PARENTLESS = [p for p in BURY if p != "bury.after_lower_marks"]
CUT, CUT_VERBS = set(), set()


def step_points(node, *verb, after=()):
    """Before and after each step of the very plan of this verb, and before those the kinds of steps in `after`."""
    seen, points = {}, []
    for kind in [*after, *(step["step"]["step"] for step in node.json(*verb, "--dry-run")["plan"]["steps"])]:
        assert kind in step_kinds(), f"the plan has a step {kind} that the source has no point for"
        seen[kind] = seen.get(kind, 0) + 1
        points += [f"step.{kind}#{seen[kind]}", f"step.{kind}.done#{seen[kind]}"]
    assert points, f"{verb}: nothing to do"
    return points


def cut(node, point, *verb):
    """Carries out a verb with a daemon that dies at `point`, then starts the daemon again and waits for rest."""
    cut_while(node, point, " ".join(map(str, verb)), lambda: node.run(*verb, "--no-wait", check=False))


def cut_while(node, point, verb, act):
    """The same for anything that leads to an operation."""
    node.end_daemon()
    node.serve(crash_at=point)
    done = act()
    try:
        wait_for(f"the daemon dies at {point}", lambda: node.daemon.poll() is not None, 20, 0.01)
    except AssertionError:
        raise AssertionError(f"{verb} does not pass {point}: {done}\n{node.log_end()}") from None
    assert node.daemon.returncode == -signal.SIGKILL, f"at {point} the daemon ended with {node.daemon.returncode}"
    CUT.add(re.sub(r"#\d+$", "", point))
    CUT_VERBS.update(one for one in verbs() if f"{verb} ".startswith(f"{one} "))
    node.serve()
    operations_over(node)


class Kept:
    """A VPS with data in its root dataset and a subdataset, and the hash of both."""

    def __init__(self, node, *words):
        self.node = node
        self.id = node.json("create", "--template", "tiny", "--disk", "256M", *words)["vps"]
        node.run("dataset", "set", self.id, "quota=128M")
        node.run("dataset", "create", f"{self.id}/data", "--quota", "64M", "--mount", "/data")
        for directory in self.directories():
            (directory / "kept").write_text("kept " * 1000)
            (directory / "sub").mkdir(mode=0o750)
            (directory / "sub/link").symlink_to("../kept")
        self.hashes = self.look()

    def directories(self):
        return [pool_path(self.node) / f"{self.id}{sub}/private" for sub in ("", "/data")]

    def look(self):
        return [tree_hash(directory) for directory in self.directories()]

    def assert_intact(self):
        assert self.look() == self.hashes, f"persistent data of VPS {self.id} has changed"

    def destroy(self):
        self.node.run("destroy", self.id, "--yes")


def each(points, once):
    """Runs `once` for each point and says at which it failed."""
    for point in points:
        try:
            once(point)
        except Exception as error:
            raise AssertionError(f"killed at {point}: {error}") from error
    print(f"  {len(points)} points", flush=True)


def test_create_killed_anywhere_is_finished_or_put_back(node):
    """R9, E2: create and create --start."""
    ensure_tiny(node)
    kept = Kept(node)
    for words in (["--start"], []):
        verb = ["create", "cut", "--template", "tiny", "--disk", "64M", *words]

        def once(point):
            cut(node, point, *verb)
            kept.assert_intact()
            assert_no_orphans(node)
            made = [v for v in node.json("list") if v["hostname"] == "cut"]
            operation = node.json("operation", "list")[-1]
            assert operation["verb"] == "create"
            assert made and operation["state"] == "done", operation
            assert made[0]["state"] == ("running" if words else "stopped"), made
            node.run("destroy", "cut", "--yes")

        each(step_points(node, *verb) + CREATE, once)
    kept.destroy()


def test_start_killed_anywhere_is_finished(node):
    """R6, R7, R9: a start after a stop, with a last root that gives way."""
    ensure_tiny(node)
    kept = Kept(node)
    node.run("start", kept.id)
    node.run("stop", kept.id, "--force")

    def once(point):
        last = node.show(kept.id)["last_root"]
        assert last
        cut(node, point, "start", kept.id)
        kept.assert_intact()
        assert_no_orphans(node)
        shown = node.show(kept.id)
        assert shown["state"] == "running" and shown["run"]["root"] != last, shown
        node.run("stop", kept.id, "--force")

    points = step_points(node, "start", kept.id)
    each(points + CREATE + PARENTLESS + ["reap.after_subvolumes"], once)
    kept.destroy()


def test_restart_killed_anywhere_is_finished(node):
    """R6, R9, H8: the old run is over before the new one begins, and only one root stays."""
    ensure_tiny(node)
    kept = Kept(node)
    node.run("start", kept.id)

    def once(point):
        before = node.show(kept.id)["run"]
        cut(node, point, "restart", kept.id)
        kept.assert_intact()
        assert_no_orphans(node)
        after = node.show(kept.id)
        assert after["state"] == "running" and after["run"]["id"] != before["id"], after

    points = step_points(node, "restart", kept.id)
    each(points + CREATE + PARENTLESS + ["reap.after_subvolumes"], once)
    kept.destroy()


def persistent(node):
    """A VPS whose root dataset can be its `/`, and is; it runs."""
    ensure_tiny(node)
    kept = Kept(node)
    # What this template has at /persistent is nothing; the root dataset gets the base by hand.
    base = pool_path(node) / "templates" / node.show(kept.id)["base"]["template"][:16] / "private"
    sh("cp", "-a", f"{base}/.", kept.directories()[0])
    node.run("mount", "remove", kept.id, "/persistent")
    node.run("feature", "set", kept.id, "impermanence=off")
    (kept.directories()[0] / "data").mkdir()
    node.run("start", kept.id)
    kept.hashes = kept.look()
    return kept


def test_a_persistent_vps_killed_anywhere_keeps_its_root(node):
    """R9, H8: the same for a VPS whose root dataset is `/`: there is no other root that could take its place."""
    kept = persistent(node)

    def once(point):
        if verb == "start" and node.show(kept.id)["state"] == "running":
            node.run("stop", kept.id, "--force")
        cut(node, point, verb, kept.id)
        kept.assert_intact()
        assert_no_orphans(node)
        assert node.show(kept.id)["state"] == "running"

    for verb in ("restart", "start"):
        if verb == "start":
            node.run("stop", kept.id, "--force")
        each(step_points(node, verb, kept.id), once)
    kept.destroy()


def test_stop_killed_anywhere_is_finished(node):
    """R7, R9."""
    ensure_tiny(node)
    kept = Kept(node)
    for words in ([], ["--discard"]):

        def once(point):
            if node.show(kept.id)["state"] == "stopped":
                node.run("start", kept.id)
            root = node.show(kept.id)["run"]["root"]
            cut(node, point, "stop", kept.id, *words)
            kept.assert_intact()
            assert_no_orphans(node)
            shown = node.show(kept.id)
            assert shown["state"] == "stopped" and shown["last_root"] == (None if words else root), shown

        node.run("start", kept.id)
        points = step_points(node, "stop", kept.id, *words)
        each(points + (PARENTLESS + ["reap.after_subvolumes"] if words else []), once)
    kept.destroy()


def test_destroy_killed_anywhere_is_finished(node):
    """R9, H8: destroy of a running VPS with a subdataset; its neighbour loses nothing."""
    ensure_tiny(node)
    neighbour = Kept(node)
    node.run("start", neighbour.id)
    pid = node.show(neighbour.id)["run"]["init_pid"]
    victim = []

    def once(point):
        if not victim:
            victim.append(Kept(node))
            node.run("start", victim[0].id)
        vps = victim.pop().id
        cut(node, point, "destroy", vps, "--yes", "--now")
        neighbour.assert_intact()
        assert_no_orphans(node)
        assert [v["id"] for v in node.json("list")] == [neighbour.id]
        assert node.show(neighbour.id)["run"]["init_pid"] == pid, "the neighbour was restarted"

    victim.append(Kept(node))
    node.run("start", victim[0].id)
    each(step_points(node, "destroy", victim[0].id, "--now") + BURY + REAP, once)
    neighbour.destroy()


def test_changes_of_datasets_killed_anywhere_are_finished(node):
    """D2, R9: making, resizing and destroying a subdataset, adding a mount, switching impermanence."""
    ensure_tiny(node)
    kept = Kept(node)
    count = [0]
    verbs = [
        ["dataset", "create", "NAME", "--quota", "16M", "--mount", "/mnt/NAME"],
        ["dataset", "set", "NAME", "quota=SIZE"],
        ["mount", "add", "NAME", "/mnt/again"],
        ["mount", "remove", "VPS", "/mnt/again"],
        ["dataset", "destroy", "NAME", "--yes", "--force"],
    ]

    def words(verb):
        last = f"d{count[0]}"
        size = f"{16 + count[0] % 2 * 4}M"
        return [w.replace("/mnt/NAME", f"/mnt/{last}").replace("NAME", f"{kept.id}/{last}").replace("SIZE", size)
                .replace("VPS", str(kept.id)) for w in verb]

    def again(verb):
        """Makes what the verb needs, and undoes what it did before."""
        count[0] += 1
        if verb[:2] != ["dataset", "create"]:
            node.run("dataset", "create", f"{kept.id}/d{count[0]}", "--quota", "18M")
        if verb[:2] == ["mount", "remove"]:
            node.run("mount", "add", f"{kept.id}/d{count[0]}", "/mnt/again")

    def clear():
        for dataset in node.show(kept.id)["datasets"]:
            if re.fullmatch(r"d\d+", dataset["name"]):
                node.run("dataset", "destroy", f"{kept.id}/{dataset['name']}", "--yes", "--force")

    for verb in verbs:
        again(verb)
        points = step_points(node, *words(verb))
        clear()
        points += {"create": CREATE, "destroy": PARENTLESS}.get(verb[1] if verb[0] == "dataset" else "", [])

        def once(point):
            again(verb)
            cut(node, point, *words(verb))
            kept.assert_intact()
            assert_no_orphans(node)
            names = [d["name"] for d in node.show(kept.id)["datasets"]]
            assert (f"d{count[0]}" in names) == (verb[:2] != ["dataset", "destroy"]), names
            clear()

        each(points, once)
    kept.destroy()


def test_a_change_of_limits_killed_anywhere_is_finished(node):
    """F2, R9: record and kernel agree afterwards, and the run goes on."""
    ensure_tiny(node)
    kept = Kept(node)
    node.run("start", kept.id)
    pid = node.show(kept.id)["run"]["init_pid"]
    memory = [100]

    def words():
        memory[0] += 1
        return "set", kept.id, f"memory={memory[0]}M", "processes=500"

    def once(point):
        cut(node, point, *words())
        kept.assert_intact()
        assert_no_orphans(node)
        assert agreed(node, kept.id)["memory_bytes"] == memory[0] << 20
        assert node.show(kept.id)["run"]["init_pid"] == pid, "it was restarted"

    each(step_points(node, *words()), once)
    kept.destroy()


# Changes of one VPS that are cut at each step of their plan, while it runs and while it is stopped: what is said
# beforehand, the change, and what `show` has afterwards. A new operation of this kind is a new line.
CHANGES = [
    (["set", "memory=100M", "processes=400"], ["set", "memory=120M", "processes=500"],
     lambda shown: (shown["limits"]["memory_bytes"], shown["limits"]["processes"]) == (120 << 20, 500)),
    (["feature", "set", "impermanence=off", "nesting=off", "memory=100M"],
     ["feature", "set", "impermanence=on", "nesting=on", "memory=120M"],
     lambda shown: shown["impermanence"] and (shown["features"], shown["limits"]["memory_bytes"]) == (["nesting"], 120 << 20)),
    (["feature", "set", "impermanence=on"], ["feature", "set", "impermanence=off"],
     lambda shown: shown["impermanence"] is None),
]


def test_changes_killed_anywhere_are_finished(node):
    """R9, R11, H5: the whole table, and the VPS runs afterwards where it did before."""
    kept = persistent(node)

    def of_vps(words):
        """`mayfly set V memory=100M`, `mayfly feature set V …`: the VPS comes after the words of the command."""
        at = 1 if words[0] == "set" else 2
        return [*words[:at], str(kept.id), *words[at:]]

    for runs in (True, False):
        if not runs:
            node.run("stop", kept.id, "--force")
        for beforehand, change, holds in CHANGES:

            def once(point):
                node.run(*of_vps(beforehand))
                cut(node, point, *of_vps(change))
                kept.assert_intact()
                assert_no_orphans(node)
                shown = node.show(kept.id)
                assert holds(shown), shown
                assert shown["state"] == ("running" if runs else "stopped"), shown

            node.run(*of_vps(beforehand))
            each(step_points(node, *of_vps(change)), once)
    kept.destroy()


def test_the_end_of_a_run_killed_anywhere_is_settled(node):
    """R6, R9: its init was killed; the daemon dies while it settles that and starts the VPS again."""
    ensure_tiny(node)
    kept = Kept(node)
    node.run("start", kept.id)
    node.run("stop", kept.id, "--force")
    points = step_points(node, "start", kept.id, after=("end_run", "record"))

    def once(point):
        # Three crashes in five minutes would leave it stopped.
        node.end_daemon()
        edit_document(node, kept.id, lambda document: document.update(crashes=[]))
        node.serve()
        if node.show(kept.id)["state"] == "stopped":
            node.run("start", kept.id)
        before = node.show(kept.id)["run"]
        cut_while(node, point, "run ended", lambda: kill(before["init_pid"]))
        wait_for("it runs again", lambda: node.show(kept.id)["state"] == "running", 20)
        operations_over(node)
        kept.assert_intact()
        assert_no_orphans(node)
        assert node.show(kept.id)["run"]["root"] != before["root"]

    each(points, once)
    kept.destroy()


def test_an_undo_killed_anywhere_is_finished(node):
    """R9, E2: the start of a guest whose init does not live, killed where it failed and at each step of its undo."""
    ensure_tiny(node)
    kept = Kept(node)
    node.run("mount", "add", kept.id, "/bin")
    # /bin is then the root dataset: nothing there can be executed, and the init ends at once.
    node.run("mount", "add", f"{kept.id}/data", "/sbin")
    (kept.directories()[1] / "init").write_text("#!/bin/none\n")
    (kept.directories()[1] / "init").chmod(0o755)
    # Mount points are made at the first attempt.
    node.run("start", kept.id, check=False)
    operations_over(node)
    assert node.show(kept.id)["state"] == "stopped"
    kept.hashes = kept.look()
    failing = "step.await_init.failed"
    done = [p for p in step_points(node, "start", kept.id) if not p.split("#")[0].endswith(".done")]
    kinds = [p.split("#")[0] for p in done[: [p.split("#")[0] for p in done].index("step.await_init")]]
    undone = [f"{kind}.undo#{kinds[i:].count(kind)}" for i, kind in enumerate(kinds)
              if kind in ("step.launch", "step.record", "step.create_dataset")]

    def once(point):
        cut(node, point, "start", kept.id)
        kept.assert_intact()
        assert_no_orphans(node)
        shown = node.show(kept.id)
        assert shown["state"] == "stopped", shown

    each([failing, *undone], once)
    kept.destroy()


def test_template_build_killed_anywhere_leaves_nothing(node):
    """R9, T1: also a removal. What was begun is finished: the template is there, whole, or gone."""
    with own_node(Node, "crash-template") as node:
        node.run("template", "remove", "tiny")
        recipe = pathlib.Path(__file__).resolve().parent.parent / "fixtures/tiny/recipe.toml"
        verb = ["template", "build", recipe, "--name", "tiny"]
        points = step_points(node, *verb) + [p for p in driver_points() if p.startswith("template.")]
        for point in points:
            cut(node, point, *verb)
            templates = node.json("template", "list")
            assert [t["name"] for t in templates] == ["tiny"], f"killed at {point}"
            # What was whole and not recorded yet is built again, and then in nobody's use.
            only = {templates[0]["digest"][:16]}
            wait_for(f"one template is left: {point}", lambda: set(os.listdir(pool_path(node) / "templates")) == only)
            assert_no_orphans(node)
            node.run("template", "remove", "tiny")
        print(f"  {len(points)} points")
        node.run(*verb)
        points = step_points(node, "template", "remove", "tiny")
        print(f"  {len(points)} points")
        for point in points:
            cut(node, point, "template", "remove", "tiny")
            assert node.json("template", "list") == [], f"killed at {point}"
            assert_no_orphans(node)
            node.run(*verb)


def test_template_import_killed_anywhere_leaves_nothing(node):
    """R9, T1: also where it replaces what a template was."""
    with own_node(Node, "crash-import") as node:
        first, second = (images.tar(images.tree(node.dir / f"tree{n}", release=str(n)), node.dir / f"{n}.tar") for n in (1, 2))
        tiny = node.json("template", "list")[0]["digest"][:16]
        node.run("template", "import", "made", first)
        made = next(t["digest"] for t in node.json("template", "list") if t["name"] == "made")
        verb = ["template", "import", "made", second, "--replace"]
        points = [*step_points(node, *verb), "template.after_base", "import.after_unpack", "template.after_marks",
                  "template.after_rename"]
        for point in points:
            cut(node, point, *verb)
            now = {t["name"]: t["digest"] for t in node.json("template", "list")}
            assert set(now) == {"made", "tiny"} and now["made"] != made, f"killed at {point}: {now}"
            there = {tiny, now["made"][:16]}
            wait_for(f"what was replaced is gone: {point}", lambda: set(os.listdir(pool_path(node) / "templates")) == there)
            assert_no_orphans(node)
            node.run("template", "import", "made", first, "--replace")
        print(f"  {len(points)} points")


def test_template_pull_killed_anywhere_leaves_nothing(node):
    """R9, T1: also nothing of the download."""
    with own_node(Node, "crash-pull") as node:
        (node.dir / "www").mkdir()
        with servers.serving(node.dir / "www") as server:
            server.add("tiny/1", "1", servers.metadata(node.dir, 1), servers.rootfs(node.dir, 1))
            verb = ["template", "pull", server.url, "pulled", "--image", "tiny/1"]
            points = [*step_points(node, *verb), "pull.after_download", "import.after_unpack", "template.after_rename"]
            for point in points:
                cut(node, point, *verb)
                assert {t["name"] for t in node.json("template", "list")} == {"pulled", "tiny"}, f"killed at {point}"
                assert not (node.state / "downloads").exists(), f"killed at {point}"
                assert_no_orphans(node)
                node.run("template", "remove", "pulled")
        print(f"  {len(points)} points")


@only("btrfs", "a pool in a file")
def test_init_killed_anywhere_can_be_done_again(node):
    """R9: a pool that was begun is no pool; the next init makes it."""
    points = [p for p in driver_points() if p.startswith("format.")]
    for point in points:
        fresh = Node("crash-init", size="256M")
        try:
            pool = f"loop:{fresh.pool_file},size=256M,sparse"
            words = [MAYFLY, "init", "--pool", pool, "--state-dir", str(fresh.state), "--no-network"]
            died = sh("env", f"MAYFLY_CRASH_AT={point}", *words, check=False)
            assert died.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), f"{point}: {died}"
            CUT.add(point)
            served = sh(MAYFLY, "serve", "--state-dir", str(fresh.state), check=False)
            assert served.returncode == 1 and "node.not_initialised" in served.stderr, served
            fresh.init()
            fresh.serve()
            assert_no_orphans(fresh)
            fresh.end_daemon()
        finally:
            fresh.remove()
        assert not fresh.leftovers()


def test_a_mirror_killed_anywhere_is_made_good(node):
    """H4: whatever a kill leaves of it, the next daemon brings it up to date."""
    ensure_tiny(node)
    for point in [p for p in driver_points() if p.startswith(("mirror.", "generation."))]:
        vps = node.json("create", "--template", "tiny", "--disk", "64M")["vps"]
        cut(node, point, "set", vps, "processes=5000")
        wait_for("fsck agrees", lambda: node.run("fsck", check=False).returncode == 0, 30, 1)
        assert_no_orphans(node)
        node.run("destroy", vps, "--yes")
