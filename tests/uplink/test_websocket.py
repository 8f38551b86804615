"""One WebSocket session, from dial to end, against a peer in memory."""

from __future__ import annotations

import json
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionRefusedError
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.failures import Kind, LinkFailure
from mmwagent.uplink.messages import Other
from mmwagent.uplink.websocket import MAX_MESSAGE_BYTES, Session
from tests.uplink.helpers import SPEED, Network


class Case(SynchronousTestCase):
    """A network in memory, and a dial over it."""

    def setUp(self) -> None:
        """Make an empty network."""
        self.network = Network()
        self.received: list[Any] = []

    def dial(self, **changes: Any) -> Any:
        """Dial, and let the bytes flow."""
        dialled = self.network.dialer(**changes).dial("t0k", self.received.append)
        self.network.flush()
        return dialled

    def live(self, **changes: Any) -> Session:
        """Return a session that the peer has accepted."""
        dialled = self.dial(**changes)
        self.network.accept()
        session: Session = self.successResultOf(dialled)
        return session

    def failure_of(self, dialled: Any) -> LinkFailure:
        """Return why the dial failed."""
        failure = self.failureResultOf(dialled, LinkFailure).value
        assert isinstance(failure, LinkFailure)
        return failure

    def ended(self, session: Session) -> str:
        """Return why `session` is over."""
        reason: str = self.successResultOf(session.closed).reason
        return reason

    def no_timers_left(self) -> None:
        """Check that nothing is scheduled any more."""
        self.assertEqual(self.network.clock.getDelayedCalls(), [])


class OpeningTests(Case):
    """From the dial to the session."""

    def test_headers(self) -> None:
        """The upgrade has the exact User-Agent, version 13 and no compression, and no token."""
        self.dial()
        headers = self.network.peer.request.headers
        self.assertEqual(headers["user-agent"], "miaomiaowux/0.1")
        self.assertEqual(headers["sec-websocket-version"], "13")
        self.assertNotIn("sec-websocket-extensions", headers)
        self.assertNotIn("t0k", json.dumps(headers))
        self.assertEqual(self.network.peer.request.path, "/api/remote/ws")

    def test_ipv6_host(self) -> None:
        """An IPv6 host stands in brackets in the Host header."""
        self.dial(url="ws://[::1]:8080/api/remote/ws")
        self.assertEqual(self.network.peer.request.headers["host"], "[::1]:8080")

    def test_auth_first(self) -> None:
        """The token is the first message, and until it is accepted the only one."""
        dialled = self.dial()
        self.assertEqual(self.network.peer.got, [{"type": "auth", "payload": {"token": "t0k"}}])
        self.assertNoResult(dialled)

    def test_accepted(self) -> None:
        """Once accepted there is a session, and what it sends arrives."""
        session = self.live()
        session.send(SPEED)
        self.network.flush()
        self.assertEqual(self.network.peer.got[-1]["type"], "speed")

    def test_other_frames_before_the_answer(self) -> None:
        """Frames before auth_result are waited out, not taken for the answer nor handed on."""
        dialled = self.dial()
        self.network.peer.say("license_status", {})
        self.network.peer.sendMessage(b"garbage")
        self.network.accept()
        self.successResultOf(dialled)
        self.assertEqual(self.received, [])

    def test_refused(self) -> None:
        """A refused token fails the dial, of a kind that says so, and closes the connection."""
        dialled = self.dial()
        self.network.peer.say("auth_result", {"success": False, "message": "Invalid token"})
        self.network.flush()
        failure = self.failure_of(dialled)
        self.assertIn("Invalid token", failure.reason)
        self.assertIs(failure.kind, Kind.UNAUTHORISED)
        self.assertTrue(failure.everywhere)
        self.no_timers_left()

    def test_connection_refused(self) -> None:
        """A host that refuses fails the dial in plain words."""
        self.network.fails_with = ConnectionRefusedError()
        failure = self.failure_of(self.dial())
        self.assertEqual(failure.reason, "the master's host refuses the connection")
        self.assertIs(failure.kind, Kind.UNREACHABLE)

    def test_upgrade_refused(self) -> None:
        """The status of a refused upgrade decides the kind, its Retry-After the wait."""
        for status, headers, kind, words in (
            (403, {}, Kind.UNAUTHORISED, "403 Because"),
            (401, {}, Kind.UNAUTHORISED, "401"),
            (429, {"Retry-After": "90"}, Kind.THROTTLED, "429"),
            (500, {}, Kind.UNREACHABLE, "500"),
            (404, {}, Kind.UNREACHABLE, "404"),
            (302, {"Location": "https://x.test/"}, Kind.UNREACHABLE, "https://x.test/"),
        ):
            with self.subTest(status=status):
                self.network = Network(status=status, headers=headers)
                failure = self.failure_of(self.dial())
                self.assertIs(failure.kind, kind)
                self.assertIn(words, failure.reason)
                self.assertEqual(failure.retry_after, 90 if status == 429 else None)
                self.no_timers_left()

    def test_tls_failure(self) -> None:
        """A handshake that fails gives TLS's own words."""
        dialled = self.dial()
        error = SSL.Error([("SSL routines", "", "certificate verify failed")])
        self.network.clients[-1].connectionLost(Failure(error))
        self.assertIn("certificate verify failed", self.failure_of(dialled).reason)


