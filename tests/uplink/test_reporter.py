"""The reports of one stay at one door."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.failures import LinkFailure
from mmwagent.uplink.messages import Traffic
from mmwagent.uplink.reporter import Cadence, Stint
from tests.uplink.helpers import HEARTBEAT, NOTHING, TRAFFIC, XRAY_BOOT, FakeReports

LATER = XRAY_BOOT + timedelta(hours=1)


class Recorder:
    """A door that notes what goes through it, or refuses it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.sent: list[tuple[float, Any]] = []
        self.fails = False
        self.hang: Deferred[None] | None = None

    def send(self, message: Any) -> Deferred[Any]:
        """Note the message."""
        self.sent.append((self.clock.seconds(), message))
        if self.hang is not None:
            return self.hang
        return fail(Failure(LinkFailure("no"))) if self.fails else succeed(None)

    def types(self) -> list[str]:
        """Return what was sent so far, and forget it."""
        sent, self.sent = self.sent, []
        return [message.TYPE for _, message in sent]


class StintTests(SynchronousTestCase):
    """Heartbeat each 30 s, traffic each 60 s, speed each 3 s, unless a test says otherwise."""

    def setUp(self) -> None:
        """Make a stint at a door that takes everything."""
        self.clock = Clock()
        self.door = Recorder(self.clock)
        self.reports = FakeReports()

    def start(self, scans: bool = True, cadence: Cadence | None = None) -> Stint:
        """Start a stint."""
        stint = Stint(self.clock, cadence or Cadence(), self.reports, self.door, scans)
        stint.start()
        return stint

    def test_order(self) -> None:
        """The heartbeat goes first; traffic, speed and the scan follow at once."""
        self.start()
        self.assertEqual(self.door.types(), ["heartbeat", "traffic", "speed", "scan_result"])

    def test_heartbeat_arrives_first(self) -> None:
        """Nothing goes out before the heartbeat has gone through."""
        self.door.hang = Deferred()
        self.start()
        self.clock.advance(5)
        self.assertEqual(self.door.types(), ["heartbeat"])
        hang, self.door.hang = self.door.hang, None
        hang.callback(None)
        self.assertEqual(self.door.types(), ["traffic", "speed", "scan_result"])

    def test_no_scan(self) -> None:
        """A door that takes no scan gets none."""
        self.start(scans=False)
        self.assertNotIn("scan_result", self.door.types())
        self.assertNotIn("scan", self.reports.asked)

    def test_cadence(self) -> None:
        """In two minutes there are 4 heartbeats, 2 traffic and 40 speed reports, and no scan."""
        self.start()
        self.door.types()
        self.clock.pump([1] * 120)
        types = self.door.types()
        counts = {type_: types.count(type_) for type_ in set(types)}
        self.assertEqual(counts, {"heartbeat": 4, "traffic": 2, "speed": 40})

    def test_xray_restarted(self) -> None:
        """After a restart of Xray a heartbeat with its new boot time goes before the traffic."""
        self.start(cadence=Cadence(heartbeat=1000, traffic=60, speed=1000))
        self.door.types()
        self.reports.beat = evolve(HEARTBEAT, xray_boot_time=LATER)
        self.reports.counted = evolve(TRAFFIC, xray_boot_time=LATER)
        self.clock.advance(60)
        self.assertEqual([message.TYPE for _, message in self.door.sent], ["heartbeat", "traffic"])
        self.assertEqual(self.door.sent[0][1].xray_boot_time, LATER)

    def test_restart_not_told(self) -> None:
        """Where that heartbeat does not go through, the traffic waits as well."""
        self.start(cadence=Cadence(heartbeat=1000, traffic=60, speed=1000))
        self.door.types()
        self.reports.beat = evolve(HEARTBEAT, xray_boot_time=LATER)
        self.reports.counted = evolve(TRAFFIC, xray_boot_time=LATER)
        self.door.fails = True
        self.clock.advance(60)
        self.assertEqual(self.door.types(), ["heartbeat"])

    def test_one_count_at_a_time(self) -> None:
        """A count asked for beside the cadence waits for the one under way: none overtakes."""
        first: Deferred[Traffic] = Deferred()
        stint = self.start(cadence=Cadence(heartbeat=1000, traffic=60, speed=1000))
        self.door.types()
        self.reports.counting = [first]
        self.clock.advance(60)
        beside = Deferred.fromCoroutine(stint.traffic())
        self.assertEqual(self.door.types(), [])
        self.assertEqual(self.reports.asked.count("traffic"), 2)
        first.callback(TRAFFIC)
        self.assertTrue(self.successResultOf(beside))
        self.assertEqual(self.door.types(), ["traffic", "traffic"])

    def test_nothing_to_tell(self) -> None:
        """A source without anything true to tell is skipped, asked again, and hinders no other."""
        self.reports.counted = NOTHING
        self.reports.sampled = NOTHING
        self.start()
        self.assertEqual(self.door.types(), ["heartbeat", "scan_result"])
        self.clock.pump([1] * 60)
        self.assertEqual(set(self.door.types()), {"heartbeat"})
        self.reports.counted = TRAFFIC
        self.clock.pump([1] * 60)
        self.assertIn("traffic", self.door.types())

    def test_a_source_breaks(self) -> None:
        """An unforeseen exception of one source ends neither it nor the others."""
        self.reports.counted = ZeroDivisionError()
        self.start()
        self.clock.pump([1] * 59)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.reports.counted = TRAFFIC
        self.door.types()
        self.clock.advance(1)
        self.assertIn("traffic", self.door.types())

    def test_a_refusing_door(self) -> None:
        """A door that takes nothing is offered everything at its cadence, quietly."""
        self.door.fails = True
        self.start()
        self.door.types()
        self.clock.pump([1] * 60)
        types = self.door.types()
        self.assertEqual(types.count("speed"), 20)
        self.assertGreaterEqual(types.count("heartbeat"), 2)

    def test_stop(self) -> None:
        """After the stop nothing goes out and nothing is scheduled."""
        stint = self.start()
        self.door.types()
        stint.stop()
        self.clock.pump([1] * 120)
        self.assertEqual(self.door.types(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_during_first_heartbeat(self) -> None:
        """A stint stopped while its first heartbeat is under way does not go on after it."""
        self.door.hang = Deferred()
        stint = self.start()
        stint.stop()
        self.clock.pump([1] * 120)
        self.assertEqual(self.door.types(), ["heartbeat"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_before_start(self) -> None:
        """A stint stopped before it starts never starts."""
        stint = Stint(self.clock, Cadence(), self.reports, self.door, True)
        stint.stop()
        stint.start()
        self.assertEqual(self.door.types(), [])
