"""What is reported when: heartbeat, traffic and speed, over whichever door is open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from mmwagent.logs import logger
from mmwagent.uplink.failures import LinkFailure
from mmwagent.uplink.messages import Heartbeat, ScanResult, SpeedReport, Traffic
from mmwagent.uplink.periodic import Periodic

log = logger()


class NotNow(Exception):
    """A report that cannot be made at present. Whoever found that out has logged it."""


class Reports(Protocol):
    """Where each report comes from. A source with nothing true to tell fails with NotNow."""

    async def heartbeat(self) -> Heartbeat:
        """Return the heartbeat of now."""

    async def traffic(self) -> Traffic:
        """Return Xray's counters of now."""

    async def speed(self) -> SpeedReport:
        """Return the network speed of now."""

    async def scan(self) -> ScanResult:
        """Return what Xray there is."""


class Door(Protocol):
    """A way to the master. `send` fails with LinkFailure, which the door itself makes known."""

    def send(self, message: Any) -> Deferred[Any]:
        """Send one message."""


@frozen
class Cadence:
    """Seconds between two reports of each sort."""

    heartbeat: float = 30.0
    traffic: float = 60.0
    speed: float = 3.0


@define
class Stint:
    """
    The reports of one stay at one door.

    The heartbeat goes first and alone, for it carries the boot times by which the master judges
    what follows; then traffic, speed and, where the door takes it, the scan at once; then each at
    its cadence.
    """

    clock: IReactorTime
    cadence: Cadence
    reports: Reports
    door: Door
    scans: bool
    _work: list[Periodic] = field(factory=list, init=False)
    _over: bool = field(default=False, init=False)
    _told_xray_boot: datetime | None = field(default=None, init=False)
    _counting: DeferredLock = field(factory=DeferredLock, init=False)

    def start(self) -> None:
        """Begin to report, unless it is over already."""
        if not self._over:
            Deferred.fromCoroutine(self._begin())

    def stop(self) -> None:
        """Report no more; what is under way is given up."""
        self._over = True
        for work in self._work:
            work.stop()

    async def _begin(self) -> None:
        heartbeat = self._periodic(self.heartbeat, self.cadence.heartbeat, "the heartbeat")
        await heartbeat.once()
        if self._over:
            return
        heartbeat.start(now=False)
        self._periodic(self.traffic, self.cadence.traffic, "the traffic report").start()
        self._periodic(self.speed, self.cadence.speed, "the speed report").start()
        if self.scans:
            self._periodic(self.scan, 0, "the scan").once()

    def _periodic(
        self, job: Callable[[], Awaitable[object]], interval: float, name: str
    ) -> Periodic:
        work = Periodic(self.clock, interval, job, name)
        self._work.append(work)
        return work

    async def heartbeat(self) -> None:
        """Send a heartbeat."""
        heartbeat = await self.reports.heartbeat()
        if await self._sent(heartbeat):
            self._told_xray_boot = heartbeat.xray_boot_time

    async def traffic(self) -> bool:
        """
        Send Xray's counters, and tell whether they went out.

        A heartbeat goes before them where Xray was restarted since the last one: from its boot
        time the master knows that they start from zero again. One at a time: the master takes an
        older snapshot after a newer one for a restart.
        """
        return bool(await self._counting.run(lambda: Deferred.fromCoroutine(self._count())))

    async def _count(self) -> bool:
        try:
            traffic = await self.reports.traffic()
        except NotNow as reason:
            log.debug("no traffic report: {reason}", reason=str(reason))
            return False
        if traffic.xray_boot_time != self._told_xray_boot:
            await self.heartbeat()
        if traffic.xray_boot_time != self._told_xray_boot:
            return False
        return await self._sent(traffic)

    async def speed(self) -> None:
        """Send the network speed."""
        try:
            speed = await self.reports.speed()
        except NotNow as reason:
            log.debug("no speed report: {reason}", reason=str(reason))
            return
        await self._sent(speed)

    async def scan(self) -> None:
        """Send what Xray there is."""
        await self._sent(await self.reports.scan())

    async def _sent(self, message: Any) -> bool:
        """Tell whether `message` went through the door. Where not, the door has made it known."""
        try:
            await self.door.send(message)
        except LinkFailure as failure:
            log.debug("{type} not sent: {reason}", type=message.TYPE, reason=failure.reason)
            return False
        return True
