"""What is written down of an agent: mmwagent.testing.records."""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.trial.unittest import SynchronousTestCase

from mmwagent.testing.records import HTTP, WEBSOCKET, AgentRecord, Report
from mmwagent.testing.wire import Heartbeat, Problem

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
ONE = datetime(2026, 5, 1, 13, tzinfo=UTC)


class RecordTests(SynchronousTestCase):
    """An agent's record."""

    def setUp(self) -> None:
        """Start an empty record."""
        self.record = AgentRecord("edge", "t", NOON)

    def test_reports(self) -> None:
        """Reports are kept in order, counted by door, and found by type."""
        speed = Report(HTTP, "speed", {}, 1.0)
        refused = Report(HTTP, "speed", {}, 2.0, accepted=False)
        other = Report(WEBSOCKET, "traffic", {}, 3.0)
        for report in (speed, refused, other):
            self.record.report(report)
        self.assertEqual(self.record.reports, [speed, refused, other])
        self.assertEqual(self.record.counts[HTTP, "speed"], 2)
        self.assertEqual(self.record.of("speed"), [speed, refused])
        self.assertEqual(self.record.of("speed", accepted=True), [speed])
        self.assertEqual(self.record.of("speed", accepted=False), [refused])

    def test_latest(self) -> None:
        """The latest is the very last report, if it was taken and has the type."""
        self.assertIsNone(self.record.latest("speed"))
        report = Report(HTTP, "speed", {}, 1.0)
        self.record.report(report)
        self.assertIs(self.record.latest("speed"), report)
        self.assertIsNone(self.record.latest("traffic"))
        self.record.report(Report(HTTP, "speed", {}, 2.0, accepted=False))
        self.assertIsNone(self.record.latest("speed"))

    def test_keep(self) -> None:
        """With `keep` the oldest go; the counts still count all."""
        self.record.keep = 2
        for at in (1.0, 2.0, 3.0):
            self.record.report(Report(HTTP, "speed", {}, at))
        self.assertEqual([report.at for report in self.record.reports], [2.0, 3.0])
        self.assertEqual(self.record.counts[HTTP, "speed"], 3)

    def test_boots(self) -> None:
        """The count is 1 at the first boot time and rises with each different one."""
        for boot, count, restarted in ((NOON, 1, False), (NOON, 1, False), (ONE, 2, True)):
            beat = Heartbeat(boot, boot, 23889)
            self.assertEqual(self.record.beat(beat, WEBSOCKET, 5.0), (restarted, restarted))
            self.assertEqual((self.record.boot_count, self.record.xray_boot_count), (count,) * 2)

    def test_boot_time_overwritten(self) -> None:
        """A heartbeat without a usable boot time clears what was stored, and is no boot."""
        self.record.beat(Heartbeat(NOON, None, 1), WEBSOCKET, 1.0)
        self.record.beat(Heartbeat(None, None, 1), WEBSOCKET, 2.0)
        self.assertEqual((self.record.boot_time, self.record.boot_count), (None, 1))

    def test_both_forms(self) -> None:
        """The last heartbeat is kept, and the last of each form."""
        frame, body = Heartbeat(NOON, None, 1), Heartbeat(NOON, None, 2)
        self.record.beat(frame, WEBSOCKET, 1.0)
        self.record.beat(body, HTTP, 2.0)
        self.assertEqual(self.record.frame_heartbeat, frame)
        self.assertEqual(self.record.body_heartbeat, body)
        self.assertEqual(self.record.heartbeat, body)
        self.assertEqual((self.record.listen_port, self.record.heartbeat_at), (2, 2.0))

    def test_breach(self) -> None:
        """A breach is kept with its time."""
        violation = self.record.breach(Problem("pong", "one too many"), 4.0)
        self.assertEqual(self.record.violations, [violation])
        self.assertEqual((violation.rule, violation.at), ("pong", 4.0))
