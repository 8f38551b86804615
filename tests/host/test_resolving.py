"""Tests of resolving names, against name servers in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSServerError
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.resolving import resolver

SERVER, SECOND = "127.0.0.53", "127.0.0.54"
A, AAAA, CNAME = dns.Record_A, dns.Record_AAAA, dns.Record_CNAME


@define
class Port:
    """A UDP port, and what was sent from it."""

    servers: Servers
    protocol: Any
    open: bool = True
    queries: list[tuple[str, dns.Message]] = field(factory=list)

    def write(self, data: bytes, address: tuple[str, int]) -> None:
        """Send a query to a server."""
        message = dns.Message()
        message.fromStr(data)
        assert address[1] == 53
        self.servers.queries.append((address[0], message, self))

    def stopListening(self) -> None:
        """Close it, once."""
        assert self.open
        self.open = False
        self.protocol.doStop()


class Servers(Clock):
    """A reactor with UDP, on which the test plays all name servers."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Port] = []
        self.queries: list[tuple[str, dns.Message, Port]] = []

    def listenUDP(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> Port:
        """Open a port."""
        made = Port(self, protocol)
        self.ports.append(made)
        protocol.makeConnection(made)
        return made

    def asked(self) -> list[tuple[str, str, int]]:
        """Return server, name and type of each query so far, and forget them."""
        asked = [
            (server, str(message.queries[0].name), message.queries[0].type)
            for server, message, _ in self.queries
        ]
        self.queries.clear()
        return asked

    def answer(self, *records: Any, code: int = dns.OK) -> None:
        """Answer the oldest query; each record may be a pair with the name it is for."""
        server, query, port = self.queries.pop(0)
        message = dns.Message(query.id, answer=1, rCode=code)
        message.queries = query.queries
        for record in records:
            name, payload = record if isinstance(record, tuple) else ("x.example", record)
            message.answers.append(dns.RRHeader(name, payload.TYPE, payload=payload))
        port.protocol.datagramReceived(message.toStr(), (server, 53))


class ResolverTests(SynchronousTestCase):
    """Names by a hosts file and two name servers."""

    def setUp(self) -> None:
        """Write the files; nothing is read before the first name."""
        self.servers = Servers()
        directory = Path(self.mktemp())
        directory.mkdir()
        self.hosts = directory / "hosts"
        self.hosts.write_text(
            "# comment\n127.0.0.1 localhost Here.example\n127.0.0.2 here.example\n"
            "::1 six.example localhost\n"
        )
        self.configuration = directory / "resolv.conf"
        self.configuration.write_text(f"search x\nnameserver {SERVER}\nnameserver {SECOND}\n")
        self.resolve = resolver(self.servers, str(self.hosts), str(self.configuration))

    def nothing_left(self) -> None:
        """Check that no port is open, and no timer left but that which reads the files again."""
        self.assertEqual([port for port in self.servers.ports if port.open], [])
        calls = [call for call in self.servers.getDelayedCalls() if call.getTime() < 50]
        self.assertEqual(calls, [])

    def answered(self, *records: Any) -> Sequence[str]:
        """Return what a name gives whose first query is answered with `records`."""
        resolving = self.resolve("x.example")
        self.servers.answer(*records)
        addresses = self.successResultOf(resolving)
        self.nothing_left()
        return addresses

    def test_lazy(self) -> None:
        """Nothing is read and no timer runs before the first name is asked for."""
        self.assertEqual(self.servers.getDelayedCalls(), [])

    def test_hosts_file(self) -> None:
        """A name in the hosts file needs no query, whatever its case."""
        self.assertEqual(
            self.successResultOf(self.resolve("here.example")), ["127.0.0.1", "127.0.0.2"]
        )
        self.assertEqual(self.successResultOf(self.resolve("localhost")), ["127.0.0.1"])
        self.assertEqual(self.servers.ports, [])

    def test_ipv4(self) -> None:
        """The A records are the addresses, in their order."""
        self.assertEqual(self.answered(A("127.0.0.9"), A("127.0.0.8")), ["127.0.0.9", "127.0.0.8"])

    def test_alias(self) -> None:
        """Of an alias the records it leads to count."""
        found = self.answered(CNAME("y.example"), ("y.example", A("127.0.0.9")))
        self.assertEqual(found, ["127.0.0.9"])

    def test_query(self) -> None:
        """The first server of resolv.conf is asked, for the name as it is."""
        resolving = self.resolve("x.example")
        self.assertEqual(self.servers.asked(), [(SERVER, "x.example", dns.A)])
        resolving.cancel()
        self.failureResultOf(resolving, CancelledError)

    def test_ipv6(self) -> None:
        """Where there is no IPv4 address IPv6 is asked for: no answer, no name, no records."""
        for code in (dns.OK, dns.ENAME, dns.ESERVER):
            with self.subTest(code=code):
                resolving = self.resolve("x.example")
                self.servers.answer(code=code)
                self.servers.answer(CNAME("y.example"), ("y.example", AAAA("::9")))
                self.assertEqual(self.successResultOf(resolving), ["::9"])
                self.nothing_left()

    def test_ipv6_in_the_hosts_file(self) -> None:
        """An IPv6 address in the hosts file is found too."""
        resolving = self.resolve("six.example")
        self.servers.answer(code=dns.ENAME)
        self.assertEqual(self.successResultOf(resolving), ["::1"])

    def test_no_address(self) -> None:
        """A name that exists and has no address has none."""
        resolving = self.resolve("x.example")
        self.servers.answer()
        self.servers.answer()
        self.assertEqual(self.successResultOf(resolving), [])

    def test_no_such_name(self) -> None:
        """A name that does not exist, or a server that cannot tell, is a failure."""
        for code, error in ((dns.ENAME, DNSNameError), (dns.ESERVER, DNSServerError)):
            resolving = self.resolve("x.example")
            self.servers.answer(code=code)
            self.servers.answer(code=code)
            self.failureResultOf(resolving, error)
            self.nothing_left()

    def test_silence(self) -> None:
        """Servers that stay silent are asked twice each, and it is over after 6 s."""
        resolving = self.resolve("x.example")
        asked = []
        for second in range(6):
            asked += [(second, server) for server, _, _ in self.servers.asked()]
            self.assertNoResult(resolving)
            self.servers.advance(1)
        self.failureResultOf(resolving, defer.TimeoutError)
        self.assertEqual(asked, [(0, SERVER), (1, SECOND), (2, SERVER), (4, SECOND)])
        self.nothing_left()

    def test_second_server(self) -> None:
        """Where the first server is silent the second one's answer counts."""
        resolving = self.resolve("x.example")
        self.servers.asked()
        self.servers.advance(1)
        self.servers.answer(A("127.0.0.9"))
        self.assertEqual(self.successResultOf(resolving), ["127.0.0.9"])

    def test_given_up(self) -> None:
        """A query that is given up closes its port at once."""
        resolving = self.resolve("x.example")
        resolving.cancel()
        self.failureResultOf(resolving, CancelledError)
        self.assertEqual([port.open for port in self.servers.ports], [False])
        self.servers.advance(10)
        self.nothing_left()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_many(self) -> None:
        """200 names are all asked for at once; each gets its own answer."""
        names = [f"n{number}.example" for number in range(200)]
        resolving: list[Deferred[Sequence[str]]] = [self.resolve(name) for name in names]
        self.assertEqual(len(self.servers.queries), 200)
        self.servers.queries.reverse()
        for number in reversed(range(200)):
            self.servers.answer((names[number], A(f"127.0.1.{number}")))
        for number, each in enumerate(resolving):
            self.assertEqual(self.successResultOf(each), [f"127.0.1.{number}"])
        self.nothing_left()

    def test_damaged_answer(self) -> None:
        """What is no answer is passed over; the right one still counts."""
        resolving = self.resolve("x.example")
        port = self.servers.ports[-1]
        for junk in (b"", b"\0", b"\xff" * 100):
            port.protocol.datagramReceived(junk, (SERVER, 53))
        self.assertNoResult(resolving)
        self.servers.answer(A("127.0.0.9"))
        self.assertEqual(self.successResultOf(resolving), ["127.0.0.9"])
        self.flushLoggedErrors()

    def test_changed_configuration(self) -> None:
        """Another server in resolv.conf is asked from the next minute on."""
        self.successResultOf(self.resolve("localhost"))
        self.configuration.write_text("nameserver 127.0.0.99\n")
        os.utime(self.configuration, (1, 1))
        self.servers.advance(60)
        self.resolve("x.example").addErrback(lambda _: None)
        self.assertEqual(self.servers.asked()[0][0], "127.0.0.99")

    def test_no_files(self) -> None:
        """Without hosts file and resolv.conf the server of this machine is asked."""
        self.hosts.unlink()
        self.configuration.unlink()
        resolving = self.resolve("x.example")
        self.assertEqual(self.servers.queries[0][0], "127.0.0.1")
        self.servers.answer(A("127.0.0.9"))
        self.assertEqual(self.successResultOf(resolving), ["127.0.0.9"])
