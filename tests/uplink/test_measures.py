"""Reports made of what is measured."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.network import Speed, SpeedUnavailable
from mmwagent.host.processes import Process
from mmwagent.host.programs import ProgramState
from mmwagent.uplink.measures import Measures
from mmwagent.uplink.messages import Heartbeat, SpeedReport
from mmwagent.uplink.reporter import NotNow
from mmwagent.xray.discovery import XrayServer
from mmwagent.xray.inspection import XrayNow
from mmwagent.xray.metrics import NoTraffic
from mmwagent.xray.traffic import TrafficSnapshot
from tests.uplink.helpers import BOOT, NOW, STATS, XRAY_BOOT

DOCUMENT = {
    "api": {"tag": "api"},
    "inbounds": [
        {"tag": "api", "protocol": "dokodemo-door"},
        {
            "tag": "in",
            "protocol": "vless",
            "streamSettings": {"realitySettings": {"privateKey": "secret", "dest": "x"}},
        },
    ],
}


def process(pid: int = 7, started: datetime = XRAY_BOOT) -> Process:
    """Return an Xray."""
    return Process(pid, "/usr/bin/xray", ("xray", "run"), "/", started)


def run(coroutine: Any) -> Deferred[Any]:
    """Return what `coroutine` gives, as a Deferred."""
    return Deferred.fromCoroutine(coroutine)


class FakeXray:
    """In place of Program."""

    async def state(self, processes: Any) -> ProgramState:
        """Return a state that tells whether there were processes."""
        return ProgramState(True, bool(processes), "26.3.27")


class MeasuresTests(SynchronousTestCase):
    """Measures over fakes."""

    def setUp(self) -> None:
        """Give each source something."""
        self.looks = [XrayNow((XrayServer("/etc/xray.json", DOCUMENT),), (process(),))]
        self.counted: Any = TrafficSnapshot(STATS)
        self.sampled: Any = Speed(upload=10, download=20)
        self.measures = Measures(
            BOOT, 23889, lambda: NOW, self.inspect, self.counters, self.sample, FakeXray()
        )

    async def inspect(self) -> XrayNow:
        """Return the next look; the last one stays."""
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    async def counters(self) -> TrafficSnapshot:
        """Return or raise what the test set."""
        return self.given(self.counted)

    async def sample(self) -> Speed:
        """Return or raise what the test set."""
        return self.given(self.sampled)

    def given(self, value: Any) -> Any:
        """Return `value`, or raise it."""
        if isinstance(value, Exception):
            raise value
        return value

    def test_heartbeat(self) -> None:
        """The heartbeat has the host's and Xray's start, the port and the time."""
        self.assertEqual(
            self.successResultOf(run(self.measures.heartbeat())),
            Heartbeat(BOOT, 23889, NOW, XRAY_BOOT, 7),
        )

    def test_heartbeat_without_xray(self) -> None:
        """Without Xray it has neither start nor number of it."""
        self.looks = [XrayNow((), ())]
        heartbeat = self.successResultOf(run(self.measures.heartbeat()))
        self.assertEqual((heartbeat.xray_boot_time, heartbeat.xray_pid), (None, None))

    def test_traffic(self) -> None:
        """Traffic has the counters, and the start of the Xray that counted them."""
        traffic = self.successResultOf(run(self.measures.traffic()))
        self.assertEqual((traffic.stats, traffic.xray_boot_time), (STATS, XRAY_BOOT))

    def test_no_traffic(self) -> None:
        """Where the counters cannot be had there is no report."""
        self.counted = NoTraffic("refused")
        failure = self.failureResultOf(run(self.measures.traffic()), NotNow)
        self.assertIn("refused", str(failure.value))

    def test_restarted_meanwhile(self) -> None:
        """Counters that may be those of either of two runs are not reported."""
        self.looks = [XrayNow((), (process(),)), XrayNow((), (process(8, NOW),))]
        self.failureResultOf(run(self.measures.traffic()), NotNow)

    def test_speed(self) -> None:
        """Speed is what the sampler measured."""
        speed = self.successResultOf(run(self.measures.speed()))
        self.assertEqual(speed, SpeedReport(10, 20))

    def test_no_speed(self) -> None:
        """Where it measured nothing there is no report."""
        self.sampled = SpeedUnavailable("no")
        self.failureResultOf(run(self.measures.speed()), NotNow)

    def test_scan(self) -> None:
        """The scan tells users' inbounds, without private keys and without Xray's own API."""
        scan = self.successResultOf(run(self.measures.scan()))
        self.assertEqual((scan.xray_running, scan.xray_version), (True, "26.3.27"))
        self.assertEqual([inbound["tag"] for inbound in scan.inbounds], ["in"])
        self.assertEqual(scan.inbounds[0]["streamSettings"]["realitySettings"], {"dest": "x"})
        self.assertNotIn("secret", str(scan.payload()))

    def test_scan_without_xray(self) -> None:
        """Without Xray the list is empty."""
        self.looks = [XrayNow((), ())]
        scan = self.successResultOf(run(self.measures.scan()))
        self.assertEqual(scan.payload()["inbounds"], [])
        self.assertFalse(scan.xray_running)
