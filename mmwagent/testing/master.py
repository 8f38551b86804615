"""
A stand-in for the real master: a value that behaves as it does on the wire.

Both of its sides answer on one port: the WebSocket door, the HTTP pushes, and under /standin/ a
JSON API for people. Hand `site` to any transport, a real port or a pipe in memory. It writes down
what agents send, which rules of the wire they break, and can be told to misbehave.
Source: README "架构" and "WebSocket 交互协议".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.iweb import IAgent
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from mmwagent.testing.answers import finish, not_found
from mmwagent.testing.calls import Answer, Calls
from mmwagent.testing.console import Console
from mmwagent.testing.faults import Fault, FaultBoard, Scripted
from mmwagent.testing.intake import Intake
from mmwagent.testing.orders import Orders
from mmwagent.testing.panel import Observer, Panel, Predicate, utc_now
from mmwagent.testing.pushes import DOORS, PushDoor
from mmwagent.testing.records import AgentRecord, Violation
from mmwagent.testing.session import Session
from mmwagent.testing.sockets import SocketDoor


class StandInMaster:
    """
    The stand-in master. `servers` are the tokens it knows, by the names of their agents.

    `clock` runs its deadlines and dates all that it records; `now` is the wall time it tells
    agents, in `zone`. `web` is a twisted.web Agent to dial agents with. `keep` bounds what is
    remembered of each agent; None is all. Nothing runs before an agent connects; `stop` ends
    what then still runs.
    """

    def __init__(
        self,
        clock: IReactorTime,
        servers: Mapping[str, str] | None = None,
        *,
        now: Callable[[], datetime] = utc_now,
        zone: tzinfo = UTC,
        web: IAgent | None = None,
        keep: int | None = None,
    ) -> None:
        self._panel = Panel(clock, now, keep)
        self._intake = Intake(self._panel)
        self._calls = Calls(self._panel, web)
        self.orders = Orders(self._panel, zone)
        self.root = Routes(self._panel, self._intake, Console(self._panel, self.orders))
        self.site = MasterSite(self.root, self._panel)
        for name, token in (servers or {}).items():
            self.add_server(name, token)

    # What it knows

    @property
    def faults(self) -> FaultBoard:
        """What is scripted to go wrong."""
        return self._panel.faults

    @property
    def agents(self) -> Sequence[AgentRecord]:
        """The records of all agents, in the order they were made known."""
        return tuple(self._panel.records)

    @property
    def strangers(self) -> AgentRecord:
        """
        The record of whatever comes with no known token, and of every WebSocket handshake.

        A handshake is known to be an agent's only once it has authenticated; then it is in the
        agent's record too.
        """
        return self._panel.strangers

    @property
    def violations(self) -> list[Violation]:
        """Every breach of the rules of the wire, by anybody. A good agent leaves it empty."""
        everyone = (*self._panel.records, self._panel.strangers)
        return sorted(
            (violation for record in everyone for violation in record.violations),
            key=lambda violation: violation.at,
        )

    def add_server(self, name: str, token: str, expires_at: datetime | None = None) -> AgentRecord:
        """Make a token known. It expires in seven days, which nothing but a refresh looks at."""
        return self._panel.add(name, token, expires_at)

    def agent(self, who: str) -> AgentRecord:
        """Return the record of an agent by name or token. Raises UnknownAgent."""
        return self._panel.look_up(who)

    def status(self, who: str) -> str:
        """Return "pending", "connected" or "offline"."""
        return self._panel.status(self.agent(who))

    def connected(self, who: str) -> bool:
        """Tell whether the agent has an authenticated WebSocket session."""
        return self.agent(who).token in self._panel.sessions

    def observe(self, observer: Observer) -> None:
        """Call `observer` with the record and the report, event or violation, for each."""
        self._panel.observers.append(observer)

    # Waiting

    def when(self, predicate: Predicate) -> Deferred[AgentRecord]:
        """Return a Deferred of the record for which, at its next event, `predicate` is true."""
        return self._panel.when(predicate)

    def until(self, predicate: Predicate) -> Deferred[AgentRecord]:
        """Like `when`, but fires at once where `predicate` is true of a record already."""
        for record in (*self._panel.records, self._panel.strangers):
            if predicate(record):
                return succeed(record)
        return self.when(predicate)

    # Misbehaving

    def script(self, fault: Fault, who: str | None = None, times: int | None = None) -> Scripted:
        """Script a fault for one agent or all, for the next N times or until cleared."""
        token = None if who is None else self.agent(who).token
        return self.faults.add(fault, token, times)

    def drop(self, who: str) -> None:
        """Cut an agent's session now, with no close frame."""
        self.orders.session(who).drop("dropped by the test")

    def stop_reading(self, who: str) -> None:
        """Leave an agent's session half open from now on."""
        self._session(who).stop_reading()

    # Ordering

    def send(self, who: str, type: str, payload: Mapping[str, Any]) -> None:
        """Send a message. Raises NotConnected, UnknownAgent."""
        self.orders.send(who, type, payload)

    def say(self, who: str, text: str) -> None:
        """Send any text, such as no master sends."""
        self._session(who).say(text)

    def ping(self, who: str, payload: bytes = b"stand-in") -> None:
        """Send a protocol ping, as newer masters do each 30 s."""
        self._session(who).ping(payload)

    def rotate_token(self, who: str, token: str | None = None) -> str:
        """Replace an agent's token; see `Orders.rotate_token`."""
        return self.orders.rotate_token(who, token)

    def request_certificate(
        self, who: str, domain: str, **fields: Any
    ) -> Deferred[dict[str, Any]]:
        """Order a certificate; see `Orders.request_certificate`."""
        return self.orders.request_certificate(who, domain, **fields)

    def deploy_certificate(self, who: str, domain: str, **fields: str) -> None:
        """Order a deployment; see `Orders.deploy_certificate`."""
        self.orders.deploy_certificate(who, domain, **fields)

    def probe_domains(
        self, who: str, domains: Sequence[str], timeout_ms: int = 2000
    ) -> Deferred[dict[str, Any]]:
        """Order a latency probe; see `Orders.probe_domains`."""
        return self.orders.probe_domains(who, domains, timeout_ms)

    # Calling

    def call(self, who: str, method: str, path: str, body: object = None) -> Deferred[Answer]:
        """Call the agent's management API; see `Calls.call`."""
        return self._calls.call(who, method, path, body)

    def pull(self, who: str, path: str, pull_token: str | None = None) -> Deferred[Answer]:
        """Pull from the agent as the master's collector does; see `Calls.pull`."""
        return self._calls.pull(who, path, pull_token)

    # Ending

    def stop(self) -> None:
        """Cut every connection there is, and cancel every timer and waiter."""
        self.root.stop()
        for transport in list(self._panel.transports):
            transport.abortConnection()  # type: ignore[attr-defined]  # TCP and TLS both have it
        self._panel.stop()

    def _session(self, who: str) -> Session:
        session = self.orders.session(who)
        assert isinstance(session, Session)
        return session


