"""
What a test can make the stand-in master do wrong, and the board that scripts it.

A fault is scripted for every agent or for one token, for the next N times or until cleared. Where
several would apply, the one scripted first does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from attrs import Attribute, define, field, fields_dict, frozen, validators

_AnyFault = TypeVar("_AnyFault", bound="Fault")


def _status(_: object, attribute: Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 200 <= value < 600:
        raise ValueError(f"{attribute.name} is {value!r}; it must be a status from 200 to 599")


def _seconds(_: object, attribute: Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ValueError(f"{attribute.name} is {value!r}; it must be seconds from 0")


def _count(_: object, attribute: Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{attribute.name} is {value!r}; it must be a whole number from 0")


_text = validators.instance_of(str)
_endpoint = validators.optional(validators.in_(("traffic", "speed", "heartbeat", "token/refresh")))


@frozen
class Fault:
    """Base of the faults below; they are plain values."""

    name: ClassVar[str]

    def fits(self, endpoint: str) -> bool:
        """Tell whether the fault is about this push endpoint ("traffic"), or about any."""
        return getattr(self, "endpoint", None) in (None, endpoint)


@frozen
class RefuseUpgrade(Fault):
    """
    Answer the WebSocket upgrade with an HTTP status; a redirect needs `location`.

    The master does not know who asks before `auth`: scripted for one token it applies only to
    an upgrade that carries that token in a header.
    """

    name = "refuse-upgrade"
    status: int = field(default=500, validator=_status)
    retry_after: int | None = field(default=None, validator=validators.optional(_count))
    location: str | None = field(default=None, validator=validators.optional(_text))


@frozen
class SilentUpgrade(Fault):
    """Take the connection and the upgrade request, and say nothing. Tokens as above."""

    name = "silent-upgrade"


@frozen
class RefuseAuth(Fault):
    """Answer `auth` with a failure of this text, whatever the token."""

    name = "refuse-auth"
    message: str = field(default="Invalid token", validator=_text)


@frozen
class SilentAuth(Fault):
    """Never answer `auth`."""

    name = "silent-auth"


@frozen
class DelayAuth(Fault):
    """Look at `auth` only after so many seconds."""

    name = "delay-auth"
    seconds: float = field(default=5, validator=_seconds)


@frozen
class DropSession(Fault):
    """Cut a session with no close frame, after N messages or N seconds since `auth`."""

    name = "drop-session"
    messages: int | None = field(default=None, validator=validators.optional(_count))
    seconds: float | None = field(default=None, validator=validators.optional(_seconds))


@frozen
class StopReading(Fault):
    """Leave a session half open: after N messages since `auth` read and answer nothing."""

    name = "stop-reading"
    messages: int = field(default=0, validator=_count)


@frozen
class DelayAnswers(Fault):
    """Send each WebSocket answer so many seconds late."""

    name = "delay-answers"
    seconds: float = field(default=5, validator=_seconds)


@frozen
class AnswerPush(Fault):
    """Answer an HTTP push with this status. With `taken` the report is counted all the same."""

    name = "answer-push"
    status: int = field(default=500, validator=_status)
    body: str | None = field(default=None, validator=validators.optional(_text))
    retry_after: int | None = field(default=None, validator=validators.optional(_count))
    location: str | None = field(default=None, validator=validators.optional(_text))
    endpoint: str | None = field(default=None, validator=_endpoint)
    taken: bool = field(default=False, validator=validators.instance_of(bool))


@frozen
class HangPush(Fault):
    """Never answer an HTTP push."""

    name = "hang-push"
    endpoint: str | None = field(default=None, validator=_endpoint)
    taken: bool = field(default=False, validator=validators.instance_of(bool))


@frozen
class CutPush(Fault):
    """Close the connection in the middle of the answer to an HTTP push."""

    name = "cut-push"
    endpoint: str | None = field(default=None, validator=_endpoint)
    taken: bool = field(default=False, validator=validators.instance_of(bool))


@frozen
class DelayPush(Fault):
    """Answer an HTTP push as usual, but so many seconds late."""

    name = "delay-push"
    seconds: float = field(default=5, validator=_seconds)
    endpoint: str | None = field(default=None, validator=_endpoint)


CATALOGUE: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        RefuseUpgrade,
        SilentUpgrade,
        RefuseAuth,
        SilentAuth,
        DelayAuth,
        DropSession,
        StopReading,
        DelayAnswers,
        AnswerPush,
        HangPush,
        CutPush,
        DelayPush,
    )
}

PUSH_FAULTS: tuple[type[Fault], ...] = (AnswerPush, HangPush, CutPush, DelayPush)
AUTH_FAULTS: tuple[type[Fault], ...] = (RefuseAuth, SilentAuth, DelayAuth)
UPGRADE_FAULTS: tuple[type[Fault], ...] = (RefuseUpgrade, SilentUpgrade)


def named(name: object, arguments: Mapping[str, Any]) -> Fault:
    """Return the fault of this name. ValueError says what is wrong with name or arguments."""
    if not isinstance(name, str) or name not in CATALOGUE:
        raise ValueError(f"unknown fault {name!r}; there are: {', '.join(CATALOGUE)}")
    kind = CATALOGUE[name]
    unknown = sorted(set(arguments) - set(fields_dict(kind)))
    if unknown:
        raise ValueError(f"{name} does not take {', '.join(unknown)}")
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error.args[0]}") from error


@define(eq=False)
class Scripted:
    """A fault on the board: for one token or all (None), `left` times or until cleared (None)."""

    fault: Fault
    token: str | None
    left: int | None


@define(eq=False)
class FaultBoard:
    """The faults now scripted, in order."""

    scripted: list[Scripted] = field(factory=list)

    def add(self, fault: Fault, token: str | None = None, times: int | None = None) -> Scripted:
        """Script a fault, for one token or all, the next N times or until cleared."""
        if times is not None and times < 1:
            raise ValueError(f"times is {times}; it must be at least 1")
        entry = Scripted(fault, token, times)
        self.scripted.append(entry)
        return entry

    def clear(self, token: str | None = None) -> int:
        """Remove what is scripted for this token, or everything. Return how many went."""
        stay = [entry for entry in self.scripted if token is not None and entry.token != token]
        gone = len(self.scripted) - len(stay)
        self.scripted[:] = stay
        return gone

    def remove(self, entry: Scripted) -> None:
        """Remove one, if it is still there."""
        if entry in self.scripted:
            self.scripted.remove(entry)

    def moved(self, old: str, new: str) -> None:
        """Let what is scripted for a token follow its rotation."""
        for entry in self.scripted:
            if entry.token == old:
                entry.token = new

    def take(
        self, kinds: tuple[type[_AnyFault], ...], token: str | None, endpoint: str = ""
    ) -> _AnyFault | None:
        """Return the first fault of these kinds that applies now, and count it."""
        for entry in self.scripted:
            fault = entry.fault
            if entry.token not in (None, token) or not isinstance(fault, kinds):
                continue
            if not fault.fits(endpoint):
                continue
            if entry.left is not None:
                entry.left -= 1
                if entry.left == 0:
                    self.remove(entry)
            return fault
        return None
