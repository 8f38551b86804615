"""A stand-in master, a network in memory and a bare client: what these tests play with."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import treq
import txaio
from attrs import frozen
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.testing.master import StandInMaster
from mmwagent.testing.memory import MemoryNetwork
from mmwagent.testing.records import AgentRecord

UA = "miaomiaowux/0.1"
NAME, TOKEN = "edge", "token-of-edge"
START = datetime(2026, 5, 1, 12, tzinfo=UTC)
BOOT = "2026-05-01T11:00:00Z"
BOOT_UNIX = 1777633200
BEAT = {"boot_time": BOOT, "listen_port": 23889, "local_time": 1777636800}
BODY_BEAT = {**BEAT, "boot_time": BOOT_UNIX}
HEADERS = {
    "User-Agent": UA,
    "Authorization": f"Bearer {TOKEN}",
    "MM-Remote-Token": TOKEN,
    "X-Remote-Token": TOKEN,
}


def stats(up: int, down: int = 0, user: str = "a@b") -> dict[str, Any]:
    """A traffic payload with one user's counters."""
    return {"stats": {"user": {user: {"uplink": up, "downlink": down}}}}


class Peer(WebSocketClientProtocol):
    """A client that does as it is told and keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[dict[str, Any]] = []
        self.binary: list[bool] = []
        self.opened = False
        self.ended: tuple[bool, int | None] | None = None
        self.pongs: list[bytes] = []
        self.heard: Deferred[Any] | None = None

    def onOpen(self) -> None:
        """Autobahn: open."""
        self.opened = True

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Autobahn: a message."""
        self.got.append(json.loads(payload))
        if self.heard is not None and self.got[-1]["type"] == "domain_latency_probe":
            self.heard.callback(self.got[-1])
        self.binary.append(isBinary)

    def onPong(self, payload: bytes) -> None:
        """Autobahn: a pong."""
        self.pongs.append(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Autobahn: closed."""
        self.ended = (wasClean, code)

    def tell(self, type: str, payload: Any = None) -> None:
        """Send a message of the wire."""
        message = {"type": type} if payload is None else {"type": type, "payload": payload}
        self.sendMessage(json.dumps(message).encode())


@frozen
class Reply:
    """An HTTP answer, read."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        """The body's JSON value."""
        return json.loads(self.body)


class Scene(SynchronousTestCase):
    """A master that knows one agent, "edge", at 12:00 on the wall and 0 on the clock."""

    def setUp(self) -> None:
        """Build the master and its network."""
        self.clock = Clock()
        self.patch(txaio.config, "loop", self.clock)
        self.master = self.make_master()
        self.network = MemoryNetwork(self.clock, self.master.site)
        self.addCleanup(self.master.stop)

    def make_master(self, **options: Any) -> StandInMaster:
        """Return the master under test."""
        return StandInMaster(self.clock, {NAME: TOKEN}, now=self.now, **options)

    def now(self) -> datetime:
        """The wall time goes with the clock."""
        return START + timedelta(seconds=self.clock.seconds())

    @property
    def record(self) -> AgentRecord:
        """What the master knows of the agent."""
        return self.master.agent(NAME)

    @property
    def rules(self) -> list[str]:
        """The rules broken so far."""
        return [violation.rule for violation in self.master.violations]

    def dial(self, *, agent: str = UA, ip: str = "127.0.0.1", **headers: str) -> Peer:
        """Open a WebSocket, or fail to."""
        factory = WebSocketClientFactory(
            "ws://192.0.2.1:8889/api/remote/ws",
            useragent=agent,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            reactor=self.clock,
        )
        factory.protocol = Peer
        factory.setProtocolOptions(closeHandshakeTimeout=0)
        peer = self.successful(self.network.endpoint(ip).connect(factory))
        assert isinstance(peer, Peer)
        return peer

    def login(self, token: str = TOKEN, **options: Any) -> Peer:
        """Open a WebSocket and authenticate."""
        peer = self.dial(**options)
        self.tell(peer, "auth", {"token": token})
        return peer

    def running(self) -> Peer:
        """Open a WebSocket, authenticate, and send a first heartbeat."""
        peer = self.login()
        self.tell(peer, "heartbeat", BEAT)
        peer.got.clear()
        return peer

    def tell(self, peer: Peer, type: str, payload: Any = None) -> None:
        """Send a message and let it arrive."""
        peer.tell(type, payload)
        self.network.flush()

    def start(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        ip: str = "127.0.0.1",
        data: bytes | None = None,
    ) -> Deferred[Reply]:
        """Start a request; its reply comes when the network and the clock let it."""
        client = self.network.http(ip, persistent=False)
        if data is None and body is not None:
            data = json.dumps(body).encode()
        sent = dict(HEADERS if headers is None else headers)

        async def exchange() -> Reply:
            response = await client.request(
                method, f"http://master{path}", headers=sent, data=data, allow_redirects=False
            )
            return Reply(response.code, response.headers, await treq.content(response))

        reply = Deferred.fromCoroutine(exchange())
        self.network.flush()
        return reply

    def ask(self, path: str, body: Any = None, **options: Any) -> Reply:
        """Make a request and return its reply."""
        return self.successful(self.start(path, body, **options))

    def push(self, name: str, body: Any = None, **options: Any) -> Reply:
        """Push to /api/remote/."""
        return self.ask(f"/api/remote/{name}", body, **options)

    def successful(self, deferred: Deferred[Any]) -> Any:
        """Let the network run, and return the result."""
        self.network.flush()
        return self.successResultOf(deferred)

    def failed(self, deferred: Deferred[Any], *kinds: type[BaseException]) -> Failure:
        """Let the network run, and return the failure."""
        self.network.flush()
        return self.failureResultOf(deferred, *kinds)
