"""The master's address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trustme
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mmwagent.uplink.address import MasterAddress, OneWay, endpoint_to, trust_root
from mmwagent.uplink.proxy import Proxy


class AddressTests(SynchronousTestCase):
    """URLs of the master's doors."""

    def test_urls(self) -> None:
        """http gives ws, https gives wss; a sub-path is kept, and ports are the schemes' own."""
        for base, websocket, traffic, host, port in (
            ("http://m.test", "ws://m.test/api/remote/ws", "http://m.test", "m.test", 80),
            ("https://m.test", "wss://m.test/api/remote/ws", "https://m.test", "m.test", 443),
            (
                "https://m.test:8443/a/b",
                "wss://m.test:8443/a/b/api/remote/ws",
                "https://m.test:8443/a/b",
                "m.test",
                8443,
            ),
            (
                "http://[::1]:81",
                "ws://[::1]:81/api/remote/ws",
                "http://ipv6-literal.invalid:81",
                "::1",
                81,
            ),
        ):
            with self.subTest(base=base):
                address = MasterAddress(base)
                self.assertEqual(address.websocket, websocket)
                self.assertEqual(address.report("traffic"), f"{traffic}/api/remote/traffic")
                self.assertEqual((address.host, address.port), (host, port))
                self.assertEqual(
                    f"{base.split(':')[0]}://{address.authority}", base.split("/a/")[0]
                )
                self.assertEqual(address.secure, base.startswith("https"))

    def test_endpoints(self) -> None:
        """Every attempt gets an endpoint of its own, whatever sort of host it is."""
        for base in ("http://m.test", "https://m.test", "https://[::1]", "https://127.0.0.1"):
            make = endpoint_to(Clock(), MasterAddress(base), trust_root(None))
            self.assertIsNot(make(), make())


@implementer(IReactorPluggableNameResolver)
class Reactor(Clock):
    """Notes where connections are to go, and resolves every name to 127.0.0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.dialled: list[tuple[str, int]] = []
        self.resolved: list[str] = []
        self.factories: list[Any] = []
        self.nameResolver = self

    def resolveHostName(
        self, receiver: Any, name: str, portNumber: int = 0, **others: Any
    ) -> None:
        """Resolve a name, as twisted.internet.interfaces.IHostnameResolver."""
        self.resolved.append(name)
        receiver.resolutionBegan(None)
        receiver.addressResolved(IPv4Address("TCP", "127.0.0.1", portNumber))
        receiver.resolutionComplete()

    def connectTCP(self, host: str, port: int, factory: Any, *_: Any, **__: Any) -> None:
        """Note a connection."""
        self.dialled.append((host, port))
        self.factories.append(factory)


class WayTests(SynchronousTestCase):
    """The way to the master, directly or through a proxy."""

    def opening(self, base: str, proxy: Proxy | None) -> bytes:
        """Dial once, and return what goes out first over the connection."""
        self.reactor = Reactor()
        make = endpoint_to(self.reactor, MasterAddress(base), trust_root(None), proxy)
        make().connect(Factory.forProtocol(Speaking)).addErrback(lambda _: None)
        transport = StringTransport()
        factory = self.reactor.factories[-1]
        factory.buildProtocol(None).makeConnection(transport)
        return transport.value()

    def test_direct(self) -> None:
        """Without a proxy the master itself is dialled, in clear or by TLS."""
        self.assertEqual(self.opening("http://m.test:81", None), b"hello")
        self.assertEqual(self.reactor.resolved, ["m.test"])
        self.assertEqual(self.reactor.dialled, [("127.0.0.1", 81)])
        self.assertEqual(self.opening("https://m.test", None)[:2], b"\x16\x03")
        self.assertEqual(self.reactor.dialled, [("127.0.0.1", 443)])

    def test_proxy(self) -> None:
        """With one the proxy is dialled and asked for the master, by its name."""
        for base, target in (
            ("http://m.test:81/sub", b"m.test:81"),
            ("https://m.test", b"m.test:443"),
            ("https://[::1]:8443", b"[::1]:8443"),
        ):
            with self.subTest(base=base):
                asked = self.opening(base, Proxy("proxy.test", 3128))
                self.assertEqual(asked.split(b" ")[:2], [b"CONNECT", target])
                self.assertEqual(self.reactor.resolved, ["proxy.test"])
                self.assertEqual(self.reactor.dialled, [("127.0.0.1", 3128)])

    def test_one_way(self) -> None:
        """An HTTP agent goes the same way whatever the URL, by a new endpoint each time."""
        made: list[object] = []

        def make() -> Any:
            made.append(object())
            return made[-1]

        way = OneWay(make)
        verifyObject(IAgentEndpointFactory, way)
        urls = (b"http://m.test/", b"https://elsewhere.test:1/")
        self.assertEqual([way.endpointForURI(URI.fromBytes(url)) for url in urls], made)
        self.assertEqual(len(set(made)), 2)


class Speaking(Protocol):
    """Speaks first."""

    def connectionMade(self) -> None:
        """Say hello."""
        self.transport.write(b"hello")


class TrustTests(SynchronousTestCase):
    """The authorities of a CA file."""

    def test_all_of_a_file(self) -> None:
        """Every certificate of the file is loaded."""
        bundle = b"".join(trustme.CA().cert_pem.bytes() for _ in range(3))
        path = Path(self.mktemp())
        path.write_bytes(bundle)
        self.assertTrue(trust_root(str(path)))

    def test_missing(self) -> None:
        """A file that is not there is an error, not the system's authorities."""
        self.assertRaises(OSError, trust_root, self.mktemp())
