"""Why the master cannot be had, in words for the log and in kinds for the machine."""

from __future__ import annotations

from enum import Enum

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
    TCPTimedOutError,
    TimeoutError,
)
from twisted.python.failure import Failure
from twisted.web.client import RequestTransmissionFailed, ResponseFailed, ResponseNeverReceived


class Kind(Enum):
    """What sort of failure: it decides how long to wait and whether another way could help."""

    UNREACHABLE = "no working connection, or an answer that is no answer"
    UNAUTHORISED = "reachable, but this token or agent is refused"
    THROTTLED = "reachable, but asked to come back later"


class LinkFailure(Exception):
    """
    An attempt or a connection that failed.

    `retry_after` is the number of seconds the master asked to wait, where it did. `everywhere`
    tells that another door to the same master would fail alike, and be counted as one try more.
    """

    def __init__(
        self,
        reason: str,
        kind: Kind = Kind.UNREACHABLE,
        retry_after: float | None = None,
        everywhere: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.retry_after = retry_after
        self.everywhere = everywhere


def of_status(
    status: int, phrase: str, location: str | None = None, retry_after: str | None = None
) -> LinkFailure:
    """Return the failure that an HTTP status other than the wanted one means."""
    said = f"the master answered {status} {phrase}".rstrip()
    if status == 429:
        return LinkFailure(said, Kind.THROTTLED, _seconds(retry_after), everywhere=True)
    if status in (401, 403):
        # Everywhere, unless it was a proxy that lets no WebSocket through: HTTP is worth a try.
        return LinkFailure(f"{said}: it refuses this token or agent", Kind.UNAUTHORISED)
    if 300 <= status < 400:
        return LinkFailure(f"{said}: it wants to send us to {location}; set master_server to that")
    return LinkFailure(said, retry_after=_seconds(retry_after))


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After header, None for a date or nothing of use."""
    text = (retry_after or "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 8 else None


_BUSY = ("too many", "rate limit", "try again", "频繁", "稍后")
_BROKEN = ("internal", "database", "server error", "unavailable", "timeout")


def of_refusal(message: str) -> LinkFailure:
    """Return the failure that an `auth_result` without success means, by its text."""
    said = f"the master refused authentication: {message or 'it gave no reason'}"
    low = message.lower()
    if any(word in low for word in _BUSY):
        return LinkFailure(said, Kind.THROTTLED, everywhere=True)
    if any(word in low for word in _BROKEN):
        return LinkFailure(said)
    return LinkFailure(said, Kind.UNAUTHORISED, everywhere=True)


def of(failure: Failure) -> LinkFailure:
    """Return `failure`, whatever it is, as a LinkFailure."""
    error = failure.value
    if isinstance(error, LinkFailure):
        return error
    return LinkFailure(_described(error))


def _described(error: BaseException | None) -> str:
    if isinstance(error, ResponseNeverReceived | RequestTransmissionFailed | ResponseFailed):
        # These wrap what really happened.
        reasons = [_described(reason.value) for reason in error.reasons]
        return "; ".join(dict.fromkeys(reasons)) or "the connection broke"
    if isinstance(error, VerificationError):
        return "the master's certificate is for another name"
    if isinstance(error, SSL.Error):
        return f"TLS failed: {_tls_words(error)}"
    if isinstance(error, DNSLookupError):
        return f"the master's name cannot be resolved: {error}"
    if isinstance(error, ConnectionRefusedError):
        return "the master's host refuses the connection"
    if isinstance(error, TCPTimedOutError | TimeoutError | TimedOut):
        return "no answer in time"
    if isinstance(error, ConnectionDone):
        return "the master closed the connection"
    if isinstance(error, ConnectionClosed):
        return "the connection broke"
    if isinstance(error, CancelledError):
        return "given up"
    if isinstance(error, ConnectError):
        return f"no connection: {error}"
    return f"{type(error).__name__}: {error}"


def _tls_words(error: SSL.Error) -> str:
    details = error.args[0] if error.args else ()
    words = [str(detail[-1]) for detail in details if detail] if isinstance(details, list) else []
    return "; ".join(words) or "the connection was cut in the handshake"
