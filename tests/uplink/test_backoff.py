"""Delays between attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.backoff import Backoff


class BackoffTests(SynchronousTestCase):
    """The README's policy: base 5 s, doubled, at most 5 min; ours adds the jitter."""

    def test_doubles_to_the_cap(self) -> None:
        """Without jitter the delays are 5, 10, 20 ... and then 300 for ever."""
        backoff = Backoff(lambda: 0.5)
        delays = [backoff.next() for _ in range(9)]
        self.assertEqual(delays, [5, 10, 20, 40, 80, 160, 300, 300, 300])

    def test_jitter(self) -> None:
        """The spread is 20 % to either side, so that agents do not come back all at once."""
        self.assertAlmostEqual(Backoff(lambda: 0.0).next(), 4.0)
        self.assertAlmostEqual(Backoff(lambda: 0.9999999).next(), 6.0, places=5)

    def test_reset(self) -> None:
        """After a while of being well the first delay is the base again."""
        backoff = Backoff(lambda: 0.5)
        for _ in range(5):
            backoff.next()
        backoff.reset()
        self.assertEqual(backoff.next(), 5)

    def test_a_month_of_failures(self) -> None:
        """However many failures there were, a delay is a number and not an overflow."""
        backoff = Backoff(lambda: 0.5)
        backoff.failures = 100_000
        self.assertEqual(backoff.next(), 300)

    @given(st.integers(0, 5000), st.floats(0, 1, exclude_max=True))
    def test_bounds(self, failures: int, spread: float) -> None:
        """A delay is never under 4 s, never over the cap."""
        backoff = Backoff(lambda: spread)
        backoff.failures = failures
        delay = backoff.next()
        self.assertGreaterEqual(delay, 4.0)
        self.assertLessEqual(delay, 300.0)