class DeadlineTests(Case):
    """Every phase has an end."""

    def test_upgrade(self) -> None:
        """A peer that takes the connection and says nothing is left after 10 s."""
        self.network.mute = True
        dialled = self.dial()
        self.network.clock.advance(9.9)
        self.assertNoResult(dialled)
        self.network.clock.advance(0.2)
        self.network.flush()
        self.assertIn("did not open the WebSocket in time", self.failure_of(dialled).reason)
        self.no_timers_left()

    def test_authentication(self) -> None:
        """A peer that never answers the authentication is left after 10 s."""
        dialled = self.dial()
        self.network.advance(9)
        self.assertNoResult(dialled)
        self.network.advance(2)
        self.assertIn("did not answer our authentication", self.failure_of(dialled).reason)
        self.no_timers_left()

    def test_dead_peer(self) -> None:
        """A peer that no longer answers pings is noticed within 36 s."""
        self.network.answers_pings = False
        session = self.live()
        self.network.advance(34)
        self.assertNoResult(session.closed)
        self.network.advance(2)
        self.assertIn("no longer answers", self.ended(session))
        self.assertEqual(self.network.peer.pings, 1)
        self.no_timers_left()

    def test_live_peer(self) -> None:
        """A peer that answers pings but sends nothing else is kept for hours."""
        session = self.live()
        self.network.advance(7200)
        self.assertNoResult(session.closed)
        self.assertGreater(self.network.peer.pings, 300)

    def test_messages_are_no_sign_that_ours_arrive(self) -> None:
        """A peer we hear but that does not hear us is dead to us: pongs count, messages do not."""
        self.network.answers_pings = False
        session = self.live()
        for _ in range(6):
            self.network.advance(5)
            self.assertNoResult(session.closed)
            self.network.peer.say("heartbeat_ack", {"server_time": 1})
            self.network.flush()
        self.network.advance(6)
        self.assertIn("no longer answers", self.ended(session))


class EndTests(Case):
    """How sessions end."""

    def test_close(self) -> None:
        """Closing says goodbye; once the peer has dropped the connection nothing is left."""
        session = self.live()
        session.close()
        self.network.flush()
        self.assertEqual(self.network.peer.remoteCloseCode, 1000)
        self.assertEqual(self.ended(session), "closed by this agent")
        self.no_timers_left()

    def test_close_unanswered(self) -> None:
        """A peer that does not answer the goodbye is cut off after a second."""
        session = self.live()
        self.network.peer.consumeData = lambda: None
        session.close()
        self.network.flush()
        self.assertNoResult(session.closed)
        self.network.advance(1)
        self.network.flush()
        self.assertEqual(self.ended(session), "closed by this agent")
        self.no_timers_left()

    def test_goodbye_of_the_peer(self) -> None:
        """A peer's goodbye ends the session with the peer's words."""
        session = self.live()
        self.network.peer.sendClose(1000, "moving house")
        self.network.flush()
        self.assertIn("moving house", self.ended(session))
        self.no_timers_left()

    def test_goodbye_without_end(self) -> None:
        """A peer that says goodbye and stays is cut off after a second."""
        session = self.live()
        self.network.peer.dropConnection = lambda abort=False: None
        self.network.peer.sendClose(1000, "later")
        self.network.flush()
        self.network.advance(2)
        self.assertTrue(self.ended(session))
        self.no_timers_left()

    def test_cut(self) -> None:
        """A connection that is cut ends the session."""
        session = self.live()
        self.network.peer.transport.abortConnection()
        self.network.flush()
        self.assertTrue(self.ended(session))
        self.no_timers_left()

    def test_send_after_end(self) -> None:
        """What is sent over a session that is no longer live fails, and raises nothing else."""
        session = self.live()
        self.network.peer.transport.abortConnection()
        self.network.flush()
        self.assertRaises(LinkFailure, session.send, SPEED)

    def test_late_refusal(self) -> None:
        """A live session that is told "Authentication required" ends."""
        session = self.live()
        self.network.peer.say(
            "auth_result", {"success": False, "message": "Authentication required"}
        )
        self.network.flush()
        self.assertIn("Authentication required", self.ended(session))

    def test_cancelled_while_connecting(self) -> None:
        """A dial given up while it connects ends, and leaves nothing."""
        self.network.hangs = True
        dialled = self.dial()
        dialled.cancel()
        self.failureResultOf(dialled, LinkFailure, CancelledError)
        self.no_timers_left()

    def test_cancelled_while_authenticating(self) -> None:
        """A dial given up while it authenticates ends and drops the connection."""
        dialled = self.dial()
        dialled.cancel()
        self.failureResultOf(dialled, LinkFailure, CancelledError)
        self.network.flush()
        self.assertTrue(self.network.peer.transport.disconnected)
        self.no_timers_left()


