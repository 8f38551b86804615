"""Tests of the way through an HTTP proxy, in memory."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.failures import LinkFailure
from mmwagent.uplink.proxy import (
    DEADLINE,
    MAX_ANSWER,
    Proxy,
    Tunnel,
    UnusableProxy,
    proxy_for,
)

PROXY = "http://proxy.test:3128"
THERE = Proxy("proxy.test", 3128)
OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class VariablesTests(SynchronousTestCase):
    """Which proxy the environment names."""

    def proxy(self, secure: bool = True, **environ: str) -> Proxy | None:
        """Return the proxy for the master."""
        return proxy_for("master.test", 443, secure, environ)

    def test_none(self) -> None:
        """Without variables, or with empty ones, there is none."""
        self.assertIsNone(self.proxy())
        self.assertIsNone(self.proxy(https_proxy="", HTTPS_PROXY=" ", all_proxy="", no_proxy=""))

    def test_by_scheme(self) -> None:
        """https_proxy is for TLS, http_proxy for the rest, all_proxy for what has none."""
        other = "http://other.test:1"
        for secure, environ, found in (
            (True, {"https_proxy": PROXY}, THERE),
            (True, {"HTTPS_PROXY": PROXY}, THERE),
            (True, {"http_proxy": PROXY}, None),
            (False, {"http_proxy": PROXY}, THERE),
            (False, {"HTTP_PROXY": PROXY}, THERE),
            (False, {"https_proxy": PROXY}, None),
            (True, {"all_proxy": PROXY}, THERE),
            (False, {"ALL_PROXY": PROXY}, THERE),
            (True, {"all_proxy": other, "https_proxy": PROXY}, THERE),
            (True, {"all_proxy": PROXY, "http_proxy": other}, THERE),
            (True, {"https_proxy": PROXY, "HTTPS_PROXY": other}, THERE),
            (True, {"https_proxy": "", "HTTPS_PROXY": PROXY}, THERE),
        ):
            with self.subTest(secure=secure, environ=environ):
                self.assertEqual(self.proxy(secure, **environ), found)

    def test_exceptions(self) -> None:
        """no_proxy excepts a name, what is below it, one port of it, or everything."""
        for no_proxy, excepted in (
            ("master.test", True),
            ("MASTER.test", True),
            (".test", True),
            ("test", True),
            ("a.example, master.test ,b.example", True),
            ("master.test:443", True),
            ("*", True),
            ("master.test:80", False),
            ("aster.test", False),
            ("ster.test", False),
            ("a.master.test", False),
            (",, ,", False),
        ):
            for name in ("no_proxy", "NO_PROXY"):
                with self.subTest(no_proxy=no_proxy, name=name):
                    found = self.proxy(https_proxy=PROXY, **{name: no_proxy})
                    self.assertEqual(found, None if excepted else THERE)

    def test_exceptions_by_address(self) -> None:
        """An address is excepted like a name."""
        environ = {"http_proxy": PROXY, "no_proxy": "127.0.0.1,::1"}
        self.assertIsNone(proxy_for("127.0.0.1", 80, False, environ))
        self.assertIsNone(proxy_for("::1", 80, False, environ))
        self.assertEqual(proxy_for("127.0.0.2", 80, False, environ), THERE)

    def test_forms(self) -> None:
        """The scheme may be left out and the port is 80; credentials are percent-decoded."""
        for value, proxy in (
            ("proxy.test:3128", THERE),
            ("HTTP://Proxy.Test:3128/", THERE),
            ("http://proxy.test", Proxy("proxy.test", 80)),
            ("proxy.test", Proxy("proxy.test", 80)),
            ("http://[::1]:3128", Proxy("::1", 3128)),
            ("http://u:p@proxy.test", Proxy("proxy.test", 80, "u:p")),
            ("u:p@proxy.test:3128", Proxy("proxy.test", 3128, "u:p")),
            ("http://u@proxy.test", Proxy("proxy.test", 80, "u:")),
            ("http://u%40x:p%3A%2F%25@proxy.test", Proxy("proxy.test", 80, "u@x:p:/%")),
            ("http://u:%E5%AF%86@proxy.test", Proxy("proxy.test", 80, "u:密")),
        ):
            with self.subTest(value=value):
                self.assertEqual(self.proxy(https_proxy=value), proxy)

    def test_unusable(self) -> None:
        """A proxy that cannot be used is an error that names the variable and no password."""
        for value, words in (
            ("socks5://u:s3cret@proxy.test:1080", "of the sort socks5: only http can be used"),
            ("https://u:s3cret@proxy.test", "of the sort https: only http can be used"),
            ("http://u:s3cret@", "names no host"),
            ("http://", "names no host"),
            ("http://u:s3cret@proxy.test:port", "is no URL of a proxy"),
            ("http://u:s3cret@proxy.test:99999", "is no URL of a proxy"),
            ("http://[u:s3cret", "is no URL of a proxy"),
            ("http://u:s3cret@a..b", "is no URL of a proxy"),
            (f"http://u:s3cret@{'x' * 64}.test", "is no URL of a proxy"),
            ("http://u:s3cret\udcff@proxy.test", "is no URL of a proxy"),
        ):
            for name in ("https_proxy", "all_proxy"):
                with self.subTest(value=value):
                    error = self.assertRaises(UnusableProxy, self.proxy, **{name: value})
                    self.assertEqual(str(error).split()[0], name)
                    self.assertIn(words, str(error))
                    self.assertNotIn("s3cret", str(error))

    def test_unusable_but_excepted(self) -> None:
        """What is dialled directly needs no proxy that can be used."""
        self.assertIsNone(self.proxy(https_proxy="socks5://x", no_proxy="master.test"))

    def test_not_shown(self) -> None:
        """The text form of a proxy, which a log might show, has no password."""
        self.assertNotIn("s3cret", repr(self.proxy(https_proxy="http://u:s3cret@proxy.test")))

    @given(st.text())
    def test_any_value(self, value: str) -> None:
        """Any value gives a proxy that can be dialled, none, or UnusableProxy."""
        try:
            proxy = self.proxy(https_proxy=value)
        except UnusableProxy:
            return
        if proxy is not None:
            proxy.host.encode("idna")
            (proxy.credentials or "").encode()


class Inner(Protocol):
    """What is to be spoken through the tunnel."""

    data = b""
    lost: Failure | None = None

    def connectionMade(self) -> None:
        """Speak first."""
        self.transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        """Note what comes."""
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note the end."""
        self.lost = reason


