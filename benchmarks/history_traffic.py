"""
Random traffic through Xray whose bytes are counted on both sides of it.

A client goes through the SOCKS inbound (RFC 1928, 1929) to a server in this process and says
which run of Xray it goes through, how much it sends and how much it wants. Each byte is noted
before it is handed to the kernel and again when it arrives, so at any moment Xray's counters are
between the two sums of its run: the user's are of the payload alone.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mmwagent.testing.xray import PASSWORD

HOST = "127.0.0.1"
PIECE = b"x" * 32768
PACE = 0.02  # seconds between two pieces of one connection: nothing piles up in Xray
CLIENTS = 3
UPLINK, DOWNLINK = "uplink", "downlink"


@define
class Passed:
    """Bytes by run and direction, when handed over by one side and when arrived at the other."""

    handed: Counter[tuple[int, str]] = field(factory=Counter)
    arrived: Counter[tuple[int, str]] = field(factory=Counter)

    def total(self, way: str) -> int:
        """Return what was handed over in all runs."""
        return sum(count for (_, its_way), count in self.handed.items() if its_way == way)


@frozen
class Gate:
    """The Xray to go through: the number of its run and its SOCKS port."""

    run: int
    port: int


@define(eq=False)
class Traffic:
    """Clients that fetch and send all the time, while there is a gate and nobody holds them."""

    reactor: Any
    user: str
    random: random.Random
    passed: Passed = field(factory=Passed)
    gate: Gate | None = None
    fetches: int = 0
    broken: int = 0
    held: bool = False
    _pumps: set[_Pump] = field(factory=set)
    _port: IListeningPort | None = None
    _content: int = 0
    _stopped: bool = False
    _running: set[Protocol] = field(factory=set)
    _connecting: set[Deferred[Any]] = field(factory=set)
    _planned: set[IDelayedCall] = field(factory=set)

    def start(self) -> None:
        """Begin."""
        self._port = self.reactor.listenTCP(0, _serving(self), interface=HOST)
        self._content = self._port.getHost().port
        for _ in range(CLIENTS):
            self._next()

    def stop(self) -> Deferred[Any] | None:
        """End, cutting what is under way."""
        self._stopped = True
        for planned in self._planned:
            planned.cancel()
        for connecting in list(self._connecting):
            connecting.cancel()
        for protocol in list(self._running):
            protocol.transport.abortConnection()  # type: ignore[union-attr]
        return self._port.stopListening() if self._port is not None else None

    def hold(self) -> None:
        """Let no new byte go out."""
        self.held = True

    def go_on(self) -> None:
        """Let them go out again."""
        self.held = False
        for pump in list(self._pumps):
            pump.step()

    def drained(self, run: int) -> bool:
        """Tell whether all that was handed over in a run has arrived."""
        ways = (UPLINK, DOWNLINK)
        return all(self.passed.handed[run, way] == self.passed.arrived[run, way] for way in ways)

    def _next(self, wait: float | None = None) -> None:
        pause = self.random.uniform(0, 0.4) if wait is None else wait
        if self._stopped:
            return

        def fetch() -> None:
            self._planned.discard(planned)
            self._fetch()

        planned = self.reactor.callLater(pause, fetch)
        self._planned.add(planned)

    def _fetch(self) -> None:
        if self.gate is None or self.held:
            self._next(0.05)
            return
        up = int(10 ** self.random.uniform(1, 5.3))
        down = int(10 ** self.random.uniform(2, 6.3))
        client = _Client(self, self.gate.run, self._content, up, down)
        client.over.addCallback(self._over)
        factory = Factory.forProtocol(lambda: client)
        factory.noisy = False
        endpoint = TCP4ClientEndpoint(self.reactor, HOST, self.gate.port, timeout=5)
        connecting = endpoint.connect(factory)
        self._connecting.add(connecting)
        connecting.addBoth(self._connected, connecting, client)

    def _connected(self, result: Any, connecting: Deferred[Any], client: _Client) -> None:
        self._connecting.discard(connecting)
        if isinstance(result, Failure):
            client.over.callback(False)

    def _over(self, well: bool) -> None:
        self.fetches += well
        self.broken += not well
        self._next()


class _Pump:
    """Sends `head` and so many more bytes over a transport, a piece at a time."""

    def __init__(
        self,
        traffic: Traffic,
        transport: Any,
        key: tuple[int, str],
        left: int,
        head: bytes = b"",
    ) -> None:
        self._traffic = traffic
        self._transport = transport
        self._key = key
        self._left = left
        self._head = head
        self._waiting: Any = None
        traffic._pumps.add(self)
        self.step()

    def step(self) -> None:
        """Send a piece, unless held, and plan the next."""
        if self._waiting is not None and self._waiting.active():
            return
        if self._left <= 0:
            self.stop()
        elif not self._traffic.held:
            rest = PIECE[: self._left]
            piece, self._head = self._head + rest, b""
            self._left -= len(rest)
            self._traffic.passed.handed[self._key] += len(piece)
            self._transport.write(piece)
            self._waiting = self._traffic.reactor.callLater(PACE, self.step)

    def stop(self) -> None:
        """Send no more."""
        self._traffic._pumps.discard(self)
        if self._waiting is not None and self._waiting.active():
            self._waiting.cancel()


class _Client(Protocol):
    """Goes through SOCKS, sends `up` bytes after a line that tells the rest, wants `down`."""

    def __init__(self, traffic: Traffic, run: int, content: int, up: int, down: int) -> None:
        self._traffic = traffic
        self._run = run
        self._up = up
        self._down = down
        self._steps = [
            (b"\5\1\2", 2),
            (b"\1" + _counted(traffic.user) + _counted(PASSWORD), 2),
            (b"\5\1\0\1\x7f\0\0\1" + content.to_bytes(2, "big"), 10),
        ]
        self._awaited = 0
        self._pump: _Pump | None = None
        self.over: Deferred[bool] = Deferred()

    def connectionMade(self) -> None:
        self._traffic._running.add(self)
        self._step()

    def _step(self) -> None:
        if self._steps:
            data, self._awaited = self._steps.pop(0)
            self.transport.write(data)  # type: ignore[union-attr]
            return
        line = f"{self._run} {self._up} {self._down}\n".encode()
        key = self._run, UPLINK
        self._pump = _Pump(self._traffic, self.transport, key, self._up, line)

    def dataReceived(self, data: bytes) -> None:
        if self._pump is None:
            self._awaited -= len(data)
            if self._awaited == 0:
                self._step()
            return
        self._traffic.passed.arrived[self._run, DOWNLINK] += len(data)
        self._down -= len(data)
        if self._down == 0:
            self.transport.loseConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._pump is not None:
            self._pump.stop()
        self._traffic._running.discard(self)
        self.over.callback(self._down == 0)


class _Server(Protocol):
    """Takes what a client sends, then sends what it wants."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._head = b""
        self._run = 0
        self._up = -1
        self._down = 0
        self._pump: _Pump | None = None

    def connectionMade(self) -> None:
        self._traffic._running.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self._up < 0:
            self._head += data
            if b"\n" not in self._head:
                return
            line, _, rest = self._head.partition(b"\n")
            self._run, self._up, self._down = map(int, line.split())
            self._arrived(len(line) + 1)
            data = rest
        self._arrived(len(data))
        self._up -= len(data)
        if self._up == 0 and self._pump is None:
            key = self._run, DOWNLINK
            self._pump = _Pump(self._traffic, self.transport, key, self._down)

    def _arrived(self, count: int) -> None:
        self._traffic.passed.arrived[self._run, UPLINK] += count

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._traffic._running.discard(self)
        if self._pump is not None:
            self._pump.stop()


def _serving(traffic: Traffic) -> Factory:
    factory = Factory.forProtocol(lambda: _Server(traffic))
    factory.noisy = False
    return factory


def _counted(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data
