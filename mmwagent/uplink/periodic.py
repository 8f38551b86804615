"""Work done again and again that outlives its own failures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from mmwagent.logs import logger

log = logger()


@define
class Periodic:
    """
    Calls `job` every `interval` seconds.

    A call that takes longer than the interval is not overtaken: ticks are left out. Twisted's
    LoopingCall ends for good at the first exception; here one that nobody foresaw is logged, once
    until the job has succeeded again, and the job goes on.
    """

    clock: IReactorTime
    interval: float
    job: Callable[[], Awaitable[object]]
    name: str
    _loop: LoopingCall | None = field(default=None, init=False)
    _running: Deferred[None] | None = field(default=None, init=False)
    _said: str | None = field(default=None, init=False)

    def start(self, now: bool = True) -> None:
        """Begin, with a first call at once or after one interval."""
        self._loop = LoopingCall(self.once)
        self._loop.clock = self.clock
        self._loop.start(self.interval, now)

    def stop(self) -> None:
        """End, giving up a call under way."""
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        if self._running is not None:
            self._running.cancel()

    def once(self) -> Deferred[None]:
        """Call the job; what it raises is logged, and the Deferred never fails."""
        running = Deferred.fromCoroutine(self._survive())
        if not running.called:
            self._running = running
        return running

    async def _survive(self) -> None:
        try:
            await self.job()
        except CancelledError:
            pass
        except Exception as error:
            self._failed(error)
        else:
            self._said = None
        finally:
            self._running = None

    def _failed(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        if said != self._said:
            self._said = said
            log.failure("{name} failed; it is tried again", name=self.name)
