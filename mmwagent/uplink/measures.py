"""Makes the reports out of what is measured on this machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from attrs import define

from mmwagent.host.network import Speed, SpeedUnavailable
from mmwagent.host.programs import Program
from mmwagent.uplink.messages import Heartbeat, ScanResult, SpeedReport, Traffic
from mmwagent.uplink.reporter import NotNow
from mmwagent.xray.document import user_inbounds, without_private_keys
from mmwagent.xray.inspection import XrayNow
from mmwagent.xray.metrics import NoTraffic
from mmwagent.xray.traffic import TrafficSnapshot


@define
class Measures:
    """
    The sources of all reports.

    `inspect` gives the Xray servers and processes of the moment, `counters` their counters,
    `sample` the network speed, `now` the wall clock.
    """

    boot_time: datetime
    listen_port: int
    now: Callable[[], datetime]
    inspect: Callable[[], Awaitable[XrayNow]]
    counters: Callable[[], Awaitable[TrafficSnapshot]]
    sample: Callable[[], Awaitable[Speed]]
    xray: Program

    async def heartbeat(self) -> Heartbeat:
        """Return the heartbeat of now."""
        xray = await self.inspect()
        return Heartbeat(
            boot_time=self.boot_time,
            listen_port=self.listen_port,
            local_time=self.now(),
            xray_boot_time=xray.started,
            xray_pid=xray.pid,
        )

    async def traffic(self) -> Traffic:
        """
        Return the counters of now with the start of the Xray that counted them.

        Fails with NotNow where they cannot be had, or Xray was restarted just then: whose counters
        they are cannot be told.
        """
        before = await self.inspect()
        try:
            snapshot = await self.counters()
        except NoTraffic as reason:
            raise NotNow(str(reason)) from reason
        after = await self.inspect()
        if before.started != after.started:
            raise NotNow("Xray was restarted while it was asked")
        return Traffic(snapshot.stats, after.started)

    async def speed(self) -> SpeedReport:
        """Return the network speed of now; NotNow where it is not known."""
        try:
            speed = await self.sample()
        except SpeedUnavailable as reason:
            raise NotNow(str(reason)) from reason
        return SpeedReport(speed.upload, speed.download)

    async def scan(self) -> ScanResult:
        """Return what Xray there is, without any private key."""
        xray = await self.inspect()
        state = await self.xray.state(xray.processes)
        inbounds = tuple(
            without_private_keys(inbound)
            for server in xray.servers
            for inbound in user_inbounds(server.document)
        )
        return ScanResult(state.running, state.version, inbounds)
