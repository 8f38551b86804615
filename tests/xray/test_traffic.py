"""Tests of Xray's counters as a value, and of their sum over several servers."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.testing.ledger import TrafficLedger
from mmwagent.xray.traffic import (
    DIRECTIONS,
    KINDS,
    NOTHING,
    InvalidStats,
    Tally,
    TrafficSnapshot,
    added,
    snapshot_of,
)
from tests.xray.helpers import Stats, stats

EMPTY: dict[str, Any] = {"inbound": {}, "outbound": {}, "user": {}}


def snapshot(users: dict[str, tuple[int, int]], **inbounds: tuple[int, int]) -> TrafficSnapshot:
    """Return a snapshot of users and inbounds, each as (uplink, downlink)."""
    return snapshot_of(stats(users, inbounds))


def flat(counted: TrafficSnapshot) -> dict[tuple[str, str, str], int]:
    """Return the counters by (kind, name, direction)."""
    return {
        (kind, name, direction): value
        for kind, names in counted.stats.items()
        for name, counters in names.items()
        for direction, value in counters.items()
    }


class SnapshotTests(SynchronousTestCase):
    """What /debug/vars holds becomes a snapshot, whole or not at all."""

    def refused(self, value: object) -> str:
        """Return why `value` is refused."""
        return str(self.assertRaises(InvalidStats, snapshot_of, value))

    def test_all_kinds(self) -> None:
        """Inbounds, outbounds and users come with both directions; other kinds are left out."""
        answer: Stats = {
            "inbound": {"in": {"uplink": 1, "downlink": 2}},
            "outbound": {"direct": {"downlink": 2**62, "uplink": 0}},
            "user": {"a@b": {"uplink": 5, "downlink": 6}},
        }
        self.assertEqual(snapshot_of({**answer, "online": 7}).stats, answer)

    def test_null_is_nothing(self) -> None:
        """Null, an empty object and missing or null kinds mean that nothing was counted yet."""
        for answer in (None, {}, {"user": None}, {"user": {}, "inbound": None}):
            with self.subTest(answer=answer):
                self.assertEqual(snapshot_of(answer).stats, EMPTY)

    def test_one_direction_missing(self) -> None:
        """A direction that is not given is zero, for that name alone."""
        answer = {
            "user": {
                "whole": {"uplink": 1, "downlink": 2},
                "up": {"uplink": 3},
                "down": {"downlink": 4},
                "none": {},
                "more": {"uplink": 5, "downlink": 6, "other": "x"},
                "last": {"uplink": 7, "downlink": 8},
            }
        }
        before = copy.deepcopy(answer)
        pairs = {
            name: (counters["uplink"], counters["downlink"])
            for name, counters in snapshot_of(answer).stats["user"].items()
        }
        self.assertEqual(
            pairs,
            {"whole": (1, 2), "up": (3, 0), "down": (0, 4), "none": (0, 0), "more": (5, 6)}
            | {"last": (7, 8)},
        )
        self.assertEqual({len(one) for one in snapshot_of(answer).stats["user"].values()}, {2})
        self.assertEqual(answer, before, "what was given was changed")

    def test_what_is_no_direction(self) -> None:
        """A counter that has neither direction is left out, were it the only oddity."""
        answer = {"user": {"a": {"uplink": 1, "downlink": 2, "other": float("nan")}}}
        self.assertEqual(snapshot_of(answer).stats["user"], {"a": {"uplink": 1, "downlink": 2}})

    def test_only_whole_numbers(self) -> None:
        """A fraction, a text, true, null or a negative number anywhere makes all invalid."""
        for wrong in (1.0, 1.5, float("nan"), "1", True, False, None, -1, [], {}):
            for direction in DIRECTIONS:
                for others in ({}, {"before": {"uplink": 1}}, {"b": {"uplink": 1, "downlink": 1}}):
                    with self.subTest(wrong=wrong, direction=direction, others=others):
                        counters = {"uplink": 1, "downlink": 1, direction: wrong}
                        said = self.refused({"user": {**others, "bad@x": counters}})
                        self.assertIn("stats.user", said)
                        self.assertIn("'bad@x' is no whole number", said)
                        self.refused({"user": {"bad@x": {direction: wrong}}})

    def test_only_objects(self) -> None:
        """Anything but objects makes all invalid, be it behind an incomplete name or before."""
        for wrong in (1, "uplink", [], True, 1.5):
            with self.subTest(wrong=wrong):
                self.assertEqual(self.refused(wrong), "stats is no object")
                self.assertEqual(self.refused({"inbound": wrong}), "stats.inbound is no object")
                for user in (
                    {"bad@x": wrong},
                    {"up": {"uplink": 1}, "bad@x": wrong},
                    {"bad@x": wrong, "up": {"uplink": 1}},
                ):
                    self.assertEqual(
                        self.refused({"user": user}), "stats.user: 'bad@x' is no object"
                    )
        self.assertEqual(self.refused({"user": {"a": None}}), "stats.user: 'a' is no object")


class AddedTests(SynchronousTestCase):
    """The sum of snapshots, name by name."""

    def test_sum(self) -> None:
        """Equal names are added up, others stand side by side, and no summand is changed."""
        one = snapshot({"a": (1, 2), "b": (3, 4)}, x=(9, 9))
        two = snapshot({"b": (10, 20), "c": (5, 6)}, x=(1, 0))
        three = snapshot({"b": (100, 200)})
        before = copy.deepcopy([one.stats, two.stats, three.stats])
        self.assertEqual(
            added([one, two, three]),
            snapshot({"a": (1, 2), "b": (113, 224), "c": (5, 6)}, x=(10, 9)),
        )
        self.assertEqual([one.stats, two.stats, three.stats], before)

    def test_nothing(self) -> None:
        """The sum of nothing is empty, with all three kinds."""
        self.assertEqual(added([]).stats, EMPTY)
        self.assertEqual(added([NOTHING, NOTHING]).stats, EMPTY)

    def test_nothing_stays_nothing(self) -> None:
        """The shared empty snapshot is never written to."""
        tally = Tally()
        tally.count({1: snapshot({"a": (1, 1)}), 2: NOTHING})
        tally.count({1: NOTHING, 2: snapshot({"a": (1, 1)})})
        tally.total()
        self.assertEqual(NOTHING.stats, EMPTY)


class SingleServerTests(SynchronousTestCase):
    """One server's counters pass as they are."""

    def test_before_the_first(self) -> None:
        """Before anything was counted the total is empty."""
        self.assertEqual(Tally().total().stats, EMPTY)

    def test_a_fall_passes(self) -> None:
        """A fall is the sign of a restart."""
        tally = Tally()
        for users in ({"a": (100, 200), "b": (1, 1)}, {"a": (5, 6), "b": (0, 2)}):
            tally.count({"xray": snapshot(users)})
            self.assertEqual(tally.total(), snapshot(users))

    def test_names_that_are_gone(self) -> None:
        """A name that is no longer given is zero, for as long as it is not given again."""
        tally = Tally()
        tally.count({"xray": snapshot({"a": (100, 200), "b": (1, 1)}, x=(9, 9))})
        gone = snapshot({"a": (0, 0), "b": (0, 0)}, x=(0, 0))
        for _ in range(2):
            tally.count({"xray": NOTHING})
            self.assertEqual(tally.total(), gone)
        tally.count({"xray": snapshot({"a": (5, 6), "c": (7, 8)})})
        self.assertEqual(
            tally.total(), snapshot({"a": (5, 6), "b": (0, 0), "c": (7, 8)}, x=(0, 0))
        )
        self.assertEqual(NOTHING.stats, EMPTY)

    def test_first_bytes_after_a_restart(self) -> None:
        """A user who comes back some reports after a restart counts in full at the master."""
        for first in (60, 100, 300):  # below, at and above what the user had before
            with self.subTest(first=first):
                tally, ledger = Tally(), TrafficLedger()
                runs: list[dict[str, tuple[int, int]]] = [{"a": (100, 0)}, {}, {"a": (first, 0)}]
                for users in runs:
                    tally.count({"xray": snapshot(users)})
                    ledger.take(flat(tally.total()))
                self.assertEqual(ledger.total("user", "uplink"), 100 + first)

    def test_no_answer(self) -> None:
        """Where nothing was heard the last count stays."""
        tally = Tally()
        tally.count({"xray": snapshot({"a": (100, 200)})})
        tally.count({})
        self.assertEqual(tally.total(), snapshot({"a": (100, 200)}))


