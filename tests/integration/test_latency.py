"""
Connections' latency over real sockets, all on the loopback.

A target that hangs is a listening socket whose queue is full: the kernel drops what knocks. A name
that hangs is one of a name server that stays silent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.names import dns
from twisted.names.client import Resolver
from twisted.names.server import DNSServerFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from mmwagent.host import resolving
from mmwagent.host.latency import Latency, Prober
from tests.integration.helpers import until

HERE = "127.0.0.1"


def hanging(case: TestCase, many: int) -> list[str]:
    """Return addresses with ports that never answer, until the test ends."""
    targets = []
    for _ in range(many):
        listening = socket.socket()
        case.addCleanup(listening.close)
        listening.bind((HERE, 0))
        listening.listen(0)
        filling = socket.create_connection(listening.getsockname())
        case.addCleanup(filling.close)
        targets.append(f"{HERE}:{listening.getsockname()[1]}")
    return targets


class Silent(DatagramProtocol):
    """A name server that says nothing."""

    def __init__(self) -> None:
        self.asked = 0

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        """Count a query."""
        self.asked += 1


class Names:
    """A name server that knows one sort of names."""

    def query(self, query: dns.Query, timeout: object = None) -> Any:
        """Answer with 127.0.0.1 for A records."""
        name = query.name.name
        if query.type != dns.A:
            return succeed(([], [], []))
        return succeed(([dns.RRHeader(name, dns.A, payload=dns.Record_A(HERE))], [], []))


class Answering(Protocol):
    """Takes a connection, and notes how it ended."""

    def connectionMade(self) -> None:
        """Note the beginning."""
        self.factory.case.began += 1

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note the end."""
        self.factory.case.ended += 1


class SocketTests(TestCase):
    """The prober with the real reactor."""

    timeout = 30

    def setUp(self) -> None:
        """Count connections."""
        self.began = self.ended = 0

    def sockets(self) -> set[str]:
        """Return the sockets that this process has open."""
        links = set()
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                links.add(os.readlink(f"/proc/self/fd/{descriptor}"))
            except FileNotFoundError:
                continue
        return {link for link in links if link.startswith("socket:")}

    def answering(self, many: int) -> list[str]:
        """Return addresses with ports that answer."""
        targets = []
        for _ in range(many):
            factory = Factory.forProtocol(Answering)
            factory.case = self
            port = reactor.listenTCP(0, factory, backlog=500, interface=HERE)
            self.addCleanup(port.stopListening)
            targets.append(f"{HERE}:{port.getHost().port}")
        return targets

    def resolver(self, protocol: Any) -> Any:
        """Return a resolver that asks a name server of ours, on a port that is free."""
        port = reactor.listenUDP(0, protocol, interface=HERE)
        self.addCleanup(port.stopListening)
        servers = [(HERE, port.getHost().port)]
        self.patch(
            resolving,
            "Resolver",
            lambda _, reactor: Resolver(servers=servers, reactor=reactor),
        )
        return resolving.resolver(reactor, os.devnull)

    def connect(self, host: str, port: int, timeout: float) -> IStreamClientEndpoint:
        """Return an endpoint as the agent has it, but for the loopback only."""
        assert host in (HERE, "::1")
        sort = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        return sort(reactor, host, port, timeout)

    async def probe(
        self, resolve: Any, texts: Sequence[str], timeout_ms: int
    ) -> tuple[list[Latency], float]:
        """Return the outcomes, and the seconds it took; afterwards nothing is left of it."""
        here = self.sockets()
        prober = Prober(reactor, resolve, self.connect)
        started = reactor.seconds()
        found = await prober.probe(texts, timeout_ms)
        took = reactor.seconds() - started
        await until(lambda: self.sockets() <= here, "the end of all sockets")
        # The timers of DNS queries that were given up run out by themselves. One is trial's.
        await until(lambda: len(reactor.getDelayedCalls()) <= 1, "the end of all timers", 5)
        return found, took

    def test_half_hang(self) -> Deferred[None]:
        """Of 200 targets 60 hang in TCP and 40 in DNS: it ends within timeout and a second."""
        return Deferred.fromCoroutine(self.half_hang())

    async def half_hang(self) -> None:
        """Probe them, mixed."""
        silent = Silent()
        resolve = self.resolver(silent)
        answering, hang = self.answering(100), hanging(self, 60)
        names = [f"n{number}.example" for number in range(40)]
        mixed = [name for pair in zip(answering, hang + names, strict=True) for name in pair]
        found, took = await self.probe(resolve, mixed, 1000)
        self.assertLessEqual(took, 1 + 1)
        outcome = {latency.target: latency for latency in found}
        self.assertEqual(len(outcome), 200)
        for target in answering:
            self.assertTrue(outcome[target].success, outcome[target])
            self.assertTrue(1 <= outcome[target].latency_ms < 1000, outcome[target])
        for target in hang:
            self.assertEqual(outcome[target].error, "no answer within 1000 ms")
        for name in names:
            self.assertEqual(outcome[f"{name}:443"].error, "the name was not resolved in time")
        self.assertGreaterEqual(silent.asked, 40)
        await until(lambda: self.ended == self.began, "the end of all connections")

    def test_names(self) -> Deferred[None]:
        """200 names are resolved by queries of our own, all at once, and connected to."""
        return Deferred.fromCoroutine(self.named())

    async def named(self) -> None:
        """Probe names whose addresses a name server of ours tells."""
        server = DNSServerFactory(clients=[Names()])
        server.noisy = False
        resolve = self.resolver(dns.DNSDatagramProtocol(server))
        (target,) = self.answering(1)
        port = target.split(":")[1]
        found, took = await self.probe(
            resolve, [f"N{number}.example:{port}" for number in range(200)], 2000
        )
        self.assertEqual([latency.error for latency in found], [""] * 200)
        self.assertLess(took, 2)
        # The kernel may swallow one that was reset before it was taken.
        await until(lambda: self.ended == self.began, "the end of all connections")

    def test_refused(self) -> Deferred[None]:
        """A port that nobody listens on is refused at once."""
        return Deferred.fromCoroutine(self.refused())

    async def refused(self) -> None:
        """Probe a port that was open a moment ago."""
        with socket.socket() as closed:
            closed.bind((HERE, 0))
            target = f"{HERE}:{closed.getsockname()[1]}"
            ((latency,), took) = await self.probe(None, [target], 10_000)
        self.assertEqual(latency.error, "connection refused")
        self.assertLess(took, 1)

    def test_six_and_four(self) -> Deferred[None]:
        """Where one family hangs the other answers, and the one that hangs is given up."""
        return Deferred.fromCoroutine(self.six_and_four())

    async def six_and_four(self) -> None:
        """Probe a name with an address that hangs and one that answers, on one port."""
        (target,) = hanging(self, 1)
        port = int(target.split(":")[1])
        factory = Factory.forProtocol(Answering)
        factory.case = self
        six = reactor.listenTCP(port, factory, interface="::1")
        self.addCleanup(six.stopListening)

        async def both(name: str) -> list[str]:
            return [HERE, "::1"]

        ((latency,), took) = await self.probe(
            lambda name: Deferred.fromCoroutine(both(name)), [f"both.example:{port}"], 5000
        )
        self.assertTrue(latency.success, latency)
        self.assertLess(took, 1)
        await until(lambda: self.ended == self.began, "the end of the connection")
