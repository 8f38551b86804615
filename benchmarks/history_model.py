"""
What a master may and must have counted, told by what was really reported. Pure.

Each report is a snapshot of the counters of one run of Xray, from its start to its end. A master
that knew the runs would count the last report of each. Real masters guess them, by one rule or
the other; where the rule cannot see a restart, what it misses is known exactly. So a ledger's sum
has but one right value after each report, and anything else is a defect.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from attrs import define, field, frozen

from mmwagent.testing.wire import Counter, Stats

MARKER = "run-"
"""The name of an outbound that carries nothing, with the number of its run after it."""


class NoRun(ValueError):
    """A snapshot does not tell which run of Xray it is of."""


def run_of(snapshot: Stats) -> int:
    """
    Return the number of the run that `snapshot` is of, by its markers. Raises NoRun.

    It is the highest: those of older runs may be told of as zero.
    """
    names = {name for kind, name, _ in snapshot if kind == "outbound" and name.startswith(MARKER)}
    if not names:
        raise NoRun("a report with the counters of no run")
    return max(int(name.removeprefix(MARKER)) for name in names)


@define
class JulyLedger:
    """
    The sums of a newer master (July 2026), which knows a restart of Xray only by its boot time.

    With each traffic report it compares the boot time that the heartbeats told last with the one
    at the traffic report before: another one, and all counters count in full. Else a counter that
    fell counts as nothing. The boot time it compares with is in its memory, and is gone when the
    master is killed; the sums are in its database. A name that it has never seen counts in full.
    """

    last: Stats = field(factory=dict)
    totals: Stats = field(factory=dict)
    restarts: int = 0
    _told: datetime | None = None
    _remembered: datetime | None = None

    def heartbeat(self, xray_boot_time: datetime | None) -> None:
        """Take the boot time of a heartbeat; one without says nothing of Xray."""
        self._told = xray_boot_time or self._told

    def traffic(self, snapshot: Stats) -> None:
        """Add a snapshot."""
        restarted = self._remembered is not None and self._told != self._remembered
        self._remembered = self._told
        self.restarts += restarted
        for counter, value in snapshot.items():
            before = 0 if restarted else self.last.get(counter, 0)
            self.totals[counter] = self.totals.get(counter, 0) + max(0, value - before)
        self.last.update(snapshot)

    def forget(self) -> None:
        """Be killed and started again."""
        self._remembered = None


@frozen
class _Seen:
    """A counter as it was reported last: in which run, and by which agent."""

    value: int
    run: int
    agent: int


@define
class Account:
    """
    What was reported of each run, and what of it each rule cannot have counted.

    `may_misses` is for the May master, which knows a restart only by a fall: a counter that is
    not below its old value when a new run first gives it has hidden the restart, and the old
    value is missing. `july_misses` is for the July master, which compares each counter with its
    old value but at the first report of a run, and at that one too if it was killed before.
    """

    reported: dict[int, Stats] = field(factory=dict)
    may_misses: Stats = field(factory=dict)
    july_misses: Stats = field(factory=dict)
    hidden_from_may: set[int] = field(factory=set)
    hidden_from_july: set[int] = field(factory=set)
    _last: dict[Counter, _Seen] = field(factory=dict)
    _run: int = 0
    _agent: int = 0
    _forgot: bool = False

    def heartbeat(self, agent: int) -> None:
        """Note which agent speaks: each that is started has another number."""
        self._agent = agent

    def master_killed(self) -> None:
        """Note that the master lost its memory, and kept its database."""
        self._forgot = True

    def report(self, snapshot: Stats) -> list[str]:
        """Take a snapshot in the order of arrival; return what is wrong with it."""
        try:
            run = run_of(snapshot)
        except NoRun as problem:
            return [str(problem)]
        problems = []
        if run < self._run:
            problems.append(f"a report of run {run} came after one of run {self._run}")
        first = run not in self.reported
        for counter, value in snapshot.items():
            seen = self._last.get(counter)
            if seen is not None and seen.run == run and value < seen.value:
                problems.append(f"{_named(counter)} fell from {seen.value} to {value}")
            elif seen is not None and seen.run < run:
                self._begins(counter, value, seen, run, first)
                if not first and seen.agent == self._agent:
                    problems.append(f"{_named(counter)} came late: it began without a zero")
            self._last[counter] = _Seen(value, run, self._agent)
        self.reported.setdefault(run, {}).update(snapshot)
        self._run = max(run, self._run)
        self._forgot = False
        return problems

    def _begins(self, counter: Counter, value: int, seen: _Seen, run: int, first: bool) -> None:
        """Note what the rules cannot see of a new beginning of `counter`."""
        if 0 < seen.value <= value:
            _add(self.may_misses, {counter: seen.value})
            self.hidden_from_may.add(run)
        missed = 0 if first and not self._forgot else min(value, seen.value)
        if missed:
            _add(self.july_misses, {counter: missed})
            self.hidden_from_july.add(run)

    def right(self) -> Stats:
        """Return the sum of the last reports of all runs."""
        sums: Stats = {}
        for stats in self.reported.values():
            _add(sums, stats)
        return sums

    def differences(self, totals: Mapping[Counter, int], misses: Stats) -> list[str]:
        """Return where the sums of a ledger are not those they have to be by its rule."""
        found = []
        for counter, right in self.right().items():
            counted, wanted = totals.get(counter, 0), right - misses.get(counter, 0)
            if counted != wanted:
                found.append(f"{_named(counter)}: counted {counted}, and right is {wanted}")
        return found


def _named(counter: Counter) -> str:
    return " ".join(counter)


def _add(sums: Stats, more: Stats) -> None:
    for counter, value in more.items():
        sums[counter] = sums.get(counter, 0) + value


@define
class Silence:
    """
    How long no report came though nothing was broken, seconds.

    `recovery` is the longest time from the moment all was whole again to the next report, `gap`
    the longest between two reports while all stayed whole. A wait that something broke off
    counts for as long as it lasted.
    """

    recovery: float = 0.0
    gap: float = 0.0
    _broken: set[str] = field(factory=set)
    _since: float | None = None
    _after_report: bool = False

    def broke(self, what: str, at: float) -> None:
        """Note that `what` is broken."""
        self._waited(at)
        self._broken.add(what)
        self._since = None

    def mended(self, what: str, at: float) -> None:
        """Note that `what` is whole again."""
        self._broken.discard(what)
        if not self._broken and self._since is None:
            self._since, self._after_report = at, False

    def reported(self, at: float) -> None:
        """Note a report."""
        self._waited(at)
        if self._since is not None:
            self._since, self._after_report = at, True

    def _waited(self, at: float) -> None:
        if self._since is None:
            return
        waited = at - self._since
        if self._after_report:
            self.gap = max(self.gap, waited)
        else:
            self.recovery = max(self.recovery, waited)
