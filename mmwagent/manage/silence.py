# mypy: allow-untyped-calls
# (most of twisted.web's own methods carry no annotations)
"""
The door of the management API: who may not come in hears nothing (README, 认证机制).

No byte leaves before the whole header block of a request is checked and authorised, and that for
every request of a connection. The head is read here, strictly (RFC 9112), not by Twisted: its
HTTPChannel answers 400 to anything odd, 100 to `Expect`, and each version of it is odd in its own
way. It gets a request's bytes only once that request is let in, and exactly that request's bytes;
what follows comes back here. So Twisted never sees a line that was not vetted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import BinaryIO
from urllib.parse import quote_from_bytes

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from mmwagent.logs import logger
from mmwagent.manage.heads import (
    MAX_HEAD,
    PRINTABLE,
    REQUEST_LINE,
    ChunkedBody,
    CountedBody,
    RequestHead,
    TooLarge,
    Unfit,
    choose_body,
    head_length,
    read_headers,
)

log = logger()

MAX_BODY = 8 * 1024 * 1024
MAX_CONNECTIONS = 512

HEAD_TIMEOUT = 10.0
"""Seconds for a whole header block, from the connection or from the block's first byte."""
IDLE_TIMEOUT = 60.0
"""Seconds without a byte, between requests or within an authorised body."""
FLUSH_TIMEOUT = 5.0
"""Seconds a peer that was refused may take to read what was already written for it."""
LINGER = 2.0
"""Seconds the rest of a body is thrown away after a 413, so that no RST overtakes the answer."""


def _problem(error: str) -> bytes:
    return json.dumps({"success": False, "error": error}).encode("utf-8")


class SilentRequest(Request):
    """A request whose answers do not tell what serves them."""

    def write(self, data: bytes) -> None:
        """Write a part of the answer; before the first, take out what names Twisted."""
        if not self.startedWriting:
            self.responseHeaders.removeHeader(b"server")
        super().write(data)

    def processingFailed(self, reason: Failure) -> Failure:
        """Log why the resource failed, and say only that it did, in the one shape of errors."""
        log.failure("{method} {path} failed", reason, method=self.method, path=self.path)
        channel = getattr(self, "channel", None)  # None: client gone; no attribute: answered
        if channel is None:
            return reason
        if self.startedWriting:
            channel.loseConnection()  # half an answer cannot be mended
            return reason
        body = _problem("the agent failed on this request; its log says why")
        self.setResponseCode(500)
        self.setHeader(b"content-type", b"application/json")
        self.setHeader(b"content-length", b"%d" % len(body))
        self.write(body)
        self.finish()
        return reason


