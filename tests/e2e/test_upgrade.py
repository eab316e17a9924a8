"""A daemon of another version finds what an earlier one left, and the VPSes that run."""
import json
import sqlite3

from harness import alive
from truth import ensure_tiny

# What this program writes.
SCHEMA = 5


def change_state(node, *statements):
    """Rewrites the state database while no daemon has it."""
    database = sqlite3.connect(node.state / "state.db")
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def as_first_schema(table):
    return (f"UPDATE {table} SET value = json_set(value, '$.schema', 1) "
            "WHERE json_valid(value) AND json_extract(value, '$.schema') > 1")


def schema_of(database, vps):
    """The schema of a state database, and of the document of a VPS in it."""
    database = sqlite3.connect(database)
    document = database.execute("SELECT value FROM entries WHERE key = ?", [f"/vps/{vps}"]).fetchone()[0]
    schema, = database.execute("PRAGMA user_version").fetchone()
    database.close()
    return schema, json.loads(document)["schema"]


def assert_runs_on(node, vps, run):
    now = node.show(vps)["run"]
    assert (now["id"], now["init_pid"], now["root"]) == (run["id"], run["init_pid"], run["root"]), (run, now)
    assert alive(run["init_pid"])
    assert node.exec(vps, "cat", "/persistent/kept") == "kept"


def test_a_daemon_of_a_newer_schema_leaves_a_vps_running(node):
    """H3: state is saved before it is brought up to date; nothing of a run is touched."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        node.exec(vps, "sh", "-c", "echo kept > /persistent/kept")
        run = node.show(vps)["run"]
        node.end_daemon()
        change_state(node, as_first_schema("entries"), as_first_schema("history"), "PRAGMA user_version = 1")
        node.serve()
        assert_runs_on(node, vps, run)
        saved = list(node.state.glob("state.db.schema-1.revision-*"))
        assert len(saved) == 1, saved
        node.end_daemon()
        assert schema_of(saved[0], vps) == (1, 1)
        assert schema_of(node.state / "state.db", vps) == (SCHEMA, SCHEMA)
        node.serve()
        assert_runs_on(node, vps, run)
        saved[0].unlink()


def test_a_daemon_refuses_the_state_of_a_newer_one_and_leaves_a_vps_running(node):
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        node.exec(vps, "sh", "-c", "echo kept > /persistent/kept")
        run = node.show(vps)["run"]
        node.end_daemon()
        change_state(node, "PRAGMA user_version = 99")
        try:
            node.serve(wait=False)
            assert node.daemon.wait(60) == 1
            said = node.log_end(5)
            assert f"has schema 99; this program knows up to {SCHEMA}" in said, said
            assert alive(run["init_pid"])
        finally:
            change_state(node, f"PRAGMA user_version = {SCHEMA}")
            node.serve()
        assert_runs_on(node, vps, run)
