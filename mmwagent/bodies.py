"""Reading the body of an HTTP answer, never more of it than there may be."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse
from zope.interface import implementer


class BodyTooLarge(Exception):
    """The answer is longer than the reader allows."""


def read_body(response: IResponse, limit: int) -> Deferred[bytes]:
    """
    Return the body of `response`, read to its end so that the connection can be used again.

    Fails with BodyTooLarge past `limit` bytes and gives up the connection. Cancelling gives it up
    as well.
    """
    reader = _Body(limit)
    response.deliverBody(reader)
    return reader.finished


@implementer(IProtocol)
class _Body(Protocol):
    def __init__(self, limit: int) -> None:
        self._left = limit
        self._parts: list[bytes] = []
        self.finished: Deferred[bytes] = Deferred(lambda _: self._give_up())

    def dataReceived(self, data: bytes) -> None:
        if self.finished.called:
            return
        self._left -= len(data)
        if self._left >= 0:
            self._parts.append(data)
        else:
            self.finished.errback(BodyTooLarge("the answer is too long"))
            self._give_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.finished.called:
            return
        # PotentialDataLoss: an HTTP/1.0 answer that ends with its connection.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.finished.callback(b"".join(self._parts))
        else:
            self.finished.errback(reason)

    def _give_up(self) -> None:
        self._parts = []
        transport = self.transport
        if transport is not None:
            # Only some of the transports that a response gives can abort.
            getattr(transport, "abortConnection", transport.loseConnection)()
