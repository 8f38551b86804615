"""The master's sums: mmwagent.testing.ledger."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.testing.ledger import TrafficLedger, summed

UP = ("user", "a@b", "uplink")
DOWN = ("user", "a@b", "downlink")
OTHER = ("user", "c@d", "uplink")


class LedgerTests(SynchronousTestCase):
    """Cumulative counters in, deltas and totals out."""

    def setUp(self) -> None:
        """Start an empty ledger."""
        self.ledger = TrafficLedger()

    def test_first_counts_in_full(self) -> None:
        """The first snapshot counts in full, and is kept to be subtracted."""
        self.assertEqual(self.ledger.take({UP: 100}).added, {UP: 100})
        self.ledger.take({UP: 150})
        self.assertEqual(self.ledger.totals, {UP: 150})
        self.assertEqual(self.ledger.first, {UP: 100})

    def test_growth(self) -> None:
        """A later snapshot adds what it grew by, for each counter by itself."""
        self.ledger.take({UP: 100, DOWN: 10})
        entry = self.ledger.take({UP: 130, DOWN: 10})
        self.assertEqual((entry.added, entry.fallen), ({UP: 30, DOWN: 0}, ()))
        self.assertEqual(self.ledger.latest, entry)

    def test_same_again(self) -> None:
        """The newest snapshot sent twice adds nothing."""
        self.ledger.take({UP: 100})
        self.ledger.take({UP: 100})
        self.assertEqual(self.ledger.totals, {UP: 100})

    def test_fall(self) -> None:
        """A counter that fell counts in full; the others only their growth."""
        self.ledger.take({UP: 100, DOWN: 10})
        entry = self.ledger.take({UP: 40, DOWN: 15})
        self.assertEqual((entry.added, entry.fallen), ({UP: 40, DOWN: 5}, (UP,)))
        self.assertEqual((self.ledger.totals, self.ledger.restarts), ({UP: 140, DOWN: 15}, 1))

    def test_absent_keeps_its_value(self) -> None:
        """A name missing from one snapshot is compared with its last value."""
        self.ledger.take({UP: 100})
        self.ledger.take({})
        self.assertEqual(self.ledger.take({UP: 120}).added, {UP: 20})

    def test_totals(self) -> None:
        """Sums are by kind and direction, and by name where asked."""
        self.ledger.take({UP: 1, OTHER: 2, DOWN: 4, ("inbound", "a@b", "uplink"): 8})
        self.assertEqual(self.ledger.total("user", "uplink"), 3)
        self.assertEqual(self.ledger.total("user", "uplink", "c@d"), 2)
        self.assertEqual(summed(self.ledger.totals, "inbound", "uplink"), 8)

    @given(st.lists(st.integers(0, 10**12), min_size=1))
    def test_growing_counter_totals_its_last_value(self, steps: list[int]) -> None:
        """However it grows, a counter that never falls totals what it shows in the end."""
        ledger, value = TrafficLedger(), 0
        for step in steps:
            value += step
            ledger.take({UP: value})
        self.assertEqual(ledger.totals[UP], value)
        self.assertEqual(ledger.restarts, 0)
