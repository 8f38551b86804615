"""The proxy that misbehaves: mmwagent.testing.faultline, between two networks in memory."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from attrs import define
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.testing.faultline import (
    CUT_PAUSE,
    Close,
    Condition,
    Cut,
    Drip,
    Faultline,
    Freeze,
    Latency,
    Pass,
    Refuse,
    Reset,
    is_websocket,
)
from mmwagent.testing.memory import MemoryNetwork

PORT = 8889
WEBSOCKET = b"GET /api/remote/ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"
POST = b"POST /api/remote/speed HTTP/1.1\r\n\r\n"


class End(Protocol):
    """Keeps what it gets, and why it was lost."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: type[BaseException] | None = None

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.data += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """Keep the sort of end."""
        self.lost = reason.type

    def write(self, data: bytes) -> None:
        """Send bytes."""
        assert self.transport is not None
        self.transport.write(data)

    def close(self) -> None:
        """Send a FIN."""
        assert self.transport is not None
        self.transport.loseConnection()

    def abort(self) -> None:
        """Send a RST."""
        self.transport.abortConnection()  # type: ignore[union-attr]

    def taken(self) -> bytes:
        """Return what came since the last call."""
        data, self.data = self.data, b""
        return data


@define
class Door:
    """Listens in memory: an endpoint and its port in one."""

    clock: Clock
    asked_for: list[int]
    network: MemoryNetwork | None = None

    def __call__(self, port: int) -> Any:
        """Note the port that is asked for, and be the endpoint."""
        self.asked_for.append(port)
        return self

    def listen(self, factory: Any) -> Deferred[Any]:
        """Open."""
        if self.network is None:
            self.network = MemoryNetwork(self.clock, factory)
        self.network.refusing = False
        return succeed(self)

    def getHost(self) -> IPv4Address:
        """Return the address."""
        return IPv4Address("TCP", "127.0.0.1", PORT)

    def stopListening(self) -> Deferred[None]:
        """Close."""
        assert self.network is not None
        self.network.refusing = True
        return succeed(None)


