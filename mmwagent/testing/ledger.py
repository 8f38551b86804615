"""
The master's sums of traffic: cumulative counters in, deltas and totals out.

A counter that falls tells the master that Xray restarted, so its new value counts in full. Hence
a failed scrape sent as zeros, or an older snapshot sent late, makes traffic count twice; this
ledger shows it.
"""

from __future__ import annotations

from attrs import define, field, frozen

from mmwagent.testing.wire import Counter, Stats


@frozen
class Entry:
    """What one snapshot added, in bytes by counter, and the counters that had fallen."""

    added: Stats
    fallen: tuple[Counter, ...]


@define(eq=False)
class TrafficLedger:
    """
    The sums of one agent, over both doors.

    The first snapshot counts in full; `first` keeps it for whoever wants to subtract it. A name
    that is missing from a snapshot keeps its last value, as a row in the master's database does.
    `newest` is the last snapshot alone.
    """

    first: Stats | None = None
    newest: Stats = field(factory=dict)
    last: Stats = field(factory=dict)
    totals: Stats = field(factory=dict)
    entries: int = 0
    restarts: int = 0
    latest: Entry = Entry({}, ())

    def take(self, snapshot: Stats) -> Entry:
        """Add a snapshot, and return what it changed."""
        added: Stats = {}
        fallen = []
        for counter, value in snapshot.items():
            before = self.last.get(counter, 0)
            if value < before:
                fallen.append(counter)
                before = 0
            added[counter] = value - before
            self.totals[counter] = self.totals.get(counter, 0) + value - before
        if self.first is None:
            self.first = dict(snapshot)
        self.newest = dict(snapshot)
        self.last.update(snapshot)
        self.entries += 1
        self.restarts += bool(fallen)
        self.latest = Entry(added, tuple(fallen))
        return self.latest

    def total(self, kind: str, direction: str, name: str | None = None) -> int:
        """Return the bytes of all names of a kind ("user", "uplink"), or of one name."""
        return summed(self.totals, kind, direction, name)


def summed(stats: Stats, kind: str, direction: str, name: str | None = None) -> int:
    """Return the bytes of one kind and direction in `stats`, of all names or of one."""
    return sum(
        value
        for (its_kind, its_name, its_direction), value in stats.items()
        if its_kind == kind and its_direction == direction and name in (None, its_name)
    )
