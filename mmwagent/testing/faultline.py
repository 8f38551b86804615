"""
A TCP proxy that misbehaves when told: the bad network between an agent and its master.

What it does to a connection is one of the conditions below. It can be changed at any moment, for
the connections there are, for those to come, or for both, and for some of them only.

Bytes that are held are not lost, as TCP would send them again: they go on when the condition
allows it, in order. So does the end of a connection: a FIN after the bytes before it, a reset in
their place, unless they were but late. There is no limit to what is held.

What a proxy cannot do is to leave a SYN unanswered: all new connections are accepted, but for
`Refuse`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import field, frozen, validators
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

CUT_PAUSE = 0.05  # seconds between the last bytes and the reset, which would overtake them


@frozen
class Pass:
    """Forward everything at once."""


@frozen
class Latency:
    """Forward everything so many `seconds` later, both ways."""

    seconds: float = field(validator=validators.gt(0))


@frozen
class Drip:
    """Forward one byte each `seconds`, both ways."""

    seconds: float = field(validator=validators.gt(0))


@frozen
class Freeze:
    """
    Forward nothing from the agent (`up`), from the master (`down`), or both: a black hole.

    With `stalled` nothing is read either, so that the sender's TCP window fills up.
    """

    up: bool = True
    down: bool = True
    stalled: bool = False


@frozen
class Reset:
    """Send a RST to both ends at once."""


@frozen
class Close:
    """Send a FIN to both ends at once."""


@frozen
class Cut:
    """Forward `after` more bytes, of the agent's or (not `up`) of the master's, then reset."""

    after: int = field(validator=validators.ge(0))
    up: bool = True


@frozen
class Refuse:
    """Keep the port closed. The connections there are go on as they did."""


Condition = Pass | Latency | Drip | Freeze | Reset | Close | Cut | Refuse
Choice = Callable[[bytes], bool]


def is_websocket(opening: bytes) -> bool:
    """Tell from the first bytes of a connection whether it is the agent's WebSocket."""
    line = opening.partition(b"\r\n")[0]
    return line.startswith(b"GET ") and b"/api/remote/ws" in line


class Faultline(Factory):
    """
    Listens by what `listen` gives for a port, 0 at first, and forwards to `towards`.

    `connections` are those in either of whose sockets is still open, the oldest first.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        listen: Callable[[int], IStreamServerEndpoint],
        towards: IStreamClientEndpoint,
    ) -> None:
        self.clock = clock
        self.towards = towards
        self.port = 0
        self.connections: list[Connection] = []
        self._listen = listen
        self._listening: IListeningPort | None = None
        self._condition: Condition = Pass()
        self._only: Choice | None = None

    async def start(self) -> None:
        """Open the port; from then on `port` is its number, for good."""
        if self._listening is None:
            self._listening = await self._listen(self.port).listen(self)
            self.port = getattr(self._listening.getHost(), "port", 0)

    async def stop(self) -> None:
        """Close the port, and reset every connection."""
        await self._close_port()
        for connection in tuple(self.connections):
            connection.apply(Reset())

    async def apply(
        self,
        condition: Condition,
        *,
        existing: bool = True,
        new: bool = True,
        only: Choice | None = None,
    ) -> None:
        """
        Make `condition` that of the existing connections, of the new ones, or of both.

        With `only` it is that of those whose first bytes it is true of, and `Pass` that of the
        others. `Refuse` is for all new connections: ValueError where it is to be for some.
        """
        if isinstance(condition, Refuse) and (only is not None or not new):
            raise ValueError("a port is closed to all new connections or to none")
        if new:
            self._condition, self._only = condition, only
            if isinstance(condition, Refuse):
                await self._close_port()
            else:
                await self.start()
        if existing and not isinstance(condition, Refuse):
            for connection in tuple(self.connections):
                chosen = only is None or only(connection.opening)
                connection.apply(condition if chosen else Pass())

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Take a new connection."""
        return Connection(self).agent

    def at_once(self) -> Condition:
        """Return the condition of a connection that has said nothing yet."""
        return self._condition if self._only is None else Pass()

    def once_known(self, opening: bytes) -> Condition | None:
        """Return the condition that a connection with these first bytes gets now, if any."""
        chosen = self._only is not None and self._only(opening)
        return self._condition if chosen else None

    async def _close_port(self) -> None:
        port, self._listening = self._listening, None
        if port is not None:
            await maybeDeferred(port.stopListening)


