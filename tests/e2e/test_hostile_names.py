"""Names and paths of a guest in what the host reads: none of them blinds it, stops anybody, or reaches a terminal."""
import pathlib

from harness import wait_for
from hostile import attack, besieged, mount_cgroup
from test_empty_root import PROFILE
from test_hostile_console import ACTS, on_a_terminal
from truth import assert_no_orphans, kill, operations_over


def test_a_process_with_a_root_too_deep_to_be_named_stops_nobody(node):
    """H8: /proc/PID/root of such a process cannot be read. Every VPS of the node used to be refused a start and a stop."""
    with besieged(node) as (vps, other):
        assert attack(node, vps, "deep-root", 30) == (30, "none")
        other.feels_nothing()
        node.run("stop", vps, "--force")
        node.run("start", vps)
        other.daemon_has_not_grown()


def test_cgroups_with_names_that_are_no_text_or_too_deep_are_swept(node):
    """H8: after the supervisor was killed. Such a VPS could not be stopped, started or destroyed any more."""
    for what, depth in (("odd-cgroup", 0), ("deep-cgroup", 40)):
        for controller in ("pids", ""):
            with besieged(node) as (vps, other):
                at = mount_cgroup(node, vps, controller)
                if at is None:
                    print(f"  no hierarchy of {controller or 'version 2'} for a guest on this host")
                    continue
                got, error = attack(node, vps, what, depth, at)
                # A guest of cgroup v2 may not put processes beside groups.
                assert got == depth and error in ("none", "EBUSY", "EOPNOTSUPP"), (what, controller, got, error)
                old = node.show(vps)["run"]["id"]
                kill(next(pid for pid in node.supervisors() if f"/{vps}." in command(pid)))
                wait_for("it runs again", lambda: (run := node.show(vps)["run"]) and run["id"] != old
                         and run["phase"] == "running", 30)
                operations_over(node)
                assert not [c for c in node.cgroups(vps) if f".{old}" in c], f"{what}: its cgroups are left"
                node.run("stop", vps, "--force")
                other.feels_nothing()
    assert_no_orphans(node)


def test_names_that_are_no_text_do_not_hide_whose_a_process_is(node):
    """H8: the host ids of a guest's process are read beside its name. One with a slow mount table and such a name was
    taken for nobody's, and its table read to the end, for minutes."""
    deep = "d" * 200
    fill = (f"cd /; i=0; while [ $i -lt 15 ]; do mkdir {deep}; cd {deep}; i=$((i+1)); done; mount -t tmpfs x . ; "
            f"cd /{deep}; cd {'/'.join([deep] * 14)}; mkdir a b; mount --bind a b; mount --make-rshared /; i=0; "
            "while [ $i -lt 12 ]; do mount --rbind a a || break; i=$((i+1)); done; "
            "unshare -m /persistent/attacks mute-names 1 > /tmp/mute 2>&1 < /dev/null & "
            "n=0; while [ ! -s /tmp/mute ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done; cat /tmp/mute")
    with besieged(node) as (vps, other):
        assert "mute-names 1" in node.exec(vps, "sh", "-c", fill)
        other.feels_nothing()
        node.run("stop", vps, "--force")


def test_a_name_in_what_fails_does_not_act_on_a_terminal(node):
    """H8: a guest says where its profile leads, and a start that is refused for it says so: in the refusal, in `events`, in
    `logs`, each of them on lines of its own."""
    with node.vps("nixos-shaped", wait=False) as vps:
        since = node.refused("input.invalid", "events", "--since", 10**15).message.rsplit(" ", 1)[1]
        name = "/nix/\x1b]0;owned\x07\x1b[2J\n9999  run 000000 forged\u202e"
        node.exec(vps, "ln", "-sfn", name, f"{PROFILE}-1-link")
        assert "forged" in node.refused("vps.would_not_boot", "restart", vps).message
        for words in (["restart", vps], ["logs", vps, "--events"], ["logs", vps],
                      ["operation", "list"], ["events", "--since", since, "--vps", vps]):
            said = on_a_terminal(node, *words, last=b"forged")
            assert b"run 000000 forged" in said, (words, said)
            assert not ACTS.search(said), (words, ACTS.search(said))
            assert not [line for line in said.splitlines() if line.startswith(b"9999")], (words, said)


def command(pid):
    return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