class Routes(Resource):
    """Exact paths, as the master's; anything else is its plain 404."""

    isLeaf = True

    def __init__(self, panel: Panel, intake: Intake, console: Console) -> None:
        super().__init__()
        self._pushes = [PushDoor(door, panel, intake) for door in DOORS]
        self._console = console
        self._exact: dict[str, Resource] = {"/api/remote/ws": SocketDoor(panel, intake)}
        for door, push in zip(DOORS, self._pushes, strict=True):
            self._exact[f"/api/remote/{door.name}"] = push

    def render(self, request: Request) -> Any:
        """Hand a request to whoever answers its path."""
        path = request.path.decode("utf-8", "replace")
        if path in self._exact:
            return self._exact[path].render(request)
        if path.startswith("/standin/"):
            return self._console.render(request)
        return finish(request, not_found())

    def stop(self) -> None:
        """Cancel the answers that are still to come."""
        for push in self._pushes:
            for call in list(push.late):
                call.cancel()
            push.late.clear()


class MasterChannel(HTTPChannel):
    """A connection, known to the panel as long as it speaks HTTP; after that its socket is."""

    def connectionMade(self) -> None:
        """Note the connection, and send small frames at once as Go does; Autobahn would not."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.factory.panel.transports.append(self.transport)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection."""
        self.factory.panel.transports.remove(self.transport)
        super().connectionLost(reason)


class MasterSite(Site):
    """An HTTP/1.1 server that closes nothing for being idle, and keeps no access log."""

    noisy = False
    protocol: Any = MasterChannel

    def __init__(self, root: Resource, panel: Panel) -> None:
        super().__init__(root, reactor=panel.clock)
        self.panel = panel
        self.timeOut = None

    def acceptableProtocols(self) -> list[bytes]:
        """Offer no HTTP/2: a WebSocket upgrade needs HTTP/1.1."""
        return [b"http/1.1"]

    def log(self, request: Any) -> None:
        """Write no line per request; the journal has better ones."""
