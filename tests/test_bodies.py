"""Tests of reading a body within a limit."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss

from mmwagent.bodies import BodyTooLarge, read_body
from tests.xray.helpers import FakeResponse


class CannotAbort:
    """A transport as most responses give: it cannot abort."""

    def __init__(self) -> None:
        self.lost = 0

    def loseConnection(self) -> None:
        """Count."""
        self.lost += 1


class EndsAtOnce(StringTransport):
    """A transport that tells its protocol of the end while it is being aborted."""

    protocol: Any = None

    def abortConnection(self) -> None:
        """End."""
        super().abortConnection()
        self.protocol.connectionLost(Failure(ConnectionLost()))


class Aborting(StringTransport):
    """A transport that counts how it is ended."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = self.lost = 0

    def abortConnection(self) -> None:
        """Count."""
        self.aborted += 1

    def loseConnection(self) -> None:
        """Count."""
        self.lost += 1


class ReadBodyTests(SynchronousTestCase):
    """A body is given whole, or a failure is."""

    def test_whole(self) -> None:
        """The parts are put together; a body of no part is empty."""
        for parts in ((), (b"one",), (b"one", b"", b" two", b" three")):
            with self.subTest(parts=parts):
                read = read_body(FakeResponse(*parts), 100)
                self.assertEqual(self.successResultOf(read), b"".join(parts))

    def test_not_before_the_end(self) -> None:
        """The body is given when it has ended, not before."""
        response = FakeResponse(b"one", unfinished=True)
        read = read_body(response, 100)
        self.assertNoResult(read)
        response.protocol.dataReceived(b" two")
        self.assertNoResult(read)
        response.protocol.connectionLost(Failure(ResponseDone()))
        self.assertEqual(self.successResultOf(read), b"one two")

    def test_an_answer_of_unknown_length(self) -> None:
        """An answer that ends with its connection, as those of HTTP/1.0, is taken."""
        read = read_body(FakeResponse(b"one", end=PotentialDataLoss()), 100)
        self.assertEqual(self.successResultOf(read), b"one")

    def test_a_broken_connection(self) -> None:
        """An answer that breaks off is a failure, with its reason."""
        for reason in (ConnectionLost(), ConnectionDone(), ResponseFailed([])):
            with self.subTest(reason=reason):
                read = read_body(FakeResponse(b"one", end=reason), 100)
                self.assertIs(self.failureResultOf(read).value, reason)

    def test_the_limit(self) -> None:
        """As many bytes as the limit are read, in one part or in several."""
        for parts in ((b"12345",), (b"12", b"345"), (b"12345", b"")):
            transport = Aborting()
            read = read_body(FakeResponse(*parts, transport=transport), 5)
            self.assertEqual(self.successResultOf(read), b"12345")
            self.assertEqual((transport.aborted, transport.lost), (0, 0))

    def test_past_the_limit(self) -> None:
        """One byte more is a failure at once, and the connection is aborted, once."""
        for parts in ((b"123456",), (b"12", b"3456"), (b"12345", b"6", b"7" * 100)):
            with self.subTest(parts=parts):
                transport = Aborting()
                response = FakeResponse(*parts, unfinished=True, transport=transport)
                failure = self.failureResultOf(read_body(response, 5), BodyTooLarge)
                self.assertEqual(str(failure.value), "the answer is too long")
                self.assertEqual((transport.aborted, transport.lost), (1, 0))
                response.protocol.dataReceived(b"more")
                response.protocol.connectionLost(Failure(ConnectionLost()))
                self.assertEqual(transport.aborted, 1)

    def test_a_transport_that_cannot_abort(self) -> None:
        """Where the connection cannot be aborted it is closed."""
        transport = CannotAbort()
        response = FakeResponse(b"123456", unfinished=True, transport=transport)
        self.failureResultOf(read_body(response, 5), BodyTooLarge)
        self.assertEqual(transport.lost, 1)

    def test_a_transport_that_ends_at_once(self) -> None:
        """The reason stays the length, even when the abort ends the connection there and then."""
        transport = EndsAtOnce()
        response = FakeResponse(unfinished=True, transport=transport)
        read = read_body(response, 5)
        transport.protocol = response.protocol
        response.protocol.dataReceived(b"123456")
        self.failureResultOf(read, BodyTooLarge)

    def test_cancelled(self) -> None:
        """Who gives up the body gives up its connection; what still comes is dropped."""
        transport = Aborting()
        response = FakeResponse(b"one", unfinished=True, transport=transport)
        read = read_body(response, 100)
        read.cancel()
        self.failureResultOf(read, CancelledError)
        self.assertEqual(transport.aborted, 1)
        response.protocol.dataReceived(b"x" * 1000)
        response.protocol.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(transport.aborted, 1)
