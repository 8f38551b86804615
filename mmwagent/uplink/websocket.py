"""
One WebSocket to the master, from its first byte to its last.

`Dialer.dial` gives a Session once the master has accepted the token; a Session ends once, with a
reason. Autobahn's classes are adapters of one line a method. Its own timers stay unused: they run
on a global reactor, and ours on the clock given.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen
from autobahn.exception import Disconnected
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mmwagent.logs import logger
from mmwagent.uplink import failures
from mmwagent.uplink.failures import LinkFailure
from mmwagent.uplink.messages import (
    Auth,
    AuthResult,
    Incoming,
    MalformedMessage,
    Outgoing,
    decode,
    encode,
)

log = logger()

MAX_MESSAGE_BYTES = 8 * 1024 * 1024


@frozen
class Timing:
    """The deadline of each phase, in seconds."""

    connect: float = 20.0  # for the name and TCP, over all of its addresses
    open: float = (
        10.0  # from the TCP connection, over TLS and upgrade, until the WebSocket is open
    )
    authenticate: float = 10.0
    ping: float = 20.0  # between a pong and the next ping
    pong: float = 15.0  # for the pong; together a dead peer is noticed within 35 s
    close: float = 1.0  # for the closing handshake, before the connection is cut


class Session:
    """
    The life of one WebSocket: opening, authenticating, live, closed.

    `receive` is called with each message that comes while it is live.
    """

    def __init__(
        self,
        clock: IReactorTime,
        timing: Timing,
        token: str,
        receive: Callable[[Incoming], None],
    ) -> None:
        self._clock = clock
        self._timing = timing
        self._token = token
        self._receive = receive
        self._protocol: _Protocol | None = None
        self._deadline: IDelayedCall | None = None
        self._reason: LinkFailure | None = None
        self.live = False
        self.authenticated: Deferred[Session] = Deferred(lambda _: self._give_up("given up"))
        self.closed: Deferred[LinkFailure] = Deferred()

    # What the link does with it.

    def send(self, message: Outgoing) -> None:
        """Send `message`. Fails with LinkFailure where the session is not live."""
        if not self.live or self._protocol is None:
            raise LinkFailure("the WebSocket is closed")
        try:
            self._protocol.sendMessage(encode(message))
        except Disconnected:  # Autobahn has dropped the connection, and we have yet to hear of it
            raise LinkFailure("the WebSocket is closed") from None

    def close(self) -> None:
        """Say goodbye and close; a peer that does not answer is cut off after a moment."""
        if self._protocol is None:
            return
        self.live = False
        self._reason = self._reason or LinkFailure("closed by this agent")
        self._within(self._timing.close, "the master did not answer the goodbye")
        self._protocol.sendClose(1000)

    # What the connection tells of itself.

    def connected(self, protocol: _Protocol) -> None:
        """Take the connection as the one this session is on."""
        self._protocol = protocol
        self._within(self._timing.open, "the master did not open the WebSocket in time")

    def opened(self) -> None:
        """Authenticate: the WebSocket is open."""
        self._within(self._timing.authenticate, "the master did not answer our authentication")
        assert self._protocol is not None
        self._protocol.sendMessage(encode(Auth(self._token)))

    def received(self, data: bytes) -> None:
        """Take one message of the master."""
        try:
            message = decode(data)
        except MalformedMessage as problem:
            log.warn("a message of the master was not understood: {problem}", problem=str(problem))
            if problem.answer is not None and self.live:
                self.send(problem.answer)
            return
        if isinstance(message, AuthResult):
            self._answered(message)
        elif self.live:
            self._receive(message)

    def _answered(self, result: AuthResult) -> None:
        if not result.success:
            self._end(failures.of_refusal(result.message))
        elif not self.live:
            self.live = True
            self._await_next_ping()
            self.authenticated.callback(self)

    def ponged(self) -> None:
        """Note that the peer is alive."""
        if self.live:
            self._await_next_ping()

    def closing(self) -> None:
        """Note that the peer says goodbye: it is for it to close, but not for ever."""
        self.live = False
        self._within(self._timing.close, "the master said goodbye")

    def lost(self, reason: LinkFailure) -> None:
        """Note the end of the connection, for `reason` unless we know a better one."""
        self.live = False
        self._protocol = None
        self._no_deadline()
        ended = self._reason or reason
        if not self.authenticated.called:
            self.authenticated.errback(ended)
        self.closed.callback(ended)

    # How it watches itself.

    def _await_next_ping(self) -> None:
        self._no_deadline()
        self._deadline = self._clock.callLater(self._timing.ping, self._ping)

    def _ping(self) -> None:
        self._within(self._timing.pong, "the master no longer answers")
        if self._protocol is not None:
            self._protocol.sendPing(os.urandom(4))

    def _within(self, seconds: float, else_: str) -> None:
        self._no_deadline()
        self._deadline = self._clock.callLater(seconds, self._give_up, else_)

    def _no_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _give_up(self, reason: str) -> None:
        self._end(LinkFailure(reason))

    def _end(self, reason: LinkFailure) -> None:
        """Cut the connection; `lost` follows from it."""
        self._reason = self._reason or reason
        self.live = False
        if self._protocol is not None:
            self._protocol.dropConnection(abort=True)


@implementer(ILogObserver)
def _unheard(event: dict[str, Any]) -> None:
    pass


class _Protocol(WebSocketClientProtocol):
    # Autobahn tells each failed attempt to the log by itself; the link does that, once a change.
    log = Logger(observer=_unheard)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.lost_by: Failure | None = None

    def connectionMade(self) -> None:
        self.session.connected(self)
        super().connectionMade()
        # Autobahn means to, but looks for its option before it is there.
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)

    def onOpen(self) -> None:
        self.session.opened()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.session.received(payload)

    def onPong(self, payload: bytes) -> None:
        self.session.ponged()

    def onCloseFrame(self, code: int, reasonRaw: bytes) -> bool | None:
        violated: bool | None = super().onCloseFrame(code, reasonRaw)
        self.session.closing()
        return violated

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost_by = reason
        super().connectionLost(reason)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.session.lost(_reason(self, wasClean, code, reason))


def _reason(protocol: _Protocol, clean: bool, code: int | None, said: str | None) -> LinkFailure:
    """Return why the connection ended: what the upgrade was answered, or the close frame said."""
    status = getattr(protocol, "http_status_line", "").split(" ", 2)
    if len(status) > 1 and status[1].isdigit() and status[1] != "101":
        headers: dict[str, str] = getattr(protocol, "http_headers", {})
        phrase = status[2] if len(status) > 2 else ""
        return failures.of_status(
            int(status[1]), phrase, headers.get("location"), headers.get("retry-after")
        )
    if clean:
        return LinkFailure(
            f"the master closed the WebSocket ({code}, {said or 'no reason given'})"
        )
    if protocol.wasNotCleanReason and protocol.droppedByMe:
        return LinkFailure(f"the WebSocket broke: {protocol.wasNotCleanReason}")
    return (
        failures.of(protocol.lost_by) if protocol.lost_by else LinkFailure("the WebSocket broke")
    )


class _Factory(WebSocketClientFactory):
    noisy = False
    log = _Protocol.log

    def __init__(self, session: Session, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.session = session

    def buildProtocol(self, addr: object) -> _Protocol:
        protocol = _Protocol(self.session)
        protocol.factory = self
        return protocol


@define
class Dialer:
    """Makes sessions with the master at `url`, one for each call of `dial`."""

    clock: IReactorTime
    url: str
    user_agent: str
    make_endpoint: Callable[[], IStreamClientEndpoint]
    timing: Timing = field(factory=Timing)

    def dial(self, token: str, receive: Callable[[Incoming], None]) -> Deferred[Session]:
        """
        Connect, upgrade and authenticate.

        Gives the live Session, or fails with LinkFailure. Cancelling gives up whatever phase it
        is in.
        """
        session = Session(self.clock, self.timing, token, receive)
        connecting = self.make_endpoint().connect(self._factory(session))
        connecting.addTimeout(self.timing.connect, self.clock)

        def cancel(_: Deferred[Session]) -> None:
            connecting.cancel()
            session.authenticated.cancel()

        dialled: Deferred[Session] = Deferred(cancel)
        connecting.addErrback(lambda failure: session.lost(failures.of(failure)))
        session.authenticated.addCallbacks(dialled.callback, dialled.errback)
        return dialled

    def _factory(self, session: Session) -> _Factory:
        factory = _Factory(session, url=self.url, useragent=self.user_agent, reactor=self.clock)
        if ":" in factory.host:
            factory.host = f"[{factory.host}]"  # for the Host header
        factory.setProtocolOptions(
            version=13,
            maxFramePayloadSize=MAX_MESSAGE_BYTES,
            maxMessagePayloadSize=MAX_MESSAGE_BYTES,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            serverConnectionDropTimeout=0,
        )
        return factory
