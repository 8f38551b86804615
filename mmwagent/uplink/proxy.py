"""
The way to the master through an HTTP proxy, by the usual variables.

Both doors take it, by CONNECT (RFC 9110, 9.3.6): WebSockets know no other way, and to a proxy that
only sees a tunnel they look the same.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mmwagent.uplink.failures import LinkFailure

DEADLINE = 15.0  # seconds for the proxy's answer
MAX_ANSWER = 16 * 1024

_STATUS_LINE = re.compile(rb"HTTP/1\.\d (\d{3})(?: .*)?", re.DOTALL)


class UnusableProxy(ValueError):
    """The environment names a proxy that cannot be used; str() says why, without its password."""


@frozen
class Proxy:
    """An HTTP proxy. `credentials` are "user:password", if it wants any."""

    host: str
    port: int
    credentials: str | None = field(default=None, repr=False)


def proxy_for(host: str, port: int, secure: bool, environ: Mapping[str, str]) -> Proxy | None:
    """
    Return the proxy that `environ` names for a connection to `host`, None for a direct one.

    https_proxy for TLS, http_proxy otherwise, all_proxy failing that, in small letters or
    capitals, of which the small ones win; no_proxy names the exceptions. Raises UnusableProxy.
    """
    bypass = _variable(environ, "no_proxy")
    if bypass and proxy_bypass_environment(f"{host}:{port}", {"no": bypass}):
        return None
    for name in ("https_proxy" if secure else "http_proxy", "all_proxy"):
        value = _variable(environ, name)
        if value:
            return _parsed(name, value)
    return None


def _variable(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _parsed(name: str, value: str) -> Proxy:
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        host, port = url.hostname, url.port or 80
        # What cannot be said on the wire is told now, not at each dial.
        (host or "").encode("idna"), value.encode()
    except ValueError:
        raise UnusableProxy(f"{name} is no URL of a proxy") from None
    if url.scheme != "http":
        raise UnusableProxy(
            f"{name} names a proxy of the sort {url.scheme}: only http can be used"
        )
    if not host:
        raise UnusableProxy(f"{name} names no host")
    credentials = None
    if url.username is not None:
        credentials = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return Proxy(host, port, credentials)


@implementer(IStreamClientEndpoint)
@frozen
class Tunnel:
    """An endpoint that reaches `host` and `port` through the proxy at `endpoint`."""

    clock: IReactorTime
    endpoint: IStreamClientEndpoint
    proxy: Proxy
    host: str
    port: int

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect, ask for the tunnel, and then speak the protocol of `protocolFactory`."""
        digger = _Digger(self._request(), protocolFactory)
        connecting = self.endpoint.connect(Factory.forProtocol(lambda: digger))
        connecting.addCallback(lambda _: digger.dug)
        return connecting.addTimeout(DEADLINE, self.clock, onTimeoutCancel=_too_late)

    def _request(self) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"CONNECT {host}:{self.port} HTTP/1.1", f"Host: {host}:{self.port}"]
        if self.proxy.credentials is not None:
            encoded = b64encode(self.proxy.credentials.encode()).decode("ascii")
            lines.append(f"Proxy-Authorization: Basic {encoded}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")


def _too_late(result: object, seconds: float) -> Failure:
    return Failure(LinkFailure(f"no way through the proxy within {seconds:.0f} s"))


class _Digger(Protocol):
    """Speaks with the proxy until the tunnel is there, and from then on hands everything on."""

    def __init__(self, request: bytes, factory: IProtocolFactory) -> None:
        self._request = request
        self._factory = factory
        self._head = b""
        self._inner: IProtocol | None = None
        self.dug: Deferred[IProtocol] = Deferred(lambda _: self._fail(LinkFailure("given up")))

    def connectionMade(self) -> None:
        self._transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if end:
            self._answered(head, rest)
        elif len(self._head) > MAX_ANSWER:
            self._fail(LinkFailure("the proxy's answer is too long"))

    def _answered(self, head: bytes, rest: bytes) -> None:
        match = _STATUS_LINE.fullmatch(head.split(b"\r\n", 1)[0])
        if match is None:
            self._fail(LinkFailure("what answers for the proxy is no HTTP proxy"))
        elif not 200 <= int(match[1]) < 300:
            self._fail(LinkFailure(f"the proxy refused the way to the master: {int(match[1])}"))
        else:
            self._open(rest)

    def _open(self, rest: bytes) -> None:
        inner = self._factory.buildProtocol(self._address())
        if inner is None:
            self._fail(LinkFailure("given up"))
            return
        self._inner = inner
        inner.makeConnection(self._transport)
        self.dug.callback(inner)
        if rest:
            inner.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self.dug.called:
            self.dug.errback(LinkFailure("the proxy closed the connection"))

    def _fail(self, failure: LinkFailure) -> None:
        if not self.dug.called:
            self.dug.errback(failure)
        transport = self.transport
        if transport is not None:
            transport.loseConnection()

    @property
    def _transport(self) -> ITransport:
        assert self.transport is not None
        return self.transport

    def _address(self) -> IAddress:
        return self._transport.getPeer()
