"""Tests of a new server token: in force at once, then kept."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.credentials import Credentials, Scope
from mmwagent.rotation import Rotation


class RotationTests(SynchronousTestCase):
    """What happens with a new token."""

    def setUp(self) -> None:
        """Make credentials, and a store whose answers the test gives."""
        self.credentials = Credentials("old")
        self.saved: list[str] = []
        self.answers: list[Deferred[str]] = []
        self.rotation = Rotation(self.credentials, self.save)

    def save(self, token: str) -> Deferred[str]:
        """Note what is to be kept."""
        self.saved.append(token)
        self.answers.append(Deferred())
        return self.answers[-1]

    def rotate(self, token: str) -> Deferred[None]:
        """Rotate to `token`."""
        return Deferred.fromCoroutine(self.rotation.rotate(token))

    def said(self, events: Any) -> list[tuple[LogLevel, str]]:
        """Return levels and words of log events, none of which may hold a token."""
        said = [(event["log_level"], formatEvent(event)) for event in events]
        self.assertNotIn("s3cret", repr(events))
        return said

    def test_in_force_before_it_is_kept(self) -> None:
        """The new token counts at once: the master's next call brings it, disk or no disk."""
        rotating = self.rotate("new")
        self.assertNoResult(rotating)
        self.assertEqual(self.credentials.server_token, "new")
        self.assertTrue(self.credentials.accepts(b"new", Scope.MANAGE))
        self.assertEqual(self.saved, ["new"])
        self.answers[0].callback("/etc/x.yaml")
        self.successResultOf(rotating)

    def test_kept(self) -> None:
        """The log says where it is kept, and shows no token."""
        with capturedLogs() as events:
            rotating = self.rotate("s3cret-token")
            self.answers[0].callback("/etc/x.yaml")
        self.successResultOf(rotating)
        words = "the master's new token is in force and kept in /etc/x.yaml"
        self.assertEqual(self.said(events), [(LogLevel.info, words)])

    def test_not_kept(self) -> None:
        """Where it cannot be kept it is in force all the same; the log says what will happen."""
        with capturedLogs() as events:
            rotating = self.rotate("s3cret-token")
            self.answers[0].errback(OSError(28, "No space left on device"))
        self.successResultOf(rotating)
        ((level, words),) = self.said(events)
        self.assertIs(level, LogLevel.error)
        self.assertIn("could not be kept ([Errno 28] No space left on device)", words)
        self.assertIn("after a restart the master will refuse this agent", words)
        self.assertEqual(self.credentials.server_token, "s3cret-token")

    def test_the_same_again(self) -> None:
        """A token that is in force already changes nothing and is not written again."""
        with capturedLogs() as events:
            self.successResultOf(self.rotate("old"))
        self.assertEqual((self.saved, events), ([], []))

    def test_one_after_another(self) -> None:
        """Two at once are kept in their order: the last one stays, and counts at once."""
        first, second = self.rotate("one"), self.rotate("two")
        self.assertEqual(self.credentials.server_token, "two")
        self.assertEqual(self.saved, ["one"])
        self.answers[0].errback(OSError("no"))
        self.successResultOf(first)
        self.assertEqual(self.saved, ["one", "two"])
        self.answers[1].callback("file")
        self.successResultOf(second)

    def test_store_that_answers_at_once(self) -> None:
        """A store may answer at once, and may fail in a way nobody foresaw: that passes on."""
        self.rotation.save = lambda token: succeed("file")
        self.successResultOf(self.rotate("one"))
        self.rotation.save = lambda token: fail(ZeroDivisionError())
        self.failureResultOf(self.rotate("two"), ZeroDivisionError)
        self.rotation.save = lambda token: succeed("file")
        self.successResultOf(self.rotate("three"))