class LineCase(SynchronousTestCase):
    """A line between agents and a master that keeps what it gets."""

    def setUp(self) -> None:
        """Start the line."""
        self.begin()

    def begin(self) -> None:
        """Start all anew, for tests that run many times."""
        self.clock = Clock()
        self.masters: list[End] = []
        self.beyond = MemoryNetwork(self.clock, Factory.forProtocol(self.accept))
        self.door = Door(self.clock, [])
        self.line = Faultline(self.clock, self.door, self.beyond.endpoint())
        self.done(self.line.start())

    def accept(self) -> End:
        """Make the master's end of a connection."""
        self.masters.append(End())
        return self.masters[-1]

    def done(self, doing: Coroutine[Any, Any, None]) -> None:
        """See that `doing` is done at once."""
        self.successResultOf(Deferred.fromCoroutine(doing))
        self.flush()

    def apply(self, condition: Condition, **how: Any) -> None:
        """Change the condition."""
        self.done(self.line.apply(condition, **how))

    def flush(self) -> None:
        """Deliver what is on its way in both networks."""
        assert self.door.network is not None
        for _ in range(4):
            self.door.network.flush()
            self.beyond.flush()

    def advance(self, seconds: float, step: float = 0.001) -> None:
        """Let time pass, in steps."""
        self.flush()
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.flush()

    def dial(self) -> tuple[Deferred[Any], End]:
        """Start a connection to the line."""
        assert self.door.network is not None
        end = End()
        dialled = self.door.network.endpoint().connect(Factory.forProtocol(lambda: end))
        self.flush()
        return dialled, end

    def connect(self, opening: bytes = b"") -> tuple[End, End]:
        """Return the agent's and the master's end of a new connection, `opening` sent."""
        before = len(self.masters)
        dialled, agent = self.dial()
        self.successResultOf(dialled)
        agent.write(opening)
        self.flush()
        [master] = self.masters[before:]
        return agent, master

    def gone(self) -> None:
        """See that nothing is left of any connection."""
        self.assertEqual(self.line.connections, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class PassTests(LineCase):
    """A good network."""

    def test_both_ways(self) -> None:
        """What either end sends, the other gets at once."""
        agent, master = self.connect()
        agent.write(b"one")
        agent.write(b"two")
        master.write(b"three")
        self.flush()
        self.assertEqual((master.data, agent.data), (b"onetwo", b"three"))

    def test_ends(self) -> None:
        """A FIN of either end is one for the other, after its last bytes; a RST is a RST."""
        for one in (0, 1):
            ends = self.connect()
            ends[one].write(b"last")
            ends[one].close()
            self.flush()
            self.assertEqual((ends[1 - one].data, ends[1 - one].lost), (b"last", ConnectionDone))
            ends = self.connect()
            ends[one].abort()
            self.flush()
            self.assertEqual(ends[1 - one].lost, ConnectionLost)
        self.gone()

    def test_said_before_there_is_a_master(self) -> None:
        """What the agent says while the master is being dialled is not lost, nor is its FIN."""
        self.beyond.deaf = True
        _, agent = self.dial()
        agent.write(b"early")
        agent.close()
        self.flush()
        self.assertEqual(len(self.line.connections), 1)
        self.beyond.deaf = False
        self.flush()
        self.assertEqual((self.masters[0].data, self.masters[0].lost), (b"early", ConnectionDone))
        self.gone()

    def test_no_master(self) -> None:
        """Where the master refuses, the agent's connection is reset."""
        self.beyond.refusing = True
        _, agent = self.dial()
        self.assertEqual(agent.lost, ConnectionLost)
        self.gone()

    def test_gone_while_dialling(self) -> None:
        """An agent that is gone before the master refuses leaves nothing behind."""
        self.beyond.deaf = True
        _, agent = self.dial()
        agent.abort()
        self.flush()
        self.beyond.deaf, self.beyond.refusing = False, True
        self.flush()
        self.gone()

    def test_stop(self) -> None:
        """At the end every connection is reset, one that is being made too, and the port shut."""
        ends = self.connect()
        self.beyond.deaf = True
        _, waiting = self.dial()
        self.done(self.line.stop())
        self.assertEqual([end.lost for end in (*ends, waiting)], [ConnectionLost] * 3)
        self.failureResultOf(self.dial()[0], ConnectionRefusedError)
        self.gone()


class LatencyTests(LineCase):
    """A far network."""

    def test_both_ways(self) -> None:
        """Bytes and ends come so much later, in order."""
        self.apply(Latency(0.2))
        agent, master = self.connect()
        agent.write(b"a")
        self.advance(0.1)
        agent.write(b"b")
        master.write(b"c")
        self.advance(0.099)
        self.assertEqual(master.data, b"")
        self.advance(0.002)
        self.assertEqual((master.data, agent.data), (b"a", b""))
        agent.close()
        self.advance(0.1)
        self.assertEqual((master.data, master.lost), (b"ab", None))
        self.advance(0.101)
        self.assertEqual(master.lost, ConnectionDone)
        self.gone()

    def test_reset(self) -> None:
        """What was under way before a RST still arrives before it."""
        agent, master = self.connect()
        self.apply(Latency(0.2))
        agent.write(b"a")
        self.advance(0.1)
        agent.abort()
        self.advance(0.15)
        self.assertEqual((master.data, master.lost), (b"a", None))
        self.advance(0.1)
        self.assertEqual(master.lost, ConnectionLost)
        self.gone()

    def test_is_over(self) -> None:
        """With its end all that was under way arrives, and the rest comes at once again."""
        agent, master = self.connect()
        self.apply(Latency(10))
        agent.write(b"a")
        self.flush()
        self.apply(Pass())
        agent.write(b"b")
        self.flush()
        self.assertEqual(master.data, b"ab")
        self.assertEqual(self.clock.getDelayedCalls(), [])


class DripTests(LineCase):
    """A narrow network."""

    def test_a_byte_at_a_time(self) -> None:
        """Each way one byte passes at a time, also of what is written at once."""
        agent, master = self.connect()
        self.apply(Drip(0.01))
        agent.write(b"0123456789")
        master.write(b"ab")
        self.flush()
        self.assertEqual((master.taken(), agent.taken()), (b"0", b"a"))
        self.advance(0.01)
        self.assertEqual((master.taken(), agent.taken()), (b"1", b"b"))
        self.advance(0.05)
        self.assertEqual((master.taken(), agent.taken()), (b"23456", b""))

    def test_a_pause_earns_nothing(self) -> None:
        """After a silence it is still one byte at a time."""
        agent, master = self.connect()
        self.apply(Drip(0.01))
        self.advance(1)
        agent.write(b"xyz")
        self.flush()
        self.assertEqual(master.data, b"x")

    def test_reset(self) -> None:
        """A RST comes next, in place of the bytes that wait."""
        agent, master = self.connect()
        self.apply(Drip(0.01))
        agent.write(b"xyz")
        self.flush()
        agent.abort()
        self.advance(0.1)
        self.assertEqual((master.data, master.lost), (b"x", ConnectionLost))

    def test_is_over(self) -> None:
        """With its end the rest comes at once."""
        agent, master = self.connect()
        self.apply(Drip(1))
        agent.write(b"0123456789")
        self.flush()
        self.apply(Pass())
        self.assertEqual(master.data, b"0123456789")


class FreezeTests(LineCase):
    """Networks that swallow."""

    def test_black_hole(self) -> None:
        """Nothing gets through either way, and no end is told anything."""
        agent, master = self.connect()
        self.apply(Freeze())
        agent.write(b"a")
        master.write(b"b")
        self.advance(100, 10)
        self.assertEqual((agent.data, agent.lost), (b"", None))
        self.assertEqual((master.data, master.lost), (b"", None))

    def test_is_over(self) -> None:
        """What was held goes on in order, as TCP would have sent it again."""
        agent, master = self.connect()
        self.apply(Freeze())
        agent.write(b"a")
        self.flush()
        agent.write(b"b")
        self.flush()
        self.apply(Pass())
        agent.write(b"c")
        self.flush()
        self.assertEqual(master.data, b"abc")

    def test_new_connections(self) -> None:
        """New connections are taken, and hear nothing."""
        self.apply(Freeze())
        dialled, agent = self.dial()
        self.successResultOf(dialled)
        agent.write(WEBSOCKET)
        self.flush()
        self.assertEqual((agent.data, agent.lost), (b"", None))
        self.assertEqual([master.data for master in self.masters], [b""])

    def test_one_way(self) -> None:
        """A way can be frozen alone; the other passes."""
        for up in (True, False):
            agent, master = self.connect()
            self.apply(Freeze(up=up, down=not up))
            agent.write(b"to the master")
            master.write(b"to the agent")
            self.flush()
            self.assertEqual(master.data, b"" if up else b"to the master")
            self.assertEqual(agent.data, b"to the agent" if up else b"")
            self.apply(Pass())
            self.assertEqual((master.data, agent.data), (b"to the master", b"to the agent"))

    def test_fin_is_held(self) -> None:
        """A FIN that was frozen comes afterwards, after the bytes before it."""
        agent, master = self.connect()
        self.apply(Freeze())
        agent.write(b"goodbye")
        agent.close()
        self.flush()
        self.assertEqual((master.data, master.lost), (b"", None))
        self.apply(Pass())
        self.assertEqual((master.data, master.lost), (b"goodbye", ConnectionDone))
        self.gone()

    def test_reset_is_held(self) -> None:
        """A RST comes afterwards in place of what was held, as no kernel sends that again."""
        agent, master = self.connect()
        self.apply(Freeze())
        agent.write(b"never mind")
        self.flush()
        agent.abort()
        self.flush()
        self.assertEqual(master.lost, None)
        self.apply(Pass())
        self.assertEqual((master.data, master.lost), (b"", ConnectionLost))
        self.gone()

    def test_held_for_nobody(self) -> None:
        """What is held for an end that goes is let go."""
        agent, master = self.connect()
        self.apply(Freeze(down=False))
        agent.write(b"a")
        self.flush()
        master.close()
        self.flush()
        self.assertEqual(agent.lost, ConnectionDone)
        self.apply(Pass())
        self.gone()

    def test_reading(self) -> None:
        """Bytes are taken in; in the variant `stalled` they are not, in the frozen ways only."""
        for stalled in (False, True):
            self.apply(Pass())
            agent, master = self.connect()
            self.apply(Freeze(up=True, down=False, stalled=stalled))
            agent.write(b"from below")
            master.write(b"from above")
            self.flush()
            left: Any = agent.transport
            self.assertEqual(left.other.inbox, [b"from below"] if stalled else [])
            self.assertEqual(agent.data, b"from above")
            self.apply(Pass())
            self.assertEqual(master.data, b"from below")

    def test_stalled_from_the_start(self) -> None:
        """A new connection is stalled before its first byte is read, and the master's is too."""
        self.apply(Freeze(stalled=True))
        dialled, agent = self.dial()
        self.successResultOf(dialled)
        agent.write(b"a")
        self.masters[0].write(b"b")
        self.flush()
        for end in (agent, self.masters[0]):
            transport: Any = end.transport
            self.assertEqual(len(transport.other.inbox), 1)
        self.apply(Pass())
        self.assertEqual((self.masters[0].data, agent.data), (b"a", b"b"))


class EndTests(LineCase):
    """Networks that cut."""

    def test_existing(self) -> None:
        """Reset and Close end what there is at once, both ends alike, and not what comes."""
        for condition, reason in ((Reset(), ConnectionLost), (Close(), ConnectionDone)):
            agent, master = self.connect()
            self.apply(condition, new=False)
            self.assertEqual((agent.lost, master.lost), (reason, reason))
            agent, master = self.connect(b"hello")
            self.assertEqual((master.data, agent.lost), (b"hello", None))

    def test_frozen(self) -> None:
        """They end a frozen connection too."""
        for stalled in (False, True):
            agent, master = self.connect()
            self.apply(Freeze(stalled=stalled), new=False)
            agent.write(b"a")
            self.flush()
            self.apply(Reset(), new=False)
            self.assertEqual((agent.lost, master.lost), (ConnectionLost, ConnectionLost))
            self.gone()

    def test_new(self) -> None:
        """For new connections they come at once, and the master is not even dialled."""
        for condition, reason in ((Reset(), ConnectionLost), (Close(), ConnectionDone)):
            self.apply(condition, existing=False)
            _, agent = self.dial()
            self.assertEqual(agent.lost, reason)
        self.assertEqual(self.beyond.attempts, 0)
        self.gone()

    def test_close_while_dialling(self) -> None:
        """A FIN stays one where the master is not there yet."""
        self.beyond.deaf = True
        _, agent = self.dial()
        self.apply(Close())
        self.assertEqual(agent.lost, ConnectionDone)
        self.gone()


class CutTests(LineCase):
    """Networks that cut in the middle."""

    def test_up(self) -> None:
        """So many bytes of the agent's still arrive, then both ends are reset."""
        agent, master = self.connect()
        self.apply(Cut(5))
        master.write(b"as many as you like")
        agent.write(b"abc")
        self.flush()
        self.assertEqual(master.data, b"abc")
        agent.write(b"defgh")
        self.flush()
        master.write(b"too late")
        self.flush()
        self.assertEqual((master.data, master.lost), (b"abcde", None))
        self.assertEqual(agent.data, b"as many as you like")
        self.advance(CUT_PAUSE, CUT_PAUSE)
        self.assertEqual((agent.lost, master.lost), (ConnectionLost, ConnectionLost))
        self.gone()

    def test_down(self) -> None:
        """It can be the master's bytes that count."""
        agent, master = self.connect()
        self.apply(Cut(2, up=False))
        agent.write(b"abc")
        master.write(b"abc")
        self.advance(CUT_PAUSE, CUT_PAUSE)
        self.assertEqual((agent.data, master.data), (b"ab", b"abc"))
        self.assertEqual(agent.lost, ConnectionLost)

    def test_nothing_more(self) -> None:
        """With no byte left it is cut at once."""
        agent, _ = self.connect()
        self.apply(Cut(0))
        self.advance(CUT_PAUSE, CUT_PAUSE)
        self.assertEqual(agent.lost, ConnectionLost)

    def test_new(self) -> None:
        """Each new connection has so many bytes of its own."""
        self.apply(Cut(3))
        for _ in range(2):
            agent, master = self.connect(b"abcdef")
            self.advance(CUT_PAUSE, CUT_PAUSE)
            self.assertEqual((master.data, agent.lost), (b"abc", ConnectionLost))
        self.gone()

    def test_called_off(self) -> None:
        """Before its bytes are used up it can be called off."""
        agent, master = self.connect()
        self.apply(Cut(3))
        agent.write(b"ab")
        self.flush()
        self.apply(Pass())
        agent.write(b"cdef")
        self.advance(1, 1)
        self.assertEqual((master.data, master.lost), (b"abcdef", None))


class RefuseTests(LineCase):
    """A port that is closed."""

    def test_refused(self) -> None:
        """New connections are refused while those there are go on; the port comes back."""
        agent, master = self.connect()
        frozen = self.connect()
        for connection, condition in zip(self.line.connections, (Pass(), Freeze()), strict=True):
            connection.apply(condition)
        self.apply(Refuse())
        self.failureResultOf(self.dial()[0], ConnectionRefusedError)
        for end in (agent, frozen[0]):
            end.write(b"still here")
        self.flush()
        self.assertEqual((master.data, frozen[1].data), (b"still here", b""))
        self.apply(Pass())
        self.successResultOf(self.dial()[0])
        self.assertEqual(self.door.asked_for, [0, PORT])
        self.assertEqual(self.line.port, PORT)

    def test_not_for_some(self) -> None:
        """A port cannot be closed to some only."""
        for how in ({"only": is_websocket}, {"new": False}):
            refused = Deferred.fromCoroutine(self.line.apply(Refuse(), **how))
            self.failureResultOf(refused, ValueError)
        self.connect()


class ChoiceTests(LineCase):
    """Conditions for some connections."""

    def test_is_websocket(self) -> None:
        """The upgrade of the agent is told from its posts."""
        self.assertTrue(is_websocket(WEBSOCKET))
        for opening in (POST, b"", b"POST /api/remote/ws", b"GET /\r\nX: /api/remote/ws\r\n"):
            self.assertFalse(is_websocket(opening), opening)

    def test_existing(self) -> None:
        """Of those there are only the chosen ones are frozen."""
        frozen, free = self.connect(WEBSOCKET), self.connect(POST)
        self.apply(Freeze(), new=False, only=is_websocket)
        for agent, master in (frozen, free):
            master.taken()
            agent.write(b"more")
        self.flush()
        self.assertEqual((frozen[1].data, free[1].data), (b"", b"more"))

    def test_new(self) -> None:
        """Of those to come the first bytes decide, before they are forwarded."""
        self.apply(Freeze(), existing=False, only=is_websocket)
        frozen, free = self.connect(WEBSOCKET), self.connect(POST)
        self.assertEqual((frozen[1].data, free[1].data), (b"", POST))

    def test_first_words(self) -> None:
        """It is the agent's first bytes that decide, whatever the master says before them."""
        self.apply(Freeze(), existing=False, only=is_websocket)
        agent, master = self.connect()
        master.write(b"hello")
        self.flush()
        agent.write(WEBSOCKET)
        self.flush()
        self.assertEqual((agent.data, master.data), (b"hello", b""))

    def test_not_existing(self) -> None:
        """Those there are stay as they were where only new ones are meant."""
        agent, master = self.connect()
        self.apply(Freeze(), existing=False)
        agent.write(b"a")
        self.flush()
        self.assertEqual(master.data, b"a")

    def test_reset(self) -> None:
        """The chosen ones can be reset as they say what they want."""
        self.apply(Reset(), only=is_websocket)
        self.assertEqual(self.connect(WEBSOCKET)[0].lost, ConnectionLost)
        self.assertEqual(self.connect(POST)[0].lost, None)


CONDITIONS = st.sampled_from(
    [Pass(), Latency(0.01), Drip(0.003), Freeze(), Freeze(down=False), Freeze(stalled=True)]
)


class OrderTests(LineCase):
    """What holds whatever is done."""

    @given(steps=st.lists(st.tuples(CONDITIONS, st.binary(max_size=9), st.integers(0, 9))))
    def test_nothing_is_lost(self, steps: list[tuple[Condition, bytes, int]]) -> None:
        """Through all changes no byte is lost, doubled or overtaken, and the end comes last."""
        self.begin()
        agent, master = self.connect()
        sent = b""
        for condition, data, pause in steps:
            self.apply(condition)
            agent.write(data)
            sent += data
            self.advance(pause / 1000)
            self.assertTrue(sent.startswith(master.data))
        agent.close()
        self.flush()
        self.apply(Pass())
        self.assertEqual((master.data, master.lost), (sent, ConnectionDone))
        self.gone()

    def test_bad_conditions(self) -> None:
        """A delay of nothing and a negative number of bytes are refused."""
        for make in (lambda: Latency(0), lambda: Drip(-1), lambda: Cut(-1)):
            self.assertRaises(ValueError, make)
