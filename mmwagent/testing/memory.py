"""
A network in memory: joins an agent's clients to a master's site, with no port and no real time.

`endpoint()` is for WebSocket clients and ClientService, `agent()` for treq. Nothing is delivered
before `flush()` or `advance()`, so a test sees each step.
"""

from __future__ import annotations

from typing import Any

from treq.client import HTTPClient
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from mmwagent.testing.bodies import WholeBody

CONNECT_TIMEOUT = 30.0
_ENOUGH = 10_000


@implementer(ITransport, IConsumer, IPushProducer)
class MemoryTransport:
    """
    One end of a connection. `protocol` gets what the other end wrote, at the network's flush.

    Losing the connection lets what was written arrive first; aborting it does not.
    """

    disconnecting = False
    connected = True

    def __init__(self, host: IPv4Address, peer: IPv4Address) -> None:
        self.protocol: Any = None
        self.other: MemoryTransport = self
        self.inbox: list[bytes] = []
        self._host = host
        self._peer = peer
        self._reading = True
        self._end: Exception | None = None
        self._producer: Any = None
        self._pull = False

    # ITransport

    def write(self, data: bytes) -> None:
        """Send bytes; a connection that ends takes no more."""
        if data and self.connected and not self.disconnecting:
            self.other.inbox.append(bytes(data))

    def writeSequence(self, data: Any) -> None:
        """Send bytes in pieces."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """End the connection once what was written has arrived."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._end = ConnectionDone()
            self.other.ended(ConnectionDone())

    def abortConnection(self) -> None:
        """End the connection now; nothing that was written arrives any more."""
        if self.connected:
            self.disconnecting = True
            self.inbox.clear()
            self.other.inbox.clear()
            self._end = ConnectionAborted()
            self.other.ended(ConnectionLost())

    def getPeer(self) -> IAddress:
        """Return the other end's address."""
        return self._peer

    def getHost(self) -> IAddress:
        """Return this end's address."""
        return self._host

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Accept what every TCP transport has."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Accept what every TCP transport has."""

    # Producers and consumers

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take a producer; one that waits to be asked is asked at each flush."""
        self._producer, self._pull = producer, not streaming

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Deliver nothing to `protocol` for now."""
        self._reading = False

    def resumeProducing(self) -> None:
        """Deliver again."""
        self._reading = True

    def stopProducing(self) -> None:
        """End the connection."""
        self.loseConnection()

    # For the network

    def ended(self, reason: Exception) -> None:
        """Learn that the other end closed; `protocol` is told when it has read all."""
        if self._end is None:
            self._end = reason

    def deliver(self) -> bool:
        """Hand over what has arrived. Return whether anything happened."""
        if not self.connected:
            return False
        if self._producer is not None and self._pull:
            self._producer.resumeProducing()
        if self.inbox and self._reading and not self.disconnecting:
            data = b"".join(self.inbox)
            self.inbox.clear()
            self.protocol.dataReceived(data)
            return True
        if self._end is not None and (self.disconnecting or (self._reading and not self.inbox)):
            self.connected = False
            self.protocol.connectionLost(Failure(self._end))
            return True
        return False


