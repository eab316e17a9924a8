"""P4 under kill -9: the stored version of a copy is always a whole one, never older than the last that had settled.

MAYFLY_COPY_KILLS=200 is the long form; MAYFLY_SEED repeats what was done to whom, not the moments at which it fell."""
import os
import random
import signal
import time

from harness import Node, wait_for
from persist import in_guest, sha, stored, template
from test_persist_copies import DECLARED
from truth import kill, own_node

KILLS = int(os.environ.get("MAYFLY_COPY_KILLS", "12"))
SEED = int(os.environ.get("MAYFLY_SEED", random.SystemRandom().randrange(1 << 32)))
# Left alone for a second it has settled.
SETTLED = 1.0

# Versions in bursts with pauses; each is whole by rename, or written in place in two halves. When each was finished is
# noted, by the clock that the host has too.
WRITER = r"""
n=$(cat /persistent/count 2>/dev/null || echo 0)
while :; do
    for burst in 1 2 3; do
        n=$((n + 1)); echo $n > /persistent/count
        line="version $n "
        sum=$(printf %s "$line" | sha256sum | cut -d' ' -f1)
        if [ $((n % 2)) = 0 ]; then
            printf '%s%s\n' "$line" $sum > /etc/app.conf.new; mv /etc/app.conf.new /etc/app.conf
        else
            exec 3> /etc/app.conf; printf %s "$line" >&3; sleep 0.05; printf '%s\n' $sum >&3; exec 3>&-
        fi
        echo "$n $(cat /proc/uptime | cut -d' ' -f1)" >> /persistent/written
    done
    sleep $((n % 4))
done
"""


def uptime():
    with open("/proc/uptime") as file:
        return float(file.read().split()[0])


def version(text):
    """The number of a whole version."""
    words = text.split()
    assert len(words) == 3 and text.endswith("\n"), f"not a whole version: {text!r}"
    line = f"version {words[1]} "
    assert words[2] == sha(line), f"not a whole version: {text!r}"
    return int(words[1])


def written(node, vps):
    """[(version, when it was finished)]; the last line may be cut off."""
    text = stored(node, vps, "/written") or ""
    return [(int(n), float(at)) for n, at in (line.split() for line in text.splitlines() if line.count(" ") == 1)]


def last_settled(all_written, begun, died, is_heard):
    """The newest version that must be stored: the one that was there at the end, if it had settled and somebody heard of the
    end. One that was replaced since may never have been noticed: after a harvest that took long the next one waits."""
    settled = [n for n, finished in all_written if n == begun and died - finished >= SETTLED + 0.02]
    return max(settled, default=0) if is_heard else 0


def begin(node, vps):
    node.run("exec", vps, "--", "sh", "-c", f"cat > /writer <<'END'\n{WRITER}END\n(sh /writer) > /dev/null 2>&1 < /dev/null &")


def test_kills_leave_whole_versions_that_are_not_old(node):
    print(f"  {KILLS} kills, MAYFLY_SEED={SEED}")
    chance = random.Random(SEED)
    with own_node(Node, "copies") as node, template(node, "copies", DECLARED) as name, node.vps(name, wait=False) as vps:
        oldest, writes = 0, False
        for n in range(KILLS):
            # One writer: where only the daemon was killed it goes on.
            if not writes:
                begin(node, vps)
            writes = True
            time.sleep(chance.uniform(0.2, 4.5))
            whom = chance.choice(["guest", "supervisor", "daemon", "daemon, then supervisor", "daemon, then guest"])
            if whom.startswith("daemon"):
                node.kill_daemon()
                if "then" in whom:
                    time.sleep(chance.uniform(0, 3))
            state = node.run_state(vps)
            died = None
            if whom.endswith("guest"):
                died = uptime()
                kill(state["init_pid"])
            elif whom.endswith("supervisor"):
                died = uptime()
                kill(state["supervisor_pid"])
            if whom.startswith("daemon"):
                node.serve()
            if died is None:
                continue
            wait_for("it is started again, or stays down", lambda: node.show(vps)["state"] in ("stopped", "running")
                     and node.show(vps)["run"] != state and not still_the_same(node, vps, state))
            node.run("stop", vps, "--force", check=False)
            text = stored(node, vps, "/etc/app.conf")
            got = version(text) if text else 0
            # Who was dead could not hear of it: then what the supervisor had taken counts.
            begun = int((stored(node, vps, "/count") or "0").strip() or 0)
            want = last_settled(written(node, vps), begun, died, whom != "daemon, then supervisor")
            assert got >= want, (f"kill {n} of {whom} at {died}: version {got} is stored, and {want} had settled\n"
                                 f"{written(node, vps)[-6:]}\n{node.log_end(40)}")
            assert got >= oldest, f"kill {n} of {whom}: version {got} is stored, it was {oldest} before"
            oldest, writes = got, False
            node.run("start", vps)
        print(f"  the last version that was stored is {oldest}")
        assert oldest > 0


def still_the_same(node, vps, state):
    now = node.run_state(vps)
    return now is not None and now["supervisor_pid"] == state["supervisor_pid"] and now["end"] is None
