"""The agent on a bad network: a line that misbehaves between it and its master."""

from __future__ import annotations

from functools import partial
from signal import SIGTERM
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
)
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from mmwagent.testing.faultline import (
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
from mmwagent.testing.records import HTTP, WEBSOCKET, Report
from mmwagent.testing.xray import serving
from tests.integration.helpers import TOKEN, USER, Child, ProcessCase, until

HOST = "127.0.0.1"
A_MEGABYTE = 1_000_000


def listen(port: int) -> TCP4ServerEndpoint:
    """Return an endpoint of the loopback."""
    return TCP4ServerEndpoint(reactor, port, interface=HOST)


class FaultCase(ProcessCase):
    """A test with an agent, a real Xray, and a line before the master."""

    async def prepare(self) -> None:
        """Start all but the agent."""
        master = await self.master()
        self.violations = lambda: master.violations
        self.record = master.agent("vps")
        port = int(self.url.rpartition(":")[2])
        self.line = Faultline(reactor, listen, TCP4ClientEndpoint(reactor, HOST, port))
        await self.line.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.line.stop()))
        self.xray()

    def begin(self, **settings: Any) -> Child:
        """Start the agent, by the line."""
        agent = self.agent(
            f"http://{HOST}:{self.line.port}", **{"connection_mode": "auto", **settings}
        )
        self.agent_process = agent
        return agent

    def reports(self, door: str, since: float = 0.0) -> list[Report]:
        """Return the reports that came by a door."""
        return [
            report
            for report in self.record.reports
            if report.door == door and report.at > since and report.type != "auth"
        ]

    async def reported(self, door: str, since: float = 0.0, patience: float = 20.0) -> float:
        """Wait for traffic by a door, and return when it came."""

        def came() -> list[Report]:
            return [r for r in self.reports(door, since) if r.type == "traffic"]

        try:
            await until(came, f"traffic by {door}", patience)
        except AssertionError as late:
            raise AssertionError(f"{late}; the agent said {self.agent_process.text}") from None
        return came()[0].at

    async def nothing_lost(self, came: int) -> None:
        """See that each byte has been counted once, and that no rule was broken."""
        total = partial(self.record.traffic.total, "user", "downlink", USER)
        await until(lambda: total() >= came, f"{came} bytes; there are {total()}")
        self.assertEqual(total(), came)
        self.assertEqual(self.violations(), [])
        self.assertNotIn("Traceback", self.agent_process.text)


class LostTests(FaultCase):
    """Connections that end: noticed at once, bridged over HTTP, and made anew."""

    def test_reset(self) -> Deferred[None]:
        """A RST."""
        return Deferred.fromCoroutine(self.lost(Reset()))

    def test_close(self) -> Deferred[None]:
        """A FIN."""
        return Deferred.fromCoroutine(self.lost(Close()))

    def test_cut(self) -> Deferred[None]:
        """A RST in the middle of a frame of the agent's."""
        return Deferred.fromCoroutine(self.lost(Cut(11)))

    def test_cut_answer(self) -> Deferred[None]:
        """A RST in the middle of a frame of the master's."""
        return Deferred.fromCoroutine(self.lost(Cut(3, up=False)))

    async def lost(self, condition: Condition) -> None:
        """Fetch through Xray before, after and while the agent has no WebSocket."""
        await self.prepare()
        self.begin()
        await self.reported(WEBSOCKET)
        with serving() as content:
            came = await self.fetch(content, 100_000)
            sessions = list(self.line.connections)
            await self.line.apply(condition, new=False)
            await until(lambda: not set(sessions) & set(self.line.connections), "the end")
            ended = reactor.seconds()
            came += await self.fetch(content, 50_000)
            noticed = await self.reported(HTTP, ended, patience=3)
            back = await self.reported(WEBSOCKET, ended)
            came += await self.fetch(content, 25_000)
            await self.nothing_lost(came)
        self.assertLess(noticed - ended, 2)
        self.assertLess(back - ended, 5 * 1.2 + 2)  # the first delay, and a report
        self.assertEqual(self.agent_process.text.count("no WebSocket"), 1)


class SlowTests(FaultCase):
    """Networks that are slow, but work: the session begins, and stays."""

    def test_latency(self) -> Deferred[None]:
        """200 ms each way."""
        return Deferred.fromCoroutine(self.slow(Latency(0.2)))

    def test_drip(self) -> Deferred[None]:
        """A byte each millisecond."""
        return Deferred.fromCoroutine(self.slow(Drip(0.001)))

    async def slow(self, condition: Condition) -> None:
        """Have it so from the first connection on."""
        await self.prepare()
        await self.line.apply(condition)
        self.begin(traffic_report_interval=2, speed_report_interval=2)
        await self.reported(WEBSOCKET)
        with serving() as content:
            came = await self.fetch(content, 100_000)
            await self.nothing_lost(came)
        self.assertEqual(self.reports(HTTP), [])
        self.assertEqual(len(self.record.connections), 1)
        self.assertIsNone(self.record.connections[0].closed)