class MemoryNetwork:
    """
    Connections to one listener, `accept`, from anybody.

    `refusing` makes new connections fail; `deaf` leaves them unanswered, until they time out
    after 30 s; `frozen` delivers nothing, as a network that lost its route.
    """

    def __init__(self, clock: Clock, accept: IProtocolFactory, port: int = 8889) -> None:
        self.clock = clock
        self.refusing = False
        self.deaf = False
        self.frozen = False
        self.connections: list[tuple[MemoryTransport, MemoryTransport]] = []
        self.attempts = 0
        self._accept = accept
        self._here = IPv4Address("TCP", "192.0.2.1", port)
        self._dialling: list[tuple[Deferred[Any], Any, str]] = []
        self._next_port = 40000

    def endpoint(self, client_ip: str = "127.0.0.1") -> MemoryEndpoint:
        """Return an endpoint whose connections come from `client_ip`."""
        return MemoryEndpoint(self, client_ip)

    def agent(self, client_ip: str = "127.0.0.1", *, persistent: bool = True) -> Agent:
        """Return an HTTP agent that reaches the listener whatever the URL."""
        pool = HTTPConnectionPool(self.clock, persistent=persistent)
        anywhere = _Anywhere(self.endpoint(client_ip))
        agent: Agent = Agent.usingEndpointFactory(self.clock, anywhere, pool)
        return agent

    def http(self, client_ip: str = "127.0.0.1", *, persistent: bool = True) -> HTTPClient:
        """Return a treq client over `agent`, whose bodies wait for no reactor."""
        agent = self.agent(client_ip, persistent=persistent)
        return HTTPClient(agent, data_to_body_producer=WholeBody)

    def dial(self, factory: IProtocolFactory, client_ip: str) -> Deferred[Any]:
        """Start a connection; it is made at the next flush."""

        def give_up(cancelled: Deferred[Any]) -> None:
            self._dialling[:] = [entry for entry in self._dialling if entry[0] is not cancelled]

        self.attempts += 1
        dialled: Deferred[Any] = Deferred(give_up)
        self._dialling.append((dialled, factory, client_ip))
        timeout = self.clock.callLater(CONNECT_TIMEOUT, self._timed_out, dialled)

        def answered(result: Any) -> Any:
            if timeout.active():
                timeout.cancel()
            return result

        return dialled.addBoth(answered)

    def flush(self) -> None:
        """Make the connections that wait and deliver all bytes, until nothing moves."""
        for _ in range(_ENOUGH):
            if not self._step():
                return
        raise AssertionError("the two ends never stop talking")

    def advance(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, in steps, delivering after each."""
        self.flush()
        left = seconds
        while left > 1e-9:
            self.clock.advance(min(step, left))
            self.flush()
            left -= step

    def cut(self) -> None:
        """Break every connection, for both ends at once."""
        for client, _ in self.connections:
            client.abortConnection()
        self.flush()

    def _step(self) -> bool:
        if self.frozen:
            return False
        moved = False
        if not self.deaf:
            waiting, self._dialling = self._dialling, []
            for entry in waiting:
                self._connect(*entry)
                moved = True
        for pair in list(self.connections):
            for end in pair:
                moved = end.deliver() or moved
            if not any(end.connected for end in pair):
                self.connections.remove(pair)
        return moved

    def _connect(self, dialled: Deferred[Any], factory: Any, client_ip: str) -> None:
        if self.refusing:
            dialled.errback(ConnectionRefusedError())
            return
        self._next_port += 1
        there = IPv4Address("TCP", client_ip, self._next_port)
        client, server = MemoryTransport(there, self._here), MemoryTransport(self._here, there)
        client.other, server.other = server, client
        client.protocol = factory.buildProtocol(self._here)
        if client.protocol is None:
            dialled.errback(ConnectionAborted())
            return
        server.protocol = self._accept.buildProtocol(there)
        self.connections.append((client, server))
        server.protocol.makeConnection(server)
        protocol = client.protocol
        protocol.makeConnection(client)
        dialled.callback(protocol)

    def _timed_out(self, dialled: Deferred[Any]) -> None:
        for entry in list(self._dialling):
            if entry[0] is dialled:
                self._dialling.remove(entry)
                dialled.errback(TimeoutError())


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects to the network's listener."""

    def __init__(self, network: MemoryNetwork, client_ip: str) -> None:
        self._network = network
        self._client_ip = client_ip

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Start a connection."""
        return self._network.dial(protocolFactory, self._client_ip)


@implementer(IAgentEndpointFactory)
class _Anywhere:
    """Leads every URL to one endpoint."""

    def __init__(self, endpoint: MemoryEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: URI) -> MemoryEndpoint:
        return self._endpoint