class SilentChannel(HTTPChannel):
    """
    One connection. A request is read (head), then received (body), then answered.

    Twisted's own timeouts are off: there is one timer, and each step says what it waits for.
    """

    site: SilentSite
    # Never the stricter: the head given to Twisted may be longer than the one received, as its
    # target is percent-encoded.
    MAX_LENGTH = totalHeadersSize = 4 * MAX_HEAD

    _unread = b""
    _seen = 0
    _idle = False  # between an answer and the first byte of the next request
    _blank_line_skipped = False
    _vetted = False  # the lines Twisted is reading are those of an authorised head
    _body: CountedBody | ChunkedBody | None = None  # of the request let in; None: reading a head
    _answering = False
    _deaf = False  # what still comes in is thrown away
    _closing = False
    _timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Start the clock for the first header block."""
        self.site.connections.add(self)
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)  # ends a long answer to a peer that vanished
        super().connectionMade()
        self._wait(self.site.head_timeout, self._late)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the peer, or back from Twisted, that it did not use."""
        if self._deaf:
            return
        self._unread += data
        while self._unread and not self._deaf and self._read():
            pass

    def _read(self) -> bool:
        """Use some of the unread bytes; return False when more are needed first."""
        if self._answering:
            # Twisted keeps them, with back pressure, and hands them back after the answer.
            data, self._unread = self._unread, b""
            super().dataReceived(data)
            return True
        try:
            return self._read_head() if self._body is None else self._read_body(self._body)
        except Unfit as why:
            self._drop(str(why))
        except TooLarge:
            self._refuse_body()
        return False

    def _read_head(self) -> bool:
        if self._idle:
            self._idle = False
            self._wait(self.site.head_timeout, self._late)
        if not self._blank_line_skipped and b"\r\n".startswith(self._unread[:2]):
            # One empty line before a request is forgiven (RFC 9112 section 2.2).
            self._blank_line_skipped = self._unread.startswith(b"\r\n")
            self._unread = self._unread[2:] if self._blank_line_skipped else self._unread
            return self._blank_line_skipped
        length = head_length(self._unread, self._seen)
        self._seen = len(self._unread)
        if not length:
            return False
        block, self._unread = self._unread[:length], self._unread[length:]
        self._seen, self._blank_line_skipped = 0, False
        self._enter(block)
        return True

    def _enter(self, block: bytes) -> None:
        """Let a request in, or not."""
        first, *lines = block[:-4].split(b"\r\n")
        match = REQUEST_LINE.fullmatch(first)
        assert match is not None, "head_length checked it"
        method, target, version = match.groups()
        headers = read_headers(lines)
        hosts = len(headers.getRawHeaders(b"host", []))
        if hosts > 1 or (version == b"1" and not hosts):
            raise Unfit("not one Host header")
        try:
            body = choose_body(headers, version, self.site.max_body)
        except TooLarge:
            body = None  # whether to tell is for the policy
        if not self._authorised(RequestHead(method, target, headers, self._peer())):
            raise Unfit("not authorised")
        if body is None:
            raise TooLarge
        self._body = body
        self._wait(self.site.idle_timeout, self._late)
        # The real master does not escape what it puts in a target.
        safe = quote_from_bytes(target, PRINTABLE).encode("ascii")
        line = b"%b %b HTTP/1.%b" % (method, safe, version)
        self._vetted = True
        try:
            super().dataReceived(b"\r\n".join([line, *lines, b"", b""]))
        finally:
            self._vetted = False

    def _authorised(self, head: RequestHead) -> bool:
        try:
            # No truthy thing will do: a policy that returns a Deferred must not open the door.
            return self.site.authorise(head) is True
        except Exception:
            log.failure("the authorisation of a request failed, so it is refused")
            return False

    def _read_body(self, body: CountedBody | ChunkedBody) -> bool:
        if body.done():
            raise Unfit("Twisted expects more body than there is")
        mine = body.take(self._unread)
        data, self._unread = self._unread[:mine], self._unread[mine:]
        self._wait(self.site.idle_timeout, self._late)
        super().dataReceived(data)
        return True

    def _refuse_body(self) -> None:
        assert self.transport is not None
        body = _problem(f"the request body is over the limit of {self.site.max_body} bytes")
        self.transport.write(
            b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        self._deaf, self._unread = True, b""
        self._wait(LINGER, self.loseConnection)

    def lineReceived(self, line: bytes) -> bool | None:
        """Pass a line to Twisted's parser, if it is one of a head that was let in."""
        if not self._vetted:
            self._drop("a line that was not vetted")
            return True  # stops LineReceiver
        super().lineReceived(line)
        return None

    def allContentReceived(self) -> None:
        """Have the request answered, for as long as that takes."""
        self._answering = True
        self._wait(None)
        super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """Go on to the next request, after an answer."""
        if self._closing:
            self.requests.remove(request)
            return
        self._answering, self._body, self._idle = False, None, True
        self._wait(self.site.idle_timeout, self._late)
        super().requestDone(request)

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted's only automatic refusal; should a version rename it, only callers who were
        # let in can see it.
        self._drop("Twisted refuses the request")

    def _late(self) -> None:
        self._drop("too slow")

    def _drop(self, why: str) -> None:
        """Close without a word, after what is already written."""
        log.debug("closing {peer} unanswered: {why}", peer=self._peer(), why=why)
        self._close(FLUSH_TIMEOUT)

    def loseConnection(self) -> None:
        """Close after what is written."""
        self._close(self.site.idle_timeout)

    def _close(self, flush_timeout: float) -> None:
        if self._closing:
            return
        self._closing = self._deaf = True
        self._unread = b""
        self._wait(flush_timeout, self._abort)
        super().loseConnection()

    def _abort(self) -> None:
        assert self.transport is not None
        self.transport.abortConnection()  # type: ignore[attr-defined]

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Forget the connection; requests being answered are told."""
        self._closing = self._deaf = True
        self._wait(None)
        self.site.connections.discard(self)
        super().connectionLost(reason)

    def _wait(self, seconds: float | None, then: Callable[[], None] | None = None) -> None:
        """Replace what the one timer is for."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if seconds is not None and then is not None:
            self._timer = self.site.reactor.callLater(seconds, then)

    def _peer(self) -> str:
        assert self.transport is not None
        address = _ip(self.transport.getPeer())
        return "" if address is None else str(address)


class Refused(Protocol):
    """A connection that is closed as soon as it is made."""

    def connectionMade(self) -> None:
        """Close it."""
        assert self.transport is not None
        self.transport.loseConnection()


def _ip(address: IAddress | None) -> IPv4Address | IPv6Address | None:
    """Return the IP address of a peer, an IPv4-mapped one as IPv4; None where it has none."""
    host = getattr(address, "host", None)
    if not isinstance(host, str):
        return None
    try:
        found = ip_address(host.partition("%")[0])  # without the interface of a link-local one
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


class SilentSite(Site):
    """
    A site that answers only requests `authorise` returns True for; any other one is a closed door.

    `authorise` is asked once a request, after its whole header block and before anything else;
    what it raises is logged and counts as False. `allow` are the networks that may connect at all
    (none: any); a peer without an IP address is in none of them. Of an authorised request, a body
    over `max_body` bytes is answered with 413. Timeouts are in seconds.
    """

    requestFactory = SilentRequest

    def __init__(
        self,
        resource: IResource,
        authorise: Callable[[RequestHead], bool],
        clock: IReactorTime,
        *,
        max_body: int = MAX_BODY,
        max_connections: int = MAX_CONNECTIONS,
        allow: Sequence[IPv4Network | IPv6Network] = (),
        head_timeout: float = HEAD_TIMEOUT,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        super().__init__(resource, reactor=clock)
        self.timeOut = None  # the channel has its own timer
        self.authorise = authorise
        self.max_body = max_body
        self.max_connections = max_connections
        self.head_timeout = head_timeout
        self.idle_timeout = idle_timeout
        self.connections: set[SilentChannel] = set()
        self._allow = tuple(allow)
        self._full = False

    # Not Twisted's default, which would change over to HTTP/2 where TLS negotiated it.
    protocol = SilentChannel  # type: ignore[assignment]

    def acceptableProtocols(self) -> list[bytes]:
        """Return what TLS may negotiate: HTTP/1.1 and nothing else."""
        return [b"http/1.1"]

    def buildProtocol(  # type: ignore[override]
        self, addr: IAddress | None
    ) -> SilentChannel | Refused:
        """Return a channel for a new connection, or what closes it at once."""
        if self._allow and not self._allowed(_ip(addr)):
            log.debug("closing {peer}: not in an allowed network", peer=addr)
            return Refused()
        full = len(self.connections) >= self.max_connections
        if full and not self._full:
            log.warn("{count} connections are open: no more are taken", count=self.max_connections)
        self._full = full
        if full:
            return Refused()
        channel: SilentChannel = super().buildProtocol(addr)
        return channel

    def _allowed(self, address: IPv4Address | IPv6Address | None) -> bool:
        return address is not None and any(address in network for network in self._allow)

    def getContentFile(self, length: int | None) -> BinaryIO:
        """
        Return where a body is kept: in memory, as it has a limit.

        Twisted would put one over 100 kB, maybe with a private key in it, on the disk.
        """
        return BytesIO()

    def startFactory(self) -> None:
        """Start nothing: Twisted would wake up each second for the date of its access log."""

    def stopFactory(self) -> None:
        """Stop nothing."""

    def log(self, request: Request) -> None:  # type: ignore[override]
        """Say at debug level what was answered; without the query."""
        log.debug(
            "{peer} {method} {path}: {code}, {size} bytes",
            peer=str(_ip(request.getClientAddress())),
            method=request.method,
            path=request.path,
            code=request.code,
            size=request.sentLength,
        )
