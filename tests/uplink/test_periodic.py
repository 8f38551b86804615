"""Work that outlives its failures."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.periodic import Periodic


class PeriodicTests(SynchronousTestCase):
    """A job each 10 seconds."""

    def setUp(self) -> None:
        """Make a job that notes when it is called."""
        self.clock = Clock()
        self.calls: list[float] = []
        self.problem: Exception | None = None
        self.hang: Deferred[None] | None = None
        self.periodic = Periodic(self.clock, 10, self.job, "the job")

    async def job(self) -> None:
        """Note the call, then do what the test wants."""
        self.calls.append(self.clock.seconds())
        if self.hang is not None:
            await self.hang
        if self.problem is not None:
            raise self.problem

    def test_now_and_then(self) -> None:
        """The first call is at once, the others follow at the interval."""
        self.periodic.start()
        self.clock.pump([1] * 30)
        self.assertEqual(self.calls, [0, 10, 20, 30])

    def test_later(self) -> None:
        """Started without `now` the first call comes after one interval."""
        self.periodic.start(now=False)
        self.clock.pump([1] * 20)
        self.assertEqual(self.calls, [10, 20])

    def test_survives(self) -> None:
        """An exception is logged once, however often it comes, and the job goes on."""
        self.problem = ValueError("odd")
        with capturedLogs() as events:
            self.periodic.start()
            self.clock.pump([1] * 30)
        self.assertEqual(len(self.calls), 4)
        self.assertEqual([event["log_level"] for event in events], [LogLevel.critical])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_told_again_after_success(self) -> None:
        """The same exception is worth a second line once the job has succeeded in between."""
        self.problem = ValueError("odd")
        self.periodic.start()
        self.problem = None
        self.clock.advance(10)
        self.problem = ValueError("odd")
        self.clock.advance(10)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_not_overtaken(self) -> None:
        """While a call takes long there is no second one; after it the rhythm goes on."""
        self.hang = Deferred()
        self.periodic.start()
        self.clock.pump([1] * 25)
        self.assertEqual(self.calls, [0])
        hang, self.hang = self.hang, None
        hang.callback(None)
        self.clock.pump([1] * 10)
        self.assertEqual(self.calls, [0, 30])

    def test_stop(self) -> None:
        """Stopping gives up the call under way, and leaves nothing scheduled."""
        cancelled: list[object] = []
        self.hang = Deferred(cancelled.append)
        self.periodic.start()
        self.periodic.stop()
        self.assertEqual(len(cancelled), 1)
        self.clock.pump([1] * 30)
        self.assertEqual(self.calls, [0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_before_start(self) -> None:
        """What never started can be stopped."""
        self.periodic.stop()

    def test_once(self) -> None:
        """A single call is guarded like the others, and nothing follows it."""
        self.problem = ValueError("odd")
        self.successResultOf(self.periodic.once())
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
