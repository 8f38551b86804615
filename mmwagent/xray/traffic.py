"""
Xray's counters as a value, and the sum over several Xray servers.

Counters run from the start of their Xray. The master adds up their growth and takes a fall for a
restart, after which it counts the new value in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

KINDS = ("inbound", "outbound", "user")
DIRECTIONS = ("uplink", "downlink")

Stats = Mapping[str, Mapping[str, Mapping[str, int]]]


class InvalidStats(ValueError):
    """What claims to be Xray's counters is not; str() says what is wrong."""


@frozen
class TrafficSnapshot:
    """
    All counters of one moment, bytes.

    `stats` is {"inbound" | "outbound" | "user": {name: {"uplink": int, "downlink": int}}}, with
    all three kinds.
    """

    stats: Stats = field(repr=False)


NOTHING = TrafficSnapshot({kind: {} for kind in KINDS})
_ZERO = dict.fromkeys(DIRECTIONS, 0)


def snapshot_of(stats: object) -> TrafficSnapshot:
    """
    Return the snapshot in `stats`, as Xray's /debug/vars gives it; null means no counter yet.

    Raises InvalidStats where a number is no whole, non-negative one: half an answer would look to
    the master like a restart.
    """
    if stats is None:
        return NOTHING
    if not isinstance(stats, dict):
        raise InvalidStats("stats is no object")
    return TrafficSnapshot({kind: _checked(kind, stats.get(kind)) for kind in KINDS})


def _checked(kind: str, named: object) -> Mapping[str, Mapping[str, int]]:
    if named is None:
        return {}
    if not isinstance(named, dict):
        raise InvalidStats(f"stats.{kind} is no object")
    # Xray gives both directions in nearly all cases: that way is kept short, for there may be
    # 50,000 users.
    for name, counters in named.items():
        try:
            up, down, others = counters["uplink"], counters["downlink"], len(counters) - 2
        except (KeyError, TypeError):
            return _checked(kind, _with_both(kind, named))
        if others:
            return _checked(kind, _with_both(kind, named))
        if type(up) is not int or type(down) is not int or up < 0 or down < 0:
            raise InvalidStats(f"stats.{kind}: a counter of {name!r} is no whole number")
    return named


def _with_both(kind: str, named: Mapping[str, object]) -> dict[str, dict[str, object]]:
    whole = {}
    for name, counters in named.items():
        if not isinstance(counters, dict):
            raise InvalidStats(f"stats.{kind}: {name!r} is no object")
        whole[name] = {direction: counters.get(direction, 0) for direction in DIRECTIONS}
    return whole


@define
class Tally:
    """
    Adds up several Xray servers so that one that restarts never makes the sum fall.

    A restarted Xray counts from zero. Were the sum to fall with it, the master would count the
    traffic of the others a second time; so what it had counted before stays in the sum. So does
    the last count of a server that gives none now. A single server's counters pass as they are:
    there the fall is the very sign by which the master knows a restart.

    A name that a single server no longer gives is zero. A restarted Xray knows no user until the
    first bytes of that user: unless told of the zero the master would compare those with the
    counter of the run before, and leave them out.
    """

    _last: dict[Any, TrafficSnapshot] = field(factory=dict, init=False)
    _carried: TrafficSnapshot = field(default=NOTHING, init=False)

    def count(self, newest: Mapping[Any, TrafficSnapshot]) -> None:
        """Take the newest counters of the sources that gave some, all of one moment."""
        several = len(self._last.keys() | newest.keys()) > 1
        for source, snapshot in newest.items():
            last = self._last.get(source, NOTHING)
            if several:
                self._carried = added([self._carried, _lost(last, snapshot)])
                self._last[source] = snapshot
            else:
                self._last[source] = _with_zeros(last, snapshot)

    def total(self) -> TrafficSnapshot:
        """Return the sum over all that was counted, an empty one before the first count."""
        return added([self._carried, *self._last.values()])


def added(snapshots: Sequence[TrafficSnapshot]) -> TrafficSnapshot:
    """Return the sum of `snapshots`, name by name."""
    return TrafficSnapshot(
        {kind: _sum([snapshot.stats[kind] for snapshot in snapshots]) for kind in KINDS}
    )


def _sum(
    parts: Sequence[Mapping[str, Mapping[str, int]]],
) -> Mapping[str, Mapping[str, int]]:
    first, *others = [part for part in parts if part] or [{}]
    if not others:
        return first
    sums = dict(first)
    for part in others:
        for name, counters in part.items():
            other = sums.get(name)
            sums[name] = counters if other is None else _both(other, counters)
    return sums


def _both(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {
        "uplink": one["uplink"] + other["uplink"],
        "downlink": one["downlink"] + other["downlink"],
    }


def _with_zeros(last: TrafficSnapshot, now: TrafficSnapshot) -> TrafficSnapshot:
    """Return `now` with a zero for each name that is in `last` alone."""
    if all(last.stats[kind].keys() <= now.stats[kind].keys() for kind in KINDS):
        return now  # as nearly always, and there may be 50,000 users
    return TrafficSnapshot(
        {kind: {**dict.fromkeys(last.stats[kind], _ZERO), **now.stats[kind]} for kind in KINDS}
    )


def _lost(last: TrafficSnapshot, now: TrafficSnapshot) -> TrafficSnapshot:
    """
    Return what was counted in `last` and is not in `now` any more.

    That is all of it when any counter fell, for then its Xray was restarted; else those counters
    that are no longer given.
    """
    gone: dict[str, dict[str, Mapping[str, int]]] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        given = now.stats[kind]
        for name, before in last.stats[kind].items():
            counters = given.get(name)
            if counters is None:
                gone[kind][name] = before
            elif (
                counters["uplink"] < before["uplink"] or counters["downlink"] < before["downlink"]
            ):
                return last
    return TrafficSnapshot(gone)
