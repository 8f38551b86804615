"""The network in memory: mmwagent.testing.memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.testing.memory import MemoryNetwork


class End(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        """Keep why."""
        self.lost = reason


class NetworkTests(SynchronousTestCase):
    """Connections, bytes and their ends."""

    def setUp(self) -> None:
        """Build a network whose listener keeps its connections."""
        self.clock = Clock()
        self.servers: list[End] = []
        self.network = MemoryNetwork(self.clock, Factory.forProtocol(self.accept), port=99)

    def accept(self) -> End:
        """Make the listener's end."""
        self.servers.append(End())
        return self.servers[-1]

    def connect(self) -> tuple[Any, Any]:
        """Return both ends of a new connection."""
        dialled = self.network.endpoint("203.0.113.9").connect(Factory.forProtocol(End))
        self.assertNoResult(dialled)
        self.network.flush()
        return self.successResultOf(dialled), self.servers[-1]

    def reason(self, end: End, kind: type[Exception]) -> None:
        """See why a connection ended."""
        assert end.lost is not None
        self.assertIsInstance(end.lost.value, kind)

    def test_bytes(self) -> None:
        """Bytes go both ways, at the flush and not before."""
        client, server = self.connect()
        client.transport.write(b"a")
        client.transport.writeSequence([b"b", b"c"])
        server.transport.write(b"x")
        self.assertEqual((client.data, server.data), (b"", b""))
        self.network.flush()
        self.assertEqual((client.data, server.data), (b"x", b"abc"))

    def test_addresses(self) -> None:
        """Each end knows both addresses."""
        client, server = self.connect()
        peer = server.transport.getPeer()
        self.assertEqual(peer.host, "203.0.113.9")
        self.assertEqual(peer, client.transport.getHost())
        self.assertEqual(client.transport.getPeer().port, 99)

    def test_lose(self) -> None:
        """Losing lets what was written arrive; both ends are told, and write no more."""
        client, server = self.connect()
        server.transport.write(b"bye")
        server.transport.loseConnection()
        server.transport.write(b"too late")
        self.network.flush()
        self.assertEqual(client.data, b"bye")
        self.reason(client, ConnectionDone)
        self.reason(server, ConnectionDone)
        self.assertEqual(self.network.connections, [])

    def test_abort(self) -> None:
        """Aborting throws away what was written; the other end sees it as lost."""
        client, server = self.connect()
        server.transport.write(b"bye")
        server.transport.abortConnection()
        self.network.flush()
        self.assertEqual(client.data, b"")
        self.reason(server, ConnectionAborted)
        self.reason(client, ConnectionLost)

    def test_paused(self) -> None:
        """An end that reads nothing notices neither bytes nor the end, until it reads again."""
        client, server = self.connect()
        server.transport.pauseProducing()
        client.transport.write(b"a")
        client.transport.loseConnection()
        self.network.flush()
        self.assertEqual((server.data, server.lost), (b"", None))
        self.assertIsNotNone(client.lost)
        server.transport.resumeProducing()
        self.network.flush()
        self.assertEqual(server.data, b"a")
        self.reason(server, ConnectionDone)

    def test_refusing(self) -> None:
        """A refusing network fails new connections at the flush."""
        self.network.refusing = True
        dialled = self.network.endpoint().connect(Factory.forProtocol(End))
        self.network.flush()
        self.failureResultOf(dialled, ConnectionRefusedError)
        self.assertEqual(self.network.attempts, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_deaf(self) -> None:
        """A deaf network lets new connections time out after 30 s."""
        self.network.deaf = True
        dialled = self.network.endpoint().connect(Factory.forProtocol(End))
        self.network.advance(29)
        self.assertNoResult(dialled)
        self.network.advance(1)
        self.failureResultOf(dialled, TimeoutError)
        self.network.deaf = False
        self.network.flush()
        self.assertEqual(self.servers, [])

    def test_cancelled(self) -> None:
        """A connection given up before it is made is not made."""
        dialled = self.network.endpoint().connect(Factory.forProtocol(End))
        dialled.addErrback(lambda _: None)
        dialled.cancel()
        self.network.flush()
        self.assertEqual(self.servers, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_frozen(self) -> None:
        """A frozen network delivers nothing, and loses nothing."""
        client, server = self.connect()
        self.network.frozen = True
        client.transport.write(b"a")
        self.network.flush()
        self.assertEqual(server.data, b"")
        self.network.frozen = False
        self.network.flush()
        self.assertEqual(server.data, b"a")

    def test_cut(self) -> None:
        """A cut ends every connection for both ends."""
        client, server = self.connect()
        self.network.cut()
        self.assertEqual(self.network.connections, [])
        self.reason(client, ConnectionAborted)
        self.reason(server, ConnectionLost)

    def test_no_protocol(self) -> None:
        """A client factory that builds nothing fails the connection."""

        class Nothing(Factory):
            def buildProtocol(self, addr: Any) -> None:
                return None

        dialled = self.network.endpoint().connect(Nothing())
        self.network.flush()
        self.failureResultOf(dialled, ConnectionAborted)

    def test_pull_producer(self) -> None:
        """A producer that waits to be asked is asked."""
        client, server = self.connect()

        class Once:
            def resumeProducing(self) -> None:
                client.transport.unregisterProducer()
                client.transport.write(b"body")

        client.transport.registerProducer(Once(), False)
        self.network.flush()
        self.assertEqual(server.data, b"body")

    def test_endless(self) -> None:
        """Two ends that never stop talking are an error, not a hang."""
        client, server = self.connect()
        client.dataReceived = client.transport.write
        server.dataReceived = server.transport.write
        client.transport.write(b"ping")
        self.assertRaises(AssertionError, self.network.flush)
