"""What is measured, and the table of it."""
import datetime
import statistics
import time

from scene import machine, milliseconds, noted, pss, until


def spread(values):
    """Median and quartiles."""
    ordered = sorted(values)
    quarter = lambda n: ordered[round((len(ordered) - 1) * n / 4)]
    return {"median": statistics.median(ordered), "q1": quarter(1), "q3": quarter(3), "n": len(ordered)}


class Report:
    """Figures by what was measured and by side, and what was aimed at."""

    def __init__(self, words, missing):
        self.words, self.missing = words, missing
        self.machine = machine()
        self.figures, self.targets = {}, []

    def add(self, what, unit, side, values):
        self.figures.setdefault(what, {"unit": unit, "sides": {}})["sides"][side] = spread(values)

    def median(self, what, side):
        return self.figures.get(what, {"sides": {}})["sides"].get(side, {}).get("median")

    def target(self, words, got, most, unit=""):
        """A figure that ought to be at most so much; none where a peer is missing."""
        self.targets.append({"target": words, "got": got, "most": most, "unit": unit,
                             "met": None if got is None else got <= most})

    def ratio(self, what, of, to):
        got, base = self.median(what, of), self.median(what, to)
        return None if got is None or base is None else got / base

    def as_json(self):
        return {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "machine": self.machine, "rounds": self.words.rounds, "without_incus": self.missing,
                "figures": self.figures, "targets": self.targets}

    def table(self):
        lines = [f"{key}: {value}" for key, value in self.machine.items()]
        if self.missing:
            lines.append(f"incus: {self.missing}")
        lines += ["", f"{'':44}{'Mayfly':>22}{'bare LXC':>22}{'Incus':>22}{'/ LXC':>7}{'/ Incus':>8}"]
        for what, figure in self.figures.items():
            row = f"{what + ', ' + figure['unit']:44}"
            for side in ("mayfly", "plain", "incus"):
                one = figure["sides"].get(side)
                row += f"{'-':>22}" if one is None else f"{one['median']:9.1f} {'[%.1f, %.1f]' % (one['q1'], one['q3']):>12}"
            for other, width in (("plain", 7), ("incus", 8)):
                ratio = self.ratio(what, "mayfly", other)
                row += f"{'-':>{width}}" if ratio is None else f"{ratio:{width}.2f}"
            lines.append(row)
        lines += ["", "medians [quartiles]", ""]
        for one in self.targets:
            got = "not measured" if one["got"] is None else f"{one['got']:.2f}{one['unit']}"
            said = {True: "met", False: "MISSED", None: ""}[one["met"]]
            lines.append(f"{one['target']:72}{got:>14} of {one['most']:g}{one['unit']}  {said}")
        return "\n".join(lines)


def turns(scene, guests, rounds, once):
    """`once(guest)` for every guest in turns, the order moving on by one each round; the first round does not count."""
    for number in range(rounds + 1):
        shift = number % len(guests)
        for guest in guests[shift:] + guests[:shift]:
            once(guest, number > 0)
            guest.side_of.idle()
            scene.settle()


def one_each(sides, number):
    guests = []
    for side in sides:
        guest = side.guest(number)
        guest.side_of = side
        guests.append(guest)
    return guests


def booted(guest):
    at = noted(guest.root(), "booted")
    state = (guest.root() / "booted.state").read_text().strip()
    if state != "running":
        raise RuntimeError(f"{guest.side_of.label}: systemd says {state}")
    return at


def start(scene, sides, words, report):
    """From the request to the guest's first instruction, on a fresh root; and the stop by force."""
    seen = {}

    def once(guest, counts):
        name = guest.side_of.name
        began, returned = guest.start()
        values = {"start to first instruction": milliseconds(began, noted(guest.root())),
                  "start until answered": milliseconds(began, returned)}
        booted(guest)
        began, returned = guest.stop()
        values["stop by force"] = milliseconds(began, returned)
        guest.tidy()
        if name == "mayfly":
            began, _ = guest.start_by_command()
            values["start to first instruction, by command"] = milliseconds(began, noted(guest.root()))
            guest.stop()
        if counts:
            for what, value in values.items():
                seen.setdefault((what, name), []).append(value)
    turns(scene, one_each(sides, 1), words.rounds, once)
    for (what, side), values in sorted(seen.items()):
        # Bare LXC answers nobody.
        if (what, side) != ("start until answered", "plain"):
            report.add(what, "ms", side, values)
    what = "start to first instruction"
    report.target("start to the guest's first instruction / bare LXC", report.ratio(what, "mayfly", "plain"), 1.3)


def restart(scene, sides, words, report):
    """By force, of a guest whose systemd runs, until the first instruction in the new root."""
    what, guests = "restart by force to first instruction", one_each(sides, 2)
    seen = {}
    for guest in guests:
        guest.start()

    def once(guest, counts):
        booted(guest)
        began, returned = guest.restart()
        first = milliseconds(began, noted(guest.root()))
        guest.tidy()
        # The others are not to be measured beside its boot.
        booted(guest)
        if counts:
            seen.setdefault((what, guest.side_of.name), []).append(first)
            seen.setdefault(("restart until answered", guest.side_of.name), []).append(milliseconds(began, returned))
    turns(scene, guests, words.rounds, once)
    for guest in guests:
        guest.stop()
        guest.tidy()
    for (figure, side), values in sorted(seen.items()):
        if (figure, side) != ("restart until answered", "plain"):
            report.add(figure, "ms", side, values)
    report.target("restart --force of a booted guest / bare LXC", report.ratio(what, "mayfly", "plain"), 1.3)
    report.target("restart --force of a booted guest / Incus", report.ratio(what, "mayfly", "incus"), 0.5)


