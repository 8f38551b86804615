"""How long to wait before the next attempt: pure, so that minutes are tested in no time."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

JITTER = 0.2  # after a master's restart its agents shall not all come back in one instant


@define
class Backoff:
    """
    Delays that double from `base` seconds to `cap`, each spread by up to ±20 %.

    `spread` gives a number in [0, 1): `random.random`, or a constant in tests.
    """

    spread: Callable[[], float]
    base: float = 5.0
    cap: float = 300.0
    failures: int = field(default=0, init=False)

    def next(self) -> float:
        """Count one more failure and return the seconds to wait, never above the cap."""
        # The exponent is bounded: 2.0 ** failures would overflow after a month of failures.
        plain = min(self.cap, self.base * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return min(self.cap, plain * (1 - JITTER + 2 * JITTER * self.spread()))

    def reset(self) -> None:
        """Start from the base again: the connection has been well for a while."""
        self.failures = 0
