"""
Every message of the wire as a value (README, 消息格式 and 消息类型).

JSON is spoken here and nowhere else on this side: `encode` for what goes to the master, `decode`
for what comes from it. Envelope: {"type": str, "payload": object}; a payload may be absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

from attrs import field, frozen

MAX_TOKEN = 512  # characters


class MalformedMessage(ValueError):
    """
    What the master sent is no message; str() says what is wrong with it.

    `answer` is the message that tells the master so, where it waits for one.
    """

    def __init__(self, problem: str, answer: Outgoing | None = None) -> None:
        super().__init__(problem)
        self.answer = answer


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
class CertUpdate:
    """
    What became of an ordered certificate.

    Dates are aware times; they, PEMs and the error are left out where there are none: an empty
    text makes the master drop the message.
    """

    TYPE: ClassVar[str] = "cert_update"
    cert_id: int
    domain: str
    success: bool
    error: str = ""
    cert_pem: str = field(default="", repr=False)
    key_pem: str = field(default="", repr=False)
    issue_date: datetime | None = None
    expiry_date: datetime | None = None

    def payload(self) -> dict[str, Any]:
        """Return the payload."""
        optional: dict[str, Any] = {
            "cert_pem": self.cert_pem,
            "key_pem": self.key_pem,
            "issue_date": rfc3339(self.issue_date) if self.issue_date else "",
            "expiry_date": rfc3339(self.expiry_date) if self.expiry_date else "",
            "error": self.error,
        }
        required = {"cert_id": self.cert_id, "domain": self.domain, "success": self.success}
        return {**required, **{name: value for name, value in optional.items() if value}}


@frozen
class DomainLatencyResult:
    """
    What a probe found.

    `results` are {"domain", "target": str, "success": bool, "latency_ms": int, "error": str,
    "nginx_ssl_port": int}, each with all of them.
    """

    TYPE: ClassVar[str] = "domain_latency_result"
    request_id: str
    success: bool
    results: tuple[Mapping[str, Any], ...] = ()
    error: str = ""

    def payload(self) -> dict[str, Any]:
        """Return the payload; `error` only where there is one."""
        payload: dict[str, Any] = {
            "request_id": self.request_id,
            "success": self.success,
            "results": list(self.results),
        }
        return {**payload, "error": self.error} if self.error else payload


@frozen
class AuthResult:
    """The master's answer to `auth`, and to anything that came before it."""

    success: bool
    message: str = ""


@frozen
class Other:
    """A message of a type this agent does not act on."""

    type: str


@frozen
class TokenUpdate:
    """The master has given this server a new token; the old one is dead there already."""

    server_token: str = field(repr=False)
    expires_at: datetime | None = None


@frozen
class DomainLatencyProbe:
    """An order to see how long connections to `domains` take, each within `timeout_ms`."""

    request_id: str
    domains: tuple[str, ...]
    timeout_ms: int


@frozen
class CertRequest:
    """An order to obtain a certificate. `fields` is the whole payload."""

    cert_id: int
    domain: str
    fields: Mapping[str, Any] = field(repr=False)


@frozen
class CertDeploy:
    """An order to put a certificate into place. `fields` is the whole payload."""

    domain: str
    fields: Mapping[str, Any] = field(repr=False)


Incoming = AuthResult | TokenUpdate | DomainLatencyProbe | CertRequest | CertDeploy | Other


def encode(message: Outgoing) -> bytes:
    """Return `message` as the bytes of one text frame."""
    return to_json({"type": message.TYPE, "payload": message.payload()})


def to_json(value: object) -> bytes:
    """Return `value` as compact JSON. NaN and infinities raise ValueError: JSON has none."""
    # What goes out is made here and holds no circle: to look for one costs a sixth of the time.
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, check_circular=False)
    return text.encode("ascii")


def decode(data: bytes) -> Incoming:
    """Return the message in `data`, or raise MalformedMessage."""
    envelope = _object(_from_json(data), "the message")
    type_ = envelope.get("type")
    if not isinstance(type_, str):
        raise MalformedMessage(f"type must be a text, not {_named(type_)}")
    read = _READERS.get(type_)
    if read is None:
        return Other(type_)
    return read(_object(envelope.get("payload"), f"the payload of {type_}"))


def _auth_result(payload: Mapping[str, Any]) -> AuthResult:
    success = payload.get("success")
    if not isinstance(success, bool):
        found = _named(success)
        raise MalformedMessage(f"auth_result: success must be true or false, not {found}")
    message = payload.get("message")
    return AuthResult(success, message if isinstance(message, str) else "")


def _token_update(payload: Mapping[str, Any]) -> TokenUpdate:
    token = checked_token(payload.get("server_token"), "token_update: server_token")
    return TokenUpdate(token, parse_time(payload.get("expires_at")))


def checked_token(value: object, name: str) -> str:
    """Return `value` as a token fit for a header, or raise MalformedMessage, which tells none."""
    token = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(rf"[!-~]{{1,{MAX_TOKEN}}}", token):
        raise MalformedMessage(f"{name} is no token; the present one stays")
    return token


def _domain_latency_probe(payload: Mapping[str, Any]) -> DomainLatencyProbe:
    request_id = payload.get("request_id")
    if not isinstance(request_id, str):
        raise MalformedMessage("domain_latency_probe: request_id must be a text")

    def wrong(problem: str) -> MalformedMessage:
        answer = DomainLatencyResult(request_id, False, error=problem)
        return MalformedMessage(f"domain_latency_probe: {problem}", answer)

    domains, timeout = payload.get("domains"), payload.get("timeout_ms", 0)
    if not isinstance(domains, list) or not all(isinstance(name, str) for name in domains):
        raise wrong("domains must be a list of texts")
    if isinstance(timeout, bool) or not isinstance(timeout, int):
        raise wrong(f"timeout_ms must be a whole number, not {_named(timeout)}")
    return DomainLatencyProbe(request_id, tuple(domains), timeout)


def _cert_request(payload: Mapping[str, Any]) -> CertRequest:
    cert_id, domain = payload.get("cert_id"), payload.get("domain")
    if isinstance(cert_id, bool) or not isinstance(cert_id, int):
        raise MalformedMessage("cert_request: cert_id must be a whole number")
    if not isinstance(domain, str) or not domain:
        problem = "domain must be a text, and not empty"
        answer = CertUpdate(cert_id, "", False, problem)
        raise MalformedMessage(f"cert_request: {problem}", answer)
    return CertRequest(cert_id, domain, payload)


def _cert_deploy(payload: Mapping[str, Any]) -> CertDeploy:
    domain = payload.get("domain")
    if not isinstance(domain, str) or not domain:
        raise MalformedMessage("cert_deploy: domain must be a text, and not empty")
    return CertDeploy(domain, payload)


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Incoming]] = {
    "auth_result": _auth_result,
    "token_update": _token_update,
    "domain_latency_probe": _domain_latency_probe,
    "cert_request": _cert_request,
    "cert_deploy": _cert_deploy,
}


def parse_time(text: object) -> datetime | None:
    """
    Return an RFC 3339 time, None for anything else.

    The master's have up to nine fractional digits and the zone of its host; what is finer than a
    microsecond is cut off.
    """
    if not isinstance(text, str):
        return None
    try:
        when = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    except ValueError:
        return None
    return when if when.tzinfo is not None else None


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
