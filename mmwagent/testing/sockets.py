"""The WebSocket door of the stand-in master: the upgrade, and Autobahn under a `Session`."""

from __future__ import annotations

from typing import Any

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.interfaces import IAddress
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from mmwagent.testing.answers import TEXT, Reply, finish, header, token_headers
from mmwagent.testing.faults import UPGRADE_FAULTS, RefuseUpgrade, SilentUpgrade
from mmwagent.testing.intake import Intake
from mmwagent.testing.panel import Panel
from mmwagent.testing.session import Session
from mmwagent.testing.wire import USER_AGENT, Problem


class AgentSocket(WebSocketServerProtocol):
    """Autobahn's protocol, handing everything to its session and carrying what that sends."""

    session: Session
    transport: Any

    def onOpen(self) -> None:
        """Autobahn: the upgrade is done."""
        self.session.opened()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Autobahn: a message, put together from its fragments."""
        self.session.received(payload)

    def onPong(self, payload: bytes) -> None:
        """Autobahn: a pong."""
        self.session.ponged(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Autobahn: the connection is gone."""
        self.session.closed(f"by the agent ({code})" if wasClean else "connection lost")
        self.factory.panel.transports.remove(self.transport)

    def send_text(self, text: str) -> None:
        """Send one text frame."""
        self.sendMessage(text.encode())

    def send_ping(self, payload: bytes) -> None:
        """Send a protocol ping."""
        self.sendPing(payload)

    def cut(self) -> None:
        """End the TCP connection as the real master's deadlines do: with no close frame."""
        self.transport.loseConnection()

    def stop_reading(self) -> None:
        """Read nothing more."""
        self.transport.pauseProducing()

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        """Say what was wrong in a close frame and close; Autobahn alone would do but one."""
        self.sendCloseFrame(code=code, reasonUtf8=reason.encode()[:120], isReply=False)
        self.transport.loseConnection()


class AgentSocketFactory(WebSocketServerFactory):
    """Makes a socket and its session for each upgrade."""

    noisy = False

    def __init__(self, panel: Panel, intake: Intake) -> None:
        super().__init__(reactor=panel.clock)
        self.panel = panel
        self._intake = intake
        # The master has no limit of size and never pings; its deadlines are the session's, on
        # the panel's clock, so none of Autobahn's own timers (they run on txaio's loop) is used.
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            utf8validateIncoming=False,
            echoCloseCodeReason=True,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
        )

    def buildProtocol(self, addr: IAddress | None) -> AgentSocket:
        """Return the socket of one connection."""
        socket = AgentSocket()
        socket.factory = self
        host = getattr(addr, "host", "")
        socket.session = Session(self.panel, self._intake, socket, host)
        return socket


class SocketDoor(Resource):
    """`/api/remote/ws`: checks the User-Agent and the upgrade, then hands over to Autobahn."""

    isLeaf = True

    def __init__(self, panel: Panel, intake: Intake) -> None:
        super().__init__()
        self._panel = panel
        self._upgrade = WebSocketResource(AgentSocketFactory(panel, intake))
        self.silenced: list[Request] = []

    def render(self, request: Request) -> Any:
        """Answer an upgrade. Only the User-Agent is looked at, no token."""
        token = next(filter(None, token_headers(request).values()), None)
        fault = self._panel.faults.take(UPGRADE_FAULTS, token)
        strangers = self._panel.strangers
        if fault is not None:
            self._panel.event(strangers, "upgrade", fault.name)
        if isinstance(fault, SilentUpgrade):
            self.silenced.append(request)
            return NOT_DONE_YET
        if isinstance(fault, RefuseUpgrade):
            reply = Reply(fault.status, b"scripted\n", TEXT, fault.retry_after, fault.location)
            return finish(request, reply)
        refusal = self._refusal(request)
        if refusal is not None:
            self._panel.event(strangers, "upgrade", f"refused with {refusal.status}")
            return finish(request, refusal)
        return self._upgrade.render(request)

    def _refusal(self, request: Request) -> Reply | None:
        """Return what is wrong with an upgrade request, if anything."""
        agent = header(request, "User-Agent")
        if agent != USER_AGENT:
            problem = Problem("user-agent", f"an upgrade by {agent!r}")
            self._panel.breach(self._panel.strangers, problem)
            return Reply(403, b"Forbidden\n", TEXT)
        if request.method != b"GET":
            return Reply(405, b"Method Not Allowed\n", TEXT)
        upgrade = header(request, "Upgrade").lower()
        version = header(request, "Sec-WebSocket-Version")
        if upgrade != "websocket" or version != "13":
            return Reply(400, b"Bad Request\n", TEXT)
        return None