class ReceivingTests(Case):
    """What the peer says to a live session."""

    def test_handed_on(self) -> None:
        """Messages are handed on in their order."""
        self.live()
        self.network.peer.say("pong")
        self.network.peer.say("config", {"x": 1})
        self.network.flush()
        self.assertEqual(self.received, [Other("pong"), Other("config")])

    def test_malformed(self) -> None:
        """A malformed message is ignored; the session lives on."""
        session = self.live()
        for data in (b"{", b"[]", b'{"type":1}', b"[" * 50_000):
            self.network.peer.sendMessage(data)
        self.network.peer.say("pong")
        self.network.flush()
        self.assertEqual(self.received, [Other("pong")])
        self.assertNoResult(session.closed)

    def test_malformed_order(self) -> None:
        """An order that cannot be understood is answered where the master waits for an answer."""
        session = self.live()
        self.network.peer.say("domain_latency_probe", {"request_id": "7-1", "domains": "x"})
        self.network.peer.say("cert_request", {"cert_id": 4})
        self.network.peer.say("token_update", {"server_token": ""})
        self.network.flush()
        self.assertEqual(self.received, [])
        self.assertEqual(
            [
                (message["type"], message["payload"]["error"])
                for message in self.network.peer.got[1:]
            ],
            [
                ("domain_latency_result", "domains must be a list of texts"),
                ("cert_update", "domain must be a text, and not empty"),
            ],
        )
        self.assertEqual(self.network.peer.got[1]["payload"]["request_id"], "7-1")
        self.assertNoResult(session.closed)

    def test_malformed_order_before_the_answer(self) -> None:
        """Before the session is live nothing is sent but the authentication."""
        dialled = self.dial()
        self.network.peer.say("cert_request", {"cert_id": 4})
        self.network.flush()
        self.assertEqual([message["type"] for message in self.network.peer.got], ["auth"])
        self.network.accept()
        self.successResultOf(dialled)

    def test_malformed_is_told_once(self) -> None:
        """The log says what could not be understood, and shows no token."""
        self.live()
        with capturedLogs() as events:
            self.network.peer.say("token_update", {"server_token": "s3cret two"})
            self.network.flush()
        (event,) = events
        self.assertIn("the present one stays", formatEvent(event) or "")
        self.assertNotIn("s3cret", repr(event))

    def test_too_big(self) -> None:
        """A message beyond the limit ends the session; it is never held whole."""
        session = self.live()
        self.network.peer.sendMessage(b" " * (MAX_MESSAGE_BYTES + 1))
        self.network.flush()
        self.assertTrue(self.ended(session))

    def test_pings_answered(self) -> None:
        """The peer's pings are answered while reports are being sent."""
        session = self.live()
        pongs: list[bytes] = []
        self.network.peer.onPong = pongs.append
        for _ in range(3):
            session.send(SPEED)
            self.network.peer.sendPing(b"x")
        self.network.flush()
        self.assertEqual(pongs, [b"x"] * 3)
