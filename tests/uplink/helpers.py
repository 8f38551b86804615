"""What the tests of the uplink share: a scripted peer in memory, fakes, and values."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from attrs import define, evolve, field
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.test import iosim

from mmwagent.uplink.failures import LinkFailure
from mmwagent.uplink.messages import Heartbeat, ScanResult, SpeedReport, Traffic
from mmwagent.uplink.reporter import NotNow
from mmwagent.uplink.websocket import Dialer

BOOT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOW = datetime(2026, 11, 22, 18, 0, 0, tzinfo=UTC)
XRAY_BOOT = datetime(2026, 11, 1, tzinfo=UTC)
STATS = {
    "inbound": {"socks-in": {"uplink": 1, "downlink": 2}},
    "outbound": {"direct": {"uplink": 3, "downlink": 4}},
    "user": {"a@b": {"uplink": 5, "downlink": 6}},
}

HEARTBEAT = Heartbeat(BOOT, 23889, NOW, XRAY_BOOT, 4711)
TRAFFIC = Traffic(STATS, XRAY_BOOT)
SPEED = SpeedReport(10, 20)
SCAN = ScanResult(True, "26.3.27", ())


class Peer(WebSocketServerProtocol):
    """A server in memory that does nothing by itself but notes what comes."""

    log = Logger(observer=lambda event: None)

    def onConnect(self, request: Any) -> None:
        self.request = request

    def onOpen(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.pings = 0

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        message = json.loads(payload)
        self.got.append(message)
        if message["type"] == "auth" and self.factory.network.verdict is not None:
            self.say("auth_result", self.factory.network.verdict)

    def onPing(self, payload: bytes) -> None:
        self.pings += 1
        if self.factory.network.answers_pings:
            self.sendPong(payload)

    def say(self, type_: str, payload: object = None) -> None:
        self.sendMessage(json.dumps({"type": type_, "payload": payload}).encode())


@define
class Network:
    """An endpoint for the Dialer whose connections lead to a Peer in memory."""

    clock: Clock = field(factory=Clock)
    fails_with: Exception | None = None
    hangs: bool = False
    mute: bool = False
    verdict: dict[str, Any] | None = None
    answers_pings: bool = True
    status: int | None = None
    headers: dict[str, str] = field(factory=dict)
    peers: list[Peer] = field(factory=list)
    clients: list[Any] = field(factory=list)
    pumps: list[iosim.IOPump] = field(factory=list)
    connects: int = 0
    dialled_at: list[float] = field(factory=list)
    _seen_dials: int = 0

    def dialer(self, url: str = "ws://master.test/api/remote/ws", **changes: Any) -> Dialer:
        dialer = Dialer(self.clock, url, "miaomiaowux/0.1", lambda: self)
        return evolve(dialer, **changes)

    def connect(self, factory: Any) -> Deferred[Any]:
        self.connects += 1
        self.dialled_at.append(self.clock.seconds())
        if self.fails_with is not None:
            return fail(Failure(self.fails_with))
        if self.hangs:
            return Deferred()
        server_factory = WebSocketServerFactory(reactor=self.clock)
        server_factory.network = self
        server_factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
        server_factory.protocol = Peer
        if self.mute:
            server_factory.protocol = _Mute
        if self.status is not None:
            server_factory.protocol = _refusing(self.status, self.headers)
        client = factory.buildProtocol(None)
        server = server_factory.buildProtocol(None)
        pump = iosim.connect(
            server,
            iosim.makeFakeServer(server),
            client,
            iosim.makeFakeClient(client),
            greet=True,
        )
        self.peers.append(server)
        self.clients.append(client)
        self.pumps.append(pump)
        return succeed(client)

    def flush(self) -> None:
        for pump in self.pumps:
            pump.flush()

    def advance(self, seconds: float) -> None:
        """Let time pass a second at a time, as bytes flow."""
        left = seconds
        while left > 0:
            self.clock.advance(min(1, left))
            left -= 1
            self.flush()

    @property
    def peer(self) -> Peer:
        return self.peers[-1]

    def open_sockets(self) -> list[Any]:
        """Return the connections of the agent's that are open."""
        return [client for client in self.clients if not client.transport.disconnected]

    def drop(self) -> None:
        """Cut all connections from the other side."""
        for peer in self.peers:
            if not peer.transport.disconnected:
                peer.transport.abortConnection()
        self.flush()

    def say(self, message: bytes) -> None:
        """Send `message` over each open WebSocket."""
        for peer in self.peers:
            if isinstance(peer, Peer) and peer.state == peer.STATE_OPEN:
                peer.sendMessage(message)
        self.flush()

    def reports(self) -> list[str]:
        """Return the types of the reports that have come since the last call."""
        came = []
        for peer in self.peers:
            if isinstance(peer, Peer) and getattr(peer, "got", []):
                came += [message["type"] for message in peer.got if message["type"] != "auth"]
                peer.got = []
        return came

    def new_dials(self) -> int:
        """Return how many dials there were since the last call."""
        new, self._seen_dials = self.connects - self._seen_dials, self.connects
        return new

    def accept(self) -> None:
        """Have the peer accept the authentication it got."""
        self.flush()
        self.peer.say("auth_result", {"success": True, "message": "Authenticated"})
        self.flush()


