"""The machine of the reports, door by door."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.backoff import Backoff
from mmwagent.uplink.failures import Kind, LinkFailure
from mmwagent.uplink.reporter import Cadence
from mmwagent.uplink.reporting import Reporting
from tests.uplink.helpers import FakePush, FakeReports, FakeSession

DOWN = LinkFailure("down")
REFUSED = LinkFailure("401", Kind.UNAUTHORISED)


class Case(SynchronousTestCase):
    """A reporting with fakes around it."""

    def setUp(self) -> None:
        """Make an idle reporting."""
        self.clock = Clock()
        self.push = FakePush(self.clock)
        self.hurried = 0
        self.answers: list[Any] = []
        self.reporting = Reporting(
            self.clock,
            Cadence(),
            FakeReports(),
            self.push,
            Backoff(lambda: 0.5, base=75),
            self.hurry,
            self.answers.append,
        )

    def hurry(self) -> None:
        """Count the calls."""
        self.hurried += 1

    def session(self) -> FakeSession:
        """Bring a session up."""
        session = FakeSession(self.clock)
        self.reporting.session_up(session)
        return session

    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.clock.pump([1] * seconds)


class IdleTests(Case):
    """Before anything has happened."""

    def test_nothing_goes_out(self) -> None:
        """An idle reporting sends nothing and plans nothing."""
        self.assertEqual(self.reporting.door, "connecting")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_rest(self) -> None:
        """Resting twice is resting."""
        self.reporting.rest()
        self.reporting.rest()
        self.assertEqual(self.reporting.door, "connecting")


class WebSocketTests(Case):
    """While a session is live."""

    def test_all_reports(self) -> None:
        """The session gets everything, HTTP nothing."""
        session = self.session()
        self.assertEqual(self.reporting.door, "websocket")
        self.assertEqual(session.types(), ["heartbeat", "traffic", "speed", "scan_result"])
        self.wait(60)
        self.assertEqual(session.types().count("heartbeat"), 2)
        self.assertEqual(self.push.types(), [])

    def test_lost(self) -> None:
        """When the session is lost the reports go on over HTTP at once, heartbeat first."""
        session = self.session()
        session.types()
        self.reporting.fall_back()
        self.assertEqual(self.reporting.door, "http")
        self.assertEqual(self.push.types(), ["heartbeat", "traffic", "speed"])
        self.wait(60)
        self.assertEqual(session.types(), [])
        self.assertEqual(self.push.types().count("heartbeat"), 2)

    def test_refused(self) -> None:
        """When the master refuses the token no other door is tried."""
        session = self.session()
        session.types()
        self.reporting.rest()
        self.wait(600)
        self.assertEqual((session.types(), self.push.types()), ([], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ReportNowTests(Case):
    """A report beside the cadence."""

    def now(self) -> bool:
        """Report the counters, and return whether they went out."""
        reporting = Deferred.fromCoroutine(self.reporting.report_traffic())
        return bool(self.successResultOf(reporting))

    def test_by_the_open_door(self) -> None:
        """It goes by the door that is open."""
        session = self.session()
        session.types()
        self.assertTrue(self.now())
        self.assertEqual(session.types(), ["traffic"])
        self.reporting.fall_back()
        self.push.types()
        self.assertTrue(self.now())
        self.assertEqual(self.push.types(), ["traffic"])

    def test_no_door(self) -> None:
        """Without any there is none."""
        self.assertFalse(self.now())

    def test_refused(self) -> None:
        """What the door refuses did not go out."""
        self.reporting.fall_back()
        self.push.fails_with = DOWN
        self.assertFalse(self.now())


class HttpTests(Case):
    """While the WebSocket is down."""

    def setUp(self) -> None:
        """Fall back to HTTP."""
        super().setUp()
        self.reporting.fall_back()

    def test_cadence(self) -> None:
        """The three reports go at their normal cadence, and no scan."""
        self.push.types()
        self.wait(60)
        types = self.push.types()
        self.assertEqual(types.count("heartbeat"), 2)
        self.assertEqual(types.count("speed"), 20)
        self.assertEqual(types.count("traffic"), 1)
        self.assertNotIn("scan_result", types)

    def test_answers(self) -> None:
        """What the master answers is handed on."""
        self.assertEqual(self.answers, [{}, {}, {}])

    def test_falling_back_again(self) -> None:
        """Each failed dial says so again; the reports go on undisturbed."""
        self.push.types()
        self.reporting.fall_back()
        self.assertEqual(self.push.types(), [])

    def test_session_back(self) -> None:
        """When the WebSocket is back, HTTP stops before its first report."""
        self.push.types()
        settled: Deferred[None] = Deferred()
        self.push.settling = settled
        session = self.session()
        self.wait(30)
        self.assertEqual((session.types(), self.push.types()), ([], []))
        settled.callback(None)
        self.assertEqual(session.types(), ["heartbeat", "traffic", "speed", "scan_result"])

    def test_session_gone_before_it_began(self) -> None:
        """A session lost while HTTP still settles never gets a report."""
        settled: Deferred[None] = Deferred()
        self.push.settling = settled
        session = self.session()
        self.reporting.fall_back()
        settled.callback(None)
        self.wait(60)
        self.assertEqual(session.types(), [])

    def test_five_failures(self) -> None:
        """Four failures in a row change nothing; the fifth turns to pull and hurries the link."""
        self.push.fails_with = DOWN
        self.wait(12)
        self.assertEqual(self.reporting.door, "http")
        self.wait(3)
        self.assertEqual(self.reporting.door, "pull")
        self.assertEqual(self.hurried, 1)

    def test_failures_in_a_row(self) -> None:
        """Failures with a success in between do not add up."""
        for _ in range(5):
            self.push.fails_with = DOWN
            self.wait(9)
            self.push.fails_with = None
            self.wait(3)
        self.assertEqual(self.reporting.door, "http")
        self.assertEqual(self.hurried, 0)

    def test_refused(self) -> None:
        """A refused token is not offered four times more."""
        self.push.types()
        self.push.fails_with = REFUSED
        self.wait(3)
        self.assertEqual(self.reporting.door, "pull")
        self.push.types()
        self.wait(60)
        self.assertEqual(self.push.types(), [])
        self.wait(20)
        self.assertEqual(self.push.types(), ["heartbeat"])

    def test_rest(self) -> None:
        """Resting ends all of it."""
        self.push.types()
        self.reporting.rest()
        self.wait(600)
        self.assertEqual(self.push.types(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class PullTests(Case):
    """While HTTP is down as well."""

    def setUp(self) -> None:
        """Fall back to an HTTP that is down."""
        super().setUp()
        self.push.fails_with = DOWN
        with capturedLogs() as self.events:
            self.reporting.fall_back()

    def test_at_first_failure(self) -> None:
        """An HTTP that never worked is given up at its first failure; nothing hurries."""
        self.assertEqual(self.reporting.door, "pull")
        self.assertEqual(self.push.types(), ["heartbeat"])
        self.assertEqual(self.hurried, 0)
        self.assertIn("down", [event.get("reason") for event in self.events])

    def test_heartbeats_only(self) -> None:
        """Only a heartbeat is tried, once each interval, and said no more in the log."""
        self.push.types()
        with capturedLogs() as events:
            self.wait(300)
        self.assertEqual(self.push.types(), ["heartbeat"] * 10)
        self.assertEqual([event for event in events if event["log_level"].name != "debug"], [])

    def test_back(self) -> None:
        """The first heartbeat that arrives brings all reports back."""
        self.push.types()
        self.push.fails_with = None
        self.wait(30)
        self.assertEqual(self.reporting.door, "http")
        self.assertEqual(self.push.types(), ["heartbeat", "heartbeat", "traffic", "speed"])

    def test_session(self) -> None:
        """A session ends it."""
        self.push.types()
        session = self.session()
        self.wait(300)
        self.assertEqual(self.push.types(), [])
        self.assertIn("traffic", session.types())

    def test_retry_after(self) -> None:
        """A master that names a time is left alone until then, but never for over five minutes."""
        self.push.fails_with = LinkFailure("429", Kind.THROTTLED, 200)
        self.wait(30)
        self.push.types()
        self.wait(199)
        self.assertEqual(self.push.types(), [])
        self.wait(1)
        self.assertEqual(self.push.types(), ["heartbeat"])
        self.push.fails_with = LinkFailure("429", Kind.THROTTLED, 86400)
        self.wait(200)
        self.push.types()
        self.wait(300)
        self.assertEqual(self.push.types(), ["heartbeat"])


class PulledTests(Case):
    """Pull as the configured mode."""

    def test_heartbeats(self) -> None:
        """Heartbeats go on at their interval, and nothing else ever does."""
        self.reporting.be_pulled()
        self.wait(300)
        self.assertEqual(self.reporting.door, "pull")
        self.assertEqual(self.push.sent, [(t, "heartbeat") for t in range(0, 301, 30)])

    def test_master_away(self) -> None:
        """While the master is away they go on as well."""
        self.push.fails_with = DOWN
        self.reporting.be_pulled()
        self.wait(60)
        self.push.fails_with = None
        self.wait(60)
        self.assertEqual(self.push.types(), ["heartbeat"] * 5)

    def test_refused(self) -> None:
        """A refused token slows them down, and acceptance brings the pace back."""
        self.push.fails_with = REFUSED
        self.reporting.be_pulled()
        self.wait(600)
        self.assertLess(len(self.push.types()), 6)
        self.push.fails_with = None
        self.wait(600)
        self.assertGreater(len(self.push.types()), 8)

    def test_rest(self) -> None:
        """Resting ends it."""
        self.reporting.be_pulled()
        self.wait(1)
        self.reporting.rest()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_broken_source(self) -> None:
        """A heartbeat that cannot be made is logged, and tried again."""
        self.push.breaks = True
        self.reporting.be_pulled()
        self.wait(1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.push.breaks = False
        self.wait(30)
        self.assertEqual(self.push.types(), ["heartbeat"])