class Connection:
    """An agent's connection and the one that was made for it; `opening` are its first bytes."""

    def __init__(self, line: Faultline) -> None:
        self.opening = b""
        self._line = line
        self._dialling: Deferred[Any] | None = None
        self._cutting: IDelayedCall | None = None
        self._up = _Way(line.clock, self._cut)
        self._down = _Way(line.clock, self._cut)
        self.agent = _End(self, self._up, self._down)
        self.master = _End(self, self._down, self._up)

    def apply(self, condition: Condition) -> None:
        """Have it so from now on."""
        up, down = self._up, self._down
        up.allowance = down.allowance = None
        if isinstance(condition, Reset):
            self._end(lambda transport: transport.abortConnection())
        elif isinstance(condition, Close):
            self._end(lambda transport: transport.loseConnection())
        elif isinstance(condition, Freeze):
            up.become(condition if condition.up else Pass())
            down.become(condition if condition.down else Pass())
        else:
            if isinstance(condition, Cut):
                (up if condition.up else down).allowance = condition.after
            up.become(condition)
            down.become(condition)

    def made(self, end: _End) -> None:
        """Note that a socket is open; the agent's is the first."""
        if end is self.agent:
            self._line.connections.append(self)
            condition = self._line.at_once()
            if not isinstance(condition, Reset | Close):
                self._dial()
            self.apply(condition)

    def heard(self, end: _End, data: bytes) -> None:
        """Note the first bytes of the agent: they tell what it wants."""
        if end is self.agent and not self.opening:
            self.opening = data
            if (condition := self._line.once_known(data)) is not None:
                self.apply(condition)

    def lost(self) -> None:
        """Note that a socket is closed, or will not be opened."""
        if not (self.agent.open or self.master.open or self._dialling):
            self._stand_still()
            if self in self._line.connections:
                self._line.connections.remove(self)

    def _dial(self) -> None:
        factory = Factory.forProtocol(lambda: self.master)
        factory.noisy = False
        self._dialling = dialling = self._line.towards.connect(factory)
        dialling.addCallbacks(lambda _: self._dialled(True), lambda _: self._dialled(False))

    def _dialled(self, well: bool) -> None:
        given_up, self._dialling = self._dialling is None, None
        if not well and not given_up:
            self.apply(Reset())

    def _cut(self) -> None:
        self._up.become(Freeze())
        self._down.become(Freeze())
        if self._cutting is None:
            self._cutting = self._line.clock.callLater(CUT_PAUSE, self.apply, Reset())

    def _end(self, how: Callable[[Any], None]) -> None:
        self._stand_still()
        dialling, self._dialling = self._dialling, None
        if dialling is not None:
            dialling.cancel()
        for end in (self.agent, self.master):
            if end.open:
                how(end.transport)
        self.lost()

    def _stand_still(self) -> None:
        self._up.be_still()
        self._down.be_still()
        if self._cutting is not None and self._cutting.active():
            self._cutting.cancel()


class _End(Protocol):
    """One of the two sockets: what it reads goes into `out`, what it writes comes from `into`."""

    transport: Any

    def __init__(self, connection: Connection, out: _Way, into: _Way) -> None:
        self._connection = connection
        self._out = out
        self._into = into
        self.open = False

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.open = True
        self._out.comes_from(self.transport)
        self._connection.made(self)
        self._into.goes_to(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._connection.heard(self, data)
        self._out.came(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.open = False
        self._out.ended(clean=reason.check(ConnectionDone) is not None)
        self._connection.lost()


class _Way:
    """One direction of a connection: what came in, until it may go on."""

    def __init__(self, clock: IReactorTime, cut: Callable[[], None]) -> None:
        self.allowance: int | None = None  # bytes until `cut`
        self._clock = clock
        self._cut = cut
        self._condition: Condition = Pass()
        # When each came: bytes, or for the end whether it was a clean one.
        self._held: deque[tuple[float, bytes | bool]] = deque()
        self._last = float("-inf")  # when something went on
        self._source: Any = None
        self._sink: Any = None
        self._paused = False
        self._timer: IDelayedCall | None = None

    def become(self, condition: Condition) -> None:
        """Go on under another condition, with what is held as well."""
        self._condition = condition
        self._read_or_not()
        self._serve()

    def comes_from(self, source: Any) -> None:
        """Have what `source` reads."""
        self._source = source
        self._read_or_not()

    def goes_to(self, sink: Any) -> None:
        """Write to `sink`."""
        self._sink = sink
        self._serve()

    def came(self, item: bytes | bool) -> None:
        """Take bytes, or the end."""
        self._held.append((self._clock.seconds(), item))
        self._serve()

    def ended(self, clean: bool) -> None:
        """Take the end; a reset comes in place of what was not on its way yet."""
        self._source = None
        if not clean and not isinstance(self._condition, Latency):
            self._held.clear()
        self.came(clean)

    def be_still(self) -> None:
        """Forward nothing of what is held, for nobody is there to have it."""
        self._held.clear()
        self._no_timer()

    def _serve(self) -> None:
        """Forward all that is due, and come back for the rest."""
        self._no_timer()
        while not isinstance(self._condition, Freeze):
            if self.allowance == 0:
                self.allowance = None
                self._cut()  # freezes us
                return
            if not self._held or self._sink is None:
                return
            wait = self._due() - self._clock.seconds()
            if wait > 0:
                self._timer = self._clock.callLater(wait, self._serve)
                return
            self._forward(*self._held.popleft())

    def _due(self) -> float:
        came = self._held[0][0]
        if isinstance(self._condition, Latency):
            return came + self._condition.seconds
        if isinstance(self._condition, Drip):
            return self._last + self._condition.seconds
        return came

    def _forward(self, came: float, item: bytes | bool) -> None:
        self._last = self._clock.seconds()
        if item is True:
            self._sink.loseConnection()
        elif item is False:
            self._sink.abortConnection()
        else:
            most = 1 if isinstance(self._condition, Drip) else len(item)
            if self.allowance is not None:
                most = min(most, self.allowance)
                self.allowance -= min(most, len(item))
            if item[most:]:
                self._held.appendleft((came, item[most:]))
            self._sink.write(item[:most])

    def _read_or_not(self) -> None:
        stalled = isinstance(self._condition, Freeze) and self._condition.stalled
        if self._source is not None and stalled is not self._paused:
            self._paused = stalled
            (self._source.pauseProducing if stalled else self._source.resumeProducing)()

    def _no_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