class Way:
    """An endpoint that leads to a proxy played by the test."""

    def __init__(self) -> None:
        self.transport = StringTransport()
        self.given: Deferred[Any] | None = None
        self.protocol: Any = None

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect at once, or as the test says."""
        if self.given is not None:
            return self.given
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        return succeed(self.protocol)


class TunnelTests(SynchronousTestCase):
    """CONNECT, and what comes after it."""

    def setUp(self) -> None:
        """Make a tunnel."""
        self.clock = Clock()
        self.way = Way()
        self.factory = Factory.forProtocol(Inner)
        self.tunnel = Tunnel(self.clock, self.way, THERE, "master.test", 443)

    def dig(self) -> Deferred[Any]:
        """Connect."""
        return self.tunnel.connect(self.factory)

    def receive(self, data: bytes) -> None:
        """Have the proxy send `data`."""
        self.way.protocol.dataReceived(data)

    def reason(self, digging: Deferred[Any]) -> str:
        """Return why it failed; there is no timer left and the connection is closed."""
        failure = self.failureResultOf(digging, LinkFailure).value
        assert isinstance(failure, LinkFailure)
        self.assertTrue(self.way.transport.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return failure.reason

    def test_request(self) -> None:
        """One CONNECT goes out, and nothing before it is answered."""
        digging = self.dig()
        self.assertEqual(
            self.way.transport.value(),
            b"CONNECT master.test:443 HTTP/1.1\r\nHost: master.test:443\r\n\r\n",
        )
        self.assertNoResult(digging)

    def test_ipv6(self) -> None:
        """An IPv6 address stands in brackets."""
        self.tunnel = Tunnel(self.clock, self.way, THERE, "::1", 80)
        self.dig()
        self.assertEqual(
            self.way.transport.value(), b"CONNECT [::1]:80 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"
        )

    def test_credentials(self) -> None:
        """Credentials go out as Basic, in UTF-8; no character of them gets into another line."""
        proxy = Proxy("proxy.test", 3128, "u:密\r\nX: y" + "z" * 100)
        self.tunnel = Tunnel(self.clock, self.way, proxy, "master.test", 443)
        self.dig()
        lines = self.way.transport.value().decode("ascii").split("\r\n")
        self.assertEqual(
            [line.split(":")[0] for line in lines[1:-2]], ["Host", "Proxy-Authorization"]
        )
        scheme, encoded = lines[2].removeprefix("Proxy-Authorization: ").split(" ")
        self.assertEqual((scheme, b64decode(encoded).decode()), ("Basic", proxy.credentials))

    def test_opened(self) -> None:
        """Once it is open the inner protocol has the connection, both ways, to its end."""
        digging = self.dig()
        self.way.transport.clear()
        self.receive(OPENED)
        inner = self.successResultOf(digging)
        self.assertIsInstance(inner, Inner)
        self.assertIs(inner.transport, self.way.transport)
        self.assertEqual(self.way.transport.value(), b"hello")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.receive(b"one")
        self.receive(b"\r\n\r\n")
        self.assertEqual(inner.data, b"one\r\n\r\n")
        reason = Failure(ConnectionDone())
        self.way.protocol.connectionLost(reason)
        self.assertIs(inner.lost, reason)

    def test_any_success(self) -> None:
        """Every 2xx opens it, of HTTP/1.0 and with headers too."""
        for head in (
            b"HTTP/1.0 200 OK\r\n\r\n",
            b"HTTP/1.1 204\r\n\r\n",
            b"HTTP/1.1 200 \r\nVia: x\r\nProxy-Agent: y\r\n\r\n",
        ):
            self.way = Way()
            self.tunnel = Tunnel(self.clock, self.way, THERE, "master.test", 443)
            digging = self.dig()
            self.receive(head)
            self.successResultOf(digging)

    def test_split(self) -> None:
        """Wherever the answer is split, the inner protocol gets exactly what is behind it."""
        whole = OPENED + b"\x16\x03\x01\r\n\r\nmore"
        for at in range(len(whole) + 1):
            with self.subTest(at=at):
                self.setUp()
                digging = self.dig()
                self.receive(whole[:at])
                self.receive(whole[at:])
                self.assertEqual(self.successResultOf(digging).data, whole.removeprefix(OPENED))

    def test_byte_by_byte(self) -> None:
        """An answer that comes a byte at a time is understood."""
        digging = self.dig()
        for byte in OPENED + b"x":
            self.receive(bytes([byte]))
        self.assertEqual(self.successResultOf(digging).data, b"x")

    def test_result_before_data(self) -> None:
        """Whoever dialled has the protocol before that gets its first data."""
        order: list[str] = []
        digging = self.dig()
        digging.addCallback(lambda inner: order.append(f"dialled, {inner.data!r}"))
        self.receive(OPENED + b"x")
        self.assertEqual(order, ["dialled, b''"])

    def test_refused(self) -> None:
        """A refusal fails with its status, without waiting for its body."""
        for status in (407, 403, 502, 101, 199, 300, 302):
            with self.subTest(status=status):
                self.setUp()
                digging = self.dig()
                self.receive(b"HTTP/1.1 %d No\r\nContent-Length: 9\r\n\r\n" % status)
                self.assertEqual(
                    self.reason(digging), f"the proxy refused the way to the master: {status}"
                )

    def test_garbage(self) -> None:
        """What is no HTTP proxy is told to be none, nothing of it is repeated."""
        for data in (
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"\r\n\r\n",
            b"\xff\xfe\0 200 OK\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 \xc2\xb2\xc2\xb2 OK\r\n\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 -200 OK\r\n\r\n",
            b"HTTP/1.1 " + b"9" * 5000 + b" OK\r\n\r\n",
        ):
            with self.subTest(data=data[:30]):
                self.setUp()
                digging = self.dig()
                self.receive(data)
                self.assertEqual(
                    self.reason(digging), "what answers for the proxy is no HTTP proxy"
                )

    def test_too_long(self) -> None:
        """An answer without an end is cut off."""
        digging = self.dig()
        self.receive(b"HTTP/1.1 200 OK\r\n")
        for _ in range(MAX_ANSWER // 1000 + 1):
            self.receive(b"x" * 1000)
        self.assertEqual(self.reason(digging), "the proxy's answer is too long")

    def test_closed(self) -> None:
        """A proxy that closes before it has answered is a failure, and no timer is left."""
        for data in (b"", b"HTTP/1.1 200 OK\r\n"):
            digging = self.dig()
            self.receive(data)
            self.way.protocol.connectionLost(Failure(ConnectionDone()))
            failure = self.failureResultOf(digging, LinkFailure).value
            self.assertEqual(failure.reason, "the proxy closed the connection")
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_hangs(self) -> None:
        """A proxy that does not answer is left at the deadline, with words that say so."""
        digging = self.dig()
        self.clock.advance(DEADLINE - 0.1)
        self.assertNoResult(digging)
        self.clock.advance(0.2)
        self.assertEqual(self.reason(digging), "no way through the proxy within 15 s")
        self.way.protocol.connectionLost(Failure(ConnectionDone()))

    def test_no_connection(self) -> None:
        """A proxy that is not there fails at once; one that hangs, at the deadline."""
        self.way.given = fail(ConnectionRefusedError())
        self.failureResultOf(self.dig(), ConnectionRefusedError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.way.given = Deferred()
        digging = self.dig()
        self.clock.advance(DEADLINE)
        self.failureResultOf(digging, LinkFailure)

    def test_cancelled(self) -> None:
        """A tunnel that is given up is closed, in each of its phases."""
        self.way.given = Deferred()
        digging = self.dig()
        digging.cancel()
        self.failureResultOf(digging, CancelledError)
        self.way.given = None
        digging = self.dig()
        digging.cancel()
        self.assertEqual(self.reason(digging), "given up")
        self.way.protocol.connectionLost(Failure(ConnectionDone()))

    def test_nobody_inside(self) -> None:
        """Where the inner side wants no connection any more, it is closed."""
        self.factory.buildProtocol = lambda _: None
        digging = self.dig()
        self.receive(OPENED)
        self.assertEqual(self.reason(digging), "given up")
