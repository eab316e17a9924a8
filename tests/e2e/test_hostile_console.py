"""What a guest prints, and how fast. The ring, the supervisor and the daemon stay within bounds, and no sequence of the
guest's acts on the terminal of whoever looks."""
import os
import pathlib
import pty
import re
import select
import subprocess
import time

from harness import MAYFLY, wait_for
from hostile import FULL, besieged, size_of

# Sets the title, clears, moves, asks for a report, switches the character set, is no text, and turns the direction.
EVIL = r"\033]0;owned\007\033[2J\033[10;10H\033[6n\033c\033(0\377\376\302\233" + r"31m\342\200\256evil\033P+q544e\033\\\r\n"
ACTS = re.compile(rb"\x1b(?!\[[0-9;:]*m)|\x07|\x08|\x9b|\xe2\x80\xae")


def on_a_terminal(node, *words, last=None):
    """What a command prints to a terminal, all of it; of one that does not end, up to a line with `last`."""
    controller, terminal = pty.openpty()
    argv = [MAYFLY, "--socket", node.state / "api.sock", *map(str, words)]
    with subprocess.Popen(argv, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True) as process:
        os.close(terminal)
        said = b""
        while True:
            ready, _, _ = select.select([controller], [], [], 30)
            assert ready, f"{words} prints nothing more and does not end"
            try:
                piece = os.read(controller, 1 << 16)
            except OSError:
                break
            if not piece:
                break
            said += piece
            if last and last in said[:said.rfind(b"\n") + 1]:
                process.kill()
        os.close(controller)
        process.wait(30)
    return said


def host_time(node, vps):
    """Seconds of processor time that supervisor and lxc-start have spent, and their processes."""
    state = node.run_state(vps)
    pids = [state["supervisor_pid"], state["lxc_pid"]]
    ticks = [pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13] for pid in pids]
    return sum(int(t) for pair in ticks for t in pair) / os.sysconf("SC_CLK_TCK"), pids


def test_a_console_flood_stays_within_bounds(node):
    """F3: the ring keeps a mebibyte; supervisor and lxc-start take neither memory nor, over the whole flood, more than a
    quarter of a processor, which is not counted to the VPS; `logs` and another VPS go on."""
    seconds = 60 if FULL else 8
    with besieged(node, "--cpus", "0.5") as (vps, other):
        spent, pids = host_time(node, vps)
        sizes = [size_of(pid) for pid in pids]
        node.exec(vps, "sh", "-c", f"echo begin > /dev/console; for n in 1 2; do yes $(printf '{EVIL}') > /dev/console "
                  "2>/dev/null < /dev/null & done")
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            other.feels_nothing()
            ring = node.state / f"consoles/{vps}"
            kept = sum(f.stat().st_size for f in ring.iterdir())
            assert kept <= (1 << 20) + 4096, f"the ring has {kept} bytes"
            time.sleep(0.5)
        lasted = time.monotonic() - began
        now, _ = host_time(node, vps)
        print(f"  {lasted:.0f} s of flood: {100 * (now - spent) / lasted:.0f} % of a processor for it on the host")
        assert kept > 500_000, f"only {kept} bytes: this proves nothing"
        assert now - spent < lasted / 4, f"{now - spent:.1f} s of the host's time in {lasted:.1f} s"
        grown = [size_of(pid) - size for pid, size in zip(pids, sizes)]
        assert max(grown) < 2048, f"grown by {grown} KiB"
        other.daemon_has_not_grown()
        assert len(node.run("logs", vps).stdout) > 100_000
        # A viewer that reads nothing costs nothing, and a run ends with it.
        with subprocess.Popen([MAYFLY, "--socket", node.state / "api.sock", "logs", str(vps), "--follow"],
                              stdout=subprocess.PIPE) as viewer:
            time.sleep(2)
            other.daemon_has_not_grown()
            began = time.monotonic()
            node.run("stop", vps, "--force")
            assert time.monotonic() - began < 30
            viewer.kill()
        other.feels_nothing()


def test_what_a_guest_prints_does_not_act_on_a_terminal(node):
    """F3: by `logs`, live and after the end; in names of processes, in what a failed start says, in the daemon's log."""
    with besieged(node) as (vps, _):
        node.exec(vps, "sh", "-c", f"printf 'before {EVIL}after\\r\\n' > /dev/console")
        wait_for("it is printed", lambda: "after" in node.run("logs", vps).stdout, 10)
        said = on_a_terminal(node, "logs", vps)
        assert b"before" in said and b"after" in said and b"evil" in said, said
        assert not ACTS.search(said), ACTS.search(said)
        # Raw where it goes to a file: whoever wants the bytes gets them.
        raw = subprocess.run([MAYFLY, "--socket", node.state / "api.sock", "logs", str(vps)], capture_output=True, check=True)
        assert b"\x1b]0;owned\x07" in raw.stdout
        node.run("stop", vps, "--force")
        assert not ACTS.search(on_a_terminal(node, "logs", vps))
        assert not ACTS.search(on_a_terminal(node, "show", vps))
    log = (node.dir / "daemon.log").read_bytes()
    assert b"owned" not in log and not ACTS.search(log), ACTS.search(log)
