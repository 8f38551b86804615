"""
Tests of the door: who may not come in hears nothing, who may is served as by any web server.

The tables of inputs at the top are also sent over real sockets, in
tests/integration/test_silence_sockets.py.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, ITCPTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from mmwagent.manage import silence
from mmwagent.manage.heads import (
    MAX_CHUNK_LINE,
    MAX_HEAD,
    MAX_HEADERS,
    ChunkedBody,
    CountedBody,
    RequestHead,
    Unfit,
)
from mmwagent.manage.silence import SilentChannel, SilentSite

TOKEN = b"Bearer 3f1c-the-token"
HOST = b"Host: h\r\n"
GOOD = b"GET /ok HTTP/1.1\r\n" + HOST + b"Authorization: " + TOKEN + b"\r\n\r\n"
WRONG = b"GET /ok HTTP/1.1\r\n" + HOST + b"Authorization: " + TOKEN[:-1] + b"\r\n\r\n"


def head(line: bytes, *headers: bytes, token: bytes = b"", host: bytes = HOST) -> bytes:
    """Return a header block."""
    credential = b"Authorization: " + token + b"\r\n" if token else b""
    return line + b"\r\n" + host + credential + b"".join(h + b"\r\n" for h in headers) + b"\r\n"


def post(*headers: bytes, body: bytes = b"") -> bytes:
    """Return an authorised POST."""
    return head(b"POST /ok HTTP/1.1", *headers, token=TOKEN) + body


def client_hello() -> bytes:
    """Return what a TLS client sends first."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="a.test")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
TLS_HELLO = client_hello()
CHUNKED = b"Transfer-Encoding: chunked"

