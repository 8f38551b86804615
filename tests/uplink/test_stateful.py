"""Random events thrown at the link, the reporting and the session together."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.error import ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.backoff import Backoff
from mmwagent.uplink.failures import Kind, LinkFailure
from mmwagent.uplink.link import Link
from mmwagent.uplink.reporter import Cadence
from mmwagent.uplink.reporting import Reporting
from mmwagent.uplink.service import Uplink
from tests.uplink.helpers import FakePush, FakeReports, Network

CAP = 300
HEARTBEAT = 30
# The longest that a door may keep us waiting before it is given up.
DEADLINES = 20 + 10 + 10

POSTS: dict[str, LinkFailure | None] = {
    "works": None,
    "is down": LinkFailure("down"),
    "refuses": LinkFailure("401", Kind.UNAUTHORISED),
    "throttles": LinkFailure("429", Kind.THROTTLED, 90, everywhere=True),
}
REFUSALS = {"403": 403, "429": 429, "500": 500}
VERDICTS = {
    "accepts": {"success": True},
    "rejects": {"success": False, "message": "Invalid token"},
    "is broken": {"success": False, "message": "database is locked"},
    "is silent": None,
}


class UplinkMachine(RuleBasedStateMachine):
    """A master that changes its mind at any time, in each of the two modes that dial."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network(verdict=VERDICTS["accepts"])
        self.clock = self.network.clock
        self.overlaps: list[str] = []
        self.push = FakePush(self.clock, watch=self.watch)
        self.last_sign = 0.0
        self.uplink: Uplink | None = None

    def watch(self, type_: str) -> None:
        """Note a post that is made while a session is live."""
        if any(client.session.live for client in self.network.open_sockets()):
            self.overlaps.append(type_)

    @rule(mode=st.sampled_from(["auto", "websocket"]))
    @precondition(lambda self: self.uplink is None)
    def start(self, mode: str) -> None:
        """Start the uplink."""
        slow = Backoff(lambda: 0.0, base=75)
        reporting = Reporting(
            self.clock,
            Cadence(HEARTBEAT, 60, 3),
            FakeReports(),
            self.push,
            slow,
            lambda: link.hurry(),
            lambda answer: None,
        )
        link = Link(
            self.clock,
            self.network.dialer(),
            lambda: "t0k",
            lambda session, message: None,
            reporting,
            Backoff(lambda: 0.0),
            slow,
            1 if mode == "auto" else 5,
        )
        self.uplink = Uplink(mode, link, reporting, self.push)
        self.uplink.startService()

    @rule(how=st.sampled_from(["works", "is refused", "hangs", "is mute", *REFUSALS]))
    def network_does(self, how: str) -> None:
        """Decide what the next connection meets."""
        self.network.fails_with = ConnectionRefusedError() if how == "is refused" else None
        self.network.hangs = how == "hangs"
        self.network.mute = how == "is mute"
        self.network.status = REFUSALS.get(how)

    @rule(how=st.sampled_from(sorted(VERDICTS)))
    def master_does(self, how: str) -> None:
        """Decide what the next authentication is answered."""
        self.network.verdict = VERDICTS[how]

    @rule(how=st.sampled_from(sorted(POSTS)))
    def posts_do(self, how: str) -> None:
        """Decide what becomes of the next posts."""
        self.push.fails_with = POSTS[how]

    @rule(answers=st.booleans())
    def pings_are(self, answers: bool) -> None:
        """Decide whether the next peers answer pings."""
        self.network.answers_pings = answers

    @rule()
    @precondition(lambda self: self.network.open_sockets())
    def dropped(self) -> None:
        """Cut whatever connection there is."""
        self.network.drop()

    @rule(message=st.sampled_from([b"{", b"[]", b'{"type":"config","payload":{}}', b"\xff"]))
    @precondition(lambda self: self.network.open_sockets())
    def says(self, message: bytes) -> None:
        """Have the master say something odd."""
        self.network.say(message)

    @rule(seconds=st.sampled_from([1, 4, 20, 61, 400]))
    def waits(self, seconds: int) -> None:
        """Let time pass, looking at each second."""
        for _ in range(seconds):
            self.network.advance(1)
            self.look()

    def look(self) -> None:
        """Check what must be true at every moment."""
        now = self.clock.seconds()
        assert len(self.network.open_sockets()) <= 1, "two sockets at once"
        assert self.overlaps == [], "posted while a session was live"
        posted = self.push.types()
        over_session = self.network.reports()
        dials = self.network.new_dials()
        if posted or over_session or dials:
            self.last_sign = now
        if self.uplink is not None:
            silent = now - self.last_sign
            assert silent <= CAP + HEARTBEAT + DEADLINES, f"silent for {silent} s"
        # A report each 3 s, and what comes at once with a change of doors.
        assert len(posted) + len(over_session) + dials <= 15, "a busy loop"

    @invariant()
    def handshakes_are_rare(self) -> None:
        """Never more than one dial in four seconds on average, over ten minutes."""
        window = [at for at in self.network.dialled_at if at > self.clock.seconds() - 600]
        assert len(window) <= 60, f"{len(window)} handshakes in ten minutes"

    def teardown(self) -> None:
        """Stop it from wherever it is: nothing may be left, within the time a close may take."""
        if self.uplink is not None:
            self.uplink.stopService()
            self.network.advance(2)
            assert self.network.open_sockets() == [], "a socket is left"
            assert self.clock.getDelayedCalls() == [], "a timer is left"


class StatefulTests(SynchronousTestCase):
    """Hundreds of random lives, minutes and hours of each."""

    def test_invariants(self) -> None:
        """Never two sockets, two doors, a busy loop or a silence beyond the cap."""
        case: Any = UplinkMachine.TestCase
        case.settings = settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        case("runTest").runTest()
