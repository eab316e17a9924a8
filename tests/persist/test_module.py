"""Differential acceptance (SPEC P2): the module and `mayfly-guest apply` in twin trees, twice in a row.

MAYFLY_PERSIST_SCENES=N scenes (default 250), MAYFLY_PERSIST_SEED=N to begin with. With MAYFLY_IMPERMANENCE=DIR theirs are
the module's own scripts; without, they are told by module.py, and a run with DIR proves that telling.
"""
import json
import os
import random

import module
import scenes
import trees
from differences import DIFFERENCES, REMEMBERED, explain

SCRIPTS = os.environ.get("MAYFLY_IMPERMANENCE")


def ids():
    users = {name: user["uid"] for name, user in scenes.USERS.items()}
    groups = {user["group"]: user["gid"] for user in scenes.USERS.values()}
    return users, groups


def theirs(tree, declared, scripts):
    users = {**scenes.USERS, "ghost": {"group": "ghost", "home": "/home/ghost"}}

    def act(mounted):
        hands = module.Scripts() if scripts else module.Told(*ids(), mounted)
        return module.activate(hands, declared, users, mounted)

    return tree.inside(act)


def ours(tree, declared, like_module, spec):
    manifest = {storage: dict(settings) for storage, settings in declared.items()}
    with open(spec, "w") as file:
        json.dump({"version": 1, "run": "twin", "temporary_root": True, "storage": "/persistent", "manifest": manifest,
                   "like_module": like_module}, file)
    run = ["apply", "--spec", spec, "--root", tree.at, "--json"]
    before = tree.look()
    foreseen = json.loads(trees.guest(*run, "--dry-run").stdout)
    assert tree.look() == before, "a dry run changes nothing"
    report = json.loads(trees.guest(*run).stdout)
    foretold(foreseen, report)
    return report


def foretold(foreseen, report):
    """What a dry run says is what comes."""
    for one, other in zip(foreseen["declarations"], report["declarations"]):
        keys = ["path", "storage", "fate", "how"]
        assert [one.get(k) for k in keys] == [other.get(k) for k in keys], f"foreseen {one}, and it is {other}"


def prepare(at, things, scripts=None):
    tree = trees.Tree(at, scenes.STORAGES)
    os.mkdir(at + "/etc")
    for name, text in [("passwd", scenes.passwd()), ("group", scenes.group())]:
        with open(f"{at}/etc/{name}", "w") as file:
            file.write(text)
    if scripts:
        tree.add_programs(scripts)
    tree.put(things)
    return tree


def stays(look, storage, path):
    entry = look.get(path)
    stored = storage + path
    # A link of the base's that leads there by way of another link leads somewhere else, and by way of a file nowhere.
    through = [at for at in look if stored.startswith(at + "/") and look[at]["what"] != "directory"]
    return entry is not None and (entry["is"] == stored
                                  or entry["what"] == "link" and entry["content"] == stored and not through)


def one(number, work, hits):
    chance = random.Random(number)
    declared, things = scenes.scene(chance)
    told = prepare(work + "/told", things)
    real = prepare(work + "/real", things, SCRIPTS) if SCRIPTS else None
    twins = {like: prepare(f"{work}/ours-{like}", things) for like in (True, False)}
    before = told.look()
    try:
        last = {}
        for turn in (1, 2):
            theirs(told, declared, None)
            want = told.look()
            if real:
                theirs(real, declared, SCRIPTS)
                got = real.look()
                assert got == want, f"module.py is wrong about the scripts: {diff(want, got)}"
            for like, tree in twins.items():
                report = ours(tree, declared, like, work + "/spec.json")
                look = tree.look()
                scene = {"declared": declared, "like": like, "turn": turn, "before": before, "report": report,
                         "theirs": want, "ours": look, "users": scenes.USERS}
                check_report(scene)
                for path in sorted(set(want) | set(look)):
                    if want.get(path) != look.get(path):
                        name = explain(scene, path)
                        assert name, (f"turn {turn}, like_module {like}: {path}\n  theirs {want.get(path)}\n"
                                      f"  ours   {look.get(path)}\n  before {before.get(path)}")
                        hits[name] = hits.get(name, 0) + 1
                if turn == 2:
                    assert look == last[like], f"a repeated run changed {diff(last[like], look)}"
                    assert all(l["fate"] != "applied" for l in report["declarations"]), report
                last[like] = look
    except Exception:
        print(f"scene {number}: MAYFLY_PERSIST_SEED={number} MAYFLY_PERSIST_SCENES=1\n  {json.dumps(declared)}\n  {things}")
        raise
    finally:
        for tree in [told, real, *twins.values()]:
            if tree:
                tree.close()


def check_report(scene):
    """The report says of each declaration what a look at the tree says."""
    for line in scene["report"]["declarations"]:
        kept = stays(scene["ours"], line["storage"], line["path"])
        said = line["fate"] in ("applied", "already", "pending")
        # A file that is not there yet, in a directory that stays, stays once it is there.
        absent = line.get("how") == "inside" and line["path"] not in scene["ours"]
        assert kept == said or absent, f"the report says {line}, and it is {scene['ours'].get(line['path'])}"


def diff(one, other):
    return {p: (one.get(p), other.get(p)) for p in set(one) | set(other) if one.get(p) != other.get(p)}


def total(hits):
    """Without the one that every scene has."""
    return sum(count for name, count in hits.items() if name != REMEMBERED)


def test_twin_trees(work):
    count = int(os.environ.get("MAYFLY_PERSIST_SCENES", "250"))
    seed = int(os.environ.get("MAYFLY_PERSIST_SEED", random.SystemRandom().randrange(1 << 30)))
    print(f"{count} scenes from seed {seed}, against {'the scripts in ' + SCRIPTS if SCRIPTS else 'module.py'}")
    hits, equal = {}, 0
    for number in range(seed, seed + count):
        before = total(hits)
        one(number, work, hits)
        equal += total(hits) == before
    print(f"  {equal} scenes without any difference but the last; in the others:")
    for name in DIFFERENCES:
        print(f"  {hits.get(name, 0):6} differences: {name}")
