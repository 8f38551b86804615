"""Failures in words and kinds."""

from __future__ import annotations

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseNeverReceived

from mmwagent.uplink import failures
from mmwagent.uplink.failures import Kind, LinkFailure


class RefusalTests(SynchronousTestCase):
    """What an auth_result without success means."""

    def test_kinds(self) -> None:
        """Rejected, expired, throttled and broken are told apart by the master's words."""
        for message, kind in (
            ("Invalid token", Kind.UNAUTHORISED),
            ("Token required", Kind.UNAUTHORISED),
            ("Authentication required", Kind.UNAUTHORISED),
            ("token has expired", Kind.UNAUTHORISED),
            ("无效的Token", Kind.UNAUTHORISED),
            ("", Kind.UNAUTHORISED),
            ("Too many attempts, banned", Kind.THROTTLED),
            ("请稍后再试", Kind.THROTTLED),
            ("internal server error", Kind.UNREACHABLE),
            ("database is locked", Kind.UNREACHABLE),
        ):
            with self.subTest(message=message):
                failure = failures.of_refusal(message)
                self.assertIs(failure.kind, kind)
                self.assertIn(message or "no reason", failure.reason)
                self.assertEqual(failure.everywhere, kind is not Kind.UNREACHABLE)


class StatusTests(SynchronousTestCase):
    """What an HTTP status means."""

    def test_everywhere(self) -> None:
        """After 429 no other door is tried; after 403, which a proxy may have given, HTTP is."""
        self.assertTrue(failures.of_status(429, "").everywhere)
        self.assertFalse(failures.of_status(403, "Forbidden").everywhere)

    def test_retry_after_of_an_outage(self) -> None:
        """A 503 may say when to come back, too."""
        failure = failures.of_status(503, "Service Unavailable", retry_after="30")
        self.assertIs(failure.kind, Kind.UNREACHABLE)
        self.assertEqual(failure.retry_after, 30)

    def test_absurd_retry_after(self) -> None:
        """A number that no one can wait for is not taken."""
        self.assertIsNone(failures.of_status(429, "", retry_after="9" * 400).retry_after)


class ErrorTests(SynchronousTestCase):
    """Exceptions in plain words."""

    def test_words(self) -> None:
        """Each of the common errors has words that an operator understands."""
        for error, words in (
            (ConnectionRefusedError(), "refuses the connection"),
            (TimeoutError(), "no answer in time"),
            (DNSLookupError("no such host"), "cannot be resolved"),
            (ConnectionDone(), "closed the connection"),
            (ConnectionLost(), "broke"),
            (ConnectError(101, "Network is unreachable"), "Network is unreachable"),
            (VerificationError([]), "for another name"),
            (SSL.Error([("a", "b", "certificate verify failed")]), "certificate verify failed"),
            (SSL.Error(), "handshake"),
            (ResponseNeverReceived([Failure(ConnectionDone())]), "closed the connection"),
            (ResponseNeverReceived([]), "broke"),
            (ZeroDivisionError("x"), "ZeroDivisionError: x"),
        ):
            with self.subTest(error=error):
                failure = failures.of(Failure(error))
                self.assertIn(words, failure.reason)
                self.assertIs(failure.kind, Kind.UNREACHABLE)

    def test_kept(self) -> None:
        """A LinkFailure stays what it is."""
        failure = LinkFailure("x", Kind.THROTTLED)
        self.assertIs(failures.of(Failure(failure)), failure)
