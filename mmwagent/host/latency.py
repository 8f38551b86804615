"""
How long a TCP connection to each of many names takes (README, 域名延迟探测).

One implementation for the WebSocket's order and the management API. Names are resolved by DNS
queries of our own in the reactor, not by the blocking resolver of the system: a hundred names that
nobody answers for would occupy every thread there is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from ipaddress import ip_address
from itertools import islice
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import (
    Deferred,
    DeferredList,
    DeferredSemaphore,
    gatherResults,
    succeed,
)
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

MOST = 200  # README: 最多 200 个域名
PORT = 443
AT_ONCE = 200  # connections under way
LONGEST_NAME = 253  # characters (RFC 1035, 2.3.4)
SLACK = 0.8  # seconds beyond the timeout for names, so that a batch fits what the master waits

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


@frozen
class Target:
    """What to connect to: `domain` as it is reported, `host` and `port`."""

    domain: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class NoTarget(ValueError):
    """A text that names nothing to connect to."""


def parse_target(text: str) -> Target:
    """
    Return the target that `text` names: a host name or an address, perhaps with a port.

    A scheme, user, path, a leading "*." and the dot at the end are left away, capitals made small
    and international names ASCII. Raises NoTarget.
    """
    host, port = _split(_bare(text))
    if not 0 < port < 65536:
        raise NoTarget("the port must be from 1 to 65535")
    host = host.removeprefix("*.").rstrip(".").lower()
    return Target(host, _checked(host), port)


def _bare(text: str) -> str:
    authority = re.split(r"[/?#]", _SCHEME.sub("", text.strip()), maxsplit=1)[0]
    return authority.rpartition("@")[2]


def _split(authority: str) -> tuple[str, int]:
    match = re.fullmatch(r"\[([^\]]*)\](?::(\d{1,5}))?|([^:\[\]]*)(?::(\d{1,5}))?", authority)
    if match is None:
        # No brackets and several colons: an IPv6 address without a port.
        return authority, PORT
    literal, its_port, name, port = match.groups()
    return literal if literal is not None else name, int(its_port or port or PORT)


def _checked(host: str) -> str:
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if len(host) > LONGEST_NAME:
        # Before it is made ASCII: that takes minutes for a huge one.
        raise NoTarget("no host name")
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        raise NoTarget("no host name") from None
    labels = name.split(".")
    if len(name) > LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise NoTarget("no host name")
    if labels[-1].isdigit():
        raise NoTarget("no address")
    return name


@frozen
class Latency:
    """The outcome for one name: `latency_ms` is that of the TCP handshake, 0 without success."""

    domain: str
    target: str
    success: bool
    latency_ms: int
    error: str

    def fields(self) -> dict[str, Any]:
        """Return it as the wire has it, every field always there."""
        return {
            "domain": self.domain,
            "target": self.target,
            "success": self.success,
            "latency_ms": self.latency_ms,
            "error": self.error,
            "nginx_ssl_port": 0,
        }


def clamp_timeout(timeout_ms: int) -> float:
    """Return the seconds that a connection may take: 2 by default, from 0.2 to 10."""
    return min(10_000, max(200, timeout_ms or 2000)) / 1000


Resolve = Callable[[str], Deferred[Sequence[str]]]
Connect = Callable[[str, int, float], IStreamClientEndpoint]


@define
class Prober:
    """
    Probes batches of names.

    `resolve` gives the addresses of a host name, `connect` an endpoint for address, port and
    timeout in seconds.
    """

    clock: IReactorTime
    resolve: Resolve
    connect: Connect
    _at_once: DeferredSemaphore = field(factory=partial(DeferredSemaphore, AT_ONCE), init=False)

    def probe(self, texts: Iterable[str], timeout_ms: int) -> Deferred[list[Latency]]:
        """
        Connect to each of `texts` once, all at the same time, and return the outcomes in order.

        Twice the same target is probed once, and no more than MOST are. The whole batch, names
        included, ends SLACK seconds after the timeout. Never fails.
        """
        timeout = clamp_timeout(timeout_ms)
        wanted = islice(_distinct(texts), MOST)
        return gatherResults([self._outcome(item, timeout) for item in wanted])

    def _outcome(self, item: Target | Latency, timeout: float) -> Deferred[Latency]:
        if isinstance(item, Latency):
            return succeed(item)
        attempt = _Attempt(self, item, timeout)
        running: Deferred[float] = self._at_once.run(
            lambda: Deferred.fromCoroutine(attempt.seconds())
        )
        running.addTimeout(timeout + SLACK, self.clock)
        return running.addCallbacks(attempt.succeeded, attempt.failed)


@define
class _Attempt:
    _prober: Prober
    _target: Target
    _timeout: float
    _resolved: bool = False
    _late: str = "too many other probes are under way"

    async def seconds(self) -> float:
        """Return how long the handshake took, the name's resolution not counted."""
        addresses = await self._addresses()
        self._resolved = True
        self._late = f"no answer within {self._timeout * 1000:.0f} ms"
        started = self._prober.clock.seconds()
        await self._connected(addresses)
        return self._prober.clock.seconds() - started

    async def _addresses(self) -> Sequence[str]:
        if _is_address(self._target.host):
            return [self._target.host]
        self._late = "the name was not resolved in time"
        addresses = await self._prober.resolve(self._target.host)
        if not addresses:
            raise NoTarget("the name has no address")
        return addresses

    async def _connected(self, addresses: Sequence[str]) -> None:
        """Connect to the first address of each family at once; one that answers is enough."""
        families = {ip_address(address).version: address for address in reversed(addresses)}
        trying = [self._connect(address) for address in families.values()]
        # A success gives (result, index), a list means that all have failed.
        outcome = await DeferredList(trying, fireOnOneCallback=True, consumeErrors=True)
        for one in trying:
            one.cancel()
        if isinstance(outcome, list):
            raise outcome[0][1].value

    def _connect(self, address: str) -> Deferred[None]:
        endpoint = self._prober.connect(address, self._target.port, self._timeout)
        connecting: Deferred[Any] = endpoint.connect(Factory.forProtocol(Protocol))
        return connecting.addCallback(lambda protocol: protocol.transport.abortConnection())

    def succeeded(self, seconds: float) -> Latency:
        return self._latency(True, max(1, round(seconds * 1000)), "")

    def failed(self, failure: Failure) -> Latency:
        return self._latency(False, 0, self._words(failure))

    def _latency(self, success: bool, latency_ms: int, error: str) -> Latency:
        target = self._target
        return Latency(target.domain, str(target), success, latency_ms, error)

    def _words(self, failure: Failure) -> str:
        # An endpoint has words of its own for being given up.
        if failure.check(TimedOut, TimeoutError, ConnectingCancelledError):
            return self._late
        if not self._resolved:
            return "the name cannot be resolved"
        if failure.check(ConnectionRefusedError):
            return "connection refused"
        return failure.getErrorMessage()


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _distinct(texts: Iterable[str]) -> Iterator[Target | Latency]:
    """Give each target once; what names none gives its outcome right away."""
    seen: set[str] = set()
    for text in texts:
        try:
            item: Target | Latency = parse_target(text)
            key = str(item)
        except NoTarget as problem:
            item = Latency(text, "", False, 0, str(problem))
            key = text
        if key not in seen:
            seen.add(key)
            yield item
