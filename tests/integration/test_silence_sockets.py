"""The door over real sockets on 127.0.0.1: the same tables, slow crowds, TLS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import trustme
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import (
    Certificate,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource

from mmwagent.manage.silence import SilentSite
from tests.manage.test_silence import (
    GOOD,
    HALF,
    HTTP2_PREFACE,
    TLS_HELLO,
    UNAUTHORISED,
    UNFIT,
    WRONG,
    Echo,
    Held,
    by_token,
    post,
)


class Caller(Protocol):
    """A client that sends some bytes and collects what comes back until the other end closes."""

    def __init__(self, *parts: bytes, every: float = 0.02) -> None:
        self.parts = list(parts)
        self.every = every
        self.heard = b""
        self.reason: Failure | None = None
        self.seconds = 0.0
        self.gone: Deferred[Caller] = Deferred()
        self._heard_any: Deferred[None] | None = None

    def connectionMade(self) -> None:
        """Send the parts, one after the other."""
        self._started = reactor.seconds()
        self._sending = LoopingCall(self._send)
        self._sending.start(self.every)

    def _send(self) -> None:
        if self.parts:
            self.transport.write(self.parts.pop(0))
        else:
            self._sending.stop()

    def hears(self) -> Deferred[None]:
        """Return a Deferred that fires when something more comes back."""
        self._heard_any = Deferred()
        return self._heard_any

    def dataReceived(self, data: bytes) -> None:
        """Collect."""
        self.heard += data
        if self._heard_any is not None:
            waiting, self._heard_any = self._heard_any, None
            waiting.callback(None)

    def connectionLost(self, reason: Failure) -> None:
        """Tell that the connection is gone."""
        if self._sending.running:
            self._sending.stop()
        self.reason = reason
        self.seconds = reactor.seconds() - self._started
        self.gone.callback(self)


class SocketCase(TestCase):
    """A site on a free port of 127.0.0.1."""

    timeout = 30

    def serve(self, resource: Resource | None = None, **options: Any) -> SilentSite:
        """Listen; the header deadline is half a second."""
        options = {"head_timeout": 0.5, "idle_timeout": 2.0, **options}
        site = SilentSite(resource or Echo(), by_token, reactor, **options)
        # Not the default backlog of 50: these tests connect by the hundred, and past the backlog
        # Linux resorts to SYN cookies, which may lose a first segment of one to three bytes.
        port = reactor.listenTCP(0, site, backlog=1000, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port
        self.endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        return site

    def call(self, *parts: bytes, every: float = 0.02) -> Deferred[Caller]:
        """Connect, send the parts, and wait until the other end closes."""
        caller = Caller(*parts, every=every)
        made = connectProtocol(self.endpoint, caller)
        return made.addCallback(lambda _: caller.gone)

    def open(self, *parts: bytes) -> Deferred[Caller]:
        """Connect and send the parts; the connection is ended with the test."""
        caller = Caller(*parts)

        def close() -> Deferred[Caller] | None:
            if caller.transport is None:
                return None
            caller.transport.abortConnection()
            return caller.gone

        self.addCleanup(close)
        return connectProtocol(self.endpoint, caller)

    def soon(self, condition: Any) -> Deferred[None]:
        """Wait until a condition holds."""

        async def wait() -> None:
            while not condition():
                await deferLater(reactor, 0.01)

        return Deferred.fromCoroutine(wait())


class TableTests(SocketCase):
    """The tables of the tests in memory."""

    async def _all_silent(self, calls: dict[str, Sequence[bytes]], site: SilentSite) -> None:
        callers = await gatherResults([self.call(*parts) for parts in calls.values()])
        for name, caller in zip(calls, callers, strict=True):
            self.assertEqual(caller.heard, b"", name)
            self.assertLess(caller.seconds, 5, name)
        await self.soon(lambda: not site.connections)

    def test_whole(self) -> Deferred[None]:
        """Not a byte for any of them, and each connection is closed."""
        site = self.serve()
        table = {**UNFIT, **UNAUTHORISED, **HALF}
        return Deferred.fromCoroutine(
            self._all_silent({name: [data] for name, data in table.items()}, site)
        )

    def test_in_two(self) -> Deferred[None]:
        """Nor when they come in two segments, cut at several places."""
        site = self.serve()
        table = {**UNFIT, **UNAUTHORISED}
        return Deferred.fromCoroutine(
            self._all_silent(
                {
                    f"{name}, cut at {cut}": [data[:cut], data[cut:]]
                    for name, data in table.items()
                    for cut in {1, 4, min(len(data), 200) // 2, min(len(data), 900) - 1}
                },
                site,
            )
        )

    def test_first_bytes(self) -> Deferred[None]:
        """A TLS ClientHello and an HTTP/2 preface are closed at once, in order, by FIN."""

        async def check() -> None:
            self.serve(head_timeout=20)
            for start in (TLS_HELLO, TLS_HELLO[:1], HTTP2_PREFACE, HTTP2_PREFACE[:4], WRONG):
                caller = await self.call(start)
                self.assertEqual(caller.heard, b"")
                self.assertLess(caller.seconds, 2)
                assert caller.reason is not None
                caller.reason.trap(ConnectionDone)

        return Deferred.fromCoroutine(check())

    def test_good_then_bad(self) -> Deferred[None]:
        """After a good request, one answer and the end, whatever follows."""

        async def check() -> None:
            self.serve()
            for data in (WRONG, b"garbage\r\n", TLS_HELLO, b"GET /"):
                caller = await self.call(GOOD + data)
                self.assertTrue(caller.heard.startswith(b"HTTP/1.1 200 OK\r\n"))
                self.assertEqual(caller.heard.count(b"HTTP/1.1"), 1)
                self.assertIn(b'"uri": "/ok"', caller.heard)

        return Deferred.fromCoroutine(check())

    def test_served(self) -> Deferred[None]:
        """Authorised requests are answered, one after the other, until idle for long enough."""

        async def check() -> None:
            self.serve(idle_timeout=0.5)
            caller = await self.call(GOOD, post(b"Content-Length: 5"), b"hello", every=0.2)
            self.assertEqual(caller.heard.count(b"HTTP/1.1 200 OK\r\n"), 2)
            self.assertIn(b'"body": "hello"', caller.heard)
            self.assertNotIn(b"server", caller.heard.lower())
            self.assertGreater(caller.seconds, 0.8)

        return Deferred.fromCoroutine(check())


class CrowdTests(SocketCase):
    """Many connections at once."""

    def test_slowloris(self) -> Deferred[None]:
        """Two hundred that drip are all gone after the deadline; meanwhile others are served."""

        async def check() -> None:
            site = self.serve(head_timeout=1.0)
            drip = [WRONG[i : i + 1] for i in range(len(WRONG))]
            crowd = gatherResults([self.call(*drip, every=0.1) for _ in range(200)])
            await self.soon(lambda: len(site.connections) == 200)
            self.assertEqual((await self.call(WRONG)).heard, b"")
            served = await self.open(GOOD)
            await served.hears()
            self.assertTrue(served.heard.startswith(b"HTTP/1.1 200 OK"))
            for one in await crowd:
                self.assertEqual(one.heard, b"")
                self.assertGreater(one.seconds, 0.8)
                self.assertLess(one.seconds, 4)
                self.assertTrue(one.parts, "it was cut off in the middle")
            await self.soon(lambda: len(site.connections) == 1)

        return Deferred.fromCoroutine(check())

    def test_cap(self) -> Deferred[None]:
        """Over the cap a connection is closed at once, and those that are in stay."""

        async def check() -> None:
            site = self.serve(max_connections=3, head_timeout=20)
            inside = [await self.open() for _ in range(3)]
            await self.soon(lambda: len(site.connections) == 3)
            caller = await self.call(GOOD)
            self.assertEqual(caller.heard, b"")
            self.assertLess(caller.seconds, 2)
            heard = inside[0].hears()
            inside[0].transport.write(GOOD)
            await heard
            self.assertTrue(inside[0].heard.startswith(b"HTTP/1.1 200 OK"))

        return Deferred.fromCoroutine(check())

    def test_allow_list(self) -> Deferred[None]:
        """A peer outside the allowed networks is closed at once, credential or not."""

        async def check() -> None:
            self.serve(allow=[ip_network("192.0.2.0/24")], head_timeout=20)
            caller = await self.call(GOOD)
            self.assertEqual(caller.heard, b"")
            self.assertLess(caller.seconds, 2)

        return Deferred.fromCoroutine(check())


class LongTests(SocketCase):
    """Answers that last, and bodies that do."""

    def test_stream(self) -> Deferred[None]:
        """A stream outlives every deadline, and its resource learns that the client left."""

        async def check() -> None:
            held = Held()
            self.serve(held, head_timeout=0.1, idle_timeout=0.1)
            caller = await self.open(GOOD)
            await self.soon(lambda: held.requests)
            [request] = held.requests
            gone = request.notifyFinish()
            for number in range(4):
                await deferLater(reactor, 0.2)
                heard = caller.hears()
                request.write(b"data: %d\n\n" % number)
                await heard
            self.assertIn(b"data: 3\n\n", caller.heard)
            caller.transport.loseConnection()
            await self.assertFailure(gone, ConnectionDone)

        return Deferred.fromCoroutine(check())

    def test_too_large(self) -> Deferred[None]:
        """Who sends far too much still gets to read why it is refused, announced or chunked."""

        async def check() -> None:
            self.serve(max_body=1000)
            size = 3_000_000
            for data in (
                post(b"Content-Length: %d" % size) + b"a" * size,
                post(b"Transfer-Encoding: chunked") + (b"200\r\n" + b"a" * 512 + b"\r\n") * 5000,
            ):
                caller = await self.call(data)
                self.assertTrue(caller.heard.startswith(b"HTTP/1.1 413 "), caller.heard[:80])
                said = json.loads(caller.heard.split(b"\r\n\r\n", 1)[1])
                self.assertEqual(said["success"], False)
                self.assertLess(caller.seconds, 5)

        return Deferred.fromCoroutine(check())


class TLSTests(SocketCase):
    """The door behind TLS of its own."""

    def test_no_http2(self) -> Deferred[None]:
        """A client that can do HTTP/2 gets HTTP/1.1, an answer with the credential only."""

        async def check() -> None:
            ca = trustme.CA()
            issued = ca.issue_cert("door.test")
            pem = issued.private_key_pem.bytes() + issued.cert_chain_pems[0].bytes()
            site = SilentSite(Echo(), by_token, reactor, head_timeout=0.5, idle_timeout=0.5)
            port = reactor.listenSSL(
                0, site, PrivateCertificate.loadPEM(pem).options(), interface="127.0.0.1"
            )
            self.addCleanup(port.stopListening)
            trust = trustRootFromCertificates([Certificate.loadPEM(ca.cert_pem.bytes())])

            async def call(data: bytes) -> tuple[Caller, bytes | None]:
                options = optionsForClientTLS(
                    "door.test", trustRoot=trust, acceptableProtocols=[b"h2", b"http/1.1"]
                )
                caller = Caller(data)
                protocols: list[bytes | None] = []
                lost = caller.connectionLost

                def note(reason: Failure) -> None:
                    protocols.append(caller.transport.negotiatedProtocol)
                    lost(reason)

                caller.connectionLost = note  # type: ignore[method-assign]
                reactor.connectSSL("127.0.0.1", port.getHost().port, _Once(caller), options)
                await caller.gone
                return caller, protocols[0]

            caller, protocol = await call(GOOD)
            self.assertEqual(protocol, b"http/1.1")
            self.assertTrue(caller.heard.startswith(b"HTTP/1.1 200 OK"))
            for data in (WRONG, HTTP2_PREFACE, b"garbage\r\n", b"GET /"):
                caller, _ = await call(data)
                self.assertEqual(caller.heard, b"")

        return Deferred.fromCoroutine(check())


class _Once:
    """The least of a client factory: it gives one protocol that exists."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol

    def buildProtocol(self, address: object) -> Protocol:
        """Return the protocol."""
        return self.protocol

    def doStart(self) -> None:
        """Nothing to start."""

    def doStop(self) -> None:
        """Nothing to stop."""

    def startedConnecting(self, connector: object) -> None:
        """Nothing to note."""

    def clientConnectionLost(self, connector: object, reason: Failure) -> None:
        """The protocol knows."""

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        """Make the test fail."""
        raise reason.value