# What is no request we read, whoever sends it.
UNFIT: dict[str, bytes] = {
    "garbage text": b"hello there\r\n",
    "garbage bytes": bytes(range(128, 256)) * 2,
    "zeros": b"\0" * 100,
    "SSH banner": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "HTTP/0.9": b"GET /ok\r\n",
    "HTTP/0.9 with LF": b"GET /ok\n",
    "TLS ClientHello": TLS_HELLO,
    "SSLv2 ClientHello": b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10",
    "HTTP/2 preface": HTTP2_PREFACE,
    "PRI as a method": head(b"PRI /ok HTTP/1.1"),
    "SOCKS 5": b"\x05\x01\x00",
    "RDP": b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
    "long line": b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "long line without end": b"GET /" + b"a" * MAX_HEAD,
    "long method": b"G" * 33,
    "long header": head(b"GET /ok HTTP/1.1", b"A: " + b"a" * MAX_HEAD),
    "many headers": head(b"GET /ok HTTP/1.1", *[b"A: a"] * MAX_HEADERS),
    "2 MB of headers": b"GET /ok HTTP/1.1\r\n" + b"A: a\r\n" * 300_000,
    "header name with space": head(b"GET /ok HTTP/1.1", b"A b: c"),
    "header name with umlaut": head(b"GET /ok HTTP/1.1", b"\xc3\xa4: c"),
    "header without name": head(b"GET /ok HTTP/1.1", b": c"),
    "no colon": head(b"GET /ok HTTP/1.1", b"Authorization"),
    "NUL in name": head(b"GET /ok HTTP/1.1", b"A\0: c"),
    "NUL in value": head(b"GET /ok HTTP/1.1", b"A: \0c"),
    "DEL in value": head(b"GET /ok HTTP/1.1", b"A: \x7fc"),
    "NUL in target": head(b"GET /o\0k HTTP/1.1"),
    "space before colon": head(b"GET /ok HTTP/1.1", b"A : c"),
    "tab before colon": head(b"GET /ok HTTP/1.1", b"A\t: c"),
    "folded header": head(b"GET /ok HTTP/1.1", b"A: b", b" c"),
    "folded first header": head(b"GET /ok HTTP/1.1", host=b" Host: h\r\n"),
    "no Host": head(b"GET /ok HTTP/1.1", host=b""),
    "two Hosts": head(b"GET /ok HTTP/1.1", b"hOST: h"),
    "two Hosts, HTTP/1.0": head(b"GET /ok HTTP/1.0", b"Host: h"),
    "HTTP/1.2": head(b"GET /ok HTTP/1.2"),
    "HTTP/1.10": head(b"GET /ok HTTP/1.10"),
    "HTTP/0.9 by name": head(b"GET /ok HTTP/0.9"),
    "HTTP/2.0": head(b"GET /ok HTTP/2.0"),
    "HTTP/3.0": head(b"GET /ok HTTP/3.0"),
    "http/1.1": head(b"GET /ok http/1.1"),
    "RTSP": head(b"OPTIONS /ok RTSP/1.0"),
    "SIP": head(b"OPTIONS sip:nm SIP/2.0"),
    "space after version": head(b"GET /ok HTTP/1.1 "),
    "two spaces": head(b"GET  /ok HTTP/1.1"),
    "two spaces before version": head(b"GET /ok  HTTP/1.1"),
    "tabs": head(b"GET\t/ok\tHTTP/1.1"),
    "tab in target": head(b"GET /o\tk HTTP/1.1"),
    "no target": head(b"GET  HTTP/1.1"),
    "bad method": head(b"G(T /ok HTTP/1.1"),
    "method that starts oddly": head(b"1GET /ok HTTP/1.1"),
    "space first": b" " + GOOD,
    "two blank lines first": b"\r\n\r\n" + GOOD,
    "blank line of LF first": b"\n" + GOOD,
    "lines of LF": GOOD.replace(b"\r\n", b"\n"),
    "lines of CR": GOOD.replace(b"\r\n", b"\r"),
    "one line of LF": head(b"GET /ok HTTP/1.1\nA: b"),
    "CR in value": head(b"GET /ok HTTP/1.1", b"A: b\rc"),
    "CL and TE": head(b"POST /ok HTTP/1.1", b"Content-Length: 5", CHUNKED) + b"0\r\n\r\n",
    "two CL": head(b"POST /ok HTTP/1.1", b"Content-Length: 5", b"Content-Length: 6") + b"hello!",
    "two equal CL": head(b"POST /ok HTTP/1.1", *[b"Content-Length: 5"] * 2) + b"hello",
    "list of CL": head(b"POST /ok HTTP/1.1", b"Content-Length: 5, 5") + b"hello",
    "CL -1": head(b"POST /ok HTTP/1.1", b"Content-Length: -1"),
    "CL +5": head(b"POST /ok HTTP/1.1", b"Content-Length: +5") + b"hello",
    "CL 5_0": head(b"POST /ok HTTP/1.1", b"Content-Length: 5_0"),
    "CL 0x5": head(b"POST /ok HTTP/1.1", b"Content-Length: 0x5") + b"hello",
    "CL of other digits": head(b"POST /ok HTTP/1.1", "Content-Length: ٥".encode()) + b"hello",
    "CL empty": head(b"POST /ok HTTP/1.1", b"Content-Length:"),
    "CL endless": head(b"POST /ok HTTP/1.1", b"Content-Length: " + b"9" * 5000),
    "unknown TE": head(b"POST /ok HTTP/1.1", b"Transfer-Encoding: gzip") + b"0\r\n\r\n",
    "TE identity": head(b"POST /ok HTTP/1.1", b"Transfer-Encoding: identity"),
    "TE list": head(b"POST /ok HTTP/1.1", b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "two TE": head(b"POST /ok HTTP/1.1", CHUNKED, CHUNKED) + b"0\r\n\r\n",
    "TE in HTTP/1.0": head(b"POST /ok HTTP/1.0", CHUNKED) + b"0\r\n\r\n",
}

# Proper requests without the credential.
UNAUTHORISED: dict[str, bytes] = {
    "no credential": head(b"GET /ok HTTP/1.1"),
    "wrong token": WRONG,
    "HTTP/1.0": head(b"GET /ok HTTP/1.0", host=b""),
    "keep-alive": head(b"GET /ok HTTP/1.0", b"Connection: keep-alive"),
    "HEAD": head(b"HEAD /ok HTTP/1.1"),
    "blank line first": b"\r\n" + WRONG,
    "absolute target": head(b"GET http://h/ok HTTP/1.1"),
    "POST": head(b"POST /ok HTTP/1.1", b"Content-Length: 5") + b"hello",
    "POST chunked": head(b"POST /ok HTTP/1.1", CHUNKED) + b"5\r\nhello\r\n0\r\n\r\n",
    "POST badly chunked": head(b"POST /ok HTTP/1.1", CHUNKED) + b"hello\r\n",
    "POST of 3 MB": head(b"POST /ok HTTP/1.1", b"Content-Length: 3000000") + b"a" * 3_000_000,
    "POST announced over the limit": head(b"POST /ok HTTP/1.1", b"Content-Length: 99999999999"),
    "Expect": head(b"POST /ok HTTP/1.1", b"Content-Length: 5", b"Expect: 100-continue"),
    "bogus Expect": head(b"POST /ok HTTP/1.1", b"Content-Length: 5", b"Expect: 200-ok"),
    "form": head(b"POST /ok HTTP/1.1", b"Content-Type: multipart/form-data", b"Content-Length: 1")
    + b"a",
    "OPTIONS *": head(b"OPTIONS * HTTP/1.1"),
    "CONNECT": head(b"CONNECT example.com:443 HTTP/1.1"),
    "TRACE": head(b"TRACE /ok HTTP/1.1"),
    "BREW": head(b"BREW /pot HTTP/1.1"),
    "get": head(b"get /ok HTTP/1.1"),
    "h2c": head(b"GET /ok HTTP/1.1", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
    "WebSocket": head(b"GET /ok HTTP/1.1", b"Connection: Upgrade", b"Upgrade: websocket"),
    "bad, good": WRONG + GOOD,
    "bad, body that is good": head(b"POST /ok HTTP/1.1", b"Content-Length: %d" % len(GOOD)) + GOOD,
}

# Bodies that are said to be chunked, and are not.
BAD_CHUNKS = [
    b"\r\n",
    b"x\r\n",
    b"-1\r\n",
    b"+1\r\n",
    b"0x1\r\n",
    b"1 \r\n",
    b"1_0\r\n",
    b"1" * 17 + b"\r\n",
    b"5\nhello\n0\n\n",
    b"5\r\nhello!\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5;\x00\r\nhello\r\n",
    b"1;" + b"a" * MAX_CHUNK_LINE,
    b"5\r\nhello\r\n0\r\nTrailer: a\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\n\n",
]

# What might still become a request: closed at the deadline.
HALF: dict[str, bytes] = {
    "nothing": b"",
    "a letter": b"G",
    "half a line": b"GET /ok HT",
    "a line": b"GET /ok HTTP/1.1\r\n",
    "half a line end": b"GET /ok HTTP/1.1\r",
    "half a header": GOOD[:-9],
    "headers without end": GOOD[:-2],
    "headers with half an end": GOOD[:-1],
    "a blank line": b"\r\n",
    "half a blank line": b"\r",
}


def by_token(head: RequestHead) -> bool:
    """Let in who has the token."""
    return head.headers.getRawHeaders(b"authorization") == [TOKEN]


class Echo(Resource):
    """A resource that says what it was asked, whatever the method."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        """Answer at once."""
        said = {
            "method": request.method.decode("ascii"),
            "uri": request.uri.decode("ascii"),
            "body": request.content.read().decode("latin-1"),
        }
        return json.dumps(said).encode("utf-8")


class Held(Resource):
    """A resource whose answers wait for the test; `requests` are those it was asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []

    def render(self, request: Request) -> int:
        """Answer later."""
        self.requests.append(request)
        return NOT_DONE_YET


@implementer(ITCPTransport)
class Wire(StringTransport):
    """A TCP transport in memory that remembers the options set on it."""

    def __init__(self, peer: IAddress | None = None) -> None:
        super().__init__(peerAddress=peer)
        self.options: dict[str, bool] = {}

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Remember it."""
        self.options["nodelay"] = enabled

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Remember it."""
        self.options["keepalive"] = enabled

    def getTcpNoDelay(self) -> bool:
        """Tell it."""
        return self.options["nodelay"]

    def getTcpKeepAlive(self) -> bool:
        """Tell it."""
        return self.options["keepalive"]

    def loseWriteConnection(self) -> None:
        """Do nothing."""


class Visit:
    """A connection to a site in memory, and the clock of both."""

    def __init__(
        self,
        authorise: Callable[[RequestHead], Any] = by_token,
        resource: Resource | None = None,
        peer: IAddress | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.asked: list[RequestHead] = []
        self.authorise = authorise
        self.site = SilentSite(resource or Echo(), self._ask, self.clock, **options)
        self.peer = peer or IPv4Address("TCP", "192.0.2.7", 4711)
        self.channel, self.wire = self.another()

    def another(self) -> tuple[SilentChannel, Wire]:
        """Make one more connection to the same site."""
        channel, wire = self.site.buildProtocol(self.peer), Wire(self.peer)
        channel.makeConnection(wire)
        assert isinstance(channel, SilentChannel)
        return channel, wire

    def _ask(self, head: RequestHead) -> bool:
        self.asked.append(head)
        answer: bool = self.authorise(head)
        return answer

    def send(self, *parts: bytes, pause: float = 0) -> Visit:
        """Send parts, as long as the other end listens, with seconds between them."""
        for part in parts:
            if self.closed:
                break
            self.channel.dataReceived(part)
            self.clock.advance(pause)
        return self

    @property
    def out(self) -> bytes:
        """All that the site said, without its dates."""
        return re.sub(rb"Date: [^\r]*\r\n", b"", self.wire.value())

    @property
    def closed(self) -> bool:
        """Whether the site closed the connection."""
        return self.wire.disconnecting

    def answers(self) -> list[tuple[int, Any]]:
        """Return the codes and JSON bodies of the answers; all of them give their length."""
        found, rest = [], self.out
        while rest:
            block, rest = rest.split(b"\r\n\r\n", 1)
            length = re.search(rb"\r\ncontent-length: (\d+)", block, re.I)
            size = int(length[1]) if length else 0
            code = int(block.split(b" ")[1])
            found.append((code, json.loads(rest[:size] or b"null")))
            rest = rest[size:]
        return found

    def end(self) -> list[Any]:
        """Have the connection go away, and return the timers that are left."""
        self.channel.connectionLost(Failure(ConnectionDone()))
        return list(self.clock.getDelayedCalls())


class SilentCase(SynchronousTestCase):
    """What the tests of silence have in common."""

    def assertSilent(self, visit: Visit, name: str) -> None:
        """Check that nothing was said, the door closed, and nothing is left of the visit."""
        self.assertEqual(visit.wire.value(), b"", name)
        self.assertTrue(visit.closed, f"{name}: still open")
        self.assertEqual(visit.end(), [], f"{name}: timers left")
        self.assertEqual(visit.site.connections, set(), name)


def cuts(data: bytes) -> Iterator[int]:
    """Yield the places to cut at: all of a small input, and both ends of a large one."""
    yield from range(1, len(data)) if len(data) < 800 else (*range(1, 60), len(data) - 1)


class UnfitTests(SilentCase):
    """What is not a request gets no answer, even where the policy would let in all."""

    def visit(self) -> Visit:
        """Return a visit to a site that is open to all."""
        return Visit(lambda head: True)

    def test_whole(self) -> None:
        """Sent in one go, each is closed at once, and the policy is not even asked."""
        for name, data in UNFIT.items():
            visit = self.visit().send(data)
            self.assertSilent(visit, name)
            self.assertEqual(visit.asked, [], name)

    def test_cut_in_two(self) -> None:
        """Cut in two at any byte, each is closed as well."""
        for name, data in UNFIT.items():
            for cut in cuts(data):
                visit = self.visit().send(data[:cut], data[cut:])
                self.assertSilent(visit, f"{name}, cut at {cut}")
                self.assertEqual(visit.asked, [], f"{name}, cut at {cut}")

    def test_dripped(self) -> None:
        """Sent byte by byte, each is closed as well, no later than at its last byte."""
        for name, data in UNFIT.items():
            visit = self.visit().send(*(data[i : i + 1] for i in range(min(len(data), 17_000))))
            self.assertSilent(visit, name)

    def test_no_line_end_needed(self) -> None:
        """What can never become a request is closed at that byte, not at a line end."""
        for start in (
            TLS_HELLO[:1],
            HTTP2_PREFACE[:4],
            b"\0",
            b"\x80",
            b" ",
            b"1",
            b"GE\xff",
            b"GET /\n",
            b"GET /ok\0",
            b"\r\n\r",
            b"G" * 33,
        ):
            self.assertFalse(self.visit().send(start[:-1]).closed, start)
            self.assertSilent(self.visit().send(start), repr(start))

    def test_limits_are_exact(self) -> None:
        """A header block just at the limits, in bytes and in headers, is still read."""
        room = MAX_HEAD - len(head(b"GET /ok HTTP/1.1", b"A: "))
        for name, data in (
            ("bytes", head(b"GET /ok HTTP/1.1", b"A: " + b"a" * room)),
            ("target", head(b"GET /ok%b HTTP/1.1" % (b"\xe4" * (room + 5)))),
            ("headers", head(b"GET /ok HTTP/1.1", *[b"A: a"] * (MAX_HEADERS - 1))),
            ("method", head(b"G" * 32 + b" /ok HTTP/1.1")),
        ):
            visit = self.visit().send(data)
            self.assertEqual([code for code, _ in visit.answers()], [200], name)

    def test_odd_but_fit(self) -> None:
        """What RFC 9112 asks to be lenient with is read: one blank line, blanks at a value."""
        for data in (
            b"\r\n" + head(b"GET /ok HTTP/1.1"),
            head(b"GET /ok HTTP/1.1", b"A:b", b"C: \t d \t", b"E:", b"F: \xff\xe4"),
            head(b"GET /ok HTTP/1.0", host=b""),
            head(b"POST /ok HTTP/1.1", b"Transfer-Encoding: Chunked") + b"0\r\n\r\n",
        ):
            for cut in range(1, len(data)):
                visit = self.visit().send(data[:cut], data[cut:])
                self.assertEqual([code for code, _ in visit.answers()], [200], data)


class UnauthorisedTests(SilentCase):
    """A proper request gets no answer unless the policy says so."""

    def test_whole(self) -> None:
        """Sent in one go, each is closed at once, after one question to the policy."""
        for name, data in UNAUTHORISED.items():
            visit = Visit().send(data)
            self.assertSilent(visit, name)
            self.assertEqual(len(visit.asked), 1, name)

    def test_cut_in_two(self) -> None:
        """Cut in two at any byte, each is closed as well."""
        for name, data in UNAUTHORISED.items():
            for cut in cuts(data):
                self.assertSilent(Visit().send(data[:cut], data[cut:]), f"{name}, cut at {cut}")

    def test_dripped(self) -> None:
        """Sent byte by byte, each is closed at the end of its header block."""
        for name, data in UNAUTHORISED.items():
            block = data[: data.index(b"\r\n\r\n", 2) + 4]
            visit = Visit().send(*(block[i : i + 1] for i in range(len(block) - 1)))
            self.assertFalse(visit.closed, name)
            self.assertSilent(visit.send(block[-1:]), name)

    def test_same_with_the_credential(self) -> None:
        """Each of them is answered with the credential: it is the policy that keeps them out."""
        for name in ("HTTP/1.0", "HEAD", "POST", "OPTIONS *", "CONNECT", "BREW", "get"):
            data = UNAUTHORISED[name].replace(b"\r\n", b"\r\nAuthorization: " + TOKEN + b"\r\n", 1)
            self.assertTrue(Visit().send(data).out.startswith(b"HTTP/1."), name)

    def test_policy_that_raises(self) -> None:
        """A policy that fails lets nobody in, and its failure is logged."""
        visit = Visit(lambda head: bool(1 // 0)).send(GOOD)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertSilent(visit, "raises")

    def test_policy_that_answers_oddly(self) -> None:
        """Only True opens the door: something merely true, as a Deferred would be, does not."""
        for answer in (1, "yes", object(), None, [False]):
            self.assertSilent(Visit(lambda head, a=answer: a).send(GOOD), repr(answer))

    def test_what_the_policy_sees(self) -> None:
        """The policy gets method, raw target, headers and peer."""
        visit = Visit().send(head(b"POST /a%20b c\xe4?d HTTP/1.1", b"User-Agent:  x/1 ", b"A: 1"))
        [seen] = visit.asked
        self.assertEqual(seen.method, b"POST")
        self.assertEqual(seen.target, b"/a%20b c\xe4?d")
        self.assertEqual(seen.headers.getRawHeaders(b"user-agent"), [b"x/1"])
        self.assertEqual(seen.peer, "192.0.2.7")

    def test_peers(self) -> None:
        """A peer is told by its bare address: IPv4-mapped as IPv4, without an interface."""
        for peer, told in (
            (IPv6Address("TCP", "::ffff:192.0.2.9", 1), "192.0.2.9"),
            (IPv6Address("TCP", "2001:db8::1", 1), "2001:db8::1"),
            (IPv6Address("TCP", "fe80::1%eth0", 1), "fe80::1"),
            (UNIXAddress(b"/run/a"), ""),
            (IPv4Address("TCP", "not an address", 1), ""),
        ):
            self.assertEqual(Visit(peer=peer).send(WRONG).asked[0].peer, told)

    def test_asked_for_each_request(self) -> None:
        """Each request of a connection is judged on its own."""
        visit = Visit().send(GOOD, GOOD, WRONG)
        self.assertEqual(len(visit.answers()), 2)
        self.assertEqual(len(visit.asked), 3)
        self.assertTrue(visit.closed)

    def test_asked_before_the_body(self) -> None:
        """The policy is asked as soon as the header block is whole, before any of the body."""
        data = head(b"POST /ok HTTP/1.1", b"Content-Length: 5", b"Expect: 100-continue")
        self.assertSilent(Visit().send(data[:-1], data[-1:]), "head only")


class DeadlineTests(SilentCase):
    """Who is slow is cut off, at a time that no drip puts off."""

    def test_half(self) -> None:
        """A half header block is closed at the deadline, not before, without a word."""
        for name, data in HALF.items():
            visit = Visit().send(data)
            visit.clock.advance(9.9)
            self.assertFalse(visit.closed, name)
            visit.clock.advance(0.2)
            self.assertSilent(visit, name)

    def test_drip(self) -> None:
        """A byte a second does not put the deadline off."""
        visit = Visit().send(*(GOOD[i : i + 1] for i in range(len(GOOD))), pause=1)
        self.assertEqual(visit.clock.seconds(), 10)
        self.assertSilent(visit, "drip")

    def test_first_byte_late(self) -> None:
        """On a new connection the deadline counts from the connection, not from a first byte."""
        visit = Visit()
        visit.clock.advance(9)
        visit.send(b"GET ")
        visit.clock.advance(1)
        self.assertSilent(visit, "late")

    def test_setting(self) -> None:
        """The deadlines are settings."""
        visit = Visit(head_timeout=3, idle_timeout=20)
        visit.clock.advance(2.9)
        visit.send(GOOD)
        visit.clock.advance(19.9)
        self.assertFalse(visit.closed)
        visit.clock.advance(0.2)
        self.assertTrue(visit.closed)

    def test_idle_after_an_answer(self) -> None:
        """A kept-alive connection is closed when it was idle for a minute."""
        visit = Visit().send(GOOD)
        visit.clock.advance(59.9)
        self.assertFalse(visit.closed)
        visit.clock.advance(0.2)
        self.assertTrue(visit.closed)
        self.assertEqual(len(visit.answers()), 1)
        self.assertEqual(visit.end(), [])

    def test_next_request_has_its_own_deadline(self) -> None:
        """The next request's header block has ten seconds from its first byte, drips or not."""
        visit = Visit().send(GOOD)
        visit.clock.advance(55)
        visit.send(*[b"G"] * 9, pause=1)
        self.assertFalse(visit.closed)
        visit.clock.advance(1.1)
        self.assertTrue(visit.closed)
        self.assertEqual(visit.end(), [])

    def test_kept_alive_for_long(self) -> None:
        """Requests that come in time are all served on one connection."""
        visit = Visit().send(*[GOOD] * 20, pause=50)
        self.assertEqual(len(visit.answers()), 20)
        self.assertFalse(visit.closed)

    def test_slow_body(self) -> None:
        """The body of an authorised request may be slow, but not stand still for a minute."""
        visit = Visit().send(post(b"Content-Length: 5"), b"h", b"e", b"l", pause=50)
        self.assertFalse(visit.closed)
        visit.clock.advance(10.1)
        self.assertSilent(visit, "body")

    def test_peer_that_does_not_read(self) -> None:
        """A refused peer that lets the connection hang is cut off five seconds later."""
        visit = Visit().send(GOOD + WRONG)
        visit.clock.advance(4.9)
        self.assertFalse(visit.wire.disconnected)
        visit.clock.advance(0.2)
        self.assertTrue(visit.wire.disconnected)
        self.assertEqual(visit.end(), [])

    def test_slow_reader_of_a_last_answer(self) -> None:
        """Who was served gets a minute to read the answer after which the connection closes."""
        visit = Visit().send(head(b"GET /ok HTTP/1.1", b"Connection: close", token=TOKEN))
        self.assertTrue(visit.closed)
        visit.clock.advance(59.9)
        self.assertFalse(visit.wire.disconnected)
        visit.clock.advance(0.2)
        self.assertTrue(visit.wire.disconnected)

    def test_gone_at_any_point(self) -> None:
        """Whenever the peer goes, no timer stays."""
        data = post(b"Content-Length: 5", body=b"hello") + WRONG
        for end in range(len(data) + 1):
            self.assertEqual(Visit().send(data[:end]).end(), [], data[:end])


class ServedTests(SilentCase):
    """Who may come in is served."""

    def test_answer(self) -> None:
        """An authorised request is answered, and the connection kept."""
        visit = Visit().send(GOOD)
        self.assertEqual(visit.answers(), [(200, {"method": "GET", "uri": "/ok", "body": ""})])
        self.assertFalse(visit.closed)

    def test_socket_options(self) -> None:
        """Answers are not delayed for more to send, and vanished peers are noticed."""
        self.assertEqual(Visit().wire.options, {"nodelay": True, "keepalive": True})

    def test_raw_target(self) -> None:
        """A target that was not escaped by its sender reaches the resource escaped."""
        visit = Visit().send(head("GET /a?file=配 b%20/c.json HTTP/1.1".encode(), token=TOKEN))
        self.assertEqual(visit.answers()[0][1]["uri"], "/a?file=%E9%85%8D%20b%20/c.json")

    def test_bodies(self) -> None:
        """A body arrives whole, counted or chunked, however it is cut."""
        for data, body in (
            (post(b"Content-Length: 5", body=b"hello"), "hello"),
            (post(b"Content-Length: 0"), ""),
            (
                post(CHUNKED, body=b"5\r\nhello\r\n0A;a=b\r\n, world\r\n!\r\n00\r\n\r\n"),
                "hello, world\r\n!",
            ),
            (post(CHUNKED, body=b"0\r\n\r\n"), ""),
        ):
            for cut in range(1, len(data)):
                visit = Visit().send(data[:cut], data[cut:] + GOOD)
                self.assertEqual([a[1]["body"] for a in visit.answers()], [body, ""], data[:cut])

    def test_bad_chunks(self) -> None:
        """A body that is badly chunked closes the connection without a word."""
        for bad in BAD_CHUNKS:
            data = post(CHUNKED, body=bad)
            self.assertSilent(Visit().send(data + GOOD), repr(bad))
            drip = (data[i : i + 1] for i in range(len(data)))
            self.assertSilent(Visit().send(*drip, GOOD), f"{bad!r}, dripped")

    def test_bad_chunks_of_their_own(self) -> None:
        """The door sees by itself that they are bad, before Twisted does."""
        for bad in BAD_CHUNKS:
            self.assertRaises(Unfit, ChunkedBody(9).take, bad)

    def test_endless_chunk_line(self) -> None:
        """A chunk line without end closes the connection when it is too long."""
        data = post(CHUNKED, body=b"1;" + b"a" * (MAX_CHUNK_LINE - 2))
        self.assertFalse(Visit().send(data).closed)
        self.assertSilent(Visit().send(data + b"a"), "endless")

    def test_disagreement(self) -> None:
        """Should Twisted wait for more of a body than the door does, the connection is closed."""
        self.patch(silence, "choose_body", lambda *args: CountedBody(0, 0))
        self.assertSilent(Visit().send(post(b"Content-Length: 99"), GOOD), "disagreement")

    def test_expect(self) -> None:
        """An authorised caller that asks whether to send its body is told to go on."""
        visit = Visit().send(post(b"Content-Length: 5", b"Expect: 100-continue"))
        self.assertEqual(visit.out, b"HTTP/1.1 100 Continue\r\n\r\n")
        visit.wire.clear()
        self.assertEqual(visit.send(b"hello").answers()[0][1]["body"], "hello")

    def test_bogus_expect(self) -> None:
        """An authorised caller's unknown expectation is passed over."""
        visit = Visit().send(post(b"Content-Length: 5", b"Expect: a lot", body=b"hello"))
        self.assertEqual([code for code, _ in visit.answers()], [200])

    def test_strange_methods(self) -> None:
        """Any method of an authorised caller reaches the resource, which may refuse it."""
        for method in (b"BREW", b"TRACE", b"CONNECT", b"get", b"M-SEARCH", b"DELETE"):
            visit = Visit().send(head(method + b" /ok HTTP/1.1", token=TOKEN))
            self.assertEqual(visit.answers()[0][1]["method"], method.decode("ascii"))

    def test_strange_methods_on_a_plain_resource(self) -> None:
        """A resource that leaves methods to Twisted gives a plain refusal, and no traceback."""
        for line, code in (
            (b"BREW /ok HTTP/1.1", b" 501 "),
            (b"PUT /\xff%ff HTTP/1.1", b" 404 "),
            (b"CONNECT a:443 HTTP/1.1", b" 404 "),
            (b"OPTIONS * HTTP/1.1", b" 200 "),
        ):
            root = Resource()
            root.putChild(b"ok", Resource())
            visit = Visit(resource=root).send(head(line, token=TOKEN))
            self.assertIn(code, visit.out.split(b"\r\n")[0])
            self.assertNotIn(b"server", visit.out.lower())
            self.assertNotIn(b"twisted", visit.out.lower())

    def test_nothing_tells_what_serves(self) -> None:
        """No answer names its server."""
        for data in (GOOD, head(b"HEAD /ok HTTP/1.1", token=TOKEN), post(b"Content-Length: 9")):
            said = Visit(max_body=5).send(data).out.lower()
            self.assertTrue(said)
            self.assertNotIn(b"server:", said)
            self.assertNotIn(b"twisted", said)

    def test_old_version(self) -> None:
        """A request of HTTP/1.0 is answered, then the connection closed."""
        visit = Visit().send(head(b"GET /ok HTTP/1.0", token=TOKEN, host=b""))
        self.assertEqual([code for code, _ in visit.answers()], [200])
        self.assertTrue(visit.closed)

    def test_forms_that_are_broken(self) -> None:
        """A broken form of an authorised caller is answered or dropped, never a traceback."""
        for kind in (b"multipart/form-data", b"multipart/form-data; boundary=\xff", b";;=\xff"):
            for body in (b"--a\r\nx", b"%zz&=&\xff"):
                size = b"Content-Length: %d" % len(body)
                visit = Visit().send(post(b"Content-Type: " + kind, size, body=body))
                self.assertTrue(visit.closed or visit.out.startswith(b"HTTP/1.1 200 "))
                self.assertEqual(visit.end(), [])

    def test_failing_resource(self) -> None:
        """A resource that fails gives the one shape of error, and is logged once."""

        class Failing(Resource):
            isLeaf = True

            def render(self, request: Request) -> bytes:
                raise RuntimeError("a secret of the inside")

        visit = Visit(resource=Failing()).send(GOOD)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        [(code, said)] = visit.answers()
        self.assertEqual((code, said["success"]), (500, False))
        self.assertNotIn(b"secret", visit.out)
        self.assertFalse(visit.closed)

    def test_failing_in_the_middle(self) -> None:
        """A resource that fails after half its answer has the connection closed there."""
        held = Held()
        visit = Visit(resource=held).send(GOOD)
        gone = held.requests[0].notifyFinish()
        held.requests[0].write(b"half")
        said = visit.out
        held.requests[0].processingFailed(Failure(RuntimeError("no")))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertTrue(visit.closed)
        self.assertEqual(visit.out, said)
        self.assertEqual(visit.end(), [])
        self.failureResultOf(gone, ConnectionDone)

    def test_failing_when_nobody_waits(self) -> None:
        """A resource that fails after the client went, or after its answer, is only logged."""
        held = Held()
        visit = Visit(resource=held).send(GOOD)
        visit.end()
        held.requests[0].processingFailed(Failure(RuntimeError("no")))
        other = Visit(resource=held).send(GOOD)
        held.requests[1].finish()
        said = other.out
        held.requests[1].processingFailed(Failure(RuntimeError("no")))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)
        self.assertEqual((visit.out, other.out), (b"", said))


class PipeliningTests(SilentCase):
    """Requests that are sent without waiting for the answers."""

    def test_good_then_bad(self) -> None:
        """A good request is answered, what follows only closes the connection."""
        for name, data in {**UNFIT, **UNAUTHORISED}.items():
            visit = Visit().send(GOOD + data + GOOD)
            self.assertEqual([code for code, _ in visit.answers()], [200], name)
            self.assertTrue(visit.closed, name)
            self.assertEqual(visit.end(), [], name)

    def test_good_then_bad_while_it_is_answered(self) -> None:
        """What follows waits for the answer under way, which goes out whole before the close."""
        for name, data in (("wrong", WRONG), ("garbage", b"\0\1\2"), ("TLS", TLS_HELLO)):
            held = Held()
            visit = Visit(resource=held).send(GOOD, data)
            visit.clock.advance(3600)
            self.assertEqual((visit.out, visit.closed), (b"", False), name)
            held.requests[0].setHeader(b"Content-Length", b"4")
            held.requests[0].write(b"true")
            held.requests[0].finish()
            self.assertEqual(visit.answers(), [(200, True)], name)
            self.assertTrue(visit.closed, name)
            self.assertEqual(visit.end(), [], name)

    def test_order(self) -> None:
        """Answers come in the order of the requests, also after bodies, one at a time."""
        held = Held()
        chunked = post(CHUNKED, body=b"3\r\none\r\n0\r\n\r\n")
        counted = post(b"Content-Length: 3", body=b"two")
        visit = Visit(resource=held).send(chunked + counted + chunked + GOOD)
        for number in range(4):
            self.assertEqual(len(held.requests), number + 1)
            request = held.requests[number]
            body = json.dumps(request.content.read().decode("ascii")).encode("ascii")
            request.setHeader(b"Content-Length", b"%d" % len(body))
            request.write(body)
            request.finish()
        self.assertEqual([body for _, body in visit.answers()], ["one", "two", "one", ""])

    def test_many(self) -> None:
        """Thousands of pipelined requests are all answered, without deep recursion."""
        self.assertEqual(len(Visit().send(GOOD * 3000).answers()), 3000)

    def test_blank_lines_between(self) -> None:
        """One blank line before each request is forgiven."""
        self.assertEqual(len(Visit().send((b"\r\n" + GOOD) * 3).answers()), 3)

    def test_after_the_close(self) -> None:
        """What still comes in after the close is not read, good as it may be."""
        visit = Visit().send(WRONG)
        visit.channel.dataReceived(GOOD)
        self.assertEqual(len(visit.asked), 1)
        self.assertSilent(visit, "after the close")

    def test_body_that_looks_like_a_request(self) -> None:
        """A body is never read as a request, even one that is itself a good one."""
        visit = Visit().send(post(b"Content-Length: %d" % len(GOOD), body=GOOD) + WRONG)
        self.assertEqual(len(visit.answers()), 1)
        self.assertEqual(len(visit.asked), 2)

    def test_too_much_is_held_up(self) -> None:
        """A peer that sends on and on during an answer is not read any further."""
        visit = Visit(resource=Held()).send(GOOD, b"a" * 20_000)
        self.assertEqual(visit.wire.producerState, "paused")

    def test_nothing_after_a_last_answer(self) -> None:
        """After an answer that closes the connection, a further good request is not read."""
        visit = Visit().send(head(b"GET /ok HTTP/1.1", b"Connection: close", token=TOKEN) + GOOD)
        self.assertEqual(len(visit.answers()), 1)
        self.assertTrue(visit.closed)

    def test_lines_that_were_not_vetted(self) -> None:
        """Should bytes reach Twisted's parser by another way, they are not read either."""
        visit = Visit(lambda head: True)
        visit.channel.lineReceived(b"GET /ok HTTP/1.1")
        self.assertSilent(visit, "line")

    def test_twisted_refuses(self) -> None:
        """Should Twisted find fault with a request that was let in, it says nothing either."""
        visit = Visit(lambda head: True)
        visit.channel.maxHeaders = 1
        self.assertSilent(visit.send(head(b"GET /ok HTTP/1.1", b"A: b", b"C: d")), "refused")


class StreamTests(SilentCase):
    """Answers that last."""

    def test_long_answer(self) -> None:
        """An answer that goes on for hours is not cut off, and the connection used again."""
        held = Held()
        visit = Visit(resource=held).send(GOOD)
        for number in range(100):
            held.requests[0].write(b"data: %d\n\n" % number)
            visit.clock.advance(3600)
        self.assertFalse(visit.closed)
        self.assertIn(b"data: 99\n\n", visit.out)
        held.requests[0].finish()
        visit.wire.clear()
        visit.send(GOOD)
        self.assertEqual(len(held.requests), 2)

    def test_client_goes(self) -> None:
        """The resource is told when the client goes during its answer."""
        held = Held()
        visit = Visit(resource=held).send(GOOD)
        held.requests[0].write(b"data: 1\n\n")
        gone = held.requests[0].notifyFinish()
        self.assertNoResult(gone)
        self.assertEqual(visit.end(), [])
        self.failureResultOf(gone, ConnectionDone)

    def test_closed_by_the_resource(self) -> None:
        """A resource that closes the connection and then finishes does no harm."""
        held = Held()
        visit = Visit(resource=held).send(GOOD)
        held.requests[0].loseConnection()
        held.requests[0].finish()
        self.assertTrue(visit.closed)
        self.assertEqual(visit.end(), [])


class BodyLimitTests(SilentCase):
    """Bodies over the limit."""

    def assertTooLarge(self, visit: Visit) -> None:
        """Check that the answer is 413, says that the connection closes, and why."""
        [(code, said)] = visit.answers()
        self.assertEqual((code, said["success"]), (413, False))
        self.assertIn("5 bytes", said["error"])
        self.assertIn(b"\r\nConnection: close\r\n", visit.out)

    def test_announced(self) -> None:
        """A length over the limit is refused at once, with no 100 before."""
        for size in (b"6", b"9" * 18):
            visit = Visit(max_body=5).send(
                post(b"Content-Length: " + size, b"Expect: 100-continue")
            )
            self.assertTooLarge(visit)

    def test_chunked(self) -> None:
        """Chunks that add up to more than the limit are refused when that is known."""
        visit = Visit(max_body=5).send(post(CHUNKED), b"3\r\nabc\r\n2\r\nde\r\n", b"1")
        self.assertEqual(visit.out, b"")
        self.assertTooLarge(visit.send(b"\r\n"))
        self.assertTooLarge(Visit(max_body=5).send(post(CHUNKED), b"F" * 16 + b"\r\n"))

    def test_just_at_the_limit(self) -> None:
        """A body of just the limit is taken."""
        for data in (
            post(b"Content-Length: 5", body=b"hello"),
            post(CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"),
        ):
            self.assertEqual(Visit(max_body=5).send(data).answers()[0][1]["body"], "hello")

    def test_default(self) -> None:
        """The default limit is 8 MiB."""
        size = 8 * 1024 * 1024
        self.assertEqual(Visit().send(post(b"Content-Length: %d" % size)).out, b"")
        self.assertEqual(
            Visit().send(post(b"Content-Length: %d" % (size + 1))).answers()[0][0], 413
        )

    def test_rest_is_thrown_away(self) -> None:
        """The rest of the body is not kept, nor read as a request; then the connection closes."""
        visit = Visit(max_body=5).send(post(b"Content-Length: 60"), *[GOOD] * 100)
        self.assertTooLarge(visit)
        self.assertEqual(visit.channel._unread, b"")
        self.assertFalse(visit.closed)
        visit.clock.advance(2.1)
        self.assertTrue(visit.closed)
        self.assertEqual(visit.end(), [])

    def test_client_that_stays(self) -> None:
        """A client that does not go after the refusal is cut off."""
        visit = Visit(max_body=5).send(post(CHUNKED, body=b"6\r\n"))
        visit.clock.advance(2.1)
        visit.clock.advance(60)
        self.assertTrue(visit.wire.disconnected)
        self.assertEqual(visit.end(), [])

    def test_after_an_answer(self) -> None:
        """A refused body leaves the answers before it whole."""
        visit = Visit(max_body=5).send(GOOD + post(b"Content-Length: 6"))
        self.assertEqual([code for code, _ in visit.answers()], [200, 413])

    def test_kept_in_memory(self) -> None:
        """A large body is kept in memory, not in a file."""
        held = Held()
        body = b"a" * 200_000
        Visit(resource=held).send(post(b"Content-Length: %d" % len(body), body=body))
        content = held.requests[0].content
        self.assertIsInstance(content, BytesIO)
        self.assertEqual(content.read(), body)


class AcceptTests(SilentCase):
    """Who may connect at all."""

    def taken(self, site: SilentSite, host: str) -> bool:
        """Connect from an address; return whether the connection was not closed at once."""
        kind = IPv6Address if ":" in host else IPv4Address
        wire = Wire(kind("TCP", host, 1))
        site.buildProtocol(wire.getPeer()).makeConnection(wire)
        self.assertEqual(wire.value(), b"")
        return not wire.disconnecting

    def site(self, allow: Sequence[str] = (), **options: Any) -> SilentSite:
        """Return a site open to networks."""
        networks: list[IPv4Network | IPv6Network] = [ip_network(n) for n in allow]
        return SilentSite(Echo(), by_token, Clock(), allow=networks, **options)

    def test_no_list(self) -> None:
        """Without a list anybody may connect."""
        self.assertTrue(self.taken(self.site(), "198.51.100.1"))
        self.assertTrue(self.taken(self.site(), "2001:db8::1"))

    def test_list(self) -> None:
        """With a list, only peers within it may."""
        site = self.site(["192.0.2.0/24", "2001:db8::/32", "fe80::/10"])
        for host in ("192.0.2.9", "2001:db8::1", "::ffff:192.0.2.9", "fe80::1%eth0"):
            self.assertTrue(self.taken(site, host), host)
        for host in ("192.0.3.1", "2001:db9::1", "::ffff:192.0.3.1", "::1"):
            self.assertFalse(self.taken(site, host), host)

    def test_mapped_only(self) -> None:
        """A list of IPv4 networks does not open to IPv6 by the whole mapped block."""
        self.assertFalse(self.taken(self.site(["192.0.2.0/24"]), "::ffff:198.51.100.1"))

    def test_no_address(self) -> None:
        """A peer without an address is in no network."""
        wire = Wire(UNIXAddress(b"/run/a"))
        self.site(["0.0.0.0/0", "::/0"]).buildProtocol(wire.getPeer()).makeConnection(wire)
        self.assertTrue(wire.disconnecting)

    def test_cap(self) -> None:
        """Over the cap a connection is closed at once; when one goes, there is room again."""
        visit = Visit(max_connections=2)
        other, _ = visit.another()
        self.assertFalse(self.taken(visit.site, "192.0.2.1"))
        self.assertFalse(self.taken(visit.site, "192.0.2.1"))
        other.connectionLost(Failure(ConnectionDone()))
        self.assertTrue(self.taken(visit.site, "192.0.2.1"))
        self.assertEqual([code for code, _ in visit.send(GOOD).answers()], [200])

    def test_cap_is_logged_once(self) -> None:
        """Reaching the cap is said once, not at every connection."""
        events: list[Any] = []
        self.patch(silence, "log", Logger(observer=events.append))
        site = self.site(max_connections=1)
        for _ in range(5):
            self.taken(site, "192.0.2.1")
        warnings = [event for event in events if event["log_level"] is LogLevel.warn]
        self.assertEqual([event["count"] for event in warnings], [1])

    def test_no_http2(self) -> None:
        """TLS is offered HTTP/1.1 only."""
        self.assertEqual(self.site().acceptableProtocols(), [b"http/1.1"])

    def test_no_timers_of_its_own(self) -> None:
        """A site that listens has no timer, and none after it stops."""
        clock = Clock()
        site = SilentSite(Echo(), by_token, clock)
        site.doStart()
        self.assertEqual(clock.getDelayedCalls(), [])
        site.doStop()
        self.assertEqual(clock.getDelayedCalls(), [])


class LogTests(SilentCase):
    """What the log says."""

    def logged(self, data: bytes) -> list[Any]:
        """Return the events of a visit, as (level, text)."""
        events: list[Any] = []
        self.patch(silence, "log", Logger(observer=events.append))
        Visit().send(data)
        return [(e["log_level"], e["log_format"].format(**e)) for e in events]

    def test_served(self) -> None:
        """A request is logged at debug level, without its query or its token."""
        [(level, text)] = self.logged(head(b"GET /ok?key=secret HTTP/1.1", token=TOKEN))
        self.assertIs(level, LogLevel.debug)
        self.assertIn("192.0.2.7 b'GET' b'/ok': 200", text)
        self.assertNotIn("secret", text)
        self.assertNotIn("token", text)

    def test_refused(self) -> None:
        """A refusal is logged at debug level with its reason; scanners do not fill the log."""
        for data, why in (
            (WRONG, "not authorised"),
            (TLS_HELLO, "control"),
            (b"GET /\r\n", "line"),
        ):
            [(level, text)] = self.logged(data)
            self.assertIs(level, LogLevel.debug)
            self.assertIn(why, text)
            self.assertNotIn("token", text)


# Without the token: two halves, or an edit, might make a whole of it.
BASES = [
    data.replace(TOKEN, b"Bearer guessed")
    for data in (*UNFIT.values(), *UNAUTHORISED.values(), *HALF.values(), GOOD)
    if len(data) < 2000
]
EDITS = st.tuples(
    st.sampled_from(["cut", "insert", "replace", "repeat"]),
    st.integers(0, 600),
    st.one_of(
        st.binary(max_size=6),
        st.sampled_from(
            [b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b":", b"\0", b"GET ", b"\r\n "]
        ),
    ),
)


def edited(data: bytes, edits: Sequence[tuple[str, int, bytes]]) -> bytes:
    """Return `data` with some edits."""
    for kind, place, text in edits:
        at = place % (len(data) + 1)
        if kind == "cut":
            data = data[:at] + data[at + len(text) + 1 :]
        elif kind == "insert":
            data = data[:at] + text + data[at:]
        elif kind == "replace":
            data = data[:at] + text + data[at + len(text) :]
        else:
            data = data[:at] + data[max(0, at - 20) :]
    return data


def segments(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Return `data` cut at the places."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


QUICK = settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
PLACES = st.lists(st.integers(0, 2000), max_size=8)


class FuzzTests(SilentCase):
    """Inputs nobody thought of."""

    @QUICK
    @given(
        st.lists(st.sampled_from(BASES), min_size=1, max_size=3),
        st.lists(EDITS, max_size=4),
        PLACES,
        st.sampled_from([0, 0.5, 3]),
    )
    def test_nothing_leaks(
        self, bases: list[bytes], edits: list[Any], places: list[int], pause: float
    ) -> None:
        """Without the credential no input, however mangled, cut or slow, gets a byte out."""
        visit = Visit().send(*segments(edited(b"".join(bases), edits), places), pause=pause)
        visit.clock.advance(max(0, 10 - visit.clock.seconds()))
        self.assertSilent(visit, repr(bases))
        self.assertEqual(self.flushLoggedErrors(), [])

    @QUICK
    @given(st.binary(max_size=400), PLACES)
    def test_noise(self, data: bytes, places: list[int]) -> None:
        """Noise gets nothing, even where the policy would let in all."""
        visit = Visit(lambda head: True).send(*segments(data, places))
        visit.clock.advance(10)
        self.assertSilent(visit, repr(data))

    @QUICK
    @given(st.sampled_from(BASES), st.lists(EDITS, max_size=3), PLACES)
    @example(b"", [], [])
    def test_after_a_good_request(self, base: bytes, edits: list[Any], places: list[int]) -> None:
        """After an answer a mangled request without the credential gets nothing more."""
        visit = Visit().send(GOOD)
        said = visit.out
        visit.send(*segments(edited(base, edits), places))
        visit.clock.advance(60)
        self.assertEqual(visit.out, said)
        self.assertTrue(visit.closed)
        self.assertEqual(visit.end(), [])

    @QUICK
    @given(
        st.lists(
            st.one_of(
                st.just(GOOD),
                st.binary(max_size=40).map(lambda b: post(b"Content-Length: %d" % len(b), body=b)),
                st.lists(st.binary(min_size=1, max_size=20), max_size=3).map(
                    lambda parts: post(
                        CHUNKED,
                        body=b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n",
                    )
                ),
            ),
            min_size=1,
            max_size=4,
        ),
        PLACES,
    )
    def test_cuts_do_not_matter(self, requests: list[bytes], places: list[int]) -> None:
        """Authorised requests are all answered, and the same however the stream is cut."""
        data = b"".join(requests)
        whole, cut = Visit().send(data), Visit().send(*segments(data, places))
        self.assertEqual([code for code, _ in whole.answers()], [200] * len(requests))
        self.assertEqual(cut.out, whole.out)

    @QUICK
    @given(
        st.sampled_from([GOOD, post(b"Content-Length: 5", body=b"hello"), post(CHUNKED)]),
        st.lists(EDITS, max_size=4),
        PLACES,
    )
    def test_mangled_with_the_credential(
        self, base: bytes, edits: list[Any], places: list[int]
    ) -> None:
        """Mangled authorised requests give proper answers or a close, never an error."""
        data = edited(base, edits)
        visit = Visit().send(*segments(data, places))
        self.assertTrue(not visit.out or visit.out.startswith(b"HTTP/1."))
        self.assertNotIn(b" 400 ", visit.out.split(b"\r\n")[0])
        visit.clock.advance(60)
        self.assertTrue(visit.closed)
        self.assertEqual(visit.end(), [])
        self.assertEqual(self.flushLoggedErrors(), [])