def dirty(scene, sides, words, report):
    """A stop by force and the next start, with and without many unsynced files in the root."""
    guests, seen = one_each(sides, 3), {}

    def once(guest, counts):
        for kind in ("clean", "dirty"):
            guest.start()
            booted(guest)
            if kind == "dirty":
                guest.run("/usr/sbin/first", "--fill", str(words.files), "/dirt")
            stop_began, stop_ended = guest.stop()
            began, _ = guest.start()
            first = noted(guest.root())
            if counts:
                took = milliseconds(stop_began, stop_ended) + milliseconds(began, first)
                seen.setdefault((kind, guest.side_of.name), []).append(took)
            guest.stop()
            guest.tidy()
            guest.side_of.idle()
            scene.settle()
    turns(scene, guests, max(3, words.rounds // 3), once)
    for (kind, side), values in sorted(seen.items()):
        report.add(f"stop by force and next start, {kind} root", "ms", side, values)
    more = [report.median(f"stop by force and next start, {kind} root", "mayfly") for kind in ("dirty", "clean")]
    report.target(f"stop and next start, dearer after {words.files} dirty files", more[0] - more[1], 20, " ms")


def many(scene, sides, words, report):
    """All guests at once, until every systemd says that it runs. What twenty weigh is looked at on the way."""
    what = f"{words.guests} guests, all running"
    groups = [[one for number in range(words.guests) for one in one_each([side], 100 + number)] for side in sides]
    seen = {}
    for number in range(4):
        shift = number % len(groups)
        for guests in groups[shift:] + groups[:shift]:
            side = guests[0].side_of
            for guest in guests:
                guest.prepare()
            began = time.monotonic_ns()
            for guest in guests:
                getattr(guest, "ask_start", guest.start)()
            until(f"{side.label}: all have a root", lambda: all_have_roots(guests), 60, 0.2)
            last = max(booted(guest) for guest in guests)
            # The first round makes what the others find.
            if number > 0:
                seen.setdefault(side.name, []).append(milliseconds(began, last))
            if number == 3:
                weigh(side, guests, report)
            for guest in guests:
                guest.stop()
                guest.tidy()
            side.idle()
            scene.settle()
    for side, values in seen.items():
        report.add(what, "ms", side, values)
    report.target(f"{words.guests} VPSes all up / bare LXC", report.ratio(what, "mayfly", "plain"), 1.1)
    report.target("supervisor and its lxc-start", report.median("a guest's processes on the host", "mayfly") / 1000, 3, " MB")
    report.target(f"daemon with {words.guests} VPSes", report.median("daemon", "mayfly") / 1000, 25, " MB")
    report.target(f"list of {words.guests} running VPSes with state", report.median("list with state", "mayfly"), 10, " ms")


def declared(scene, sides, words, report):
    """What a thousand declared directories add to a start, beside as many plain mounts."""
    what, paths = "start to first instruction", [f"/srv/group{n % 50}/place{n}" for n in range(words.declared)]
    sides = [side for side in sides if side.name != "incus"]
    guests, seen = one_each(sides, 4) + one_each(sides, 5), {}
    for guest in guests[len(sides):]:
        guest.declare(paths)

    def once(guest, counts):
        began, _ = guest.start()
        kind = "declared" if guest in guests[len(sides):] else "none declared"
        first = milliseconds(began, noted(guest.root()))
        guest.stop()
        guest.tidy()
        if counts:
            seen.setdefault((kind, guest.side_of.name), []).append(first)
    turns(scene, guests, words.rounds, once)
    for (kind, side), values in sorted(seen.items()):
        count = words.declared if kind == "declared" else 0
        report.add(f"{what}, {count} declared", "ms", side, values)
    more = {side: report.median(f"{what}, {words.declared} declared", side) - report.median(f"{what}, 0 declared", side)
            for side in ("mayfly", "plain")}
    report.target(f"{words.declared} declarations add to a start", more["mayfly"], 50, " ms")
    report.target("the same beside as many plain mounts", more["mayfly"] / more["plain"], 2)


def all_have_roots(guests):
    try:
        return all(guest.root() for guest in guests)
    except (KeyError, TypeError, AttributeError):
        return False


def weigh(side, guests, report):
    kilobytes = lambda kib: kib * 1.024
    if side.name != "incus":
        report.add("a guest's processes on the host", "kB", side.name,
                   [kilobytes(sum(map(pss, guest.processes()))) for guest in guests])
    if hasattr(side, "daemon"):
        report.add("daemon", "kB", side.name, [kilobytes(pss(side.daemon.pid))])
        times = []
        for _ in range(30):
            began = time.monotonic_ns()
            listed = side.list_with_state()
            times.append(milliseconds(began, time.monotonic_ns()))
        assert len(listed if isinstance(listed, list) else listed["metadata"]) >= len(guests)
        report.add("list with state", "ms", side.name, times)


ALL = {"start": start, "restart": restart, "declared": declared, "dirty": dirty, "many": many}
