"""The machine of the connection: every way through it, minutes in no time."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.backoff import Backoff
from mmwagent.uplink.failures import Kind, LinkFailure
from mmwagent.uplink.link import Link
from mmwagent.uplink.messages import Other
from tests.uplink.helpers import FakeDialer, FakeSession

DOWN = LinkFailure("down")
REFUSED = LinkFailure("Invalid token", Kind.UNAUTHORISED, everywhere=True)
FORBIDDEN = LinkFailure("403", Kind.UNAUTHORISED)


class FakeReporting:
    """In place of Reporting: notes its inputs."""

    def __init__(self) -> None:
        self.inputs: list[str] = []

    def session_up(self, session: Any) -> None:
        """Note it."""
        self.inputs.append("session_up")

    def fall_back(self) -> None:
        """Note it."""
        self.inputs.append("fall_back")

    def rest(self) -> None:
        """Note it."""
        self.inputs.append("rest")


class Case(SynchronousTestCase):
    """A link with fakes around it."""

    patience = 1

    def setUp(self) -> None:
        """Make a link that is stopped."""
        self.clock = Clock()
        self.dialer = FakeDialer(self.clock)
        self.reporting = FakeReporting()
        self.received: list[Any] = []
        self.link = Link(
            self.clock,
            self.dialer,
            lambda: "t0k",
            lambda session, message: self.received.append(message),
            self.reporting,
            Backoff(lambda: 0.5),
            Backoff(lambda: 0.5, base=75),
            self.patience,
        )

    def live(self) -> FakeSession:
        """Start, and have the dial succeed."""
        self.link.start()
        return self.dialer.succeed()

    def fail_for(self, seconds: int, failure: LinkFailure = DOWN) -> list[float]:
        """Fail each dial for so long; return when they came."""
        for _ in range(seconds):
            if self.dialer.dials and not self.dialer.dials[-1].called:
                self.dialer.fail(failure)
            self.clock.advance(1)
        return self.dialer.at

    def waits(self) -> list[int]:
        """Return the seconds between the dials so far."""
        pairs = zip(self.dialer.at, self.dialer.at[1:], strict=False)
        return [round(later - earlier) for earlier, later in pairs]


class DiallingTests(Case):
    """Until there is a session."""

    def test_start(self) -> None:
        """The start dials at once, with the token of the moment."""
        self.link.start()
        self.assertEqual(self.dialer.at, [0])
        self.assertEqual(self.dialer.tokens, ["t0k"])

    def test_one_dial_at_a_time(self) -> None:
        """While a dial is under way there is no other, whatever hurries."""
        self.link.start()
        self.link.hurry()
        self.clock.advance(600)
        self.assertEqual(len(self.dialer.dials), 1)

    def test_backoff(self) -> None:
        """The waits double from 5 s to 5 minutes and stay there."""
        self.link.start()
        self.fail_for(1900)
        self.assertEqual(self.waits(), [5, 10, 20, 40, 80, 160, 300, 300, 300, 300, 300])

    def test_fall_back(self) -> None:
        """In the mode auto the very first failure sends the reports another way."""
        self.link.start()
        self.dialer.fail()
        self.assertEqual(self.reporting.inputs, ["fall_back"])

    def test_hurry(self) -> None:
        """When HTTP fails as well the wait is cut short, once."""
        self.link.start()
        self.dialer.fail()
        self.clock.advance(1)
        self.link.hurry()
        self.assertEqual(self.dialer.at, [0, 1])
        self.clock.advance(100)
        self.assertEqual(self.dialer.at, [0, 1])

    def test_logged_once_a_change(self) -> None:
        """The same failure again and again is one warning; another one is another."""
        with capturedLogs() as events:
            self.link.start()
            self.fail_for(100)
            self.fail_for(200, LinkFailure("otherwise down"))
        loud = [event["reason"] for event in events if event["log_level"].name == "warn"]
        self.assertEqual(loud, ["down", "otherwise down"])


class PatientTests(Case):
    """The mode websocket: five failures in a row before the reports go another way."""

    patience = 5

    def test_five(self) -> None:
        """The fifth failure in a row is the one that counts."""
        self.link.start()
        self.fail_for(60)
        self.assertEqual(len(self.dialer.at), 4 + 0)
        self.assertEqual(self.reporting.inputs, [])
        self.fail_for(20)
        self.assertEqual(len(self.dialer.at), 5)
        self.assertEqual(self.reporting.inputs, ["fall_back"])

    def test_still_tried(self) -> None:
        """After that the WebSocket is still tried, and is used when it works."""
        self.link.start()
        self.fail_for(200)
        self.clock.advance(300)
        self.dialer.succeed()
        self.assertEqual(self.reporting.inputs[-1], "session_up")

    def test_after_a_session(self) -> None:
        """Once there was a session its loss sends the reports another way at once."""
        self.live().end(DOWN)
        self.assertEqual(self.reporting.inputs, ["session_up", "fall_back"])


class LiveTests(Case):
    """While there is a session."""

    def test_session_up(self) -> None:
        """The reporting gets the session."""
        self.live()
        self.assertEqual(self.reporting.inputs, ["session_up"])

    def test_no_second_socket(self) -> None:
        """While a session is live nothing dials."""
        self.live()
        self.link.hurry()
        self.clock.advance(86400)
        self.assertEqual(len(self.dialer.dials), 1)

    def test_messages(self) -> None:
        """What the session receives is handed on."""
        self.live()
        assert self.dialer.receive is not None
        self.dialer.receive(Other("pong"))
        self.assertEqual(self.received, [Other("pong")])

    def test_dropped_at_once(self) -> None:
        """A session that is dropped as soon as it is open is no success: the waits still grow."""
        self.link.start()
        for _ in range(600):
            if not self.dialer.dials[-1].called:
                self.dialer.succeed().end(DOWN)
            self.clock.advance(1)
        self.assertEqual(self.waits(), [5, 10, 20, 40, 80, 160])

    def test_steady(self) -> None:
        """A session that lived a minute is one: the waits start from the base again."""
        self.link.start()
        self.fail_for(100)
        self.clock.advance(60)
        session = self.dialer.succeed()
        self.clock.advance(61)
        session.end(DOWN)
        ended = self.clock.seconds()
        self.clock.pump([1] * 5)
        self.assertEqual(self.dialer.at[-1], ended + 5)

    def test_shorter_than_steady(self) -> None:
        """A session that lived 59 s is not."""
        self.link.start()
        self.fail_for(34)
        self.clock.advance(1)
        session = self.dialer.succeed()
        self.clock.advance(59)
        session.end(DOWN)
        dials = len(self.dialer.at)
        self.clock.advance(39)
        self.assertEqual(len(self.dialer.at), dials)


class RefusedTests(Case):
    """When the master refuses the token."""

    def test_slow(self) -> None:
        """A rejected token makes fewer than 10 handshakes in 10 minutes, over no other door."""
        self.link.start()
        self.fail_for(600, REFUSED)
        self.assertEqual(self.waits(), [75, 150, 300])
        self.assertEqual(set(self.reporting.inputs), {"rest"})

    def test_nothing_hurries(self) -> None:
        """Nothing cuts that wait short."""
        self.link.start()
        self.dialer.fail(REFUSED)
        self.link.hurry()
        self.clock.advance(74)
        self.assertEqual(len(self.dialer.dials), 1)

    def test_forbidden_upgrade(self) -> None:
        """A 403 may come from a proxy that lets no WebSocket through: HTTP is tried."""
        self.link.start()
        self.dialer.fail(FORBIDDEN)
        self.assertEqual(self.reporting.inputs, ["fall_back"])

    def test_retry_after(self) -> None:
        """A master that names a longer time is left alone until then, up to the cap."""
        self.link.start()
        self.dialer.fail(LinkFailure("429", Kind.THROTTLED, 200, everywhere=True))
        self.clock.advance(199)
        self.assertEqual(len(self.dialer.dials), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.dialer.dials), 2)
        self.dialer.fail(LinkFailure("429", Kind.THROTTLED, 86400, everywhere=True))
        self.clock.advance(300)
        self.assertEqual(len(self.dialer.dials), 3)

    def test_in_the_middle(self) -> None:
        """A live session that is told it is not authenticated is not dialled again at once."""
        self.live().end(REFUSED)
        self.assertEqual(self.reporting.inputs, ["session_up", "rest"])
        self.clock.advance(74)
        self.assertEqual(len(self.dialer.dials), 1)


class StopTests(Case):
    """Stopping, from every state."""

    def nothing_left(self) -> None:
        """Check that nothing is scheduled, and that nothing comes any more."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        dials = len(self.dialer.dials)
        self.link.hurry()
        self.clock.advance(600)
        self.assertEqual(len(self.dialer.dials), dials)
        self.assertEqual(self.reporting.inputs[-1], "rest")

    def test_stopped(self) -> None:
        """What never started can be stopped."""
        self.link.stop()
        self.successResultOf(self.link.ended())

    def test_dialling(self) -> None:
        """A dial under way is given up."""
        self.link.start()
        self.link.stop()
        self.assertEqual(self.dialer.cancelled, 1)
        self.nothing_left()

    def test_live(self) -> None:
        """A session is closed with a goodbye, and `ended` fires when it is."""
        session = self.live()
        over = self.link.ended()
        self.assertNoResult(over)
        self.link.stop()
        self.assertEqual(session.goodbyes, 1)
        self.successResultOf(over)
        self.nothing_left()

    def test_waiting(self) -> None:
        """A wait is ended."""
        self.link.start()
        self.dialer.fail()
        self.link.stop()
        self.nothing_left()

    def test_barred(self) -> None:
        """So is a long one."""
        self.link.start()
        self.dialer.fail(REFUSED)
        self.link.stop()
        self.nothing_left()

    def test_start_again(self) -> None:
        """What was stopped can be started."""
        self.live()
        self.link.stop()
        self.link.start()
        self.assertEqual(len(self.dialer.dials), 2)
