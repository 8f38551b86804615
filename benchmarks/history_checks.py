"""What is claimed of a history, checked after each report and at the end."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.history import GAP, RECOVERY, WAYS, Found
from benchmarks.history_model import Account, JulyLedger, Silence
from benchmarks.history_traffic import Passed
from mmwagent.testing import wire
from mmwagent.testing.records import AgentRecord, Event, Report, Violation
from mmwagent.testing.wire import Counter, Stats

USER = "alice@example.com"


class Checks:
    """
    Keeps the books of a history, and writes into `found` which claims do not hold.

    `observe` is for the stand-in master, whose own ledger follows the May master's rule. `passed`
    is what truly passed.
    """

    def __init__(self, found: Found, passed: Passed, now: Callable[[], float]) -> None:
        self.run = 0
        self.silence = Silence()
        self._found = found
        self._passed = passed
        self._now = now
        self._account = Account()
        self._july = JulyLedger()
        self._read: dict[int, Stats] = {}

    def observe(self, record: AgentRecord, event: Report | Violation | Event) -> None:
        """Take note of what the master notes."""
        if isinstance(event, Violation):
            self._break("the wire is kept to", f"{event.rule}: {event.detail}")
        elif isinstance(event, Report) and event.accepted:
            self._found.reports[f"{event.type} by {event.door}"] += 1
            if event.type == "heartbeat":
                self._july.heartbeat(record.xray_boot_time)
                self._account.heartbeat(record.listen_port)
            elif event.type == "traffic":
                self._counted(record, wire.traffic(event.payload).value or {})

    def master_killed(self) -> None:
        """Note that the master was killed."""
        self._account.master_killed()
        self._july.forget()

    def read(self, stats: Stats, exactly: bool) -> None:
        """Compare the counters of the present Xray with what passed, if none is under way."""
        self._read[self.run] = stats
        for way in WAYS:
            read, handed = stats.get(_user(way), 0), self._passed.handed[self.run, way]
            if read > handed or (exactly and read != handed):
                self._break("Xray counts what passed", f"{read} {way}, and {handed} passed")

    def reported(self, run: int, way: str) -> int:
        """Return what the last report of a run told of the user."""
        return self._account.reported.get(run, {}).get(_user(way), 0)

    def whole(self) -> bool:
        """Tell whether all that passed in the present run is reported."""
        handed = self._passed.handed
        return all(self.reported(self.run, way) == handed[self.run, way] for way in WAYS)

    def _counted(self, record: AgentRecord, snapshot: Stats) -> None:
        """Check the sums after a report: this is the heart of it all."""
        self.silence.reported(self._now())
        self._july.traffic(snapshot)
        for problem in self._account.report(snapshot):
            self._break("reports follow each other", problem)
        for (run, way), handed in self._passed.handed.items():
            if self.reported(run, way) > handed:
                self._break("no more is reported than passed", f"{way} of run {run}")
        self._sums("May", record.traffic.totals, self._account.may_misses)
        self._sums("July", self._july.totals, self._account.july_misses)

    def _sums(self, master: str, totals: Stats, misses: Stats) -> None:
        for difference in self._account.differences(totals, misses):
            self._break(f"the {master} master counts what its rule has to give", difference)
        for way in WAYS:
            counted = totals.get(_user(way), 0)
            if counted > self._passed.total(way):
                self._break(f"the {master} master never counts too much", f"{counted} {way}")

    def _break(self, claim: str, case: str) -> None:
        self._found.broken.setdefault(claim, f"{case} (during run {self.run} of Xray)")

    def sum_up(self, record: AgentRecord) -> None:
        """Write into what was found what it all came to."""
        found, account = self._found, self._account
        if not self.whole():
            self._break("the end is whole", "bytes of the last run are not at the master")
        found.hidden_from_may = len(account.hidden_from_may)
        found.hidden_from_july = len(account.hidden_from_july)
        runs = range(1, self.run + 1)
        for way in WAYS:
            counter = _user(way)
            found.passed[way] = self._passed.total(way)
            found.may[way] = record.traffic.totals.get(counter, 0)
            found.july[way] = self._july.totals.get(counter, 0)
            found.may_misses[way] = account.may_misses.get(counter, 0)
            found.july_misses[way] = account.july_misses.get(counter, 0)
            found.lost_at_most[way] = sum(
                self._passed.handed[run, way] - self.reported(run, way) for run in runs
            )
            found.lost_at_least[way] = sum(
                max(0, self._read.get(run, {}).get(counter, 0) - self.reported(run, way))
                for run in runs
            )
        found.recovery, found.gap = self.silence.recovery, self.silence.gap
        if found.recovery > RECOVERY or found.gap > GAP:
            self._break("no silence while all is whole", f"{found.recovery}, {found.gap} s")


def _user(way: str) -> Counter:
    return "user", USER, way