class SeveralServersTests(SynchronousTestCase):
    """The counters of several are added up, and what one loses stays in the sum."""

    def setUp(self) -> None:
        """Count 100 and 1000 bytes up, a tenth down."""
        self.tally = Tally()
        self.count(one=100, two=1000)

    def count(self, **ups: int) -> int:
        """Count these bytes up for "a", a tenth of them down, and return the total up."""
        self.tally.count({source: snapshot({"a": (up, up // 10)}) for source, up in ups.items()})
        return self.total()

    def total(self) -> int:
        """Return the total of "a", the downlink of which must be a tenth."""
        counters = self.tally.total().stats["user"]["a"]
        self.assertEqual(counters["downlink"], counters["uplink"] // 10)
        return counters["uplink"]

    def test_sum(self) -> None:
        """The total is the sum of the newest counters."""
        self.assertEqual(self.total(), 1100)
        self.assertEqual(self.count(one=200, two=3000), 3200)

    def test_a_failing_one_stays(self) -> None:
        """A server that gives none stays in the sum with what it counted last."""
        self.assertEqual(self.count(one=200), 1200)
        self.assertEqual(self.count(), 1200)
        self.assertEqual(self.count(two=1010), 1210)

    def test_a_restart(self) -> None:
        """What a restarted one had counted stays, and what it counts from zero is added."""
        self.assertEqual(self.count(one=0, two=1000), 1100)
        self.assertEqual(self.count(one=30, two=1000), 1130)
        self.assertEqual(self.count(one=20, two=10), 1160)
        self.assertEqual(self.count(one=50, two=10), 1190)

    def test_an_unanswered_restart(self) -> None:
        """A restart during which a server did not answer is noticed when it does again."""
        self.count(two=2000)
        self.assertEqual(self.count(one=10, two=2000), 2110)

    def test_one_counter_falls(self) -> None:
        """When one counter has fallen all of that server begin anew, in either direction."""
        for fallen in ((99, 10), (100, 9)):
            with self.subTest(fallen=fallen):
                tally = Tally()
                tally.count({1: snapshot({"a": (100, 10), "b": (7, 7)}), 2: NOTHING})
                tally.count({1: snapshot({"a": fallen, "b": (8, 8)})})
                up, down = 100 + fallen[0], 10 + fallen[1]
                self.assertEqual(tally.total(), snapshot({"a": (up, down), "b": (15, 15)}))

    def test_names_that_are_gone(self) -> None:
        """A name that is no longer given keeps its bytes; the others go on growing."""
        tally = Tally()
        tally.count({1: snapshot({"a": (5, 5), "b": (1, 1)}, x=(9, 9)), 2: NOTHING})
        tally.count({1: snapshot({"a": (6, 6)})})
        self.assertEqual(tally.total(), snapshot({"a": (6, 6), "b": (1, 1)}, x=(9, 9)))
        tally.count({1: snapshot({"a": (6, 6), "b": (2, 2)})})
        self.assertEqual(tally.total(), snapshot({"a": (6, 6), "b": (3, 3)}, x=(9, 9)))

    def test_all_names_are_gone(self) -> None:
        """A server that has counted nothing since its restart loses nothing of the sum."""
        self.tally.count({"one": NOTHING})
        self.assertEqual(self.total(), 1100)
        self.assertEqual(self.count(one=3), 1103)

    def test_a_late_one(self) -> None:
        """A server that comes later is added; what the first lost alone is not brought back."""
        tally = Tally()
        tally.count({1: snapshot({"a": (100, 0)})})
        tally.count({1: snapshot({"a": (20, 0)})})
        tally.count({1: snapshot({"a": (30, 0)}), 2: snapshot({"a": (7, 0)})})
        self.assertEqual(tally.total(), snapshot({"a": (37, 0)}))

    def test_restart_as_another_comes(self) -> None:
        """A restart found together with a new server stays in the sum, in whatever order."""
        for order in (1, 2), (2, 1):
            with self.subTest(order=order):
                newest = {1: snapshot({"a": (5, 0)}), 2: snapshot({"a": (200, 0)})}
                tally = Tally()
                tally.count({1: snapshot({"a": (100, 0)})})
                tally.count({source: newest[source] for source in order})
                self.assertEqual(tally.total(), snapshot({"a": (305, 0)}))


@define
class SimulatedXray:
    """
    An Xray whose true traffic is known.

    One inbound tells that it was restarted, by a counter below the one of the run before; the
    other counters may by then be above what they were.
    """

    counters: Counter[tuple[str, str]] = field(factory=Counter)
    run: int = 0
    answers: bool = True
    seen: Counter[tuple[str, str]] = field(factory=Counter)
    seen_run: int | None = None

    def grow(self, name: str, direction: str, amount: int) -> None:
        """Carry some bytes."""
        self.counters[name, direction] += amount

    def restart(self) -> None:
        """Begin from zero. What was carried since it was last asked is nobody's."""
        self.counters.clear()
        self.run += 1

    def asked(self) -> tuple[TrafficSnapshot, Counter[tuple[str, str]]]:
        """Return the counters, and the bytes carried since they were last seen."""
        unseen = Counter(self.counters)
        if self.seen_run == self.run:
            unseen -= self.seen
        self.seen, self.seen_run = Counter(self.counters), self.run
        users: dict[str, dict[str, int]] = {}
        for (name, direction), value in self.counters.items():
            users.setdefault(name, {})[direction] = value
        beacon = {"beacon": {"uplink": 1000 - self.run, "downlink": 0}}
        return snapshot_of({"user": users, "inbound": beacon}), unseen


XRAYS = st.integers(0, 2)
EVENTS = st.one_of(
    st.tuples(
        st.just("grow"),
        XRAYS,
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(DIRECTIONS),
        st.integers(1, 10**12),
    ),
    st.tuples(st.just("restart"), XRAYS),
    st.tuples(st.just("toggle"), XRAYS),
    st.tuples(st.just("ask")),
)


class TallyPropertyTests(SynchronousTestCase):
    """Whatever several servers do, the sum is right."""

    @settings(deadline=None, max_examples=300)
    @given(st.lists(EVENTS, max_size=60), st.booleans())
    def test_never_falls_and_loses_nothing(
        self, events: list[tuple[Any, ...]], late: bool
    ) -> None:
        """The total never falls, and is what was truly carried and seen; so the master's is."""
        xrays = [SimulatedXray(), SimulatedXray(), SimulatedXray(answers=not late)]
        tally, ledger = Tally(), TrafficLedger()
        true: Counter[tuple[str, str]] = Counter()
        before: dict[tuple[str, str, str], int] = {}
        for kind, *rest in [("ask",), *events, ("ask",)]:
            if kind == "grow":
                xrays[rest[0]].grow(*rest[1:])
            elif kind == "restart":
                xrays[rest[0]].restart()
            elif kind == "toggle":
                xrays[rest[0]].answers = not xrays[rest[0]].answers
            else:
                heard = {}
                for number, xray in enumerate(xrays):
                    if xray.answers:
                        heard[number], unseen = xray.asked()
                        true += unseen
                tally.count(heard)
                now = flat(tally.total())
                self.assertTrue(all(now.get(name, -1) >= value for name, value in before.items()))
                users = {name[1:]: value for name, value in now.items() if name[0] == "user"}
                self.assertEqual(+Counter(users), true)
                ledger.take(now)
                before = now
        self.assertEqual(ledger.restarts, 0)
        self.assertEqual(
            +Counter({name[1:]: n for name, n in ledger.totals.items() if name[0] == "user"}), true
        )

    @given(
        st.dictionaries(
            st.sampled_from(KINDS),
            st.none()
            | st.dictionaries(
                st.text(max_size=5),
                st.dictionaries(st.sampled_from(DIRECTIONS), st.integers(0, 2**63 - 1)),
            ),
        )
    )
    def test_every_valid_answer_is_taken(self, given: dict[str, Any]) -> None:
        """Any answer of whole numbers gives a full shape, which JSON carries unchanged."""
        shape = snapshot_of(given).stats
        self.assertEqual(set(shape), set(KINDS))
        self.assertEqual(json.loads(json.dumps(shape)), shape)
        for names in shape.values():
            for counters in names.values():
                self.assertEqual(set(counters), set(DIRECTIONS))