class FrozenTests(FaultCase):
    """A network that swallows."""

    def test_black_hole(self) -> Deferred[None]:
        """A frozen WebSocket is noticed within 35 s, and bridged; later there is a new one."""
        return Deferred.fromCoroutine(self.black_hole())

    async def black_hole(self) -> None:
        """Freeze the WebSocket as it begins, which is the worst moment."""
        await self.prepare()
        self.begin()
        await self.reported(WEBSOCKET)
        frozen = reactor.seconds()
        await self.line.apply(Freeze(), only=is_websocket)
        with serving() as content:
            came = await self.fetch(content, 100_000)
            noticed = await self.reported(HTTP, frozen, patience=40)
            self.assertIn("the master no longer answers", self.agent_process.text)
            await self.line.apply(Pass())
            back = await self.reported(WEBSOCKET, noticed)
            await self.nothing_lost(came)
        self.assertLess(noticed - frozen, 37)
        self.assertLess(back - noticed, 5 * 1.2 + 3)


class StopTests(FaultCase):
    """SIGTERM on a bad network ends the agent within 5 s."""

    def test_live(self) -> Deferred[None]:
        """With a session in a black hole, whose goodbye nobody hears."""
        return Deferred.fromCoroutine(self.stopped_live())

    async def stopped_live(self) -> None:
        """Freeze a live session, then stop."""
        await self.prepare()
        agent = self.begin()
        await self.reported(WEBSOCKET)
        await self.line.apply(Freeze(stalled=True))
        await self.ends(agent)

    def test_dialling(self) -> Deferred[None]:
        """While it dials into a black hole."""
        return Deferred.fromCoroutine(self.stopped_dialling())

    async def stopped_dialling(self) -> None:
        """Have a black hole from the start, and stop with the first connection in it."""
        await self.prepare()
        await self.line.apply(Freeze())
        agent = self.begin()
        await until(
            lambda: any(connection.opening for connection in self.line.connections), "a dial"
        )
        await self.ends(agent)

    async def ends(self, agent: Child) -> None:
        """Stop the agent."""
        began = reactor.seconds()
        agent.signal("TERM")
        self.assertIn(await agent.ended, (0, -SIGTERM))
        self.assertLess(reactor.seconds() - began, 5)
        self.assertNotIn("Traceback", agent.text)
        self.assertNotIn(TOKEN, agent.text)


class End(Protocol):
    """Keeps what it gets, and fires `gone` with the sort of end."""

    def __init__(self) -> None:
        self.data = b""
        self.gone: Deferred[Any] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell."""
        self.gone.callback(reason.type)


class LineTests(TestCase):
    """The line over real sockets: what the kernel makes of it."""

    timeout = 20

    async def prepare(self) -> None:
        """Start a line to a listener that keeps what it gets."""
        self.ends: list[End] = []
        port = await listen(0).listen(Factory.forProtocol(self.accept))
        self.addCleanup(port.stopListening)
        self.line = Faultline(
            reactor, listen, TCP4ClientEndpoint(reactor, HOST, port.getHost().port)
        )
        await self.line.start()
        self.addCleanup(self.settle)

    def accept(self) -> End:
        """Make the listener's end of a connection."""
        self.ends.append(End())
        return self.ends[-1]

    def settle(self) -> Deferred[None]:
        """Stop the line, and wait until all is closed."""

        async def stopped() -> None:
            await self.line.stop()
            await until(lambda: not self.line.connections, "the end of all")
            await until(lambda: all(end.gone.called for end in self.ends), "the end of all")

        return Deferred.fromCoroutine(stopped())

    async def connect(self) -> tuple[Any, Any]:
        """Return both ends of a connection."""
        agent = End()
        await connectProtocol(TCP4ClientEndpoint(reactor, HOST, self.line.port), agent)
        self.ends.append(agent)
        await until(lambda: len(self.ends) % 2 == 0, "the other end")
        return agent, self.ends[-2] if self.ends[-1] is agent else self.ends[-1]

    def test_ends(self) -> Deferred[None]:
        """Reset is a RST on the wire, Close a FIN, and a cut comes after its last bytes."""

        async def check() -> None:
            await self.prepare()
            for condition, reason in (
                (Reset(), ConnectionLost),
                (Close(), ConnectionDone),
                (Cut(3), ConnectionLost),
            ):
                agent, master = await self.connect()
                await self.line.apply(condition, new=False)
                agent.transport.write(b"abcdef")
                for end in (agent, master):
                    self.assertEqual(await end.gone, reason)
                if isinstance(condition, Cut):
                    self.assertEqual(master.data, b"abc")

        return Deferred.fromCoroutine(check())

    def test_refuse(self) -> Deferred[None]:
        """A closed port refuses, and the same one opens again."""

        async def check() -> None:
            await self.prepare()
            port = self.line.port
            await self.line.apply(Refuse())
            with self.assertRaises(ConnectionRefusedError):
                await self.connect()
            await self.line.apply(Pass())
            await self.connect()
            self.assertEqual(self.line.port, port)

        return Deferred.fromCoroutine(check())

    def test_stalled(self) -> Deferred[None]:
        """Where nothing is read the sender's window fills; afterwards everything arrives."""

        async def check() -> None:
            await self.prepare()
            agent, master = await self.connect()
            await self.line.apply(Freeze(stalled=True))
            for _ in range(20):
                agent.transport.write(b"x" * A_MEGABYTE)
            await deferLater(reactor, 0.3)
            self.assertTrue(agent.transport.dataBuffer or agent.transport._tempDataBuffer)
            self.assertEqual(master.data, b"")
            await self.line.apply(Pass())
            await until(lambda: len(master.data) == 20 * A_MEGABYTE, "all of it")

        return Deferred.fromCoroutine(check())
