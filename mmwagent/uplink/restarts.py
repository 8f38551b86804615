"""
Restarts of Xray that this agent makes, with a report just before and just after each.

What Xray counted since the last report dies with it; a report right before loses the least. The
one right after tells the master the new start, by which it knows that the counters begin anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from mmwagent.logs import logger

log = logger()

PATIENCE = 3.0  # seconds that a restart may be held up by the report before it
ATTEMPTS = 10  # after it, for Xray opens its metrics some time after it has started
PAUSE = 0.5  # seconds between two of them

T = TypeVar("T")


@define
class ReportedRestarts:
    """`report` sends Xray's counters now, and tells whether they went out."""

    clock: IReactorTime
    report: Callable[[], Awaitable[bool]]

    async def around(self, restart: Callable[[], Awaitable[T]]) -> T:
        """Return what `restart` returns, with reports before and after; raise what it raises."""
        await self._reported()
        try:
            return await restart()
        finally:
            Deferred.fromCoroutine(self._until_reported())

    async def _until_reported(self) -> None:
        for _ in range(ATTEMPTS):
            if await self._reported():
                return
            await deferLater(self.clock, PAUSE)
        log.debug("no traffic could be reported after the restart; the next report follows")

    async def _reported(self) -> bool:
        try:
            reporting = Deferred.fromCoroutine(_whole(self.report))
            return await reporting.addTimeout(PATIENCE, self.clock)
        except TimedOut:
            return False
        except Exception:
            log.failure("the report around a restart failed")
            return False


async def _whole(report: Callable[[], Awaitable[bool]]) -> bool:
    return await report()