class _Mute(Protocol):
    """Takes the connection and what is sent, and says nothing."""

    log = None


def _refusing(status: int, headers: dict[str, str]) -> Callable[[], Any]:
    class Refusing(Protocol):
        log = None

        def dataReceived(self, data: bytes) -> None:
            lines = [f"HTTP/1.1 {status} Because", "Content-Length: 0"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            self.transport.write("\r\n".join([*lines, "", ""]).encode())
            self.transport.loseConnection()

    return Refusing


@define
class FakeReports:
    """Sources that give constants, and can be told to have nothing."""

    beat: Heartbeat = HEARTBEAT
    counted: Traffic | Exception = TRAFFIC
    sampled: SpeedReport | Exception = SPEED
    asked: list[str] = field(factory=list)
    counting: list[Deferred[Traffic]] = field(factory=list)

    async def heartbeat(self) -> Heartbeat:
        self.asked.append("heartbeat")
        return self.beat

    async def traffic(self) -> Traffic:
        self.asked.append("traffic")
        if self.counting:
            return await self.counting.pop()
        return _given(self.counted)

    async def speed(self) -> SpeedReport:
        self.asked.append("speed")
        return _given(self.sampled)

    async def scan(self) -> ScanResult:
        self.asked.append("scan")
        return SCAN


def _given(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


NOTHING = NotNow("nothing to tell")


@define
class FakePush:
    """In place of Push: notes what is sent, and answers as the test says."""

    clock: Clock
    fails_with: LinkFailure | None = None
    hangs: bool = False
    breaks: bool = False
    settling: Deferred[None] | None = None
    watch: Callable[[str], None] = field(default=lambda type_: None)
    sent: list[Any] = field(factory=list)
    cuts: int = 0

    def send(self, report: Any) -> Deferred[Any]:
        if self.breaks:
            raise ZeroDivisionError
        self.watch(report.TYPE)
        self.sent.append((self.clock.seconds(), report.TYPE))
        if self.hangs:
            return Deferred()
        return fail(Failure(self.fails_with)) if self.fails_with else succeed({})

    def settled(self, seconds: float) -> Deferred[None]:
        return self.settling or succeed(None)

    def cut(self) -> None:
        self.cuts += 1

    def types(self) -> list[str]:
        """Return the types sent so far, and forget them."""
        sent, self.sent = self.sent, []
        return [type_ for _, type_ in sent]


@define
class FakeSession:
    """In place of a live Session."""

    clock: Clock
    sent: list[Any] = field(factory=list)
    closed: Deferred[LinkFailure] = field(factory=Deferred)
    goodbyes: int = 0

    def send(self, message: Any) -> None:
        self.sent.append((self.clock.seconds(), message.TYPE))

    def close(self) -> None:
        self.goodbyes += 1
        self.end(LinkFailure("closed by this agent"))

    def end(self, failure: LinkFailure) -> None:
        if not self.closed.called:
            self.closed.callback(failure)

    def types(self) -> list[str]:
        """Return the types sent so far, and forget them."""
        sent, self.sent = self.sent, []
        return [type_ for _, type_ in sent]


@define
class FakeDialer:
    """In place of Dialer: each dial hangs until the test decides it."""

    clock: Clock
    dials: list[Deferred[Any]] = field(factory=list)
    at: list[float] = field(factory=list)
    cancelled: int = 0
    receive: Callable[[Any], None] | None = None
    tokens: list[str] = field(factory=list)

    def dial(self, token: str, receive: Callable[[Any], None]) -> Deferred[Any]:
        def cancel(_: object) -> None:
            self.cancelled += 1

        self.tokens.append(token)
        self.receive = receive
        self.at.append(self.clock.seconds())
        dialled: Deferred[Any] = Deferred(cancel)
        self.dials.append(dialled)
        return dialled

    def succeed(self) -> FakeSession:
        session = FakeSession(self.clock)
        self.dials[-1].callback(session)
        return session

    def fail(self, failure: LinkFailure | None = None) -> None:
        self.dials[-1].errback(Failure(failure or LinkFailure("down")))
