"""Reports around restarts."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.restarts import ATTEMPTS, ReportedRestarts


class RestartTests(SynchronousTestCase):
    """A restart between two reports."""

    def setUp(self) -> None:
        """Note what happens, in its order."""
        self.clock = Clock()
        self.happened: list[str] = []
        self.outcomes = [True, True]
        self.hang: Deferred[None] | None = None
        self.restarts = ReportedRestarts(self.clock, self.report)

    async def report(self) -> bool:
        """Note a report; it goes out as the test says."""
        self.happened.append("report")
        if self.hang is not None:
            await self.hang
        outcome = self.outcomes.pop(0) if self.outcomes else False
        if outcome is None:
            raise ZeroDivisionError
        return outcome

    async def restart(self) -> str:
        """Note the restart."""
        self.happened.append("restart")
        return "done"

    def run_restart(self) -> Deferred[str]:
        """Restart."""
        return Deferred.fromCoroutine(self.restarts.around(self.restart))

    def test_order(self) -> None:
        """A report goes before, one after; the outcome of the restart is given back."""
        self.assertEqual(self.successResultOf(self.run_restart()), "done")
        self.assertEqual(self.happened, ["report", "restart", "report"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_metrics_come_later(self) -> None:
        """After the restart it is tried until Xray gives its counters, without a wait for it."""
        self.outcomes = [True, False, False, True]
        self.successResultOf(self.run_restart())
        self.clock.pump([0.5] * 10)
        self.assertEqual(self.happened, ["report", "restart", "report", "report", "report"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_given_up(self) -> None:
        """It is not tried for ever."""
        self.outcomes = []
        self.successResultOf(self.run_restart())
        self.clock.pump([0.5] * 100)
        self.assertEqual(self.happened.count("report"), 1 + ATTEMPTS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_hanging_report(self) -> None:
        """A report that hangs holds the restart up for 3 s and no longer."""
        self.hang = Deferred()
        restarted = self.run_restart()
        self.clock.advance(2.9)
        self.assertNoResult(restarted)
        self.clock.advance(0.2)
        self.successResultOf(restarted)

    def test_broken_report(self) -> None:
        """A report that breaks is logged and hinders no restart."""
        self.outcomes = [None, True]
        self.successResultOf(self.run_restart())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_failed_restart(self) -> None:
        """A restart that fails fails as it does, and a report follows it, too."""

        async def fails() -> None:
            raise ValueError("no")

        failing = Deferred.fromCoroutine(self.restarts.around(fails))
        self.failureResultOf(failing, ValueError)
        self.assertEqual(self.happened, ["report", "report"])
