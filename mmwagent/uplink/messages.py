"""
Every message of the wire as a value (README, 消息格式 and 消息类型).

JSON is spoken here and nowhere else on this side: `encode` for what goes to the master, `decode`
for what comes from it. Envelope: {"type": str, "payload": object}; a payload may be absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

from attrs import field, frozen


class MalformedMessage(ValueError):
    """What the master sent is no message; str() says what is wrong with it."""


class Outgoing(Protocol):
    """A message to the master."""

    TYPE: ClassVar[str]

    def payload(self) -> dict[str, Any]:
        """Return the payload as the WebSocket carries it."""


def rfc3339(when: datetime) -> str:
    """
    Return `when`, which must know its zone, in UTC with a Z: 2026-01-01T00:00:00Z.

    Always Z: the master stores another offset in a form that it cannot read back.
    """
    return when.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


@frozen
class Auth:
    """The first message of a connection."""

    TYPE: ClassVar[str] = "auth"
    token: str = field(repr=False)

    def payload(self) -> dict[str, Any]:
        """Return {"token": str}."""
        return {"token": self.token}


@frozen
class Heartbeat:
    """
    A sign of life, which tells where the agent is reached and when things were started.

    `listen_port` belongs into each: the master takes a missing one for the default port.
    """

    TYPE: ClassVar[str] = "heartbeat"
    boot_time: datetime
    listen_port: int
    local_time: datetime
    xray_boot_time: datetime | None = None
    xray_pid: int | None = None

    def payload(self) -> dict[str, Any]:
        """Return the WebSocket's form: boot times as RFC 3339 text, local_time in Unix seconds."""
        payload: dict[str, Any] = {
            "boot_time": rfc3339(self.boot_time),
            "listen_port": self.listen_port,
            "local_time": int(self.local_time.timestamp()),
        }
        if self.xray_boot_time is not None:
            payload["xray_boot_time"] = rfc3339(self.xray_boot_time)
        return payload

    def body(self) -> dict[str, Any]:
        """Return the HTTP form: all times in Unix seconds."""
        body: dict[str, Any] = {
            "boot_time": int(self.boot_time.timestamp()),
            "listen_port": self.listen_port,
            "local_time": int(self.local_time.timestamp()),
        }
        if self.xray_boot_time is not None:
            body["xray_boot_time"] = int(self.xray_boot_time.timestamp())
        if self.xray_pid is not None:
            body["xray_pid"] = self.xray_pid
        return body


@frozen
class Traffic:
    """
    Xray's counters: bytes since Xray's start, never differences.

    `stats` is {"inbound" | "outbound" | "user": {name: {"uplink": int, "downlink": int}}}.
    `xray_boot_time`, which does not go over the wire, tells which run of Xray counted this.
    """

    TYPE: ClassVar[str] = "traffic"
    stats: Mapping[str, Mapping[str, Mapping[str, int]]] = field(repr=False)
    xray_boot_time: datetime | None = None

    def payload(self) -> dict[str, Any]:
        """Return {"stats": {...}} with all three maps."""
        return {"stats": self.stats}

    body = payload


@frozen
class SpeedReport:
    """The host's network speed now, in bytes per second."""

    TYPE: ClassVar[str] = "speed"
    upload: int
    download: int

    def payload(self) -> dict[str, Any]:
        """Return {"upload_speed": int, "download_speed": int}."""
        return {"upload_speed": self.upload, "download_speed": self.download}

    body = payload


@frozen
class ScanResult:
    """What Xray this host has. `inbounds` are Xray's own JSON objects, without private keys."""

    TYPE: ClassVar[str] = "scan_result"
    xray_running: bool
    xray_version: str | None
    inbounds: tuple[Mapping[str, Any], ...]

    def payload(self) -> dict[str, Any]:
        """Return the payload; the version is left out where nobody knows it."""
        payload: dict[str, Any] = {"xray_running": self.xray_running}
        if self.xray_version is not None:
            payload["xray_version"] = self.xray_version
        payload["inbounds"] = list(self.inbounds)
        return payload


@frozen
class AuthResult:
    """The master's answer to `auth`, and to anything that came before it."""

    success: bool
    message: str = ""


@frozen
class Other:
    """A message of a type this agent does not act on."""

    type: str


Incoming = AuthResult | Other


def encode(message: Outgoing) -> bytes:
    """Return `message` as the bytes of one text frame."""
    return to_json({"type": message.TYPE, "payload": message.payload()})


def to_json(value: object) -> bytes:
    """Return `value` as compact JSON. NaN and infinities raise ValueError: JSON has none."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode(data: bytes) -> Incoming:
    """Return the message in `data`, or raise MalformedMessage."""
    envelope = _object(_from_json(data), "the message")
    type_ = envelope.get("type")
    if not isinstance(type_, str):
        raise MalformedMessage(f"type must be a text, not {_named(type_)}")
    if type_ == "auth_result":
        return _auth_result(_object(envelope.get("payload"), "the payload of auth_result"))
    return Other(type_)


def _auth_result(payload: Mapping[str, Any]) -> AuthResult:
    success = payload.get("success")
    if not isinstance(success, bool):
        raise MalformedMessage(
            f"auth_result: success must be true or false, not {_named(success)}"
        )
    message = payload.get("message")
    return AuthResult(success, message if isinstance(message, str) else "")


def _from_json(data: bytes) -> object:
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise MalformedMessage("nested too deeply") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both
        raise MalformedMessage(f"no JSON: {error}") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedMessage(f"{what} must be an object, not {_named(value)}")
    return value


def _named(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "absent or null" if value is None else names.get(type(value), "a number")
